//! A viewer's end of a session, and the feed that fills it. Step reports go through a slot that holds the newest
//! aggregate; everything else arrives in order. A viewer that stops reading costs a bounded queue: when it is full, it
//! is replaced by one snapshot that says the same.

pub use super::hub::{Tell, link};
use super::protocol::{Command, Event};
use crate::domain::report::StepReport;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Events that may wait for one viewer before they are replaced by a snapshot.
pub(super) const QUEUE: usize = 2048;
/// Answers that outlive such a replacement.
const ANSWERS: usize = 16;
/// Bits of a question's id that are the viewer's own; those above say which viewer asked.
const OWN_BITS: u32 = 40;

type Slot = Mutex<Option<StepReport>>;

/// The session has gone: nobody takes commands any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session is over")]
pub struct Gone;

/// A front end's end of a session.
pub struct Link {
    pub commands: Commands,
    /// Everything but step reports. Disconnected when the session is over.
    pub events: Receiver<Event>,
    /// A token arrives when step reports wait; then call [`Link::take_steps`]. Disconnected when the session is over.
    pub steps_ready: Receiver<()>,
    slot: Arc<Slot>,
}

impl Link {
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

/// Where a viewer's commands go.
pub struct Commands {
    sender: Sender<Command>,
    viewer: u64,
    viewers: Arc<AtomicUsize>,
}

impl Commands {
    /// Commands of viewer number `viewer` (from 0; the first is the session's own front end) of `viewers`.
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
    /// When the session is over.
    pub fn send(&self, command: Command) -> Result<(), Gone> {
        let command = match command {
            Command::Ask { id, question } => Command::Ask {
                id: self.viewer << OWN_BITS | id & ((1 << OWN_BITS) - 1),
                question,
            },
            other => other,
        };
        self.sender.send(command).map_err(|_| Gone)
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.viewers.fetch_sub(1, Ordering::SeqCst);
        if self.viewer == 0 {
            // The session belongs to its own front end and ends with it; it may have ended before.
            let _ = self.sender.send(Command::Quit);
        }
    }
}

/// Whose answer it is, and the id that the asker gave.
pub(super) fn asker(id: u64) -> (u64, u64) {
    (id >> OWN_BITS, id & ((1 << OWN_BITS) - 1))
}

/// What fills a [`Link`]. The link is over when its feed is dropped.
pub(super) struct Feed {
    events: Sender<Event>,
    /// The link's own end, to take back what was not read.
    unread: Receiver<Event>,
    ready: Sender<()>,
    slot: Weak<Slot>,
}

impl Feed {
    /// A link and its feed.
    pub fn pair(commands: Commands) -> (Link, Feed) {
        let (event_sender, event_receiver) = unbounded();
        let (ready_sender, ready_receiver) = bounded(1);
        let slot = Arc::new(Slot::default());
        let feed = Feed {
            events: event_sender,
            unread: event_receiver.clone(),
            ready: ready_sender,
            slot: Arc::downgrade(&slot),
        };
        let link = Link {
            commands,
            events: event_receiver,
            steps_ready: ready_receiver,
            slot,
        };
        (link, feed)
    }

    /// Whether the link still exists.
    pub fn is_read(&self) -> bool {
        self.slot.strong_count() > 0
    }

    /// Hands on an event; never blocks.
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
            // Full means that a token waits already.
            let _ = self.ready.try_send(());
        } else {
            if let Event::Started(_) = event
                && let Some(slot) = self.slot.upgrade()
            {
                // Steps that wait are those of the run before: behind this event they would count as this one's.
                slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
            self.in_order(event);
        }
    }

    /// Hands on an event behind all others, a step report too.
    pub fn in_order(&self, event: Event) {
        // It cannot fail while `unread` exists.
        let _ = self.events.send(event);
    }

    /// Whether so much waits that a snapshot is the shorter way to say it.
    pub fn is_behind(&self) -> bool {
        self.unread.len() >= QUEUE
    }

    /// Puts `snapshot` in the place of everything that waits, answers apart.
    pub fn catch_up(&self, snapshot: Event) {
        let answers: Vec<Event> = self
            .unread
            .try_iter()
            .filter(|event| matches!(event, Event::Answer { .. }))
            .collect();
        if let Some(slot) = self.slot.upgrade() {
            // They are in the snapshot.
            slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        let newest = answers.len().saturating_sub(ANSWERS);
        for event in std::iter::once(snapshot).chain(answers.into_iter().skip(newest)) {
            let _ = self.events.send(event);
        }
    }
}
