//! Networks from checkpoints, and scoring of images, shared by `bench`, `eval` and `predict`.

use crate::backend::{self, Backend, Device, ImageSet, MemberId, NetworkState, ScoringBatch};
use crate::config::Config;
use crate::domain::params::{Tta, Weights};
use crate::hardware::device::DeviceChoice;
use crate::train::checkpoint::{Checkpoint, RunState};
use crate::train::saver::{BEST, LAST};
use crate::train::trainer;
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Number of images scored at once: enough for every core, but little memory.
const CHUNK: usize = 128;

/// A network's results for a set of images.
pub struct ScoredImages {
    /// `[images, classes]`.
    pub probabilities: Vec<f32>,
    /// Cross-entropy of each image.
    pub losses: Vec<f32>,
}

/// Opens the device that the configuration names.
///
/// # Errors
/// Returns an error if there is no such device, or it cannot be used.
pub fn device(config: &Config) -> anyhow::Result<Rc<dyn Device>> {
    let choice = config.options.device.parse::<DeviceChoice>()?;
    let options = &config.options;
    Ok(backend::open_tuned(
        choice,
        options.engine,
        options.threads,
        options.gpu_tuning,
    )?)
}

/// Scores the images with the indices `which`, with these weights and in these views, as many at a time as the backend
/// takes. `progress` receives the number of images done.
///
/// # Errors
/// Returns an error if there is no such image or the device fails.
pub fn score(
    backend: &mut dyn Backend,
    member: MemberId,
    classes: usize,
    images: &Rc<ImageSet>,
    which: &[u32],
    (weights, tta): (Weights, Tta),
    progress: &mut dyn FnMut(u64),
) -> anyhow::Result<ScoredImages> {
    let mut scored = ScoredImages {
        probabilities: vec![0.0; which.len() * classes],
        losses: vec![0.0; which.len()],
    };
    let size = backend.capacity() / tta.views().len();
    let mut done = 0;
    for ((part, probabilities), losses) in which
        .chunks(size)
        .zip(scored.probabilities.chunks_mut(size * classes))
        .zip(scored.losses.chunks_mut(size))
    {
        let batch = ScoringBatch {
            images,
            numbers: part,
            weights,
            tta,
            probabilities,
            losses,
        };
        backend.score(member, batch)?;
        done += part.len() as u64;
        progress(done);
    }
    Ok(scored)
}

/// A network loaded from a checkpoint.
pub struct Trained {
    pub file: PathBuf,
    pub run_state: RunState,
    /// The weights with which images are scored, and their views.
    pub weights: Weights,
    pub tta: Tta,
    backend: Box<dyn Backend>,
    member: MemberId,
    /// Must be dropped after the backend, so it is declared after it.
    _device: Rc<dyn Device>,
}

impl Trained {
    /// Opens the checkpoint `named`: a file, or the best (otherwise the last) checkpoint of a run's folder or name. Images
    /// are scored with these weights, in the views of `tta`, or those that the run says.
    ///
    /// # Errors
    /// Returns an error if there is none, it is damaged or does not fit, or it has no average that is to be scored.
    pub fn open(
        named: &Path,
        config: &Config,
        weights: Weights,
        tta: Option<Tta>,
    ) -> anyhow::Result<Self> {
        let file = find(named, &config.runs, [BEST, LAST])?;
        let Checkpoint { run_state, tensors } = Checkpoint::read(&file)?;
        let device = device(config)?;
        let build = || -> anyhow::Result<(Box<dyn Backend>, MemberId)> {
            let spec = trainer::network_spec(&run_state)?;
            let mut backend = device.backend(&spec, CHUNK)?;
            let member = backend.add(run_state.params.seed)?;
            let state = NetworkState {
                tensors,
                scalars: run_state.optimizer.clone(),
            };
            backend.import(member, &state)?;
            ensure!(
                weights.is_last() || backend.has_average(member)?,
                "it holds no average of the weights, because its last step had no average_decay; leave --weights out"
            );
            Ok((backend, member))
        };
        let (backend, member) =
            build().with_context(|| format!("{} cannot be used", file.display()))?;
        Ok(Trained {
            file,
            weights,
            tta: tta.unwrap_or(run_state.params.tta),
            run_state,
            backend,
            member,
            _device: device,
        })
    }

    /// Scores the images with the indices `which`.
    ///
    /// # Errors
    /// Returns an error if an image does not exist or the device fails.
    pub fn score(
        &mut self,
        images: &Rc<ImageSet>,
        which: &[u32],
        progress: &mut dyn FnMut(u64),
    ) -> anyhow::Result<ScoredImages> {
        let classes = self.run_state.classes.len();
        let backend = &mut *self.backend;
        let how = (self.weights, self.tta);
        score(backend, self.member, classes, images, which, how, progress)
    }
}

/// The checkpoint that `named` means: a file, or the first of these in a run's folder or the folder of the run with this
/// name.
pub fn find(named: &Path, runs: &Path, checkpoints: [&str; 2]) -> anyhow::Result<PathBuf> {
    // Opening refuses anything but a regular file.
    if named.exists() && !named.is_dir() {
        return Ok(named.into());
    }
    let folder = match named.is_dir() {
        true => named.to_owned(),
        false => runs.join(named),
    };
    checkpoints
        .iter()
        .map(|name| folder.join(name))
        .find(|file| file.is_file())
        .with_context(|| {
            format!(
                "'{}' is neither a checkpoint file nor a run with a checkpoint in {}; `cifar-tui runs` lists the runs",
                named.display(),
                runs.display()
            )
        })
}
