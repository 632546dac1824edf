//! Distributes a session's events to any number of viewers. A viewer that attaches late first receives a snapshot: the
//! bounded history as a list of events. It then shows the same as a viewer that was attached from the start. Sending
//! never blocks the worker. This module knows the protocol and the domain; `serve` knows the socket.

use super::client::{Address, Commands, ReceivedCommand, SessionClient, ViewerCount, ViewerQueue};
use super::protocol::{Answer, Done, Event, EventMessage, Outcome, resolve_comparisons};
use crate::domain::confusion::Confusion;
use crate::domain::params::param;
use crate::domain::rate_test::RateTestReport;
use crate::domain::report::{Evaluation, State, StepReport, SystemLoad};
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Maximum number of step reports in the history. Beyond it, neighbouring reports are merged.
const STEPS: usize = 4096;
/// Maximum number of evaluations, and of epochs.
const SCORES: usize = 10_000;
/// Maximum number of applied changes.
const CHANGES: usize = 2000;
/// Maximum number of all other events, most of which are lines of the log.
const LINES: usize = 2000;
/// Maximum number of load reports, one of which arrives each second.
const LOADS: usize = 900;

/// The events of a session in order, bounded.
#[derive(Default)]
pub struct EventHistory {
    events: VecDeque<Event>,
    /// Number of `events` in each class.
    counts: [usize; CLASSES],
    loads: VecDeque<SystemLoad>,
    /// The newest progress report of a running download.
    download: Option<Event>,
    /// The newest test of the run's learning rates, with all its points.
    rate_test: Option<RateTestReport>,
}

/// Number of classes of events; each has its own bound.
const CLASSES: usize = 7;
const BOUNDS: [usize; CLASSES] = [STEPS, SCORES, SCORES, CHANGES, LINES, STEPS, SCORES];
const LINES_CLASS: usize = 4;
/// The classes of the step reports of the run's network and of the variant.
const STEP_CLASSES: [usize; 2] = [0, 5];

fn class(event: &Event) -> usize {
    match event {
        Event::Steps(_) => 0,
        Event::Epoch(_) => 1,
        Event::Evaluation(_) => 2,
        Event::Applied { .. } | Event::LayerReset(_) => 3,
        Event::Variant { of } if matches!(**of, Event::Steps(_)) => 5,
        Event::Variant { .. } => 6,
        _ => LINES_CLASS,
    }
}

/// The step report in an event of a class of step reports.
fn steps_in(event: &mut Event, of: usize) -> Option<&mut StepReport> {
    match event {
        Event::Variant { of: inner } if of == STEP_CLASSES[1] => steps_in(inner, STEP_CLASSES[0]),
        Event::Steps(report) if of == STEP_CLASSES[0] => Some(report),
        _ => None,
    }
}

impl EventHistory {
    /// Adds an event; merges or drops older ones of its class if there are too many.
    pub fn add(&mut self, event: &Event) {
        match event {
            Event::Answer { .. } | Event::Done(_) | Event::Snapshot { .. } => return,
            Event::Load(load) => {
                if self.loads.len() == LOADS {
                    self.loads.pop_front();
                }
                self.loads.push_back(load.clone());
                return;
            }
            Event::Download { finished, .. } => {
                self.download = (!finished).then(|| event.clone());
                if !finished {
                    return;
                }
            }
            Event::RateTest(report) => {
                self.rate_test.get_or_insert_default().extend(report);
                return;
            }
            Event::State(state) if self.replace_progress(state) => return,
            Event::Compared(_) => self.forget_compared(),
            Event::ComparisonOver { .. } => self.end_comparison(event),
            Event::Started(_) => self.forget_run(),
            Event::Evaluation(evaluation) => self.forget_matrix(evaluation),
            _ => {}
        }
        let class = class(event);
        self.events.push_back(event.clone());
        self.counts[class] += 1;
        if self.counts[class] > BOUNDS[class] {
            match STEP_CLASSES.contains(&class) {
                true => self.merge_steps(class),
                false => self.drop_oldest(class),
            }
            self.recount();
        }
    }

    /// Leaves only the training of the network that was chosen in the comparison which ends with `over`.
    fn end_comparison(&mut self, over: &Event) {
        let events = std::mem::take(&mut self.events);
        let mut resolved = resolve_comparisons(events.into_iter().chain([over.clone()]));
        resolved.pop();
        self.events = resolved.into();
        self.recount();
    }

    /// Drops the older report about a comparison, before a newer one.
    fn forget_compared(&mut self) {
        let is_report = |e: &Event| matches!(e, Event::Compared(_));
        if let Some(at) = self.events.iter().rposition(is_report) {
            self.events.remove(at);
            self.counts[LINES_CLASS] -= 1;
        }
    }

    /// The history as one event.
    pub fn snapshot(&self) -> Event {
        let loads = self.loads.iter().cloned().map(Event::Load);
        Event::Snapshot {
            events: self
                .events
                .iter()
                .cloned()
                .chain(loads)
                .chain(self.download.clone())
                .chain(self.rate_test.clone().map(Event::RateTest))
                .collect(),
        }
    }

    /// If the newest state and `state` are progress reports of the same loading or scoring, replaces the newest state
    /// and returns true.
    fn replace_progress(&mut self, state: &State) -> bool {
        let same = |old: &State| match (old, state) {
            (State::Loading { .. }, State::Loading { .. }) => true,
            (State::Evaluating { split: a, .. }, State::Evaluating { split: b, .. }) => a == b,
            _ => false,
        };
        let before = self.events.iter_mut().rev().find_map(|event| match event {
            Event::State(old) => Some(old),
            _ => None,
        });
        match before {
            Some(old) if same(old) => {
                *old = state.clone();
                true
            }
            _ => false,
        }
    }

    /// Clears the confusion matrices of all but the newest two evaluations. No screen shows the others, and they would
    /// take most of the memory of a long history.
    fn forget_matrix(&mut self, newest: &Evaluation) {
        let of = |e: &Evaluation| (e.split, e.weights);
        let mut old = self
            .events
            .iter_mut()
            .rev()
            .filter_map(|event| match event {
                Event::Evaluation(old) if of(old) == of(newest) => Some(old),
                _ => None,
            });
        if let Some(before) = old.nth(1) {
            before.confusion = Confusion::default();
        }
    }

    /// Drops the test of learning rates of the previous run, and its step reports, which the log does not need, except
    /// those right before other events.
    fn forget_run(&mut self) {
        self.rate_test = None;
        let mut kept = VecDeque::new();
        let mut events = std::mem::take(&mut self.events).into_iter().peekable();
        while let Some(event) = events.next() {
            let followed = events.peek().is_some_and(|next| class(next) != 0);
            if class(&event) != 0 || followed {
                kept.push_back(event);
            }
        }
        let surplus = kept.len().saturating_sub(LINES);
        kept.drain(..surplus);
        self.events = kept;
        self.recount();
    }

    fn recount(&mut self) {
        self.counts = [0; CLASSES];
        for event in &self.events {
            self.counts[class(event)] += 1;
        }
    }

    /// Merges pairs of consecutive step reports of a class. If too many remain, also merges pairs with other events
    /// between them.
    fn merge_steps(&mut self, of: usize) {
        for over in [false, true] {
            let mut steps = 0;
            // Index of the report that the next one may be merged into.
            let mut open: Option<usize> = None;
            let mut merged: VecDeque<Event> = VecDeque::with_capacity(self.events.len());
            for mut event in self.events.drain(..) {
                // The step reports of the other network do not come between those of this one.
                let other = STEP_CLASSES.contains(&class(&event));
                if let Some(report) = steps_in(&mut event, of) {
                    let before = open.take().and_then(|at| merged.get_mut(at));
                    if let Some(before) = before.and_then(|event| steps_in(event, of)) {
                        before.extend(report);
                        continue;
                    }
                    open = Some(merged.len());
                    steps += 1;
                } else if !(over || other) || matches!(event, Event::Started(_)) {
                    open = None;
                }
                merged.push_back(event);
            }
            self.events = merged;
            if steps <= STEPS * 3 / 4 {
                return;
            }
        }
    }

    /// Drops the older half of the events of class `of`, except those that describe the present: the run's start, the
    /// newest state, health, comparison and save failure, and pending changes. Changes that are dropped are made in the
    /// hyperparameters of the run's start instead.
    fn drop_oldest(&mut self, of: usize) {
        let mut surplus = BOUNDS[of] / 2;
        let mut pending = BTreeSet::new();
        let (mut state, mut run, mut health, mut unsaved) = (0, 0, 0, 0);
        let mut comparison = 0;
        for (i, event) in self.events.iter().enumerate() {
            match event {
                Event::State(_) => state = i,
                Event::Health(_) => health = i,
                Event::Unsaved { .. } => unsaved = i,
                Event::Started(_) => run = i,
                Event::ComparisonBegan { .. } => comparison = i,
                Event::Pending { change, .. } => {
                    pending.insert(change.key.clone());
                }
                Event::Withdrawn { key } => {
                    pending.remove(key);
                }
                Event::Applied { change, .. } => {
                    pending.remove(&change.key);
                }
                _ => {}
            }
        }
        let mut dropped = Vec::new();
        let mut i = 0;
        self.events.retain(|event| {
            let at = i;
            i += 1;
            let stays = class(event) != of
                || surplus == 0
                || [state, run, health, unsaved, comparison].contains(&at)
                || matches!(event, Event::Data(_))
                || matches!(event, Event::Pending { change, .. } if pending.contains(&change.key));
            if !stays {
                surplus -= 1;
                if let Event::Applied { change, .. } = event
                    && at > run
                {
                    dropped.push(change.clone());
                }
            }
            stays
        });
        let started = self.events.iter_mut().rev().find_map(|event| match event {
            Event::Started(run) => Some(run),
            _ => None,
        });
        let Some(started) = started else { return };
        for change in dropped {
            if let Some(row) = param(&change.key) {
                // This cannot fail: the worker has checked the value.
                let _ = row.set(&mut started.params, change.new);
            }
        }
    }
}

#[derive(Default)]
struct Viewers {
    history: EventHistory,
    viewers: Vec<(u64, ViewerQueue)>,
    /// Number of the next viewer.
    next: u64,
    /// Name of the shown run, if it has one.
    run: Option<String>,
    /// Whether the last event, `Ended`, has been sent.
    ended: bool,
    over: bool,
}

impl Viewers {
    fn message(&self, event: Event) -> EventMessage {
        EventMessage::new(self.run.as_deref(), event)
    }
}

/// Keeps the history and sends each event to every viewer. Viewers attach to it.
pub struct Broadcaster {
    inner: Mutex<Viewers>,
    requests: Sender<ReceivedCommand>,
    viewers: Arc<ViewerCount>,
}

impl Broadcaster {
    fn inner(&self) -> MutexGuard<'_, Viewers> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that viewers in other processes can attach from now on.
    pub fn set_has_socket(&self) {
        self.viewers.set_has_socket();
    }

    /// Attaches a new viewer. Its first event is a snapshot, except for the session's own front end.
    pub fn attach(&self) -> SessionClient {
        self.attach_as(true)
    }

    /// Attaches a new viewer. The session waits for it to leave if it `counts`.
    pub(super) fn attach_as(&self, counts: bool) -> SessionClient {
        let mut inner = self.inner();
        let number = inner.next;
        inner.next += 1;
        let commands = Commands::new(
            self.requests.clone(),
            number,
            Arc::clone(&self.viewers),
            counts,
        );
        let (client, queue) = ViewerQueue::pair(commands);
        if number > 0 {
            queue.event(inner.message(inner.history.snapshot()));
        }
        if !inner.over {
            inner.viewers.push((number, queue));
        }
        client
    }

    fn send(&self, event: Event) {
        let mut inner = self.inner();
        if inner.ended {
            return;
        }
        // If a change is kept, the past is another one: what viewers know of it is no longer true.
        let rewritten = matches!(event, Event::ComparisonOver { kept: true, .. }).then(|| {
            inner.history.end_comparison(&event);
            inner.history.snapshot()
        });
        inner.history.add(&event);
        match &event {
            Event::Started(run) => {
                inner.run = Some(run.name.clone()).filter(|name| !name.is_empty());
            }
            Event::Ended { .. } => inner.ended = true,
            _ => {}
        }
        let message = inner.message(event);
        inner.viewers.retain(|(_, queue)| queue.is_read());
        for (_, queue) in &inner.viewers {
            if let Some(snapshot) = &rewritten {
                queue.catch_up(inner.message(snapshot.clone()));
                queue.event(message.clone());
            } else if queue.is_behind() && !matches!(message.event, Event::Steps(_)) {
                queue.catch_up(inner.message(inner.history.snapshot()));
            } else {
                queue.event(message.clone());
            }
        }
    }

    /// Sends an event to one viewer, if it is still attached.
    fn send_to(&self, viewer: u64, event: Event) {
        let inner = self.inner();
        if let Some((_, queue)) = inner.viewers.iter().find(|(n, _)| *n == viewer)
            && !inner.ended
        {
            queue.event(inner.message(event));
        }
    }
}

/// The worker's end of the session: sends events and receives commands. Dropping the last clone ends the session for
/// its viewers.
#[derive(Clone)]
pub struct EventSender {
    pub requests: Receiver<ReceivedCommand>,
    broadcaster: Arc<Broadcaster>,
    _close: Arc<CloseOnDrop>,
}

impl EventSender {
    /// Adds an event to the history and sends it to all viewers. Never blocks.
    pub fn event(&self, event: Event) {
        self.broadcaster.send(event);
    }

    /// Sends an answer to the viewer that asked.
    pub(super) fn answer(&self, to: Address, answer: Answer) {
        let id = to.id;
        self.broadcaster
            .send_to(to.viewer, Event::Answer { id, answer });
    }

    /// Sends the outcome of a command to its sender.
    pub(super) fn done(&self, to: Address, outcome: Outcome) {
        let id = to.id;
        self.broadcaster
            .send_to(to.viewer, Event::Done(Done { id, outcome }));
    }

    /// Sends the past events of a resumed run, in order and without merging step reports.
    pub fn past(&self, events: Vec<Event>) {
        let mut inner = self.broadcaster.inner();
        for event in events {
            inner.history.add(&event);
            let message = inner.message(event);
            for (_, queue) in &inner.viewers {
                queue.in_order(message.clone());
            }
        }
    }

    /// The bounded history of the session.
    pub(super) fn history(&self) -> Vec<Event> {
        self.broadcaster
            .inner()
            .history
            .events
            .iter()
            .cloned()
            .collect()
    }

    /// A flag that is set when a viewer sends a command that must not wait for the end of a training step. The worker
    /// clears it.
    pub fn interrupt(&self) -> &Arc<AtomicBool> {
        self.broadcaster.viewers.interrupt()
    }

    /// The broadcaster that viewers attach to.
    pub fn broadcaster(&self) -> Arc<Broadcaster> {
        Arc::clone(&self.broadcaster)
    }
}

/// Disconnects all viewers when dropped, which happens with the last [`EventSender`].
struct CloseOnDrop(Arc<Broadcaster>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        let mut inner = self.0.inner();
        inner.over = true;
        inner.viewers.clear();
    }
}

/// Creates the client of the session's own front end, and the worker's end. Dropping that client sends `Command::Quit`.
pub fn channel() -> (SessionClient, EventSender) {
    let (sender, requests) = unbounded();
    let broadcaster = Arc::new(Broadcaster {
        inner: Mutex::default(),
        requests: sender,
        viewers: Arc::default(),
    });
    let client = broadcaster.attach();
    let sender = EventSender {
        requests,
        _close: Arc::new(CloseOnDrop(Arc::clone(&broadcaster))),
        broadcaster,
    };
    (client, sender)
}

#[cfg(test)]
mod tests;
