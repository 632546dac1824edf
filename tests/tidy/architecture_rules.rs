//! Checks the layering: every path in `src` from one room into another must be allowed here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The rooms that each room may import besides itself. `session::protocol` allows that module only.
const ALLOWED: &[(&str, &[&str])] = &[
    ("domain", &[]),
    // The grammar of architectures walks the table of kinds of layers.
    ("domain::arch", &["domain", "layers"]),
    ("files", &[]),
    ("panics", &[]),
    ("data", &["files", "panics", "hardware", "domain"]),
    ("hardware", &["files", "domain"]),
    ("plot", &["domain"]),
    ("layers", &["hardware", "domain"]),
    ("optimizers", &["hardware", "domain"]),
    ("backend", &["layers", "optimizers", "hardware", "domain"]),
    ("train", &["backend", "data", "hardware", "files", "domain"]),
    (
        "session",
        &[
            "train", "backend", "data", "hardware", "plot", "files", "exits", "domain",
        ],
    ),
    ("session::protocol", &["domain"]),
    (
        "session::client",
        &["session::protocol", "session::broadcaster", "domain"],
    ),
    (
        "session::broadcaster",
        &["session::protocol", "session::client", "domain"],
    ),
    ("session::status", &["session::protocol", "domain"]),
    ("session::run_view", &["session::protocol", "domain"]),
    ("signals", &[]),
    ("exits", &[]),
    (
        "tui",
        &[
            "panics",
            "session::protocol",
            "session::client",
            "session::run_view",
            "session::status",
            "plot",
            "domain",
        ],
    ),
    (
        "headless",
        &[
            "session::protocol",
            "session::client",
            "session::run_view",
            "session::status",
            "plot",
            "domain",
        ],
    ),
    ("config", &["files", "domain"]),
    ("cli", &["config", "session::protocol", "domain"]),
    (
        "commands",
        &[
            "cli", "config", "headless", "session", "train", "backend", "data", "hardware", "plot",
            "files", "domain",
        ],
    ),
];

/// Crates that only these rooms may use.
const KNOWN_BY: &[(&str, &[&str])] = &[
    ("candle_core", &["layers", "backend"]),
    ("candle_nn", &["layers", "backend"]),
    ("cudarc", &["hardware"]),
    ("libloading", &["hardware"]),
    ("ratatui", &["tui"]),
    ("crossterm", &["tui", "commands"]),
    ("clap", &["cli"]),
    ("plotters", &["plot"]),
    ("ureq", &["data"]),
    ("anyhow", &["commands", "tui"]),
];

/// The crates that the domain may use. Its tests may use others.
const DOMAIN_KNOWS: &[&str] = &["std", "core", "serde", "strsim", "thiserror"];

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Word(String),
    /// `::`
    Colons,
    Mark(char),
}

/// The source without comments, strings, characters and lifetimes.
pub fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = at(i);
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if c == 'r'
            && (at(i + 1) == '"' || (at(i + 1) == '#' && matches!(at(i + 2), '"' | '#')))
        {
            let hashes = (i + 1..).take_while(|j| at(*j) == '#').count();
            i += 2 + hashes;
            while i < chars.len() && !(at(i) == '"' && (1..=hashes).all(|h| at(i + h) == '#')) {
                i += 1;
            }
            i += 1 + hashes;
        } else if c == '"' {
            i += 1;
            while i < chars.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' {
            if at(i + 1) == '\\' {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            } else if at(i + 2) == '\'' {
                i += 3;
            } else {
                i += 1; // A lifetime. Its name becomes a word token, which has no effect.
            }
        } else if c.is_alphabetic() || c == '_' {
            let start = i;
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            out.push(Token::Word(chars[start..i].iter().collect()));
        } else if c == ':' && at(i + 1) == ':' {
            out.push(Token::Colons);
            i += 2;
        } else {
            if !c.is_whitespace() {
                out.push(Token::Mark(c));
            }
            i += 1;
        }
    }
    out
}

/// All paths that begin at token `i`, and the index of the token after them. Groups are expanded: `a::{b, c::d}` is
/// `a::b` and `a::c::d`.
fn paths(tokens: &[Token], mut i: usize, prefix: &[String], out: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(i) {
            Some(Token::Word(word)) => {
                path.push(word.clone());
                i += 1;
            }
            Some(Token::Mark('*')) => {
                path.push("*".into());
                i += 1;
            }
            Some(Token::Mark('{')) => {
                i += 1;
                while !matches!(tokens.get(i), Some(Token::Mark('}')) | None) {
                    i = match tokens.get(i) {
                        Some(Token::Mark(',')) => i + 1,
                        _ => paths(tokens, i, &path, out).max(i + 1),
                    };
                    // `as name` inside a group.
                    if tokens.get(i) == Some(&Token::Word("as".into())) {
                        i += 2;
                    }
                }
                return i + 1;
            }
            _ => break,
        }
        match tokens.get(i) {
            Some(Token::Colons) => i += 1,
            _ => break,
        }
    }
    out.push(path);
    i
}

/// A path from one module of the crate to another, or into another crate.
#[derive(Debug, PartialEq)]
struct Import {
    /// The absolute path within the crate, or the path in another crate.
    to: Vec<String>,
    external: bool,
    in_test: bool,
}

/// Every path in the source file of the module `place`.
fn imports(source: &str, place: &[String]) -> Vec<Import> {
    let tokens = tokens(source);
    let mut out = Vec::new();
    // The open inline modules: their names, and the depth of braces outside them.
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0;
    let mut i = 0;
    while i < tokens.len() {
        let word = match &tokens[i] {
            Token::Word(word) => word.as_str(),
            Token::Mark('{') => {
                depth += 1;
                i += 1;
                continue;
            }
            Token::Mark('}') => {
                depth -= 1;
                if inline.last().is_some_and(|m| m.1 == depth) {
                    inline.pop();
                }
                i += 1;
                continue;
            }
            _ => {
                i += 1;
                continue;
            }
        };
        let next = tokens.get(i + 1);
        let preceded = i > 0 && tokens[i - 1] == Token::Colons;
        if word == "mod"
            && let (Some(Token::Word(name)), Some(Token::Mark('{'))) = (next, tokens.get(i + 2))
        {
            inline.push((name.clone(), depth));
            depth += 1;
            i += 3;
            continue;
        }
        let in_use = word == "use" && !preceded;
        let starts_path = !preceded && next == Some(&Token::Colons);
        if !in_use && !starts_path {
            i += 1;
            continue;
        }
        let mut found = Vec::new();
        let end = paths(&tokens, if in_use { i + 1 } else { i }, &[], &mut found);
        let here: Vec<String> = place
            .iter()
            .cloned()
            .chain(inline.iter().map(|m| m.0.clone()))
            .collect();
        let in_test = inline.iter().any(|m| m.0 == "tests")
            || place.last().is_some_and(|name| name == "tests");
        // `use<'a>` in a type is not an import.
        for path in found.into_iter().filter(|path| !path.is_empty()) {
            let ups = path.iter().take_while(|w| *w == "super").count();
            let first = path.first().map_or("", String::as_str);
            let (to, external) = if first == "crate" {
                (path[1..].to_vec(), false)
            } else if ups > 0 {
                let base = here.len().saturating_sub(ups);
                (
                    here[..base].iter().chain(&path[ups..]).cloned().collect(),
                    false,
                )
            } else if first == "self" {
                (here.iter().chain(&path[1..]).cloned().collect(), false)
            } else {
                (path, true)
            };
            out.push(Import {
                to,
                external,
                in_test,
            });
        }
        i = end.max(i + 1);
    }
    out
}

pub fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, out),
            false if path.extension().is_some_and(|e| e == "rs") => out.push(path),
            false => {}
        }
    }
}

/// `src/tui/views/train.rs` is `tui::views::train`, `src/tui/mod.rs` is `tui`.
fn place(file: &Path, src: &Path) -> Vec<String> {
    let mut parts: Vec<String> = file
        .strip_prefix(src)
        .unwrap()
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if parts.last().is_some_and(|name| name == "mod") {
        parts.pop();
    }
    parts
}

/// Whether a room at `from` may import `to`.
fn allowed(from: &[String], to: &[String], rules: &BTreeMap<&str, &[&str]>) -> bool {
    let own = &from[0];
    // The rule of the innermost module applies: `session::protocol` before `session`.
    let rule = from
        .get(1)
        .and_then(|part| rules.get(format!("{own}::{part}").as_str()))
        .map(|rule| (2, rule))
        .or_else(|| rules.get(own.as_str()).map(|rule| (1, rule)));
    let Some((width, rule)) = rule else {
        return false;
    };
    let begins = |allowed: &str| {
        let parts: Vec<_> = allowed.split("::").collect();
        to.len() >= parts.len() && parts.iter().zip(to).all(|(a, b)| a == b)
    };
    // A module may import its own room, or its own part of it.
    to.len() >= width && to[..width] == from[..width] || rule.iter().any(|a| begins(a))
}

#[test]
fn rooms_import_only_what_the_layering_allows() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let rules: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in files {
        let from = place(&file, &src);
        // The program may know every room.
        if from == ["lib"] || from[0] == "main" {
            continue;
        }
        let source = std::fs::read_to_string(&file).unwrap();
        let shown = file.strip_prefix(&src).unwrap().display();
        if !rules.contains_key(from[0].as_str()) {
            wrong.push(format!(
                "{shown}: the room '{}' has no rule in this test",
                from[0]
            ));
            continue;
        }
        for import in imports(&source, &from) {
            seen += 1;
            let to = import.to.join("::");
            let room = from[0].as_str();
            if !import.external {
                // A path that stops at the crate's root names no room.
                if !import.to.is_empty() && !allowed(&from, &import.to, &rules) {
                    wrong.push(format!("{shown}: '{room}' must not know {to}"));
                }
                continue;
            }
            let name = import.to[0].as_str();
            if let Some((_, by)) = KNOWN_BY.iter().find(|(known, _)| *known == name)
                && !by.contains(&room)
            {
                wrong.push(format!("{shown}: '{room}' must not know {to}"));
            }
            let a_crate = DEPENDENCIES.contains(&name);
            if room == "domain" && a_crate && !import.in_test && !DOMAIN_KNOWS.contains(&name) {
                wrong.push(format!("{shown}: the domain must not know {to}"));
            }
        }
    }
    assert!(
        seen > 200,
        "only {seen} paths were seen: the reader of sources is broken"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The names of other crates in code.
const DEPENDENCIES: &[&str] = &[
    "anyhow",
    "candle_core",
    "candle_nn",
    "clap",
    "crossbeam_channel",
    "crossterm",
    "etcetera",
    "flate2",
    "image",
    "indicatif",
    "libc",
    "nucleo_matcher",
    "parquet",
    "plotters",
    "ratatui",
    "safetensors",
    "serde_json",
    "sha2",
    "signal_hook",
    "strsim",
    "sysinfo",
    "tar",
    "textwrap",
    "tiny_skia",
    "toml_edit",
    "tracing",
    "tracing_subscriber",
    "unicode_width",
    "ureq",
];

#[test]
fn the_reader_of_sources_finds_every_kind_of_path() {
    let place: Vec<String> = ["tui", "views"].map(String::from).to_vec();
    let source = r##"
        use crate::{data, domain::{arch::Arch, report as r}};
        // use crate::net;
        /* use crate::net; /* nested */ use crate::net; */
        const S: &str = "crate::net::Net"; const R: &str = r#"crate::net"#; const C: char = '"';
        fn f<'a>(x: &'a crate::hardware::Threads) { super::super::layers::run(self::own::g()); }
        mod tests { use super::super::super::train; fn h() { candle_core::Tensor::new(); } }
        use super::app::*;
    "##;
    let found: Vec<String> = imports(source, &place)
        .iter()
        .map(|i| format!("{}{}", if i.external { "::" } else { "" }, i.to.join("::")))
        .collect();
    assert_eq!(
        found,
        [
            "data",
            "domain::arch::Arch",
            "domain::report",
            "hardware::Threads",
            "layers::run",
            "tui::views::own::g",
            "train",
            "::candle_core::Tensor::new",
            "tui::app::*"
        ]
    );
    let rules: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let words = |path: &str| path.split("::").map(String::from).collect::<Vec<_>>();
    let may = |from: &str, to: &str| allowed(&words(from), &words(to), &rules);
    assert!(may("tui::app", "session::protocol::Event") && may("tui::app", "tui::theme"));
    assert!(!may("tui::app", "session::worker") && !may("tui::app", "session"));
    assert!(
        !may("session::protocol", "session::worker") && may("session::worker", "session::protocol")
    );
    assert!(!may("domain::arch", "data") && !may("plot", "session::protocol"));
    assert!(may("domain::arch", "layers::KINDS") && !may("domain::params", "layers::KINDS"));
    assert!(!may("session::protocol", "session::*"));
}
