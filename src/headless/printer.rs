//! Writes events as JSON, as lines of text, or as lines above progress bars.

use super::Style;
use crate::domain::comparison::DifferenceOf;
use crate::domain::params::{Hyperparameters, Weights};
use crate::domain::report::{Health, RunInfo, ScoredWeights, Split, State, StepReport};
use crate::domain::symbols::Symbols;
use crate::domain::text::{compact, duration, grouped, percent, plain, plain_json};
use crate::session::client::SessionClient;
use crate::session::protocol::{Done, Event, EventMessage, Outcome};
use crate::session::run_view::RunView;
use crate::session::status::{RETRY_NOTE, Status, run_arguments};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, Write};
use std::path::Path;

pub enum Printer {
    Json,
    Text(Text),
    Silent,
}

#[derive(Default)]
pub struct Text {
    bars: Option<Bars>,
    view: Box<RunView>,
    /// The newest epoch that was printed.
    printed: u32,
    /// Whether an event has arrived.
    has_begun: bool,
}

pub struct Bars {
    all: MultiProgress,
    epoch: ProgressBar,
    run: ProgressBar,
}

impl Printer {
    pub fn new(style: Style) -> Self {
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

    pub fn message(&mut self, message: &EventMessage, out: &mut impl Write) -> io::Result<()> {
        let event = &message.event;
        match self {
            Printer::Silent => Ok(()),
            Printer::Json => {
                let json = serde_json::to_string(message)?;
                writeln!(out, "{}", plain_json(&json))?;
                out.flush()
            }
            Printer::Text(text) => {
                text.progress(event);
                if let Event::Snapshot { events } = event {
                    return self.missed(events, out);
                }
                text.has_begun = true;
                match text.describe(event) {
                    Some(line) => self.line(out, &line),
                    None => Ok(()),
                }
            }
        }
    }

    /// Prints the unread step report, if there is one.
    pub fn steps(
        &mut self,
        client: &SessionClient,
        status: &mut Status,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let Some(message) = client.take_steps_message() else {
            return Ok(());
        };
        status.event(&message.event);
        self.message(&message, out)
    }

    /// Prints on standard error, in every style, why something is not saved, or that everything is saved again.
    pub fn warn(&self, unsaved: Option<&str>) {
        let text = match unsaved {
            Some(why) => format!("not saved: {why} {RETRY_NOTE}"),
            None => "everything is saved again".into(),
        };
        let sender = || {
            // If standard error is closed, the warning cannot be reported.
            let _ = writeln!(io::stderr(), "warning: {}", plain(&text));
        };
        match self {
            Printer::Text(Text {
                bars: Some(bars), ..
            }) => bars.all.suspend(sender),
            _ => sender(),
        }
    }

    /// Prints what has not been printed of a snapshot: everything if this front end attached late, the new epochs if it
    /// was too slow.
    fn missed(&mut self, events: &[Event], out: &mut impl Write) -> io::Result<()> {
        let mut is_late = false;
        if let Printer::Text(text) = self {
            *text.view = RunView::default();
            is_late = !std::mem::replace(&mut text.has_begun, true);
        }
        for event in events {
            let Printer::Text(text) = self else {
                return Ok(());
            };
            let is_new = matches!(event, Event::Epoch(epoch) if epoch.epoch > text.printed);
            if !is_new && !is_late {
                text.view.event(event);
            } else if let Some(line) = text.describe(event) {
                self.line(out, &line)?;
            }
        }
        Ok(())
    }

    /// Prints a line of text. Does nothing in JSON.
    pub fn line(&self, out: &mut impl Write, line: &str) -> io::Result<()> {
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

    pub fn finish(&self) {
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
    /// The line for an event. None for events without one.
    fn describe(&mut self, event: &Event) -> Option<String> {
        let health = self.view.health.clone();
        self.view.event(event);
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
                self.printed = 0;
                started(run)
            }
            Event::Epoch(e) => {
                self.printed = e.epoch;
                let epochs = self.view.params.epochs;
                let beside = |average: Option<f64>| {
                    average.map_or(String::new(), |share| {
                        format!(" (average {})", percent(share))
                    })
                };
                let test = match e.test_accuracy {
                    Some(share) if e.split != Split::Test => {
                        let average = beside(e.average.and_then(|average| average.test_accuracy));
                        format!("  test {}{average}{}", percent(share), e.tta.mark())
                    }
                    _ => String::new(),
                };
                format!(
                    "epoch {:>width$}/{}  train {} {:>6}  {} {} {:>6}{}{}{test}  {:>8} img/s  {}{}",
                    e.epoch,
                    epochs,
                    compact(e.train_loss, 4),
                    percent(e.train_accuracy),
                    e.split.short(),
                    compact(e.loss, 4),
                    percent(e.accuracy),
                    beside(e.average.map(|average| average.accuracy)),
                    e.tta.mark(),
                    grouped(e.images_per_s as u64),
                    duration(e.elapsed),
                    if e.best { "  best" } else { "" },
                    width = epochs.to_string().len(),
                )
            }
            Event::Evaluation(e) if e.split == Split::Test => format!(
                "test     loss {}, accuracy {:.2}%, {} images{}{}",
                compact(e.loss, 4),
                e.accuracy * 100.0,
                grouped(e.confusion.total().into()),
                e.tta.describe(),
                match e.weights {
                    ScoredWeights::Last => String::new(),
                    ScoredWeights::Average => Weights::Average.describe().into(),
                    ScoredWeights::Best => format!(", with the best weights, of epoch {}", e.epoch),
                }
            ),
            Event::Health(_) => return self.health(&health),
            Event::Applied {
                change,
                step,
                epoch,
            } => {
                format!(
                    "change   {} {} to {} at step {}, epoch {epoch}",
                    change.key,
                    change.old,
                    change.new,
                    grouped(*step)
                )
            }
            Event::LayerReset(reset) => format!(
                "reset    {} at step {}, epoch {}",
                reset.words(),
                grouped(reset.step),
                reset.epoch
            ),
            Event::ComparisonBegan { change, step, .. } => format!(
                "compare  with and without {} {} to {} from step {}",
                change.key,
                change.old,
                change.new,
                grouped(*step)
            ),
            Event::ComparisonOver {
                change,
                kept,
                report,
            } => format!(
                "compare  {} ({})",
                if *kept { "kept" } else { "dropped" },
                report.words(
                    change,
                    self.view.params.scored_split(),
                    DifferenceOf::Accuracy
                )
            ),
            Event::RateTest(_) => {
                let result = self.view.rate_test.as_ref().and_then(|test| test.result());
                format!("rates    {}", plain(&result?))
            }
            Event::Refused { error } => format!("refused  {}", plain(&error.to_string())),
            Event::Done(Done {
                outcome: Outcome::Refused(why),
                ..
            }) => format!("refused  {}", plain(why)),
            Event::Notice { text } => format!("note     {}", plain(text)),
            Event::Warning { text } => format!("warning  {}", plain(text)),
            Event::State(State::Paused) => {
                let folder = self.view.run.as_ref().map_or("", |run| &run.folder);
                format!(
                    "paused   `cifar-tui {}` goes on",
                    run_arguments("attach", Path::new(folder))
                )
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

    /// The line for a change of the run's health, with a recommendation.
    fn health(&self, before: &Health) -> Option<String> {
        let health = &self.view.health;
        let epoch = health.epoch;
        let classes: &[String] = self.view.run.as_ref().map_or(&[], |run| &run.data.classes);
        match (&before.collapse, &health.collapse) {
            (None, Some(collapse)) => {
                let helps = match collapse.best {
                    Some(best) => format!(
                        "go back to epoch {best} with a lower learning rate: `cifar-tui attach`, then b"
                    ),
                    None => format!("start again with {}", collapse.rate_to_try()),
                };
                Some(format!(
                    "collapse seen since epoch {}: {}; {helps}",
                    collapse.since,
                    plain(&collapse.describe(classes))
                ))
            }
            (Some(_), None) => Some(format!("health   no longer collapsed in epoch {epoch}")),
            _ => match (&before.plateau, &health.plateau) {
                (None, Some(plateau)) => Some(plateau.describe()),
                (Some(_), None) if health.collapse.is_none() => {
                    Some(format!("health   improves again in epoch {epoch}"))
                }
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
                bars.epoch
                    .set_message(format!("scoring the {} images", split.name()));
            }
            Event::State(State::Paused) => bars.run.set_message("paused"),
            Event::Steps(report) => bars.steps(report, &self.view.params),
            _ => {}
        }
    }
}

impl Bars {
    fn new(symbols: Symbols) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(8));
        let bar = |name: &'static str| {
            let bar = all.add(ProgressBar::new(1).with_prefix(name));
            // The template is a constant and valid; otherwise the default style is used.
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

    fn steps(&self, report: &StepReport, params: &Hyperparameters) {
        self.epoch.set_length(report.steps_per_epoch);
        self.epoch.set_position(report.step_in_epoch);
        self.epoch.set_message(format!(
            "{}/{}  loss {:.4}  accuracy {}",
            report.epoch,
            params.epochs,
            report.loss,
            percent(report.correct as f64 / report.images.max(1) as f64)
        ));
        let before = u64::from(report.epoch.saturating_sub(1)) * report.steps_per_epoch;
        self.run
            .set_length(params.total_steps(report.steps_per_epoch));
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

pub fn started(run: &RunInfo) -> String {
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
    if let Some(origin) = run.begins_fork() {
        lines.push(format!("forked   from {}", plain(&origin.describe())));
    }
    if run.data.is_sample {
        lines.push(
            "         these are the built-in images; `cifar-tui data download` fetches CIFAR-10"
                .into(),
        );
    }
    lines.join("\n")
}
