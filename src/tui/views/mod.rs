//! The screens: one file and one row in VIEWS each.
//!
//! A view keeps its own state (cursor, scroll position, filter, answers) and draws from `&self` and the
//! [`SessionView`]. It changes in four ways, each with a [`Context`] for its effects:
//!
//! - `act`: one of its actions, from a row in ACTIONS; `enabled` returns why an action is unavailable. Each view has an
//!   enum of its actions, so that both are exhaustive ([`Views`] dispatches to them);
//! - [`View::typed`] and [`View::paste`]: raw keys, only while [`View::editing`] returns true because a text field is
//!   open;
//! - [`View::mouse`]: with the area in which it is drawn;
//! - [`View::event`]: every event of the worker, also while another screen is open, after [`SessionView`] has processed
//!   it. Answers arrive here: `ctx.ask(question)` returns the id of the `Event::Answer`. Ask again after each
//!   `Event::Evaluation` if `ctx.visible`, and in [`View::shown`].
//!
//! Drawing is a pure function of the state. The layout depends on the area alone, so that the mouse finds the same
//! rectangles. Views must draw at any size, 1x1 included; ratatui's `Buffer` panics outside its area, so use `text` of
//! [`crate::tui::widgets`] and intersected areas.

#[cfg(test)]
pub(super) mod app_harness;
pub mod confusion;
pub mod data;
mod image_grid;
pub mod model;
mod query;
pub mod runs;
pub mod samples;
#[cfg(test)]
mod tests;
pub mod train;

use super::actions::Do;
use super::app::{Effect, UNSAVED};
use super::frame;
use super::pictures::Request;
use super::session_view::{SessionView, Severity};
use super::theme::Theme;
use crate::domain::fork::ForkAt;
use crate::domain::params::Value;
use crate::domain::sweep::Plan;
use crate::session::client::CommandIds;
use crate::session::protocol::{Command, Event, ForkRequest, Question};
use crossterm::event::{KeyEvent, MouseEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// A row of the table.
pub struct ViewRow {
    pub screen: Screen,
    pub title: &'static str,
    /// One sentence for the help screen.
    pub help: &'static str,
}

/// The table of screens: `NAME: module, view, type of its actions, sentence for the help`, in the order of the tabs.
/// Generates [`Screen`], [`VIEWS`], [`ViewAction`] and [`Views`].
macro_rules! views {
    ($($name:ident: $module:ident, $view:ident, $action:ident, $help:literal;)*) => {
        /// The screens, in the order of their tabs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Screen {
            $($name,)*
        }

        /// Every screen; `VIEWS[s as usize].screen == s`.
        pub static VIEWS: &[ViewRow] = &[
            $(ViewRow { screen: Screen::$name, title: stringify!($name), help: $help },)*
        ];

        /// An action of a view, for a row in ACTIONS.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ViewAction {
            $($name($module::$action),)*
        }

        impl ViewAction {
            /// The screen of this action.
            pub const fn screen(self) -> Screen {
                match self {
                    $(ViewAction::$name(_) => Screen::$name,)*
                }
            }
        }

        $(
            impl From<$module::$action> for Do {
                fn from(action: $module::$action) -> Self {
                    Do::View(ViewAction::$name(action))
                }
            }
        )*

        /// All views with their state.
        #[derive(Default)]
        pub struct Views {
            $($module: $module::$view,)*
        }

        impl Views {
            pub fn get(&self, screen: Screen) -> &dyn View {
                match screen {
                    $(Screen::$name => &self.$module,)*
                }
            }

            pub fn get_mut(&mut self, screen: Screen) -> &mut dyn View {
                match screen {
                    $(Screen::$name => &mut self.$module,)*
                }
            }

            /// Passes an action to its view.
            pub fn act(&mut self, does: ViewAction, ctx: &mut Context) {
                match does {
                    $(ViewAction::$name(does) => self.$module.act(does, ctx),)*
                }
            }

            /// Returns the reason if an action is unavailable because of its view's state or area.
            pub fn enabled(
                &self,
                does: ViewAction,
                session: &SessionView,
                area: Rect,
            ) -> Result<(), String> {
                match does {
                    $(ViewAction::$name(does) => self.$module.enabled(does, session, area),)*
                }
            }
        }
    };
}

views! {
    Train: train, TrainView, TrainAction,
        "Loss and accuracy as the network learns, and the hyperparameters that steer it.";
    Confusion: confusion, ConfusionView, ConfusionAction,
        "The confusion matrix: rows are true classes, columns predicted ones.";
    Samples: samples, SamplesView, SamplesAction,
        "Held-out images with their predictions and confidences.";
    Model: model, ModelView, ModelAction,
        "The architecture as text to edit, its layers and their cost, and a look inside the running network.";
    Runs: runs, RunsView, RunsAction,
        "Every run in the runs folder; the curves of marked runs are drawn together.";
    Data: data, DataView, DataAction,
        "The data set and its source, the images, and augmented variants of them.";
}

impl Views {
    /// Whether the cursor of Train's curves is shown.
    pub fn reads_curves(&self) -> bool {
        self.train.has_cursor()
    }
}

impl Screen {
    /// Its row in VIEWS.
    pub fn row(self) -> &'static ViewRow {
        &VIEWS[self as usize]
    }

    /// The tab's word.
    pub fn title(self) -> &'static str {
        self.row().title
    }
}

/// The effects of a view: commands, questions, messages on the status line, another screen.
pub struct Context<'a> {
    /// The state of the session, computed from its events; or as it was, while the view shows the past.
    pub session: &'a SessionView,
    /// The area in which the view is drawn.
    pub area: Rect,
    /// Whether the view is open.
    pub visible: bool,
    pub(super) effects: &'a mut Vec<Effect>,
    pub(super) ids: &'a CommandIds,
}

impl Context<'_> {
    /// Sends a command to the worker.
    pub fn send(&mut self, command: Command) {
        self.effects.push(Effect::Send(command));
    }

    /// Sends a question to the worker, about the time that is shown. The answer arrives as an event with the returned id. Keep only the newest id;
    /// answers to older ones are outdated.
    pub fn ask(&mut self, question: Question) -> u64 {
        let (id, ask) = self.asking(question);
        self.effects.push(ask);
        id
    }

    /// A question for later, for example after a confirmation, and its id.
    pub fn asking(&mut self, question: Question) -> (u64, Effect) {
        let id = self.ids.next();
        let epoch = self.session.as_of;
        let ask = Effect::Ask {
            id,
            question,
            epoch,
        };
        (id, ask)
    }

    /// Shows Confusion, Samples and Model as they were at the end of an epoch, if the run keeps a checkpoint of it.
    pub fn look_back(&mut self, epoch: u32) {
        self.effects.push(Effect::LookBack(epoch));
    }

    /// Begins a fork of the shown run at the end of the epoch that is shown.
    pub fn fork_past(&mut self) {
        if let Some(epoch) = self.session.as_of {
            self.fork(None, ForkAt::Epoch(epoch));
        }
    }

    /// Tests learning rates from the present state.
    pub fn test_rates(&mut self) {
        self.effects.push(Effect::TestRates);
    }

    /// Ends the session and begins a sweep.
    pub fn sweep(&mut self, plan: Plan) {
        self.effects.push(Effect::Sweep(Box::new(plan)));
    }

    /// Begins a fork of a run, of the shown one if `of` is None. It is paused, so that it can be changed before its first
    /// step.
    pub fn fork(&mut self, of: Option<String>, at: ForkAt) {
        let fork = Effect::Send(Command::Fork(ForkRequest {
            of,
            at,
            paused: true,
            ..ForkRequest::default()
        }));
        match self.session.unsaved {
            Some(_) => self.confirm(format!("{UNSAVED} Fork all the same?"), fork),
            None => self.effects.push(fork),
        }
    }

    /// Writes a picture into a file.
    pub fn picture(&mut self, request: super::pictures::Request) {
        self.effects.push(Effect::Save(Box::new(request)));
    }

    /// Sets a hyperparameter, whose value must have passed `HyperParam::check`. It is shown as pending until the worker
    /// acknowledges it.
    pub fn set(&mut self, key: &str, value: Value) {
        self.effects.push(Effect::Set {
            key: key.to_owned(),
            value,
        });
    }

    /// Trains with and without a change, side by side.
    pub fn compare(&mut self, key: &str, value: Value) {
        let key = key.to_owned();
        self.send(Command::Compare { key, value });
    }

    /// Sets the smoothing of the training curves on every screen.
    pub fn smooth(&mut self, share: f64) {
        self.effects.push(Effect::Smooth(share));
    }

    /// Shows a message on the status line.
    pub fn say(&mut self, severity: Severity, text: impl Into<String>) {
        self.effects.push(Effect::Say(severity, text.into()));
    }

    /// Opens another screen.
    pub fn go(&mut self, screen: Screen) {
        self.effects.push(Effect::Go(screen));
    }

    /// Puts text on the clipboard; the status line then names `what`.
    pub fn copy(&mut self, what: impl Into<String>, text: impl Into<String>) {
        self.effects.push(Effect::Copy {
            what: what.into(),
            text: text.into(),
        });
    }

    /// Saves a picture; the status line shows its path.
    pub fn save(&mut self, request: Request) {
        self.effects.push(Effect::Save(Box::new(request)));
    }

    /// Asks the user to confirm; `yes` is carried out on y or enter.
    pub fn confirm(&mut self, question: impl Into<String>, yes: Effect) {
        self.effects
            .push(Effect::Confirm(question.into(), Box::new(yes)));
    }
}

/// A screen. All methods but `draw` default to doing nothing.
pub trait View {
    /// Draws into `area`, never outside.
    fn draw(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer);

    /// Draws the status line below the view, unless a message is shown there.
    fn status(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        frame::curves(session, theme, area, buf);
    }

    /// The screen was opened.
    fn shown(&mut self, _ctx: &mut Context) {}

    /// An event of the worker, which `ctx.session` has already processed.
    fn event(&mut self, _event: &Event, _ctx: &mut Context) {}

    /// A click, a drag or the wheel within `ctx.area`.
    fn mouse(&mut self, _mouse: MouseEvent, _ctx: &mut Context) {}

    /// Whether a text field has the focus.
    fn editing(&self) -> bool {
        false
    }

    /// A raw key while editing.
    fn typed(&mut self, _key: KeyEvent, _ctx: &mut Context) {}

    /// Pasted text while editing.
    fn paste(&mut self, _text: &str, _ctx: &mut Context) {}
}
