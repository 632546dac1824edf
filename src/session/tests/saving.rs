//! Saving to disks that are full, and damaged files.

use super::*;
use crate::train::files::faults::{Fault, inject};

#[test]
fn a_full_disk_is_told_and_training_goes_on_until_there_is_room_again() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::start(Settings {
        paused: true,
        ..settings(runs.path())
    });
    front.until_state(State::Paused);
    front.until(|e| matches!(e, Event::Checkpoint(_)).then_some(()));
    let folder = runs.path().join("one");
    let full = inject(&folder, Some(Fault::Full));
    front.send(Command::Resume);
    let why = front.until(|e| match e {
        Event::Unsaved { why } => Some(why.clone()),
        _ => None,
    });
    let why = why.unwrap();
    assert!(why.contains("one") && why.contains("room"), "{why}");
    // Failed saves do not stop the training.
    front.until_state(State::Done);
    assert_eq!(step(runs.path(), LAST), 0);
    drop(full);
    front.send(Command::Checkpoint);
    let why = front.until(|e| match e {
        Event::Unsaved { why } => Some(why.clone()),
        _ => None,
    });
    assert_eq!(why, None);
    front.quit();
    assert_eq!(step(runs.path(), LAST), 30);
    assert!(folder.join(BEST).exists());
    assert_metrics_are_seamless(&folder, 30);
}

impl FrontEnd {
    /// Waits for the event that reports whether everything is saved. Returns the reason if not.
    fn unsaved(&mut self) -> Option<String> {
        self.until(|e| match e {
            Event::Unsaved { why } => Some(why.clone()),
            _ => None,
        })
    }
}

#[test]
fn save_and_quit_is_refused_while_something_is_not_saved() {
    for done in [false, true] {
        let runs = tempfile::tempdir().unwrap();
        let mut front = FrontEnd::start(Settings {
            paused: true,
            ..settings(runs.path())
        });
        front.until_state(State::Paused);
        front.until(|e| matches!(e, Event::Checkpoint(_)).then_some(()));
        let full = inject(&runs.path().join("one"), Some(Fault::Full));
        match done {
            true => {
                front.send(Command::Resume);
                front.until_state(State::Done);
            }
            false => {
                front.send(Command::Step);
                front.until_state(State::Running);
                front.until_state(State::Paused);
            }
        }
        // After this answer, all earlier events have been read.
        front.ask(Question::Runs);
        // The event is sent for each attempt, so that every sender receives it.
        for _ in 0..2 {
            front.send(Command::SaveAndQuit);
            let why = front.unsaved().unwrap();
            assert!(why.contains("No space left"), "{why}");
        }
        drop(full);
        front.send(Command::SaveAndQuit);
        while front.unsaved().is_some() {}
        let state = front.until_ended();
        assert_eq!(state == State::Done, done);
        assert_eq!(step(runs.path(), LAST), if done { 30 } else { 1 });
    }
}

#[test]
fn a_failed_save_is_reported_before_the_session_ends() {
    for deleted in [true, false] {
        let runs = tempfile::tempdir().unwrap();
        let mut front = FrontEnd::start(Settings {
            paused: true,
            ..settings(runs.path())
        });
        front.until_state(State::Paused);
        front.until(|e| matches!(e, Event::Checkpoint(_)).then_some(()));
        let folder = runs.path().join("one");
        let _full = match deleted {
            true => {
                std::fs::remove_dir_all(&folder).unwrap();
                None
            }
            false => Some(inject(&folder, Some(Fault::Full))),
        };
        front.send(Command::Step);
        front.until_state(State::Running);
        front.until_state(State::Paused);
        let (_, events) = front.quit();
        let last = events.iter().rev().find_map(|e| match e {
            Event::Unsaved { why } => Some(why.clone()),
            _ => None,
        });
        let why = last.unwrap().unwrap();
        assert!(why.contains("one"), "{why}");
    }
}

#[test]
fn a_run_whose_folder_was_deleted_after_its_end_is_not_called_saved() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::start(settings(runs.path()));
    front.until_state(State::Done);
    // The answer comes after the pictures have been written.
    front.samples(Filter::All);
    std::fs::remove_dir_all(runs.path().join("one")).unwrap();
    front.send(Command::SaveAndQuit);
    let why = front.unsaved().unwrap();
    assert!(why.contains("No such file"), "{why}");
    front.quit();
}

#[test]
fn pictures_are_written_once_the_disk_has_room() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::start(Settings {
        paused: true,
        ..settings(runs.path())
    });
    front.until_state(State::Paused);
    let folder = runs.path().join("one");
    let full = inject(&folder, Some(Fault::Full));
    front.send(Command::Resume);
    front.until_state(State::Done);
    // The answer comes after the attempt to write the pictures.
    front.ask(Question::Runs);
    drop(full);
    assert!(!folder.join("loss.png").exists());
    front.send(Command::SaveAndQuit);
    front.until_ended();
    for name in ["loss.png", "accuracy.png", "confusion.png"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
}

#[test]
fn a_damaged_checkpoint_never_replaces_a_good_one() {
    use crate::train::saver::PREVIOUS;
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::start(Settings {
        paused: true,
        ..settings(runs.path())
    });
    // A save replaces a queued one: both are made only if the first ends before the second is requested.
    front.until(|e| matches!(e, Event::Checkpoint(_)).then_some(()));
    front.send(Command::Resume);
    front.until_state(State::Done);
    front.quit();
    let folder = runs.path().join("one");
    let good = step(runs.path(), PREVIOUS);
    let last = std::fs::read(folder.join(LAST)).unwrap();
    std::fs::write(folder.join(LAST), &last[..last.len() / 3]).unwrap();
    std::fs::write(folder.join("last.safetensors.tmp"), &last[..9]).unwrap();
    let mut front = FrontEnd::start(Settings {
        paused: true,
        ..resuming(runs.path())
    });
    let told = front.until(|e| match e {
        Event::Warning { text } => Some(text.clone()),
        _ => None,
    });
    assert!(told.contains(LAST) && told.contains(PREVIOUS), "{told}");
    front.until_state(State::Paused);
    assert_eq!(step(runs.path(), LAST), good);
    assert!(!folder.join("last.safetensors.tmp").exists());
    // A second process cannot take the run.
    let mut second = FrontEnd::start(resuming(runs.path()));
    let why = second.until(|e| match e {
        Event::State(State::Failed { why }) => Some(why.clone()),
        _ => None,
    });
    assert!(why.contains("in use by another process"), "{why}");
    second.quit();
    front.send(Command::Resume);
    front.until_state(State::Done);
    front.quit();
    assert_eq!(step(runs.path(), LAST), 30);
    assert_metrics_are_seamless(&folder, 30);
}
