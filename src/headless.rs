//! The front end without a screen, for pipes, logs and scripts: the same commands and events as the TUI, printed instead
//! of drawn. Knows the protocol and nothing of what is behind it.

use crate::domain::report::{Health, RunInfo, ScoredWeights, Split, State, StepReport};
use crate::domain::symbols::Symbols;
use crate::domain::text::{compact, duration, grouped, percent, plain, plain_json};
use crate::session::client::SessionClient;
use crate::session::protocol::{Command, Event};
use crate::session::status::{Status, TRIED_AGAIN};
use crossbeam_channel::{Receiver, after, never, select};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Progress bars under the lines, on a terminal.
    Bars(Symbols),
    /// Lines only.
    Lines,
    /// One event a line, as JSON.
    Json,
    /// Nothing at all: the terminal has gone or was given back. Such a session stays for the viewers that are attached
    /// when its run is over. When it is paused and nobody can attach, it ends as by the hangup.
    Silent,
}

/// What happens to a session beside its own events. Who sends it has told the worker already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// This signal ends the session.
    Stopping(i32),
    /// A checkpoint was asked for.
    Saving,
    /// The terminal has gone, with the output if that was it, and the session goes on.
    HungUp { output_gone: bool },
}

/// How the output ended.
#[derive(Clone, Debug, PartialEq)]
pub struct PrintOutcome {
    pub status: Status,
    /// The signal that ended the session, if one did; also the one by which a reader or a terminal would have told that
    /// it has gone.
    pub signal: Option<i32>,
}

/// Why a session ends that could only be asked to go on by somebody who cannot attach to it.
const PAUSED_UNREACHABLE: &str =
    "the run is paused, and nobody can attach to it, since the session has no socket: it ends";

/// Step reports come thousands a second; a reader wants a few.
const STEPS_EVERY: Duration = Duration::from_millis(250);

/// Time between two looks for viewers when the run is over.
const LOOK: Duration = Duration::from_millis(250);

/// Prints a session, which stands at `status`, until it is over; a session whose run is over is asked to quit. A reader
/// that has gone ends the session in order. `hangup` is called when the terminal that is written to has gone; it says
/// whether the session goes on (in silence).
pub fn run(
    client: &SessionClient,
    style: Style,
    status: Status,
    notices: &Receiver<Notice>,
    hangup: &mut dyn FnMut() -> bool,
    out: &mut impl Write,
) -> PrintOutcome {
    let mut printer = Printer::new(style);
    let mut outcome = PrintOutcome {
        status,
        signal: None,
    };
    let mut quitting = false;
    let mut gives_up = false;
    // Without a terminal of its own the session stays for those who are attached when its run is over.
    let mut stays = style == Style::Silent;
    // Some while step reports rest.
    let mut rest: Option<Receiver<Instant>> = None;
    let mut steps_closed = false;
    let (no_steps, idle, nothing) = (never(), never(), never());
    let mut notices = notices;
    loop {
        let over = outcome.status.state.is_over();
        let nothing_to_do = over && (!stays || client.is_alone());
        let paused_unreachable = outcome.status.state == State::Paused && client.is_unreachable();
        if !quitting && (nothing_to_do || paused_unreachable) {
            quitting = true;
            if paused_unreachable {
                gives_up = true;
                tracing::warn!("{PAUSED_UNREACHABLE}");
            }
            // A session that is already over needs no telling.
            let _ = client.commands.send(Command::Quit);
        }
        let steps_ready = match rest.is_some() || steps_closed {
            true => &no_steps,
            false => &client.steps_ready,
        };
        let look = match over && !quitting {
            true => after(LOOK),
            false => never(),
        };
        let mut written = Ok(());
        select! {
            recv(client.events) -> event => {
                let Ok(event) = event else { break };
                // What was trained before it comes before it.
                written = printer.steps(client, &mut outcome.status, out);
                outcome.status.event(&event);
                // Steps behind other events are those before a resume, which metrics.jsonl holds.
                if !matches!(event, Event::Steps(_)) {
                    written = written.and_then(|()| printer.event(&event, out));
                }
                if let Event::Unsaved { why } = &event {
                    printer.warn(why.as_deref());
                }
                if outcome.status.ended {
                    break;
                }
            }
            recv(steps_ready) -> token => match token {
                Ok(()) => {
                    written = printer.steps(client, &mut outcome.status, out);
                    rest = Some(after(STEPS_EVERY));
                }
                Err(_) => steps_closed = true,
            },
            recv(rest.as_ref().unwrap_or(&idle)) -> _ => rest = None,
            recv(look) -> _ => {}
            recv(notices) -> notice => match notice {
                Ok(Notice::Stopping(signal)) => {
                    if outcome.signal.is_none() {
                        outcome.signal = Some(signal);
                        written = printer.line(out, "stopping: writing a checkpoint");
                    }
                }
                Ok(Notice::Saving) => written = printer.line(out, "writing a checkpoint"),
                Ok(Notice::HungUp { output_gone }) => {
                    stays = true;
                    if output_gone {
                        printer = Printer::Silent;
                    }
                }
                Err(_) => notices = &nothing,
            }
        }
        if let Err(error) = written {
            printer.finish();
            printer = Printer::Silent;
            let terminal_gone = error.raw_os_error() == Some(libc::EIO);
            let (goes_on, signal) = match terminal_gone {
                true => (hangup(), libc::SIGHUP),
                // A reader that went with the terminal is no reason to end what has outlived the terminal.
                false => (stays, libc::SIGPIPE),
            };
            stays = goes_on;
            if !goes_on {
                outcome.signal.get_or_insert(signal);
                quitting = true;
                // It may be over.
                let _ = client.commands.send(Command::Quit);
            }
        }
    }
    if !outcome.status.ended {
        outcome.status.state = State::Failed {
            why: "the training thread ended without a word; the run's log.txt may say more".into(),
        };
    }
    printer.finish();
    if gives_up && outcome.signal.is_none() {
        // A hangup left it without a front end. Where there was none, it is an error.
        match stays {
            true => outcome.signal = Some(libc::SIGHUP),
            false => {
                outcome.status.state = State::Failed {
                    why: PAUSED_UNREACHABLE.into(),
                }
            }
        }
    }
    if !outcome.status.is_complete()
        && let Some(words) = outcome.status.where_it_lies("cifar-tui train")
    {
        // The session is over; there is nobody to tell when the reader has gone.
        let _ = printer.line(out, &format!("run      {}", plain(&words)));
    }
    outcome
}

enum Printer {
    Json,
    Text(Text),
    Silent,
}

#[derive(Default)]
struct Text {
    bars: Option<Bars>,
    run: String,
    epochs: u32,
    /// The newest epoch that was printed.
    told: u32,
    classes: Vec<String>,
    health: Health,
}

struct Bars {
    all: MultiProgress,
    epoch: ProgressBar,
    run: ProgressBar,
}

impl Printer {
    fn new(style: Style) -> Self {
        match style {
            Style::Json => Printer::Json,
            Style::Silent => Printer::Silent,
            Style::Lines => Printer::Text(Text::default()),
            Style::Bars(symbols) => Printer::Text(Text {
                bars: Some(Bars::new(symbols)),
                ..Text::default()
            }),
        }
    }

    fn event(&mut self, event: &Event, out: &mut impl Write) -> io::Result<()> {
        match self {
            Printer::Silent => Ok(()),
            Printer::Json => {
                let json = serde_json::to_string(event)?;
                writeln!(out, "{}", plain_json(&json))?;
                out.flush()
            }
            Printer::Text(text) => {
                text.progress(event);
                if let Event::Snapshot { events } = event {
                    return self.missed(events, out);
                }
                match text.describe(event) {
                    Some(line) => self.line(out, &line),
                    None => Ok(()),
                }
            }
        }
    }

    /// The steps that wait.
    fn steps(
        &mut self,
        client: &SessionClient,
        status: &mut Status,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let Some(report) = client.take_steps() else {
            return Ok(());
        };
        let event = Event::Steps(report);
        status.event(&event);
        self.event(&event, out)
    }

    /// Why something is not saved, or that everything is again: on standard error, for people and for logs, in every
    /// style.
    fn warn(&self, unsaved: Option<&str>) {
        let text = match unsaved {
            Some(why) => format!("not saved: {why} {TRIED_AGAIN}"),
            None => "everything is saved again".into(),
        };
        let sender = || {
            // With standard error gone there is nobody to tell.
            let _ = writeln!(io::stderr(), "warning: {}", plain(&text));
        };
        match self {
            Printer::Text(Text {
                bars: Some(bars), ..
            }) => bars.all.suspend(sender),
            _ => sender(),
        }
    }

    /// What a reader that fell behind has missed: the epochs.
    fn missed(&mut self, events: &[Event], out: &mut impl Write) -> io::Result<()> {
        for event in events {
            let Printer::Text(text) = self else {
                return Ok(());
            };
            if let Event::Health(health) = event {
                text.health = health.clone();
            }
            if matches!(event, Event::Epoch(epoch) if epoch.epoch > text.told)
                && let Some(line) = text.describe(event)
            {
                self.line(out, &line)?;
            }
        }
        Ok(())
    }

    /// A line for people; JSON has none.
    fn line(&self, out: &mut impl Write, line: &str) -> io::Result<()> {
        match self {
            Printer::Text(Text {
                bars: Some(bars), ..
            }) => bars.all.suspend(|| writeln!(out, "{line}")),
            Printer::Text(_) => {
                writeln!(out, "{line}")?;
                out.flush()
            }
            Printer::Json | Printer::Silent => Ok(()),
        }
    }

    fn finish(&self) {
        if let Printer::Text(Text {
            bars: Some(bars), ..
        }) = self
        {
            bars.epoch.finish_and_clear();
            bars.run.finish_and_clear();
        }
    }
}

impl Text {
    /// The line that an event is worth; None for the many that are not.
    fn describe(&mut self, event: &Event) -> Option<String> {
        let text = match event {
            Event::Data(data) => format!(
                "data     {}: {} training and {} test images, {}{}",
                data.name,
                grouped(data.train.into()),
                grouped(data.test.into()),
                plain(&data.source),
                data.load_time(", read in ")
            ),
            Event::Started(run) => {
                self.run = run.name.clone();
                self.epochs = run.params.epochs;
                self.told = 0;
                self.classes.clone_from(&run.data.classes);
                self.health = Health::default();
                started(run)
            }
            Event::Epoch(e) => {
                self.told = e.epoch;
                let test = match e.test_accuracy {
                    Some(share) => format!("  test {}", percent(share)),
                    None => String::new(),
                };
                format!(
                    "epoch {:>width$}/{}  train {} {:>6}  val {} {:>6}{test}  {:>8} img/s  {}{}",
                    e.epoch,
                    self.epochs,
                    compact(e.train_loss, 4),
                    percent(e.train_accuracy),
                    compact(e.val_loss, 4),
                    percent(e.val_accuracy),
                    grouped(e.images_per_s as u64),
                    duration(e.elapsed),
                    if e.best { "  best" } else { "" },
                    width = self.epochs.to_string().len(),
                )
            }
            Event::Evaluation(e) if e.split == Split::Test => format!(
                "test     loss {}, accuracy {:.2}%, {} images{}",
                compact(e.loss, 4),
                e.accuracy * 100.0,
                grouped(e.confusion.total().into()),
                match e.weights {
                    ScoredWeights::Last => String::new(),
                    ScoredWeights::Best => format!(", with the best weights, of epoch {}", e.epoch),
                }
            ),
            Event::Health(health) => return self.health(health),
            Event::Applied {
                change,
                step,
                epoch,
            } => {
                if change.key == "epochs" {
                    self.epochs = change.new.to_string().parse().unwrap_or(self.epochs);
                }
                format!(
                    "change   {} {} to {} at step {}, epoch {epoch}",
                    change.key,
                    change.old,
                    change.new,
                    grouped(*step)
                )
            }
            Event::Refused { error } => format!("refused  {}", plain(&error.to_string())),
            Event::Notice { text } => format!("note     {}", plain(text)),
            Event::Warning { text } => format!("warning  {}", plain(text)),
            Event::State(State::Paused) => {
                format!("paused   `cifar-tui attach {}` goes on", plain(&self.run))
            }
            Event::State(State::Diverged { step, first }) => format!(
                "diverged {first} stopped being finite at step {}: try a lower learning rate or gradient clipping, or resume the last checkpoint",
                grouped(*step)
            ),
            Event::State(State::Done) => "done".into(),
            _ => return None,
        };
        Some(text)
    }

    /// What is new in the run's health, and what helps.
    fn health(&mut self, health: &Health) -> Option<String> {
        let before = std::mem::replace(&mut self.health, health.clone());
        let epoch = health.epoch;
        match (&before.collapse, &health.collapse) {
            (None, Some(collapse)) => {
                let helps = match collapse.best {
                    Some(best) => format!(
                        "go back to epoch {best} with a lower learning rate: `cifar-tui attach`, then b"
                    ),
                    None => format!("start anew with {}", collapse.rate_to_try()),
                };
                Some(format!(
                    "collapse seen since epoch {}: {}; {helps}",
                    collapse.since,
                    plain(&collapse.describe(&self.classes))
                ))
            }
            (Some(_), None) => Some(format!("health   no longer collapsed in epoch {epoch}")),
            _ => match (&before.plateau, &health.plateau) {
                (None, Some(plateau)) => Some(plateau.describe()),
                (Some(_), None) if health.collapse.is_none() => Some(format!(
                    "health   validation improves again in epoch {epoch}"
                )),
                _ => None,
            },
        }
    }

    fn progress(&self, event: &Event) {
        let Some(bars) = &self.bars else { return };
        match event {
            Event::State(State::Loading { what, done, total }) => {
                bars.epoch.set_length(*total);
                bars.epoch.set_position(*done);
                bars.run.set_message(format!("reading {what}"));
            }
            Event::State(State::Evaluating { split, done, total }) => {
                bars.epoch.set_length(u64::from(*total));
                bars.epoch.set_position(u64::from(*done));
                bars.epoch.set_message(match split {
                    Split::Train => "scoring the training images",
                    Split::Validation => "scoring the validation images",
                    Split::Test => "scoring the test images",
                });
            }
            Event::State(State::Paused) => bars.run.set_message("paused"),
            Event::Steps(report) => bars.steps(report, self.epochs),
            _ => {}
        }
    }
}

impl Bars {
    fn new(symbols: Symbols) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(8));
        let bar = |name: &'static str| {
            let bar = all.add(ProgressBar::new(1).with_prefix(name));
            // The template is fixed and right; were it wrong, the default style would do.
            if let Ok(style) =
                ProgressStyle::with_template("{prefix:>5} {bar:32} {percent:>3}%  {msg}")
            {
                bar.set_style(style.progress_chars(&symbols.bar()));
            }
            bar
        };
        let (epoch, run) = (bar("epoch"), bar("run"));
        Bars { all, epoch, run }
    }

    fn steps(&self, report: &StepReport, epochs: u32) {
        self.epoch.set_length(report.steps_per_epoch);
        self.epoch.set_position(report.step_in_epoch);
        self.epoch.set_message(format!(
            "{}/{epochs}  loss {:.4}  accuracy {}",
            report.epoch,
            report.loss,
            percent(report.correct as f64 / report.images.max(1) as f64)
        ));
        let before = u64::from(report.epoch.saturating_sub(1)) * report.steps_per_epoch;
        self.run
            .set_length(u64::from(epochs) * report.steps_per_epoch);
        self.run.set_position(before + report.step_in_epoch);
        let eta = report
            .eta
            .map_or(String::new(), |eta| format!("  ETA {}", duration(eta)));
        self.run.set_message(format!(
            "{} img/s  {}{eta}",
            grouped(report.images_per_s as u64),
            duration(report.elapsed)
        ));
    }
}

fn started(run: &RunInfo) -> String {
    let p = &run.params;
    let mut lines = vec![
        match run.folder.is_empty() {
            true => "run      not saved".to_owned(),
            false => format!("run      {} in {}", plain(&run.name), plain(&run.folder)),
        },
        format!("device   {}", run.device),
        format!(
            "model    {}: {} parameters, {} multiply-adds an image",
            plain(&p.architecture),
            grouped(run.parameters),
            grouped(run.multiply_adds)
        ),
        format!(
            "images   {} training, {} validation, {} test; {} steps of {} an epoch",
            grouped(run.train.into()),
            grouped(run.validation.into()),
            grouped(run.test.into()),
            grouped(run.steps_per_epoch),
            p.batch_size
        ),
    ];
    if let Some(step) = run.resumed_at {
        lines.push(format!("resumed  at step {}", grouped(step)));
    }
    if run.data.is_sample {
        lines.push(
            "         these are the built-in images; `cifar-tui data download` fetches CIFAR-10"
                .into(),
        );
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::params::Hyperparameters;
    use crate::domain::report::{CheckpointReport, EpochReport};
    use crate::session::client::channel;
    use crossbeam_channel::unbounded;

    fn epoch() -> Event {
        Event::Epoch(EpochReport {
            epoch: 1,
            step: 8,
            train_loss: 1.5,
            train_accuracy: 0.4,
            val_loss: f64::NAN,
            val_accuracy: 0.45,
            test_accuracy: Some(0.44),
            best: true,
            images_per_s: 5612.0,
            elapsed: 7.0,
        })
    }

    fn steps(last: u64) -> Event {
        Event::Steps(StepReport {
            first: last,
            last,
            epoch: 1,
            step_in_epoch: last,
            steps_per_epoch: 8,
            images: 32,
            loss: 1.0,
            loss_min: 1.0,
            loss_max: 1.0,
            correct: 16,
            grad_norm: 1.0,
            learning_rate: 1e-3,
            images_per_s: 100.0,
            elapsed: 1.0,
            eta: None,
        })
    }

    fn run_info() -> RunInfo {
        RunInfo {
            name: "seed-1".into(),
            folder: "runs/seed-1".into(),
            data: crate::domain::report::DataInfo {
                is_sample: true,
                ..Default::default()
            },
            device: "CPU 2 threads".into(),
            params: Hyperparameters::default(),
            architecture: "conv 32".into(),
            layers: Vec::new(),
            parameters: 122_570,
            multiply_adds: 9_479_000,
            train: 40_000,
            validation: 10_000,
            test: 10_000,
            steps_per_epoch: 1250,
            resumed_at: Some(17),
            started: 0.0,
        }
    }

    fn ended(state: State) -> Event {
        Event::Ended {
            params: Box::default(),
            state,
        }
    }

    /// [`run`] where a hangup ends the session.
    fn seen_through(
        client: &SessionClient,
        style: Style,
        status: Status,
        notices: &Receiver<Notice>,
        out: &mut impl Write,
    ) -> PrintOutcome {
        run(client, style, status, notices, &mut || false, out)
    }

    /// What a session that tells `events` prints, and the commands it was sent.
    fn printed(style: Style, events: Vec<Event>) -> (String, PrintOutcome, Vec<Command>) {
        let (client, sender) = channel();
        events.into_iter().for_each(|event| sender.event(event));
        let mut out = Vec::new();
        let outcome = seen_through(&client, style, Status::default(), &never(), &mut out);
        let commands = sender.commands.try_iter().collect();
        (String::from_utf8(out).unwrap(), outcome, commands)
    }

    #[test]
    fn an_epoch_is_one_line_and_the_end_quits() {
        let events = vec![epoch(), Event::State(State::Done), ended(State::Done)];
        let (text, outcome, commands) = printed(Style::Lines, events);
        assert_eq!(
            text,
            "epoch 1/0  train 1.5000  40.0%  val NaN  45.0%  test 44.0%     5,612 img/s  0:07  best\ndone\n"
        );
        assert_eq!(outcome.status.state, State::Done);
        assert_eq!(commands, [Command::Quit]);
    }

    #[test]
    fn json_is_one_event_a_line_with_the_steps_before_what_follows_them() {
        let events = vec![steps(1), steps(2), epoch(), ended(State::Stopped)];
        let (text, ..) = printed(Style::Json, events);
        let lines: Vec<Event> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(matches!(&lines[0], Event::Steps(s) if (s.first, s.last) == (1, 2)));
        assert!(matches!(&lines[1], Event::Epoch(e) if e.val_loss.is_nan()));
        assert_eq!(lines[2], ended(State::Stopped));
    }

    #[test]
    fn a_worker_that_goes_without_a_word_is_a_failure() {
        let (client, sender) = channel();
        drop(sender);
        let status = Status::default();
        let outcome = seen_through(&client, Style::Lines, status, &never(), &mut Vec::new());
        assert!(matches!(outcome.status.state, State::Failed { .. }));
    }

    #[test]
    fn the_first_signal_is_the_one_that_counts() {
        let (client, sender) = channel();
        let (notice, notices) = unbounded();
        for signal in [libc::SIGTERM, libc::SIGINT] {
            notice.send(Notice::Stopping(signal)).unwrap();
        }
        let worker = std::thread::spawn(move || {
            // Whoever sent the notices has told the worker: no command comes from here.
            while !notice.is_empty() {
                std::thread::yield_now();
            }
            sender.event(ended(State::Stopped));
            sender.commands.try_iter().count()
        });
        let mut out = Vec::new();
        let outcome = seen_through(&client, Style::Lines, Status::default(), &notices, &mut out);
        assert_eq!(outcome.signal, Some(libc::SIGTERM));
        assert_eq!(worker.join().unwrap(), 0);
        assert_eq!(out, b"stopping: writing a checkpoint\n");
    }

    /// A writer whose reader, or whose terminal, has gone.
    struct Gone(i32);

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(self.0))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_or_a_terminal_that_has_gone_ends_the_session_in_order() {
        for (error, signal) in [(libc::EPIPE, libc::SIGPIPE), (libc::EIO, libc::SIGHUP)] {
            let (client, sender) = channel();
            for event in [epoch(), epoch(), ended(State::Stopped)] {
                sender.event(event);
            }
            let status = Status::default();
            let outcome = seen_through(&client, Style::Json, status, &never(), &mut Gone(error));
            assert_eq!(outcome.signal, Some(signal));
            assert_eq!(outcome.status.state, State::Stopped);
            assert_eq!(sender.commands.try_iter().count(), 1);
        }
    }

    #[test]
    fn after_a_hangup_a_file_gets_the_rest_and_a_terminal_nothing() {
        for (output_gone, lines) in [(false, 2), (true, 0)] {
            let (client, sender) = channel();
            let (notice, notices) = unbounded();
            notice.send(Notice::HungUp { output_gone }).unwrap();
            let worker = std::thread::spawn(move || {
                while !notice.is_empty() {
                    std::thread::yield_now();
                }
                for event in [epoch(), epoch(), ended(State::Done)] {
                    sender.event(event);
                }
            });
            let mut out = Vec::new();
            let status = Status::default();
            let outcome = seen_through(&client, Style::Lines, status, &notices, &mut out);
            worker.join().unwrap();
            assert_eq!(outcome.signal, None);
            assert_eq!(out.iter().filter(|b| **b == b'\n').count(), lines);
        }
    }

    #[test]
    fn a_reader_that_goes_with_the_terminal_does_not_end_what_outlives_it() {
        let (client, sender) = channel();
        let (notice, notices) = unbounded();
        let hung_up = Notice::HungUp { output_gone: false };
        notice.send(hung_up).unwrap();
        let worker = std::thread::spawn(move || {
            while !notice.is_empty() {
                std::thread::yield_now();
            }
            sender.event(epoch());
            sender.event(ended(State::Done));
            sender.commands.try_iter().count()
        });
        let mut gone = Gone(libc::EPIPE);
        let outcome = seen_through(
            &client,
            Style::Lines,
            Status::default(),
            &notices,
            &mut gone,
        );
        assert_eq!((outcome.signal, worker.join().unwrap()), (None, 0));
    }

    #[test]
    fn a_session_that_is_taken_over_ends_when_its_run_was_over_before() {
        let over = [
            State::Done,
            State::Stopped,
            State::Diverged {
                step: 3,
                first: "the loss".into(),
            },
        ];
        for state in over {
            let (client, sender) = channel();
            let status = Status {
                state: state.clone(),
                ..Status::default()
            };
            let worker = std::thread::spawn(move || {
                assert_eq!(sender.commands.recv(), Ok(Command::Quit));
                sender.event(ended(state));
            });
            seen_through(&client, Style::Silent, status, &never(), &mut Vec::new());
            worker.join().unwrap();
        }
    }

    #[test]
    fn a_paused_session_ends_when_nobody_can_attach_and_waits_when_somebody_can() {
        for (style, can_attach) in [
            (Style::Silent, false),
            (Style::Lines, false),
            (Style::Silent, true),
        ] {
            let (client, sender) = channel();
            if can_attach {
                sender.broadcaster().set_has_socket();
            }
            sender.event(Event::State(State::Paused));
            sender.event(ended(State::Stopped));
            let outcome =
                seen_through(&client, style, Status::default(), &never(), &mut Vec::new());
            let quits = sender
                .commands
                .try_iter()
                .any(|command| command == Command::Quit);
            assert_eq!(quits, !can_attach);
            let failed = matches!(outcome.status.state, State::Failed { .. });
            match (style, can_attach) {
                (_, true) => assert_eq!((outcome.signal, failed), (None, false)),
                (Style::Silent, _) => {
                    assert_eq!((outcome.signal, failed), (Some(libc::SIGHUP), false));
                }
                // Nothing had hung up: it is an error.
                _ => assert_eq!((outcome.signal, failed), (None, true)),
            }
        }
    }

    #[test]
    fn where_a_run_that_is_not_done_lies_is_its_last_line() {
        let runs = tempfile::tempdir().unwrap();
        let folder = runs.path().join("my one");
        std::fs::create_dir(&folder).unwrap();
        let folder = folder.display().to_string();
        let started = Event::Started(Box::new(RunInfo {
            name: "one".into(),
            folder: folder.clone(),
            ..run_info()
        }));
        let saved = Event::Checkpoint(CheckpointReport {
            step: 1234,
            epoch: 1,
            path: format!("{folder}/last.safetensors"),
            bytes: 1,
            best: false,
        });
        let stopped = ended(State::Stopped);
        let (text, ..) = printed(Style::Lines, vec![started, saved, stopped]);
        assert_eq!(
            text.lines().last().unwrap(),
            format!(
                "run      one is saved up to step 1,234 in {folder}; `cifar-tui train --resume '{folder}'` goes on"
            )
        );
    }

    #[test]
    fn a_failure_is_left_to_the_one_who_ends_the_process() {
        let failed = State::Failed { why: "why".into() };
        let events = vec![Event::State(failed.clone()), ended(failed)];
        let (text, ..) = printed(Style::Lines, events);
        assert_eq!(text, "");
    }

    #[test]
    fn what_starts_is_told_and_the_sample_set_says_how_to_get_the_real_one() {
        let text = started(&run_info());
        for part in [
            "runs/seed-1",
            "122,570",
            "1,250 steps of 32",
            "at step 17",
            "data download",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }
}
