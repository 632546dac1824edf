//! [`SessionClient`], a viewer's end of a session, and the queue that the session fills for it. Events arrive in order,
//! except step reports: they are merged in a slot until the viewer takes them. The queue is bounded: when a viewer has
//! not read for long, the session replaces the queue by one snapshot event that describes the same state.

pub use super::broadcaster::{EventSender, channel};
use super::protocol::{Command, Event};
use crate::domain::report::StepReport;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Number of unread events of one viewer from which they are replaced by a snapshot.
pub(super) const QUEUE: usize = 2048;
/// Maximum number of unread events in a front end that is attached over a socket.
pub(super) const ATTACHED_QUEUE: usize = 256;
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
        self.commands.viewers.attached.load(Ordering::SeqCst) <= 1
    }

    /// Whether no other viewer is attached and none can attach, because the session has no socket.
    pub fn is_unreachable(&self) -> bool {
        self.is_alone() && !self.commands.viewers.has_socket.load(Ordering::SeqCst)
    }
}

/// How many viewers a session has, whether it has a socket for more, and whether one of them waits for the worker.
#[derive(Default)]
pub(super) struct ViewerCount {
    attached: AtomicUsize,
    has_socket: AtomicBool,
    /// Set when a command was sent that shall not wait for the end of a training step. The worker clears it.
    interrupt: Arc<AtomicBool>,
}

impl ViewerCount {
    pub fn interrupt(&self) -> &Arc<AtomicBool> {
        &self.interrupt
    }

    /// Notes that viewers of other processes can attach from now on.
    pub fn set_has_socket(&self) {
        self.has_socket.store(true, Ordering::SeqCst);
    }
}

/// Sends a viewer's commands to the session.
pub struct Commands {
    sender: Sender<Command>,
    viewer: u64,
    viewers: Arc<ViewerCount>,
}

impl Commands {
    /// For viewer number `viewer` (from 0; 0 is the session's own front end). Counts itself in `viewers` while it lives.
    pub(super) fn new(sender: Sender<Command>, viewer: u64, viewers: Arc<ViewerCount>) -> Self {
        viewers.attached.fetch_add(1, Ordering::SeqCst);
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
        let interrupts = command.interrupts();
        self.sender.send(command).map_err(|_| SessionOver)?;
        if interrupts {
            self.viewers.interrupt.store(true, Ordering::SeqCst);
        }
        Ok(())
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.viewers.attached.fetch_sub(1, Ordering::SeqCst);
        if self.viewer == 0 {
            // A session ends with its own front end. Sending fails if it has ended already.
            let _ = self.sender.send(Command::Quit);
            self.viewers.interrupt.store(true, Ordering::SeqCst);
        }
    }
}

/// Splits an answer's id into the viewer's number and the id that the viewer chose.
pub(super) fn asker(id: u64) -> (u64, u64) {
    (id >> OWN_BITS, id & ((1 << OWN_BITS) - 1))
}

/// The sending side of a [`SessionClient`] within the session's process. Dropping it disconnects the client's channels.
pub(super) struct ViewerQueue {
    events: Sender<Event>,
    /// The receiving end of `events`, to remove unread events.
    unread: Receiver<Event>,
    steps: StepSender,
}

/// The sending side of a client's slot for step reports.
struct StepSender {
    ready: Sender<()>,
    slot: Weak<StepSlot>,
}

impl StepSender {
    /// A client that receives `events`, and the sending side of its slot.
    fn pair(commands: Commands, events: Receiver<Event>) -> (SessionClient, Self) {
        let (ready, steps_ready) = bounded(1);
        let slot = Arc::new(StepSlot::default());
        let steps = StepSender {
            ready,
            slot: Arc::downgrade(&slot),
        };
        let client = SessionClient {
            commands,
            events,
            steps_ready,
            slot,
        };
        (client, steps)
    }

    /// Whether the client still exists.
    fn is_read(&self) -> bool {
        self.slot.strong_count() > 0
    }

    /// Merges a step report into the slot and returns None; returns every other event. Never blocks.
    fn take_report(&self, event: Event) -> Option<Event> {
        match event {
            Event::Steps(report) => {
                let slot = self.slot.upgrade()?;
                let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                match slot.as_mut() {
                    Some(waiting) => waiting.extend(&report),
                    None => *slot = Some(report),
                }
                drop(slot);
                // A full channel means that a token is waiting already.
                let _ = self.ready.try_send(());
                return None;
            }
            // Waiting step reports belong to the previous run; after this event they would count as the new run's.
            Event::Started(_) => self.clear(),
            _ => {}
        }
        Some(event)
    }

    /// Removes the waiting step reports.
    fn clear(&self) {
        if let Some(slot) = self.slot.upgrade() {
            slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

impl ViewerQueue {
    /// A client and the queue that fills it.
    pub fn pair(commands: Commands) -> (SessionClient, ViewerQueue) {
        let (events, unread) = unbounded();
        let (client, steps) = StepSender::pair(commands, unread.clone());
        let queue = ViewerQueue {
            events,
            unread,
            steps,
        };
        (client, queue)
    }

    /// Whether the client still exists.
    pub fn is_read(&self) -> bool {
        self.steps.is_read()
    }

    /// Queues an event; merges a step report into the slot. Never blocks.
    pub fn event(&self, event: Event) {
        if let Some(event) = self.steps.take_report(event) {
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
        // The snapshot contains the waiting step reports.
        self.steps.clear();
        let newest = answers.len().saturating_sub(ANSWERS);
        for event in std::iter::once(snapshot).chain(answers.into_iter().skip(newest)) {
            let _ = self.events.send(event);
        }
    }
}

/// The sending side of a [`SessionClient`] that is attached over a socket. It blocks while its queue is full, so that
/// the socket is not read and the session replaces the waiting events by a snapshot.
pub(super) struct BlockingQueue {
    events: Sender<Event>,
    steps: StepSender,
}

impl BlockingQueue {
    /// A client and the queue that fills it.
    pub fn pair(commands: Commands) -> (SessionClient, BlockingQueue) {
        let (events, unread) = bounded(ATTACHED_QUEUE);
        let (client, steps) = StepSender::pair(commands, unread);
        (client, BlockingQueue { events, steps })
    }

    /// Queues an event, blocking while the queue is full; merges a step report into the slot. Returns whether the client
    /// still exists.
    pub fn event(&self, event: Event) -> bool {
        match self.steps.take_report(event) {
            Some(event) => self.events.send(event).is_ok(),
            None => self.steps.is_read(),
        }
    }
}
