//! The screens: one file each, a row each in VIEWS.
//!
//! A view keeps its own state (cursor, scroll, filter, answers it asked for) and draws from `&self` and what the worker
//! has told. It changes in four ways, each with a [`Context`] through which it answers:
//!
//! - `act`: an action of its own, from a row in ACTIONS; beside it `enabled` says why one cannot be used now. Each view
//!   has an enum of its actions, so that both are exhaustive ([`Views`] hands them on);
//! - [`View::typed`] and [`View::paste`]: raw keys, only while [`View::editing`] says that it holds a text field;
//! - [`View::mouse`]: with the area in which it is drawn;
//! - [`View::event`]: every event of the worker, also while another screen is open, after [`SessionView`] took it in. Answers
//!   come here: `ctx.ask(question)` gives the id that `Event::Answer` will carry. Ask anew after each
//!   `Event::Evaluation` if `ctx.visible`, and in [`View::shown`].
//!
//! Drawing is a pure function of state: layout comes from the area alone, so that the mouse finds the same rectangles
//! again. Views must draw at any size, 1x1 included; ratatui's `Buffer` panics outside its area, so use
//! [`crate::tui::widgets`]' `text` and intersected areas.

#[cfg(test)]
mod app_harness;
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
use super::app::Effect;
use super::frame;
use super::pictures::Request;
use super::session_view::{SessionView, Weight};
use super::theme::Theme;
use crate::domain::params::Value;
use crate::session::protocol::{Command, Event, Question};
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

        /// What a view does for a row in ACTIONS.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ViewAction {
            $($name($module::$action),)*
        }

        impl ViewAction {
            /// The screen that does it.
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

            /// Hands an action to its view.
            pub fn act(&mut self, does: ViewAction, ctx: &mut Context) {
                match does {
                    $(ViewAction::$name(does) => self.$module.act(does, ctx),)*
                }
            }

            /// Why an action cannot be used now, when that depends on its view's state or on the area in which the view
            /// is drawn.
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
        "What is taken for what: rows are true classes, columns what the network calls them.";
    Samples: samples, SamplesView, SamplesAction,
        "Held-out images, what the network takes them for, and how sure it is.";
    Model: model, ModelView, ModelAction,
        "The architecture as text to edit, its layers and their cost, and a look inside the running network.";
    Runs: runs, RunsView, RunsAction,
        "Every run in the runs folder; marked ones lie over each other.";
    Data: data, DataView, DataAction,
        "What was loaded and from where, the images themselves, and what augmentation makes of them.";
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

/// How a view answers: commands, questions, words for the status line, another screen.
pub struct Context<'a> {
    /// What the worker has told so far.
    pub session: &'a SessionView,
    /// Where the view is drawn.
    pub area: Rect,
    /// Whether it is the open one.
    pub visible: bool,
    pub(super) effects: &'a mut Vec<Effect>,
    pub(super) next_id: &'a mut u64,
}

impl Context<'_> {
    /// Sends a command to the worker.
    pub fn send(&mut self, command: Command) {
        self.effects.push(Effect::Send(command));
    }

    /// Asks the worker; the answer comes as an event with this id. Keep only the newest id: an older answer is late.
    pub fn ask(&mut self, question: Question) -> u64 {
        *self.next_id += 1;
        let id = *self.next_id;
        self.send(Command::Ask { id, question });
        id
    }

    /// A question that is asked only if something else happens first, such as a confirmation; and its id.
    pub fn asking(&mut self, question: Question) -> (u64, Effect) {
        *self.next_id += 1;
        let id = *self.next_id;
        (id, Effect::Send(Command::Ask { id, question }))
    }

    /// Writes a picture into a file.
    pub fn picture(&mut self, request: super::pictures::Request) {
        self.effects.push(Effect::Save(Box::new(request)));
    }

    /// Sets a hyperparameter; the value must have passed `HyperParam::check`. It shows as pending until the worker answers.
    pub fn set(&mut self, key: &str, value: Value) {
        self.effects.push(Effect::Set {
            key: key.to_owned(),
            value,
        });
    }

    /// Smooths the training curves, on every screen.
    pub fn smooth(&mut self, share: f64) {
        self.effects.push(Effect::Smooth(share));
    }

    /// Words for the status line.
    pub fn say(&mut self, weight: Weight, text: impl Into<String>) {
        self.effects.push(Effect::Say(weight, text.into()));
    }

    /// Opens another screen.
    pub fn go(&mut self, screen: Screen) {
        self.effects.push(Effect::Go(screen));
    }

    /// Puts text on the clipboard; the status line tells that `what` is there.
    pub fn copy(&mut self, what: impl Into<String>, text: impl Into<String>) {
        self.effects.push(Effect::Copy {
            what: what.into(),
            text: text.into(),
        });
    }

    /// Saves a picture; the status line tells where.
    pub fn save(&mut self, request: Request) {
        self.effects.push(Effect::Save(Box::new(request)));
    }

    /// Asks the user; `yes` happens on y or enter.
    pub fn confirm(&mut self, question: impl Into<String>, yes: Effect) {
        self.effects
            .push(Effect::Confirm(question.into(), Box::new(yes)));
    }
}

/// A screen. Everything but drawing has a default that does nothing.
pub trait View {
    /// Draws into `area`, never outside.
    fn draw(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer);

    /// Draws the status line under it, except while a message stands there.
    fn status(&self, session: &SessionView, theme: Theme, area: Rect, buf: &mut Buffer) {
        frame::curves(session, theme, area, buf);
    }

    /// It was opened.
    fn shown(&mut self, _ctx: &mut Context) {}

    /// The worker told something, which `ctx.session` already holds.
    fn event(&mut self, _event: &Event, _ctx: &mut Context) {}

    /// A click, a drag or the wheel within `ctx.area`.
    fn mouse(&mut self, _mouse: MouseEvent, _ctx: &mut Context) {}

    /// Whether a text field has the keys.
    fn editing(&self) -> bool {
        false
    }

    /// A raw key while editing.
    fn typed(&mut self, _key: KeyEvent, _ctx: &mut Context) {}

    /// Pasted text while editing.
    fn paste(&mut self, _text: &str, _ctx: &mut Context) {}
}
