use super::printer::started;
use super::*;
use crate::domain::params::Hyperparameters;
use crate::domain::report::{
    AverageScores, CheckpointReport, EpochReport, Evaluation, RunInfo, ScoredWeights, Split,
    StepReport,
};
use crate::session::client::{EventSender, channel};
use crate::session::protocol::{EventMessage, read};
use crossbeam_channel::unbounded;
use std::io;

fn epoch() -> Event {
    Event::Epoch(EpochReport {
        epoch: 1,
        step: 8,
        train_loss: 1.5,
        train_accuracy: 0.4,
        loss: f64::NAN,
        split: Split::Validation,
        accuracy: 0.45,
        test_accuracy: Some(0.44),
        average: None,
        best: true,
        images_per_s: 5612.0,
        elapsed: 7.0,
        position: f64::from(1),
        reached: None,
        tta: Default::default(),
    })
}

fn steps(last: u64) -> Event {
    Event::Steps(StepReport {
        first: last,
        last,
        epoch: 1,
        step_in_epoch: last,
        steps_per_epoch: 8,
        images: 32,
        loss: 1.0,
        loss_min: 1.0,
        loss_max: 1.0,
        correct: 16,
        grad_norm: 1.0,
        learning_rate: 1e-3,
        images_per_s: 100.0,
        elapsed: 1.0,
        eta: None,
    })
}

fn run_info() -> RunInfo {
    RunInfo {
        name: "seed-1".into(),
        folder: "runs/seed-1".into(),
        data: crate::domain::report::DataInfo {
            is_sample: true,
            ..Default::default()
        },
        device: "CPU 2 threads".into(),
        params: Hyperparameters::default(),
        architecture: "conv 32".into(),
        layers: Vec::new(),
        parameters: 122_570,
        multiply_adds: 9_479_000,
        train: 40_000,
        validation: 10_000,
        test: 10_000,
        steps_per_epoch: 1250,
        split_seed: 4,
        origin: None,
        resumed_at: Some(17),
        started: 0.0,
    }
}

fn ended(state: State) -> Event {
    Event::Ended {
        params: Box::default(),
        state,
    }
}

/// Calls [`run`] with `on_hangup = "checkpoint-and-stop"`.
fn run_until_hangup(
    client: &SessionClient,
    style: Style,
    status: Status,
    notices: &Receiver<Notice>,
    out: &mut impl Write,
) -> PrintOutcome {
    run(client, style, status, notices, &mut || false, out)
}

/// The commands that a session was sent.
fn sent(sender: &EventSender) -> Vec<Command> {
    let requests = sender.requests.try_iter();
    requests.map(|request| request.message.command).collect()
}

/// Prints `events`. Returns the output, the outcome and the commands that were sent.
fn printed(style: Style, events: Vec<Event>) -> (String, PrintOutcome, Vec<Command>) {
    let (client, sender) = channel();
    events.into_iter().for_each(|event| sender.event(event));
    let mut out = Vec::new();
    let outcome = run_until_hangup(&client, style, Status::default(), &never(), &mut out);
    let commands = sent(&sender);
    (String::from_utf8(out).unwrap(), outcome, commands)
}

#[test]
fn an_epoch_is_one_line_and_the_end_quits() {
    let events = vec![epoch(), Event::State(State::Done), ended(State::Done)];
    let (text, outcome, commands) = printed(Style::Lines, events);
    assert_eq!(
        text,
        "epoch  1/15  train 1.5000  40.0%  val NaN  45.0%  test 44.0%     5,612 img/s  0:07  best\ndone\n"
    );
    assert_eq!(outcome.status.state, State::Done);
    assert_eq!(commands, [Command::Quit]);
}

#[test]
fn the_average_stands_beside_the_last_weights() {
    let Event::Epoch(mut report) = epoch() else {
        panic!("not an epoch");
    };
    report.average = Some(AverageScores {
        loss: 1.0,
        accuracy: 0.461,
        test_accuracy: Some(0.455),
    });
    let test = Evaluation {
        split: Split::Test,
        weights: ScoredWeights::Average,
        tta: Default::default(),
        step: 8,
        epoch: 1,
        loss: 1.25,
        accuracy: 0.455,
        confusion: Default::default(),
        images_per_s: 1.0,
    };
    let events = vec![
        Event::Epoch(report),
        Event::Evaluation(test),
        ended(State::Done),
    ];
    let (text, ..) = printed(Style::Lines, events);
    let expected = [
        "  val NaN  45.0% (average 46.1%)  test 44.0% (average 45.5%)  ",
        "test     loss 1.2500, accuracy 45.50%, 0 images, with the average of the weights",
    ];
    for part in expected {
        assert!(text.contains(part), "'{part}' is missing in {text}");
    }
}

#[test]
fn json_is_one_event_a_line_with_the_steps_before_what_follows_them() {
    let events = vec![steps(1), steps(2), epoch(), ended(State::Stopped)];
    let (text, ..) = printed(Style::Json, events);
    let lines: Vec<EventMessage> = text
        .lines()
        .map(|line| read(line.as_bytes()).unwrap())
        .collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(matches!(&lines[0].event, Event::Steps(s) if (s.first, s.last) == (1, 2)));
    assert!(matches!(&lines[1].event, Event::Epoch(e) if e.loss.is_nan()));
    assert_eq!(lines[2].event, ended(State::Stopped));
}

#[test]
fn a_worker_that_ends_without_an_event_is_a_failure() {
    let (client, sender) = channel();
    drop(sender);
    let status = Status::default();
    let outcome = run_until_hangup(&client, Style::Lines, status, &never(), &mut Vec::new());
    assert!(matches!(outcome.status.state, State::Failed { .. }));
}

#[test]
fn the_first_signal_is_the_one_that_counts() {
    for (run, words) in [
        ("", &b"stopping\n"[..]),
        ("one", b"stopping: writing a checkpoint\n"),
    ] {
        let (client, sender) = channel();
        let (notice, notices) = unbounded();
        for signal in [libc::SIGTERM, libc::SIGINT] {
            notice.send(Notice::Stopping(signal)).unwrap();
        }
        let worker = std::thread::spawn(move || {
            // The sender of the notices has sent the commands too, so none is sent here.
            while !notice.is_empty() {
                std::thread::yield_now();
            }
            sender.event(ended(State::Stopped));
            sender.requests.try_iter().count()
        });
        let mut out = Vec::new();
        let status = Status {
            run: run.into(),
            ..Status::default()
        };
        let outcome = run_until_hangup(&client, Style::Lines, status, &notices, &mut out);
        assert_eq!(outcome.signal, Some(libc::SIGTERM));
        assert_eq!(worker.join().unwrap(), 0);
        assert_eq!(out, words);
    }
}

/// A writer that fails with this error code, as if its reader or terminal had gone.
struct Gone(i32);

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(self.0))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_or_a_terminal_that_has_gone_ends_the_session_in_order() {
    for (error, signal) in [(libc::EPIPE, libc::SIGPIPE), (libc::EIO, libc::SIGHUP)] {
        let (client, sender) = channel();
        for event in [epoch(), epoch(), ended(State::Stopped)] {
            sender.event(event);
        }
        let status = Status::default();
        let outcome = run_until_hangup(&client, Style::Json, status, &never(), &mut Gone(error));
        assert_eq!(outcome.signal, Some(signal));
        assert_eq!(outcome.status.state, State::Stopped);
        assert_eq!(sender.requests.try_iter().count(), 1);
    }
}

#[test]
fn after_a_hangup_a_file_gets_the_rest_and_a_terminal_nothing() {
    for (output_gone, lines) in [(false, 2), (true, 0)] {
        let (client, sender) = channel();
        let (notice, notices) = unbounded();
        notice.send(Notice::HungUp { output_gone }).unwrap();
        let worker = std::thread::spawn(move || {
            while !notice.is_empty() {
                std::thread::yield_now();
            }
            for event in [epoch(), epoch(), ended(State::Done)] {
                sender.event(event);
            }
        });
        let mut out = Vec::new();
        let status = Status::default();
        let outcome = run_until_hangup(&client, Style::Lines, status, &notices, &mut out);
        worker.join().unwrap();
        assert_eq!(outcome.signal, None);
        assert_eq!(out.iter().filter(|b| **b == b'\n').count(), lines);
    }
}

#[test]
fn a_reader_that_goes_with_the_terminal_does_not_end_what_outlives_it() {
    let (client, sender) = channel();
    let (notice, notices) = unbounded();
    let hung_up = Notice::HungUp { output_gone: false };
    notice.send(hung_up).unwrap();
    let worker = std::thread::spawn(move || {
        while !notice.is_empty() {
            std::thread::yield_now();
        }
        sender.event(epoch());
        sender.event(ended(State::Done));
        sender.requests.try_iter().count()
    });
    let mut gone = Gone(libc::EPIPE);
    let outcome = run_until_hangup(
        &client,
        Style::Lines,
        Status::default(),
        &notices,
        &mut gone,
    );
    assert_eq!((outcome.signal, worker.join().unwrap()), (None, 0));
}

#[test]
fn a_session_that_is_taken_over_ends_when_its_run_was_over_before() {
    let over = [
        State::Done,
        State::Stopped,
        State::Diverged {
            step: 3,
            first: "the loss".into(),
        },
    ];
    for state in over {
        let (client, sender) = channel();
        let status = Status {
            state: state.clone(),
            ..Status::default()
        };
        let worker = std::thread::spawn(move || {
            let request = sender.requests.recv().unwrap();
            assert_eq!(request.message.command, Command::Quit);
            sender.event(ended(state));
        });
        run_until_hangup(&client, Style::Silent, status, &never(), &mut Vec::new());
        worker.join().unwrap();
    }
}

#[test]
fn a_paused_session_ends_when_nobody_can_attach_and_waits_when_somebody_can() {
    for (style, can_attach) in [
        (Style::Silent, false),
        (Style::Lines, false),
        (Style::Silent, true),
    ] {
        let (client, sender) = channel();
        if can_attach {
            sender.broadcaster().set_has_socket();
        }
        sender.event(Event::State(State::Paused));
        sender.event(ended(State::Stopped));
        let outcome =
            run_until_hangup(&client, style, Status::default(), &never(), &mut Vec::new());
        let quits = sent(&sender).contains(&Command::Quit);
        assert_eq!(quits, !can_attach);
        let failed = matches!(outcome.status.state, State::Failed { .. });
        match (style, can_attach) {
            (_, true) => assert_eq!((outcome.signal, failed), (None, false)),
            (Style::Silent, _) => {
                assert_eq!((outcome.signal, failed), (Some(libc::SIGHUP), false));
            }
            // Without a hangup it is an error.
            _ => assert_eq!((outcome.signal, failed), (None, true)),
        }
    }
}

#[test]
fn the_last_line_of_an_unfinished_run_names_its_folder() {
    let runs = tempfile::tempdir().unwrap();
    let folder = runs.path().join("my one");
    std::fs::create_dir(&folder).unwrap();
    let folder = folder.display().to_string();
    let started = Event::Started(Box::new(RunInfo {
        name: "one".into(),
        folder: folder.clone(),
        ..run_info()
    }));
    let saved = Event::Checkpoint(CheckpointReport {
        step: 1234,
        epoch: 1,
        path: format!("{folder}/last.safetensors"),
        bytes: 1,
        best: false,
    });
    let stopped = ended(State::Stopped);
    let (text, ..) = printed(Style::Lines, vec![started, saved, stopped]);
    assert_eq!(
        text.lines().last().unwrap(),
        format!(
            "run      one is saved up to step 1,234 in {folder}; `cifar-tui train --resume '{folder}'` resumes it"
        )
    );
}

#[test]
fn a_failure_is_printed_by_main_and_not_here() {
    let failed = State::Failed { why: "why".into() };
    let events = vec![Event::State(failed.clone()), ended(failed)];
    let (text, ..) = printed(Style::Lines, events);
    assert_eq!(text, "");
}

#[test]
fn what_starts_is_told_and_the_sample_set_says_how_to_get_the_real_one() {
    let text = started(&run_info());
    for part in [
        "runs/seed-1",
        "122,570",
        "1,250 steps of 32",
        "at step 17",
        "data download",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[test]
fn a_watcher_prints_the_past_once_and_sends_nothing_but_that_it_watches() {
    let print = |style| {
        let (_first, sender) = channel();
        sender.event(Event::Started(Box::new(run_info())));
        sender.event(epoch());
        let client = sender.broadcaster().attach();
        sender.event(steps(9));
        sender.event(Event::Notice { text: "new".into() });
        sender.event(Event::Ended {
            params: Box::default(),
            state: State::Stopped,
        });
        let mut out = Vec::new();
        let status = watch(&client, style, &never(), &mut out).unwrap();
        assert!(status.ended);
        let commands = sender.requests.try_iter().map(|r| r.message.command);
        assert!(commands.eq([Command::Watch]));
        String::from_utf8(out).unwrap()
    };
    let text = print(Style::Lines);
    for line in ["run      seed-1 in", "epoch  1/15", "note     new"] {
        assert_eq!(text.matches(line).count(), 1, "{text}");
    }
    let json = print(Style::Json);
    let events = json
        .lines()
        .map(|line| read::<EventMessage>(line.as_bytes()).unwrap().event);
    let events: Vec<Event> = events.collect();
    // The steps after the snapshot are not printed before it.
    assert!(matches!(&events[0], Event::Snapshot { events } if events.len() == 2));
    assert!(matches!(&events[1], Event::Steps(report) if report.last == 9));
    assert_eq!(events.len(), 4);
}

#[test]
fn a_watcher_whose_reader_has_gone_ends() {
    let (_first, sender) = channel();
    let client = sender.broadcaster().attach();
    let (close, gone) = unbounded();
    close.send(()).unwrap();
    let mut out = Vec::new();
    let error = watch(&client, Style::Json, &gone, &mut out).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}
