//! The screen of a sweep at several sizes, and its keys.

use super::app::SweepEffect;
use super::{SWEEP_KEYS, Steering, SweepApp};
use crate::domain::params::Hyperparameters;
use crate::domain::report::{EpochReport, RunSummary, Split};
use crate::domain::sweep::{Plan, SweepReport, TrialEnd, TrialProgress, TrialRow};
use crate::domain::symbols::Symbols;
use crate::domain::terminal::Colors;
use crate::tui::app::press;
use crate::tui::theme::Theme;
use crossterm::event::KeyCode;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

fn epoch(number: u32, accuracy: f64) -> EpochReport {
    EpochReport {
        epoch: number,
        step: u64::from(number) * 1250,
        train_loss: 1.0,
        train_accuracy: 0.5,
        loss: 1.0,
        split: Split::Validation,
        accuracy,
        test_accuracy: None,
        average: None,
        best: true,
        images_per_s: 6000.0,
        elapsed: 7.0 * f64::from(number),
        position: f64::from(number),
        reached: None,
        tta: Default::default(),
    }
}

/// A sweep of twelve trials: some are done, two are trained, one has diverged, the others wait.
fn report() -> SweepReport {
    let axes = ["learning_rate=1e-4..1e-1 log 4", "optimizer=adam,sgd,muon"].map(str::to_owned);
    let params = Hyperparameters {
        epochs: 5.0,
        ..Default::default()
    };
    let plan = Plan::new(&axes, None, None, &params).unwrap();
    let rows = plan.trials.iter().enumerate().map(|(i, trial)| {
        let epochs = match i {
            0..4 => 5,
            4 => 3,
            5 => 1,
            6 => 2,
            _ => 0,
        };
        let end = match i {
            0..4 => Some(TrialEnd::Done),
            6 => Some(TrialEnd::Diverged),
            _ => None,
        };
        let reports: Vec<EpochReport> = (1..=epochs)
            .map(|e| epoch(e, 0.25 + 0.04 * i as f64 + 0.05 * f64::from(e)))
            .collect();
        let best = reports.last().map(|epoch| epoch.accuracy);
        let summary = RunSummary {
            epochs_done: epochs,
            elapsed: 7.0 * f64::from(epochs),
            best_val_accuracy: best,
            test_accuracy: best
                .map(|a| a - 0.01)
                .filter(|_| end == Some(TrialEnd::Done)),
            epochs: reports,
            ..RunSummary::unread(trial.name.clone(), format!("runs/demo/{}", trial.name))
        };
        TrialRow {
            trial: i,
            run: trial.name.clone(),
            start: crate::domain::sweep::JobStart {
                values: trial.values.clone(),
                copy_of: None,
            },
            progress: TrialProgress {
                accuracies: Vec::new(),
                end,
                busy: matches!(i, 4 | 5),
            },
            summary: (epochs > 0).then_some(summary),
        }
    });
    SweepReport {
        name: "demo".into(),
        rows: rows.collect(),
        plan,
    }
}

fn app(width: u16, height: u16) -> SweepApp {
    let mut app = SweepApp::new(true);
    app.theme = Theme {
        colors: Colors::True,
        symbols: Symbols::Braille,
    };
    app.resize(width, height);
    app.report(report());
    app
}

fn drawn(app: &SweepApp) -> String {
    let mut buf = Buffer::empty(Rect::new(0, 0, app.size.width, app.size.height));
    app.draw(&mut buf);
    let width = usize::from(buf.area.width);
    let rows = buf.content.chunks(width).map(|row| {
        let row: String = row.iter().map(|cell| cell.symbol()).collect();
        row.trim_end().to_owned()
    });
    rows.collect::<Vec<_>>().join("\n")
}

fn keys(app: &mut SweepApp, keys: &str) -> Option<SweepEffect> {
    keys.chars()
        .fold(None, |_, key| app.key(&press(KeyCode::Char(key), false)))
}

#[test]
fn goldens() {
    for (width, height) in [(80, 24), (120, 36), (160, 45), (200, 60)] {
        insta::assert_snapshot!(
            format!("sweep_{width}x{height}"),
            drawn(&app(width, height))
        );
    }
    let mut other = app(100, 30);
    keys(&mut other, "aGs");
    insta::assert_snapshot!("sweep_axis_of_words", drawn(&other));
    keys(&mut other, "?");
    insta::assert_snapshot!("sweep_help", drawn(&other));
    let mut empty = SweepApp::new(true);
    empty.theme = other.theme;
    empty.resize(80, 24);
    insta::assert_snapshot!("sweep_unread", drawn(&empty));
}

#[test]
fn every_size_can_be_drawn() {
    for (width, height) in
        (1..130)
            .step_by(7)
            .zip((1..70).step_by(3))
            .chain([(300, 100), (80, 24), (20, 100)])
    {
        let mut app = app(width, height);
        for overlay in ["", "?", "?x"] {
            keys(&mut app, overlay);
            drawn(&app);
        }
    }
}

#[test]
fn the_table_is_sorted_and_the_chosen_trial_stays_chosen() {
    let mut app = app(120, 36);
    let order = |app: &SweepApp| app.rows().iter().map(|row| row.trial).collect::<Vec<_>>();
    // 4 has 0.56 after three epochs, 3 has 0.62, 6 had 0.59 before it diverged.
    assert_eq!(order(&app)[..7], [3, 6, 2, 4, 1, 0, 5]);
    assert_eq!(
        app.chosen().unwrap().trial,
        3,
        "the best, until another is chosen"
    );
    keys(&mut app, "g");
    assert_eq!(app.chosen, Some(3));
    keys(&mut app, "jj");
    assert_eq!(app.chosen, Some(2));
    keys(&mut app, "s");
    assert_eq!(order(&app), (0..12).collect::<Vec<_>>());
    assert_eq!(app.chosen, Some(2));
    keys(&mut app, "s");
    assert_eq!(order(&app)[..6], [3, 2, 1, 0, 4, 6], "by epochs");
    keys(&mut app, "ss");
    let words: Vec<String> = app
        .rows()
        .iter()
        .map(|row| app.value(row, 1).unwrap().to_string())
        .collect();
    assert!(words.is_sorted(), "{words:?}");
    keys(&mut app, "s");
    assert_eq!(order(&app)[0], 3, "by accuracy again");
}

#[test]
fn only_a_run_that_is_trained_is_opened_paused_or_stopped() {
    let mut app = app(120, 36);
    let enter = |app: &mut SweepApp| app.key(&press(KeyCode::Enter, false));
    app.chosen = Some(4);
    assert_eq!(enter(&mut app), Some(SweepEffect::Open("05".into())));
    let pause = SweepEffect::Steer("05".into(), Steering::Pause);
    assert_eq!(keys(&mut app, " "), Some(pause));
    assert_eq!(keys(&mut app, "xn"), None);
    assert_eq!(keys(&mut app, "x"), None, "it asks");
    let stop = SweepEffect::Steer("05".into(), Steering::Stop);
    assert_eq!(keys(&mut app, "y"), Some(stop));
    for (chosen, words) in [(0, "01 is done"), (11, "has not begun"), (6, "is diverged")] {
        app.chosen = Some(chosen);
        assert_eq!(enter(&mut app), None);
        let note = app.note.clone().unwrap();
        assert!(note.contains(words), "{note}");
    }
}

#[test]
fn quitting_asks_while_this_process_trains() {
    let mut app = app(120, 36);
    assert_eq!(keys(&mut app, "q"), None);
    assert_eq!(keys(&mut app, "y"), Some(SweepEffect::Quit));
    app.trains = false;
    assert_eq!(keys(&mut app, "q"), Some(SweepEffect::Quit));
    assert_eq!(keys(&mut app, "D"), Some(SweepEffect::Detach));
}

#[test]
fn every_key_is_explained_and_has_one_meaning() {
    let mut seen = Vec::new();
    for row in SWEEP_KEYS {
        assert!(!row.help.is_empty() && !row.keys.is_empty());
        for key in row.keys {
            assert!(!seen.contains(key), "{key}");
            seen.push(*key);
        }
    }
}

#[test]
fn nothing_is_drawn_again_without_a_change() {
    let mut app = app(80, 24);
    app.changed = false;
    app.report(report());
    assert!(!app.changed);
    let mut other = report();
    other.rows[5].summary.as_mut().unwrap().epochs_done = 2;
    app.report(other);
    assert!(app.changed);
}
