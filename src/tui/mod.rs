//! The screen: one loop that waits for keys, events of the worker, signals and the clock, and one [`app::App`] that
//! messages change and that is drawn after a change. It knows the protocol and the domain, but no tensor, trainer or
//! file format. It never waits for the worker, and the worker never waits for it.
//!
//! Modules: `actions` every key · `views` one file per screen, and how a view gets keys, state and answers ·
//! `session_view` what is known of the session · `sweep` the screen of a sweep · `frame` header, tabs, footer · `overlays` help, palette, questions ·
//! `widgets` charts and other things to draw · `theme` colours by meaning · `terminal` modes and output.

pub mod actions;
pub mod app;
pub mod frame;
pub mod overlays;
pub mod pictures;
pub mod session_view;
pub mod sweep;
pub mod terminal;
pub mod theme;
pub mod views;
pub mod widgets;

#[cfg(test)]
mod tests;

pub use terminal::usable;

use crate::domain::report::State;
use crate::domain::sweep::Plan;
use crate::domain::symbols::Symbols;
use crate::domain::terminal::Terminal;
use crate::session::client::SessionClient;
use crate::session::protocol::{Command, CommandMessage};
use crate::session::status::Status;
use anyhow::Context as _;
use app::{App, Effect, Msg, Urgency};
use crossbeam_channel::{Receiver, Sender, after, never, select, unbounded};
use crossterm::event::Event as Input;
use session_view::Severity;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH};
use std::time::{Duration, Instant, SystemTime};
use terminal::{FromTerminal, clipboard};
use theme::Theme;

/// Options of the screen.
#[derive(Clone, Debug)]
pub struct ScreenOptions {
    /// None: detected from the environment.
    pub symbols: Option<Symbols>,
    /// Whether mouse events are handled.
    pub mouse: bool,
    /// The session belongs to another process: leaving the screen does not end it.
    pub attached: bool,
    /// The session is on another computer, and so are its files: pictures are saved in the current folder.
    pub remote: bool,
    /// SIGUSR1 and SIGUSR2 end the session; otherwise they request a checkpoint.
    pub usr1_stops: bool,
}

impl Default for ScreenOptions {
    fn default() -> Self {
        ScreenOptions {
            symbols: None,
            mouse: true,
            attached: false,
            remote: false,
            usr1_stops: false,
        }
    }
}

/// Why the screen was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The session has ended.
    SessionEnded,
    /// The user detached: the session goes on.
    Detached,
    /// The terminal has disappeared: the session goes on.
    TerminalGone,
}

/// The result of [`run`].
#[derive(Clone, Debug)]
pub struct ScreenOutcome {
    pub reason: CloseReason,
    /// The last known status of the session. If the reason is [`CloseReason::SessionEnded`] and the status has not
    /// ended, the worker's thread has panicked.
    pub status: Status,
    /// The signal that closed the screen, if any.
    pub signal: Option<i32>,
    /// The sweep that the user wants to begin, once the session has ended.
    pub sweep: Option<Plan>,
}

/// Minimum time between two frames, by the most urgent change. Training steps alone are drawn five times a second,
/// which is readable and sends little data over ssh.
fn interval(urgency: Urgency) -> Duration {
    Duration::from_millis(match urgency {
        Urgency::User => 16,
        Urgency::Event => 66,
        Urgency::Steps | Urgency::None => 200,
    })
}

/// Runs the screen until the user quits or detaches, the worker ends, the terminal disappears, or one of `signals`
/// (those the process receives) asks for it. The terminal is restored in every case, also after a panic.
///
/// # Errors
/// Returns an error if the terminal cannot be used.
pub fn run(
    client: &SessionClient,
    signals: &Receiver<i32>,
    options: &ScreenOptions,
) -> anyhow::Result<ScreenOutcome> {
    let shown = Terminal::of_process();
    let theme = Theme {
        colors: shown.colors,
        symbols: options.symbols.unwrap_or(shown.symbols),
    };
    // Declared before the screen, so that it is dropped after it.
    let _panics = crate::panics::Held::begin();
    let screen =
        terminal::TerminalScreen::enter(options.mouse).context("cannot set up the terminal")?;
    let (width, height) = screen.size().context("cannot read the terminal's size")?;
    let mut app = App::new(
        theme,
        width,
        height,
        unix_time(),
        client.commands.ids().clone(),
    );
    app.mouse = options.mouse;
    app.attached = options.attached;
    app.session.local_time = terminal::local_time;
    let input = screen.input();
    let mut ui = Loop {
        client,
        app,
        screen,
        input,
        said: unbounded(),
        signals,
        connection: client.connection.clone(),
        remote: options.remote,
        usr1_stops: options.usr1_stops,
        drawn: None,
        signal: None,
        reason: CloseReason::SessionEnded,
    };
    ui.run();
    let Loop {
        app,
        mut screen,
        signal,
        reason,
        ..
    } = ui;
    match screen.leave() {
        // A terminal that accepts no output must not make the program fail.
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {}
        result => result.context("cannot give the terminal back")?,
    }
    Ok(ScreenOutcome {
        reason,
        sweep: app.sweep_to_begin(),
        status: app.status,
        signal,
    })
}

fn unix_time() -> f64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}

struct Loop<'a> {
    client: &'a SessionClient,
    app: App,
    screen: terminal::TerminalScreen,
    input: Receiver<FromTerminal>,
    /// The channel of results of threads that save pictures or copy text.
    said: (Sender<Msg>, Receiver<Msg>),
    signals: &'a Receiver<i32>,
    /// Whether there is a connection to a session on another computer.
    connection: Receiver<Option<String>>,
    remote: bool,
    usr1_stops: bool,
    /// Time of the last frame.
    drawn: Option<Instant>,
    signal: Option<i32>,
    /// Why the screen closes, once it does.
    reason: CloseReason,
}

impl Loop<'_> {
    fn run(&mut self) {
        let nothing = never();
        if self.draw() {
            return;
        }
        loop {
            let due = self.due();
            let timer = match due {
                Some(at) => after(at),
                None => never(),
            };
            // Thousands of step reports arrive per second; take them only when a frame is due.
            let fresh =
                self.app.changed < Urgency::Steps && self.frame_in(Urgency::Steps).is_zero();
            let steps_ready = if fresh {
                &self.client.steps_ready
            } else {
                &nothing
            };
            let mut leave = false;
            select! {
                recv(self.input) -> input => match input {
                    Ok(FromTerminal::Input(input)) => leave |= self.input(input),
                    Ok(FromTerminal::Gone) | Err(_) => {
                        self.input = never();
                        leave = self.hangup();
                    }
                },
                recv(self.client.events) -> message => match message {
                    Ok(message) => leave |= self.update(Msg::Event(Box::new(message.event))),
                    Err(_) => {
                        self.update(Msg::WorkerGone);
                        return;
                    }
                },
                recv(steps_ready) -> token => if token.is_ok()
                    && let Some(report) = self.client.take_steps() {
                    leave |= self.update(Msg::Steps(report));
                },
                recv(self.signals) -> signal => if let Ok(signal) = signal {
                    leave |= self.signalled(signal);
                },
                recv(self.connection) -> broken => match broken {
                    Ok(broken) => leave |= self.update(Msg::Connection(broken)),
                    // The end of the events says that the session is over.
                    Err(_) => self.connection = never(),
                },
                recv(self.said.1) -> said => if let Ok(said) = said {
                    leave |= self.update(said);
                },
                recv(timer) -> _ => {}
            }
            // All other waiting events go into the same frame.
            while let Ok(FromTerminal::Input(input)) = self.input.try_recv() {
                leave |= self.input(input);
            }
            while let Ok(message) = self.client.events.try_recv() {
                leave |= self.update(Msg::Event(Box::new(message.event)));
            }
            leave |= self.update(Msg::Tick(unix_time()));
            if leave {
                return;
            }
            let due = self.app.changed > Urgency::None && self.frame_in(self.app.changed).is_zero();
            let leave = match self.screen.is_ready() {
                Ok(true) if due => {
                    // Waiting step reports go into the same frame; a stream of other events would otherwise delay them
                    // for ever.
                    let steps = self.client.take_steps();
                    steps.is_some_and(|report| self.update(Msg::Steps(report))) || self.draw()
                }
                Ok(_) => false,
                Err(error) => self.gone(&error),
            };
            if leave {
                return;
            }
        }
    }

    /// Time until a frame of this urgency may be drawn.
    fn frame_in(&self, urgency: Urgency) -> Duration {
        self.drawn.map_or(Duration::ZERO, |at| {
            interval(urgency).saturating_sub(at.elapsed())
        })
    }

    /// Time until something is due.
    fn due(&self) -> Option<Duration> {
        if let Some(stalled) = self.screen.stalled() {
            // Nothing signals that the terminal accepts more output; poll it, and less often if it has blocked for
            // long.
            let soon = stalled < Duration::from_millis(200);
            return Some(Duration::from_millis(if soon { 5 } else { 50 }));
        }
        let frame = match self.app.changed {
            // Step reports are taken when their frame is due.
            Urgency::None => Some(self.frame_in(Urgency::Steps)).filter(|d| !d.is_zero()),
            changed => Some(self.frame_in(changed)),
        };
        let clock = self
            .app
            .wake_at()
            .map(|at| Duration::from_secs_f64((at - unix_time()).clamp(0.0, 3600.0)));
        frame.into_iter().chain(clock).min()
    }

    /// Returns true if the terminal has disappeared.
    fn draw(&mut self) -> bool {
        self.app.changed = Urgency::None;
        self.drawn = Some(Instant::now());
        let size = self.app.size();
        let app = &self.app;
        let drawn = self
            .screen
            .draw((size.width, size.height), |buf| app.draw(buf));
        self.is_gone(drawn)
    }

    fn input(&mut self, input: Input) -> bool {
        match input {
            Input::Key(key) => self.update(Msg::Key(key)),
            Input::Mouse(mouse) => self.update(Msg::Mouse(mouse)),
            Input::Paste(text) => self.update(Msg::Paste(text)),
            Input::Resize(..) => self.resized(),
            Input::FocusGained | Input::FocusLost => false,
        }
    }

    fn resized(&mut self) -> bool {
        match self.screen.size() {
            Ok((width, height)) => self.update(Msg::Resize(width, height)),
            Err(error) => self.gone(&error),
        }
    }

    /// Called when the terminal has disappeared.
    fn hangup(&mut self) -> bool {
        self.reason = CloseReason::TerminalGone;
        self.screen.abandon();
        true
    }

    /// Any error of the terminal means that it has disappeared. This may be detected here before the signal or the
    /// thread that reads keys reports it.
    fn gone(&mut self, error: &std::io::Error) -> bool {
        tracing::warn!("the terminal refuses: {error}");
        self.hangup()
    }

    fn is_gone(&mut self, done: std::io::Result<()>) -> bool {
        done.is_err_and(|error| self.gone(&error))
    }

    fn signalled(&mut self, signal: i32) -> bool {
        match signal {
            SIGWINCH => self.resized(),
            SIGHUP => self.hangup(),
            SIGTSTP => self.suspend(),
            SIGUSR1 | SIGUSR2 if !self.usr1_stops => {
                self.send(Command::Checkpoint);
                false
            }
            SIGTERM | SIGINT | SIGUSR1 | SIGUSR2 => {
                self.signal.get_or_insert(signal);
                self.update(Msg::Terminate)
            }
            // The shell may have set its own modes meanwhile.
            SIGCONT => self.set_up_again(),
            _ => false,
        }
    }

    fn suspend(&mut self) -> bool {
        let left = self.screen.leave();
        if self.is_gone(left) {
            return true;
        }
        terminal::stop_process();
        // The process runs again. Ignore its own SIGTSTP, which is still in the channel, and handle all other signals.
        let mut leave = self.set_up_again();
        let soon = Duration::from_millis(50);
        while let Ok(signal) = self.signals.recv_timeout(soon) {
            if ![SIGTSTP, SIGCONT].contains(&signal) {
                leave |= self.signalled(signal);
            }
        }
        leave
    }

    /// Sets up the terminal again, which another program may have used in between.
    fn set_up_again(&mut self) -> bool {
        let resumed = self.screen.resume();
        self.app.changed = Urgency::User;
        self.is_gone(resumed) || self.resized()
    }

    /// Returns true if the screen has to close.
    fn update(&mut self, msg: Msg) -> bool {
        let mut leave = false;
        for effect in self.app.update(msg) {
            match effect {
                Effect::Send(command) => self.send(command),
                Effect::Ask {
                    id,
                    question,
                    epoch,
                } => {
                    let ask = Command::Ask { question, epoch };
                    self.send_message(CommandMessage::new(id, ask));
                }
                Effect::Copy { what, text } => leave |= self.copy(&what, text),
                Effect::Mouse(on) => {
                    let set = self.screen.set_mouse(on);
                    leave |= self.is_gone(set);
                }
                Effect::Save(request) => self.save(*request),
                Effect::Redraw => self.screen.forget(),
                Effect::Suspend => leave |= self.suspend(),
                Effect::Leave => leave = true,
                Effect::Detach if self.is_paused_unreachable() => {
                    let words = "paused, and nobody could return: the session has no socket; go on first, or quit";
                    leave |= self.update(Msg::Report(Severity::Warning, words.into()));
                }
                Effect::Detach => {
                    self.reason = CloseReason::Detached;
                    leave = true;
                }
                other => tracing::warn!("effect {other:?} reached the loop"),
            }
        }
        leave
    }

    /// Whether the session, if it went on without this screen, would wait for a viewer that cannot attach.
    fn is_paused_unreachable(&self) -> bool {
        let paused = self.app.status.state == State::Paused;
        paused && !self.app.attached && self.client.is_unreachable()
    }

    /// Copies text to the clipboard. Reports success only if it is known.
    fn copy(&mut self, what: &str, text: String) -> bool {
        let sent = self.screen.copy(&text);
        if self.is_gone(sent) {
            return true;
        }
        if !clipboard::inside_tmux() {
            // A terminal does not report whether it accepted the text.
            let words = format!("sent to the terminal's clipboard: {what}");
            return self.update(Msg::Report(Severity::Plain, words));
        }
        let what = what.to_owned();
        self.spawn("clipboard", move || {
            match clipboard::load_into_tmux(&text) {
                Ok(()) => Msg::Report(Severity::Plain, format!("in tmux's buffer: {what}")),
                Err(why) => Msg::Report(Severity::Warning, format!("not in tmux's buffer: {why}")),
            }
        });
        false
    }

    /// Saves a picture on its own thread: drawing takes a tenth of a second, and writing may take longer.
    fn save(&self, mut request: pictures::Request) {
        if self.remote {
            request.set_folder(String::new());
        }
        self.spawn("picture", move || match request.write() {
            Ok(path) => Msg::Report(Severity::Plain, format!("saved {path}")),
            Err(why) => Msg::Report(Severity::Warning, format!("not saved: {why:#}")),
        });
    }

    /// Runs `work`, which may take long, on its own thread, and passes its result to the app.
    fn spawn(&self, name: &str, work: impl FnOnce() -> Msg + Send + 'static) {
        let back = self.said.0.clone();
        let work = move || {
            // Sending fails if the loop has ended.
            let _ = back.send(work());
        };
        if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(work) {
            let words = format!("no thread for the {name}: {error}");
            let _ = self.said.0.send(Msg::Report(Severity::Warning, words));
        }
    }

    fn send(&self, command: Command) {
        self.send_message(CommandMessage::new(
            self.client.commands.ids().next(),
            command,
        ));
    }

    fn send_message(&self, message: CommandMessage) {
        if self.client.commands.send_message(message).is_err() {
            // The session's events end as well, which ends the loop.
            tracing::warn!("the worker has gone");
        }
    }
}
