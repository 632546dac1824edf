//! The status of a session, computed from its events: the run's folder, and how much of the run is saved. A front end
//! that takes over from another starts with its status, and the status decides the exit code.

use super::protocol::Event;
use crate::domain::report::State;
use crate::domain::text::{command_line, grouped};
use std::path::{Path, PathBuf};

/// Appended to the reason why a file is not saved, while the session lives.
pub const RETRY_NOTE: &str = "It is tried again every few seconds.";

/// The status of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub state: State,
    /// The run's name and folder. Both are empty before a run begins, and if the run is not saved.
    pub run: String,
    pub folder: String,
    /// The newest step that was trained.
    pub step: u64,
    /// The step of the newest checkpoint on the disk.
    pub saved_step: Option<u64>,
    /// Why the newest checkpoint or another file could not be saved.
    pub unsaved: Option<String>,
    /// Whether the session's last event has arrived.
    pub ended: bool,
}

impl Default for Status {
    fn default() -> Self {
        Status {
            state: State::Loading {
                what: "data".into(),
                done: 0,
                total: 0,
            },
            run: String::new(),
            folder: String::new(),
            step: 0,
            saved_step: None,
            unsaved: None,
            ended: false,
        }
    }
}

impl Status {
    /// Processes an event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::State(state) => self.state = state.clone(),
            Event::Started(run) => {
                let done = run.continues_at().map(|next| next.saturating_sub(1));
                self.run = run.name.clone();
                self.folder = run.folder.clone();
                self.step = done.unwrap_or(0);
                // A fork is not saved yet.
                self.saved_step = done.filter(|_| run.resumed_at.is_some());
            }
            Event::Steps(report) => self.step = report.last,
            Event::Checkpoint(report) if !report.best => self.saved_step = Some(report.step),
            Event::Unsaved { why } => self.unsaved = why.clone(),
            Event::Snapshot { events } => {
                *self = Status::default();
                events.iter().for_each(|event| self.event(event));
            }
            Event::Ended { state, .. } => {
                self.state = state.clone();
                self.ended = true;
            }
            _ => {}
        }
    }

    /// Whether the run is finished and all of its files are saved.
    pub fn is_complete(&self) -> bool {
        self.state == State::Done && self.unsaved.is_none()
    }

    /// The run's folder and, if the run is not complete, the command that resumes it, which begins with `program`. None
    /// if nothing is saved.
    pub fn resume_hint(&self, program: &str) -> Option<String> {
        let step = self.saved_step?;
        // The folder may have been deleted.
        if !Path::new(&self.folder).is_dir() {
            return None;
        }
        let Status { run, folder, .. } = self;
        let step = grouped(step);
        Some(match self.is_complete() {
            true => format!("{run} is done; its files are in {folder}"),
            false => format!(
                "{run} is saved up to step {step} in {folder}; `{program} {}` resumes it",
                run_arguments("--resume", Path::new(folder))
            ),
        })
    }

    /// What the session does after its screen has closed.
    pub fn goes_on(&self) -> &'static str {
        match self.state {
            State::Paused => "stays paused",
            _ if self.state.is_over() => "stays for attached viewers",
            _ => "trains on",
        }
    }

    /// What happens to the session after its screen has closed and, if viewers can attach to it, how to return.
    pub fn return_hint(&self, can_return: bool) -> String {
        let Status { run, .. } = self;
        let does = self.goes_on();
        match run.as_str() {
            run if !can_return => {
                let run = if run.is_empty() { "the session" } else { run };
                format!("{run} {does}; nobody can attach to it, since it has no socket")
            }
            "" => format!("the session {does}; `cifar-tui attach` returns to it"),
            run => format!(
                "{run} {does}; `cifar-tui {}` returns to it",
                run_arguments("attach", Path::new(&self.folder))
            ),
        }
    }
}

/// `verb` (`attach`, `--resume`) and the run in `folder` as arguments of a command for a shell in the current folder.
pub fn run_arguments(verb: &str, folder: &Path) -> String {
    command_line(&[verb, &run_path(folder).display().to_string()])
}

/// The run in `folder` as commands in the current folder name it: by its path, since its name is known only in its own
/// runs folder.
pub fn run_path(folder: &Path) -> PathBuf {
    let below = std::env::current_dir()
        .ok()
        .and_then(|here| Some(folder.strip_prefix(here).ok()?.to_owned()))
        .filter(|below| !below.as_os_str().is_empty());
    match below {
        // A word without a slash would be a name.
        Some(below) if below.components().count() == 1 => Path::new(".").join(below),
        Some(below) => below,
        None => folder.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_named_by_its_path_from_the_current_folder() {
        let here = std::env::current_dir().unwrap();
        for (folder, arguments) in [
            (here.join("runs/one"), "attach runs/one"),
            (here.join("my runs/one"), "attach 'my runs/one'"),
            (here.join("one"), "attach ./one"),
            (here.clone(), &format!("attach {}", here.display())),
            ("/elsewhere/one".into(), "attach /elsewhere/one"),
        ] {
            assert_eq!(run_arguments("attach", &folder), arguments);
        }
    }

    #[test]
    fn the_hints_name_the_run_so_that_their_commands_find_it() {
        let folder = std::env::current_dir().unwrap().join("src");
        let status = Status {
            state: State::Running,
            run: "one".into(),
            folder: folder.display().to_string(),
            saved_step: Some(7),
            ..Status::default()
        };
        let hint = status.return_hint(true);
        assert_eq!(
            hint,
            "one trains on; `cifar-tui attach ./src` returns to it"
        );
        let hint = status.resume_hint("cifar-tui").unwrap();
        assert!(
            hint.ends_with("`cifar-tui --resume ./src` resumes it"),
            "{hint}"
        );
    }
}
