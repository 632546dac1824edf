//! The commands and events as tables: what each is for, how a user types a command, and when its effect is complete.
//! `cifar-tui send`, its help and the page of the protocol follow them. Tests check that no variant is missing.

use super::{Command, ForkRequest, Question};
use crate::domain::fork::ForkAt;
use crate::domain::params::{self, Value};
use crate::domain::rate_test::check_steps;
use crate::domain::report::Split;
use crate::domain::text::nearest;

type MakeCommands = fn(&[String]) -> Result<Vec<Command>, String>;

/// A command.
pub struct CommandRow {
    /// Its name in a message, which is also the word that a user types.
    pub name: &'static str,
    /// What a user types after the word, or empty.
    pub takes: &'static str,
    pub about: &'static str,
    /// When its effect is complete.
    pub until: Until,
    /// Makes commands of the words after the name. None: `cifar-tui send` does not offer it.
    typed: Option<MakeCommands>,
}

/// When the effect of a command is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// With its answer.
    Answered,
    /// When the change has taken effect.
    Applied,
    /// When the images are scored.
    Scored,
    /// When the test of learning rates is over.
    Tested,
    /// When the checkpoint is on the disk.
    Saved,
    /// When the run is paused.
    Paused,
    /// When the run has ended.
    RunOver,
    /// When the session has ended.
    SessionOver,
}

impl Until {
    /// Completes the sentence "--wait waits until ...". None if there is nothing to wait for.
    pub fn describe(self) -> Option<&'static str> {
        match self {
            Until::Answered => None,
            Until::Applied => Some("the change has taken effect"),
            Until::Scored => Some("the images are scored"),
            Until::Tested => Some("the test is over"),
            Until::Saved => Some("the checkpoint is on the disk"),
            Until::Paused => Some("the run is paused"),
            Until::RunOver => Some("the run has ended"),
            Until::SessionOver => Some("the session has ended"),
        }
    }
}

/// What the words of a user ask for.
#[derive(Clone, Debug, PartialEq)]
pub enum TypedRequest {
    /// Send these commands; the effect of each is complete at `until`.
    Send {
        commands: Vec<Command>,
        until: Until,
    },
    /// Describe the session; its snapshot contains the answer.
    Status,
}

/// The questions that have a word; any other is typed as JSON.
const QUESTIONS_TYPED: &str = "status|runs|model|evaluation|JSON [EPOCH]";

#[rustfmt::skip]
pub static COMMANDS: &[CommandRow] = &[
    CommandRow { name: "pause", takes: "", until: Until::Paused,
        about: "Pause before the next training step.",
        typed: Some(|_| Ok(vec![Command::Pause])) },
    CommandRow { name: "resume", takes: "", until: Until::Answered,
        about: "Go on after a pause, or with a run that was stopped.",
        typed: Some(|_| Ok(vec![Command::Resume])) },
    CommandRow { name: "step", takes: "", until: Until::Paused,
        about: "Make one training step, then pause.",
        typed: Some(|_| Ok(vec![Command::Step])) },
    CommandRow { name: "set", takes: "KEY=VALUE...", until: Until::Applied,
        about: "Change hyperparameters, each with a command of its own.",
        typed: Some(typed_set) },
    CommandRow { name: "undo", takes: "", until: Until::Applied,
        about: "Take back the last change.",
        typed: Some(|_| Ok(vec![Command::Undo])) },
    CommandRow { name: "reset-layer", takes: "LAYER", until: Until::Answered,
        about: "Give a layer or block fresh weights, running statistics and optimizer's state; `undo` gives it back what it had.",
        typed: Some(typed_reset) },
    CommandRow { name: "compare", takes: "KEY=VALUE", until: Until::Answered,
        about: "Train with and without this change from here on, side by side, from the same state, on the same batches with the same random numbers. All other changes are made in both.",
        typed: Some(typed_compare) },
    CommandRow { name: "keep-change", takes: "", until: Until::Answered,
        about: "End the comparison: the run goes on with the change, as if it had been made when the comparison began.",
        typed: Some(|_| Ok(vec![Command::KeepChange])) },
    CommandRow { name: "drop-change", takes: "", until: Until::Answered,
        about: "End the comparison: the run goes on without the change.",
        typed: Some(|_| Ok(vec![Command::DropChange])) },
    CommandRow { name: "find-lr", takes: "[STEPS]", until: Until::Tested,
        about: "Test learning rates on a copy of the network: training waits, and nothing of the run changes. Any later command but a question ends the test.",
        typed: Some(typed_find_lr) },
    CommandRow { name: "stop-find-lr", takes: "", until: Until::Answered,
        about: "End the test of learning rates.",
        typed: Some(|_| Ok(vec![Command::StopFindLr])) },
    CommandRow { name: "evaluate", takes: "", until: Until::Scored,
        about: "Score the validation images now.",
        typed: Some(|_| Ok(vec![Command::Evaluate])) },
    CommandRow { name: "checkpoint", takes: "", until: Until::Saved,
        about: "Write a checkpoint now.",
        typed: Some(|_| Ok(vec![Command::Checkpoint])) },
    CommandRow { name: "go-back", takes: "", until: Until::Answered,
        about: "After a divergence or a collapse: go back to an earlier checkpoint with a lower learning rate.",
        typed: Some(|_| Ok(vec![Command::GoBack])) },
    CommandRow { name: "restart", takes: "", until: Until::Answered,
        about: "Start a new run with the changes that are pending for the next run.",
        typed: Some(|_| Ok(vec![Command::Restart])) },
    CommandRow { name: "fork", takes: "[RUN][@STATE] [KEY=VALUE...]", until: Until::Answered,
        about: "Save and close the run, then begin a new one in a state of this run or RUN (its last one, @5, @best or @step:N), with the pending changes and these.",
        typed: Some(typed_fork) },
    CommandRow { name: "stop", takes: "", until: Until::RunOver,
        about: "End the run, with its last checkpoint; a session with a screen stays.",
        typed: Some(|_| Ok(vec![Command::Stop])) },
    CommandRow { name: "show", takes: "validation|test", until: Until::Answered,
        about: "Choose the images that Confusion, Samples and the questions about them show.",
        typed: Some(typed_show) },
    CommandRow { name: "ask", takes: QUESTIONS_TYPED, until: Until::Answered,
        about: "Ask a question; the sender alone receives the answer, before the command is done. With `epoch`, questions about predictions and the network are answered as it was at the end of that epoch, if the run keeps a checkpoint of it.",
        typed: Some(typed_ask) },
    CommandRow { name: "download", takes: "", until: Until::Answered,
        about: "Download CIFAR-10 into the data folder.",
        typed: Some(|_| Ok(vec![Command::Download])) },
    CommandRow { name: "watch", takes: "", until: Until::Answered,
        about: "This viewer only watches: a session that has nothing left to do ends without waiting for it to leave.",
        typed: None },
    CommandRow { name: "save-and-quit", takes: "", until: Until::SessionOver,
        about: "Save everything, then end the session; refused, and the session goes on, if saving fails.",
        typed: Some(|_| Ok(vec![Command::SaveAndQuit])) },
    CommandRow { name: "quit", takes: "", until: Until::SessionOver,
        about: "End the session, and save as much as possible.",
        typed: Some(|_| Ok(vec![Command::Quit])) },
];

/// An event, a question or an answer, by its name in a message.
pub struct MessageRow {
    pub name: &'static str,
    pub about: &'static str,
}

#[rustfmt::skip]
pub static QUESTIONS: &[MessageRow] = &[
    MessageRow { name: "evaluation", about: "The newest evaluation of the shown split, with its confusion matrix." },
    MessageRow { name: "samples", about: "Predictions of the shown split that pass the filter (all, wrong, most-confident-wrong, least-sure, class or pinned)." },
    MessageRow { name: "cell", about: "Predictions of one cell of the confusion matrix, the most confident first." },
    MessageRow { name: "browse", about: "Images as they are in the data, of one class or of all." },
    MessageRow { name: "augmented", about: "Augmented versions of a training image." },
    MessageRow { name: "model", about: "Filters, norms, dead units, and the activations of an image." },
    MessageRow { name: "runs", about: "All runs in the runs folder." },
    MessageRow { name: "rename-run", about: "Rename a run." },
    MessageRow { name: "note-run", about: "Write a run's note." },
    MessageRow { name: "delete-run", about: "Delete a run with its files." },
];

#[rustfmt::skip]
pub static ANSWERS: &[MessageRow] = &[
    MessageRow { name: "evaluation", about: "To evaluation." },
    MessageRow { name: "predictions", about: "To samples and cell: `total` images pass, these are those from `offset` on." },
    MessageRow { name: "pictures", about: "To browse and augmented: (index, class, picture) each." },
    MessageRow { name: "model", about: "To model." },
    MessageRow { name: "runs", about: "To runs, and to the questions that change one." },
    MessageRow { name: "failed", about: "The question could not be answered." },
];

#[rustfmt::skip]
pub static EVENTS: &[MessageRow] = &[
    MessageRow { name: "snapshot", about: "Forget everything: these events tell the session so far. The first message to a viewer, and to one that read too slowly." },
    MessageRow { name: "done", about: "The answer to the command with this id, to its sender alone: the first step with its effect (0 without a run), the time that it waits for (next-epoch, next-run), or why it is refused." },
    MessageRow { name: "answer", about: "The answer to a question, to its sender alone." },
    MessageRow { name: "state", about: "What the session does: loading, running, paused, evaluating, done, stopped, diverged or failed." },
    MessageRow { name: "data", about: "The data set is loaded." },
    MessageRow { name: "started", about: "A run begins: forget the one before it." },
    MessageRow { name: "steps", about: "The training steps from `first` to `last`, at most ten times a second. Numbers that are not finite are strings: \"NaN\", \"inf\", \"-inf\"." },
    MessageRow { name: "epoch", about: "An epoch is over. `val_...` are `test_...` if no images are held out." },
    MessageRow { name: "evaluation", about: "Images were scored." },
    MessageRow { name: "rate-test", about: "The points of a test of learning rates from index `first` on: 0 begins a new test. `end` says why it has ended." },
    MessageRow { name: "pending", about: "A change was accepted and waits for the next epoch or the next run." },
    MessageRow { name: "withdrawn", about: "A pending change was withdrawn." },
    MessageRow { name: "applied", about: "A change took effect: `step` is the first that used it." },
    MessageRow { name: "refused", about: "A change was refused." },
    MessageRow { name: "layer-reset", about: "A layer or block has got fresh weights, or has got back those before its reset: `step` is the first with them." },
    MessageRow { name: "comparison-began", about: "A comparison begins: from `step` on, a second network, the variant, trains with the change beside the run's." },
    MessageRow { name: "compared", about: "The difference that the change makes, with minus without it, each with its standard error: of the loss (mean over the newest `loss_steps` steps) and of the accuracy after the newest epoch, and whether the variant diverged." },
    MessageRow { name: "variant", about: "An event of the variant: steps, epoch, evaluation or applied." },
    MessageRow { name: "comparison-over", about: "The comparison ended. If the change was kept, the variant's events since it began replace the run's: a snapshot comes right before this." },
    MessageRow { name: "health", about: "The run has collapsed, stands still, or has recovered." },
    MessageRow { name: "checkpoint", about: "A checkpoint is on the disk." },
    MessageRow { name: "unsaved", about: "Why a file of the run could not be saved (it is tried again); null when everything is saved." },
    MessageRow { name: "notice", about: "Information for the user." },
    MessageRow { name: "warning", about: "Something failed, and training goes on. Before the session closes a viewer, why it does." },
    MessageRow { name: "load", about: "The load of the computer, each second." },
    MessageRow { name: "download", about: "Progress of a download." },
    MessageRow { name: "ended", about: "The session has ended; no event follows." },
];

/// Parses `KEY=VALUE` of a hyperparameter.
///
/// # Errors
/// Returns an error if there is no such hyperparameter or the value is not allowed. The message says what is.
pub fn parse_setting(word: &str) -> Result<(&'static str, Value), String> {
    let (key, text) = word
        .split_once('=')
        .ok_or_else(|| format!("'{word}' is not KEY=VALUE, such as learning_rate=0.0005"))?;
    let row = params::find(key).map_err(|error| error.to_string())?;
    let value = row.parse(text).map_err(|error| error.to_string())?;
    Ok((row.key, value))
}

fn typed_set(words: &[String]) -> Result<Vec<Command>, String> {
    let command = |word: &String| {
        let (key, value) = parse_setting(word)?;
        let key = key.into();
        Ok(Command::Set { key, value })
    };
    words.iter().map(command).collect()
}

fn typed_reset(words: &[String]) -> Result<Vec<Command>, String> {
    match words {
        [layer] => Ok(vec![Command::ResetLayer {
            layer: layer.clone(),
        }]),
        _ => Err("`reset-layer` takes the name of a layer or block, such as `dense1`".into()),
    }
}

fn typed_compare(words: &[String]) -> Result<Vec<Command>, String> {
    let [word] = words else {
        return Err("`compare` takes one KEY=VALUE: it compares one change".into());
    };
    let (key, value) = parse_setting(word)?;
    let key = key.into();
    Ok(vec![Command::Compare { key, value }])
}

fn typed_fork(words: &[String]) -> Result<Vec<Command>, String> {
    let mut request = ForkRequest::default();
    let settings = match words {
        [state, settings @ ..] if !state.contains('=') => {
            let (run, at) = match state.split_once('@') {
                Some((run, at)) => (run, at.parse()?),
                None => (state.as_str(), ForkAt::Last),
            };
            request.of = Some(run.to_owned()).filter(|run| !run.is_empty());
            request.at = at;
            settings
        }
        settings => settings,
    };
    for word in settings {
        let (key, value) = parse_setting(word)?;
        request.changes.push((key.into(), value));
    }
    Ok(vec![Command::Fork(request)])
}

fn typed_find_lr(words: &[String]) -> Result<Vec<Command>, String> {
    let steps = match words {
        [] => None,
        [word] => {
            let steps = word.parse();
            let wrong = |_| format!("'{word}' is not a number of steps");
            Some(check_steps(steps.map_err(wrong)?)?)
        }
        [_, extra, ..] => return Err(format!("`find-lr` takes [STEPS], not '{extra}'")),
    };
    Ok(vec![Command::FindLr { steps }])
}

fn typed_show(words: &[String]) -> Result<Vec<Command>, String> {
    let split = [Split::Validation, Split::Test]
        .into_iter()
        .find(|split| words.iter().eq([split.name()]))
        .ok_or("`show` takes `validation` or `test`")?;
    Ok(vec![Command::Show { split }])
}

fn typed_ask(words: &[String]) -> Result<Vec<Command>, String> {
    let (word, epoch) = match words {
        [word] => (word.as_str(), None),
        [word, epoch] => {
            let number = epoch.parse();
            let wrong = |_| format!("'{epoch}' is not the number of an epoch");
            (word.as_str(), Some(number.map_err(wrong)?))
        }
        _ => ("", None),
    };
    let question = match word {
        "runs" => Question::Runs,
        "evaluation" => Question::Evaluation,
        "model" => Question::Model {
            activations_of: None,
        },
        json if json.starts_with('{') => serde_json::from_str(json)
            .map_err(|error| format!("not a question: {error}; see `cifar-tui protocol`"))?,
        _ => {
            return Err(
                "`ask` takes `status`, `runs`, `model`, `evaluation`, or a question as JSON, such as '{\"question\":\"augmented\",\"index\":4,\"count\":6}'; after it may come an epoch"
                    .into(),
            );
        }
    };
    Ok(vec![Command::Ask { question, epoch }])
}

/// When the effect of the command with this name in a message is complete.
pub fn until_of(name: &str) -> Until {
    let row = COMMANDS.iter().find(|row| row.name == name);
    row.map_or(Until::Answered, |row| row.until)
}

/// The rows of the commands that a user can type.
fn typed_rows() -> impl Iterator<Item = &'static CommandRow> {
    COMMANDS.iter().filter(|row| row.typed.is_some())
}

/// The table of the commands that a user can type, for help.
pub fn typed_commands() -> String {
    let head = |row: &CommandRow| format!("{} {}", row.name, row.takes).trim_end().to_owned();
    let width = typed_rows().map(|row| head(row).len()).max().unwrap_or(0);
    let indent = " ".repeat(width + 4);
    let lines = typed_rows().map(|row| {
        let wait = match row.until.describe() {
            Some(until) => format!(" --wait: until {until}."),
            None => String::new(),
        };
        let first = format!("  {:<width$}  ", head(row));
        // Narrower than a terminal, so that it is not wrapped again.
        let options = textwrap::Options::new(78)
            .initial_indent(&first)
            .subsequent_indent(&indent);
        textwrap::fill(&format!("{}{wait}", row.about), options) + "\n"
    });
    lines.collect()
}

/// Reads `[RUN] COMMAND [ARGUMENT...]`. Returns the run, if one is named, and what is asked for.
///
/// # Errors
/// Returns an error if the words are not a command. The message says what is allowed.
pub fn parse_words(words: &[String]) -> Result<(Option<String>, TypedRequest), String> {
    let row = |word: &String| typed_rows().find(|row| row.name == *word);
    let (run, command, arguments) = match words {
        [word, arguments @ ..] if row(word).is_some() => (None, word, arguments),
        [run, word, arguments @ ..] => (Some(run.clone()), word, arguments),
        [word] => (None, word, &[][..]),
        [] => return Err("a command is missing".into()),
    };
    let Some((row, typed)) = row(command).and_then(|row| Some((row, row.typed?))) else {
        return Err(
            match nearest(command, typed_rows().map(|row| row.name), 3) {
                Some(known) => format!("there is no command '{command}'; did you mean '{known}'?"),
                None => format!(
                    "there is no command '{command}'; there are: {}",
                    typed_rows()
                        .map(|row| row.name)
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            },
        );
    };
    let request = match (row.takes, arguments) {
        ("", [extra, ..]) => return Err(format!("`{command}` takes nothing, not '{extra}'")),
        (takes, []) if !takes.is_empty() && !takes.starts_with('[') => {
            return Err(format!("`{command}` takes {takes}"));
        }
        (QUESTIONS_TYPED, [word]) if word == "status" => TypedRequest::Status,
        _ => TypedRequest::Send {
            commands: typed(arguments)?,
            until: row.until,
        },
    };
    Ok((run, request))
}
