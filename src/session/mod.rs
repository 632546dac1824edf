//! A training session: the worker thread, its commands and its events. A front end calls [`start`] and then uses only
//! the [`client::SessionClient`]: it sends commands and reads events. This module knows no screen.

pub mod attach;
pub mod broadcaster;
pub mod client;
pub mod command_files;
mod download;
mod fork;
pub mod from_files;
mod lines;
mod load;
pub mod log;
mod pictures;
pub mod protocol;
mod questions;
pub mod remote;
pub mod resume;
pub mod run_dir;
pub mod run_view;
pub mod runs;
pub mod sent;
pub mod serve;
pub mod status;
pub mod sweep;
#[cfg(test)]
mod tests;
mod tfevents;
mod worker;

use crate::backend::shared::DeviceConnection;
use crate::data;
use crate::domain::engine::EngineChoice;
use crate::domain::gpu_tuning::GpuTuning;
use crate::domain::keep::Keep;
use crate::domain::params::{self, Hyperparameters, Value};
use crate::hardware::device::DeviceChoice;
use client::SessionClient;
use run_dir::{HostId, Owner};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

/// The settings of a session. [`Settings::default`] trains the seed recipe on the first data set found and saves
/// nothing.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Valid hyperparameters (see `domain::params`). A resumed or forked run uses its own, then `overrides`.
    pub params: Hyperparameters,
    /// Keys of `params` that the user set explicitly. They replace a resumed or forked run's values.
    pub overrides: Vec<String>,
    /// The data set named by the user: a file, a folder, or `sample`. None: search the usual locations.
    pub data: Option<PathBuf>,
    /// Whether the user named `data` for this session, so that it also applies to a resumed run. Otherwise a resumed
    /// run uses the data it began with.
    pub data_is_for_this_session: bool,
    /// The folder for downloads. None: the usual data folder.
    pub download_to: Option<PathBuf>,
    /// The runs folder; None saves nothing.
    pub runs: Option<PathBuf>,
    /// The new run's name. None: generate one.
    pub name: Option<String>,
    /// The run to resume: its folder, its name, or a checkpoint file.
    pub resume: Option<PathBuf>,
    /// The run to fork and the state to begin in: RUN, RUN@5, RUN@best or RUN@step:120.
    pub fork: Option<String>,
    pub device: DeviceChoice,
    pub engine: EngineChoice,
    pub gpu_tuning: GpuTuning,
    /// Which checkpoints of the ends of epochs a run keeps.
    pub keep: Keep,
    /// The device that the session shares with others of this process, instead of opening `device`.
    pub shared_device: Option<DeviceConnection>,
    /// Number of threads of the training step; 0: one per core.
    pub threads: usize,
    /// Begin paused, before the first step.
    pub paused: bool,
    /// Stop the run at the end of this epoch, if it is not its last. It can be resumed.
    pub until_epoch: Option<u32>,
    /// Open a socket so that viewers can attach.
    pub serve: bool,
    /// The computer that the session runs on.
    pub host: HostId,
    /// Minimum time between two step reports, and between two progress reports of an evaluation.
    pub report_interval: Duration,
    /// For tests: (step, index of a parameter, value). After that step, and until the first change of a hyperparameter,
    /// a weight of the parameter is replaced by the value.
    #[cfg(test)]
    pub(crate) spoil: Option<(u64, usize, f32)>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            params: Hyperparameters::default(),
            overrides: Vec::new(),
            data: None,
            data_is_for_this_session: false,
            download_to: None,
            runs: None,
            name: None,
            resume: None,
            fork: None,
            device: DeviceChoice::Auto,
            engine: EngineChoice::Auto,
            gpu_tuning: GpuTuning::Off,
            shared_device: None,
            keep: Keep::default(),
            threads: 0,
            paused: false,
            until_epoch: None,
            serve: false,
            host: HostId::this(),
            report_interval: Duration::from_millis(40),
            #[cfg(test)]
            spoil: None,
        }
    }
}

impl Settings {
    /// The hyperparameters that the user set explicitly, as (key, value).
    fn changes(&self) -> Vec<(String, Value)> {
        let keys = self.overrides.iter();
        keys.filter_map(|key| Some((key.clone(), params::param(key)?.get(&self.params))))
            .collect()
    }
}

/// Starts a session and returns without waiting for it. The worker's thread loads the data and trains; the device and
/// all tensors are created, used and dropped on it. The session ends after `Command::Quit` or when the client is
/// dropped; its last event is `Event::Ended`.
///
/// # Errors
/// Returns an error if the system cannot start a thread.
pub fn start(settings: Settings) -> std::io::Result<(SessionClient, JoinHandle<()>)> {
    let (named, threads) = (settings.data.clone(), settings.threads);
    let insists = settings.data_is_for_this_session;
    start_with(settings, move |recorded, progress| {
        let recorded = recorded.filter(|_| !insists);
        data::load(&find_data(named.as_deref(), recorded)?, progress, threads)
    })
}

/// The data of a session: that of the resumed run if it still exists, otherwise `named` or the usual locations.
fn find_data(
    named: Option<&Path>,
    recorded: Option<&Path>,
) -> Result<data::LocatedData, data::DataError> {
    match recorded {
        Some(path) if path.exists() || path == Path::new(data::SAMPLE) => data::find(Some(path)),
        Some(path) => {
            tracing::warn!("the run's data is not at {} any more", path.display());
            data::find(named)
        }
        None => data::find(named),
    }
}

/// [`start`] with data from `load`. It is called on its own thread with the path of a resumed run's data.
fn start_with(
    settings: Settings,
    load: impl worker::Load,
) -> std::io::Result<(SessionClient, JoinHandle<()>)> {
    let (client, sender) = client::channel();
    let thread = std::thread::Builder::new()
        .name("worker".into())
        .spawn(move || {
            let server = settings.serve.then(|| serve(&sender)).flatten();
            let owner = Owner {
                host: settings.host.clone(),
                socket: server.as_ref().map(serve::Server::socket),
            };
            worker::run(settings, owner, sender, load);
        })?;
    Ok((client, thread))
}

/// Opens the socket for viewers. If that fails, logs a warning, and the session continues without it.
fn serve(sender: &client::EventSender) -> Option<serve::Server> {
    match serve::Server::start(sender.broadcaster()) {
        Ok(server) => Some(server),
        Err(error) => {
            let text = format!("nobody can attach to this session: {error}");
            tracing::warn!("{text}");
            sender.event(protocol::Event::Warning { text });
            None
        }
    }
}
