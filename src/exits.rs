//! How the program ends: each cause with its exit code, its message and what is left on the disk. README's table is
//! generated from it, and a test covers every row.

/// Exit codes for all causes but signals.
pub const DONE: u8 = 0;
pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const DIVERGED: u8 = 3;
/// `send`: a command was refused or had no effect.
pub const REFUSED: u8 = 4;
/// `send`, `watch`, `attach`: there is no such session.
pub const NO_SESSION: u8 = 5;
/// `send`: no answer in time. The exit code that timeout(1) gives.
pub const TIMED_OUT: u8 = 124;

/// The exit code of a process that ends because of a signal, as shells give it.
pub fn of_signal(signal: i32) -> u8 {
    (128 + signal) as u8
}

/// The effect of a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Code(u8),
    /// [`of_signal`] of the signal that was the cause.
    Signal,
    /// The process continues.
    GoesOn,
}

/// A cause and its effect.
pub struct ExitRow {
    pub cause: &'static str,
    pub ending: Ending,
    pub says: &'static str,
    pub leaves: &'static str,
}

#[rustfmt::skip]
pub static EXITS: &[ExitRow] = &[
    ExitRow { cause: "all epochs are done", ending: Ending::Code(DONE),
        says: "`done`",
        leaves: "everything" },
    ExitRow { cause: "`q` or ctrl-c on the screen", ending: Ending::Code(DONE),
        says: "the run's folder and the command that resumes it",
        leaves: "a checkpoint of the last step" },
    ExitRow { cause: "`D`, or a terminal that disappears, during a run", ending: Ending::GoesOn,
        says: "how to return",
        leaves: "as during training; the process ends, as below, when the run is over and no viewer is attached" },
    ExitRow { cause: "`D`, or a terminal that disappears, while paused", ending: Ending::GoesOn,
        says: "how to return",
        leaves: "as before; the run stays paused until a viewer attaches and resumes it, or a signal ends it" },
    ExitRow { cause: "a terminal that disappears while paused, if no socket could be created", ending: Ending::Signal,
        says: "nothing (`D` only warns that no viewer could attach)",
        leaves: "a checkpoint of the last step" },
    ExitRow { cause: "`D`, or a terminal that disappears, after the end of the run", ending: Ending::Code(DONE),
        says: "the run's folder (diverged: exit code 3)",
        leaves: "everything" },
    ExitRow { cause: "an error, a panic", ending: Ending::Code(FAILED),
        says: "the error, on standard error",
        leaves: "the last checkpoint, if a run had begun" },
    ExitRow { cause: "not everything of the run can be saved at its end", ending: Ending::Code(FAILED),
        says: "what is not saved and why, on standard error; `q` asks first",
        leaves: "everything that was saved before" },
    ExitRow { cause: "a wrong flag or config.toml, no terminal for the screen", ending: Ending::Code(USAGE),
        says: "the error and what is allowed, on standard error",
        leaves: "nothing" },
    ExitRow { cause: "the run has diverged (with a screen: after `q`)", ending: Ending::Code(DIVERGED),
        says: "which value is not finite, and at which step",
        leaves: "the last checkpoint before that step" },
    ExitRow { cause: "`send`: a command is refused or, with `--wait`, has no effect", ending: Ending::Code(REFUSED),
        says: "why, in the answer (accepted and in effect: exit code 0)",
        leaves: "as before; the session goes on" },
    ExitRow { cause: "`send`, `watch`, `attach`: no such session, or several", ending: Ending::Code(NO_SESSION),
        says: "what there is, on standard error",
        leaves: "as before" },
    ExitRow { cause: "`attach HOST:RUN`: no connection to HOST, or no such session there", ending: Ending::Code(NO_SESSION),
        says: "the words of ssh or of cifar-tui on HOST, and what to do",
        leaves: "as before" },
    ExitRow { cause: "`send --timeout`: no answer in time", ending: Ending::Code(TIMED_OUT),
        says: "whether the command may still take effect",
        leaves: "as before; the session goes on" },
    ExitRow { cause: "SIGINT, SIGTERM", ending: Ending::Signal,
        says: "the run's folder and the command that resumes it",
        leaves: "a checkpoint of the last step" },
    ExitRow { cause: "SIGHUP with `on_hangup = \"checkpoint-and-stop\"`", ending: Ending::Signal,
        says: "the same, if the terminal still shows it",
        leaves: "a checkpoint of the last step" },
    ExitRow { cause: "SIGUSR1, SIGUSR2", ending: Ending::GoesOn,
        says: "`writing a checkpoint`",
        leaves: "a checkpoint of that step" },
    ExitRow { cause: "SIGUSR1, SIGUSR2 with `on_usr1 = \"checkpoint-and-stop\"`", ending: Ending::Signal,
        says: "the run's folder and the command that resumes it",
        leaves: "a checkpoint of the last step" },
    ExitRow { cause: "the reader of standard output has gone", ending: Ending::Code(141),
        says: "nothing",
        leaves: "a checkpoint of the last step" },
    ExitRow { cause: "SIGKILL, a crash, a power cut", ending: Ending::Signal,
        says: "nothing",
        leaves: "the last checkpoint, at most 30 s old" },
];

/// The table for README.
pub fn markdown() -> String {
    let mut out = String::from("| cause | exit code | says | on the disk |\n|---|---|---|---|\n");
    for row in EXITS {
        let code = match row.ending {
            Ending::Code(code) => code.to_string(),
            Ending::Signal => "128 + signal".into(),
            Ending::GoesOn => "continues".into(),
        };
        out += &format!(
            "| {} | {code} | {} | {} |\n",
            row.cause, row.says, row.leaves
        );
    }
    out
}
