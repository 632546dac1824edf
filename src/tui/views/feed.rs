//! What the screens that ask the worker have in common: asking only when the question, or what it is about, has changed;
//! dropping answers that come late; and saying what will come while there is nothing to show.

use super::Context;
use crate::domain::report::{Picture, Prediction, Split, State};
use crate::domain::text::{duration, grouped};
use crate::session::protocol::{Answer, Event, Question};
use crate::tui::actions::{ProgramAction, key_of};
use crate::tui::session_view::{SessionView, split_name};
use crate::tui::theme::Theme;
use crate::tui::widgets::{paragraph, wrap};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr;

/// What an answer is true of; when it changes, the question is asked again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basis {
    run: String,
    split: Split,
    step: u64,
}

impl Basis {
    /// The newest evaluation of the shown split; None while there is none.
    pub fn evaluation(session: &SessionView) -> Option<Self> {
        let evaluation = session.evaluation(session.shown)?;
        Some(Basis {
            step: evaluation.step,
            ..Basis::run(session)
        })
    }

    /// This run, and something else that the answer depends on.
    pub fn and(session: &SessionView, what: &str) -> Self {
        let basis = Basis::run(session);
        Basis {
            run: format!("{}\n{what}", basis.run),
            ..basis
        }
    }

    /// The run itself, whatever has been scored.
    pub fn run(session: &SessionView) -> Self {
        Basis {
            run: session
                .run
                .as_ref()
                .map_or_else(String::new, |r| r.name.clone()),
            split: session.shown,
            step: 0,
        }
    }
}

/// An image of the data: its number in its split, its class, its pixels.
pub type Shown = (u32, u8, Picture);

/// A question to the worker and its newest answer. The old answer stays until the new one is there, so that the screen
/// does not flicker.
#[derive(Debug, Default)]
pub struct Feed {
    asked: Option<(Question, Basis)>,
    waiting: Option<u64>,
    answer: Option<Answer>,
}

impl Feed {
    /// Asks, unless the same has been asked about the same.
    pub fn want(&mut self, question: Question, basis: Basis, ctx: &mut Context) {
        let wanted = (question, basis);
        if self.asked.as_ref() != Some(&wanted) {
            self.waiting = Some(ctx.ask(wanted.0.clone()));
            self.asked = Some(wanted);
        }
    }

    /// Waits for the answer to a question that something else asks.
    pub fn expect(&mut self, id: u64) {
        self.waiting = Some(id);
    }

    /// Asks again at the next [`Feed::want`]; what is held stays.
    pub fn outdated(&mut self) {
        self.asked = None;
    }

    /// Takes the event if it is the answer that is waited for.
    pub fn take(&mut self, event: &Event) -> bool {
        match event {
            Event::Answer { id, answer } if self.waiting == Some(*id) => {
                self.waiting = None;
                self.answer = Some(answer.clone());
                true
            }
            _ => false,
        }
    }

    /// Forgets question and answer: they were about something that is gone.
    pub fn clear(&mut self) {
        *self = Feed::default();
    }

    pub fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }

    /// Whether an answer is on its way.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether what was asked differs from this question.
    pub fn is_about_other(&self, question: &Question) -> bool {
        self.asked
            .as_ref()
            .is_none_or(|(asked, _)| asked != question)
    }

    /// Why it could not be answered.
    pub fn failure(&self) -> Option<&str> {
        match &self.answer {
            Some(Answer::Failed { why }) => Some(why),
            _ => None,
        }
    }

    /// The pictures: how many there are, the place of the first, and they.
    pub fn pictures(&self) -> Option<(u32, u32, &[Shown])> {
        match &self.answer {
            Some(Answer::Pictures {
                total,
                offset,
                items,
            }) => Some((*total, *offset, items)),
            _ => None,
        }
    }

    /// The predictions: how many pass the filter, the place of the first, and they.
    pub fn predictions(&self) -> Option<(u32, u32, &[Prediction])> {
        match &self.answer {
            Some(Answer::Predictions {
                total,
                offset,
                items,
                ..
            }) => Some((*total, *offset, items)),
            _ => None,
        }
    }
}

/// Why there is no evaluation to show yet, and when there will be one.
pub fn no_evaluation(session: &SessionView) -> Vec<String> {
    let split = split_name(session.shown);
    let when = match &session.state {
        _ if session.ended => vec!["The session is over, and nothing was scored.".into()],
        State::Loading { what, done, total } if *total > 0 => {
            vec![format!(
                "Still loading {what}: {}%.",
                100 * done / (*total).max(1)
            )]
        }
        State::Loading { what, .. } => vec![format!("Still loading {what}.")],
        State::Evaluating { split, done, total } => vec![format!(
            "Scoring the {} images now: {} of {}.",
            split_name(*split),
            grouped(u64::from(*done)),
            grouped(u64::from(*total))
        )],
        State::Diverged { step, .. } => vec![
            format!(
                "The run diverged at step {} before anything was scored.",
                grouped(*step)
            ),
            format!("{} restarts it.", key_of(ProgramAction::Restart)),
        ],
        State::Failed { why } => vec![
            "The run failed before anything was scored:".into(),
            why.clone(),
        ],
        State::Done | State::Stopped if session.shown == Split::Test => {
            vec!["They have not been scored in this run.".into()]
        }
        State::Done | State::Stopped => vec!["The run ended before anything was scored.".into()],
        State::Running | State::Paused => {
            let left = session.steps.as_ref().map(|s| {
                let steps = s.steps_per_epoch.saturating_sub(s.step_in_epoch);
                let batch = s.images as f64 / (s.last + 1).saturating_sub(s.first).max(1) as f64;
                (steps, batch * steps as f64 / s.images_per_s.max(1e-9))
            });
            let paused = session.state == State::Paused;
            let first = match left {
                _ if session.shown == Split::Test => {
                    "They are scored at the end of the run, or each epoch with test_each_epoch."
                        .into()
                }
                Some((steps, seconds)) if !paused && seconds.is_finite() => format!(
                    "They are scored at the end of this epoch, in {} steps, about {}.",
                    grouped(steps),
                    duration(seconds)
                ),
                Some((steps, _)) => format!(
                    "They are scored at the end of this epoch, {} steps from here.",
                    grouped(steps)
                ),
                None => "They are scored at the end of each epoch.".into(),
            };
            match (session.shown, paused) {
                (Split::Test, _) => vec![first],
                (_, true) => vec![
                    first,
                    format!(
                        "Training is paused: {} goes on, {} scores them now.",
                        key_of(ProgramAction::Pause),
                        key_of(ProgramAction::Evaluate)
                    ),
                ],
                (_, false) => vec![
                    first,
                    format!("{} scores them now.", key_of(ProgramAction::Evaluate)),
                ],
            }
        }
    };
    let mut lines = vec![format!("Nothing is known of the {split} images yet.")];
    lines.extend(when);
    lines
}

/// Lines in the middle of an area: the first one strong, the others dim, wrapped at words.
pub fn message(lines: &[String], theme: Theme, area: Rect, buf: &mut Buffer) {
    let room = usize::from(area.width.saturating_sub(2)).clamp(1, 72);
    let wrapped: Vec<(bool, String)> = lines
        .iter()
        .enumerate()
        .flat_map(|(i, l)| wrap(l, room).into_iter().map(move |w| (i == 0, w)))
        .collect();
    let rows: Vec<_> = wrapped
        .into_iter()
        .map(|(first, content)| {
            let style = if first { theme.text() } else { theme.dim() };
            let left = (room.saturating_sub(content.width())) / 2;
            (format!("{:left$}{content}", ""), style)
        })
        .collect();
    let height = (rows.len() as u16).min(area.height);
    let width = (room as u16).min(area.width);
    let place = Rect::new(
        area.x + (area.width - width) / 2,
        area.y + (area.height - height) / 2,
        width,
        height,
    );
    paragraph(buf, place, &rows);
}
