//! Watch and steer a convolutional network while it learns CIFAR-10, in a terminal.
//!
//! # How data flows
//!
//! ```text
//!  keys ──▶ tui ───Command──▶ session's worker thread ──▶ train ──▶ backend: cpu | gpu | candle ──▶ layers, optimizers
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
//! | [`domain`] | plain data and pure functions: hyperparameters, architectures as text, reports, random numbers | nothing, but `domain::arch` walks [`layers::KINDS`] |
//! | [`data`] | readers of data sets; the built-in set; batches | files, panics, hardware, domain |
//! | [`hardware`] | threads, vector instructions, measured peaks; NVIDIA's driver and GPUs, and the executor of lists of kernel launches | files, domain |
//! | [`plot`] | PNG charts and matrices | domain |
//! | [`files`] | opening regular files safely | nothing |
//! | [`panics`] | what is printed of a panic, and when | nothing |
//! | [`layers`] | one folder per kind of layer: its description, CPU and CUDA kernels, and the reference in Candle | hardware, domain |
//! | [`optimizers`] | one file per optimizer: its state, its update on slices and as CUDA source | hardware, domain |
//! | [`backend`] | training and scoring networks: one trait, our kernels on the CPU's threads, our kernels on a GPU, plain Candle, which the others are compared with, and a device that several runs share ([`backend::shared`]) | layers, optimizers, hardware, domain |
//! | [`train`] | the loop, schedule, scoring, checkpoints | backend, data, hardware, files, domain |
//! | [`session`] | the worker thread, its protocol, its viewers (in the process, over a socket, from another computer, or through the files of a run), commands in files, the runs folder | train, backend, data, hardware, plot, files, exits, domain |
//! | [`tui`], [`headless`] | the front ends | session's `protocol`, `client`, `run_view` and `status`, plot, domain; tui: panics |
//! | [`signals`] | the system's signals as messages | nothing |
//! | [`exits`] | the causes of the end of the program, and their exit codes | nothing |
//! | [`config`] | the configuration: config.toml, environment and flags | files, domain |
//! | [`cli`] | the command line | config, session's `protocol`, domain |
//! | [`commands`] | the subcommands besides training | everything but tui |
//!
//! `main.rs` (with `main/`) parses the arguments, starts a front end or a command, connects the channels and determines the exit code.
//!
//! # Invariants
//!
//! - No tensor and no Candle type crosses the protocol; nothing under [`tui`] knows Candle.
//! - The device and every tensor are created, used and dropped on one thread: the worker's, or, if runs share the device,
//!   its own, which makes the runs' calls and never waits for a run without a deadline.
//! - The screen never waits for the worker, and a blocked terminal never slows training: step reports are merged in a
//!   slot, all other events arrive in order, and the queue of a viewer that stops reading is replaced by one snapshot of
//!   the history. A viewer that attaches late begins with the same snapshot.
//! - The screen shows acknowledged values: a change is pending until the worker says at which step it took effect.
//! - Nothing below the front ends prints; logs go to a file in the run's folder.
//! - After a panic, an error, a signal or a normal end, the terminal is restored.
//! - Everything random comes from [`domain::rng`]: a seed fixes the run for any number of threads, and a resumed run
//!   continues bit for bit (CPU).
//! - A checkpoint is one file with a checksum, put in place by one rename; the one before it is kept. Every file operation
//!   of a save goes through [`train::files`], where tests inject failures and crashes.
//! - Two sessions never write the same run, on one computer or on two ([`session::run_dir::lease`]): before each operation
//!   a session checks that the run's lease is still its own. A session never deletes files of a session on another
//!   computer, except that it takes over a lease whose counter has not changed for a minute.
//! - A command from another computer is a file for one session, which removes it before it carries it out: once at most.
//! - Weights that are not finite are never saved.
//! - Nothing above [`backend`] asks which engine it has. A step whose loss or gradient is not finite changes nothing,
//!   and neither do those submitted after it; `stop` abandons a step under way without a trace.
//!
//! # Where to add things
//!
//! | to add | edit |
//! |---|---|
//! | a hyperparameter | its field and row in [`domain::params`], and its use: panel, config, flags, checkpoint, docs follow |
//! | a cause of the end of the program | a row in [`exits::EXITS`]: README and the test of its exit code follow |
//! | a command or an event of the protocol | its variant in [`session::protocol`] and its row in the table beside it: `send`, its help and the protocol's page follow |
//! | any other setting | a row in [`config::OPTIONS`]: config.toml, flag, docs follow |
//! | a screen | its file under [`tui::views`] and a row in VIEWS |
//! | a key | a row in [`tui::actions::ACTIONS`], or [`tui::sweep::SWEEP_KEYS`] for the screen of a sweep: dispatch, footer, help, palette, README follow |
//! | a symbol to draw with | its row in [`domain::symbols::SYMBOLS`] with its replacements |
//! | a kind of terminal | its row in [`domain::terminal::TERMINALS`] |
//! | an architecture | a row of text in [`domain::arch::ARCHS`] |
//! | a recipe | a row in [`domain::recipes::RECIPES`] |
//! | a GPU for `bench --explain` without it | a row in [`domain::gpus::GPUS`] |
//! | a kind of layer | its folder under [`layers`], and its `pub mod` line and row of [`layers::KINDS`]: grammar, shapes, initial weights, every backend follow |
//! | a variant of the GPU's products of matrices | a row in [`layers::conv::variant::VARIANTS`]: tests, tuning, `bench --explain` follow |
//! | a strategy of sweeps | its word in [`domain::sweep::Strategy`] and its rule in `domain/sweep/next.rs` |
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
pub mod panics;
pub mod plot;
pub mod session;
pub mod signals;
pub mod train;
pub mod tui;
