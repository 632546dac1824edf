//! The state of the whole screen: one [`App`], changed only by `update`, which takes a message and returns effects. It
//! uses no terminal and no channel, so that tests drive it with scripted messages.

mod asking;
mod past;
mod rate_test;

use super::actions::{self, Action, Do, Key, ProgramAction, key_of};
use super::frame::{self, FrameLayout};
use super::overlays::{Choice, Overlay};
use super::session_view::{SessionView, Severity, describe};
use super::theme::Theme;
use super::views::{Context, Screen, VIEWS, View, Views};
use crate::domain::params::Value;
use crate::domain::report::{State, StepReport};
use crate::domain::sweep::Plan;
use crate::domain::text::grouped;
use crate::session::client::CommandIds;
use crate::session::protocol::{Command, Event, Question};
use crate::session::status::Status;
use crossterm::event::{
    KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use past::{LookBack, NOW};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};

/// How long a message is shown on the status line, in seconds.
const TOAST_SECONDS: f64 = 5.0;

/// Why a question is asked before a run is ended.
pub(super) const UNSAVED: &str = "Not everything of this run is saved; the banner says why.";

/// The input of [`App::update`].
#[derive(Clone, Debug)]
pub enum Msg {
    Event(Box<Event>),
    Steps(StepReport),
    Key(KeyEvent),
    Mouse(MouseEvent),
    Paste(String),
    Resize(u16, u16),
    /// The time in seconds since the Unix epoch. Sent at the latest at the time that [`App::wake_at`] returns.
    Tick(f64),
    /// Another process or a signal asks the program to end.
    Terminate,
    /// A message for the log and the status line, for example the result of saving a picture.
    Report(Severity, String),
    /// Why the connection to a session on another computer is broken. None: it is there again.
    Connection(Option<String>),
    /// The worker's thread has ended without sending `Event::Ended`.
    WorkerGone,
}

/// The output of [`App::update`]. The app carries out the first group itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Set {
        key: String,
        value: Value,
    },
    Say(Severity, String),
    /// Sets the share of the past that smoothed training curves keep.
    Smooth(f64),
    Go(Screen),
    /// Shows the end of an earlier epoch.
    LookBack(u32),
    Confirm(String, Box<Effect>),
    Quit,
    /// Saves and quits, and begins a sweep.
    Sweep(Box<Plan>),
    /// Tests learning rates and shows the losses.
    TestRates,

    Send(Command),
    /// Sends a question as command number `id`, about the end of `epoch` or about now.
    Ask {
        id: u64,
        question: Question,
        epoch: Option<u32>,
    },
    /// Puts `text` on the clipboard. A [`Msg::Report`] with the result names `what`.
    Copy {
        what: String,
        text: String,
    },
    /// Writes a picture. A [`Msg::Report`] gives the result.
    Save(Box<super::pictures::Request>),
    Mouse(bool),
    Redraw,
    Suspend,
    /// Restores the terminal; the session continues.
    Detach,
    /// Restores the terminal and ends the program.
    Leave,
}

/// How soon a change should be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nothing changed.
    None,
    /// New training steps.
    Steps,
    /// Any other event of the session.
    Event,
    /// Input of the user.
    User,
}

/// A message on the status line.
#[derive(Clone, Debug)]
pub struct Toast {
    pub severity: Severity,
    pub text: String,
    /// Set by the first [`Msg::Tick`] after the message appeared, since the clock does not advance while nothing
    /// happens.
    until: Option<f64>,
}

/// Everything the screen shows.
pub struct App {
    pub session: SessionView,
    /// The session's status, for the code that continues after the screen has closed.
    pub status: Status,
    pub theme: Theme,
    pub screen: Screen,
    pub overlay: Option<Overlay>,
    pub toast: Option<Toast>,
    pub mouse: bool,
    /// The session belongs to another process.
    pub attached: bool,
    /// Whether the worker has been asked to quit.
    pub quitting: bool,
    /// The sweep to begin once the session has ended.
    pub sweep: Option<Plan>,
    /// The most urgent change since the last frame.
    pub changed: Urgency,
    size: Rect,
    views: Views,
    look_back: LookBack,
    ids: CommandIds,
}

impl App {
    /// A new app without any data; `now` as in [`Msg::Tick`], `ids` for its questions.
    pub fn new(theme: Theme, width: u16, height: u16, now: f64, ids: CommandIds) -> Self {
        let mut session = SessionView::default();
        session.now = now;
        App {
            session,
            status: Status::default(),
            theme,
            screen: Screen::Train,
            overlay: None,
            toast: None,
            mouse: true,
            attached: false,
            quitting: false,
            sweep: None,
            changed: Urgency::User,
            size: Rect::new(0, 0, width, height),
            views: Views::default(),
            look_back: LookBack::None,
            ids,
        }
    }

    /// The whole screen.
    pub fn size(&self) -> Rect {
        self.size
    }

    /// The errors shown in the banner, as lines.
    pub fn banner(&self) -> Vec<String> {
        frame::banner(&self.session, self.size)
    }

    /// The layout at the current size.
    pub fn layout(&self) -> FrameLayout {
        FrameLayout::new(self.size, self.banner().len())
    }

    /// The open view.
    pub fn view(&self) -> &dyn View {
        self.views.get(self.screen)
    }

    /// When the next [`Msg::Tick`] is due, if at all.
    pub fn wake_at(&self) -> Option<f64> {
        self.toast
            .as_ref()
            .map(|t| t.until.unwrap_or(self.session.now))
    }

    /// The sweep to begin now that the session has ended, with the session's data.
    pub fn sweep_to_begin(&self) -> Option<Plan> {
        let mut plan = self.sweep.clone().filter(|_| self.session.ended)?;
        let data = self.session.data.as_ref();
        plan.data = data.map(|data| match data.is_sample {
            true => "sample".into(),
            false => data.source.clone(),
        });
        Some(plan)
    }

    /// Draws everything.
    pub fn draw(&self, buf: &mut Buffer) {
        frame::draw(self, buf);
        self.theme.fit(buf);
    }

    /// Processes a message. Returns the effects that the caller has to carry out.
    pub fn update(&mut self, msg: Msg) -> Vec<Effect> {
        let mut effects = Vec::new();
        match msg {
            Msg::Event(event) => self.event(&event, &mut effects),
            Msg::Steps(report) => self.event(&Event::Steps(report), &mut effects),
            Msg::Key(key) if key.kind != KeyEventKind::Release => self.key(key, &mut effects),
            Msg::Key(_) => {}
            Msg::Mouse(mouse) => self.mouse(mouse, &mut effects),
            Msg::Paste(text) => self.paste(&text, &mut effects),
            Msg::Resize(width, height) => {
                self.size = Rect::new(0, 0, width, height);
                self.changes(Urgency::User);
                // A larger view may have to request more data.
                self.with_view(self.screen, &mut effects, |view, ctx| view.shown(ctx));
            }
            Msg::Tick(now) => {
                self.session.now = now;
                let until = |toast: &mut Toast| *toast.until.get_or_insert(now + TOAST_SECONDS);
                if self.toast.as_mut().is_some_and(|t| until(t) <= now) {
                    self.toast = None;
                    self.changes(Urgency::Event);
                }
            }
            Msg::Terminate => effects.push(if self.session.ended || self.attached {
                Effect::Leave
            } else {
                // Do not ask for confirmation, since the process is about to end.
                self.quitting = true;
                Effect::Send(Command::Quit)
            }),
            Msg::Report(severity, text) => {
                self.session.note(severity, text.clone());
                self.say(severity, text);
            }
            Msg::Connection(broken) => self.connection(broken),
            Msg::WorkerGone => effects.push(Effect::Leave),
        }
        self.resolve(effects)
    }

    fn connection(&mut self, broken: Option<String>) {
        if broken.is_none() {
            self.say(Severity::Good, "connected again".into());
        }
        // The session may never have received the command.
        self.quitting &= broken.is_none();
        self.session.disconnected = broken;
        self.changes(Urgency::Event);
    }

    fn changes(&mut self, urgency: Urgency) {
        self.changed = self.changed.max(urgency);
    }

    /// Carries out the effects that belong to the app itself. These may produce further effects.
    fn resolve(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let mut out = Vec::new();
        let mut queue: std::collections::VecDeque<Effect> = effects.into();
        while let Some(effect) = queue.pop_front() {
            match effect {
                Effect::Set { key, value } => {
                    self.session.sent.insert(key.clone(), value.clone());
                    out.push(Effect::Send(Command::Set { key, value }));
                }
                Effect::Say(severity, text) => self.say(severity, text),
                Effect::Smooth(share) => self.session.smoothing = share,
                Effect::Send(Command::Show { split }) => {
                    self.session.shown = split;
                    out.push(Effect::Send(Command::Show { split }));
                    let mut more = Vec::new();
                    self.with_view(self.screen, &mut more, |view, ctx| view.shown(ctx));
                    queue.extend(more);
                }
                Effect::Go(screen) => {
                    self.goes_to(screen);
                    self.screen = screen;
                    let mut more = Vec::new();
                    self.with_view(screen, &mut more, |view, ctx| view.shown(ctx));
                    queue.extend(more);
                }
                Effect::LookBack(epoch) => out.push(self.look_back(epoch)),
                Effect::Confirm(question, yes) => {
                    self.overlay = Some(Overlay::Confirm { question, yes });
                }
                Effect::Sweep(_) if self.attached => self.say(
                    Severity::Warning,
                    "a sweep begins on the session's own screen; `cifar-tui sweep` begins one beside it".into(),
                ),
                Effect::Sweep(plan) => {
                    let mut more = Vec::new();
                    self.quit(&mut more);
                    self.sweep = Some(*plan);
                    queue.extend(more);
                }
                Effect::TestRates => self.test_rates(&mut out),
                Effect::Quit => {
                    if !self.quitting {
                        self.quitting = true;
                        out.push(Effect::Send(Command::SaveAndQuit));
                    }
                }
                other => out.push(other),
            }
        }
        out
    }

    fn say(&mut self, severity: Severity, text: String) {
        self.toast = Some(Toast {
            severity,
            text,
            until: None,
        });
        self.changes(Urgency::Event);
    }

    /// Runs a view's method with its context.
    fn with_view(
        &mut self,
        screen: Screen,
        effects: &mut Vec<Effect>,
        f: impl FnOnce(&mut dyn View, &mut Context),
    ) {
        self.with_views(screen, effects, |views, ctx| f(views.get_mut(screen), ctx));
    }

    /// Runs `f` on the views with the context of one of them.
    fn with_views(
        &mut self,
        screen: Screen,
        effects: &mut Vec<Effect>,
        f: impl FnOnce(&mut Views, &mut Context),
    ) {
        let area = self.layout().body;
        let mut ctx = Context {
            session: self.look_back.session_on(screen, &self.session),
            area,
            visible: screen == self.screen,
            effects,
            ids: &self.ids,
        };
        f(&mut self.views, &mut ctx);
    }

    fn event(&mut self, event: &Event, effects: &mut Vec<Effect>) {
        self.session.event(event);
        self.status.event(event);
        self.look_back_event(event, effects);
        self.rate_test_event(event);
        // Views treat a snapshot like the start of a run, since their earlier answers are outdated.
        let begun = match (event, &self.session.run) {
            (Event::Snapshot { .. }, Some(run)) => Some(Event::Started(run.clone())),
            _ => None,
        };
        let event = begun.as_ref().unwrap_or(event);
        for row in VIEWS {
            self.with_view(row.screen, effects, |view, ctx| view.event(event, ctx));
        }
        match event {
            Event::Refused { error } => self.say(Severity::Warning, error.to_string()),
            Event::Done(done) => {
                if let Some(why) = self.session.refusal(done) {
                    // It may have been the command to end the session.
                    self.quitting = false;
                    self.say(Severity::Warning, why.to_owned());
                }
            }
            Event::Warning { text } => self.say(Severity::Warning, text.clone()),
            Event::Notice { text } => self.say(Severity::Plain, text.clone()),
            Event::Pending { change, applies } => self.say(
                Severity::Plain,
                format!("{} at the {applies}", describe(change)),
            ),
            Event::Applied { change, step, .. } => self.say(
                Severity::Plain,
                format!("{} from step {}", describe(change), grouped(*step)),
            ),
            Event::LayerReset(reset) => self.say(
                Severity::Plain,
                format!("{} from step {}", reset.words(), grouped(reset.step)),
            ),
            Event::Unsaved { why: Some(_) } if self.quitting => {
                self.quitting = false;
                let question = format!("{UNSAVED} Quit all the same?");
                let yes = Box::new(Effect::Send(Command::Quit));
                effects.push(Effect::Confirm(question, yes));
            }
            Event::Ended { state, .. } => {
                match state {
                    State::Failed { why } if !self.quitting => self.say(Severity::Bad, why.clone()),
                    // The change may have been requested by another viewer.
                    _ => effects.push(Effect::Leave),
                }
            }
            _ => {}
        }
        self.changes(match event {
            Event::Steps(_) => Urgency::Steps,
            // Another event shows what the command has changed.
            Event::Done(_) => Urgency::None,
            // Load reports are not worth a frame while nothing is computed.
            Event::Load(_) if !self.session.is_computing() => Urgency::None,
            Event::Load(_) => Urgency::Steps,
            _ => Urgency::Event,
        });
    }

    fn key(&mut self, event: KeyEvent, effects: &mut Vec<Effect>) {
        self.changes(Urgency::User);
        let key = Key::of(&event);
        // These three keys work everywhere, also in dialogs and text fields.
        if key.ctrl && matches!(key.code, KeyCode::Char('c' | 'z' | 'l')) {
            if let Some(action) = actions::find(key, self.screen) {
                self.perform(action, effects);
            }
            return;
        }
        if let Some(overlay) = &mut self.overlay {
            match overlay.key(&event, self.size, self.screen) {
                Choice::Stay => {}
                Choice::Close => self.close_overlay(effects),
                Choice::SetRate => self.set_tested_rate(effects),
                Choice::Do(effect) => {
                    self.overlay = None;
                    effects.push(effect);
                }
                Choice::Perform(action) => {
                    self.overlay = None;
                    self.perform(action, effects);
                }
            }
            return;
        }
        if self.view().editing() {
            if self.past().is_some() {
                self.return_to_now(NOW, effects);
            }
            self.with_view(self.screen, effects, |view, ctx| view.typed(event, ctx));
            return;
        }
        let Some(action) = actions::find(key, self.screen) else {
            return;
        };
        // If there is nothing else to leave, esc leaves the past or removes the message.
        let idle = key.code == KeyCode::Esc && self.enabled(action).is_err();
        if idle && self.past().is_some() {
            effects.push(Effect::Go(Screen::Train));
        } else if !idle || self.toast.take().is_none() {
            self.perform(action, effects);
        }
    }

    /// The reason why an action cannot be used now, if there is one.
    pub fn enabled(&self, action: &Action) -> Result<(), String> {
        (action.enabled)(&self.session)?;
        match action.does {
            Do::Program(_) => Ok(()),
            Do::View(does) => {
                let session = self.session_on(does.screen());
                self.views.enabled(does, session, self.layout().body)
            }
        }
    }

    fn perform(&mut self, action: &'static Action, effects: &mut Vec<Effect>) {
        if action.does.steers() && self.past().is_some() {
            let again = format!("{NOW}; {} again: {}", key_of(action.does), action.name);
            return self.return_to_now(&again, effects);
        }
        if let Err(why) = self.enabled(action) {
            self.say(Severity::Warning, format!("{}: {why}", action.name));
            return;
        }
        match action.does {
            Do::Program(does) => self.program(does, effects),
            Do::View(does) => {
                self.with_views(self.screen, effects, |views, ctx| views.act(does, ctx));
            }
        }
    }

    fn program(&mut self, does: ProgramAction, effects: &mut Vec<Effect>) {
        let send = |effects: &mut Vec<Effect>, command| effects.push(Effect::Send(command));
        match does {
            ProgramAction::Pause if self.session.paused => {
                send(effects, Command::Resume);
            }
            ProgramAction::Pause => send(effects, Command::Pause),
            ProgramAction::Step => send(effects, Command::Step),
            ProgramAction::Evaluate => send(effects, Command::Evaluate),
            ProgramAction::Checkpoint => send(effects, Command::Checkpoint),
            ProgramAction::Undo => send(effects, Command::Undo),
            ProgramAction::Download => send(effects, Command::Download),
            ProgramAction::Stop => effects.push(Effect::Confirm(
                format!(
                    "Stop this run? It is saved; {} starts a new one.",
                    key_of(ProgramAction::Restart)
                ),
                Box::new(Effect::Send(Command::Stop)),
            )),
            ProgramAction::Restart => self.restart(effects),
            ProgramAction::GoBack => self.go_back(effects),
            ProgramAction::Show(screen) => effects.push(Effect::Go(screen)),
            ProgramAction::NextScreen => effects.push(Effect::Go(self.neighbour(1))),
            ProgramAction::PreviousScreen => {
                effects.push(Effect::Go(self.neighbour(VIEWS.len() - 1)));
            }
            ProgramAction::Help => self.overlay = Some(Overlay::help()),
            ProgramAction::Palette => self.overlay = Some(Overlay::palette()),
            ProgramAction::Mouse => {
                self.mouse = !self.mouse;
                effects.push(Effect::Mouse(self.mouse));
                let word = if self.mouse { "on" } else { "off" };
                self.say(Severity::Plain, format!("mouse {word}"));
            }
            ProgramAction::Redraw => effects.push(Effect::Redraw),
            ProgramAction::Suspend => effects.push(Effect::Suspend),
            ProgramAction::Detach => effects.push(Effect::Detach),
            ProgramAction::Quit => self.quit(effects),
        }
    }

    fn neighbour(&self, by: usize) -> Screen {
        VIEWS[(self.screen as usize + by) % VIEWS.len()].screen
    }

    fn mouse(&mut self, mouse: MouseEvent, effects: &mut Vec<Effect>) {
        if !self.mouse || mouse.kind == MouseEventKind::Moved {
            return;
        }
        self.changes(Urgency::User);
        let at = Position::new(mouse.column, mouse.row);
        let pressed = mouse.kind == MouseEventKind::Down(MouseButton::Left);
        if let Some(overlay) = &mut self.overlay {
            match mouse.kind {
                MouseEventKind::ScrollUp => overlay.scroll(-3),
                MouseEventKind::ScrollDown => overlay.scroll(3),
                _ if pressed && !overlay.area(self.size).contains(at) => {
                    self.close_overlay(effects);
                }
                _ => {}
            }
            return;
        }
        let layout = self.layout();
        if pressed && layout.tabs.contains(at) {
            match frame::tab_at(layout.tabs, at.x) {
                Some(frame::Tab::Screen(screen)) => effects.push(Effect::Go(screen)),
                Some(frame::Tab::Help) => self.overlay = Some(Overlay::help()),
                None => {}
            }
            return;
        }
        if layout.body.contains(at) {
            self.with_view(self.screen, effects, |view, ctx| view.mouse(mouse, ctx));
        }
    }

    fn paste(&mut self, text: &str, effects: &mut Vec<Effect>) {
        self.changes(Urgency::User);
        // A line break in pasted text must not act as the enter key.
        let text: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if let Some(overlay) = &mut self.overlay {
            overlay.paste(&text);
        } else if self.view().editing() {
            self.with_view(self.screen, effects, |view, ctx| view.paste(&text, ctx));
        }
    }
}

/// A key press without or with control, for tests and the palette.
pub fn press(code: KeyCode, ctrl: bool) -> KeyEvent {
    KeyEvent::new(
        code,
        if ctrl {
            KeyModifiers::CONTROL
        } else {
            KeyModifiers::NONE
        },
    )
}
