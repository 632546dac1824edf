//! Watch and steer a convolutional network while it learns CIFAR-10, in a terminal.
//!
//! # How data flows
//!
//! ```text
//!  keys ──▶ tui ───Command──▶ session's worker thread ──▶ train ──▶ backend: cpu | gpu ──▶ layers, optimizers
//!   ▲        │   (channels)             │                   ▲
//!   │        ▼                          │                   └── data (images, batches, augmentation)
//!  screen ◀─ App ◀──────Event───────────┘
//! ```
//!
//! [`headless`] is a peer of [`tui`]: the same commands and events, printed instead of drawn.
//!
//! # Rooms
//!
//! Each room may import the rooms in its last column and no others; `tests/tidy` reads the sources and checks it.
//!
//! | room | is for | imports |
//! |---|---|---|
//! | [`domain`] | plain data and pure functions: hyperparameters, architectures as text, reports, random numbers | nothing |
//! | [`data`] | bytes on disk to images; the built-in set; batches | files, hardware, domain |
//! | [`hardware`] | threads, vector instructions, measured peaks; NVIDIA's driver and GPUs, and the executor of lists of kernel launches | domain |
//! | [`plot`] | PNG charts and matrices | domain |
//! | [`files`] | opening regular files that somebody else made | nothing |
//! | [`layers`] | fused layers, forward and back, with their kernels; beside each its reference in plain Candle | hardware, domain |
//! | [`optimizers`] | one file a rule: its state, its step over slices and as CUDA text | domain |
//! | [`backend`] | what trains and scores networks: one trait, our kernels on the CPU's threads, our kernels on a GPU | layers, optimizers, hardware, domain |
//! | [`train`] | the loop, schedule, scoring, checkpoints | backend, data, hardware, files, domain |
//! | [`session`] | the worker thread, its protocol, its viewers (here or over a socket), the runs folder | train, backend, data, hardware, plot, files, domain |
//! | [`tui`], [`headless`] | the front ends | session's `protocol`, `client`, `run_view` and `status`, plot, domain |
//! | [`signals`] | the system's signals as messages | nothing |
//! | [`exits`] | every way in which the program ends, and its exit code | nothing |
//! | [`config`] | config.toml, environment and flags in layers | files, domain |
//! | [`cli`] | the command line | config, domain |
//! | [`commands`] | what the command line does besides training | everything but tui |
//!
//! `main.rs` takes the arguments, starts a front end or a command, wires the channels and makes the exit code.
//!
//! # Invariants
//!
//! - No tensor and no Candle type crosses the protocol; nothing under [`tui`] knows Candle.
//! - The device and every tensor are created, used and dropped on the worker thread.
//! - The screen never waits for the worker, and a terminal that stands still never slows training: step reports go
//!   through a slot that holds the newest aggregate, everything else arrives in order; a viewer that stops reading has
//!   its queue replaced by one snapshot of the history. A viewer that attaches late begins with the same snapshot.
//! - The screen shows acknowledged values: a change is pending until the worker says at which step it took effect.
//! - Nothing below the front ends prints; logs go to a file in the run's folder.
//! - A panic, an error, a signal and a plain quit all leave the terminal as it was found.
//! - Everything random comes from [`domain::rng`]: a seed fixes the run for any number of threads, and a resumed run
//!   continues bit for bit (CPU).
//! - A checkpoint is one file, checksummed, made real by one rename; the one before it is kept. Every file operation of a
//!   save goes through [`train::files`], where tests make it fail or crash.
//! - Two sessions never write one run, on one computer or on two ([`session::run_dir::lease`]): a session asks before each
//!   operation whether the run's lease is still its own. Nobody deletes what a session on another computer made; taking over
//!   a lease that has stood still for a minute is the one exception.
//! - Weights that are not finite are never saved.
//! - Nothing above [`backend`] asks which engine it has. A step that is not finite changes nothing, and neither do those
//!   submitted after it; `stop` abandons a step under way without a trace.
//!
//! # Tables: one row adds one thing
//!
//! | to add | touch |
//! |---|---|
//! | a hyperparameter | its field and row in [`domain::params`], and where it is used: panel, config, flags, checkpoint, docs follow |
//! | a way to end | a row in [`exits::EXITS`]: README and the test that brings it about follow |
//! | a setting that is none | a row in [`config::OPTIONS`]: config.toml, flag, docs follow |
//! | a screen | its file under [`tui::views`] and a row in VIEWS |
//! | a key | a row in [`tui::actions::ACTIONS`]: dispatch, footer, help, palette, README follow |
//! | a symbol to draw with | its row in [`domain::symbols::SYMBOLS`]: what stands for it in blocks and in ASCII |
//! | a kind of terminal | its row in [`domain::terminal::TERMINALS`] |
//! | an architecture | a row of text in [`domain::arch::ARCHS`] |
//! | a kind of layer | its word in [`domain::arch`], its file in [`layers`], its lines in [`backend`]'s `cpu/fuse.rs` and `gpu/schedule` |
//! | an optimizer | its word in [`domain::params::Optimizer`], its file and its row in [`optimizers`]: backends, checkpoint, panel follow |
//! | a data format | its reader in [`data`] and a row in [`data::FORMATS`] |

pub mod backend;
pub mod cli;
pub mod commands;
pub mod config;
pub mod data;
pub mod domain;
pub mod exits;
pub mod files;
pub mod hardware;
pub mod headless;
pub mod layers;
pub mod optimizers;
pub mod plot;
pub mod session;
pub mod signals;
pub mod train;
pub mod tui;
