//! The table of runs.

use super::*;
use crate::domain::fork::ForkAt;
use crate::domain::params::Value;
use crate::domain::report::RunInfo;
use crate::session::protocol::ForkRequest;

#[test]
fn runs_are_renamed_noted_and_deleted_after_asking() {
    let mut harness = AppHarness::running(120, 36, Screen::Runs);
    harness.key("j");
    harness.questions();
    harness.key("r");
    harness.types("-2");
    harness.key("enter");
    let rename = Question::RenameRun {
        name: "wide".into(),
        to: "wide-2".into(),
    };
    assert_eq!(harness.questions()[0], rename);
    harness.key("j o");
    harness.types("too hot");
    harness.key("enter");
    assert!(harness.questions().contains(&Question::NoteRun {
        name: "wide".into(),
        note: "the good onetoo hot".into(),
    }));
    harness.key("d");
    assert_eq!(harness.questions(), [], "it asks first");
    harness.key("y");
    let delete = Question::DeleteRun {
        name: "wide".into(),
    };
    assert_eq!(harness.questions()[0], delete);
}

/// A row of the Runs screen's table.
fn listed(name: &str) -> crate::domain::report::RunSummary {
    let Answer::Runs { mut items, .. } = app_harness::answer(&Question::Runs) else {
        unreachable!("the question asks for runs")
    };
    items[1].name = name.into();
    items.swap_remove(1)
}

fn answer_runs(harness: &mut AppHarness, names: &[&str]) {
    let (id, _) = harness.open.pop().expect("the runs were asked for");
    let answer = Answer::Runs {
        folder: "runs".into(),
        items: names.iter().map(|name| listed(name)).collect(),
    };
    harness.event(Event::Answer { id, answer });
}

#[test]
fn after_a_delete_the_cursor_stays_in_its_place() {
    let mut harness = AppHarness::new(120, 36);
    harness.answers = false;
    harness.play();
    harness.open(Screen::Runs);
    answer_runs(&mut harness, &["a", "b", "c", "d"]);
    harness.key("j j d y");
    answer_runs(&mut harness, &["a", "b", "d"]);
    answer_runs(&mut harness, &["a", "b", "d"]);
    // The panel about the chosen run has its name as its title.
    harness.line("╮╭ d ─");
    harness.key("d y");
    answer_runs(&mut harness, &["a", "b"]);
    answer_runs(&mut harness, &["a", "b"]);
    harness.line("╮╭ b ─");
}

#[test]
fn an_error_of_the_runs_folder_is_whole_and_goes_when_it_can_be_read() {
    let mut harness = AppHarness::new(80, 24);
    harness.answers = false;
    harness.play();
    harness.open(Screen::Runs);
    let (id, _) = harness.open.pop().unwrap();
    let why = "/scratch/someone/experiments/of-the-year/cifar-tui/runs cannot be read: Permission denied \
               (os error 13); give it the right permissions, or name another folder with --runs; the end";
    harness.event(Event::Answer {
        id,
        answer: Answer::Failed { why: why.into() },
    });
    let words: Vec<String> = harness
        .body()
        .replace(['│', '\n'], " ")
        .split_whitespace()
        .map(String::from)
        .collect();
    let wanted: Vec<&str> = why.split_whitespace().collect();
    assert!(
        words.windows(wanted.len()).any(|w| w == wanted),
        "{}",
        harness.text()
    );
    harness.key("j");
    answer_runs(&mut harness, &["a", "b"]);
    assert!(!harness.text().contains("could not be read"));
}

#[test]
fn ten_thousand_epochs_fit_their_column() {
    for width in [80, 120, 200] {
        let mut harness = AppHarness::new(width, 24);
        harness.answers = false;
        harness.play();
        harness.open(Screen::Runs);
        let (id, _) = harness.open.pop().unwrap();
        let mut run = listed("long");
        run.params.epochs = 10_000.0;
        run.epochs_done = 10_000;
        let answer = Answer::Runs {
            folder: "runs".into(),
            items: vec![run],
        };
        harness.event(Event::Answer { id, answer });
        harness.line("66.00%  10000/10000 ");
    }
}

#[test]
fn a_change_without_an_earlier_evaluation_is_said_and_no_matrix_drawn() {
    let mut harness = AppHarness::new(80, 24);
    harness.event(Event::Data(app_harness::data()));
    harness.event(Event::Started(Box::new(app_harness::run_info())));
    harness.event(Event::Steps(app_harness::steps(1250, 1.6)));
    harness.event(Event::Evaluation(app_harness::evaluation(1)));
    harness.open(Screen::Confusion);
    harness.key("v v");
    // The matrix's panel is the upper left one, 13 rows high.
    let rows: Vec<String> = harness
        .body()
        .lines()
        .take(12)
        .skip(1)
        .filter_map(|line| line.split_once("││"))
        .map(|(matrix, _)| matrix.trim_matches(['│', ' ']).to_owned())
        .filter(|words| !words.is_empty())
        .collect();
    assert_eq!(
        rows,
        [
            "There is no earlier evaluation to compare with.",
            "v shows the counts."
        ]
    );
}

#[test]
fn the_run_in_use_is_not_deleted() {
    let mut harness = AppHarness::running(120, 36, Screen::Runs);
    harness.questions();
    harness.key("d");
    assert_eq!(harness.questions(), []);
    harness.line("seed-0412 is in use");
}

/// A run, a fork of it, a fork of that one, and one whose parent is gone.
pub(super) fn family() -> Vec<crate::domain::report::RunSummary> {
    let Answer::Runs { mut items, .. } = app_harness::answer(&Question::Runs) else {
        unreachable!("the question asks for runs")
    };
    let mut last = items[1].clone();
    last.name = "tenth".into();
    items.push(last);
    for (i, (parent, started)) in [("seed-0412", 1.0), ("wide", 2.0), ("gone", 9.0)]
        .into_iter()
        .enumerate()
    {
        items[i].started = (i + 1) as f64;
        items[i + 1].origin = Some(app_harness::origin(parent, started));
    }
    crate::domain::report::into_families(items)
}

#[test]
fn four_keys_fork_from_the_best_epoch_with_half_the_rate() {
    let mut harness = AppHarness::running(120, 36, Screen::Train);
    let keys = "5 F h space";
    harness.key("5 F");
    let forked = Command::Fork(ForkRequest {
        of: Some("seed-0412".into()),
        at: ForkAt::Best,
        paused: true,
        ..ForkRequest::default()
    });
    assert_eq!(harness.sent, [forked]);
    let info = RunInfo {
        name: "seed-0413".into(),
        origin: Some(app_harness::origin("seed-0412", 1.7e9)),
        ..app_harness::run_info()
    };
    harness.event(Event::Started(Box::new(info)));
    harness.line("seed-0413 is forked from seed-0412 at the end of epoch 8, step 10,000");
    harness.event(Event::State(State::Paused));
    harness.forget_sent();
    harness.key("h space");
    let half = Command::Set {
        key: "learning_rate".into(),
        value: Value::Float(0.0005),
    };
    assert_eq!(harness.sent, [half, Command::Resume]);
    assert_eq!(keys.split(' ').count(), 4);
}

#[test]
fn a_run_without_a_best_epoch_is_forked_where_it_ended() {
    let mut harness = AppHarness::new(120, 36);
    harness.answers = false;
    harness.play();
    harness.open(Screen::Runs);
    let (id, _) = harness.open.pop().unwrap();
    let mut run = listed("tests-only");
    run.best_epoch = None;
    let answer = Answer::Runs {
        folder: "runs".into(),
        items: vec![run],
    };
    harness.event(Event::Answer { id, answer });
    harness.key("F");
    let last = matches!(&harness.sent[..], [Command::Fork(fork)] if fork.at == ForkAt::Last);
    assert!(last, "{:?}", harness.sent);
}

#[test]
fn the_run_that_begins_is_chosen() {
    let mut harness = AppHarness::running(120, 36, Screen::Runs);
    harness.key("j j");
    let info = RunInfo {
        name: "wide".into(),
        ..app_harness::run_info()
    };
    harness.event(Event::Started(Box::new(info)));
    harness.forget_sent();
    harness.key("F");
    let forked = harness.sent.iter().find_map(|command| match command {
        Command::Fork(request) => request.of.clone(),
        _ => None,
    });
    assert_eq!(forked.as_deref(), Some("wide"));
}
