//! [`SessionClient`], a viewer's end of a session, and the queue that the session fills for it. Events arrive in order,
//! except step reports: they are merged in a slot until the viewer takes them. The queue is bounded: when a viewer has
//! not read for long, the session replaces the queue by one snapshot event that describes the same state.

pub use super::broadcaster::{EventSender, channel};
use super::protocol::{Command, Event};
use crate::domain::report::StepReport;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Number of unread events of one viewer from which they are replaced by a snapshot.
pub(super) const QUEUE: usize = 2048;
/// Number of unread answers that are kept when the queue is replaced by a snapshot.
const ANSWERS: usize = 16;
/// The lower bits of a question's id are chosen by the viewer; the bits above hold the viewer's number.
const OWN_BITS: u32 = 40;

type StepSlot = Mutex<Option<StepReport>>;

/// Error of sending a command to a session that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session is over")]
pub struct SessionOver;

/// A front end's connection to a session.
pub struct SessionClient {
    pub commands: Commands,
    /// Everything but step reports. Disconnected when the session is over.
    pub events: Receiver<Event>,
    /// A token arrives when step reports wait; then call [`SessionClient::take_steps`]. Disconnected when the session is over.
    pub steps_ready: Receiver<()>,
    slot: Arc<StepSlot>,
}

impl SessionClient {
    /// The steps since the last call, as one report.
    pub fn take_steps(&self) -> Option<StepReport> {
        self.slot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Whether no other viewer is attached.
    pub fn is_alone(&self) -> bool {
        self.commands.viewers.load(Ordering::SeqCst) <= 1
    }
}

/// Sends a viewer's commands to the session.
pub struct Commands {
    sender: Sender<Command>,
    viewer: u64,
    viewers: Arc<AtomicUsize>,
}

impl Commands {
    /// For viewer number `viewer` (from 0; 0 is the session's own front end). Counts itself in `viewers` while it lives.
    pub(super) fn new(sender: Sender<Command>, viewer: u64, viewers: Arc<AtomicUsize>) -> Self {
        viewers.fetch_add(1, Ordering::SeqCst);
        Commands {
            sender,
            viewer,
            viewers,
        }
    }

    /// Sends a command; never blocks.
    ///
    /// # Errors
    /// Returns an error if the session has ended.
    pub fn send(&self, command: Command) -> Result<(), SessionOver> {
        let command = match command {
            Command::Ask { id, question } => Command::Ask {
                id: self.viewer << OWN_BITS | id & ((1 << OWN_BITS) - 1),
                question,
            },
            other => other,
        };
        self.sender.send(command).map_err(|_| SessionOver)
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.viewers.fetch_sub(1, Ordering::SeqCst);
        if self.viewer == 0 {
            // A session ends with its own front end. Sending fails if it has ended already.
            let _ = self.sender.send(Command::Quit);
        }
    }
}

/// Splits an answer's id into the viewer's number and the id that the viewer chose.
pub(super) fn asker(id: u64) -> (u64, u64) {
    (id >> OWN_BITS, id & ((1 << OWN_BITS) - 1))
}

/// The sending side of a [`SessionClient`]. Dropping it disconnects the client's channels.
pub(super) struct ViewerQueue {
    events: Sender<Event>,
    /// The receiving end of `events`, to remove unread events.
    unread: Receiver<Event>,
    ready: Sender<()>,
    slot: Weak<StepSlot>,
}

impl ViewerQueue {
    /// A client and the queue that fills it.
    pub fn pair(commands: Commands) -> (SessionClient, ViewerQueue) {
        let (event_sender, event_receiver) = unbounded();
        let (ready_sender, ready_receiver) = bounded(1);
        let slot = Arc::new(StepSlot::default());
        let queue = ViewerQueue {
            events: event_sender,
            unread: event_receiver.clone(),
            ready: ready_sender,
            slot: Arc::downgrade(&slot),
        };
        let client = SessionClient {
            commands,
            events: event_receiver,
            steps_ready: ready_receiver,
            slot,
        };
        (client, queue)
    }

    /// Whether the client still exists.
    pub fn is_read(&self) -> bool {
        self.slot.strong_count() > 0
    }

    /// Queues an event; merges a step report into the slot. Never blocks.
    pub fn event(&self, event: Event) {
        if let Event::Steps(report) = event {
            let Some(slot) = self.slot.upgrade() else {
                return;
            };
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            match slot.as_mut() {
                Some(waiting) => waiting.extend(&report),
                None => *slot = Some(report),
            }
            drop(slot);
            // A full channel means that a token is waiting already.
            let _ = self.ready.try_send(());
        } else {
            if let Event::Started(_) = event
                && let Some(slot) = self.slot.upgrade()
            {
                // Waiting step reports belong to the previous run; after this event they would count as the new run's.
                slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
            self.in_order(event);
        }
    }

    /// Queues an event behind all others, step reports included.
    pub fn in_order(&self, event: Event) {
        // Sending cannot fail while `unread` exists.
        let _ = self.events.send(event);
    }

    /// Whether the queue is full, so that it should be replaced by a snapshot.
    pub fn is_behind(&self) -> bool {
        self.unread.len() >= QUEUE
    }

    /// Replaces all unread events by `snapshot`, followed by the newest answers.
    pub fn catch_up(&self, snapshot: Event) {
        let answers: Vec<Event> = self
            .unread
            .try_iter()
            .filter(|event| matches!(event, Event::Answer { .. }))
            .collect();
        if let Some(slot) = self.slot.upgrade() {
            // The snapshot contains the waiting step reports.
            slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        let newest = answers.len().saturating_sub(ANSWERS);
        for event in std::iter::once(snapshot).chain(answers.into_iter().skip(newest)) {
            let _ = self.events.send(event);
        }
    }
}
