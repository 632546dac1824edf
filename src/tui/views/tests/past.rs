//! Looking back at an earlier epoch.

use super::*;
use crate::domain::fork::ForkAt;
use crate::session::protocol::ForkRequest;

/// A run in its third epoch, of which the first is shown.
fn looking_back(width: u16, height: u16) -> AppHarness {
    let mut harness = AppHarness::running(width, height, Screen::Train);
    harness.key("{ { enter");
    assert_eq!(harness.app.past().unwrap().as_of, Some(1));
    harness
}

/// Whether the header says that the first epoch is shown.
fn says_past(harness: &AppHarness) -> bool {
    let text = harness.text();
    text.lines()
        .next()
        .unwrap()
        .contains("epoch 1 of 15, as it was")
}

#[test]
fn goldens_of_the_past() {
    for screen in [Screen::Confusion, Screen::Samples, Screen::Model] {
        for (width, height) in [(80, 24), (120, 36)] {
            let mut harness = looking_back(width, height);
            harness.open(screen);
            let name = format!("past_{}_{width}x{height}", screen.title().to_lowercase());
            insta::assert_snapshot!(name, harness.text());
        }
    }
}

#[test]
fn four_keys_show_the_confusion_of_epoch_3() {
    let mut harness = AppHarness::new(120, 36);
    harness.answers = false;
    harness.play();
    for epoch in 3..=5 {
        harness.event(Event::Steps(app_harness::steps(
            u64::from(epoch) * 1250,
            1.2,
        )));
        harness.event(Event::Evaluation(app_harness::evaluation(epoch)));
        harness.event(Event::Epoch(app_harness::epoch_report(epoch)));
    }
    harness.event(Event::Steps(app_harness::steps(6400, 1.1)));
    let keys = "{ { { enter";
    harness.key(keys);
    let (id, question) = harness.open.pop().unwrap();
    assert_eq!(
        (question, harness.epochs.pop()),
        (Question::Evaluation, Some(Some(3)))
    );
    // Until the answer is there, nothing has changed.
    assert_eq!(harness.app.screen, Screen::Train);
    harness.line("looking back at epoch 3");
    let answer = Answer::Evaluation {
        evaluation: Box::new(app_harness::evaluation(3)),
    };
    harness.event(Event::Answer { id, answer });
    assert_eq!(harness.app.screen, Screen::Confusion);
    harness.line("epoch 3 of 15, as it was");
    assert_eq!(keys.split(' ').count(), 4);
    assert_eq!(harness.sent, []);
}

#[test]
fn the_past_stays_on_its_three_screens_and_asks_about_itself() {
    let mut harness = looking_back(120, 36);
    harness.epochs.clear();
    for keys in [
        "2 j l m enter esc v",
        "3 f l enter j esc",
        "4 j ]",
        "2 ? esc : esc",
        "3",
    ] {
        harness.key(keys);
        assert!(says_past(&harness), "after {keys}");
        harness.line("epoch 1, step 1,250: val");
    }
    // Training goes on meanwhile.
    harness.event(Event::Steps(app_harness::steps(3750, 1.2)));
    harness.event(Event::Evaluation(app_harness::evaluation(3)));
    harness.event(Event::Epoch(app_harness::epoch_report(3)));
    assert!(says_past(&harness));
    harness.key("2");
    harness.line("epoch 1, step 1,250: val");
    assert!(harness.epochs.len() > 3);
    assert!(
        harness.epochs.iter().all(|epoch| *epoch == Some(1)),
        "{:?}",
        harness.epochs
    );
    assert_eq!(harness.sent, []);
    // Only the images that are scored after each epoch.
    harness.key("t");
    assert!(says_past(&harness));
    harness.line("split: only the validation images");
}

#[test]
fn esc_and_other_screens_return_to_now() {
    for (keys, screen) in [
        ("esc", Screen::Train),
        ("4 esc", Screen::Train),
        ("enter esc esc", Screen::Train),
        ("5", Screen::Runs),
        ("6", Screen::Data),
    ] {
        let mut harness = looking_back(120, 36);
        harness.key(keys);
        assert_eq!(
            (harness.app.screen, harness.app.past().is_none()),
            (screen, true),
            "{keys}"
        );
        harness.line("back to now");
        // The other screens show now again, with answers about now.
        harness.epochs.clear();
        harness.key("2");
        assert!(!says_past(&harness));
        assert_eq!(harness.epochs, [None]);
    }
    let mut harness = looking_back(120, 36);
    harness.key("esc");
    // The cursor is still there: the next epoch is one key and enter away.
    harness.key("} enter");
    assert_eq!(
        harness.epochs.iter().rev().find(|e| e.is_some()),
        Some(&Some(2))
    );
}

#[test]
fn keys_that_steer_first_return_to_now() {
    for (screen, key, name) in [
        (Screen::Confusion, "space", "space again: pause"),
        (Screen::Samples, "e", "e again: evaluate"),
        (Screen::Model, "u", "u again: undo"),
        (Screen::Confusion, "w", "w again: checkpoint"),
        (Screen::Confusion, "x", "x again: stop"),
        (Screen::Samples, "R", "R again: restart"),
        (Screen::Model, "enter", "enter again: edit"),
        (Screen::Model, "a", "a again: presets"),
        (Screen::Model, "m", "m again: recipe"),
        (Screen::Model, "f", "f again: freeze"),
        (Screen::Model, "<", "< again: rate"),
    ] {
        let mut harness = looking_back(120, 36);
        harness.open(screen);
        harness.key(key);
        harness.line(&format!("back to now; {name}"));
        assert!(!says_past(&harness));
        assert_eq!((harness.app.screen, &*harness.sent), (screen, &[][..]));
        assert!(!harness.app.view().editing());
    }
    // A click does not edit either.
    let mut harness = looking_back(120, 36);
    harness.open(Screen::Model);
    harness.click(5, 3);
    assert!(says_past(&harness) && !harness.app.view().editing());
}

#[test]
fn a_fork_begins_at_the_epoch_that_is_shown() {
    for screen in [Screen::Confusion, Screen::Samples, Screen::Model] {
        let mut harness = AppHarness::running(120, 36, screen);
        harness.key("F");
        assert_eq!(harness.sent, [], "now");
        harness.line("only when an earlier epoch is shown");
        let mut harness = looking_back(120, 36);
        harness.open(screen);
        harness.key("F");
        let fork = Command::Fork(ForkRequest {
            at: ForkAt::Epoch(1),
            paused: true,
            ..ForkRequest::default()
        });
        assert_eq!(harness.sent, [fork]);
        harness.event(Event::Started(Box::new(app_harness::run_info())));
        assert!(!says_past(&harness), "the new run is shown");
    }
}

#[test]
fn an_epoch_without_a_checkpoint_changes_nothing() {
    let mut harness = AppHarness::running(120, 36, Screen::Train);
    harness.answers = false;
    harness.key("{ enter");
    let (id, _) = harness.open.pop().unwrap();
    let why = "no checkpoint of the end of epoch 2 is kept. The nearest is that of epoch 1.";
    let failed = Event::Answer {
        id,
        answer: Answer::Failed { why: why.into() },
    };
    harness.event(failed);
    harness.line(why);
    assert_eq!(harness.app.screen, Screen::Train);
    // An answer that comes after another screen was opened opens none.
    harness.key("enter 5");
    let evaluations: Vec<u64> = harness
        .open
        .iter()
        .filter(|q| q.1 == Question::Evaluation)
        .map(|q| q.0)
        .collect();
    for id in evaluations {
        let answer = app_harness::answer(&Question::Evaluation);
        harness.event(Event::Answer { id, answer });
    }
    assert_eq!(
        (harness.app.screen, harness.app.past().is_none()),
        (Screen::Runs, true)
    );
    // Without the cursor, enter types a value; without a folder, there is no past.
    let mut harness = AppHarness::running(120, 36, Screen::Train);
    harness.key("enter");
    assert!(harness.app.view().editing());
    let mut run = app_harness::run_info();
    run.name.clear();
    let mut harness = AppHarness::running(120, 36, Screen::Train);
    harness.event(Event::Started(Box::new(run)));
    harness.event(Event::Steps(app_harness::steps(2600, 1.3)));
    harness.forget_sent();
    harness.key("{ enter");
    harness.line("this run is not saved to a folder");
    assert_eq!(harness.asked, []);
}

#[test]
fn the_past_is_marked_at_every_size_and_without_colours() {
    for (width, height) in [(60, 18), (80, 24), (100, 30), (200, 60)] {
        for screen in [Screen::Confusion, Screen::Samples, Screen::Model] {
            let mut harness = looking_back(120, 36);
            harness.open(screen);
            harness.update(Msg::Resize(width, height));
            assert!(says_past(&harness), "{width}x{height}: {}", harness.text());
            let body = harness.body();
            assert!(!body.contains('─') && !body.contains('│'), "{body}");
        }
    }
}
