//! Tests of the binary as a user or a script runs it: exit codes, messages, files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod commands;
mod faults;
mod fork;
mod gpu;
mod hostile;
mod lifecycle;
mod numbers;
mod pipe;
mod resume;
mod scripts;
mod settings;
mod support;
mod sweep;
mod training;
