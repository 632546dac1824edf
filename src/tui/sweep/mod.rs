//! The screen of a sweep: all trials in a table, their curves over each other, and accuracy against each hyperparameter.
//! It draws reports that come over a channel, and knows neither the runs nor who trains them.

mod app;
mod draw;
mod keys;
#[cfg(test)]
mod tests;

pub use app::SweepApp;
pub use keys::{SWEEP_KEYS, listing};

use super::ScreenOptions;
use super::terminal::{self, FromTerminal};
use crate::domain::sweep::SweepReport;
use crate::domain::terminal::Terminal;
use anyhow::Context as _;
use app::SweepEffect;
use crossbeam_channel::{Receiver, after, never, select};
use crossterm::event::Event as Input;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH};
use std::time::Duration;

/// Minimum time between two frames after a report.
const FRAME_INTERVAL: Duration = Duration::from_millis(200);

/// What the user wants of a trial's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// Pause it, or resume it.
    Pause,
    Stop,
}

/// What the screen is fed with.
pub struct SweepInputs<'a> {
    pub reports: &'a Receiver<SweepReport>,
    /// Results of what the user asked for, and warnings.
    pub notes: &'a Receiver<String>,
    pub signals: &'a Receiver<i32>,
    /// Receives a message when this process trains no more.
    pub over: &'a Receiver<()>,
    /// Asks for a checkpoint of every run under way.
    pub checkpoint: &'a dyn Fn(),
}

/// Why the screen was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SweepScreenEnd {
    /// To show this run on the screen of a session.
    Open(String),
    /// The user wants the sweep to end, or it is over.
    Quit,
    /// The user left; the sweep goes on.
    Detached,
    TerminalGone,
    Signal(i32),
}

/// Shows the sweep until the user leaves. `steer` is called with a run and what to do with it; it must not block. The
/// terminal is restored in every case.
///
/// # Errors
/// Returns an error if the terminal cannot be used.
pub fn run(
    app: &mut SweepApp,
    inputs: &SweepInputs,
    steer: &dyn Fn(&str, Steering),
    options: &ScreenOptions,
) -> anyhow::Result<SweepScreenEnd> {
    let _panics = crate::panics::Held::begin();
    let mut screen =
        terminal::TerminalScreen::enter(false).context("cannot set up the terminal")?;
    let shown = Terminal::of_process();
    app.theme.colors = shown.colors;
    app.theme.symbols = options.symbols.unwrap_or(shown.symbols);
    let end = Loop {
        app,
        screen: &mut screen,
        inputs,
        steer,
        usr1_stops: options.usr1_stops,
    }
    .run();
    match screen.leave() {
        // A terminal that accepts no output must not make the program fail.
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {}
        result => result.context("cannot give the terminal back")?,
    }
    Ok(end)
}

struct Loop<'a> {
    app: &'a mut SweepApp,
    screen: &'a mut terminal::TerminalScreen,
    inputs: &'a SweepInputs<'a>,
    steer: &'a dyn Fn(&str, Steering),
    usr1_stops: bool,
}

impl Loop<'_> {
    fn run(&mut self) -> SweepScreenEnd {
        if let Err(end) = self.resize() {
            return end;
        }
        let input = self.screen.input();
        let SweepInputs {
            reports,
            notes,
            signals,
            over,
            ..
        } = self.inputs;
        let (mut over, nothing) = ((*over).clone(), never());
        let mut reports = (*reports).clone();
        loop {
            if let Err(end) = self.draw() {
                return end;
            }
            let pause = after(FRAME_INTERVAL);
            // Keys are answered at once; reports wait for their frame.
            let mut frame_due = false;
            while !frame_due {
                let reports_now = if self.app.changed { &nothing } else { &reports };
                let mut step = Ok(());
                select! {
                    recv(input) -> input => {
                        step = match input {
                            Ok(FromTerminal::Input(input)) => self.input(&input),
                            Ok(FromTerminal::Gone) | Err(_) => self.gone(),
                        };
                        frame_due = true;
                    }
                    recv(signals) -> signal => if let Ok(signal) = signal {
                        step = self.signalled(signal);
                        frame_due = true;
                    },
                    recv(notes) -> note => if let Ok(note) = note {
                        self.app.note(note);
                        frame_due = true;
                    },
                    recv(over) -> _ => {
                        self.app.trains = false;
                        self.app.changed = true;
                        over = never();
                    }
                    recv(reports_now) -> report => match report {
                        Ok(report) => self.app.report(report),
                        Err(_) => reports = never(),
                    },
                    recv(pause) -> _ => frame_due = true,
                }
                if let Err(end) = step {
                    return end;
                }
            }
        }
    }

    fn draw(&mut self) -> Result<(), SweepScreenEnd> {
        if !self.app.changed || !matches!(self.screen.is_ready(), Ok(true)) {
            return Ok(());
        }
        self.app.changed = false;
        let (app, size) = (&*self.app, self.app.size);
        match self
            .screen
            .draw((size.width, size.height), |buf| app.draw(buf))
        {
            Ok(()) => Ok(()),
            Err(_) => self.gone(),
        }
    }

    /// The terminal has disappeared.
    fn gone(&mut self) -> Result<(), SweepScreenEnd> {
        self.screen.abandon();
        Err(SweepScreenEnd::TerminalGone)
    }

    fn resize(&mut self) -> Result<(), SweepScreenEnd> {
        match self.screen.size() {
            Ok((width, height)) => {
                self.app.resize(width, height);
                Ok(())
            }
            Err(_) => self.gone(),
        }
    }

    fn input(&mut self, input: &Input) -> Result<(), SweepScreenEnd> {
        let effect = match input {
            Input::Key(key) => self.app.key(key),
            Input::Resize(..) => return self.resize(),
            _ => None,
        };
        match effect {
            None => Ok(()),
            Some(SweepEffect::Open(run)) => Err(SweepScreenEnd::Open(run)),
            Some(SweepEffect::Steer(run, what)) => {
                (self.steer)(&run, what);
                Ok(())
            }
            Some(SweepEffect::Redraw) => {
                self.screen.forget();
                Ok(())
            }
            Some(SweepEffect::Suspend) => self.suspend(),
            Some(SweepEffect::Detach) => Err(SweepScreenEnd::Detached),
            Some(SweepEffect::Quit) => Err(SweepScreenEnd::Quit),
        }
    }

    fn signalled(&mut self, signal: i32) -> Result<(), SweepScreenEnd> {
        match signal {
            SIGWINCH => self.resize(),
            SIGHUP => self.gone(),
            SIGTSTP => self.suspend(),
            SIGCONT => self.set_up_again(),
            SIGUSR1 | SIGUSR2 if !self.usr1_stops => {
                (self.inputs.checkpoint)();
                Ok(())
            }
            signal => Err(SweepScreenEnd::Signal(signal)),
        }
    }

    fn suspend(&mut self) -> Result<(), SweepScreenEnd> {
        if self.screen.leave().is_err() {
            return self.gone();
        }
        terminal::stop_process();
        self.set_up_again()
    }

    fn set_up_again(&mut self) -> Result<(), SweepScreenEnd> {
        if self.screen.resume().is_err() {
            return self.gone();
        }
        self.resize()
    }
}
