//! [`SessionClient`], a viewer's end of a session, and the queue that the session fills for it. Events arrive in order,
//! except step reports: they are merged in a slot until the viewer takes them. The queue is bounded: when a viewer has
//! not read for long, the session replaces the queue by one snapshot event that describes the same state.

pub use super::broadcaster::{EventSender, channel};
use super::protocol::{Command, CommandMessage, Event, EventMessage, MAX_UNREAD};
use crate::domain::report::StepReport;
use crossbeam_channel::{Receiver, Sender, bounded, never, unbounded};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Maximum number of unread events in a front end that is attached over a socket.
pub(super) const ATTACHED_QUEUE: usize = 256;
/// Number of unread answers to questions, and of outcomes of commands, that are kept when the queue is replaced by a
/// snapshot.
const ANSWERS: usize = 16;
const DONE: usize = MAX_UNREAD / 2;

/// The merged unread step reports, and the name of their run.
type StepSlot = Mutex<Option<(Option<String>, StepReport)>>;

/// The session has ended, so the command cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session is over")]
pub struct SessionOver;

/// A front end's connection to a session.
pub struct SessionClient {
    pub commands: Commands,
    /// All events but step reports. Disconnected when the session is over.
    pub events: Receiver<EventMessage>,
    /// Receives a token when there are unread step reports; then call [`SessionClient::take_steps`]. Disconnected when
    /// the session is over.
    pub steps_ready: Receiver<()>,
    /// Of a session on another computer: why the connection is broken, or None when it is there again. Nothing arrives
    /// here from other sessions.
    pub connection: Receiver<Option<String>>,
    slot: Arc<StepSlot>,
}

impl SessionClient {
    /// The steps since the last call, as one report.
    pub fn take_steps(&self) -> Option<StepReport> {
        self.slot().take().map(|(_, report)| report)
    }

    /// The steps since the last call, as one message.
    pub fn take_steps_message(&self) -> Option<EventMessage> {
        let (run, report) = self.slot().take()?;
        Some(EventMessage::new(run.as_deref(), Event::Steps(report)))
    }

    fn slot(&self) -> MutexGuard<'_, Option<(Option<String>, StepReport)>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
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

/// The number of viewers, whether the session has a socket for more, and the flag by which a command interrupts a
/// training step.
#[derive(Default)]
pub(super) struct ViewerCount {
    attached: AtomicUsize,
    has_socket: AtomicBool,
    /// Set when a viewer sends a command that must not wait for the end of a training step. The worker clears it.
    interrupt: Arc<AtomicBool>,
}

impl ViewerCount {
    pub fn interrupt(&self) -> &Arc<AtomicBool> {
        &self.interrupt
    }

    /// Records that viewers in other processes can attach from now on.
    pub fn set_has_socket(&self) {
        self.has_socket.store(true, Ordering::SeqCst);
    }
}

/// Generates the ids of one viewer's commands. Clones share one sequence.
#[derive(Clone, Debug, Default)]
pub struct CommandIds(Arc<AtomicU64>);

impl CommandIds {
    /// The next id of the sequence, which begins at 1.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// The address for the answer to a command: the number of the viewer that sent it, and the command's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub viewer: u64,
    pub id: u64,
}

/// A viewer's command as the worker receives it.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedCommand {
    pub(super) viewer: u64,
    pub message: CommandMessage,
}

impl ReceivedCommand {
    pub(super) fn address(&self) -> Address {
        Address {
            viewer: self.viewer,
            id: self.message.id,
        }
    }
}

/// Sends a viewer's commands to the session.
pub struct Commands {
    requests: Sender<ReceivedCommand>,
    ids: CommandIds,
    viewer: u64,
    viewers: Arc<ViewerCount>,
    /// Whether it counts in `viewers`.
    counts: AtomicBool,
}

impl Commands {
    /// The command sender of viewer number `viewer` (from 0; 0 is the session's own front end). If it `counts`, it is a
    /// viewer in `viewers` while it lives, or until [`Commands::stop_counting`].
    pub(super) fn new(
        requests: Sender<ReceivedCommand>,
        viewer: u64,
        viewers: Arc<ViewerCount>,
        counts: bool,
    ) -> Self {
        if counts {
            viewers.attached.fetch_add(1, Ordering::SeqCst);
        }
        Commands {
            requests,
            ids: CommandIds::default(),
            viewer,
            viewers,
            counts: AtomicBool::new(counts),
        }
    }

    /// Counts no more as a viewer: the session does not wait for it to leave.
    pub(super) fn stop_counting(&self) {
        if self.counts.swap(false, Ordering::SeqCst) {
            self.viewers.attached.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The ids of this viewer's commands.
    pub fn ids(&self) -> &CommandIds {
        &self.ids
    }

    /// Sends a command for the shown run; never blocks.
    ///
    /// # Errors
    /// Returns an error if the session has ended.
    pub fn send(&self, command: Command) -> Result<(), SessionOver> {
        self.send_message(CommandMessage::new(self.ids.next(), command))
    }

    /// Sends a command with its envelope; never blocks.
    ///
    /// # Errors
    /// Returns an error if the session has ended.
    pub fn send_message(&self, message: CommandMessage) -> Result<(), SessionOver> {
        let interrupts = message.command.interrupts();
        let viewer = self.viewer;
        let request = ReceivedCommand { viewer, message };
        self.requests.send(request).map_err(|_| SessionOver)?;
        if interrupts {
            self.viewers.interrupt.store(true, Ordering::SeqCst);
        }
        Ok(())
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.stop_counting();
        if self.viewer == 0 {
            // A session ends with its own front end. This fails only if the session has ended already.
            let _ = self.send(Command::Quit);
        }
    }
}

/// The sending side of a [`SessionClient`] within the session's process. Dropping it disconnects the client's channels.
pub(super) struct ViewerQueue {
    events: Sender<EventMessage>,
    /// The receiving end of `events`, to remove unread events.
    unread: Receiver<EventMessage>,
    steps: StepSender,
}

/// The sending side of a client's slot for step reports.
struct StepSender {
    ready: Sender<()>,
    slot: Weak<StepSlot>,
}

impl StepSender {
    /// A client that receives `events`, and the sending side of its slot.
    fn pair(commands: Commands, events: Receiver<EventMessage>) -> (SessionClient, Self) {
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
            connection: never(),
            slot,
        };
        (client, steps)
    }

    /// Whether the client still exists.
    fn is_read(&self) -> bool {
        self.slot.strong_count() > 0
    }

    /// Merges a step report into the slot and returns None; returns every other event. Never blocks.
    fn take_report(&self, message: EventMessage) -> Option<EventMessage> {
        match message.event {
            Event::Steps(report) => {
                let slot = self.slot.upgrade()?;
                let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                match slot.as_mut() {
                    Some((_, waiting)) => waiting.extend(&report),
                    None => *slot = Some((message.run, report)),
                }
                drop(slot);
                // If the channel is full, it holds a token already.
                let _ = self.ready.try_send(());
                return None;
            }
            // The unread step reports belong to the previous run, or are in the snapshot; after this event they would count
            // a second time.
            Event::Started(_) | Event::Snapshot { .. } => self.clear(),
            _ => {}
        }
        Some(message)
    }

    /// Removes the unread step reports.
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
    pub fn event(&self, message: EventMessage) {
        if let Some(message) = self.steps.take_report(message) {
            self.in_order(message);
        }
    }

    /// Queues an event behind all others, step reports included.
    pub fn in_order(&self, message: EventMessage) {
        // Sending cannot fail while `unread` exists.
        let _ = self.events.send(message);
    }

    /// Whether the queue is full, so that it should be replaced by a snapshot.
    pub fn is_behind(&self) -> bool {
        self.unread.len() >= MAX_UNREAD
    }

    /// Replaces all unread events by `snapshot`, followed by the newest answers.
    pub fn catch_up(&self, snapshot: EventMessage) {
        let unread: Vec<_> = self.unread.try_iter().collect();
        // The snapshot contains the unread step reports.
        self.steps.clear();
        let (mut answers, mut done) = (ANSWERS, DONE);
        let is_kept = |message: &EventMessage| {
            let left = match message.event {
                Event::Answer { .. } => &mut answers,
                Event::Done(_) => &mut done,
                _ => return false,
            };
            let keeps = *left > 0;
            *left = left.saturating_sub(1);
            keeps
        };
        let mut kept: Vec<_> = unread.into_iter().rev().filter(is_kept).collect();
        kept.push(snapshot);
        for message in kept.into_iter().rev() {
            let _ = self.events.send(message);
        }
    }
}

/// The sending side of a [`SessionClient`] that is attached over a socket. It blocks while its queue is full. The
/// socket is then not read, and the session replaces the unread events by a snapshot.
pub(super) struct BlockingQueue {
    events: Sender<EventMessage>,
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
    pub fn event(&self, message: EventMessage) -> bool {
        match self.steps.take_report(message) {
            Some(message) => self.events.send(message).is_ok(),
            None => self.steps.is_read(),
        }
    }
}
