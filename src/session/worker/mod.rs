//! The worker: the thread that owns a session's device, network and data. It hosts the training loop: between batches
//! it handles commands, sends events and saves files. While there is nothing to train it blocks on its channel.

mod commands;
mod final_scores;
mod go_back;
mod health;
mod hosting;
mod inbox;
mod loading;
mod saving;
mod starting;

pub(super) use inbox::Inbox;
pub(super) use loading::Load;

use super::Settings;
use super::client::{EventSender, ReceivedCommand};
use super::download::Download;
use super::load::LoadMeter;
use super::protocol::Event;
use super::questions::Known;
use super::resume::{self, ResumeError, ResumePoint};
use super::run_dir::{Lost, Owner, RunDir, RunError};
use super::runs::RunsFolder;
use crate::backend::{self, Device, OpenError};
use crate::data::DataError;
use crate::domain::health::HealthMonitor;
use crate::domain::params::Hyperparameters;
use crate::domain::report::{Split, State, StepReport};
use crate::train::checkpoint::CheckpointError;
use crate::train::saver::Saver;
use crate::train::trainer::{End, Phase, Trainer};
use crate::train::training_data::TrainingData;
use loading::{load_data, loading};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tracing::dispatcher::DefaultGuard;

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
    #[error(
        "the run could not be restarted: {restart}. Its own network could not be built again either: {rebuild}. Everything trained is in the run's last checkpoint: resume it with --resume."
    )]
    Restart {
        restart: String,
        rebuild: crate::train::Error,
    },
    #[error("the system gives no thread for saving: {0}")]
    Thread(std::io::Error),
}

type Result<T> = std::result::Result<T, SessionError>;

/// The session from its first event to `Ended`.
pub(super) fn run(settings: Settings, owner: Owner, tell: EventSender, load: impl Load) {
    let mut params = settings.params.clone();
    let mut unfinished = None;
    let mut inbox = Inbox::default();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        tell.event(Event::State(loading("data", 0, 0)));
        let point = match &settings.resume {
            None => None,
            Some(wanted) => match resume::begin(wanted, &settings, &owner, &tell, &mut inbox)? {
                None => return Ok(State::Stopped),
                point => point,
            },
        };
        let recorded = point.as_ref().and_then(ResumePoint::data);
        let worker = Worker::new(&settings, owner, &tell, &mut inbox, recorded, load)?;
        let Some(mut worker) = worker else {
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
        let _logging = unfinished.as_ref().map(|run| run.log().enter());
        tracing::error!("{why}");
        let event = Event::State(state.clone());
        if let Some(mut run) = unfinished
            && let Err(error) = run.event(&event)
        {
            tracing::error!("{error}");
        }
        tell.event(event);
    }
    inbox.close(&state, &tell);
    tell.event(Event::Ended {
        params: Box::new(params),
        state,
    });
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

/// Why the worker stopped waiting.
enum Woken {
    Command(ReceivedCommand),
    /// No front end is left.
    Gone,
    Other,
}

struct Worker<'a> {
    settings: &'a Settings,
    owner: Owner,
    tell: &'a EventSender,
    inbox: &'a mut Inbox,
    device: Rc<dyn Device>,
    training_data: Rc<TrainingData>,
    saver: Saver,
    runs: Option<RunsFolder>,
    run: Option<RunDir>,
    /// This thread's lines go into the run's log.
    logging: Option<DefaultGuard>,
    /// Of the validation and the test images: see [`known_index`].
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

/// Where the worker keeps what it knows of a split that is scored.
fn known_index(split: Split) -> usize {
    usize::from(split == Split::Test)
}

impl<'a> Worker<'a> {
    /// Opens the device and loads the data, which a resumed run had at `recorded`; None when the session is to end before
    /// that is done.
    fn new(
        settings: &'a Settings,
        owner: Owner,
        tell: &'a EventSender,
        inbox: &'a mut Inbox,
        recorded: Option<PathBuf>,
        load: impl Load,
    ) -> Result<Option<Self>> {
        let device = backend::open(settings.device, settings.engine, settings.threads)?;
        let interval = settings.report_interval;
        let load = move |progress: &mut dyn FnMut(u64, u64)| load(recorded.as_deref(), progress);
        let Some(data) = load_data(tell, load, interval, inbox)? else {
            return Ok(None);
        };
        tell.event(Event::Data(data.info.clone()));
        let now = Instant::now();
        let gpu = device.info().gpu_index;
        Ok(Some(Worker {
            settings,
            tell,
            inbox,
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
        last_params: &mut Hyperparameters,
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
                Some(Exit::Restart) => {
                    let (next, restarted) = self.restart(trainer)?;
                    trainer = next;
                    self.answer(restarted, &trainer);
                }
                Some(Exit::GoBack) => {
                    let went_back = self.go_back(&mut trainer);
                    self.answer(went_back, &trainer);
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

    /// Saves everything, reports the final state and draws the plots.
    fn close_run(&mut self, trainer: &mut Trainer, over: State) {
        self.save_everything(trainer);
        self.record(Event::State(over));
        self.write_pictures();
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
            match self.wait() {
                Woken::Command(request) => self.handle(request, trainer, Phase::Training),
                Woken::Gone => self.exit = Some(Exit::Quit),
                Woken::Other => {}
            }
            // More epochs were asked for.
            self.go_on |= self.over == Some(State::Done) && !trainer.is_finished();
        }
    }

    /// Waits for a command or for something else to do.
    fn wait(&mut self) -> Woken {
        if let Some(request) = self.inbox.next_early() {
            return Woken::Command(request);
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
            recv(self.tell.requests) -> request => request.map_or(Woken::Gone, Woken::Command),
            recv(self.saver.outcomes()) -> outcome => match outcome {
                Ok(outcome) => {
                    self.saver.took_one();
                    self.saved(outcome);
                    Woken::Other
                }
                // The thread that saves has died, which the next save tells; it must not wake this one for ever.
                Err(_) => self.tell.requests.recv().map_or(Woken::Gone, Woken::Command),
            },
            recv(again) -> _ => Woken::Other,
            recv(lost) -> _ => {
                self.has_lost_its_run();
                Woken::Other
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

    fn notice(&self, text: &str) {
        self.tell.event(Event::Notice { text: text.into() });
    }

    fn warn(&self, text: String) {
        tracing::warn!("{text}");
        self.tell.event(Event::Warning { text });
    }
}
