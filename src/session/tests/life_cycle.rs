//! The beginning and the end of a session.

use super::*;

#[test]
fn a_session_can_quit_while_it_loads_data_and_queues_other_commands() {
    let runs = tempfile::tempdir().unwrap();
    let held = || {
        let (release, held) = crossbeam_channel::bounded::<()>(0);
        let load = move |_: Option<&Path>, _: &mut dyn FnMut(u64, u64)| {
            // Block until the test releases the thread or ends.
            let _ = held.recv();
            Ok(dataset())
        };
        let (client, thread) = start_with(settings(runs.path()), load).unwrap();
        (client, thread, release)
    };
    let (client, thread, release) = held();
    client.commands.send(Command::Quit).unwrap();
    thread.join().unwrap();
    let last = client.events.try_iter().last().unwrap().event;
    assert!(
        matches!(
            last,
            Event::Ended {
                state: State::Stopped,
                ..
            }
        ),
        "{last:?}"
    );
    drop(release);
    let (client, thread, release) = held();
    client.commands.send(Command::Pause).unwrap();
    release.send(()).unwrap();
    let first = client
        .events
        .iter()
        .map(|message| message.event)
        .find(|event| matches!(event, Event::State(State::Paused) | Event::Epoch(_)));
    assert_eq!(first, Some(Event::State(State::Paused)));
    drop(client);
    thread.join().unwrap();
}

#[test]
fn two_runs_in_one_process_have_a_log_each() {
    let runs = tempfile::tempdir().unwrap();
    let mut fronts = ["one", "two"].map(|name| {
        FrontEnd::start(Settings {
            name: Some(name.into()),
            paused: true,
            ..settings(runs.path())
        })
    });
    for (front, key) in fronts.iter_mut().zip(["seeed", "epoochs"]) {
        front.until_state(State::Paused);
        let (key, value) = (key.into(), Value::Int(1));
        front.refused(Command::Set { key, value });
    }
    for front in fronts {
        front.quit();
    }
    let log = |run: &str| std::fs::read_to_string(runs.path().join(run).join(LOG)).unwrap();
    let count = |text: &str, words: &str| text.matches(words).count();
    for (own, other, typed, others) in [
        ("one", "two", "seeed", "epoochs"),
        ("two", "one", "epoochs", "seeed"),
    ] {
        let text = log(own);
        assert_eq!(count(&text, &format!("run {own} begins")), 1, "{text}");
        assert_eq!(count(&text, &format!("run {other} begins")), 0, "{text}");
        assert_eq!(
            (count(&text, typed), count(&text, others)),
            (1, 0),
            "{text}"
        );
    }
}

#[test]
fn a_front_end_that_goes_ends_the_session_and_the_work_is_saved() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::start(settings(runs.path()));
    front.epoch();
    let FrontEnd { client, thread, .. } = front;
    drop(client);
    thread.unwrap().join().unwrap();
    assert!(step(runs.path(), LAST) >= 10);
}

#[test]
fn a_panic_and_a_wrong_data_set_become_failures() {
    let (client, thread) =
        start_with(Settings::default(), |_, _| panic!("as {} asked", "we")).unwrap();
    let events: Vec<_> = client.events.iter().map(|m| m.event).collect();
    thread.join().unwrap();
    match &events[events.len() - 1] {
        Event::Ended {
            state: State::Failed { why },
            ..
        } => assert!(why.contains("as we asked"), "{why}"),
        other => panic!("{other:?}"),
    }
    let runs = tempfile::tempdir().unwrap();
    train_through(settings(runs.path()));
    let resumed = Settings {
        resume: Some("one".into()),
        ..settings(runs.path())
    };
    let other = |_: Option<&Path>, _: &mut dyn FnMut(u64, u64)| {
        let mut data = dataset();
        data.test.labels[0] ^= 1;
        Ok(data)
    };
    let (client, thread) = start_with(resumed, other).unwrap();
    let last = client.events.iter().last().map(|m| m.event);
    thread.join().unwrap();
    match last {
        Some(Event::Ended {
            state: State::Failed { why },
            ..
        }) => assert!(why.contains("--data") && why.contains(LAST), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_download_that_cannot_be_kept_says_why_and_training_goes_on() {
    let runs = tempfile::tempdir().unwrap();
    let file = runs.path().join("a file");
    std::fs::write(&file, "not a folder").unwrap();
    let mut front = FrontEnd::start(Settings {
        download_to: Some(file),
        paused: true,
        ..settings(runs.path())
    });
    front.until_state(State::Paused);
    front.send(Command::Download);
    let error = front.until(|e| match e {
        Event::Download {
            finished: true,
            error,
            ..
        } => Some(error.clone()),
        _ => None,
    });
    assert!(error.unwrap().contains("a file"));
    front.send(Command::Step);
    front.until_state(State::Paused);
    front.quit();
}

#[test]
fn a_session_whose_run_was_taken_over_writes_nothing_more_and_ends() {
    for wakes in [true, false] {
        let runs = tempfile::tempdir().unwrap();
        let mut front = FrontEnd::start(Settings {
            paused: true,
            ..settings(runs.path())
        });
        front.until_state(State::Paused);
        front.send(Command::Step);
        front.until_state(State::Paused);
        let folder = runs.path().join("one");
        let files = || {
            let mut all: Vec<_> = std::fs::read_dir(&folder)
                .unwrap()
                .map(|f| f.unwrap().path())
                // The lease's next version lies beside it for a moment.
                .filter_map(|path| Some((std::fs::read(&path).ok()?, path)))
                .collect();
            all.sort();
            all
        };
        // Do what another computer does after it has seen the lease's counter unchanged for a minute.
        let lease = files().into_iter().find(|(_, path)| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("lease-")
        });
        std::fs::rename(lease.unwrap().1, folder.join("lease-0-1")).unwrap();
        let before = files();
        front.send(match wakes {
            true => Command::Resume,
            false => Command::Checkpoint,
        });
        let (state, events) = front.quit();
        assert!(
            matches!(&state, State::Failed { why } if why.contains("lease")),
            "{state:?}"
        );
        assert_eq!(files(), before);
        let saved = |e: &&Event| matches!(e, Event::Checkpoint(c) if c.step > 0);
        assert_eq!(events.iter().filter(saved).count(), 0);
    }
}
