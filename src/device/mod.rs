//! Choosing where the network runs, and the threads it runs on.

pub mod threads;
