//! The page about the protocol, for people who write programs that speak it. The lists follow the tables, and each
//! example is a recorded message of this version, read and written by the program's own types.

use super::table::{ANSWERS, COMMANDS, EVENTS, MessageRow, QUESTIONS, Until};
use super::{
    CommandMessage, EventMessage, MAX_COMMAND_LINE, MAX_EVENT_LINE, MAX_UNANSWERED, MAX_UNREAD,
    MAX_VIEWERS, MAX_VIEWERS_OF_PROCESS, PIPE_HEARTBEAT, VERSION, line, read,
};
use crate::domain::text::grouped;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Recorded messages of version 1, at least one of each kind.
pub(super) const RECORDED_COMMANDS: &str =
    include_str!("../../../tests/fixtures/protocol-1/commands.jsonl");
pub(super) const RECORDED_EVENTS: &str =
    include_str!("../../../tests/fixtures/protocol-1/events.jsonl");

/// The page.
pub fn page() -> String {
    let mut out = introduction();
    out += "\nCOMMANDS\n";
    for row in COMMANDS {
        let until = match row.until {
            Until::Answered => String::new(),
            until => format!(
                " Its effect is complete when {}.",
                until.describe().unwrap_or_default()
            ),
        };
        let about = format!("{}{until}", row.about);
        entry(&mut out, row.name, &about, &commands("/command", row.name));
    }
    out += "\nQUESTIONS, of the command `ask`\n";
    entries(&mut out, QUESTIONS, |name| {
        commands("/question/question", name)
    });
    out += "\nEVENTS\n";
    entries(&mut out, EVENTS, |name| events("/event", name));
    out += "\nANSWERS, of the event `answer`\n";
    entries(&mut out, ANSWERS, |name| events("/answer/answer", name));
    out
}

fn introduction() -> String {
    format!(
        r#"THE PROTOCOL OF CIFAR-TUI'S SESSIONS, VERSION {VERSION}

`cifar-tui send` and `cifar-tui watch --json` speak it for scripts. A program may also speak it itself.

Where. Every session listens on a Unix socket, which only its user can open. The file `lease-...` in the folder of the
session's run (TOML) has its path as `socket`. `cifar-tui attach --pipe RUN` passes its lines to standard output, and
those of standard input to it, until either ends; `ssh HOST cifar-tui attach --pipe RUN` does so on another computer.
While nothing happens, it writes an empty line every {heartbeat} s.

Files. The session of a run on a shared file system also takes commands from files, which it looks for every second:
`inbox/KEY.OWNER.command` in the run's folder, written under another name and renamed. OWNER is what follows `lease-` in the
name of the lease; the session reads the files in the order of their names. A file has one line, a command; with
`"wait":true` it is answered when its effect is complete, and the question {{"question":"status"}} describes the session. The
session removes the file, and then carries the command out. It writes the answer to `inbox/KEY.answer`, which the sender
removes: the line that `cifar-tui send` prints.

Lines. Each message is one JSON object on one line in UTF-8, which a line feed ends. Lines from the session have up to
{event} bytes, lines to it up to {command}. `v` is the version. `run` names the run that a message is about; a
command without it is for the shown run, and one for another run is refused.

From the session. The first message is a `snapshot`, whose events tell the session so far. All later events follow in
order; reports of training steps are merged. A viewer may read as slowly as it likes: the session does not wait for it,
and from {unread} unread events on, one new `snapshot` replaces them.

To the session. A command has an `id`, a whole number that the sender chooses. It is answered once, with `done` and the
same `id`, and to its sender alone. Commands are carried out and answered in the order in which they arrive, those of
all viewers together; only a command that cannot be read may be refused before earlier ones are answered. Up to
{MAX_UNANSWERED} commands of a viewer wait for their answers; further ones are read after that.

Errors. A command that is unknown, or that lacks a field, is refused. A line without an `id` that is not a command, or one
that is too long, gets a `warning` with the reason, and the session closes this viewer's connection. A session has up to
{MAX_VIEWERS} viewers, and {MAX_VIEWERS_OF_PROCESS} in one process; a further one gets a `warning`, and no snapshot.

Versions. A session refuses commands of another version, and says which one it speaks. The version changes when readers
of the old one could not read the new one. Fields, events, commands and answers may be added without that: skip those
that you do not know. An unknown field of a command has no effect.

In the examples, `...` stands for the rest of a list.
"#,
        event = grouped(MAX_EVENT_LINE),
        command = grouped(MAX_COMMAND_LINE),
        heartbeat = PIPE_HEARTBEAT.as_secs(),
        unread = grouped(MAX_UNREAD as u64),
    )
}

fn entries(out: &mut String, rows: &[MessageRow], examples: impl Fn(&str) -> Vec<String>) {
    for row in rows {
        entry(out, row.name, row.about, &examples(row.name));
    }
}

fn entry(out: &mut String, name: &str, about: &str, examples: &[String]) {
    let options = textwrap::Options::new(118)
        .initial_indent("    ")
        .subsequent_indent("    ");
    // Writing to a string cannot fail.
    let _ = writeln!(out, "  {name}\n{}", textwrap::fill(about, options));
    for example in examples {
        let _ = writeln!(out, "      {example}");
    }
}

fn commands(tag: &str, name: &str) -> Vec<String> {
    examples::<CommandMessage>(RECORDED_COMMANDS, tag, name)
}

fn events(tag: &str, name: &str) -> Vec<String> {
    examples::<EventMessage>(RECORDED_EVENTS, tag, name)
}

/// The recorded messages whose value at the JSON pointer `tag` is `name`, as today's types write them: one for each set
/// of fields.
fn examples<T: Serialize + DeserializeOwned>(recorded: &str, tag: &str, name: &str) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for text in recorded.lines() {
        // A test checks that every recorded message can be read and written.
        let written = read::<T>(text.as_bytes()).ok().and_then(|m| line(&m).ok());
        let Some(written) = written.and_then(|line| String::from_utf8(line).ok()) else {
            continue;
        };
        let Ok(Value::Object(fields)) = serde_json::from_str(&written) else {
            continue;
        };
        let keys: Vec<String> = fields.keys().filter(|k| *k != "run").cloned().collect();
        let fields = Value::Object(fields);
        if fields.pointer(tag).and_then(Value::as_str) == Some(name) && seen.insert(keys) {
            out.push(shortened(written.trim_end()));
        }
    }
    out
}

/// A line of JSON whose lists are cut after the first element.
fn shortened(json: &str) -> String {
    let mut out = String::new();
    // The open brackets, and at which depth the rest of a list is being skipped.
    let (mut open, mut skipped) = (Vec::new(), None);
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = c == '\\' && !escaped;
        } else {
            match c {
                '"' => in_string = true,
                '[' | '{' => open.push(c),
                ']' | '}' => {
                    if skipped == Some(open.len()) {
                        skipped = None;
                    }
                    open.pop();
                }
                ',' if open.last() == Some(&'[') && skipped.is_none() => {
                    skipped = Some(open.len());
                    out.push_str(",...");
                }
                _ => {}
            }
        }
        if skipped.is_none() {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_and_everything_else_stays() {
        for (json, short) in [
            (
                r#"{"a":[1,2,3],"b":"[1,2]"}"#,
                r#"{"a":[1,...],"b":"[1,2]"}"#,
            ),
            (r#"[[1,2],[3]]"#, "[[1,...],...]"),
            (
                r#"{"a":["x\"],","y"],"b":[]}"#,
                r#"{"a":["x\"],",...],"b":[]}"#,
            ),
            (r#"[{"a":1,"b":[{}]},2]"#, r#"[{"a":1,"b":[{}]},...]"#),
        ] {
            assert_eq!(shortened(json), short);
        }
    }
}
