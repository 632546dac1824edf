//! Cached answers to a view's questions. A question is sent again only when it or its [`QueryKey`] has changed; answers
//! to older questions are dropped. Also the messages that a view shows while it has no answer.

use super::Context;
use crate::domain::report::{Picture, Prediction, Split, State};
use crate::domain::text::{duration, grouped};
use crate::session::protocol::{Answer, Event, Question};
use crate::tui::actions::{ProgramAction, key_of};
use crate::tui::session_view::SessionView;
use crate::tui::theme::Theme;
use crate::tui::widgets::{paragraph, wrap};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr;

/// The run, split, step and earlier epoch for which an answer is valid. The question is sent again when the key changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryKey {
    run: String,
    split: Split,
    step: u64,
    /// The bits of the evaluation's loss: a layer that was reset changes the scores of a step.
    loss: u64,
    /// The earlier epoch that the question is about.
    epoch: Option<u32>,
}

impl QueryKey {
    /// The key of the newest evaluation of the shown split. None while the split has not been scored.
    pub fn evaluation(session: &SessionView) -> Option<Self> {
        let evaluation = session.evaluation(session.shown)?;
        Some(QueryKey {
            step: evaluation.step,
            loss: evaluation.loss.to_bits(),
            ..QueryKey::run(session)
        })
    }

    /// The key of the run and of `what`, something else that the answer depends on.
    pub fn and(session: &SessionView, what: &str) -> Self {
        let key = QueryKey::run(session);
        QueryKey {
            run: format!("{}\n{what}", key.run),
            ..key
        }
    }

    /// The key of the run. It does not change with evaluations.
    pub fn run(session: &SessionView) -> Self {
        QueryKey {
            run: session
                .run
                .as_ref()
                .map_or_else(String::new, |r| r.name.clone()),
            split: session.shown,
            step: 0,
            loss: 0,
            epoch: session.as_of,
        }
    }
}

/// An image of the data set: its index in its split, its class and its pixels.
pub type Shown = (u32, u16, Picture);

/// A question to the worker and the newest answer. The previous answer is kept until the next one arrives, so that the
/// screen does not flicker, unless it is of another time.
#[derive(Debug, Default)]
pub struct Query {
    asked: Option<(Question, QueryKey)>,
    waiting: Option<u64>,
    answer: Option<Answer>,
}

impl Query {
    /// Sends the question, unless the last question sent was the same and had the same key.
    pub fn want(&mut self, question: Question, key: QueryKey, ctx: &mut Context) {
        if (self.asked.as_ref()).is_some_and(|(_, asked)| asked.epoch != key.epoch) {
            self.clear();
        }
        let wanted = (question, key);
        if self.asked.as_ref() != Some(&wanted) {
            self.waiting = Some(ctx.ask(wanted.0.clone()));
            self.asked = Some(wanted);
        }
    }

    /// Accepts the answer with this id. The caller sends the question itself.
    pub fn expect(&mut self, id: u64) {
        self.waiting = Some(id);
    }

    /// Makes the next [`Query::want`] send the question again. The held answer is kept until then.
    pub fn invalidate(&mut self) {
        self.asked = None;
    }

    /// Stores the event and returns true if it is the answer to the last question.
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

    /// Drops the question and its answer.
    pub fn clear(&mut self) {
        *self = Query::default();
    }

    pub fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }

    /// Whether the last question has not been answered yet.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether the last question differs from `question`, or was about another time.
    pub fn is_about_other(&self, question: &Question, session: &SessionView) -> bool {
        let same =
            |(asked, key): &(Question, QueryKey)| asked == question && key.epoch == session.as_of;
        !self.asked.as_ref().is_some_and(same)
    }

    /// The reason, if the worker could not answer.
    pub fn failure(&self) -> Option<&str> {
        match &self.answer {
            Some(Answer::Failed { why }) => Some(why),
            _ => None,
        }
    }

    /// The pictures of the answer: total count, index of the first item returned, and the items.
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

    /// The predictions of the answer: number that pass the filter, index of the first item returned, and the items.
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

/// The message shown while the split has not been scored: the reason, and when it will be scored.
pub fn no_evaluation(session: &SessionView) -> Vec<String> {
    let split = session.shown.name();
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
            split.name(),
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
                        "Training is paused: {} continues, {} scores them now.",
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
    let mut lines = vec![format!("The {split} images have not been scored yet.")];
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
