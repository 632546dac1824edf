//! Tests of `send`, `watch` and the protocol, as scripts and other programs use them.

use crate::support::{Done, Place, Running, json, session, write_batches};
use cifar_tui::session::attach::find_one;
use cifar_tui::session::protocol::{EventMessage, MAX_VIEWERS_OF_PROCESS, read};
use cifar_tui::session::run_dir::HostId;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

/// Ends a session by a signal.
fn end(running: Running) {
    running.signal(libc::SIGTERM);
    assert_eq!(running.end(), Some(143));
}

fn send(place: &Place, words: &str) -> Done {
    let words = words.split_whitespace();
    place.run(
        &["send", "--runs", "runs"]
            .into_iter()
            .chain(words)
            .collect::<Vec<_>>(),
    )
}

/// The answer to one command.
#[track_caller]
fn answer(place: &Place, words: &str, code: i32) -> Value {
    let mut lines = send(place, words).exits(code).json();
    assert_eq!(lines.len(), 1, "{words}: {lines:?}");
    lines.remove(0)
}

fn connect(place: &Place) -> UnixStream {
    let session = find_one(&place.path("runs"), None, &HostId::this()).unwrap();
    UnixStream::connect(session.socket).unwrap()
}

/// Reads events up to the next one that `is` says.
#[track_caller]
fn next(running: &mut Running, mut is: impl FnMut(&Value) -> bool) -> Value {
    loop {
        let event: Value = serde_json::from_str(&running.line()).unwrap();
        if is(&event) {
            return event;
        }
    }
}

#[test]
fn a_script_steers_a_session_and_each_answer_is_a_line() {
    let place = Place::with_data();
    let running = session(&place, "one", &[]);
    let paused = answer(&place, "pause --wait", 0);
    assert_eq!(
        (&paused["run"], &paused["command"]),
        (&"one".into(), &"pause".into())
    );
    let next_step = paused["applied_at"].as_u64().unwrap();
    let status = answer(&place, "ask status", 0);
    assert_eq!(status["state"]["is"], "paused");
    assert_eq!(status["step"], next_step - 1);
    assert_eq!(status["params"]["batch_size"], 16);

    let set = answer(&place, "one set learning_rate=0.0005", 0);
    assert_eq!(set["applied_at"], next_step);
    assert_eq!(
        (&set["key"], &set["value"]),
        (&"learning_rate".into(), &0.0005.into())
    );
    let stepped = answer(&place, "step --wait", 0);
    assert_eq!(stepped["applied_at"], next_step);
    let saved = answer(&place, "checkpoint --wait", 0);
    assert_eq!(saved["checkpoint"]["step"], next_step);
    let scored = answer(&place, "evaluate --wait", 0);
    assert_eq!(scored["evaluation"]["step"], next_step);
    assert_eq!(scored["evaluation"]["split"], "validation");
    let evaluation = answer(&place, "ask evaluation", 0);
    let matrix = &evaluation["answer"]["evaluation"]["confusion"];
    assert_eq!(matrix, &scored["evaluation"]["confusion"]);
    let early = answer(&place, "ask evaluation 900", 4);
    let why = early["refused"].as_str().unwrap();
    assert!(why.contains("no checkpoint of the end of"), "{why}");
    let runs = answer(&place, "ask runs", 0);
    assert_eq!(runs["answer"]["items"][0]["name"], "one");
    let tested = answer(&place, "find-lr 40 --wait", 0);
    assert_eq!(
        (&tested["command"], &tested["applied_at"]),
        (&"find-lr".into(), &(next_step + 1).into())
    );
    let test = &tested["rate-test"];
    assert_eq!(
        (&test["step"], &test["steps"]),
        (&next_step.into(), &40.into())
    );
    assert!(test["points"].as_array().unwrap().len() > 10, "{test}");
    assert!(!test["end"].is_null());
    send(&place, "find-lr 5")
        .exits(2)
        .says(&["20 to 10,000 steps, not 5"]);
    answer(&place, "stop-find-lr", 4);
    let browse =
        "{\"question\":\"browse\",\"split\":\"test\",\"class\":3,\"offset\":0,\"count\":2}";
    let pictures = answer(&place, &format!("ask {browse}"), 0);
    assert_eq!(pictures["answer"]["items"][0][1], 3);

    for _ in 0..2 {
        // The second time, it is pending already.
        let waits = answer(&place, "set seed=5", 0);
        assert_eq!(waits["waits_for"], "next-run");
    }
    let pending = &answer(&place, "ask status", 0)["pending"];
    assert_eq!(pending[0]["key"], "seed");
    assert_eq!(pending[0]["waits_for"], "next-run");
    answer(&place, "undo", 0);
    let pending = &answer(&place, "ask status", 0)["pending"];
    assert_eq!(pending.as_array().unwrap().len(), 0);
    answer(&place, "quit --wait", 0);
    assert_eq!(running.end(), Some(0));
}

#[test]
fn waiting_lasts_until_the_change_has_taken_effect_or_cannot() {
    let place = Place::with_data();
    let running = session(&place, "one", &[]);
    let now = answer(&place, "pause", 0)["applied_at"].as_u64().unwrap();
    answer(&place, "step --wait", 0);
    step_into_an_epoch(&place);
    send(&place, "set batch_size=8 --wait --timeout 0.3")
        .exits(124)
        .says(&["has not answered within 0.3 s", "ask status"]);
    let waiting = place.start(&["send", "--runs", "runs", "--wait", "set", "batch_size=8"]);
    let two = place.start(&[
        "send",
        "--runs",
        "runs",
        "--wait",
        "set",
        "crop=2",
        "drop_last=on",
    ]);
    let running = {
        let mut running = running;
        next(&mut running, |e| {
            e["event"] == "pending" && e["change"]["key"] == "drop_last"
        });
        running
    };
    answer(&place, "resume", 0);
    let (code, out) = output(waiting);
    assert_eq!((code, out.len()), (Some(0), 1), "{out:?}");
    assert!(out[0]["applied_at"].as_u64().unwrap() > now, "{out:?}");
    let (code, out) = output(two);
    assert_eq!(code, Some(0));
    assert!(
        out.iter()
            .all(|answer| answer["applied_at"].as_u64().unwrap() > now)
    );
    assert_eq!(
        out.iter().map(|answer| &answer["key"]).collect::<Vec<_>>(),
        ["crop", "drop_last"]
    );

    // A change for the next run waits for it; one that is replaced, or whose run ends, has no effect.
    answer(&place, "pause --wait", 0);
    let replaced = place.start(&["send", "--runs", "runs", "--wait", "set", "seed=7"]);
    let restarted = place.start(&["send", "--runs", "runs", "--wait", "set", "nesterov=on"]);
    let mut running = running;
    for _ in 0..2 {
        next(&mut running, |e| {
            e["event"] == "pending" && e["applies"] == "next-run"
        });
    }
    answer(&place, "set seed=8", 0);
    let (code, out) = output(replaced);
    assert_eq!(code, Some(4));
    assert_eq!(out[0]["refused"], "seed was changed to 8 instead");
    answer(&place, "restart", 0);
    let (code, out) = output(restarted);
    assert_eq!((code, &out[0]["applied_at"]), (Some(0), &1.into()));
    answer(&place, "pause --wait", 0);
    step_into_an_epoch(&place);
    let dropped = place.start(&["send", "--runs", "runs", "--wait", "set", "batch_size=32"]);
    next(&mut running, |e| {
        e["event"] == "pending" && e["change"]["key"] == "batch_size"
    });
    let stopped = answer(&place, "stop --wait", 0);
    assert_eq!(stopped["command"], "stop");
    let (code, out) = output(dropped);
    let why = out[0]["refused"].as_str().unwrap();
    assert!(
        code == Some(4) && why.contains("the run ended before"),
        "{out:?}"
    );
    assert_eq!(running.end(), Some(0));
}

/// Makes steps of a paused run until it is within an epoch, so that a new batch size has to wait for its end.
fn step_into_an_epoch(place: &Place) {
    let epoch_is_over = || {
        let status = answer(place, "ask status", 0);
        let per_epoch = status["steps"]["steps_per_epoch"].as_u64().unwrap();
        status["step"].as_u64().unwrap().is_multiple_of(per_epoch)
    };
    while epoch_is_over() {
        answer(place, "step --wait", 0);
    }
}

/// Waits for the end of a command that prints JSON.
fn output(mut running: Running) -> (Option<i32>, Vec<Value>) {
    let out = running.rest();
    (running.end(), json(&out))
}

#[test]
fn what_is_not_done_has_its_own_exit_code_and_says_what_to_do() {
    let place = Place::with_data();
    send(&place, "pause")
        .exits(5)
        .says(&["no session is running in", "Start one"]);
    let one = session(&place, "one", &[]);
    let refused = answer(&place, "go-back", 4);
    assert!(refused["refused"].as_str().unwrap().len() > 10, "{refused}");
    let refused = answer(
        &place,
        "ask {\"question\":\"delete-run\",\"name\":\"none\"}",
        4,
    );
    assert!(
        refused["refused"].as_str().unwrap().contains("none"),
        "{refused}"
    );
    for (words, says) in [
        ("paus", "did you mean 'pause'"),
        ("frobnicate", "there are: pause, resume"),
        ("one", "there is no command 'one'"),
        ("pause now", "`pause` takes nothing"),
        ("set", "`set` takes KEY=VALUE..."),
        ("set dropout", "is not KEY=VALUE"),
        ("set dropuot=0.3", "did you mean 'dropout'"),
        ("set dropout=2", "0 to 0.95"),
        ("show train", "`validation` or `test`"),
        ("ask why", "`ask` takes `status`"),
        ("ask {}", "not a question"),
        ("watch", "there is no command 'watch'"),
        ("pause --timeout x", "0 to 1000000"),
    ] {
        send(&place, words).exits(2).says(&[says]);
    }
    send(&place, "none pause")
        .exits(5)
        .says(&["no run called 'none'"]);
    let two = session(&place, "two", &[]);
    for args in [&["send", "pause"][..], &["watch"]] {
        let named = [args, &["--runs", "runs"]].concat();
        place
            .run(&named)
            .exits(5)
            .says(&["2 sessions are running", "one", "two"]);
    }
    answer(&place, "two pause --wait", 0);
    end(two);
    one.signal(libc::SIGSTOP);
    one.wait_stopped();
    send(&place, "one ask status --timeout 0.2")
        .exits(124)
        .says(&["has not answered within 0.2 s", "is its process stopped?"]);
    one.signal(libc::SIGCONT);
    end(one);
    send(&place, "one pause")
        .exits(5)
        .says(&["is not running", "--resume runs/one"]);
}

#[test]
fn watch_prints_the_session_so_far_then_its_events_and_ends_as_it_does() {
    let place = Place::with_data();
    let running = session(&place, "one", &[]);
    let mut json = place.start(&["watch", "--json", "--runs", "runs"]);
    let mut text = place.start(&["watch", "one", "--runs", "runs"]);
    let first = json.line();
    let first: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(
        (&first["v"], &first["event"]),
        (&1.into(), &"snapshot".into())
    );
    let events = first["events"].as_array().unwrap();
    assert!(events.iter().any(|event| event["event"] == "epoch"));
    next(&mut json, |event| event["event"] == "steps");
    let epoch = next(&mut json, |event| event["event"] == "epoch");
    assert_eq!(epoch["run"], "one");
    text.wait_for("run      one in ");
    text.wait_for("epoch ");
    answer(&place, "pause --wait", 0);
    text.wait_for("paused ");
    // Nothing happens any more, and the end of the reader is seen all the same.
    let mut head = place.start(&["watch", "--json", "--runs", "runs"]);
    head.line();
    head.close();
    assert_eq!(head.end_with_errors(), (Some(141), String::new()));
    end(running);
    let rest = json.rest();
    let last = rest.lines().last().unwrap();
    assert!(
        rest.lines()
            .all(|line| read::<EventMessage>(line.as_bytes()).is_ok())
    );
    assert!(!rest.contains("\"event\":\"done\""), "{rest}");
    assert!(last.contains("\"event\":\"ended\""), "{last}");
    assert_eq!(json.end(), Some(0));
    text.wait_for("one is saved up to step");
    assert_eq!(text.end(), Some(0));
}

#[test]
fn fifty_senders_at_once_are_each_answered_once_in_order() {
    let place = Place::with_data();
    let running = session(&place, "one", &[]);
    answer(&place, "pause --wait", 0);
    let spawn = |number: usize| -> (usize, Child) {
        let set = format!("dropout=0.{number:02}");
        let mut command = place.command(&["send", "--runs", "runs", "set", &set]);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        (number, child.unwrap())
    };
    let children: Vec<_> = (10..60).map(spawn).collect();
    for (number, child) in children {
        let done = Done::of(child.wait_with_output().unwrap(), &["send"]).exits(0);
        let answers = done.json();
        assert_eq!(answers.len(), 1, "{number}: {answers:?}");
        let value = answers[0]["value"].as_f64().unwrap();
        assert!((value - number as f64 / 100.0).abs() < 1e-9);
        assert!(answers[0]["applied_at"].as_u64().unwrap() > 0);
    }
    end(running);
    let metrics = place.read("runs/one/metrics.jsonl");
    let changes = json(&metrics)
        .into_iter()
        .filter(|event| event["event"] == "applied");
    let changes: Vec<Value> = changes.map(|event| event["change"].clone()).collect();
    assert_eq!(changes.len(), 50);
    // Each change begins where the one before it ended.
    assert!(
        changes
            .windows(2)
            .all(|pair| pair[0]["new"] == pair[1]["old"]),
        "{changes:?}"
    );
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for change in &changes {
        *counts.entry(change["new"].to_string()).or_default() += 1;
    }
    assert!(
        counts.len() == 50 && counts.values().all(|count| *count == 1),
        "{counts:?}"
    );
}

#[test]
fn the_commands_of_a_connection_are_answered_in_order_and_a_watcher_need_not_read() {
    const COMMANDS: u64 = 12_000;
    let place = Place::with_data();
    let mut running = session(&place, "one", &[]);
    let mut slow = place.start(&["watch", "--json", "--runs", "runs"]);
    slow.line();
    let stream = connect(&place);
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let writing = std::thread::spawn(move || {
        let mut out = std::io::BufWriter::new(stream);
        for id in 0..COMMANDS {
            let set = format!(r#""command":"set","key":"crop","value":{}"#, id % 2);
            writeln!(out, r#"{{"v":1,"id":{id},"unknown":[],{set}}}"#).unwrap();
        }
        out.flush().unwrap();
        out
    });
    let done = std::iter::from_fn(|| {
        loop {
            let event: Value = serde_json::from_str(&lines.next()?.unwrap()).unwrap();
            if event["event"] == "done" {
                return Some(event["id"].as_u64().unwrap());
            }
        }
    });
    assert!(done.take(COMMANDS as usize).eq(0..COMMANDS));
    drop(writing.join().unwrap());
    // These are more events than the queues and the buffers hold; training goes on.
    let epoch = next(&mut running, |event| event["event"] == "epoch")["epoch"].as_u64();
    next(&mut running, |event| event["epoch"].as_u64() > epoch);
    answer(&place, "pause --wait", 0);
    let mut skipped = 0;
    let is_paused =
        |event: &Value| (&event["event"], &event["is"]) == (&"state".into(), &"paused".into());
    next(&mut slow, |event| match event["event"] == "snapshot" {
        true => {
            skipped += 1;
            event["events"].as_array().unwrap().iter().any(is_paused)
        }
        false => is_paused(event),
    });
    assert!(skipped > 0, "every event has waited for the watcher");
    end(running);
    assert_eq!(json(&slow.rest()).pop().unwrap()["event"], "ended");
    assert_eq!(slow.end(), Some(0));
}

/// The peak memory of a process in MiB.
#[cfg(target_os = "linux")]
fn peak_memory(running: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.id())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Raises the limit of open files, so that this process can hold a thousand connections.
fn allow_many_files() {
    // SAFETY: plain numbers, for which zero is a value; the pointers are valid during the calls.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = limit.rlim_max.min(4096);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_hostile_client_harms_nobody() {
    let place = Place::with_data();
    let mut running = session(&place, "one", &[]);
    let before = peak_memory(&running);
    allow_many_files();
    let mut check = |what: &str| {
        let status = answer(&place, "ask status", 0);
        assert_ne!(status["state"]["is"], "failed", "{what}");
        answer(&place, "set dropout=0.25", 0);
        answer(&place, "set dropout=0.5", 0);
        let epoch = next(&mut running, |event| event["event"] == "epoch")["epoch"].as_u64();
        next(&mut running, |event| event["epoch"].as_u64() > epoch);
    };
    // Half a message, which stays open.
    let mut half = connect(&place);
    half.write_all(br#"{"v":1,"id":1,"comm"#).unwrap();
    check("half a message");
    // Garbage, and a command with a wrong type.
    for garbage in [
        &b"\0\xff\xfe{[\"\n"[..],
        b"[[[[[[[[\n",
        b"{\"v\":1,\"id\":-1,\"command\":3}\n",
    ] {
        let mut stream = connect(&place);
        stream.write_all(garbage).unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert!(
            heard.contains("this viewer is closed: not a command"),
            "{heard}"
        );
    }
    check("garbage");
    // A line of a gigabyte.
    let mut stream = connect(&place);
    let chunk = vec![b'x'; 1 << 20];
    let sent = (0..1024).take_while(|_| stream.write_all(&chunk).is_ok());
    assert!(sent.count() < 1024, "the session read a gigabyte");
    check("a gigabyte");
    // A thousand connections that read nothing: the first ones are attached, the others are told why not.
    let socket = find_one(&place.path("runs"), None, &HostId::this())
        .unwrap()
        .socket;
    let crowd = (0..1000).map(|_| UnixStream::connect(&socket).unwrap());
    let crowd: Vec<_> = crowd.collect();
    check("a thousand connections");
    let attached = crowd.iter().filter(|stream| {
        let mut line = String::new();
        BufReader::new(*stream).read_line(&mut line).unwrap();
        let refused = line.contains("this process has attached 16 viewers");
        assert_ne!(refused, line.contains("\"event\":\"snapshot\""), "{line}");
        !refused
    });
    assert!(attached.count() <= MAX_VIEWERS_OF_PROCESS);
    drop((half, crowd));
    check("the end of the crowd");
    let after = peak_memory(&running);
    assert!(
        after < before + 64,
        "{before} MiB before, {after} MiB after"
    );
    end(running);
}

#[test]
fn the_example_halves_the_rate_when_validation_stands_still() {
    let place = Place::new();
    // The script starts programs for each epoch, so it needs some time.
    write_batches(&place.path("data"), 400);
    let mut running = session(&place, "one", &["--lr", "1e-12"]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/halve-on-plateau.sh");
    let mut script = Command::new("/bin/sh")
        .args([script, "--runs", "runs"])
        .current_dir(place.path("."))
        .env("CIFAR_TUI", env!("CARGO_BIN_EXE_cifar-tui"))
        .env("PATIENCE", "2")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    for rate in [5e-13, 2.5e-13] {
        let applied = next(&mut running, |event| event["event"] == "applied");
        assert_eq!(applied["change"]["key"], "learning_rate");
        assert_eq!(applied["change"]["new"], rate);
    }
    end(running);
    assert!(script.wait().unwrap().success());
}

#[test]
fn the_protocol_has_a_page() {
    let place = Place::new();
    let page = place.run(&["protocol"]).exits(0).out;
    let help = place.run(&["help", "protocol"]).exits(0).out;
    for text in [&page, &help] {
        assert!(
            text.contains("THE PROTOCOL OF CIFAR-TUI'S SESSIONS, VERSION 1"),
            "{text}"
        );
        assert!(
            text.contains(r#"{"v":1,"id":13,"command":"set","key":"learning_rate","value":0.01}"#)
        );
    }
}
