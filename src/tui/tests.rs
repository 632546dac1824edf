//! Tests of the screen with scripted events, without a worker, a terminal or a clock.

mod comparison;
mod frame;
mod input;

use super::app::{App, Effect, Msg, press};
use super::session_view::Severity;
use super::theme::{Colors, Theme};
use super::views::app_harness::CLASSES;
use super::views::{Screen, VIEWS};
use crate::domain::confusion::Confusion;
use crate::domain::params::{Applies, Hyperparameters, Value};
use crate::domain::report::{
    CheckpointReport, Collapse, DataInfo, EpochReport, Evaluation, Health, RunInfo, ScoredWeights,
    Split, State, StepReport, Symptom, SystemLoad,
};
use crate::domain::symbols::Symbols;
use crate::session::client::CommandIds;
use crate::session::protocol::{Change, Command, Event};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

const PER_EPOCH: u64 = 1250;

fn data() -> DataInfo {
    DataInfo {
        name: "CIFAR-10".into(),
        source: "data/cifar-10-batches-py".into(),
        format: "python batches".into(),
        classes: CLASSES.map(String::from).to_vec(),
        side: 32,
        train: 50_000,
        test: 10_000,
        train_counts: vec![5000; 10],
        test_counts: vec![1000; 10],
        mean: vec![0.491, 0.482, 0.447],
        std: vec![0.247, 0.243, 0.262],
        bytes: 184_320_000,
        load_seconds: Some(0.21),
        ..DataInfo::default()
    }
}

fn run() -> RunInfo {
    RunInfo {
        name: "seed-0412".into(),
        folder: "runs/seed-0412".into(),
        data: data(),
        device: "CPU 2 threads AVX-512".into(),
        params: Hyperparameters::default(),
        architecture: "conv 32, relu, pool, dense 10".into(),
        layers: Vec::new(),
        parameters: 550_570,
        multiply_adds: 9_479_000,
        train: 40_000,
        validation: 10_000,
        test: 10_000,
        steps_per_epoch: PER_EPOCH,
        split_seed: 4,
        origin: None,
        resumed_at: None,
        started: 0.0,
    }
}

/// A pseudo-random number from 0 to 1.
fn noise(n: u64) -> f64 {
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 31;
    (x.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 11) as f64 / (1u64 << 53) as f64
}

/// A report of the 50 steps up to `last` of a network that learns.
fn steps(last: u64) -> StepReport {
    let x = last as f64 / PER_EPOCH as f64;
    let loss = 0.95 + 1.35 * (-x / 2.0).exp() + 0.2 * (noise(last) - 0.5);
    let epoch = ((last - 1) / PER_EPOCH) as u32 + 1;
    StepReport {
        first: last - 49,
        last,
        epoch,
        step_in_epoch: last - u64::from(epoch - 1) * PER_EPOCH,
        steps_per_epoch: PER_EPOCH,
        images: 1600,
        loss,
        loss_min: loss - 0.2,
        loss_max: loss + 0.2,
        correct: (1600.0 * (0.67 - 0.55 * (-x / 2.0).exp() + 0.05 * (noise(last + 1) - 0.5)))
            as u64,
        grad_norm: 0.6 + 1.2 * (-x / 3.0).exp() + 0.2 * noise(last + 2),
        learning_rate: if last > 7020 { 0.0005 } else { 0.001 },
        images_per_s: 5600.0 + 200.0 * noise(last + 3),
        elapsed: last as f64 * 32.0 / 5600.0,
        eta: Some((15 * PER_EPOCH - last) as f64 * 32.0 / 5600.0),
    }
}

fn matrix(epoch: u32) -> Confusion {
    let mut m = Confusion::new(10);
    for t in 0..10 {
        for p in 0..10 {
            let n = match (t, p) {
                (t, p) if t == p => 500 + 20 * epoch,
                (3, 5) => 310,
                (5, 3) => 200,
                _ => (40.0 * noise((t * 10 + p) as u64)) as u32,
            };
            m.counts[t * 10 + p] = n;
        }
    }
    m
}

fn epoch_events(epoch: u32) -> [Event; 3] {
    let x = f64::from(epoch);
    let step = u64::from(epoch) * PER_EPOCH;
    let (loss, accuracy) = (
        0.98 + 1.1 * (-x / 2.0).exp() + 0.03 * noise(u64::from(epoch)),
        0.66 - 0.4 * (-x / 2.0).exp() - 0.02 * noise(u64::from(epoch)),
    );
    [
        Event::Evaluation(Evaluation {
            split: Split::Validation,
            weights: ScoredWeights::Last,
            tta: Default::default(),
            step,
            epoch,
            loss,
            accuracy,
            confusion: matrix(epoch),
            images_per_s: 20_000.0,
        }),
        Event::Epoch(EpochReport {
            epoch,
            step,
            train_loss: loss + 0.05,
            train_accuracy: accuracy - 0.03,
            loss,
            split: Split::Validation,
            accuracy,
            test_accuracy: None,
            average: None,
            best: epoch != 4,
            images_per_s: 5600.0,
            elapsed: step as f64 * 32.0 / 5600.0,
            position: f64::from(epoch),
            reached: None,
            tta: Default::default(),
        }),
        Event::Checkpoint(CheckpointReport {
            step,
            epoch,
            path: "runs/seed-0412/best.safetensors".into(),
            bytes: 2_203_000,
            best: epoch != 4,
        }),
    ]
}

/// The events of a run up to a step, with one change of a hyperparameter.
fn story(until: u64) -> Vec<Event> {
    let mut events = vec![
        Event::Data(data()),
        Event::Started(Box::new(run())),
        Event::State(State::Running),
    ];
    for step in (50..=until).step_by(50) {
        events.push(Event::Steps(steps(step)));
        if step % PER_EPOCH == 0 {
            events.extend(epoch_events((step / PER_EPOCH) as u32));
        }
        if step == 7000 {
            events.push(Event::Applied {
                change: Change {
                    key: "learning_rate".into(),
                    old: Value::Float(0.001),
                    new: Value::Float(0.0005),
                },
                step: 7001,
                epoch: 6,
            });
            events.push(Event::Pending {
                change: Change {
                    key: "batch_size".into(),
                    old: Value::Int(32),
                    new: Value::Int(64),
                },
                applies: Applies::NextEpoch,
            });
        }
        if step % 500 == 0 {
            events.push(Event::Load(SystemLoad {
                cpu: Some(0.90 + 0.05 * noise(step)),
                memory: Some(305 << 20),
                ..SystemLoad::default()
            }));
        }
    }
    events
}

/// Every state for which there are golden screens.
fn states() -> Vec<(&'static str, Vec<Event>)> {
    let with = |until: u64, more: Vec<Event>| {
        let mut events = story(until);
        events.extend(more);
        events
    };
    let mut nan = steps(8150);
    (nan.loss, nan.loss_max, nan.grad_norm) = (f64::NAN, f64::NAN, f64::NAN);
    let sample = DataInfo {
        name: "sample set".into(),
        is_sample: true,
        ..data()
    };
    let ended = |state: State| Event::Ended {
        params: Box::default(),
        state,
    };
    vec![
        ("empty", Vec::new()),
        (
            "loading",
            vec![
                Event::Data(sample),
                Event::State(State::Loading {
                    what: "sample set".into(),
                    done: 4200,
                    total: 12_000,
                }),
            ],
        ),
        ("running", story(8100)),
        ("compared", comparison::compared()),
        ("paused", with(8100, vec![Event::State(State::Paused)])),
        (
            "diverged",
            with(
                8100,
                vec![
                    Event::Steps(nan),
                    Event::State(State::Diverged {
                        step: 8101,
                        first: "the output of conv2".into(),
                    }),
                ],
            ),
        ),
        (
            "failed",
            with(
                3000,
                vec![ended(State::Failed {
                    why: "data_batch_3: cut short at byte 18,000,000; fetch it again".into(),
                })],
            ),
        ),
        (
            "done",
            with(15 * PER_EPOCH, vec![Event::State(State::Done)]),
        ),
        (
            "disk_full",
            with(
                8100,
                vec![Event::Unsaved {
                    why: Some(
                        "the checkpoint of step 8100 could not be saved in runs/seed-0412: No space left on device (os error 28). Make room there, or check that you may write."
                            .into(),
                    ),
                }],
            ),
        ),
    ]
}

fn app(colors: Colors, width: u16, height: u16, events: &[Event]) -> App {
    let symbols = Symbols::Braille;
    themed(Theme { colors, symbols }, width, height, events)
}

fn themed(theme: Theme, width: u16, height: u16, events: &[Event]) -> App {
    let mut app = App::new(theme, width, height, 52_000.0, CommandIds::default());
    for event in events {
        app.update(Msg::Event(Box::new(event.clone())));
    }
    app
}

fn key(code: char) -> Msg {
    Msg::Key(press(KeyCode::Char(code), false))
}

fn paint(app: &App) -> Buffer {
    let mut buf = Buffer::empty(app.size());
    app.draw(&mut buf);
    buf
}

fn rows(buf: &Buffer) -> String {
    let mut text = String::new();
    for y in 0..buf.area.height {
        let row: String = (0..buf.area.width).map(|x| buf[(x, y)].symbol()).collect();
        text += row.trim_end();
        text.push('\n');
    }
    text
}

/// Presses the keys and returns the commands that they send.
fn commands(app: &mut App, keys: &str) -> Vec<Command> {
    let mut sent = Vec::new();
    for c in keys.chars() {
        let event = match c {
            '\n' => press(KeyCode::Enter, false),
            '\u{1b}' => press(KeyCode::Esc, false),
            '\u{3}' => press(KeyCode::Char('c'), true),
            c => press(KeyCode::Char(c), false),
        };
        for effect in app.update(Msg::Key(event)) {
            if let Effect::Send(command) = effect {
                sent.push(command);
            }
        }
    }
    sent
}

fn running() -> App {
    app(Colors::True, 120, 36, &story(2000))
}

#[test]
fn train_looks_as_it_should() {
    for (name, events) in states() {
        // Comparisons have goldens of their own.
        if name == "compared" {
            continue;
        }
        for (width, height) in [(80, 24), (120, 36), (200, 60)] {
            let mut app = app(Colors::True, width, height, &events);
            // Time out the message on the status line.
            app.update(Msg::Tick(60_000.0));
            app.update(Msg::Tick(60_006.0));
            insta::assert_snapshot!(format!("train_{name}_{width}x{height}"), rows(&paint(&app)));
        }
    }
}

#[test]
fn terminals_with_fewer_symbols_show_the_same() {
    for symbols in [Symbols::Block, Symbols::Ascii] {
        let colors = Colors::Ansi16;
        let mut app = themed(Theme { colors, symbols }, 120, 36, &story(8100));
        app.update(Msg::Tick(60_000.0));
        app.update(Msg::Tick(60_006.0));
        insta::assert_snapshot!(format!("train_in_{symbols}"), rows(&paint(&app)));
    }
}

#[test]
fn every_state_shows_in_ascii_and_in_blocks() {
    for (name, events) in states() {
        for symbols in [Symbols::Block, Symbols::Ascii] {
            for (width, height) in [(60, 18), (80, 24), (200, 60)] {
                let colors = Colors::Ansi16;
                let app = themed(Theme { colors, symbols }, width, height, &events);
                shows_only(symbols, &paint(&app), name);
            }
        }
    }
}

/// Asserts that a terminal with these symbols can show every cell.
#[track_caller]
pub fn shows_only(symbols: Symbols, buf: &Buffer, what: &str) {
    for cell in &buf.content {
        let symbol = cell.symbol();
        let mut drawn = symbol.chars();
        assert!(
            drawn.all(|c| symbols.fit(c) == c),
            "{what}: {symbol} in {symbols}"
        );
        if symbols == Symbols::Ascii {
            assert!(
                symbol.bytes().all(|b| (b' '..=b'~').contains(&b)),
                "{what}: {symbol:?}"
            );
        }
    }
}

#[test]
fn every_view_draws_at_every_size_in_every_state() {
    for (_, events) in states() {
        for row in VIEWS {
            for colors in [Colors::True, Colors::Ansi16, Colors::None] {
                let mut app = app(colors, 80, 24, &events);
                app.update(key(char::from(b'1' + row.screen as u8)));
                let sizes = [
                    (0, 0),
                    (1, 1),
                    (20, 5),
                    (60, 18),
                    (61, 40),
                    (80, 24),
                    (130, 19),
                    (200, 60),
                    (300, 100),
                ];
                for (width, height) in sizes {
                    app.update(Msg::Resize(width, height));
                    paint(&app);
                    // Views must also draw at sizes below the minimum.
                    let area = Rect::new(0, 0, width, height);
                    let mut buf = Buffer::empty(area);
                    app.view().draw(&app.session, app.theme, area, &mut buf);
                }
            }
        }
    }
}

#[test]
fn every_screen_shows_the_same_smoothed_loss() {
    let mut app = app(Colors::True, 140, 36, &story(8100));
    let shown = |app: &mut App, screen: char| {
        app.update(key(screen));
        let text = rows(&paint(app));
        let from = text.find("train ").unwrap() + 6;
        text[from..]
            .trim_start()
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    let mut seen = Vec::new();
    let mut now = 60_000.0;
    for keys in ["", "((", ")))))"] {
        app.update(key('1'));
        commands(&mut app, keys);
        // The message about the keys frees its line.
        for _ in 0..2 {
            now += 60_000.0;
            app.update(Msg::Tick(now));
        }
        let train = shown(&mut app, '1');
        assert_eq!(train, shown(&mut app, '2'), "after {keys}");
        seen.push(train);
    }
    assert!(seen[0] != seen[1] && seen[1] != seen[2], "{seen:?}");
}

#[test]
fn a_load_that_idles_draws_nothing() {
    let mut app = app(Colors::True, 80, 24, &story(500));
    app.update(Msg::Event(Box::new(Event::State(State::Paused))));
    app.changed = super::app::Urgency::None;
    app.update(Msg::Event(Box::new(Event::Load(SystemLoad::default()))));
    app.update(Msg::Tick(52_001.0));
    assert_eq!(app.changed, super::app::Urgency::None);
}

/// Writes frames with their escape codes, for inspection: `FRAMES=folder cargo test --lib frames -- --ignored`.
#[test]
#[ignore = "writes files for a person to look at"]
fn frames() {
    use ratatui::backend::{Backend, CrosstermBackend};
    let folder = std::env::var("FRAMES").expect("FRAMES names a folder");
    for (name, events) in states() {
        for (colors, (width, height)) in [
            (Colors::True, (80, 24)),
            (Colors::True, (120, 36)),
            (Colors::True, (200, 60)),
            (Colors::Ansi256, (120, 36)),
            (Colors::Ansi16, (120, 36)),
            (Colors::None, (120, 36)),
        ] {
            for (overlay, keys) in [
                ("", ""),
                ("-help", "?"),
                ("-palette", ":c"),
                ("-edit", "jj\n7\n"),
                ("-cursor", "[[[[[[[["),
            ] {
                let mut app = app(colors, width, height, &events);
                app.update(Msg::Tick(60_000.0));
                app.update(Msg::Tick(60_006.0));
                commands(&mut app, keys);
                let buf = paint(&app);
                let mut bytes = Vec::new();
                let mut backend = CrosstermBackend::new(&mut bytes);
                let blank = Buffer::empty(buf.area);
                backend.draw(blank.diff(&buf).into_iter()).unwrap();
                let path = format!("{folder}/{name}{overlay}-{colors:?}-{width}x{height}.ansi");
                std::fs::write(path, bytes).unwrap();
            }
        }
    }
}
