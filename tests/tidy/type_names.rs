//! Checks that public types have distinct names, so that a name identifies the type.

use super::architecture_rules::{Token, sources, tokens};
use std::collections::BTreeMap;
use std::path::Path;

/// Names that several rooms may use, as is usual in Rust.
const SHARED: &[&str] = &["Error", "Result"];

/// The names of the types that a source file declares with any `pub`.
fn public_types(source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let mut out = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let is_pub = tokens[i] == Token::Word("pub".into());
        i += 1;
        if !is_pub {
            continue;
        }
        // `pub(super)` and the like.
        if tokens.get(i) == Some(&Token::Mark('(')) {
            while !matches!(tokens.get(i), Some(Token::Mark(')')) | None) {
                i += 1;
            }
            i += 1;
        }
        if tokens.get(i) == Some(&Token::Word("unsafe".into())) {
            i += 1;
        }
        if let (Some(Token::Word(word)), Some(Token::Word(name))) =
            (tokens.get(i), tokens.get(i + 1))
            && ["struct", "enum", "trait", "union", "type"].contains(&word.as_str())
        {
            out.push(name.clone());
        }
    }
    out
}

#[test]
fn public_types_have_distinct_names() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut declared: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files {
        let source = std::fs::read_to_string(&file).unwrap();
        for name in public_types(&source) {
            let file = file.strip_prefix(&src).unwrap().display().to_string();
            declared.entry(name).or_default().push(file);
        }
    }
    assert!(declared.len() > 200, "only {} types found", declared.len());
    let shared: Vec<_> = declared.iter().filter(|(_, f)| f.len() > 1).collect();
    let new: Vec<_> = shared
        .iter()
        .filter(|(name, _)| !SHARED.contains(&name.as_str()))
        .collect();
    assert!(new.is_empty(), "several public types share a name: {new:?}");
    let stale: Vec<_> = SHARED
        .iter()
        .filter(|name| !shared.iter().any(|(shared, _)| shared == *name))
        .collect();
    assert!(
        stale.is_empty(),
        "no longer shared, remove from SHARED: {stale:?}"
    );
}

#[test]
fn declarations_are_found_in_every_form() {
    let source = "
        pub struct A; pub(super) enum B {} pub(in crate::x) trait C {} pub unsafe trait D {}
        pub type E = u8; struct F; // pub struct G;
        pub fn h() {} pub struct I<'a>(&'a u8);
    ";
    assert_eq!(public_types(source), ["A", "B", "C", "D", "E", "I"]);
}
