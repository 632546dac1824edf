//! The answer to `ask status`: what a snapshot says of a session.

use crate::domain::params::{Applies, Hyperparameters};
use crate::domain::report::{EpochReport, State, StepReport};
use crate::session::protocol::{Change, Event};
use crate::session::run_view::{BestEpoch, RunView};
use crate::session::status::Status;
use serde::Serialize;

/// What a snapshot says of a session.
#[derive(Default)]
pub struct SnapshotView {
    status: Status,
    view: RunView,
    pending: Vec<(Change, Applies)>,
}

impl SnapshotView {
    /// The view of a snapshot event.
    pub fn of(snapshot: &Event) -> Self {
        let mut known = SnapshotView::default();
        known.status.event(snapshot);
        known.view.event(snapshot);
        let Event::Snapshot { events } = snapshot else {
            return known;
        };
        for event in events {
            match event {
                Event::Pending { change, applies } => {
                    known.pending.retain(|(old, _)| old.key != change.key);
                    known.pending.push((change.clone(), *applies));
                }
                Event::Withdrawn { key } => known.pending.retain(|(old, _)| old.key != *key),
                Event::Applied { change, .. } => {
                    known.pending.retain(|(old, _)| old.key != change.key);
                }
                Event::Started(_) => known.pending.clear(),
                _ => {}
            }
        }
        known
    }

    /// The answer as it is printed.
    pub fn answer(&self) -> StatusAnswer<'_> {
        StatusAnswer {
            run: &self.status.run,
            folder: &self.status.folder,
            state: &self.status.state,
            step: self.status.step,
            saved_step: self.status.saved_step,
            unsaved: self.status.unsaved.as_deref(),
            steps: self.view.steps.as_ref(),
            epoch: self.view.epochs.last(),
            best: self.view.best,
            pending: (self.pending.iter())
                .map(|(change, applies)| PendingAnswer {
                    change,
                    waits_for: *applies,
                })
                .collect(),
            params: self.view.run.is_some().then_some(&self.view.params),
        }
    }
}

/// The answer to `ask status`, as it is printed.
#[derive(Serialize)]
pub struct StatusAnswer<'a> {
    run: &'a str,
    folder: &'a str,
    state: &'a State,
    /// The newest step, and that of the newest checkpoint on the disk.
    step: u64,
    saved_step: Option<u64>,
    unsaved: Option<&'a str>,
    /// The newest report of steps, and of an epoch.
    steps: Option<&'a StepReport>,
    epoch: Option<&'a EpochReport>,
    best: Option<BestEpoch>,
    pending: Vec<PendingAnswer<'a>>,
    /// Null until a run has begun.
    params: Option<&'a Hyperparameters>,
}

#[derive(Serialize)]
pub struct PendingAnswer<'a> {
    #[serde(flatten)]
    change: &'a Change,
    waits_for: Applies,
}
