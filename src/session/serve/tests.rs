use super::super::attach::{AttachError, RunningSession, attach, find};
use super::super::client::{ATTACHED_QUEUE, channel};
use super::super::run_dir::{HostId, Owner, RunDir};
use super::*;
use crate::domain::report::{DataInfo, RunInfo, StepReport};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn started(folder: &Path) -> Event {
    Event::Started(Box::new(RunInfo {
        name: "one".into(),
        folder: folder.display().to_string(),
        data: DataInfo::default(),
        device: String::new(),
        params: Default::default(),
        architecture: String::new(),
        layers: Vec::new(),
        parameters: 0,
        multiply_adds: 0,
        train: 1,
        validation: 1,
        test: 1,
        steps_per_epoch: 1,
        split_seed: 4,
        origin: None,
        resumed_at: None,
        started: 0.0,
    }))
}

/// A run `one` that a session on `host` has open.
fn opened(runs: &Path, host: HostId, server: Option<&Server>) -> RunDir {
    let owner = Owner {
        host,
        socket: server.map(Server::socket),
    };
    RunDir::create(runs, Some("one"), &Default::default(), &owner).unwrap()
}

/// The session that `attach` finds, if it is the only one.
fn found(runs: &Path, name: Option<&str>) -> Result<RunningSession, AttachError> {
    find(runs, name, &HostId::this()).map(|(session, others)| {
        assert!(others.is_empty());
        session
    })
}

fn notice(text: &str) -> Event {
    Event::Notice { text: text.into() }
}

#[test]
fn viewers_find_the_session_hear_it_and_steer_it_and_go_without_a_trace() {
    let runs = tempfile::tempdir().unwrap();
    let run = runs.path().join("one");
    let (first, sender) = channel();
    let server = Server::start(sender.broadcaster()).unwrap();
    let none = found(runs.path(), None);
    assert!(matches!(none, Err(AttachError::None(_))));
    let open = opened(runs.path(), HostId::this(), Some(&server));
    sender.event(started(&run));
    let session = found(runs.path(), None).unwrap();
    assert_eq!(session.name, "one");
    assert_eq!(found(runs.path(), Some("one")).unwrap(), session);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&session.socket), 0o600);
    assert_eq!(mode(session.socket.parent().unwrap()), 0o700);

    let viewers = [attach(&session).unwrap(), attach(&session).unwrap()];
    for viewer in &viewers {
        let heard = viewer.events.recv_timeout(SOON).unwrap().event;
        let events = vec![started(&run)];
        assert_eq!(heard, Event::Snapshot { events });
    }
    sender.event(notice("to all"));
    for viewer in &viewers {
        let heard = viewer.events.recv_timeout(SOON).unwrap().event;
        assert_eq!(heard, notice("to all"));
    }
    viewers[1].commands.send(Command::Pause).unwrap();
    let request = sender.requests.recv_timeout(SOON).unwrap();
    assert_eq!(request.message.command, Command::Pause);
    let outcome = Outcome::AppliedAt(3);
    sender.done(request.address(), outcome.clone());
    let heard = viewers[1].events.recv_timeout(SOON).unwrap().event;
    assert_eq!(heard, Event::Done(Done { id: 1, outcome }));
    drop(viewers);
    while !first.is_alone() {
        sender.event(notice("wakes those that write"));
        std::thread::yield_now();
    }
    assert_eq!(
        sender.requests.try_iter().count(),
        0,
        "nobody asked to quit"
    );
    drop(sender);
    drop(server);
    assert!(!session.socket.exists());
    let gone = found(runs.path(), Some("one"));
    assert!(matches!(gone, Err(AttachError::NoSocket { .. })));
    drop(open);
    let over = found(runs.path(), Some("one"));
    assert!(matches!(over, Err(AttachError::NotRunning(_))));
    let absent = found(runs.path(), Some("two"));
    assert!(matches!(absent, Err(AttachError::Absent { .. })));
}

#[test]
fn a_front_end_that_stops_reading_keeps_little_waiting_and_then_hears_the_newest() {
    const EVENTS: usize = 20_000;
    let runs = tempfile::tempdir().unwrap();
    let (first, sender) = channel();
    let server = Server::start(sender.broadcaster()).unwrap();
    let _open = opened(runs.path(), HostId::this(), Some(&server));
    let session = found(runs.path(), None).unwrap();
    let viewers = [attach(&session).unwrap(), attach(&session).unwrap()];
    for viewer in &viewers {
        let heard = viewer.events.recv_timeout(SOON).unwrap().event;
        assert!(matches!(heard, Event::Snapshot { .. }));
    }
    let text = |number: usize| notice(&format!("{number:0>500}"));
    for number in 0..EVENTS {
        sender.event(text(number));
        assert!(
            viewers
                .iter()
                .all(|viewer| viewer.events.len() <= ATTACHED_QUEUE)
        );
    }
    let [reads, leaves] = viewers;
    let last = text(EVENTS - 1);
    let (mut heard, mut snapshots) = (0, 0);
    loop {
        heard += 1;
        match reads.events.recv_timeout(SOON).unwrap().event {
            Event::Snapshot { events } => {
                snapshots += 1;
                if events.last() == Some(&last) {
                    break;
                }
            }
            event if event == last => break,
            _ => {}
        }
    }
    assert!(snapshots > 0 && heard < EVENTS, "{heard}, {snapshots}");
    // A viewer with many unread events can disconnect too.
    drop((reads, leaves));
    while !first.is_alone() {
        std::thread::yield_now();
    }
}

#[test]
fn a_session_on_another_computer_is_named_with_the_way_to_it_and_nothing_is_changed() {
    let runs = tempfile::tempdir().unwrap();
    let (_first, sender) = channel();
    let server = Server::start(sender.broadcaster()).unwrap();
    let elsewhere = HostId {
        name: "gpu-7".into(),
        kernel: "00000000".into(),
    };
    let _open = opened(runs.path(), elsewhere, Some(&server));
    let lease = || {
        let mut names = fs::read_dir(runs.path().join("one")).unwrap();
        let lease = names.find(|f| {
            f.as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .starts_with("lease")
        });
        lease.unwrap().unwrap().path()
    };
    let before = (lease(), fs::read(lease()).unwrap());
    for name in [None, Some("one")] {
        let error = found(runs.path(), name).unwrap_err().to_string();
        let command = format!(
            "cifar-tui attach gpu-7:{}",
            runs.path().join("one").display()
        );
        assert!(error.contains(&command), "{error}");
    }
    assert_eq!((lease(), fs::read(lease()).unwrap()), before);
}

#[test]
fn a_line_that_is_no_command_closes_its_viewer_and_nothing_else() {
    let (_first, sender) = channel();
    let server = Server::start(sender.broadcaster()).unwrap();
    let socket = server.shared.socket().clone();
    let long = vec![b'x'; MAX_COMMAND_LINE as usize + 10];
    for bad in [&b"nonsense\n"[..], b"{\"command\":\"no-such\"}\n", &long] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(bad).unwrap();
        let mut heard = String::new();
        // The unread rest of the long line makes reading end with an error.
        let _ = stream.read_to_string(&mut heard);
        assert!(heard.contains("this viewer is closed"), "{heard}");
    }
    assert!(sender.requests.is_empty());
}

#[test]
fn a_command_of_another_version_or_of_no_kind_is_refused_and_the_next_is_taken() {
    let (_first, sender) = channel();
    let server = Server::start(sender.broadcaster()).unwrap();
    let socket = server.shared.socket().clone();
    let mut stream = UnixStream::connect(&socket).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut refusal = || loop {
        let line = lines.next().unwrap().unwrap();
        if let Event::Done(done) = protocol::read::<EventMessage>(line.as_bytes())
            .unwrap()
            .event
        {
            match done.outcome {
                Outcome::Refused(why) => return (done.id, why),
                other => panic!("{other:?}"),
            }
        }
    };
    for (id, command, words) in [
        (
            4,
            r#"{"v":2,"id":4,"command":"later"}"#,
            "has version 2, and this session speaks version 1",
        ),
        (
            5,
            r#"{"id":5,"command":"pause"}"#,
            "has no version, and this session speaks version 1",
        ),
        (
            6,
            r#"{"v":1,"id":6,"command":"fly"}"#,
            "unknown variant `fly`",
        ),
    ] {
        writeln!(stream, "{command}").unwrap();
        let (answered, why) = refusal();
        assert_eq!(answered, id);
        assert!(why.contains(words), "{why}");
    }
    writeln!(stream, r#"{{"v":1,"id":7,"run":"one","command":"pause"}}"#).unwrap();
    let request = sender.requests.recv_timeout(SOON).unwrap();
    let mut pause = CommandMessage::new(7, Command::Pause);
    pause.run = Some("one".into());
    assert_eq!(request.message, pause);
}

#[test]
fn attaching_to_a_session_of_another_version_fails_with_both_and_what_to_do() {
    let runs = tempfile::tempdir().unwrap();
    let socket = runs.path().join("1.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let folder = runs.path().join("one");
    let session = RunningSession::of_test("one", &folder, &socket, 4711);
    for (snapshot, speaks) in [
        (r#"{"event":"snapshot","events":[]}"#, "speaks no version"),
        (r#"{"v":2,"event":"past"}"#, "speaks version 2"),
    ] {
        let waits = std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                writeln!(stream, "{snapshot}").unwrap();
            });
            attach(&session)
        });
        let error = waits.err().unwrap().to_string();
        for words in [
            speaks,
            "this cifar-tui version 1",
            "the session of 'one'",
            "kill 4711",
            &format!("--resume {}", folder.display()),
        ] {
            assert!(error.contains(words), "{error}");
        }
    }
    let ends = std::thread::scope(|scope| {
        scope.spawn(|| drop(listener.accept().unwrap()));
        attach(&session)
    });
    let error = ends.err().unwrap().to_string();
    assert!(error.contains("has ended"), "{error}");
}

#[test]
fn what_a_newer_session_sends_besides_is_left_out_and_said_once() {
    let runs = tempfile::tempdir().unwrap();
    let socket = runs.path().join("1.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let session = RunningSession::of_test("one", runs.path(), &socket, 4711);
    let client = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let known = r#"{"event":"notice","text":"a","also":[1]}"#;
            let unknown = r#"{"event":"later","x":{"y":1}}"#;
            let snapshot = format!(r#""event":"snapshot","events":[{unknown},{known}]"#);
            for fields in [&*snapshot, r#""event":"later""#, r#""event":"later","x":2"#] {
                writeln!(stream, r#"{{"v":1,{fields}}}"#).unwrap();
            }
            writeln!(stream, r#"{{"v":1,"event":"notice","text":"b"}}"#).unwrap();
        });
        attach(&session).unwrap()
    });
    let events: Vec<Event> = client.events.iter().map(|message| message.event).collect();
    let [snapshot, Event::Warning { text }, last] = &events[..] else {
        panic!("{events:?}");
    };
    let events = vec![notice("a")];
    assert_eq!(*snapshot, Event::Snapshot { events });
    assert!(text.contains("unknown variant `later`"), "{text}");
    assert_eq!(*last, notice("b"));
}

#[test]
fn a_socket_that_nobody_listens_to_is_swept() {
    let runs = tempfile::tempdir().unwrap();
    let socket = runs.path().join("1.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let live = UnixListener::bind(runs.path().join("2.sock")).unwrap();
    sweep(runs.path());
    assert!(!socket.exists() && runs.path().join("2.sock").exists());
    drop(live);
}

/// Connects to a server in this process and reads its first message.
fn connected(server: &Server) -> (UnixStream, Event) {
    let stream = UnixStream::connect(&*server.shared.socket()).unwrap();
    let mut line = Vec::new();
    let mut reader = BufReader::with_capacity(1, stream.try_clone().unwrap());
    reader.read_until(b'\n', &mut line).unwrap();
    let message: EventMessage = protocol::read(&line).unwrap();
    (stream, message.event)
}

#[test]
#[cfg(target_os = "linux")]
fn one_process_cannot_take_the_places_of_all_viewers() {
    let (_first, sender) = channel();
    let server = Server::start(sender.broadcaster()).unwrap();
    let mut attached = Vec::new();
    for _ in 0..MAX_VIEWERS_OF_PROCESS {
        let (stream, event) = connected(&server);
        assert!(matches!(event, Event::Snapshot { .. }));
        attached.push(stream);
    }
    let (_, event) = connected(&server);
    let Event::Warning { text } = event else {
        panic!("{event:?}");
    };
    assert!(
        text.contains("this process has attached 16 viewers"),
        "{text}"
    );
    let other = |process| Peer {
        process: Some(process),
        ..server.shared.viewers()[0]
    };
    let others: Vec<_> = (1..)
        .map_while(|process| ViewerPlace::take(&server.shared, other(-process)).ok())
        .collect();
    assert_eq!(others.len() + attached.len(), MAX_VIEWERS);
    drop(others);
    // A place is free again when its viewer has left.
    attached.pop();
    while server.shared.viewers().len() == MAX_VIEWERS_OF_PROCESS {
        sender.event(notice("wakes those that write"));
        std::thread::yield_now();
    }
    assert!(matches!(connected(&server).1, Event::Snapshot { .. }));
}

#[test]
fn a_viewer_with_many_unanswered_commands_is_read_on_when_they_are_answered() {
    const COMMANDS: u64 = 1000;
    let (_first, sender) = channel();
    let server = Server::start(sender.broadcaster()).unwrap();
    let (mut stream, _) = connected(&server);
    let lines = (1..=COMMANDS).map(|id| format!("{{\"v\":1,\"id\":{id},\"command\":\"undo\"}}\n"));
    stream
        .write_all(lines.collect::<String>().as_bytes())
        .unwrap();
    let mut answers = BufReader::new(stream).lines();
    for id in 1..=COMMANDS {
        let request = sender.requests.recv_timeout(SOON).unwrap();
        assert_eq!(request.message.id, id);
        assert!(sender.requests.len() < MAX_UNANSWERED);
        sender.done(request.address(), Outcome::AppliedAt(id));
        let line = answers.next().unwrap().unwrap();
        let event = protocol::read::<EventMessage>(line.as_bytes())
            .unwrap()
            .event;
        let outcome = Outcome::AppliedAt(id);
        assert_eq!(event, Event::Done(Done { id, outcome }));
    }
}

#[test]
fn a_session_does_not_wait_for_a_viewer_that_only_watches() {
    let (first, sender) = channel();
    let server = Server::start(sender.broadcaster()).unwrap();
    let (mut stream, _) = connected(&server);
    assert!(!first.is_alone());
    stream
        .write_all(b"{\"v\":1,\"id\":1,\"command\":\"watch\"}\n")
        .unwrap();
    let request = sender.requests.recv_timeout(SOON).unwrap();
    assert!(first.is_alone());
    sender.done(request.address(), Outcome::AppliedAt(1));
    drop(stream);
    while !server.shared.viewers().is_empty() {
        sender.event(notice("wakes those that write"));
        std::thread::yield_now();
    }
    assert!(first.is_alone());
}

#[test]
fn steps_made_after_a_snapshot_are_sent_after_it() {
    let report = StepReport {
        first: 1,
        last: 1,
        epoch: 1,
        step_in_epoch: 1,
        steps_per_epoch: 1,
        images: 1,
        loss: 1.0,
        loss_min: 1.0,
        loss_max: 1.0,
        correct: 0,
        grad_norm: 1.0,
        learning_rate: 0.1,
        images_per_s: 1.0,
        elapsed: 1.0,
        eta: None,
    };
    // Which of the two waits longer is up to chance.
    for _ in 0..20 {
        let (_first, sender) = channel();
        let client = sender.broadcaster().attach();
        sender.event(Event::Steps(report.clone()));
        let (stream, viewer) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| serve(&client, stream));
            let lines = BufReader::new(viewer).lines().take(2);
            let events = lines.map(|line| {
                let message: EventMessage = protocol::read(line.unwrap().as_bytes()).unwrap();
                message.event
            });
            let events: Vec<Event> = events.collect();
            assert!(events[0].is_snapshot() && events[1] == Event::Steps(report.clone()));
        });
    }
}
