//! Checks that every symbol in the sources has a row in SYMBOLS, and thereby a replacement for each terminal.

use cifar_tui::domain::symbols::SYMBOLS;
use std::path::{Path, PathBuf};

/// Rooms whose text reaches a terminal.
const ROOMS: [&str; 6] = ["tui", "domain", "session", "train", "data", "commands"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let files = paths.flat_map(|path| match path.is_dir() {
        true => sources(&path),
        false => vec![path],
    });
    let is_tested = |file: &PathBuf| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name.ends_with(".rs") && !["tests.rs", "stage.rs"].contains(&name)
    };
    files.filter(is_tested).collect()
}

/// The lines of a source file, without comments and without the tests at its end.
fn code(source: &str) -> impl Iterator<Item = &str> {
    let lines = source.lines().take_while(|line| *line != "mod tests {");
    lines.map(|line| match line.find("// ") {
        Some(at) if line[..at].trim_end().len() < at || at == 0 => &line[..at],
        _ if line.trim_start().starts_with("//") => "",
        _ => line,
    })
}

#[test]
fn every_symbol_in_the_sources_has_its_row() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for file in ROOMS.iter().flat_map(|room| sources(&src.join(room))) {
        // The table itself also contains the replacements.
        if file.ends_with("domain/symbols.rs") {
            continue;
        }
        let source = std::fs::read_to_string(&file).unwrap();
        for symbol in code(&source).flat_map(str::chars).filter(|c| !c.is_ascii()) {
            let known = SYMBOLS.iter().any(|row| row.0 == symbol);
            assert!(known, "{}: {symbol} has no row in SYMBOLS", file.display());
            seen += 1;
        }
    }
    assert!(seen > 50, "the sources were not read");
}
