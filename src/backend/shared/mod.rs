//! A device that several runs of one process share, each on its own thread: their training steps go into the same
//! launches. One thread, the owner, opens the device and makes all calls on it. A run's [`Device`] and [`Backend`] send
//! it their calls over a channel and wait for the answers, so a run has at most one call under way.
//!
//! Members of runs with equal [`NetworkSpec`] and capacity are members of one backend. Their results do not depend on
//! each other, so every run is what it would be alone.

mod owner;
#[cfg(test)]
mod tests;

use super::{
    Backend, Device, DeviceInfo, Error, ImageSet, Inspected, Inspection, MemberId, NetworkSpec,
    NetworkState, OpenError, PartTime, Result, ScoringBatch, StepOutcome, StepPlan,
};
use crate::domain::params::Precision;
use crate::hardware::executor::ExecutorError;
use crate::hardware::threads::Threads;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use owner::DeviceOwner;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// The number of a run's backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RunId(u64);

/// A call of a run.
enum Request {
    Train(TrainRequest),
    /// Any other call. It sends its own answer.
    Call(RunId, Box<dyn FnOnce(&mut DeviceOwner) + Send>),
}

/// Training steps of one run.
struct TrainRequest {
    run: RunId,
    images: ImageSet,
    work: Vec<(MemberId, Vec<StepPlan>)>,
    answer: Sender<Result<Trained>>,
}

/// The answer to a [`TrainRequest`].
struct Trained {
    outcomes: Vec<Vec<StepOutcome>>,
    /// The time of the call, which may have made steps of other runs too, over the most steps of one run in it.
    seconds_per_step: f64,
}

/// An opened device and the thread that owns it. Dropping it waits until no run uses the device any more, and closes it:
/// the devices of its connections must be dropped before, or on other threads.
pub struct SharedDevice {
    // Dropped first: the owner ends when it has no connection left.
    connection: DeviceConnection,
    _owner: OwnerThread,
}

/// Waits for the owner's end when it is dropped.
struct OwnerThread(Option<JoinHandle<()>>);

impl Drop for OwnerThread {
    fn drop(&mut self) {
        // While this thread panics, its sessions may go on, and would be waited for.
        if let Some(owner) = self.0.take().filter(|_| !std::thread::panicking()) {
            // A panic has been printed, and the runs have reported that the device does not answer.
            let _ = owner.join();
        }
    }
}

/// What a run needs to use a shared device.
#[derive(Clone, Debug)]
pub struct DeviceConnection {
    requests: Sender<Request>,
    words: String,
    gpu_index: Option<usize>,
    precisions: &'static [Precision],
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Request::Train(request) => write!(f, "Train({:?})", request.run),
            Request::Call(run, _) => write!(f, "Call({run:?})"),
        }
    }
}

impl SharedDevice {
    /// Opens a device on a thread of its own. None if it is not of a kind that is shared ([`Device::is_shared`]), or it
    /// cannot be opened: each run then opens its own, and says why it cannot.
    ///
    /// # Errors
    /// Returns an error if the system refuses a thread.
    pub fn open(
        open: impl FnOnce() -> std::result::Result<Rc<dyn Device>, OpenError> + Send + 'static,
    ) -> std::io::Result<Option<Self>> {
        let (requests, received) = unbounded();
        let (opened, connection) = bounded(1);
        let owner = std::thread::Builder::new()
            .name("device".into())
            .spawn(move || {
                let Some(device) = open().ok().filter(|device| device.is_shared()) else {
                    return;
                };
                let info = device.info();
                let connection = DeviceConnection {
                    requests,
                    words: info.words.clone(),
                    gpu_index: info.gpu_index,
                    precisions: device.precisions(),
                };
                // This fails if whoever opens it has panicked.
                let _ = opened.send(connection);
                DeviceOwner::new(device).serve(&received);
            })?;
        Ok(connection.recv().ok().map(|connection| SharedDevice {
            connection,
            _owner: OwnerThread(Some(owner)),
        }))
    }

    /// A connection for a run.
    pub fn connection(&self) -> DeviceConnection {
        self.connection.clone()
    }
}

impl DeviceConnection {
    /// The device, for the thread of one run. `threads` is the number of its own CPU threads (0: one per core).
    pub fn device(self, threads: usize) -> Rc<dyn Device> {
        let info = DeviceInfo {
            words: self.words.clone(),
            threads: Rc::new(Threads::new(threads)),
            gpu_index: self.gpu_index,
            unused_gpu: None,
        };
        Rc::new(RunDevice {
            connection: self,
            info,
        })
    }

    fn lost(&self) -> Error {
        Error::Executor(ExecutorError::Lost {
            device: self.words.clone(),
            what: "answering",
            why: "its thread has ended".into(),
        })
    }

    fn wait<T>(&self, answer: &Receiver<Result<T>>) -> Result<T> {
        answer.recv().unwrap_or_else(|_| Err(self.lost()))
    }

    /// Calls a function on the owner's thread and waits for its result.
    fn call<T: Send + 'static>(
        &self,
        run: RunId,
        call: impl FnOnce(&mut DeviceOwner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = bounded(1);
        let call = move |owner: &mut DeviceOwner| {
            // The run waits for the answer.
            let _ = answer.send(call(owner));
        };
        let request = Request::Call(run, Box::new(call));
        self.requests.send(request).map_err(|_| self.lost())?;
        self.wait(&answered)
    }
}

/// The shared device as one run sees it.
struct RunDevice {
    connection: DeviceConnection,
    info: DeviceInfo,
}

impl Device for RunDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn precisions(&self) -> &'static [Precision] {
        self.connection.precisions
    }

    fn backend(&self, spec: &NetworkSpec, capacity: usize) -> Result<Box<dyn Backend>> {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let run = RunId(NEXT.fetch_add(1, Ordering::Relaxed));
        let (spec, capacity) = (spec.clone(), capacity.max(1));
        let joined = move |owner: &mut DeviceOwner| owner.join(run, &spec, capacity);
        let (max_steps, members_at_once) = self.connection.call(run, joined)?;
        Ok(Box::new(RunBackend {
            connection: self.connection.clone(),
            run,
            capacity,
            max_steps,
            members_at_once,
            seconds_per_step: None,
        }))
    }
}

/// A backend on the shared device as one run sees it.
struct RunBackend {
    connection: DeviceConnection,
    run: RunId,
    capacity: usize,
    max_steps: usize,
    members_at_once: usize,
    seconds_per_step: Option<f64>,
}

impl RunBackend {
    fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut DeviceOwner, RunId) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let run = self.run;
        self.connection.call(run, move |owner| call(owner, run))
    }

    /// Calls a function with the backend that has a member, and the member's id there.
    fn with_member<T: Send + 'static>(
        &self,
        member: MemberId,
        call: impl FnOnce(&mut dyn Backend, MemberId) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.call(move |owner, run| {
            let (backend, member) = owner.member(run, member)?;
            call(backend, member)
        })
    }
}

impl Backend for RunBackend {
    fn max_steps(&self) -> usize {
        self.max_steps
    }

    fn seconds_per_step(&self) -> Option<f64> {
        self.seconds_per_step
    }

    fn members_at_once(&self) -> usize {
        self.members_at_once
    }

    fn add(&mut self, seed: u64) -> Result<MemberId> {
        self.call(move |owner, run| owner.add(run, |backend| backend.add(seed)))
    }

    fn copy(&mut self, member: MemberId) -> Result<MemberId> {
        self.call(move |owner, run| {
            let (_, member) = owner.member(run, member)?;
            owner.add(run, |backend| backend.copy(member))
        })
    }

    fn remove(&mut self, member: MemberId) {
        // If the device does not answer, the next call says so.
        let _ = self.call(move |owner, run| owner.remove(run, member));
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn resize(&mut self, capacity: usize) -> Result<()> {
        let capacity = capacity.max(1);
        if capacity != self.capacity {
            self.call(move |owner, run| owner.resize(run, capacity))?;
            self.capacity = capacity;
        }
        Ok(())
    }

    fn train(
        &mut self,
        images: &Rc<ImageSet>,
        work: &[(MemberId, Vec<StepPlan>)],
        stop: &AtomicBool,
    ) -> Result<Vec<Vec<StepOutcome>>> {
        if stop.load(Ordering::Relaxed) {
            return Ok(vec![Vec::new(); work.len()]);
        }
        let (answer, answered) = bounded(1);
        let request = Request::Train(TrainRequest {
            run: self.run,
            images: ImageSet::clone(images),
            work: work.to_vec(),
            answer,
        });
        let sent = self.connection.requests.send(request);
        sent.map_err(|_| self.connection.lost())?;
        let trained = self.connection.wait(&answered)?;
        self.seconds_per_step = Some(trained.seconds_per_step);
        Ok(trained.outcomes)
    }

    fn score(&mut self, member: MemberId, batch: ScoringBatch) -> Result<()> {
        let ScoringBatch {
            images,
            numbers,
            weights,
            tta,
            probabilities,
            losses,
        } = batch;
        let (images, numbers) = (ImageSet::clone(images), numbers.to_vec());
        let (mut found, mut found_losses) = (probabilities.to_vec(), losses.to_vec());
        let (found, found_losses) = self.call(move |owner, run| {
            let images = owner.images(images);
            let (backend, member) = owner.member(run, member)?;
            backend.score(
                member,
                ScoringBatch {
                    images: &images,
                    numbers: &numbers,
                    weights,
                    tta,
                    probabilities: &mut found,
                    losses: &mut found_losses,
                },
            )?;
            Ok((found, found_losses))
        })?;
        probabilities.copy_from_slice(&found);
        losses.copy_from_slice(&found_losses);
        Ok(())
    }

    fn has_average(&mut self, member: MemberId) -> Result<bool> {
        self.with_member(member, |backend, member| backend.has_average(member))
    }

    fn inspect(&mut self, member: MemberId, inspection: &Inspection) -> Result<Inspected> {
        let Inspection {
            activations,
            units,
            gradients,
        } = inspection.clone();
        let activations = activations.map(|(images, image)| (ImageSet::clone(&images), image));
        let units = units.map(|(images, numbers)| (ImageSet::clone(&images), numbers));
        self.with_member(member, move |backend, member| {
            let inspection = Inspection {
                activations: activations.map(|(images, image)| (Rc::new(images), image)),
                units: units.map(|(images, numbers)| (Rc::new(images), numbers)),
                gradients,
            };
            backend.inspect(member, &inspection)
        })
    }

    fn export(&mut self, member: MemberId) -> Result<NetworkState> {
        self.with_member(member, |backend, member| backend.export(member))
    }

    fn import(&mut self, member: MemberId, state: &NetworkState) -> Result<()> {
        let state = state.clone();
        self.with_member(member, move |backend, member| {
            backend.import(member, &state)
        })
    }

    fn measure(&mut self, _: bool) {}

    /// Empty: the launches that runs share are nobody's own.
    fn timings(&self) -> Vec<PartTime> {
        Vec::new()
    }
}

impl Drop for RunBackend {
    fn drop(&mut self) {
        let run = self.run;
        let leave = Request::Call(run, Box::new(move |owner| owner.leave(run)));
        // This fails if the owner has ended.
        let _ = self.connection.requests.send(leave);
    }
}
