//! Attaching through scripts that stand in for ssh.

use super::*;
use crate::exits::{NO_SESSION, TIMED_OUT};
use crate::session::protocol::CommandMessage;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

const SNAPSHOT: &str = r#"{"v":1,"event":"snapshot","events":[]}"#;

/// A destination whose ssh is a shell that runs `script`. In it, `$1` is `--`, `$2` the host, `$3` the command.
fn through(script: &str) -> Destination {
    let words = ["sh", "-c", script, "ssh"];
    Destination {
        ssh: Some(words.map(str::to_owned).to_vec()),
        host: "gpu-3".into(),
        run: Some("one".into()),
        runs: None,
    }
}

#[test]
fn the_other_shell_gets_each_word_as_it_is_and_no_host_is_an_option() {
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    let program = folder.path().join("cifar-tui");
    std::fs::write(&program, "#!/bin/sh\nprintf '%s\\n' \"$@\" >> seen\n").unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    for (host, run, runs) in [
        ("gpu-3", "one", None),
        ("-oProxyCommand=touch x", "-rf", Some("my runs")),
        (
            "$(touch x)",
            "a'; touch x; '$(touch x)`touch x`",
            Some("~/*"),
        ),
        ("a b", "--json", Some("-x")),
    ] {
        // As ssh does: the host is one word, and a shell gets the command.
        let script = format!(
            r#"cd '{}'; PATH=.:$PATH; printf '%s\n' "$1" "$2" > seen; eval "$3"; exit 1"#,
            folder.path().display()
        );
        let to = Destination {
            host: host.into(),
            run: Some(run.into()),
            runs: runs.map(str::to_owned),
            ..through(&script)
        };
        attach(to, &mut |_| {}).err().unwrap();
        let mut words = vec!["--", host, "attach", "--pipe"];
        words.extend(runs.iter().flat_map(|runs| ["--runs", *runs]));
        words.extend(["--", run]);
        let text = std::fs::read_to_string(&seen).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), words);
    }
    assert!(!folder.path().join("x").exists());
}

#[test]
fn the_command_that_returns_names_the_run_as_the_other_computer_finds_it() {
    let to =
        |host: &str, run: Option<&str>, ssh: Option<&[&str]>, runs: Option<&str>| Destination {
            ssh: ssh.map(|words| words.iter().map(|word| (*word).to_owned()).collect()),
            host: host.into(),
            run: run.map(str::to_owned),
            runs: runs.map(str::to_owned),
        };
    for (to, command) in [
        (to("h", None, None, None), "cifar-tui attach h:two"),
        (
            to("h", Some("one"), None, Some("my runs")),
            "cifar-tui attach --runs 'my runs' h:two",
        ),
        (
            to("h", Some("a/b/one"), None, None),
            "cifar-tui attach h:a/b/two",
        ),
        (
            to("::1", Some("/one"), None, None),
            "cifar-tui attach '[::1]:/two'",
        ),
        (to("-h", None, None, None), "cifar-tui attach -- -h:two"),
        (
            to("h", None, Some(&["ssh", "-i", "a b"]), None),
            r"cifar-tui attach --ssh 'ssh -i '\''a b'\''' h:two",
        ),
    ] {
        assert_eq!(to.attach_command("two"), command);
    }
}

#[test]
fn each_failure_is_said_in_words_with_what_helps() {
    let old = "echo \"error: unexpected argument '--pipe' found\" >&2; exit 2";
    let silent = "echo 'error: the session of one has not answered' >&2; exit 124";
    let gone = "echo banner >&2; echo 'error: no session is running in runs' >&2; exit 5";
    let version = r#"echo '{"v":7,"event":"snapshot","events":[]}'; sleep 99"#;
    let refused = r#"echo '{"v":1,"event":"warning","text":"128 viewers are attached"}'"#;
    let shell = "while :; do echo hello; done";
    for (script, parts, code, lasts) in [
        (
            "echo 'ssh: Could not resolve hostname gpu-3' >&2; exit 255",
            &[
                "Could not resolve hostname gpu-3",
                "`sh -c",
                "-- gpu-3 true` must work first",
            ][..],
            NO_SESSION,
            false,
        ),
        (
            "echo 'Permission denied (publickey).' >&2; exit 255",
            &["Permission denied"],
            NO_SESSION,
            true,
        ),
        ("exit 255", &["gives no reason"], NO_SESSION, false),
        (
            "echo 'sh: cifar-tui: not found' >&2; exit 127",
            &["gpu-3 has no cifar-tui in the PATH", "echo $PATH"],
            NO_SESSION,
            true,
        ),
        (
            old,
            &[
                "is older and has no `attach --pipe`",
                "-t -- gpu-3 'cifar-tui attach one'",
            ],
            NO_SESSION,
            true,
        ),
        (
            gone,
            &["on gpu-3: no session is running in runs"],
            NO_SESSION,
            true,
        ),
        (
            silent,
            &["on gpu-3: the session of one has not answered"],
            TIMED_OUT,
            false,
        ),
        (
            version,
            &["speaks version 7 of the protocol, and this cifar-tui version 1"],
            NO_SESSION,
            true,
        ),
        (
            refused,
            &["takes no viewer: 128 viewers are attached"],
            NO_SESSION,
            false,
        ),
        (
            shell,
            &["other lines than those of a session, such as 'hello'"],
            NO_SESSION,
            true,
        ),
        (
            "kill -9 $$",
            &["'sh' has ended by a signal"],
            NO_SESSION,
            false,
        ),
        (
            "echo why >&2; exit 7",
            &["'sh' has ended with exit code 7. why"],
            NO_SESSION,
            false,
        ),
    ] {
        let error = attach(through(script), &mut |_| {}).err().unwrap();
        let words = error.to_string();
        assert!(
            parts.iter().all(|part| words.contains(part)),
            "{script}: {words}"
        );
        assert_eq!(
            (error.exit_code(), error.is_lasting()),
            (code, lasts),
            "{script}: {words}"
        );
    }
    let nowhere = Destination {
        ssh: Some(vec!["/nowhere/ssh".into()]),
        ..through("")
    };
    let error = attach(nowhere, &mut |_| {}).err().unwrap().to_string();
    assert!(
        error.contains("cannot start '/nowhere/ssh'") && error.contains("--ssh"),
        "{error}"
    );
}

#[test]
fn what_ssh_says_while_it_waits_is_shown_and_foreign_lines_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let touched = folder.path().join("touched");
    let path = touched.display();
    let script = format!(
        "echo Touch the key. >&2; while [ ! -e '{path}' ]; do :; done; echo Welcome; echo '{SNAPSHOT}'; cat"
    );
    let mut said = String::new();
    let mut say = |words: &str| {
        said += words;
        std::fs::write(&touched, "").unwrap();
    };
    let (client, _session) = attach(through(&script), &mut say).unwrap();
    assert_eq!(said, "Touch the key.");
    assert!(client.events.recv().unwrap().event.is_snapshot());
}

/// The next change of the connection.
fn change(client: &SessionClient) -> Option<String> {
    client
        .connection
        .recv_timeout(Duration::from_secs(60))
        .unwrap()
}

fn next(client: &SessionClient) -> Event {
    client
        .events
        .recv_timeout(Duration::from_secs(60))
        .unwrap()
        .event
}

#[test]
fn a_broken_connection_is_taken_up_again_and_no_command_is_sent_late() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    // The first connection breaks at a command, the second attempt fails, the third one holds.
    let script = format!(
        r#"cd '{path}'; echo "$3" >> attempts
        case $(wc -l < attempts) in
        *1) echo '{SNAPSHOT}'; read command; echo 'lost: Broken pipe' >&2; exit 255;;
        *2) while [ ! -e refused ]; do :; done; echo 'No route to host' >&2; exit 255;;
        *) echo '{SNAPSHOT}'; echo; cat > commands;;
        esac"#
    );
    let (client, session) = attach(through(&script), &mut |_| {}).unwrap();
    assert!(next(&client).is_snapshot());
    client.commands.send(Command::Pause).unwrap();
    let why = change(&client).unwrap();
    assert!(
        why.contains("lost: Broken pipe. The next attempt is in 1 s"),
        "{why}"
    );
    match next(&client) {
        Event::Warning { text } => assert!(text.contains("a command was not answered"), "{text}"),
        other => panic!("{other:?}"),
    }
    client.commands.send(Command::Stop).unwrap();
    match next(&client) {
        Event::Done(Done {
            id: 2,
            outcome: Outcome::Refused(why),
        }) => {
            assert_eq!(why, "not connected to gpu-3: it was not sent");
        }
        other => panic!("{other:?}"),
    }
    std::fs::write(folder.path().join("refused"), "").unwrap();
    let mut changes = Vec::new();
    while let Some(why) = change(&client) {
        changes.push(why);
    }
    assert!(changes[0].contains("Connecting again"), "{changes:?}");
    assert!(changes[1].contains("No route to host"), "{changes:?}");
    assert!(changes[1].contains("in 2 s"), "{changes:?}");
    assert!(next(&client).is_snapshot());
    client.commands.send(Command::Resume).unwrap();
    let sent = || std::fs::read(folder.path().join("commands")).unwrap_or_default();
    let end = Instant::now() + Duration::from_secs(60);
    while !sent().ends_with(b"\n") {
        assert!(Instant::now() < end, "the command does not arrive");
        std::thread::yield_now();
    }
    let message: CommandMessage = protocol::read(&sent()).unwrap();
    assert_eq!((message.id, message.command), (3, Command::Resume));
    assert!(session.error().is_none());
}

#[test]
fn a_session_that_is_over_meanwhile_ends_the_client_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        r#"cd '{}'; if [ -e again ]; then echo 'error: the run in runs/one is not running.' >&2; exit 5; fi
        touch again; echo '{SNAPSHOT}'"#,
        folder.path().display()
    );
    let (client, session) = attach(through(&script), &mut |_| {}).unwrap();
    assert!(next(&client).is_snapshot());
    while client.events.recv().is_ok() {}
    let error = session.error().unwrap();
    assert_eq!(
        error.to_string(),
        "on gpu-3: the run in runs/one is not running."
    );
    assert_eq!(error.exit_code(), NO_SESSION);
}

#[test]
fn leaving_ends_the_program_that_connects() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pid");
    let script = format!(
        "echo $$ > '{}'; echo '{SNAPSHOT}'; exec sleep 999",
        path.display()
    );
    let (client, session) = attach(through(&script), &mut |_| {}).unwrap();
    assert!(next(&client).is_snapshot());
    let pid: i32 = std::fs::read_to_string(path)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    drop((client, session));
    let end = Instant::now() + Duration::from_secs(60);
    // SAFETY: signal 0 only asks whether the process exists.
    while unsafe { libc::kill(pid, 0) } == 0 {
        assert!(Instant::now() < end, "it still runs");
        std::thread::yield_now();
    }
}
