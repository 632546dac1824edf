//! Commands to a session on another computer, through the inbox of its run.

use super::*;
use crate::files::tests::make_fifo;
use crate::session::attach::find_one;
use crate::session::command_files::{CommandFileSender, FileRequest, FiledCommand};
use crate::session::protocol::MAX_COMMAND_LINE;
use crate::session::run_dir::lease::{Lease, Watch};
use crate::session::run_dir::{HostId, Owner};
use crate::session::sent::NoAnswer;
use crate::train::files::faults::{Fault, inject};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Instant;

fn far_host() -> HostId {
    HostId {
        name: "gpu-7".into(),
        kernel: "ffffffff".into(),
    }
}

/// The settings of a session on another computer whose run does not end by itself.
pub(super) fn far(runs: &Path) -> Settings {
    let mut settings = settings(runs);
    settings.params.epochs = 9999.0;
    Settings {
        host: far_host(),
        paused: true,
        ..settings
    }
}

/// A sender to the session of the run `one`.
fn sender(runs: &Path) -> CommandFileSender {
    let error = find_one(runs, Some("one"), &HostId::this()).unwrap_err();
    CommandFileSender::to(error.unreachable().unwrap(), &HostId::this()).unwrap()
}

fn request(command: Command, wait: bool) -> FileRequest {
    let message = CommandMessage::new(1, command);
    FileRequest::Command(FiledCommand { message, wait })
}

fn set_dropout(value: f64) -> Command {
    Command::Set {
        key: "dropout".into(),
        value: Value::Float(value),
    }
}

const LIMIT: Duration = Duration::from_secs(60);

fn limit(time: Duration) -> Option<(Instant, Duration)> {
    Some((Instant::now() + time, time))
}

#[track_caller]
fn answer(files: &mut CommandFileSender, request: &FileRequest) -> serde_json::Value {
    let key = files.send(request).unwrap();
    files.wait(&key, limit(LIMIT)).unwrap()
}

fn inbox(runs: &Path) -> PathBuf {
    runs.join("one/inbox")
}

fn left(runs: &Path) -> Vec<String> {
    let entries = fs::read_dir(inbox(runs)).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let names = entries.map(|entry| name(entry).into_string().unwrap());
    names.collect()
}

#[test]
fn a_run_of_another_computer_is_steered_through_files() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::paused(far(runs.path()));
    let files = &mut sender(runs.path());
    let status = answer(files, &FileRequest::Status);
    assert_eq!(
        (&status["run"], &status["state"]["is"], &status["step"]),
        (&"one".into(), &"paused".into(), &0.into())
    );
    let set = answer(files, &request(set_dropout(0.25), false));
    assert_eq!(
        (&set["run"], &set["key"], &set["applied_at"]),
        (&"one".into(), &"dropout".into(), &1.into())
    );
    assert_eq!(front.applied(), ("dropout".into(), Value::Float(0.25), 1));
    let step = answer(files, &request(Command::Step, true));
    assert_eq!(step["applied_at"], 1);
    let saved = answer(files, &request(Command::Checkpoint, true));
    assert_eq!(saved["checkpoint"]["step"], 1);
    let refused = answer(files, &request(set_dropout(7.0), false));
    assert!(refused["refused"].as_str().unwrap().contains("0 to 0.95"));
    let runs_asked = Command::Ask {
        question: Question::Runs,
        epoch: None,
    };
    let asked = answer(files, &request(runs_asked, false));
    assert_eq!(asked["answer"]["items"][0]["name"], "one");
    // A change that waits does not delay the commands after it, and has no effect if the run ends first.
    let seed = Command::Set {
        key: "seed".into(),
        value: Value::Int(5),
    };
    let waiting = files.send(&request(seed, true)).unwrap();
    answer(files, &request(Command::Resume, false));
    front.until_state(State::Running);
    answer(files, &request(Command::Pause, true));
    let quit = files.send(&request(Command::Quit, true)).unwrap();
    assert_eq!(front.until_ended(), State::Stopped);
    let quit = files.wait(&quit, limit(LIMIT)).unwrap();
    assert!(quit["applied_at"].is_u64(), "{quit}");
    let waited = files.wait(&waiting, limit(LIMIT)).unwrap();
    let why = waited["refused"].as_str().unwrap();
    assert!(
        why.contains("ended before the command had taken effect"),
        "{why}"
    );
    assert_eq!(left(runs.path()), [""; 0]);
}

#[test]
fn commands_are_carried_out_in_the_order_of_sending() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::paused(far(runs.path()));
    let files = &mut sender(runs.path());
    let values: Vec<f64> = (1..=90).map(|at| f64::from(at) / 100.0).collect();
    let keys: Vec<String> = (values.iter())
        .map(|value| files.send(&request(set_dropout(*value), false)).unwrap())
        .collect();
    assert!(keys.is_sorted());
    for key in &keys {
        let answer = files.wait(key, limit(LIMIT)).unwrap();
        assert_eq!(answer["applied_at"], 1, "{answer}");
    }
    for value in values {
        assert_eq!(front.applied().1, Value::Float(value));
    }
    front.quit();
}

#[test]
fn a_new_run_of_the_session_has_an_inbox_of_its_own() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::paused(far(runs.path()));
    let files = &mut sender(runs.path());
    let restarted = answer(files, &request(Command::Restart, false));
    assert_eq!(restarted["applied_at"], 1, "{restarted}");
    let name = front.until(|event| match event {
        Event::Started(run) if run.name != "one" => Some(run.name.clone()),
        _ => None,
    });
    let gone = files.send(&request(Command::Pause, false)).unwrap();
    let gone = files.wait(&gone, limit(LIMIT));
    assert!(matches!(gone, Err(NoAnswer::Ended { .. })), "{gone:?}");
    let error = find_one(runs.path(), Some(&name), &HostId::this()).unwrap_err();
    let session = error.unreachable().unwrap();
    let mut files = CommandFileSender::to(session, &HostId::this()).unwrap();
    let mut paused = CommandMessage::new(9, Command::Pause);
    paused.run = Some("one".into());
    let other = FileRequest::Command(FiledCommand {
        message: paused,
        wait: false,
    });
    let refused = answer(&mut files, &other);
    assert!(
        refused["refused"]
            .as_str()
            .unwrap()
            .contains("no run 'one'")
    );
    let paused = answer(&mut files, &request(Command::Pause, true));
    assert!(paused["applied_at"].is_u64(), "{paused}");
    front.quit();
}

#[test]
fn a_hostile_file_is_refused_with_words_and_harms_nobody() {
    let runs = tempfile::tempdir().unwrap();
    let front = FrontEnd::paused(far(runs.path()));
    let files = &mut sender(runs.path());
    answer(files, &FileRequest::Status);
    let lease = fs::read_dir(runs.path().join("one")).unwrap();
    let lease = lease
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap());
    let lease = lease
        .filter(|name| name.starts_with("lease-"))
        .last()
        .unwrap();
    let owner = lease.strip_prefix("lease-").unwrap();
    let put = |key: &str, bytes: &[u8]| {
        let temporary = runs.path().join("temporary");
        fs::write(&temporary, bytes).unwrap();
        fs::rename(
            temporary,
            inbox(runs.path()).join(format!("{key}.{owner}.command")),
        )
        .unwrap();
    };
    let long = vec![b' '; MAX_COMMAND_LINE as usize + 1];
    let deep = "[".repeat(60_000);
    for (key, bytes, why) in [
        ("0", &b"\0\xff\xfe{[\""[..], "not a command"),
        ("1", b"", "not a command"),
        (
            "2",
            b"{\"v\":1,\"id\":4,\"command\":\"explode\"}",
            "unknown variant",
        ),
        (
            "3",
            b"{\"v\":99,\"id\":4,\"command\":\"quit\"}",
            "version 99",
        ),
        ("4", b"{\"command\":\"quit\"}", "no version"),
        ("5", &long, "it has more than"),
        ("6", deep.as_bytes(), "not a command"),
    ] {
        put(key, bytes);
        let refused = files.wait(key, limit(LIMIT)).unwrap();
        let said = refused["refused"].as_str().unwrap();
        assert!(said.contains(why), "{key}: {said}");
    }
    let path = |name: &str| inbox(runs.path()).join(name);
    make_fifo(&path(&format!("7.{owner}.command")));
    symlink("/dev/zero", path(&format!("8.{owner}.command"))).unwrap();
    symlink(runs.path().join("one/config.toml"), path("a link")).unwrap();
    for key in ["7", "8"] {
        let refused = files.wait(key, limit(LIMIT)).unwrap();
        let said = refused["refused"].as_str().unwrap();
        assert!(said.contains("not a regular file"), "{said}");
    }
    // What cannot be removed stays. A command for another session is not read.
    fs::create_dir(path(&format!("9.{owner}.command"))).unwrap();
    fs::write(
        path("5.ffffffff-0.command"),
        "{\"v\":1,\"id\":1,\"command\":\"quit\"}",
    )
    .unwrap();
    for at in 0..1000 {
        fs::write(path(&format!("{at}.answer")), "garbage").unwrap();
    }
    answer(files, &request(set_dropout(0.1), false));
    let log = fs::read_to_string(runs.path().join("one").join(LOG)).unwrap();
    assert!(
        log.contains("in the inbox is refused: not a command"),
        "{log}"
    );
    let stays = log
        .matches("waits, since its file cannot be removed")
        .count();
    assert_eq!(stays, 1, "{log}");
    // Files that nobody removes are removed after a time; the link leads nowhere.
    let end = Instant::now() + LIMIT;
    while left(runs.path()).len() > 1 {
        assert!(Instant::now() < end, "{:?}", left(runs.path()));
        std::thread::yield_now();
    }
    assert!(runs.path().join("one/config.toml").is_file());
    answer(files, &request(set_dropout(0.2), false));
    front.quit();
}

#[test]
fn an_inbox_that_is_a_link_is_not_followed() {
    let runs = tempfile::tempdir().unwrap();
    let front = FrontEnd::paused(far(runs.path()));
    let elsewhere = tempfile::tempdir().unwrap();
    let precious = elsewhere.path().join("precious");
    fs::write(&precious, "").unwrap();
    symlink(elsewhere.path(), inbox(runs.path())).unwrap();
    let mut files = sender(runs.path());
    let key = files.send(&request(Command::Quit, false)).unwrap();
    // Longer than the life of a file that nobody removes.
    let late = files.wait(&key, limit(Duration::from_secs(3)));
    assert!(matches!(late, Err(NoAnswer::Withdrawn { .. })), "{late:?}");
    assert!(precious.is_file());
    front.quit();
}

#[test]
fn a_command_that_nobody_reads_is_withdrawn() {
    let runs = tempfile::tempdir().unwrap();
    let folder = runs.path().join("one");
    fs::create_dir(&folder).unwrap();
    let owner = Owner::new(far_host());
    let take = || Lease::take(&folder, &owner, &mut Watch::default(), Instant::now()).unwrap();
    let lease = take();
    let mut files = sender(runs.path());
    let key = files.send(&FileRequest::Status).unwrap();
    assert_eq!(left(runs.path()).len(), 1);
    let late = files.wait(&key, limit(Duration::from_millis(10)));
    assert!(matches!(late, Err(NoAnswer::Withdrawn { .. })), "{late:?}");
    assert_eq!(left(runs.path()), [""; 0]);
    // A command that was taken may take effect later.
    let key = files.send(&FileRequest::Status).unwrap();
    fs::remove_file(inbox(runs.path()).join(&left(runs.path())[0])).unwrap();
    let late = files.wait(&key, limit(Duration::from_millis(10)));
    assert!(matches!(late, Err(NoAnswer::TimedOut { .. })), "{late:?}");
    // The session is over, or another one has the run.
    let key = files.send(&FileRequest::Status).unwrap();
    drop(lease);
    let over = files.wait(&key, None);
    assert!(matches!(over, Err(NoAnswer::Ended { .. })), "{over:?}");
    assert_eq!(left(runs.path()), [""; 0]);
    let _other = take();
    let key = files.send(&FileRequest::Status).unwrap();
    let over = files.wait(&key, None);
    assert!(matches!(over, Err(NoAnswer::Ended { .. })), "{over:?}");
}

#[test]
fn a_session_of_an_older_program_gets_no_files() {
    let runs = tempfile::tempdir().unwrap();
    let folder = runs.path().join("one");
    fs::create_dir(&folder).unwrap();
    fs::write(
        folder.join("lease-ffffffff-1"),
        "owner = \"ffffffff-1\"\nhost = \"gpu-7\"\nprocess = 1\nsince = 1\ncounter = 1\n",
    )
    .unwrap();
    let error = find_one(runs.path(), Some("one"), &HostId::this()).unwrap_err();
    let session = error.unreachable().unwrap();
    assert_eq!(session.holder.host, "gpu-7");
    assert!(CommandFileSender::to(session, &HostId::this()).is_none());
}

#[test]
fn after_any_failure_of_a_file_operation_a_command_took_effect_once_at_most() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::paused(far(runs.path()));
    let files = &mut sender(runs.path());
    let (mut value, mut marker) = (0.0, 0.91);
    let mut answered = 0;
    for crashes in [false, true] {
        for at in 0.. {
            value += 0.01;
            // No change if it were the same each time.
            marker = if marker == 0.91 { 0.92 } else { 0.91 };
            let fault = match crashes {
                true => Fault::CrashAfter { at },
                false => Fault::Error {
                    at,
                    code: libc::EIO,
                },
            };
            let injected = inject(&inbox(runs.path()), Some(fault));
            let sent = files.send(&request(set_dropout(value), false));
            let outcome = sent.map(|key| files.wait(&key, limit(Duration::from_millis(400))));
            let operations = injected.done().len();
            drop(injected);
            answered +=
                usize::from(matches!(&outcome, Ok(Ok(answer)) if answer["applied_at"] == 1));
            // The session works as before, and has carried out everything before this.
            answer(files, &request(set_dropout(marker), false));
            let mut applied = 0;
            loop {
                match front.applied().1 {
                    Value::Float(now) if now == marker => break,
                    Value::Float(now) if now == value => applied += 1,
                    Value::Float(now) => assert!(now < value, "an effect of the past: {now}"),
                    other => panic!("{other:?}"),
                }
            }
            assert!(applied <= 1, "{fault:?}: {applied}");
            if matches!(&outcome, Ok(Ok(answer)) if answer["applied_at"] == 1) {
                assert_eq!(applied, 1, "{fault:?}");
            }
            if matches!(outcome, Ok(Err(NoAnswer::Withdrawn { .. }))) {
                assert_eq!(applied, 0, "{fault:?}");
            }
            if operations <= at {
                break;
            }
        }
    }
    assert!(answered > 5, "{answered}");
    let end = Instant::now() + LIMIT;
    while !left(runs.path()).is_empty() {
        assert!(Instant::now() < end, "{:?}", left(runs.path()));
        std::thread::yield_now();
    }
    front.quit();
}
