//! Rules that are checked by reading the sources: allowed imports, unique names of types, symbols, and README's tables.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod architecture_rules;
mod symbols;
mod tables;
mod type_names;
