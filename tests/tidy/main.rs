//! Rules that are checked by reading the sources: allowed imports, unique names of types, symbols, README's tables, and
//! the fuzz targets' lock file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod architecture_rules;
mod fuzz_lock;
mod symbols;
mod tables;
mod type_names;
