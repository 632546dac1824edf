//! The two ends of a session: a front end holds a [`Link`], the worker a [`Tell`]. Step reports go through a slot that
//! holds the newest aggregate, so that a front end that stopped reading costs neither time nor memory; everything else
//! arrives, in order.

use super::protocol::{Command, Event};
use crate::domain::report::StepReport;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::sync::{Arc, Mutex, PoisonError};

type Slot = Arc<Mutex<Option<StepReport>>>;

/// A front end's end.
pub struct Link {
    pub commands: Sender<Command>,
    /// Everything but step reports.
    pub events: Receiver<Event>,
    /// A token arrives when step reports wait; then call [`Link::take_steps`]. Disconnected when the session is over.
    pub steps_ready: Receiver<()>,
    slot: Slot,
}

impl Link {
    /// The steps since the last call, as one report.
    pub fn take_steps(&self) -> Option<StepReport> {
        self.slot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// The worker's end. The session is over for the front end when all clones are gone.
#[derive(Clone)]
pub struct Tell {
    pub commands: Receiver<Command>,
    events: Sender<Event>,
    steps_ready: Sender<()>,
    slot: Slot,
}

impl Tell {
    /// Tells the front end. Never blocks. When the front end has gone, nobody listens and nothing happens.
    pub fn event(&self, event: Event) {
        if let Event::Steps(report) = event {
            let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
            match slot.as_mut() {
                Some(waiting) => waiting.extend(&report),
                None => *slot = Some(report),
            }
            drop(slot);
            // Full means that a token waits already.
            let _ = self.steps_ready.try_send(());
        } else {
            if let Event::Started(_) = event {
                // Steps that wait are those of the run before: behind this event they would count as this one's.
                *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            let _ = self.events.send(event);
        }
    }
}

/// Two ends that belong together.
pub fn link() -> (Link, Tell) {
    let (command_sender, command_receiver) = unbounded();
    let (event_sender, event_receiver) = unbounded();
    let (ready_sender, ready_receiver) = bounded(1);
    let slot = Slot::default();
    (
        Link {
            commands: command_sender,
            events: event_receiver,
            steps_ready: ready_receiver,
            slot: slot.clone(),
        },
        Tell {
            commands: command_receiver,
            events: event_sender,
            steps_ready: ready_sender,
            slot,
        },
    )
}
