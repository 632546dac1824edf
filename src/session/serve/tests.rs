use super::super::attach::{attach, find, running};
use super::super::link::link;
use super::*;
use crate::domain::report::{DataInfo, RunInfo};
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
        resumed_at: None,
        started: 0.0,
    }))
}

fn notice(text: &str) -> Event {
    Event::Notice { text: text.into() }
}

#[test]
fn viewers_find_the_session_hear_it_and_steer_it_and_go_without_a_trace() {
    let runs = tempfile::tempdir().unwrap();
    let run = runs.path().join("one");
    fs::create_dir(&run).unwrap();
    let (first, tell) = link();
    let server = Server::start(tell.hub()).unwrap();
    assert!(running(runs.path()).is_empty());
    tell.event(started(&run));
    let (found, others) = find(runs.path(), None).unwrap();
    assert_eq!((found.name.as_str(), others.len()), ("one", 0));
    assert_eq!(find(runs.path(), Some("one")).unwrap().0, found);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&found.socket), 0o600);
    assert_eq!(mode(found.socket.parent().unwrap()), 0o700);

    let viewers = [attach(&found).unwrap(), attach(&found).unwrap()];
    for viewer in &viewers {
        let heard = viewer.events.recv_timeout(SOON).unwrap();
        let events = vec![started(&run)];
        assert_eq!(heard, Event::Snapshot { events });
    }
    tell.event(notice("to all"));
    for viewer in &viewers {
        let heard = viewer.events.recv_timeout(SOON).unwrap();
        assert_eq!(heard, notice("to all"));
    }
    viewers[1].commands.send(Command::Pause).unwrap();
    let command = tell.commands.recv_timeout(SOON);
    assert_eq!(command, Ok(Command::Pause));
    drop(viewers);
    while !first.is_alone() {
        tell.event(notice("wakes those that write"));
        std::thread::yield_now();
    }
    assert_eq!(tell.commands.try_iter().count(), 0, "nobody asked to quit");
    drop(tell);
    drop(server);
    assert!(!found.socket.exists() && !run.join(RECORD).exists());
    assert!(find(runs.path(), Some("one")).is_err());
}

#[test]
fn a_line_that_is_no_command_closes_its_viewer_and_nothing_else() {
    let (_first, tell) = link();
    let server = Server::start(tell.hub()).unwrap();
    let socket = server.shared.place().socket.clone();
    let long = vec![b'x'; LONGEST_LINE as usize + 10];
    for bad in [&b"nonsense\n"[..], b"{\"command\":\"no-such\"}\n", &long] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(bad).unwrap();
        let mut heard = String::new();
        // What was not read of a line that is too long makes the end an error.
        let _ = stream.read_to_string(&mut heard);
        assert!(heard.contains("this viewer is closed"), "{heard}");
    }
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(b"{\"command\":\"pause\"}\n").unwrap();
    assert_eq!(tell.commands.recv_timeout(SOON), Ok(Command::Pause));
}

#[test]
fn a_socket_that_nobody_listens_to_is_swept_and_a_record_of_it_is_no_session() {
    let runs = tempfile::tempdir().unwrap();
    let run = runs.path().join("dead");
    fs::create_dir(&run).unwrap();
    let socket = runs.path().join("1.sock");
    drop(UnixListener::bind(&socket).unwrap());
    fs::write(run.join(RECORD), socket.display().to_string()).unwrap();
    assert!(find(runs.path(), Some("dead")).is_err());
    assert!(!run.join(RECORD).exists());
    let live = UnixListener::bind(runs.path().join("2.sock")).unwrap();
    sweep(runs.path());
    assert!(!socket.exists() && runs.path().join("2.sock").exists());
    drop(live);
}
