//! A training session: the worker thread, what it is asked and what it tells.

pub mod link;
pub mod protocol;
