//! Networks from checkpoints, images on a device, and scoring them: what `bench`, `eval` and `predict` share.

use crate::config::Config;
use crate::data;
use crate::domain::arch::{self, Shape};
use crate::domain::augment::Placement;
use crate::hardware::device::DeviceChoice;
use crate::hardware::threads::Threads;
use crate::net::{Net, Scaling};
use crate::train::checkpoint::{Checkpoint, Progress};
use crate::train::trainer;
use anyhow::Context;
use candle_core::{Device, Tensor};
use std::path::{Path, PathBuf};

/// Images that are scored at once: enough for every core, little memory.
const CHUNK: usize = 128;

/// Images of one split: u8, `[n, 3, side, side]`, and a label each.
pub struct LabelledImages {
    pub pixels: Tensor,
    pub labels: Vec<u8>,
}

impl LabelledImages {
    /// Takes the block of pixels over.
    ///
    /// # Errors
    /// Returns an error if the device runs out of memory or an operation fails.
    pub fn new(images: data::Images) -> anyhow::Result<Self> {
        let shape = (images.labels.len(), 3, images.side, images.side);
        Ok(LabelledImages {
            pixels: Tensor::from_vec(images.pixels, shape, &Device::Cpu)?,
            labels: images.labels,
        })
    }
}

/// A network's results for a set of images.
pub struct Scored {
    /// `classes` for each image.
    pub probabilities: Vec<f32>,
    /// Cross-entropy of each image.
    pub losses: Vec<f32>,
}

/// Scores the images of the numbers `which`, as many at a time as the network takes. `progress` counts images.
///
/// # Errors
/// Returns an error if the network cannot be computed.
pub fn score(
    net: &mut Net,
    images: &LabelledImages,
    which: &[u32],
    scaling: &Scaling,
    threads: &Threads,
    progress: &mut dyn FnMut(u64),
) -> anyhow::Result<Scored> {
    let classes = net.classes();
    let mut scored = Scored {
        probabilities: vec![0.0; which.len() * classes],
        losses: vec![0.0; which.len()],
    };
    let size = net.capacity();
    let mut done = 0;
    for ((part, probabilities), losses) in which
        .chunks(size)
        .zip(scored.probabilities.chunks_mut(size * classes))
        .zip(scored.losses.chunks_mut(size))
    {
        let placements: Vec<_> = part.iter().map(|i| Placement::plain(*i)).collect();
        net.score(
            &images.pixels,
            &images.labels,
            &placements,
            scaling,
            threads,
            probabilities,
            losses,
        )?;
        done += part.len() as u64;
        progress(done);
    }
    Ok(scored)
}

/// A network from a checkpoint, ready to score.
pub struct Trained {
    pub file: PathBuf,
    pub progress: Progress,
    pub net: Net,
    pub scaling: Scaling,
    pub threads: Threads,
}

impl Trained {
    /// Opens the checkpoint that `named` means: a file; a run's folder or name, then its best checkpoint, else its last.
    ///
    /// # Errors
    /// Returns an error if there is none, or it is damaged or does not fit.
    pub fn open(named: &Path, config: &Config) -> anyhow::Result<Self> {
        let file = find(named, &config.runs)?;
        let Checkpoint { progress, tensors } = Checkpoint::read(&file)?;
        let device = config.options.device.parse::<DeviceChoice>()?.open()?;
        let shape = Shape::new(3, progress.side, progress.side);
        let build = || -> anyhow::Result<Net> {
            let arch = arch::resolve(&progress.architecture)?;
            let seed = progress.params.seed;
            let classes = progress.classes.len();
            let mut net = Net::build(&arch, shape, classes, CHUNK, seed, &Device::Cpu)?;
            net.load(&trainer::weights(tensors)?)?;
            if let Some(executor) = device.executor()? {
                let params = &progress.params;
                net.accelerate(executor, params.optimizer, params.precision)?;
            }
            Ok(net)
        };
        let net = build().with_context(|| format!("{} cannot be used", file.display()))?;
        Ok(Trained {
            scaling: trainer::scaling(&progress)?,
            threads: Threads::new(config.options.threads),
            file,
            progress,
            net,
        })
    }

    /// Scores the images of the numbers `which`.
    ///
    /// # Errors
    /// Returns the errors of [`score`].
    pub fn score(
        &mut self,
        images: &LabelledImages,
        which: &[u32],
        progress: &mut dyn FnMut(u64),
    ) -> anyhow::Result<Scored> {
        score(
            &mut self.net,
            images,
            which,
            &self.scaling,
            &self.threads,
            progress,
        )
    }
}

/// The checkpoint file that `named` means.
fn find(named: &Path, runs: &Path) -> anyhow::Result<PathBuf> {
    // Opening refuses anything but a regular file.
    if named.exists() && !named.is_dir() {
        return Ok(named.into());
    }
    let folder = match named.is_dir() {
        true => named.to_owned(),
        false => runs.join(named),
    };
    ["best.safetensors", "last.safetensors"]
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

/// The index of the largest number, the first of equals.
pub fn largest(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}
