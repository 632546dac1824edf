//! The subcommands besides training: one file each, run on the calling thread. They write only results to standard
//! output.

pub mod bench;
pub mod config;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod explain;
pub mod find_lr;
mod network;
pub mod peer;
pub mod predict;
pub mod recipes;
pub mod runs;
pub mod send;
pub mod suite;
pub mod sweep;

use crate::domain::text::plain_json;
use std::io::{self, Write};

/// Writes one line of JSON.
fn json(value: &impl serde::Serialize, out: &mut impl Write) -> anyhow::Result<()> {
    let json = serde_json::to_string(value)?;
    writeln!(out, "{}", plain_json(&json))?;
    Ok(())
}

/// Whether `error` means that the reader of standard output has closed it (`| head`), which is not a failure.
pub fn reader_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause
            .downcast_ref::<serde_json::Error>()
            .and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(io::ErrorKind::BrokenPipe)
    })
}
