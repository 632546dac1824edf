//! The thread that owns a shared device: its backends, and which call is made next.
//!
//! Calls are made in the order in which they arrive, but trainings wait for each other: those of one backend on the same
//! images become one call. A training waits for the runs of its backend whose last call was a training too, since their
//! next steps are a moment away, but not longer than the last training took, and not for a run that was late the last
//! time or does something else. A run that is alone never waits. So nothing starves, as no training waits more than once,
//! and nothing blocks forever, as the owner waits for a run only until a time, and a run waits only for the owner.

use super::{Request, RunId, TrainRequest, Trained};
use crate::backend::{Backend, Device, Error, ImageSet, MemberId, NetworkSpec, Result, StepPlan};
use crossbeam_channel::Receiver;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// The longest time that a training waits for others: about that of a usual submission of steps.
const MAX_WAIT: Duration = Duration::from_millis(17);

/// A backend with the members of several runs.
struct SharedBackend {
    spec: NetworkSpec,
    backend: Box<dyn Backend>,
    /// How long the last training took.
    last_training: Duration,
}

/// A run's backend.
struct Run {
    /// The number of the shared backend that its members are in.
    backend: u64,
    /// The members' ids there, by their ids in the run.
    members: BTreeMap<MemberId, MemberId>,
    /// Number of ids that the run has been given.
    ids: u32,
    /// Whether its last call was a training that has been answered.
    trains: bool,
}

/// A training that has not been made yet.
pub(super) struct WaitingTraining {
    pub request: TrainRequest,
    pub since: Instant,
}

pub(super) struct DeviceOwner {
    device: Rc<dyn Device>,
    backends: BTreeMap<u64, SharedBackend>,
    /// Number of shared backends so far.
    made: u64,
    runs: BTreeMap<RunId, Run>,
    /// For the id of each image set seen so far, the set of the same images that was seen first.
    images: HashMap<u64, Rc<ImageSet>>,
}

impl DeviceOwner {
    pub fn new(device: Rc<dyn Device>) -> Self {
        DeviceOwner {
            device,
            backends: BTreeMap::new(),
            made: 0,
            runs: BTreeMap::new(),
            images: HashMap::new(),
        }
    }

    /// Makes the calls of all runs until none can come any more.
    pub fn serve(mut self, requests: &Receiver<Request>) {
        let mut waiting: Vec<WaitingTraining> = Vec::new();
        loop {
            // Of the calls that are made now, each run has at most one, so that trainings get their turn.
            for _ in 0..requests.len() {
                if let Ok(request) = requests.try_recv() {
                    self.accept(request, &mut waiting);
                }
            }
            let next = match self.wait_until(&waiting) {
                None => requests.recv().ok(),
                Some(time) if time > Instant::now() => {
                    // A timeout, after which the training is due; or no run is left, which the next round finds.
                    requests.recv_deadline(time).ok()
                }
                Some(_) => {
                    self.train_oldest(&mut waiting);
                    continue;
                }
            };
            match next {
                Some(request) => self.accept(request, &mut waiting),
                None if waiting.is_empty() => return,
                None => {}
            }
        }
    }

    /// Makes a call, or adds a training to those that wait.
    pub fn accept(&mut self, request: Request, waiting: &mut Vec<WaitingTraining>) {
        match request {
            Request::Call(run, call) => {
                self.set_trains(run, false);
                call(self);
            }
            Request::Train(request) => {
                self.set_trains(request.run, false);
                waiting.push(WaitingTraining {
                    request,
                    since: Instant::now(),
                });
            }
        }
    }

    fn set_trains(&mut self, run: RunId, trains: bool) {
        if let Some(run) = self.runs.get_mut(&run) {
            run.trains = trains;
        }
    }

    /// Until when the training that has waited longest waits for others: a time in the past if no other is about to come.
    /// None if no training waits.
    pub fn wait_until(&self, waiting: &[WaitingTraining]) -> Option<Instant> {
        let oldest = waiting.first()?;
        let number = self.runs.get(&oldest.request.run).map(|run| run.backend);
        let backend = number.and_then(|number| self.backends.get(&number));
        let is_about_to = |run: &Run| run.trains && Some(run.backend) == number;
        Some(match backend {
            Some(backend) if self.runs.values().any(is_about_to) => {
                oldest.since + backend.last_training.min(MAX_WAIT)
            }
            _ => oldest.since,
        })
    }

    /// Makes the training that has waited longest, and with it those that can be made in the same call.
    pub fn train_oldest(&mut self, waiting: &mut Vec<WaitingTraining>) {
        let mut group: Vec<TrainRequest> = Vec::new();
        let mut rest = Vec::new();
        let mut members = 0;
        let mut call: Option<(u64, Rc<ImageSet>, usize)> = None;
        for WaitingTraining { request, since } in waiting.drain(..) {
            let images = self.images(request.images.clone());
            let Some(run) = self.runs.get(&request.run) else {
                continue;
            };
            let number = run.backend;
            let (backend, of, most) = call.get_or_insert_with(|| {
                let most = self.backends[&number].backend.members_at_once();
                (number, Rc::clone(&images), most)
            });
            let fits = group.is_empty() || members + request.work.len() <= *most;
            if number == *backend && images.id() == of.id() && fits {
                members += request.work.len();
                group.push(request);
            } else {
                rest.push(WaitingTraining { request, since });
            }
        }
        *waiting = rest;
        let Some((backend, images, _)) = call else {
            return;
        };
        // Those that did not come in time are not waited for again.
        for run in self.runs.values_mut().filter(|run| run.backend == backend) {
            run.trains = false;
        }
        let begin = Instant::now();
        let outcomes = self.train_together(&images, &group);
        if let Some(shared) = self.backends.get_mut(&backend) {
            shared.last_training = begin.elapsed();
        }
        for (request, outcomes) in group.into_iter().zip(outcomes) {
            self.set_trains(request.run, true);
            // The run waits for the answer.
            let _ = request.answer.send(outcomes);
        }
    }

    /// Makes trainings of one backend on the same images in one call. Returns the outcomes of each.
    fn train_together(
        &mut self,
        images: &Rc<ImageSet>,
        group: &[TrainRequest],
    ) -> Vec<Result<Trained>> {
        let works = group.iter().map(|request| self.work(request));
        let works: Result<Vec<Work>> = works.collect();
        let together = works.and_then(|works| {
            let work = works.concat();
            let (backend, _) = self.backend_of(group[0].run)?;
            let begin = Instant::now();
            let outcomes = backend.train(images, &work, &AtomicBool::new(false))?;
            // A run with fewer steps also waits for the steps of the others.
            let steps = work
                .iter()
                .map(|(_, plans)| plans.len())
                .fold(1, usize::max);
            let seconds_per_step = begin.elapsed().as_secs_f64() / steps as f64;
            Ok((outcomes, seconds_per_step))
        });
        match together {
            Ok((mut outcomes, seconds_per_step)) => {
                let mut of_each = Vec::with_capacity(group.len());
                for request in group {
                    let rest = outcomes.split_off(request.work.len());
                    of_each.push(Ok(Trained {
                        outcomes: std::mem::replace(&mut outcomes, rest),
                        seconds_per_step,
                    }));
                }
                of_each
            }
            // No step was made, and the others may do without what one of them asks for.
            Err(error) if group.len() > 1 && error.is_before_any_step() => group
                .iter()
                .flat_map(|request| self.train_together(images, std::slice::from_ref(request)))
                .collect(),
            Err(error) => group.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// A training's steps, with the members' ids in the shared backend.
    fn work(&mut self, request: &TrainRequest) -> Result<Work> {
        let work = request.work.iter();
        work.map(|(member, plans)| {
            let (_, member) = self.member(request.run, *member)?;
            Ok((member, plans.clone()))
        })
        .collect()
    }

    /// The set of the same images that was seen first, so that the device holds them once.
    pub fn images(&mut self, images: ImageSet) -> Rc<ImageSet> {
        if let Some(known) = self.images.get(&images.id()) {
            return Rc::clone(known);
        }
        let same = self.images.values().find(|known| known.is_same(&images));
        let first = same.map_or_else(|| Rc::new(images.clone()), Rc::clone);
        self.images.insert(images.id(), Rc::clone(&first));
        first
    }

    /// Makes a backend for a run. Returns its [`Backend::max_steps`] and [`Backend::members_at_once`].
    pub fn join(
        &mut self,
        run: RunId,
        spec: &NetworkSpec,
        capacity: usize,
    ) -> Result<(usize, usize)> {
        let number = self.shared_backend(spec, capacity)?;
        let run_of = Run {
            backend: number,
            members: BTreeMap::new(),
            ids: 0,
            trains: false,
        };
        self.runs.insert(run, run_of);
        let backend = &self.backends[&number].backend;
        Ok((backend.max_steps(), backend.members_at_once()))
    }

    /// The number of the backend for these networks. The first call makes it.
    fn shared_backend(&mut self, spec: &NetworkSpec, capacity: usize) -> Result<u64> {
        if let Some(number) = self.find_backend(spec, capacity) {
            return Ok(number);
        }
        let shared = SharedBackend {
            spec: spec.clone(),
            backend: self.device.backend(spec, capacity)?,
            last_training: Duration::ZERO,
        };
        let number = self.made;
        self.made += 1;
        self.backends.insert(number, shared);
        Ok(number)
    }

    fn find_backend(&self, spec: &NetworkSpec, capacity: usize) -> Option<u64> {
        let is_it =
            |shared: &SharedBackend| shared.backend.capacity() == capacity && shared.spec == *spec;
        let mut backends = self.backends.iter();
        backends
            .find(|(_, shared)| is_it(shared))
            .map(|(number, _)| *number)
    }

    /// Ends a run's backend.
    pub fn leave(&mut self, run: RunId) {
        if let Some(left) = self.runs.remove(&run) {
            if let Some(shared) = self.backends.get_mut(&left.backend) {
                for member in left.members.values() {
                    shared.backend.remove(*member);
                }
            }
            self.drop_unused();
        }
    }

    fn drop_unused(&mut self) {
        let runs = &self.runs;
        self.backends
            .retain(|number, _| runs.values().any(|run| run.backend == *number));
    }

    /// A run, and the backend that its members are in.
    fn backend_of(&mut self, run: RunId) -> Result<(&mut dyn Backend, &mut Run)> {
        let run = self.runs.get_mut(&run);
        let found = run.and_then(|run| Some((self.backends.get_mut(&run.backend)?, run)));
        match found {
            Some((shared, run)) => Ok((&mut *shared.backend, run)),
            None => Err(Error::Batch("the run has no network on the device".into())),
        }
    }

    /// The backend that has a run's member, and its id there.
    pub fn member(&mut self, run: RunId, member: MemberId) -> Result<(&mut dyn Backend, MemberId)> {
        let (backend, run) = self.backend_of(run)?;
        match run.members.get(&member) {
            Some(id) => Ok((backend, *id)),
            None => Err(Error::Batch(format!(
                "there is no network number {}",
                member.0
            ))),
        }
    }

    /// Adds a member to a run. Returns its id in the run.
    pub fn add(
        &mut self,
        run: RunId,
        add: impl FnOnce(&mut dyn Backend) -> Result<MemberId>,
    ) -> Result<MemberId> {
        let (backend, run) = self.backend_of(run)?;
        let id = MemberId(run.ids);
        run.members.insert(id, add(backend)?);
        run.ids += 1;
        Ok(id)
    }

    pub fn remove(&mut self, run: RunId, member: MemberId) -> Result<()> {
        let (backend, run) = self.backend_of(run)?;
        if let Some(member) = run.members.remove(&member) {
            backend.remove(member);
        }
        Ok(())
    }

    /// Changes the capacity of one run's members. Those of other runs stay as they are.
    pub fn resize(&mut self, run: RunId, capacity: usize) -> Result<()> {
        let number = self.backend_of(run)?.1.backend;
        let spec = self.backends[&number].spec.clone();
        let users = self.runs.values().filter(|run| run.backend == number);
        if users.count() == 1 && self.find_backend(&spec, capacity).is_none() {
            return self.backend_of(run)?.0.resize(capacity);
        }
        let to = self.shared_backend(&spec, capacity)?;
        let moved = self.move_members(run, to);
        self.drop_unused();
        moved
    }

    /// Moves all members of a run to another backend, or none if memory is short.
    fn move_members(&mut self, run: RunId, to: u64) -> Result<()> {
        let (_, from) = self.backend_of(run)?;
        let number = from.backend;
        let ids: Vec<MemberId> = from.members.keys().copied().collect();
        for (i, id) in ids.iter().enumerate() {
            if let Err(error) = self.move_member(run, *id, (number, to)) {
                for id in &ids[..i] {
                    self.move_member(run, *id, (to, number))
                        .map_err(Error::while_restoring)?;
                }
                return Err(error);
            }
        }
        self.backend_of(run)?.1.backend = to;
        Ok(())
    }

    /// Moves a member. If memory is short, it stays where it is.
    fn move_member(&mut self, run: RunId, id: MemberId, (from, to): (u64, u64)) -> Result<()> {
        let (Some(members), Some(mut source)) = (
            self.runs.get_mut(&run).map(|run| &mut run.members),
            self.backends.remove(&from),
        ) else {
            return Ok(());
        };
        let moved = match (members.get_mut(&id), self.backends.get_mut(&to)) {
            (Some(member), Some(target)) => {
                move_between(&mut *source.backend, &mut *target.backend, member)
            }
            _ => Ok(()),
        };
        self.backends.insert(from, source);
        moved
    }
}

type Work = Vec<(MemberId, Vec<StepPlan>)>;

/// Moves a member from one backend to another of the same networks. The memory of both at once may not fit.
fn move_between(from: &mut dyn Backend, to: &mut dyn Backend, member: &mut MemberId) -> Result<()> {
    let state = from.export(*member)?;
    from.remove(*member);
    match add_with(to, &state) {
        Ok(id) => {
            *member = id;
            Ok(())
        }
        Err(error) => {
            *member = add_with(from, &state).map_err(Error::while_restoring)?;
            Err(error)
        }
    }
}

/// Adds a member with this state.
fn add_with(backend: &mut dyn Backend, state: &crate::backend::NetworkState) -> Result<MemberId> {
    let member = backend.add(0)?;
    match backend.import(member, state) {
        Ok(()) => Ok(member),
        Err(error) => {
            backend.remove(member);
            Err(error)
        }
    }
}
