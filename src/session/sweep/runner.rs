//! Trains the runs of a sweep: a session for each, several at a time.

use super::{SweepFolder, SweepFolderError};
use crate::backend::shared::{DeviceConnection, SharedDevice};
use crate::backend::{self, Device, OpenError};
use crate::data::{self, Dataset};
use crate::domain::report::{EpochReport, State};
use crate::domain::sweep::{Next, Progress, TrialEnd, TrialJob, TrialProgress, next_job};
use crate::session::client::SessionClient;
use crate::session::protocol::{Command, Event};
use crate::session::run_dir::RunError;
use crate::session::run_dir::lease::STALE_AFTER;
use crate::session::status::Status;
use crate::session::{Settings, find_data, start_with};
use crossbeam_channel::{Receiver, Select, TryRecvError};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Interval at which a process that waits for the runs of other processes looks at them.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// How often a run is begun that fails before its first step. Another process may have been faster to begin it, and may
/// have ended it already.
const MAX_STARTS: u32 = 3;

/// A function that opens a device on the thread that calls it.
pub type OpenDevice = Arc<dyn Fn() -> Result<Rc<dyn Device>, OpenError> + Send + Sync>;

/// What happens in a sweep.
#[derive(Clone, Debug)]
pub enum SweepEvent {
    /// A session begins or resumes the job's run.
    Began(TrialJob),
    Epoch {
        job: TrialJob,
        report: EpochReport,
    },
    Warning {
        run: String,
        text: String,
    },
    /// The job's run has ended, or has reached the epoch up to which it was to be trained (None).
    Ended {
        job: TrialJob,
        end: Option<TrialEnd>,
        why: String,
    },
}

/// What a sweep is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepRequest {
    /// Write a checkpoint of every run under way.
    Checkpoint,
    /// Save and end.
    Stop,
}

/// How the execution of a sweep ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SweepEnd {
    /// The plan is carried out, or other processes train the rest of it. These runs could not be trained; the reasons
    /// follow their names.
    Done { failed: Vec<(String, String)> },
    /// It was asked to stop. What was trained is saved.
    Stopped,
}

/// A run that is being trained.
struct Slot {
    job: TrialJob,
    client: SessionClient,
    worker: JoinHandle<()>,
    status: Status,
    /// Whether the session has the run.
    started: bool,
    /// The first step of this session; the epochs before it are the run's past.
    first_step: u64,
    /// The last epoch that this session has trained.
    epoch: u32,
    quitting: bool,
}

/// Trains what a sweep's plan says.
pub struct SweepRunner<'a> {
    folder: &'a mut SweepFolder,
    /// The settings that all sessions share.
    settings: Settings,
    /// Number of runs that are trained at the same time.
    parallel: usize,
    /// Whether to wait for the runs of other processes when nothing is left to begin.
    waits: bool,
    slots: Vec<Slot>,
    /// The runs that this process could not train, and why.
    failed: HashMap<String, String>,
    /// How often this process has failed to begin a run.
    starts: HashMap<String, u32>,
    /// Opens the device that the sessions of this process share.
    open: OpenDevice,
    /// That device, if there is one. None before the first session.
    device: Option<Option<SharedDevice>>,
    /// The data set, once a session has loaded it.
    pub(in crate::session) data: Arc<Mutex<Option<Dataset>>>,
}

impl<'a> SweepRunner<'a> {
    /// `settings` are those of every session but for its run and its hyperparameters. With `waits`, it ends when the plan
    /// is carried out, and trains the runs of processes that end before; without, it ends when other processes train
    /// all that is left. A strategy that compares trials always waits, since what follows depends on them.
    pub fn new(
        folder: &'a mut SweepFolder,
        settings: Settings,
        parallel: usize,
        waits: bool,
    ) -> Self {
        let waits = waits || folder.plan.strategy.compares();
        let (device, engine, threads) = (settings.device, settings.engine, settings.threads);
        let tuning = settings.gpu_tuning;
        SweepRunner {
            open: Arc::new(move || backend::open_tuned(device, engine, threads, tuning)),
            device: None,
            folder,
            settings,
            parallel: parallel.max(1),
            waits,
            slots: Vec::new(),
            failed: HashMap::new(),
            starts: HashMap::new(),
            data: Arc::default(),
        }
    }

    /// With another function that opens the device.
    pub fn with_device(self, open: OpenDevice) -> Self {
        SweepRunner { open, ..self }
    }

    /// Trains until the plan is carried out or it is asked to stop. `report` is called on this thread.
    ///
    /// # Errors
    /// Returns an error if the sweep's folder cannot be read, or the system refuses a thread. What was trained is saved.
    pub fn run(
        mut self,
        requests: &Receiver<SweepRequest>,
        report: &mut dyn FnMut(&SweepEvent),
    ) -> Result<SweepEnd, SweepFolderError> {
        let outcome = self.train(requests, report);
        // After an error, sessions are still under way.
        self.quit_all();
        for slot in self.slots.drain(..) {
            // A panic was reported by the session's last event.
            let _ = slot.worker.join();
        }
        outcome
    }

    fn train(
        &mut self,
        requests: &Receiver<SweepRequest>,
        report: &mut dyn FnMut(&SweepEvent),
    ) -> Result<SweepEnd, SweepFolderError> {
        let mut stopping = false;
        let mut idle_since = None;
        let mut next = Next::Wait;
        // When to read the folder again for something to begin. Nothing new can come of this process's runs before one
        // of its sessions has ended.
        let mut look_at = Instant::now();
        loop {
            while !stopping && self.slots.len() < self.parallel && Instant::now() >= look_at {
                next = self.next()?;
                let begun = match &next {
                    Next::Job(job) => self.begin(job.clone(), report)?,
                    Next::Wait | Next::Over => false,
                };
                if !begun {
                    look_at = Instant::now() + POLL_INTERVAL;
                }
            }
            match (self.slots.is_empty(), stopping, &next) {
                (true, true, _) => return Ok(SweepEnd::Stopped),
                (true, false, Next::Over) => return Ok(self.done()),
                (true, false, Next::Wait)
                    if self.leaves(*idle_since.get_or_insert_with(Instant::now))? =>
                {
                    return Ok(self.done());
                }
                (true, ..) => {}
                (false, ..) => idle_since = None,
            }
            let sessions = self.slots.len();
            let request = self.wait(requests, stopping, report)?;
            if self.slots.len() < sessions {
                look_at = Instant::now();
            }
            match request {
                None => {}
                Some(SweepRequest::Checkpoint) => {
                    for slot in &self.slots {
                        // Sending fails if the session has ended already.
                        let _ = slot.client.commands.send(Command::Checkpoint);
                    }
                }
                Some(SweepRequest::Stop) => {
                    stopping = true;
                    self.quit_all();
                }
            }
        }
    }

    fn done(&self) -> SweepEnd {
        let failed = self
            .failed
            .iter()
            .map(|(run, why)| (run.clone(), why.clone()));
        let mut failed: Vec<_> = failed.collect();
        failed.sort();
        SweepEnd::Done { failed }
    }

    /// Whether to leave the rest to the processes that train it, after it has had nothing to begin since `idle_since`. A
    /// process on another computer may have died up to [`STALE_AFTER`] ago.
    fn leaves(&mut self, idle_since: Instant) -> Result<bool, SweepFolderError> {
        Ok(!self.waits
            && (idle_since.elapsed() > STALE_AFTER || !self.folder.is_open_elsewhere()?))
    }

    fn quit_all(&mut self) {
        self.slots.iter_mut().for_each(Slot::quit);
    }

    fn next(&mut self) -> Result<Next, SweepFolderError> {
        let mut progress = self.folder.progress()?;
        for run in self.failed.keys() {
            progress.entry(run.clone()).or_default().end = Some(TrialEnd::Failed);
        }
        // A session may not have made its run's folder yet.
        for slot in &self.slots {
            progress.entry(slot.job.run.clone()).or_default().busy = true;
        }
        Ok(next_job(&self.folder.plan, &progress)?)
    }

    /// A connection to the device that the sessions share: those that follow each other, too. The first call opens it.
    /// None if it is not shared, so that each session opens its own.
    fn connection(&mut self) -> io::Result<Option<DeviceConnection>> {
        let device = match &self.device {
            Some(device) => device,
            None => {
                let open = Arc::clone(&self.open);
                self.device.insert(SharedDevice::open(move || open())?)
            }
        };
        Ok(device.as_ref().map(SharedDevice::connection))
    }

    /// Starts a session for a job. Returns false if another process has just begun its run.
    fn begin(
        &mut self,
        job: TrialJob,
        report: &mut dyn FnMut(&SweepEvent),
    ) -> Result<bool, SweepFolderError> {
        let shared_device = self.connection().map_err(SweepFolderError::Thread)?;
        let plan = &self.folder.plan;
        let mut settings = Settings {
            runs: Some(self.folder.path().into()),
            until_epoch: job.until,
            params: plan.params_of(&job.start.values),
            shared_device,
            ..self.settings.clone()
        };
        if self.folder.has_checkpoint(&job.run) {
            settings.resume = Some(self.folder.path().join(&job.run));
        } else {
            match self.folder.remove_unbegun(&job.run) {
                Err(SweepFolderError::Run(RunError::InUse(_))) => return Ok(false),
                removed => removed?,
            }
            settings.name = Some(job.run.clone());
            if let Some((donor, epoch)) = &job.start.copy_of {
                let donor = self.folder.path().join(donor);
                settings.fork = Some(format!("{}@{epoch}", donor.display()));
                settings.overrides = job
                    .start
                    .values
                    .iter()
                    .map(|(key, _)| key.clone())
                    .collect();
            }
        }
        let (named, threads) = (settings.data.clone(), settings.threads);
        let shared = Arc::clone(&self.data);
        let load = move |_: Option<&Path>, progress: &mut dyn FnMut(u64, u64)| {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            // A clone shares the pixels.
            Ok(match &*shared {
                Some(data) => data.clone(),
                None => {
                    let found = find_data(named.as_deref(), None)?;
                    shared
                        .insert(data::load(&found, progress, threads)?)
                        .clone()
                }
            })
        };
        let (client, worker) = start_with(settings, load).map_err(SweepFolderError::Thread)?;
        report(&SweepEvent::Began(job.clone()));
        self.slots.push(Slot {
            job,
            client,
            worker,
            status: Status::default(),
            started: false,
            first_step: 1,
            epoch: 0,
            quitting: false,
        });
        Ok(true)
    }

    /// Waits for the next event of a session and handles it, or for a request, which it returns.
    fn wait(
        &mut self,
        requests: &Receiver<SweepRequest>,
        stopping: bool,
        report: &mut dyn FnMut(&SweepEvent),
    ) -> Result<Option<SweepRequest>, SweepFolderError> {
        let mut select = Select::new();
        for slot in &self.slots {
            select.recv(&slot.client.events);
        }
        if !stopping {
            select.recv(requests);
        }
        let Ok(ready) = select.ready_timeout(POLL_INTERVAL) else {
            return Ok(None);
        };
        let Some(slot) = self.slots.get_mut(ready) else {
            return Ok(match requests.try_recv() {
                Ok(request) => Some(request),
                Err(TryRecvError::Empty) => None,
                // Who could ask has gone.
                Err(TryRecvError::Disconnected) => Some(SweepRequest::Stop),
            });
        };
        match slot.client.events.try_recv() {
            Ok(message) => {
                let own = message.run.as_deref() == Some(&*slot.job.run);
                slot.event(&message.event, own, report);
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => {
                let slot = self.slots.swap_remove(ready);
                self.ended(slot, stopping, report)?;
            }
        }
        Ok(None)
    }

    /// Records how a session ended.
    fn ended(
        &mut self,
        slot: Slot,
        stopping: bool,
        report: &mut dyn FnMut(&SweepEvent),
    ) -> Result<(), SweepFolderError> {
        let Slot {
            job,
            worker,
            status,
            started,
            epoch,
            ..
        } = slot;
        let panicked = worker.join().is_err() || !status.ended;
        let unsaved = status
            .unsaved
            .map(|why| format!("not everything is saved: {why}"));
        let (end, why) = match (status.state, unsaved) {
            _ if panicked => (
                Some(TrialEnd::Failed),
                "its thread died; see its log.txt".into(),
            ),
            (State::Failed { why }, _) | (_, Some(why)) => (Some(TrialEnd::Failed), why),
            (State::Done, _) => (Some(TrialEnd::Done), String::new()),
            (State::Diverged { .. }, _) => (Some(TrialEnd::Diverged), String::new()),
            // The strategy or this process ended it.
            _ if stopping || job.until.is_some_and(|until| epoch >= until) => (None, String::new()),
            _ => (Some(TrialEnd::Stopped), String::new()),
        };
        match end {
            Some(TrialEnd::Failed) if self.is_taken(&job.run)? => return Ok(()),
            Some(TrialEnd::Failed) if !started && !self.is_last_start(&job.run) => return Ok(()),
            Some(TrialEnd::Failed) => drop(self.failed.insert(job.run.clone(), why.clone())),
            Some(TrialEnd::Stopped) => self.folder.record_stopped(&job.run)?,
            _ => {}
        }
        report(&SweepEvent::Ended { job, end, why });
        Ok(())
    }

    /// Counts a failure to begin a run. Returns whether it is the last that is allowed.
    fn is_last_start(&mut self, run: &str) -> bool {
        let starts = self.starts.entry(run.into()).or_default();
        *starts += 1;
        *starts >= MAX_STARTS
    }

    /// Whether another process trains the run.
    fn is_taken(&mut self, run: &str) -> Result<bool, SweepFolderError> {
        let progress: Progress = self.folder.progress()?;
        Ok(progress
            .get(run)
            .is_some_and(|run: &TrialProgress| run.busy))
    }
}

impl Slot {
    fn event(&mut self, event: &Event, own: bool, report: &mut dyn FnMut(&SweepEvent)) {
        self.status.event(event);
        match event {
            Event::Started(run) if own => {
                self.started = true;
                let forked_at = run.origin.as_ref().map(|origin| origin.step + 1);
                self.first_step = run.resumed_at.or(forked_at).unwrap_or(1);
            }
            Event::Epoch(epoch) if own && epoch.step >= self.first_step => {
                self.epoch = epoch.epoch;
                report(&SweepEvent::Epoch {
                    job: self.job.clone(),
                    report: epoch.clone(),
                });
            }
            Event::Warning { text } => report(&SweepEvent::Warning {
                run: self.job.run.clone(),
                text: text.clone(),
            }),
            _ => {}
        }
        if self.status.state.is_over() {
            self.quit();
        }
    }

    fn quit(&mut self) {
        if !std::mem::replace(&mut self.quitting, true) {
            // Sending fails if the session has ended already.
            let _ = self.client.commands.send(Command::Quit);
        }
    }
}
