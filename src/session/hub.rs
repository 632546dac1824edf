//! History and viewers: any number of front ends watch and steer one session. A viewer that comes late first gets a
//! snapshot (the history, bounded, as the events that made it), then what follows, so that its screens are those of one
//! that was there from the beginning. Telling never blocks the worker. Knows the protocol and the domain; no socket.

use super::link::{Commands, Feed, Link, asker};
use super::protocol::{Command, Event};
use crate::domain::confusion::Confusion;
use crate::domain::params::param;
use crate::domain::report::{Evaluation, Load, State};
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most reports of steps in the history; neighbours merge beyond.
const STEPS: usize = 4096;
/// Most evaluations, and most epochs.
const SCORES: usize = 10_000;
/// Most live changes.
const CHANGES: usize = 2000;
/// Most of everything else: what the log tells.
const LINES: usize = 2000;
/// Load reports: a quarter of an hour.
const LOADS: usize = 900;

/// What happened in a session, bounded: as events, in order.
#[derive(Default)]
pub struct History {
    events: VecDeque<Event>,
    /// How many of each class of `events` there are.
    counts: [usize; CLASSES],
    loads: VecDeque<Load>,
    /// The newest report of a download that runs.
    download: Option<Event>,
}

/// Number of classes of events; each has its bound.
const CLASSES: usize = 5;
const BOUNDS: [usize; CLASSES] = [STEPS, SCORES, SCORES, CHANGES, LINES];

fn class(event: &Event) -> usize {
    match event {
        Event::Steps(_) => 0,
        Event::Epoch(_) => 1,
        Event::Evaluation(_) => 2,
        Event::Applied { .. } => 3,
        _ => 4,
    }
}

impl History {
    /// Takes an event in.
    pub fn add(&mut self, event: &Event) {
        match event {
            Event::Answer { .. } | Event::Snapshot { .. } => return,
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
            Event::State(state) if self.replace_progress(state) => return,
            Event::Started(_) => self.forget_run(),
            Event::Evaluation(evaluation) => self.forget_matrix(evaluation),
            _ => {}
        }
        let class = class(event);
        self.events.push_back(event.clone());
        self.counts[class] += 1;
        if self.counts[class] > BOUNDS[class] {
            match class {
                0 => self.merge_steps(),
                _ => self.drop_oldest(class),
            }
            self.recount();
        }
    }

    /// Everything, as one event.
    pub fn snapshot(&self) -> Event {
        let loads = self.loads.iter().cloned().map(Event::Load);
        Event::Snapshot {
            events: self
                .events
                .iter()
                .cloned()
                .chain(loads)
                .chain(self.download.clone())
                .collect(),
        }
    }

    /// Progress of loading or scoring replaces the progress before it.
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

    /// Screens show the matrix of the newest evaluation and how it differs from the one before; older ones are the most
    /// of a long history, and go.
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

    /// A new run begins: of the one before stays what its lines in the log need.
    fn forget_run(&mut self) {
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

    /// Merges pairs of step reports: those that follow each other, and if that is not enough, over what lies between.
    fn merge_steps(&mut self) {
        for over in [false, true] {
            let mut steps = 0;
            // The place of a report that may take in the next.
            let mut open: Option<usize> = None;
            let mut merged: VecDeque<Event> = VecDeque::with_capacity(self.events.len());
            for event in self.events.drain(..) {
                if let Event::Steps(report) = &event {
                    let at = open.take();
                    if let Some(Event::Steps(before)) = at.and_then(|at| merged.get_mut(at)) {
                        before.extend(report);
                        continue;
                    }
                    open = Some(merged.len());
                    steps += 1;
                } else if !over || matches!(event, Event::Started(_)) {
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

    /// Drops the older half of a class. What is still in force stays: the run itself, the newest state, changes that
    /// wait; changes that took effect go into the run's own values.
    fn drop_oldest(&mut self, of: usize) {
        let mut surplus = BOUNDS[of] / 2;
        let mut waiting = BTreeSet::new();
        let (mut state, mut run, mut health, mut unsaved) = (0, 0, 0, 0);
        for (i, event) in self.events.iter().enumerate() {
            match event {
                Event::State(_) => state = i,
                Event::Health(_) => health = i,
                Event::Unsaved { .. } => unsaved = i,
                Event::Started(_) => run = i,
                Event::Pending { change, .. } => {
                    waiting.insert(change.key.clone());
                }
                Event::Withdrawn { key } => {
                    waiting.remove(key);
                }
                Event::Applied { change, .. } => {
                    waiting.remove(&change.key);
                }
                _ => {}
            }
        }
        let mut taken = Vec::new();
        let mut i = 0;
        self.events.retain(|event| {
            let at = i;
            i += 1;
            let stays = class(event) != of
                || surplus == 0
                || [state, run, health, unsaved].contains(&at)
                || matches!(event, Event::Data(_))
                || matches!(event, Event::Pending { change, .. } if waiting.contains(&change.key));
            if !stays {
                surplus -= 1;
                if let Event::Applied { change, .. } = event
                    && at > run
                {
                    taken.push(change.clone());
                }
            }
            stays
        });
        let started = self.events.iter_mut().rev().find_map(|event| match event {
            Event::Started(run) => Some(run),
            _ => None,
        });
        let Some(started) = started else { return };
        for change in taken {
            if let Some(row) = param(&change.key) {
                // The worker has checked it.
                let _ = row.set(&mut started.params, change.new);
            }
        }
    }
}

#[derive(Default)]
struct Inner {
    history: History,
    viewers: Vec<(u64, Feed)>,
    /// The next viewer's number.
    next: u64,
    over: bool,
}

/// Where viewers attach.
pub struct Hub {
    inner: Mutex<Inner>,
    commands: Sender<Command>,
    viewers: Arc<AtomicUsize>,
}

impl Hub {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new viewer; its first event is the snapshot.
    pub fn attach(&self) -> Link {
        let mut inner = self.inner();
        let number = inner.next;
        inner.next += 1;
        let commands = Commands::new(self.commands.clone(), number, Arc::clone(&self.viewers));
        let (link, feed) = Feed::pair(commands);
        if number > 0 {
            feed.event(inner.history.snapshot());
        }
        if !inner.over {
            inner.viewers.push((number, feed));
        }
        link
    }

    fn tell(&self, event: Event) {
        let mut inner = self.inner();
        inner.history.add(&event);
        if let Event::Answer { id, answer } = event {
            let (viewer, id) = asker(id);
            if let Some((_, feed)) = inner.viewers.iter().find(|(n, _)| *n == viewer) {
                feed.event(Event::Answer { id, answer });
            }
            return;
        }
        let Inner {
            history, viewers, ..
        } = &mut *inner;
        viewers.retain(|(_, feed)| feed.is_read());
        for (_, feed) in viewers {
            if feed.is_behind() && !matches!(event, Event::Steps(_)) {
                feed.catch_up(history.snapshot());
            } else {
                feed.event(event.clone());
            }
        }
    }
}

/// The worker's end. The session is over for its viewers when all clones are gone.
#[derive(Clone)]
pub struct Tell {
    pub commands: Receiver<Command>,
    hub: Arc<Hub>,
    _closes: Arc<Closes>,
}

impl Tell {
    /// Tells all viewers. Never blocks. When nobody listens it is only remembered.
    pub fn event(&self, event: Event) {
        self.hub.tell(event);
    }

    /// Tells what happened before the session began: in order, step reports too.
    pub fn past(&self, events: Vec<Event>) {
        let mut inner = self.hub.inner();
        events.iter().for_each(|event| inner.history.add(event));
        for (_, feed) in &inner.viewers {
            events.iter().for_each(|event| feed.in_order(event.clone()));
        }
    }

    /// Where viewers attach.
    pub fn hub(&self) -> Arc<Hub> {
        Arc::clone(&self.hub)
    }
}

/// Ends the session for the viewers when the worker is done.
struct Closes(Arc<Hub>);

impl Drop for Closes {
    fn drop(&mut self) {
        let mut inner = self.0.inner();
        inner.over = true;
        inner.viewers.clear();
    }
}

/// A session's own front end and the worker's end. The session is asked to quit when this front end goes.
pub fn link() -> (Link, Tell) {
    let (sender, receiver) = unbounded();
    let hub = Arc::new(Hub {
        inner: Mutex::default(),
        commands: sender,
        viewers: Arc::default(),
    });
    let link = hub.attach();
    let tell = Tell {
        commands: receiver,
        _closes: Arc::new(Closes(Arc::clone(&hub))),
        hub,
    };
    (link, tell)
}

#[cfg(test)]
mod tests;
