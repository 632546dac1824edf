//! The worker: the thread on which a session's device, network and data live. It hosts the training loop: between any
//! two batches it takes up commands, tells what happened and sees to the files. While there is nothing to train it
//! blocks on its channel.

mod final_scores;
mod go_back;
mod health;

use super::client::EventSender;
use super::download::Download;
use super::load::LoadMeter;
use super::protocol::{Answer, Command, Event, Question};
use super::questions::{self, Known};
use super::resume::{self, ResumeError, ResumePoint};
use super::run_dir::{self, Lost, Owner, RunDir, RunError};
use super::runs::RunsFolder;
use super::{Settings, pictures};
use crate::backend::{self, Device, OpenError};
use crate::data::{DataError, Dataset};
use crate::domain::health::HealthMonitor;
use crate::domain::params::{self, HyperParamError, Value};
use crate::domain::report::{EpochReport, RunInfo, Split, State, StepReport};
use crate::train::checkpoint::{Applied, Checkpoint, CheckpointError};
use crate::train::evaluate::Scores;
use crate::train::saver::{Job, LAST, NewBest, Saver, WHAT_TO_DO};
use crate::train::trainer::{ChangeOutcome, End, Phase, Trainer, TrainingHost};
use crate::train::training_data::TrainingData;
use crossbeam_channel::TryRecvError;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Most time between two checkpoints while training.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);
/// Time until a save that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// What ends a session. The messages say what to do.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Device(#[from] OpenError),
    #[error(transparent)]
    Train(#[from] crate::train::Error),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Resume(#[from] ResumeError),
    #[error("the system gives no thread for saving: {0}")]
    Thread(std::io::Error),
}

type Result<T> = std::result::Result<T, SessionError>;

/// The session from its first event to `Ended`.
pub(super) fn run(settings: Settings, owner: Owner, tell: EventSender, load: impl Load) {
    let mut params = settings.params.clone();
    let mut unfinished = None;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        tell.event(Event::State(loading("data", 0, 0)));
        let mut early = VecDeque::new();
        let point = match &settings.resume {
            None => None,
            Some(wanted) => match resume::begin(wanted, &settings, &owner, &tell, &mut early)? {
                None => return Ok(State::Stopped),
                point => point,
            },
        };
        let recorded = point.as_ref().and_then(ResumePoint::data);
        let Some(mut worker) = Worker::new(&settings, owner, &tell, early, recorded, load)? else {
            return Ok(State::Stopped);
        };
        let outcome = worker.live(point, &mut params);
        unfinished = worker.run.take();
        outcome
    }));
    let state = match outcome {
        Ok(Ok(state)) => state,
        Ok(Err(error)) => State::Failed {
            why: error.to_string(),
        },
        Err(panic) => {
            let message = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            State::Failed {
                why: format!(
                    "the training thread panicked: {message}. This is an error in the program; the last checkpoint is safe, go on from it with --resume."
                ),
            }
        }
    };
    if let State::Failed { why } = &state {
        tracing::error!("{why}");
        let event = Event::State(state.clone());
        if let Some(mut run) = unfinished
            && let Err(error) = run.event(&event)
        {
            tracing::error!("{error}");
        }
        tell.event(event);
    }
    tell.event(Event::Ended {
        params: Box::new(params),
        state,
    });
}

/// Brings the data, which a resumed run had at the path; told of its progress as (done, total).
pub(super) trait Load:
    FnOnce(Option<&Path>, &mut dyn FnMut(u64, u64)) -> std::result::Result<Dataset, DataError>
    + Send
    + 'static
{
}

impl<T> Load for T where
    T: FnOnce(Option<&Path>, &mut dyn FnMut(u64, u64)) -> std::result::Result<Dataset, DataError>
        + Send
        + 'static
{
}

/// Loads the data on a thread of its own: a wish to quit ends the wait at once, also where a read stands still (a network
/// drive). None when the session is to end; the thread is then left behind. Other commands are put into `early`.
fn load_data(
    tell: &EventSender,
    load: impl FnOnce(&mut dyn FnMut(u64, u64)) -> std::result::Result<Dataset, DataError>
    + Send
    + 'static,
    interval: Duration,
    early: &mut VecDeque<Command>,
) -> Result<Option<Dataset>> {
    let (report, reports) = crossbeam_channel::unbounded();
    let (done, loaded) = crossbeam_channel::bounded(1);
    let thread = std::thread::Builder::new()
        .name("load".into())
        .spawn(move || {
            let mut reported_at = Instant::now();
            let data = load(&mut |done, total| {
                if reported_at.elapsed() >= interval {
                    reported_at = Instant::now();
                    // Nobody listens once the session is to end.
                    let _ = report.send((done, total));
                }
            });
            let _ = done.send(data);
        })
        .map_err(SessionError::Thread)?;
    let mut reports = Some(reports);
    let silent = crossbeam_channel::never();
    loop {
        crossbeam_channel::select! {
            recv(reports.as_ref().unwrap_or(&silent)) -> report => match report {
                Ok((done, total)) => tell.event(Event::State(loading("images", done, total))),
                Err(_) => reports = None,
            },
            recv(loaded) -> data => match data {
                Ok(data) => return Ok(Some(data?)),
                // It panicked: as if it had done so here.
                Err(_) => match thread.join() {
                    Err(panic) => std::panic::resume_unwind(panic),
                    Ok(()) => return Ok(None),
                },
            },
            recv(tell.commands) -> command => match command {
                Ok(Command::Quit | Command::SaveAndQuit) | Err(_) => return Ok(None),
                Ok(other) => early.push_back(other),
            },
        }
    }
}

/// Why the loop is to be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Quit,
    Stop,
    Restart,
    /// To an earlier checkpoint.
    GoBack,
    /// An error is waiting.
    Failed,
}

fn loading(what: &str, done: u64, total: u64) -> State {
    State::Loading {
        what: what.into(),
        done,
        total,
    }
}

struct Worker<'a> {
    settings: &'a Settings,
    owner: Owner,
    tell: &'a EventSender,
    /// Commands that came while the data was loaded.
    early: VecDeque<Command>,
    device: Rc<dyn Device>,
    training_data: Rc<TrainingData>,
    saver: Saver,
    runs: Option<RunsFolder>,
    run: Option<RunDir>,
    /// Validation and test images.
    known: [Known; 2],
    shown: Split,
    health: HealthMonitor,
    /// The step that the run went back to the last time.
    went_back_to: Option<u64>,
    /// The step of the best weights that the test images were scored with.
    best_scored: Option<u64>,
    paused: bool,
    /// Pause after the next step.
    one_step: bool,
    /// Go on after the run was over.
    go_on: bool,
    /// The next evaluation of this split is for the screen alone: an unbroken run would not have made it.
    look_only: Option<Split>,
    /// Splits to be scored when the loop asks next.
    to_score: Vec<Split>,
    exit: Option<Exit>,
    error: Option<SessionError>,
    /// The state that was told last.
    reported_state: State,
    state_reported_at: Instant,
    /// How the run ended, once it has.
    over: Option<State>,
    steps: Option<StepReport>,
    steps_reported_at: Instant,
    saved_step: Option<u64>,
    saved_at: Instant,
    /// Why the newest checkpoint, the newest lines of the metrics and the pictures of a run that is over are not on the
    /// disk; and what was told of it.
    save_failed: Option<String>,
    metrics_failed: Option<String>,
    pictures_failed: Option<String>,
    unsaved: Option<String>,
    meter: LoadMeter,
    download: Option<Download>,
}

impl<'a> Worker<'a> {
    /// Opens the device and loads the data, which a resumed run had at `recorded`; None when the session is to end before
    /// that is done. `early` holds commands that came before.
    fn new(
        settings: &'a Settings,
        owner: Owner,
        tell: &'a EventSender,
        mut early: VecDeque<Command>,
        recorded: Option<PathBuf>,
        load: impl Load,
    ) -> Result<Option<Self>> {
        let device = backend::open(settings.device, settings.engine, settings.threads)?;
        let interval = settings.report_interval;
        let load = move |progress: &mut dyn FnMut(u64, u64)| load(recorded.as_deref(), progress);
        let Some(data) = load_data(tell, load, interval, &mut early)? else {
            return Ok(None);
        };
        tell.event(Event::Data(data.info.clone()));
        let now = Instant::now();
        let gpu = device.info().gpu_index;
        Ok(Some(Worker {
            settings,
            tell,
            early,
            training_data: Rc::new(TrainingData::new(data)?),
            device,
            saver: Saver::start().map_err(SessionError::Thread)?,
            runs: settings
                .runs
                .as_deref()
                .map(|runs| RunsFolder::new(runs, owner.clone())),
            owner,
            run: None,
            known: Default::default(),
            shown: Split::Validation,
            health: HealthMonitor::default(),
            went_back_to: None,
            best_scored: None,
            paused: settings.paused,
            one_step: false,
            go_on: false,
            look_only: None,
            to_score: Vec::new(),
            exit: None,
            error: None,
            reported_state: loading("data", 0, 0),
            state_reported_at: now,
            over: None,
            steps: None,
            steps_reported_at: now,
            saved_step: None,
            saved_at: now,
            save_failed: None,
            metrics_failed: None,
            pictures_failed: None,
            unsaved: None,
            meter: LoadMeter::new(gpu),
            download: None,
        }))
    }

    /// Runs until the front end quits or goes; gives the state in which it left.
    fn live(
        &mut self,
        point: Option<ResumePoint>,
        last_params: &mut params::Hyperparameters,
    ) -> Result<State> {
        let mut trainer = match point {
            None => self.first_run()?,
            Some(point) => self.resumed_run(point)?,
        };
        loop {
            *last_params = trainer.run_state().params.clone();
            self.over = None;
            let mut end = trainer.run(self)?;
            self.tell_steps();
            if end == End::Finished && !self.score_at_the_end(&mut trainer)? {
                end = End::Left;
            }
            self.over = match (end, self.exit) {
                (End::Finished, _) => Some(State::Done),
                (End::Diverged { step, first }, _) => Some(State::Diverged { step, first }),
                (End::Left, Some(Exit::Stop)) => Some(State::Stopped),
                (End::Left, _) => None,
            };
            if let Some(over) = self.over.clone() {
                self.exit = None;
                self.close_run(&mut trainer, over);
                self.rest(&mut trainer);
            }
            *last_params = trainer.run_state().params.clone();
            match self.exit.take() {
                Some(Exit::Quit) => {
                    let state = self.over.clone().unwrap_or(State::Stopped);
                    self.save_everything(&mut trainer);
                    if self.over.is_none() {
                        self.record(Event::State(State::Stopped));
                    }
                    return match self.lost() {
                        Some(lost) => Err(RunError::Lost(lost).into()),
                        None => Ok(state),
                    };
                }
                Some(Exit::Restart) => self.restart(&mut trainer),
                Some(Exit::GoBack) => self.go_back(&mut trainer),
                Some(Exit::Failed) => {
                    if let Some(error) = self.error.take() {
                        return Err(error);
                    }
                }
                Some(Exit::Stop) | None => {}
            }
        }
    }

    /// A new run, which the session starts with.
    fn first_run(&mut self) -> Result<Trainer> {
        let trainer = self.new_trainer(self.settings.params.clone())?;
        let run = self.new_run(&trainer, self.settings.name.as_deref())?;
        let mut trainer = self.begin(trainer, run, None);
        // So that there is always something to go back to.
        self.save(&mut trainer, false);
        Ok(trainer)
    }

    /// A run that goes on, which the session starts with.
    fn resumed_run(&mut self, point: ResumePoint) -> Result<Trainer> {
        if let Some(text) = point.warning {
            self.tell.event(Event::Warning { text });
        }
        let trainer = self.trainer_from(point.checkpoint, &point.path)?;
        let run_state = trainer.run_state();
        let mut past = Vec::new();
        let run = match (point.path.parent().zip(point.path.file_name()), point.lease) {
            // The checkpoint lies in no run's folder.
            (_, None) => self.new_run(&trainer, self.settings.name.as_deref())?,
            (None, Some(_)) => None,
            (Some((folder, file)), Some(lease)) => {
                let (run, whole) = RunDir::resume(
                    folder,
                    lease,
                    &run_state.params,
                    run_state.step,
                    run_state.metrics_bytes,
                    run_state.unwritten.clone(),
                )?;
                if !whole {
                    self.tell.event(Event::Warning {
                        text: format!(
                            "the metrics of {} are shorter than the checkpoint expects; the curves have a gap",
                            run.name
                        ),
                    });
                }
                run.adopt(&file.to_string_lossy(), run_state.is_best())?;
                past = self.read_past(folder, run_state.metrics_bytes)?;
                Some(run)
            }
        };
        let step = run_state.step;
        let mut trainer = self.begin(trainer, run, Some(step + 1));
        self.go_on_from(step, past);
        for key in &self.settings.overrides {
            if let Some(row) = params::param(key) {
                let value = row.get(&self.settings.params);
                self.set(&mut trainer, row.key, value);
            }
        }
        Ok(trainer)
    }

    /// The events in the first `bytes` of a run's metrics; warns of lines that were passed over.
    fn read_past(&self, folder: &Path, bytes: u64) -> Result<Vec<Event>> {
        let (events, too_long) = run_dir::read_metrics(folder, bytes)
            .map_err(RunError::io("cannot read the metrics in", folder))?;
        if too_long > 0 {
            let text = format!(
                "the metrics in {} have lines that are too long to be read ({too_long}); the curves may have a gap",
                folder.display()
            );
            self.tell.event(Event::Warning { text });
        }
        Ok(events)
    }

    /// Tells what a run that goes on after `step` knows of its past, and has a look at the images wanted.
    fn go_on_from(&mut self, step: u64, mut past: Vec<Event>) {
        past.retain(|event| {
            matches!(
                event,
                Event::Steps(_)
                    | Event::Epoch(_)
                    | Event::Evaluation(_)
                    | Event::Applied { .. }
                    | Event::Health(_)
            )
        });
        self.health = health::recall(&past);
        self.tell.past(past);
        self.saved_step = Some(step);
        if step > 0 {
            self.to_score = vec![Split::Validation];
            self.look_only = Some(Split::Validation);
        }
    }

    fn new_trainer(&self, params: params::Hyperparameters) -> Result<Trainer> {
        let training_data = Rc::clone(&self.training_data);
        let stop = Arc::clone(self.tell.interrupt());
        Ok(Trainer::new(params, training_data, &*self.device, stop)?)
    }

    /// A trainer that goes on from a checkpoint; `path` is for the messages.
    fn trainer_from(&self, checkpoint: Checkpoint, path: &Path) -> Result<Trainer> {
        let training_data = Rc::clone(&self.training_data);
        let stop = Arc::clone(self.tell.interrupt());
        let device = &*self.device;
        Ok(Trainer::resume(
            checkpoint,
            path,
            training_data,
            device,
            stop,
        )?)
    }

    fn new_run(&self, trainer: &Trainer, name: Option<&str>) -> Result<Option<RunDir>> {
        let params = &trainer.run_state().params;
        match &self.runs {
            Some(runs) => Ok(Some(RunDir::create(
                runs.folder(),
                name,
                params,
                &self.owner,
            )?)),
            None => Ok(None),
        }
    }

    /// Makes this the run of the session, and tells.
    fn begin(
        &mut self,
        mut trainer: Trainer,
        run: Option<RunDir>,
        resumed_at: Option<u64>,
    ) -> Trainer {
        self.run = run;
        self.known = Default::default();
        self.health = HealthMonitor::default();
        self.best_scored = None;
        self.to_score.clear();
        self.look_only = None;
        self.steps = None;
        self.saved_step = None;
        self.saved_at = Instant::now();
        self.pictures_failed = None;
        let (name, folder) = match &self.run {
            Some(run) => (run.name.clone(), run.folder().display().to_string()),
            None => Default::default(),
        };
        let started = match trainer.run_state().started {
            started if started > 0.0 => started,
            _ => run_dir::now(),
        };
        trainer.set_identity(name.clone(), started);
        trainer.watch_test = self.shown == Split::Test;
        self.set_length(&trainer);
        let layers = trainer.layers();
        let division = trainer.division();
        let run_state = trainer.run_state();
        let info = RunInfo {
            name,
            folder,
            data: self.training_data.info.clone(),
            device: self.device.info().words.clone(),
            params: run_state.params.clone(),
            architecture: run_state.architecture.clone(),
            parameters: layers.iter().map(|l| l.parameters).sum(),
            multiply_adds: layers.iter().map(|l| l.multiply_adds).sum(),
            layers,
            train: division.train.len() as u32,
            validation: division.validation.len() as u32,
            test: self.training_data.info.test,
            steps_per_epoch: trainer.steps_per_epoch(),
            resumed_at,
            started,
        };
        tracing::info!("run {} begins: {:?}", info.name, info.params);
        self.record(Event::Started(Box::new(info)));
        if let Some(error) = &self.device.info().unused_gpu {
            self.warn(format!("the GPU is not used: {error}"));
        }
        let warnings = self.run.as_mut().map(RunDir::take_warnings);
        warnings.into_iter().flatten().for_each(|w| self.warn(w));
        trainer
    }

    /// Replaces the run by a new one with everything that waits. When that cannot be, the old one stays.
    fn restart(&mut self, trainer: &mut Trainer) {
        let made = self
            .new_trainer(trainer.wanted_params())
            .and_then(|new| Ok((self.new_run(&new, None)?, new)));
        match made {
            Ok((run, new)) => {
                self.save_everything(trainer);
                if self.over.is_none() {
                    self.record(Event::State(State::Stopped));
                }
                self.paused = false;
                *trainer = self.begin(new, run, None);
                self.save(trainer, false);
            }
            Err(error) => self.warn(format!("the run could not be restarted: {error}")),
        }
    }

    /// What is left to do when a run is over.
    fn close_run(&mut self, trainer: &mut Trainer, over: State) {
        self.save_everything(trainer);
        self.record(Event::State(over));
        self.write_pictures();
    }

    /// Draws the run's curves and its newest matrix into its folder.
    fn write_pictures(&mut self) {
        let Some(run) = &mut self.run else {
            return;
        };
        let evaluation = [1, 0]
            .into_iter()
            .find_map(|i| self.known[i].scores.as_ref());
        let evaluation = evaluation.map(|scores| &scores.evaluation);
        let written = pictures::write(run, &self.training_data.info.classes, evaluation);
        self.pictures_failed = written.err().map(|why| format!("{why}. {WHAT_TO_DO}"));
        self.tell_unsaved();
    }

    /// Blocks on the channel until there is something to train again, or the session ends.
    fn rest(&mut self, trainer: &mut Trainer) {
        self.go_on = false;
        while self.exit.is_none() && !self.go_on {
            if self.score_wanted(trainer).is_break() {
                return;
            }
            if let Some(over) = self.over.clone() {
                self.tell_state(over);
            }
            self.try_again(trainer);
            if let Some(command) = self.wait() {
                self.handle(command, trainer, Phase::Training);
            }
            // More epochs were asked for.
            self.go_on |= self.over == Some(State::Done) && !trainer.is_finished();
        }
    }

    /// The next command, or None when something else happened. A front end that has gone wants to quit.
    fn wait(&mut self) -> Option<Command> {
        if let Some(command) = self.early.pop_front() {
            return Some(command);
        }
        let again = match self.unsaved {
            Some(_) => crossbeam_channel::after(RETRY_INTERVAL),
            None => crossbeam_channel::never(),
        };
        let lost = match &self.run {
            Some(run) => run.on_loss(),
            None => crossbeam_channel::never(),
        };
        crossbeam_channel::select! {
            recv(self.tell.commands) -> command => Some(command.unwrap_or(Command::Quit)),
            recv(self.saver.outcomes()) -> outcome => {
                match outcome {
                    Ok(outcome) => {
                        self.saver.took_one();
                        self.saved(outcome);
                        None
                    }
                    // The thread that saves has died, which the next save tells; it must not wake this one for ever.
                    Err(_) => Some(self.tell.commands.recv().unwrap_or(Command::Quit)),
                }
            }
            recv(again) -> _ => None,
            recv(lost) -> _ => {
                self.has_lost_its_run();
                None
            }
        }
    }

    /// Who has the run, if that is not this session any more.
    fn lost(&self) -> Option<Lost> {
        self.run.as_ref().and_then(RunDir::lost).cloned()
    }

    /// Makes the session end when its run is another's.
    fn has_lost_its_run(&mut self) -> bool {
        if let Some(lost) = self.lost() {
            self.error = Some(RunError::Lost(lost).into());
            self.exit = Some(Exit::Failed);
        }
        self.exit == Some(Exit::Failed)
    }

    fn handle(&mut self, command: Command, trainer: &mut Trainer, phase: Phase) {
        let evaluating = phase != Phase::Training;
        match command {
            Command::Quit => self.exit = Some(Exit::Quit),
            Command::SaveAndQuit => self.save_and_quit(trainer),
            Command::Restart => self.exit = Some(Exit::Restart),
            Command::GoBack => self.wants_back(trainer),
            Command::Stop => match self.over {
                None => self.exit = Some(Exit::Stop),
                Some(_) => self.notice("the run is over already"),
            },
            Command::Pause => match self.over {
                None => self.paused = true,
                Some(_) => self.notice("the run is over: there is nothing to pause"),
            },
            Command::Resume | Command::Step => match &self.over {
                Some(State::Diverged { .. }) => self.notice(
                    "the run has diverged: go back to a checkpoint with a lower learning rate, or lower the learning rate and restart",
                ),
                Some(_) if trainer.is_finished() => {
                    self.notice("all epochs are through: raise `epochs` to go on, or restart");
                }
                _ => {
                    self.paused = false;
                    self.one_step = command == Command::Step;
                    self.go_on = true;
                }
            },
            Command::Evaluate if evaluating => self.notice("an evaluation is under way already"),
            Command::Evaluate => {
                self.want_score(Split::Validation);
                if self.shown == Split::Test {
                    self.want_score(Split::Test);
                }
            }
            Command::Checkpoint => match &self.run {
                Some(_) => self.save(trainer, false),
                None => self.notice("nothing is saved: this session has no runs folder"),
            },
            Command::Set { key, value } => self.set(trainer, &key, value),
            Command::Undo => match trainer.undo() {
                Ok(Some((row, outcome))) => self.report_change(row.key, outcome),
                Ok(None) => self.notice("there is no change to take back"),
                Err(error) => self.tell.event(Event::Refused { error }),
            },
            Command::Show { split } => self.show(trainer, split),
            Command::Ask { id, question } => {
                let answer = self.answer(trainer, question);
                self.tell.event(Event::Answer { id, answer });
            }
            Command::Download => self.fetch_data(),
        }
    }

    /// Begins to fetch CIFAR-10, unless that is under way.
    fn fetch_data(&mut self) {
        if self.download.as_ref().is_some_and(|d| !d.is_over()) {
            self.notice("the data is being fetched already");
            return;
        }
        match Download::start(self.settings.download_to.clone(), self.tell.clone()) {
            Ok(download) => self.download = Some(download),
            Err(error) => self.warn(format!("the system gives no thread to fetch with: {error}")),
        }
    }

    fn set(&mut self, trainer: &mut Trainer, key: &str, value: Value) {
        let outcome = params::find(key).and_then(|row| {
            Ok::<_, HyperParamError>((row.key, trainer.request_change(row, value)?))
        });
        match outcome {
            Ok((key, outcome)) => self.report_change(key, outcome),
            Err(error) => self.tell.event(Event::Refused { error }),
        }
    }

    fn report_change(&mut self, key: &str, outcome: ChangeOutcome) {
        match outcome {
            ChangeOutcome::Applied(applied) => self.applied(&applied),
            ChangeOutcome::Waits(change, applies) => {
                self.tell.event(Event::Pending { change, applies })
            }
            ChangeOutcome::Withdrawn => self.tell.event(Event::Withdrawn { key: key.into() }),
            ChangeOutcome::Unchanged => {}
        }
    }

    fn show(&mut self, trainer: &mut Trainer, split: Split) {
        if split == Split::Train {
            self.notice("Confusion and Samples show the validation or the test images");
            return;
        }
        self.shown = split;
        trainer.watch_test = split == Split::Test;
        let step = trainer.run_state().step;
        let [validation, test] = [0, 1].map(|i| self.known[i].scores.as_ref().map(|s| s.step));
        let missing = match split {
            Split::Test => test.is_none_or(|t| validation.is_some_and(|v| v > t)) && step > 0,
            _ => false,
        };
        if missing {
            self.want_score(Split::Test);
        }
    }

    fn answer(&mut self, trainer: &mut Trainer, question: Question) -> Answer {
        let shown = usize::from(self.shown == Split::Test);
        let answer = match question {
            Question::Samples {
                filter,
                offset,
                count,
            } => self.known[shown].samples(&self.training_data, &filter, offset, count),
            Question::Cell {
                truth,
                predicted,
                offset,
                count,
            } => self.known[shown].cell(&self.training_data, (truth, predicted), offset, count),
            Question::Browse {
                split,
                class,
                offset,
                count,
            } => questions::browse(trainer, split, class, offset, count),
            Question::Augmented { index, count } => questions::augmented(trainer, index, count),
            Question::Model { activations_of } => {
                questions::model(trainer, self.shown, activations_of)
            }
            Question::Runs => return self.ask_runs(|_| Ok(())),
            Question::RenameRun { name, to } => {
                return self.ask_runs(|runs| runs.rename(&name, &to));
            }
            Question::NoteRun { name, note } => {
                let open = self.run.as_ref().map(|run| run.files().clone());
                return self.ask_runs(|runs| runs.note(&name, &note, open.as_ref()));
            }
            Question::DeleteRun { name } => return self.ask_runs(|runs| runs.delete(&name)),
        };
        answer.unwrap_or_else(|error| Answer::Failed {
            why: error.to_string(),
        })
    }

    /// Does something to the runs folder, then lists it.
    fn ask_runs(
        &mut self,
        change: impl FnOnce(&mut RunsFolder) -> std::result::Result<(), RunError>,
    ) -> Answer {
        let Some(runs) = &mut self.runs else {
            return Answer::Failed {
                why: "this session has no runs folder".into(),
            };
        };
        match change(runs).and_then(|()| runs.list()) {
            Ok(items) => Answer::Runs {
                folder: runs.folder().display().to_string(),
                items,
            },
            Err(error) => Answer::Failed {
                why: error.to_string(),
            },
        }
    }

    fn want_score(&mut self, split: Split) {
        if !self.to_score.contains(&split) {
            self.to_score.push(split);
        }
    }

    /// Scores what was asked for.
    fn score_wanted(&mut self, trainer: &mut Trainer) -> ControlFlow<()> {
        while let Some(split) = self.to_score.first().copied() {
            self.to_score.remove(0);
            match trainer.evaluate(self, split) {
                Ok(Some(scores)) => self.evaluated(scores),
                Ok(None) => return ControlFlow::Break(()),
                Err(error) => {
                    self.error = Some(error.into());
                    self.exit = Some(Exit::Failed);
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// What is due from time to time.
    fn keep_house(&mut self, trainer: &mut Trainer) {
        if self.has_lost_its_run() {
            return;
        }
        if self.steps_reported_at.elapsed() >= self.settings.report_interval {
            self.tell_steps();
        }
        self.tell_saved(false);
        if let Some(load) = self.meter.look() {
            self.tell.event(Event::Load(load));
        }
        let due = self.saved_at.elapsed() >= CHECKPOINT_INTERVAL;
        if due && !self.saver.is_busy() && self.run.is_some() {
            self.save_unsaved(trainer);
        }
        self.try_again(trainer);
    }

    /// Saves anew what could not be saved some time ago.
    fn try_again(&mut self, trainer: &mut Trainer) {
        if self.unsaved.is_none() || self.saved_at.elapsed() < RETRY_INTERVAL {
            return;
        }
        self.write_files();
        match self.save_failed.is_some() && !self.saver.is_busy() && !self.has_diverged() {
            true => self.save(trainer, false),
            false => self.saved_at = Instant::now(),
        }
    }

    fn save_unsaved(&mut self, trainer: &mut Trainer) {
        let step = trainer.run_state().step;
        // Somebody may have deleted the run's folder.
        let deleted = |run: &RunDir| !self.saver.is_busy() && !run.folder().join(LAST).is_file();
        let deleted = self.run.as_ref().is_some_and(deleted);
        if step > 0 && (self.saved_step != Some(step) || deleted) {
            self.save(trainer, false);
        }
    }

    /// The weights just before a divergence are seldom any good: the last checkpoint stays.
    fn has_diverged(&self) -> bool {
        matches!(self.over, Some(State::Diverged { .. }))
    }

    /// Saves what is not saved yet, and waits for it.
    fn save_everything(&mut self, trainer: &mut Trainer) {
        if !self.has_diverged() {
            self.save_unsaved(trainer);
        }
        self.write_files();
        self.tell_saved(true);
    }

    /// Writes what waits for its file beside the checkpoints.
    fn write_files(&mut self) {
        self.write(RunDir::flush);
        if self.pictures_failed.is_some() {
            self.write_pictures();
        }
    }

    /// Finishes, unless something would be lost.
    fn save_and_quit(&mut self, trainer: &mut Trainer) {
        self.save_everything(trainer);
        match &self.unsaved {
            None => self.exit = Some(Exit::Quit),
            why => self.tell.event(Event::Unsaved { why: why.clone() }),
        }
    }

    /// Hands a copy of everything to the thread that saves.
    fn save(&mut self, trainer: &mut Trainer, best: bool) {
        let Some(run) = &mut self.run else {
            return;
        };
        self.saved_at = Instant::now();
        trainer.set_metrics(run.position());
        let metrics = run.metrics_file();
        let folder = run.files().clone();
        match trainer.checkpoint() {
            Ok(Some(checkpoint)) => {
                self.saved_step = Some(checkpoint.run_state.step);
                self.saver.save(Job {
                    checkpoint,
                    folder,
                    best: if best { NewBest::This } else { NewBest::None },
                    metrics: Some(metrics),
                });
            }
            Ok(None) => self.warn("no checkpoint was made: a weight is not finite".into()),
            Err(error) => self.warn(format!("no checkpoint was made: {error}")),
        }
    }

    /// Tells what was saved; waits for what is under way if asked to.
    fn tell_saved(&mut self, wait: bool) {
        let outcomes = if wait {
            self.saver.finish()
        } else {
            self.saver.finished()
        };
        for outcome in outcomes {
            self.saved(outcome);
        }
    }

    fn saved(&mut self, outcome: crate::train::saver::SaveOutcome) {
        match outcome {
            Ok(reports) => {
                for report in reports {
                    self.tell.event(Event::Checkpoint(report));
                }
                if self.save_failed.take().is_some() {
                    // There is room again, for all of it.
                    self.write_files();
                }
            }
            Err(why) => {
                self.saved_step = None;
                self.save_failed = Some(why);
            }
        }
        self.tell_unsaved();
    }

    /// Tells when saving begins to fail, fails for another reason, or goes well again.
    fn tell_unsaved(&mut self) {
        let first = |why: &str| why.split_once(": ").map(|(_, why)| why.to_owned());
        let why = [
            &self.save_failed,
            &self.metrics_failed,
            &self.pictures_failed,
        ]
        .into_iter()
        .find_map(Option::as_ref);
        // The step in the message changes with each attempt; the reason is what counts.
        let same = match (&self.unsaved, why) {
            (Some(old), Some(new)) => first(old) == first(new),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.unsaved = why.cloned();
            match &self.unsaved {
                Some(why) => tracing::warn!("{why}"),
                None => tracing::info!("everything is saved again"),
            }
            let why = self.unsaved.clone();
            self.tell.event(Event::Unsaved { why });
        }
    }

    fn tell_steps(&mut self) {
        self.steps_reported_at = Instant::now();
        if let Some(report) = self.steps.take() {
            self.tell.event(Event::Steps(report));
        }
    }

    fn tell_state(&mut self, state: State) {
        if self.reported_state != state {
            self.reported_state = state.clone();
            self.state_reported_at = Instant::now();
            self.tell.event(Event::State(state));
        }
    }

    /// Tells, and writes into the run's metrics.
    fn record(&mut self, event: Event) {
        if let Event::State(state) = &event {
            self.reported_state = state.clone();
        }
        self.write(|run| run.event(&event));
        self.tell.event(event);
    }

    /// A disk that is full must not end the training: it is told, and what could not be written waits for room.
    fn write(&mut self, write: impl FnOnce(&mut RunDir) -> std::io::Result<()>) {
        let Some(run) = &mut self.run else {
            return;
        };
        match write(run) {
            Ok(()) if run.is_flushed() => self.metrics_failed = None,
            Ok(()) => {}
            Err(error) => {
                self.metrics_failed = Some(format!(
                    "the metrics in {} could not be written: {error}. {WHAT_TO_DO}",
                    run.folder().display()
                ));
            }
        }
        self.tell_unsaved();
    }

    fn set_length(&mut self, trainer: &Trainer) {
        let epochs = u64::from(trainer.run_state().params.epochs);
        if let Some(run) = &mut self.run {
            run.set_length(epochs * trainer.steps_per_epoch());
        }
    }

    fn notice(&self, text: &str) {
        self.tell.event(Event::Notice { text: text.into() });
    }

    fn warn(&self, text: String) {
        tracing::warn!("{text}");
        self.tell.event(Event::Warning { text });
    }
}

impl TrainingHost for Worker<'_> {
    fn poll(&mut self, trainer: &mut Trainer, phase: Phase) -> ControlFlow<()> {
        #[cfg(test)]
        if let Some((step, which, with)) = self.settings.spoil
            && phase == Phase::Training
            && trainer.run_state().step == step
            && self.over.is_none()
            && trainer.run_state().changes.is_empty()
        {
            trainer.spoil(which, with);
        }
        self.keep_house(trainer);
        // Cleared before the commands are taken up: one that comes meanwhile sets it again.
        self.tell.interrupt().store(false, Ordering::SeqCst);
        loop {
            let blocked = phase == Phase::Training && self.paused;
            let command = if blocked {
                self.tell_steps();
                self.tell_state(State::Paused);
                self.try_again(trainer);
                self.wait()
            } else {
                match self
                    .early
                    .pop_front()
                    .map_or_else(|| self.tell.commands.try_recv(), Ok)
                {
                    Ok(command) => Some(command),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => Some(Command::Quit),
                }
            };
            let idle = command.is_none() && !blocked;
            if let Some(command) = command {
                self.handle(command, trainer, phase);
            }
            if self.exit.is_some() {
                return ControlFlow::Break(());
            }
            if phase == Phase::Training && self.score_wanted(trainer).is_break() {
                return ControlFlow::Break(());
            }
            if idle {
                break;
            }
        }
        match phase {
            Phase::Training => self.tell_state(State::Running),
            Phase::Evaluating { split, done, total } => {
                let same =
                    matches!(self.reported_state, State::Evaluating { split: s, .. } if s == split);
                if !same || self.state_reported_at.elapsed() >= self.settings.report_interval {
                    self.tell_steps();
                    self.tell_state(State::Evaluating { split, done, total });
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn steps_to_submit(&self, fits: usize) -> usize {
        if self.one_step { 1 } else { fits }
    }

    fn change_refused(&mut self, why: String) {
        self.warn(why);
        self.paused = true;
    }

    fn applied(&mut self, applied: &Applied) {
        // The steps before the change are told before it.
        self.tell_steps();
        self.health.changed();
        self.record(Event::Applied {
            change: applied.change.clone(),
            step: applied.step,
            epoch: applied.epoch,
        });
    }

    fn epoch_begins(&mut self, trainer: &Trainer) {
        self.set_length(trainer);
    }

    fn stepped(&mut self, report: &StepReport) {
        match &mut self.steps {
            Some(steps) => steps.extend(report),
            None => self.steps = Some(report.clone()),
        }
        self.write(|run| run.step(report));
        if std::mem::take(&mut self.one_step) {
            self.paused = true;
        }
    }

    fn evaluated(&mut self, scores: Scores) {
        self.tell_steps();
        let event = Event::Evaluation(scores.evaluation.clone());
        let only_look = self.look_only.take_if(|split| *split == scores.split);
        let known = &mut self.known[usize::from(scores.split == Split::Test)];
        known.history.add(&scores);
        known.scores = Some(scores);
        match only_look {
            Some(_) => self.tell.event(event),
            None => self.record(event),
        }
    }

    fn epoch_over(&mut self, trainer: &mut Trainer, report: &EpochReport) {
        self.record(Event::Epoch(report.clone()));
        self.check_health(trainer, report);
        self.save(trainer, report.best);
    }
}
