//! The house rules that can be read off the sources: which room may import which, and the tables in the README.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod imports;
mod symbols;
mod tables;
