//! The worker: the thread that owns a session's device, network and data. It hosts the training loop: between batches
//! it handles commands, sends events and saves files. While there is nothing to train, it blocks until a command
//! arrives.

mod commands;
mod comparison;
mod final_scores;
mod forking;
mod go_back;
mod health;
mod hosting;
mod inbox;
mod loading;
mod past;
mod rate_test;
mod reset;
mod saving;
mod starting;

pub(super) use inbox::Inbox;
pub(super) use loading::Load;

use super::Settings;
use super::client::{EventSender, ReceivedCommand};
use super::command_files::CommandFileReader;
use super::download::Download;
use super::fork::ForkError;
use super::load::LoadMeter;
use super::protocol::Event;
use super::questions::SplitResults;
use super::resume::{self, ResumeError, StartPoint};
use super::run_dir::{Lost, Owner, RunDir, RunError};
use super::runs::RunsFolder;
use crate::backend::{self, Device, OpenError};
use crate::data::DataError;
use crate::domain::health::HealthMonitor;
use crate::domain::params::{Hyperparameters, Tta};
use crate::domain::report::{Split, State, StepReport};
use crate::train::checkpoint::CheckpointError;
use crate::train::saver::Saver;
use crate::train::trainer::{End, Phase, Trainer};
use crate::train::training_data::TrainingData;
use comparison::{Comparison, Decision};
use forking::CheckedFork;
use loading::{load_data, loading};
use past::EarlierEpoch;
use rate_test::RequestedRateTest;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tracing::dispatcher::DefaultGuard;

/// Maximum time between two checkpoints during training.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);
/// Maximum time until recorded events are on the disk.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// Time after which a failed save is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The errors that end a session. The messages say what to do.
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
    #[error(transparent)]
    Fork(#[from] ForkError),
    #[error(
        "the new run could not begin: {restart}. The network of the old one could not be built again either: {rebuild}. Everything trained is in the run's last checkpoint: resume it with --resume."
    )]
    Restart {
        restart: String,
        rebuild: crate::train::Error,
    },
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

type Result<T> = std::result::Result<T, SessionError>;

/// Runs the session from its first event to `Ended`.
pub(super) fn run(settings: Settings, owner: Owner, sender: EventSender, load: impl Load) {
    let mut params = settings.params.clone();
    let mut unfinished = None;
    let mut inbox = Inbox::default();
    let mut command_files = CommandFileReader::new(sender.broadcaster());
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        sender.event(Event::State(loading("data", 0, 0)));
        let Some(point) = resume::begin(&settings, &owner, &sender, &mut inbox)? else {
            return Ok(State::Stopped);
        };
        let inboxes = (&mut inbox, &mut command_files);
        let worker = Worker::new(&settings, owner, &sender, inboxes, point.data(), load)?;
        let Some(mut worker) = worker else {
            return Ok(State::Stopped);
        };
        let outcome = worker.train_until_quit(point, &mut params);
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
                    "the training thread panicked: {message}. This is an error in the program; the last checkpoint is intact; continue from it with --resume."
                ),
            }
        }
    };
    if let State::Failed { why } = &state {
        let _logging = unfinished.as_ref().map(|run| run.log().enter());
        tracing::error!("{why}");
        let event = Event::State(state.clone());
        if let Some(run) = &mut unfinished
            && let Err(error) = run.event(&event)
        {
            tracing::error!("{error}");
        }
        sender.event(event);
    }
    inbox.close(&state, &sender);
    sender.event(Event::Ended {
        params: Box::new(params),
        state,
    });
    // Answer the commands in files before the run is given back.
    drop(command_files);
    drop(unfinished);
}

/// Why the training loop is to end.
enum Exit {
    Quit,
    Stop,
    Restart,
    /// Replace the run by a fork.
    Fork(Box<CheckedFork>),
    /// Return to an earlier checkpoint.
    GoBack,
    /// End the comparison.
    Decide(Decision),
    /// Reset a layer, or take the last reset back. Not within an evaluation, whose images would be scored by two networks.
    ResetLayer(String),
    TakeBackReset,
    /// An error occurred; it is in [`Worker::error`].
    Failed,
}

/// The result of a wait.
enum Wakeup {
    Command(ReceivedCommand),
    /// All front ends have disconnected.
    Disconnected,
    Other,
}

struct Worker<'a> {
    settings: &'a Settings,
    owner: Owner,
    sender: &'a EventSender,
    inbox: &'a mut Inbox,
    command_files: &'a mut CommandFileReader,
    device: Rc<dyn Device>,
    training_data: Rc<TrainingData>,
    saver: Saver,
    runs: Option<RunsFolder>,
    run: Option<RunDir>,
    /// Directs this thread's log lines to the run's log.
    logging: Option<DefaultGuard>,
    /// The results of the validation and the test images, by [`split_index`].
    results: [SplitResults; 2],
    shown: Split,
    /// Earlier epochs of the run that were asked about, the last one at the end.
    earlier: Vec<EarlierEpoch>,
    health: HealthMonitor,
    comparison: Option<Comparison>,
    /// The step to which the run last went back.
    went_back_to: Option<u64>,
    /// The step of the best weights with which the test images were scored.
    best_scored: Option<u64>,
    /// The step and views with which the test images were scored by the average of the weights.
    average_scored: Option<(u64, Tta)>,
    paused: bool,
    /// Pause after the next step.
    pause_after_step: bool,
    /// Train again although the run had ended.
    train_again: bool,
    /// The next evaluation of this split is shown but not recorded, since a run that was not interrupted would not
    /// contain it.
    unrecorded_split: Option<Split>,
    /// Splits to score at the next poll of the training loop.
    splits_to_score: Vec<Split>,
    rate_test: Option<RequestedRateTest>,
    exit: Option<Exit>,
    error: Option<SessionError>,
    /// The state that was last reported.
    reported_state: State,
    state_reported_at: Instant,
    /// The state in which the run ended. None while it trains.
    end_state: Option<State>,
    steps: Option<StepReport>,
    steps_reported_at: Instant,
    saved_step: Option<u64>,
    saved_at: Instant,
    flushed_at: Instant,
    /// Why the newest checkpoint, the newest lines of the metrics, or the pictures of an ended run could not be saved;
    /// and the reason that was last reported.
    save_failed: Option<String>,
    metrics_failed: Option<String>,
    pictures_failed: Option<String>,
    unsaved: Option<String>,
    meter: LoadMeter,
    download: Option<Download>,
}

/// Index of a scored split in [`Worker::results`].
fn split_index(split: Split) -> usize {
    usize::from(split == Split::Test)
}

impl<'a> Worker<'a> {
    /// Opens the device and loads the data; `recorded` is the path of a resumed run's data. Returns None if the session
    /// is to end before that is done.
    fn new(
        settings: &'a Settings,
        owner: Owner,
        sender: &'a EventSender,
        (inbox, command_files): (&'a mut Inbox, &'a mut CommandFileReader),
        recorded: Option<PathBuf>,
        load: impl Load,
    ) -> Result<Option<Self>> {
        let device = match settings.shared_device.clone() {
            Some(connection) => connection.device(settings.threads),
            None => backend::open_tuned(
                settings.device,
                settings.engine,
                settings.threads,
                settings.gpu_tuning,
            )?,
        };
        let interval = settings.report_interval;
        let load = move |progress: &mut dyn FnMut(u64, u64)| load(recorded.as_deref(), progress);
        let Some(data) = load_data(sender, load, interval, inbox)? else {
            return Ok(None);
        };
        sender.event(Event::Data(data.info.clone()));
        let now = Instant::now();
        let gpu = device.info().gpu_index;
        Ok(Some(Worker {
            settings,
            sender,
            inbox,
            command_files,
            training_data: Rc::new(TrainingData::new(data)?),
            device,
            saver: Saver::start().map_err(SessionError::Thread)?,
            runs: settings
                .runs
                .as_deref()
                .map(|runs| RunsFolder::new(runs, owner.clone())),
            owner,
            run: None,
            logging: None,
            results: Default::default(),
            shown: Split::Validation,
            earlier: Vec::new(),
            health: HealthMonitor::default(),
            comparison: None,
            went_back_to: None,
            best_scored: None,
            average_scored: None,
            paused: settings.paused,
            pause_after_step: false,
            train_again: false,
            unrecorded_split: None,
            splits_to_score: Vec::new(),
            rate_test: None,
            exit: None,
            error: None,
            reported_state: loading("data", 0, 0),
            state_reported_at: now,
            end_state: None,
            steps: None,
            steps_reported_at: now,
            saved_step: None,
            saved_at: now,
            flushed_at: now,
            save_failed: None,
            metrics_failed: None,
            pictures_failed: None,
            unsaved: None,
            meter: LoadMeter::new(gpu),
            download: None,
        }))
    }

    /// Trains until the front end quits or disconnects. Returns the state in which the session ended.
    fn train_until_quit(
        &mut self,
        point: StartPoint,
        last_params: &mut Hyperparameters,
    ) -> Result<State> {
        let mut trainer = match point {
            StartPoint::New => self.first_run()?,
            StartPoint::Resume(point) => self.resumed_run(*point)?,
            StartPoint::Fork(point) => self.forked_run(*point)?,
        };
        loop {
            *last_params = trainer.run_state().params.clone();
            self.end_state = None;
            let mut end = trainer.run(self)?;
            self.report_steps();
            if end == End::Finished
                && let Some(decision) = self.take_decision()
            {
                self.exit.get_or_insert(Exit::Decide(decision));
                end = End::Left;
            }
            if end == End::Finished && !self.score_at_the_end(&mut trainer)? {
                end = End::Left;
            }
            if end == End::Left {
                self.leave_comparison(&mut trainer);
            }
            self.end_state = match (end, &self.exit) {
                (End::Finished, _) => Some(State::Done),
                (End::Diverged { step, first }, _) => Some(State::Diverged { step, first }),
                (End::Left, Some(Exit::Stop)) => Some(State::Stopped),
                (End::Left, _) => None,
            };
            if let Some(state) = self.end_state.clone() {
                self.exit = None;
                self.close_run(&mut trainer, state);
                self.idle(&mut trainer);
                self.leave_comparison(&mut trainer);
            }
            *last_params = trainer.run_state().params.clone();
            match self.exit.take() {
                Some(Exit::Quit) => {
                    let state = self.end_state.clone().unwrap_or(State::Stopped);
                    self.save_everything(&mut trainer);
                    if self.end_state.is_none() {
                        self.record(Event::State(State::Stopped));
                    }
                    return match self.lost() {
                        Some(lost) => Err(RunError::Lost(lost).into()),
                        None => Ok(state),
                    };
                }
                Some(Exit::Restart) => {
                    let (next, restarted) = self.restart(trainer)?;
                    trainer = next;
                    self.answer(restarted, &trainer);
                }
                Some(Exit::Fork(fork)) => {
                    let (next, forked) = self.replace_by_fork(trainer, *fork)?;
                    trainer = next;
                    self.answer(forked, &trainer);
                }
                Some(Exit::GoBack) => {
                    let went_back = self.go_back(&mut trainer);
                    self.answer(went_back, &trainer);
                }
                Some(Exit::Decide(decision)) => {
                    let decided = self.decide(&mut trainer, decision);
                    self.answer(decided, &trainer);
                }
                Some(Exit::ResetLayer(layer)) => {
                    let reset = trainer.reset_layer(&layer).map(Some);
                    self.layer_reset(reset, &trainer);
                }
                Some(Exit::TakeBackReset) => {
                    let reset = trainer.take_back_reset();
                    self.layer_reset(reset, &trainer);
                }
                Some(Exit::Failed) => {
                    if let Some(error) = self.error.take() {
                        return Err(error);
                    }
                }
                Some(Exit::Stop) | None => {}
            }
        }
    }

    /// Saves everything, reports the final state and draws the pictures.
    fn close_run(&mut self, trainer: &mut Trainer, state: State) {
        self.save_everything(trainer);
        self.record(Event::State(state));
        self.write_pictures();
    }

    /// Handles commands until the run trains again or the session ends.
    fn idle(&mut self, trainer: &mut Trainer) {
        self.train_again = false;
        while self.exit.is_none() && !self.train_again {
            if self.score_requested(trainer).is_break() {
                return;
            }
            if let Some(state) = self.end_state.clone() {
                self.report_state(state);
            }
            self.retry_saving(trainer);
            match self.wait() {
                Wakeup::Command(request) => self.handle(request, trainer, Phase::Training),
                Wakeup::Disconnected => self.exit = Some(Exit::Quit),
                Wakeup::Other => {}
            }
            // A command may have raised the number of epochs.
            self.train_again |= self.end_state == Some(State::Done) && !trainer.is_finished();
        }
    }

    /// Waits for a command, the result of a save, the time to retry a save, or the loss of the run.
    fn wait(&mut self) -> Wakeup {
        if let Some(request) = self.inbox.next_queued() {
            return Wakeup::Command(request);
        }
        // Others may read what is recorded.
        self.write(RunDir::flush);
        let again = match self.unsaved {
            Some(_) => crossbeam_channel::after(RETRY_INTERVAL),
            None => crossbeam_channel::never(),
        };
        let lost = match &self.run {
            Some(run) => run.on_loss(),
            None => crossbeam_channel::never(),
        };
        crossbeam_channel::select! {
            recv(self.sender.requests) -> request => request.map_or(Wakeup::Disconnected, Wakeup::Command),
            recv(self.saver.outcomes()) -> outcome => match outcome {
                Ok(outcome) => {
                    self.saver.count_received();
                    self.saved(outcome);
                    Wakeup::Other
                }
                // The saving thread has ended, which the next save reports. Wait for commands alone: this channel would
                // wake the worker again and again.
                Err(_) => self.sender.requests.recv().map_or(Wakeup::Disconnected, Wakeup::Command),
            },
            recv(again) -> _ => Wakeup::Other,
            recv(lost) -> _ => {
                self.has_lost_its_run();
                Wakeup::Other
            }
        }
    }

    /// The session that has taken over the run, if one has.
    fn lost(&self) -> Option<Lost> {
        self.run.as_ref().and_then(RunDir::lost).cloned()
    }

    /// Ends the session if another one has taken over its run. Returns whether the session has failed.
    fn has_lost_its_run(&mut self) -> bool {
        if let Some(lost) = self.lost() {
            self.error = Some(RunError::Lost(lost).into());
            self.exit = Some(Exit::Failed);
        }
        matches!(self.exit, Some(Exit::Failed))
    }

    /// Does the periodic work: reports, checkpoints, and retries of failed saves.
    fn do_periodic_work(&mut self, trainer: &mut Trainer) {
        if self.has_lost_its_run() {
            return;
        }
        if self.steps_reported_at.elapsed() >= self.settings.report_interval {
            self.report_steps();
        }
        self.report_saved(false);
        if let Some(load) = self.meter.measure() {
            self.sender.event(Event::Load(load));
        }
        if self.flushed_at.elapsed() >= FLUSH_INTERVAL {
            // Others may read what is recorded.
            self.flushed_at = Instant::now();
            self.write(RunDir::flush);
        }
        let due = self.saved_at.elapsed() >= CHECKPOINT_INTERVAL;
        if due && !self.saver.is_busy() && self.run.is_some() {
            self.save_unsaved(trainer);
        }
        self.retry_saving(trainer);
    }

    fn report_steps(&mut self) {
        self.steps_reported_at = Instant::now();
        if let Some(report) = self.steps.take() {
            self.sender.event(Event::Steps(report));
        }
        self.report_comparison();
    }

    fn report_state(&mut self, state: State) {
        if self.reported_state != state {
            self.reported_state = state.clone();
            self.state_reported_at = Instant::now();
            self.sender.event(Event::State(state));
        }
    }

    /// Sends an event and writes it to the run's metrics.
    fn record(&mut self, event: Event) {
        if let Event::State(state) = &event {
            self.reported_state = state.clone();
        }
        self.write(|run| run.event(&event));
        self.sender.event(event);
    }

    fn notice(&self, text: &str) {
        self.sender.event(Event::Notice { text: text.into() });
    }

    fn warn(&self, text: String) {
        tracing::warn!("{text}");
        self.sender.event(Event::Warning { text });
    }
}
