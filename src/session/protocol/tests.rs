use super::*;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The lines of a file of messages of version 1. These files never change.
fn frozen(file: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/protocol-1");
    let text = fs::read_to_string(folder.join(file)).unwrap();
    text.split_inclusive('\n').map(str::to_owned).collect()
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
        let fields: Value = serde_json::from_str(&text).unwrap();
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
    let commands = read_and_written::<CommandMessage>("commands.jsonl", "command");
    assert_eq!(commands, variants::<Command>("command"));
    let events = read_and_written::<EventMessage>("events.jsonl", "event");
    assert_eq!(events, variants::<Event>("event"));
    let of = |file: &str, field: &str, tag: &str| -> BTreeSet<String> {
        let lines = frozen(file).into_iter();
        let fields = lines.map(|line| serde_json::from_str::<Value>(&line).unwrap());
        let tags = fields.filter_map(|f| Some(f[field][tag].as_str()?.to_owned()));
        tags.collect()
    };
    let questions = of("commands.jsonl", "question", "question");
    assert_eq!(questions, variants::<Question>("question"));
    let answers = of("events.jsonl", "answer", "answer");
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
