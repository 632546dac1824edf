use super::page::{RECORDED_COMMANDS, RECORDED_EVENTS};
use super::table::{ANSWERS, COMMANDS, CommandRow, EVENTS, MessageRow, QUESTIONS};
use super::*;
use crate::domain::params::Value as ParamValue;
use serde_json::Value;
use std::collections::BTreeSet;

/// The lines of a file of messages of version 1. These files only gain lines.
fn frozen(file: &str) -> impl Iterator<Item = &str> {
    file.split_inclusive('\n')
}

/// Whether `new` contains all fields of `old`. It may have more.
fn contains(new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => old
            .iter()
            .all(|(key, old)| new.get(key).is_some_and(|new| contains(new, old))),
        (Value::Array(new), Value::Array(old)) => {
            new.len() == old.len() && new.iter().zip(old).all(|(new, old)| contains(new, old))
        }
        _ => new == old,
    }
}

/// Checks that every frozen line can be read, and that writing the result gives at least the same fields. Returns the
/// values of `tag`.
fn read_and_written<T: Serialize + DeserializeOwned>(file: &str, tag: &str) -> BTreeSet<String> {
    let mut tags = BTreeSet::new();
    for text in frozen(file) {
        let message: T = read(text.as_bytes()).unwrap_or_else(|e| panic!("{e}: {text}"));
        let written: Value = serde_json::from_slice(&line(&message).unwrap()).unwrap();
        let fields: Value = serde_json::from_str(text).unwrap();
        assert!(contains(&written, &fields), "{text} became {written}");
        tags.insert(fields[tag].as_str().unwrap().to_owned());
    }
    tags
}

/// The variants that a tag may name, from the reader's error message.
fn variants<T: DeserializeOwned>(tag: &str) -> BTreeSet<String> {
    let error = serde_json::from_str::<T>(&format!("{{\"{tag}\":\"?\"}}")).err();
    let error = error.unwrap().to_string();
    let (_, listed) = error.split_once("expected one of ").unwrap();
    let names = listed.split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

#[test]
fn messages_of_version_1_keep_their_form() {
    assert_eq!(VERSION, 1);
    let commands = read_and_written::<CommandMessage>(RECORDED_COMMANDS, "command");
    assert_eq!(commands, variants::<Command>("command"));
    let events = read_and_written::<EventMessage>(RECORDED_EVENTS, "event");
    assert_eq!(events, variants::<Event>("event"));
    let of = |file: &str, field: &str, tag: &str| -> BTreeSet<String> {
        let fields = frozen(file).map(|line| serde_json::from_str::<Value>(line).unwrap());
        let tags = fields.filter_map(|f| Some(f[field][tag].as_str()?.to_owned()));
        tags.collect()
    };
    let questions = of(RECORDED_COMMANDS, "question", "question");
    assert_eq!(questions, variants::<Question>("question"));
    let answers = of(RECORDED_EVENTS, "answer", "answer");
    assert_eq!(answers, variants::<Answer>("answer"));
}

#[test]
fn a_message_of_another_version_is_an_error_that_names_both() {
    for (text, words) in [
        (r#"{"v":2,"id":9,"command":"later"}"#, "version 2"),
        (r#"{"id":9,"command":"pause"}"#, "no version"),
    ] {
        let error = read::<CommandMessage>(text.as_bytes()).unwrap_err();
        assert_eq!(error.id(), Some(9));
        let error = error.to_string();
        assert!(
            error.contains(words) && error.contains("reads version 1"),
            "{error}"
        );
    }
    let unknown = read::<CommandMessage>(br#"{"v":1,"id":9,"command":"fly"}"#).unwrap_err();
    assert!(matches!(unknown, MessageError::Content { id: Some(9), .. }));
    assert!(matches!(
        read::<EventMessage>(b"[]").unwrap_err(),
        MessageError::Content { id: None, .. }
    ));
}

#[test]
fn a_line_of_the_metrics_has_a_version_only_where_a_session_begins() {
    let notice = Event::Notice { text: "x".into() };
    let started = Event::Started(Box::default());
    let text = |event: &Event| String::from_utf8(recorded_line(event).unwrap()).unwrap();
    assert_eq!(text(&notice), "{\"event\":\"notice\",\"text\":\"x\"}\n");
    assert!(text(&started).starts_with("{\"v\":1,\"event\":\"started\","));
    for event in [notice, started.clone()] {
        assert_eq!(read_recorded(text(&event).as_bytes()).unwrap(), event);
    }
    let newer = text(&started).replacen("\"v\":1", "\"v\":2", 1);
    let error = read_recorded(newer.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("version 2"), "{error}");
    let older = text(&started).replacen("\"v\":1,", "", 1);
    assert_eq!(read_recorded(older.as_bytes()).unwrap(), started);
}

#[test]
fn the_tables_name_every_kind_of_message_once() {
    let names = |rows: &[MessageRow]| rows.iter().map(|row| row.name.to_owned()).collect();
    let lists: [(Vec<String>, BTreeSet<String>); 4] = [
        (
            COMMANDS.iter().map(|row| row.name.to_owned()).collect(),
            variants::<Command>("command"),
        ),
        (names(QUESTIONS), variants::<Question>("question")),
        (names(EVENTS), variants::<Event>("event")),
        (names(ANSWERS), variants::<Answer>("answer")),
    ];
    for (named, variants) in lists {
        assert_eq!(BTreeSet::from_iter(named.clone()), variants);
        assert_eq!(named.len(), variants.len(), "{named:?}");
    }
}

#[test]
fn the_page_has_an_example_of_every_kind_of_message() {
    let page = page();
    let (commands, rest) = page.split_once("\nQUESTIONS").unwrap();
    let (questions, rest) = rest.split_once("\nEVENTS").unwrap();
    let (events, answers) = rest.split_once("\nANSWERS").unwrap();
    let names = |rows: &[MessageRow]| rows.iter().map(|row| row.name).collect();
    let commanded: Vec<&str> = COMMANDS.iter().map(|row| row.name).collect();
    let lists: [(&str, &str, Vec<&str>); 4] = [
        (commands, "command", commanded),
        (questions, "question", names(QUESTIONS)),
        (events, "event", names(EVENTS)),
        (answers, "answer", names(ANSWERS)),
    ];
    for (text, tag, names) in lists {
        for name in names {
            let example = format!("\"{tag}\":\"{name}\"");
            let entry = text.split(&format!("\n  {name}\n")).nth(1).unwrap();
            let lines = entry
                .lines()
                .skip_while(|line| !line.starts_with("      {"));
            let first = lines.take(1).next().unwrap();
            assert!(first.contains(&example), "{name}: {first}");
        }
    }
    // The optional fields are there too.
    for field in [
        "\"applied_at\"",
        "\"waits_for\"",
        "\"average\"",
        "\"tta\"",
        "\"reached\"",
    ] {
        assert!(events.contains(field), "{field}");
    }
    assert!(page.contains("up to 65,536"), "{page}");
}

#[test]
fn every_row_that_can_be_typed_makes_its_command() {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let sample = |row: &CommandRow| match row.name {
        "set" => "set learning_rate=0.5".to_owned(),
        "ask" => "ask runs".into(),
        "compare" => "compare dropout=0.5".into(),
        "show" => "show test".into(),
        "reset-layer" => "reset-layer dense1".into(),
        name => name.into(),
    };
    for row in COMMANDS.iter().filter(|row| row.name != "watch") {
        let (run, request) = parse_words(&words(&sample(row))).unwrap();
        let (named, again) = parse_words(&words(&format!("a-run {}", sample(row)))).unwrap();
        assert_eq!((run, named.as_deref()), (None, Some("a-run")));
        assert_eq!(request, again);
        let TypedRequest::Send { commands, until } = request else {
            panic!("{}", row.name);
        };
        assert_eq!((commands.len(), until), (1, row.until));
        let written = serde_json::to_value(&commands[0]).unwrap();
        assert_eq!(written["command"], row.name);
        let help = format!("\n{}", typed_commands());
        assert!(help.contains(&format!("\n  {} ", row.name)), "{help}");
        assert!(help.lines().all(|line| line.len() <= 78), "{help}");
    }
    for (text, of, at, changes) in [
        ("fork one@5 seed=7", Some("one"), ForkAt::Epoch(5), 1),
        ("fork @best", None, ForkAt::Best, 0),
        ("fork one", Some("one"), ForkAt::Last, 0),
        ("fork seed=7 lr=1", None, ForkAt::Last, 2),
    ] {
        let text = text.replace("lr=", "learning_rate=");
        let (_, request) = parse_words(&words(&text)).unwrap();
        let TypedRequest::Send { commands, .. } = request else {
            panic!("{text}");
        };
        let Command::Fork(fork) = &commands[0] else {
            panic!("{text}");
        };
        assert_eq!((fork.of.as_deref(), fork.at), (of, at), "{text}");
        assert_eq!((fork.changes.len(), fork.paused), (changes, false));
    }
    for (text, question, epoch) in [
        ("ask runs", Question::Runs, None),
        ("ask evaluation", Question::Evaluation, None),
        ("ask evaluation 3", Question::Evaluation, Some(3)),
        (r#"ask {"question":"runs"} 12"#, Question::Runs, Some(12)),
    ] {
        let (_, request) = parse_words(&words(text)).unwrap();
        let commands = vec![Command::Ask { question, epoch }];
        let until = Until::Answered;
        assert_eq!(request, TypedRequest::Send { commands, until });
    }
    for (text, why) in [
        ("fork one@", "is not a state"),
        ("fork a b", "KEY=VALUE"),
        ("ask evaluation x", "'x' is not the number of an epoch"),
        ("ask runs 1 2", "`ask` takes"),
    ] {
        let error = parse_words(&words(text)).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    let (_, request) = parse_words(&words("set learning-rate=1% crop=2")).unwrap();
    let set = |key: &str, value| Command::Set {
        key: key.into(),
        value,
    };
    let commands = vec![
        set("learning_rate", ParamValue::Float(0.01)),
        set("crop", ParamValue::Int(2)),
    ];
    let until = Until::Applied;
    assert_eq!(request, TypedRequest::Send { commands, until });
    assert_eq!(
        parse_words(&words("ask status")).unwrap().1,
        TypedRequest::Status
    );
}

#[test]
fn unknown_fields_have_no_effect() {
    let line =
        br#"{"v":1,"id":9,"later":{"x":[1]},"command":"set","key":"crop","value":3,"why":"?"}"#;
    let message: CommandMessage = read(line).unwrap();
    let set = Command::Set {
        key: "crop".into(),
        value: ParamValue::Int(3),
    };
    assert_eq!(message, CommandMessage::new(9, set));
    let line = br#"{"v":1,"later":1,"event":"notice","text":"x","also":2}"#;
    let message: EventMessage = read(line).unwrap();
    assert_eq!(message.event, Event::Notice { text: "x".into() });
}
