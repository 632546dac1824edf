//! A checkpoint: one safetensors file with the weights, the optimizer's state and, in its metadata, everything else
//! that resuming needs.
//!
//! The metadata holds `format` = `pt` (the tensors have PyTorch's names and shapes), `cifar-tui` (a [`RunState`] as
//! JSON) and `sha256`: the hash of the whole file with the 64 digits of that hash written as zeros. So no byte of the
//! file, header or padding included, can change unnoticed.

#[cfg(test)]
pub(crate) mod tests;

use crate::backend::TensorData;
use crate::domain::fork::ForkOrigin;
use crate::domain::params::{Change, Hyperparameters, Value};
use crate::domain::report::{DataInfo, StepReport};
use crate::files;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// The version of [`RunState`] that this program writes. Older ones are read, newer ones refused.
///
/// Format 1 named the optimizer's slots `first` and `second` for every optimizer, and stored the products of the betas
/// in a separate field. Up to format 2, the images were always split by the run's own seed.
pub const FORMAT: u32 = 3;
/// Maximum size in bytes of a checkpoint file: enough for 100 million parameters and their optimizer state.
const LARGEST_FILE: u64 = 2 << 30;
/// Maximum size in bytes of its header, in which the state lists all changes of the run.
const LARGEST_HEADER: u64 = 64 << 20;
const STATE: &str = "cifar-tui";
const HASH: &str = "sha256";
const HASH_DIGITS: usize = 64;

/// Why a checkpoint cannot be read or used. Each message names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("the checkpoint {} cannot be read: {source}. Check the path and that you may read it.", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "the checkpoint {} is damaged or was not written by this program: {why}. Use another one, such as previous.safetensors or best.safetensors of the same run.",
        path.display()
    )]
    Damaged { path: PathBuf, why: String },
    #[error("the checkpoint {} was written by a newer version of cifar-tui (its format is {found}, this program knows up to {FORMAT}). Update cifar-tui.", path.display())]
    Newer { path: PathBuf, found: u32 },
    #[error("the checkpoint {} does not fit: {why}.", path.display())]
    Mismatch { path: PathBuf, why: String },
}

/// Identifies the data that a run is trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataIdentity {
    pub name: String,
    pub train: u32,
    pub test: u32,
    /// Hash of all labels and of a share of the images.
    pub digest: String,
}

/// The best evaluation so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// On the validation images, 0 to 1.
    pub accuracy: f64,
    pub epoch: u32,
    pub step: u64,
}

/// Sums over the images that the current epoch has trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochTotals {
    pub loss: f64,
    pub correct: u64,
    pub images: u64,
    /// Seconds spent in training steps.
    pub seconds: f64,
}

/// A change of a hyperparameter, with the first step that used it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    pub change: Change,
    pub step: u64,
    pub epoch: u32,
}

/// Everything that resuming needs, except tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    pub format: u32,
    /// The version of the program that wrote it.
    pub version: String,
    /// The run's name; empty if the run has no folder.
    pub run: String,
    /// Seconds since the Unix epoch.
    pub started: f64,
    /// If the run is a fork: its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<ForkOrigin>,
    /// The values in force.
    pub params: Hyperparameters,
    /// The seed that splits the images into training and validation images. A fork keeps its parent's, whatever its own
    /// seed is: with another one, it would be scored on images that it has been trained on.
    pub split_seed: u64,
    /// Changes that take effect at the next epoch or in the next run, as (key, value).
    #[serde(rename = "waiting")]
    pub pending: Vec<(String, Value)>,
    /// All changes so far.
    pub changes: Vec<Applied>,
    /// The architecture as text; not the name of a preset.
    pub architecture: String,
    pub data: DataIdentity,
    /// The location of the data: an absolute path, or [`crate::data::SAMPLE`]. Empty in old files.
    #[serde(default)]
    pub data_source: String,
    /// The names of the classes, and below the side and statistics of the images: what is needed to use the network on
    /// other images.
    pub classes: Vec<String>,
    pub side: u32,
    /// Mean and standard deviation of each channel over the training images, in [0, 1]; used if `standardize` is set.
    pub mean: Vec<f32>,
    pub deviation: Vec<f32>,
    /// Training steps done.
    pub step: u64,
    /// Number of whole epochs done, and the steps and images done of the next one.
    pub epochs: u32,
    pub step_in_epoch: u64,
    pub images_in_epoch: u64,
    pub totals: EpochTotals,
    pub best: Option<Best>,
    /// Seconds of training.
    pub elapsed: f64,
    /// The optimizer's scalars by name.
    pub optimizer: BTreeMap<String, f64>,
    /// Number of bytes of metrics.jsonl that belong to the steps done, and the report of steps not yet written there.
    pub metrics_bytes: u64,
    pub unwritten: Option<StepReport>,
}

impl RunState {
    /// The current epoch, or the one that has just ended, counted from 1; 0 before the first step.
    pub fn epoch(&self) -> u32 {
        self.epochs + u32::from(self.step_in_epoch > 0)
    }

    /// Whether all steps so far are part of an epoch that was scored and reported. A run that ended within an epoch is
    /// closed there.
    pub fn is_closed(&self) -> bool {
        self.totals.images == 0
    }

    /// Whether the last step ended an epoch, or ended the run within one.
    pub fn ends_epoch(&self) -> bool {
        self.is_closed() && self.step > 0
    }

    /// Whether the best weights so far are those of this step.
    pub fn is_best(&self) -> bool {
        self.best.is_some_and(|best| best.step == self.step)
    }
}

/// A checkpoint in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub run_state: RunState,
    pub tensors: BTreeMap<String, TensorData>,
}

impl DataIdentity {
    /// The identity of a data set; `splits` are the pixels and labels of the training and test images.
    pub fn of(info: &DataInfo, splits: [(&[u8], &[u8]); 2], image_bytes: usize) -> Self {
        /// One of this many images is hashed. That suffices to detect a shuffled or different data set.
        const STRIDE: usize = 64;
        let mut hash = Sha256::new();
        for (pixels, labels) in splits {
            hash.update(labels);
            for image in pixels.chunks(image_bytes.max(1)).step_by(STRIDE) {
                hash.update(image);
            }
        }
        DataIdentity {
            name: info.name.clone(),
            train: info.train,
            test: info.test,
            digest: hex(&hash.finalize()[..16]),
        }
    }
}

impl Checkpoint {
    /// The contents of the checkpoint's file.
    ///
    /// # Errors
    /// Returns an error if a tensor's shape does not fit its number of values.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let state = serde_json::to_string(&self.run_state).map_err(|e| text(&e))?;
        let bytes: Vec<(&str, &[usize], Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, tensor)| {
                let bytes = tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect();
                (name.as_str(), tensor.shape.as_slice(), bytes)
            })
            .collect();
        let views = bytes
            .iter()
            .map(|(name, shape, bytes)| {
                let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes);
                view.map(|view| (*name, view)).map_err(|e| text(&e))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let metadata = HashMap::from([
            ("format".to_owned(), "pt".to_owned()),
            (STATE.to_owned(), state),
            (HASH.to_owned(), "0".repeat(HASH_DIGITS)),
        ]);
        let mut file = safetensors::serialize(views, Some(metadata)).map_err(|e| text(&e))?;
        sort_header(&mut file).ok_or("the header of the encoded file could not be sorted")?;
        let slot = hash_slot(&file)
            .ok_or("the header of the encoded file has no field for the checksum")?;
        let digest = hex(&Sha256::digest(&file));
        file[slot..slot + HASH_DIGITS].copy_from_slice(digest.as_bytes());
        Ok(file)
    }

    /// Decodes the contents of a checkpoint file; `path` is named in errors.
    ///
    /// # Errors
    /// Returns an error unless the bytes are exactly those that [`Checkpoint::encode`] wrote.
    pub fn decode(mut file: Vec<u8>, path: &Path) -> Result<Self, CheckpointError> {
        let damaged = |why: String| CheckpointError::Damaged {
            path: path.into(),
            why,
        };
        let slot = hash_slot(&file)
            .ok_or_else(|| damaged("its header is cut off or holds no checksum".into()))?;
        let digits = &mut file[slot..slot + HASH_DIGITS];
        let mut claimed = [b'0'; HASH_DIGITS];
        digits.swap_with_slice(&mut claimed);
        if hex(&Sha256::digest(&file)).as_bytes() != claimed {
            return Err(damaged(
                "its bytes do not match its checksum (cut off or changed)".into(),
            ));
        }
        let (run_state, slots) = decode_state(&file, path)?;
        let all = SafeTensors::deserialize(&file).map_err(|e| damaged(e.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in all.iter() {
            if view.dtype() != Dtype::F32 {
                return Err(damaged(format!("'{name}' is not of 32-bit floats")));
            }
            let (numbers, _) = view.data().as_chunks::<4>();
            let saved = TensorData {
                shape: view.shape().to_vec(),
                values: numbers.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            };
            tensors.insert(renamed(name, slots), saved);
        }
        Ok(Checkpoint { run_state, tensors })
    }

    /// Reads a checkpoint file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is damaged.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let file = files::read(path, LARGEST_FILE).map_err(|e| unreadable(e, path))?;
        Self::decode(file, path)
    }

    /// Reads the state in a checkpoint's header, and not its tensors. The checksum is not verified: use the state to
    /// choose a checkpoint, then [`Checkpoint::read`] it.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or its header is damaged.
    pub fn read_state(path: &Path) -> Result<RunState, CheckpointError> {
        let header = || {
            let mut file = files::open(path)?;
            let mut header = vec![0; 8];
            file.read_exact(&mut header)?;
            let length = u64::from_le_bytes(*header.first_chunk().unwrap_or(&[0; 8]));
            file.take(length.min(LARGEST_HEADER))
                .read_to_end(&mut header)?;
            Ok(header)
        };
        let header = header().map_err(|e| unreadable(e, path))?;
        Ok(decode_state(&header, path)?.0)
    }
}

fn unreadable(error: std::io::Error, path: &Path) -> CheckpointError {
    match error.kind() {
        ErrorKind::FileTooLarge => CheckpointError::Damaged {
            path: path.into(),
            why: format!("{error}, more than any checkpoint of this program"),
        },
        _ => CheckpointError::Io {
            path: path.into(),
            source: error,
        },
    }
}

/// The state in the header of a checkpoint file, and the names of the optimizer's slots in its format. `file` begins
/// with the header; `path` is named in errors.
fn decode_state(file: &[u8], path: &Path) -> Result<(RunState, Renamed), CheckpointError> {
    let damaged = |why: String| CheckpointError::Damaged {
        path: path.into(),
        why,
    };
    #[derive(Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__")]
        metadata: HashMap<String, String>,
    }
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let header = header(file).ok_or_else(|| damaged("its header is cut off".into()))?;
    let header: Header = serde_json::from_slice(header).map_err(|e| damaged(e.to_string()))?;
    let state = header
        .metadata
        .get(STATE)
        .ok_or_else(|| damaged("its metadata lacks the state of the training".into()))?;
    let mut state: serde_json::Value =
        serde_json::from_str(state).map_err(|e| damaged(e.to_string()))?;
    let version = Version::deserialize(&state).map_err(|e| damaged(e.to_string()))?;
    if version.format > FORMAT {
        return Err(CheckpointError::Newer {
            path: path.into(),
            found: version.format,
        });
    }
    let slots = match version.format {
        1 => from_format_1(&mut state).map_err(damaged)?,
        _ => &[],
    };
    if version.format < 3 {
        from_format_2(&mut state).map_err(damaged)?;
    }
    let run_state = RunState::deserialize(state).map_err(|e| damaged(e.to_string()))?;
    Ok((run_state, slots))
}

/// Old and new names of the optimizer's slots.
type Renamed = &'static [(&'static str, &'static str)];

/// Converts the state of format 2 to format 3.
fn from_format_2(state: &mut serde_json::Value) -> Result<(), String> {
    let seed = state["params"]["seed"].clone();
    let fields = state
        .as_object_mut()
        .ok_or("its state is not a JSON object")?;
    fields.insert("format".into(), FORMAT.into());
    fields.insert("split_seed".into(), seed);
    Ok(())
}

/// Converts the state of format 1 to format 2. Returns the new names of the optimizer's slots.
fn from_format_1(state: &mut serde_json::Value) -> Result<Renamed, String> {
    let products = <[f64; 2]>::deserialize(&state["beta_products"])
        .map_err(|e| format!("its products of the betas: {e}"))?;
    let (slots, scalars): (Renamed, _) = match state["params"]["optimizer"].as_str() {
        Some("sgd") => (&[("first", "momentum_buffer")], serde_json::json!({})),
        _ => (
            &[("first", "exp_avg"), ("second", "exp_avg_sq")],
            serde_json::json!({ "beta1_product": products[0], "beta2_product": products[1] }),
        ),
    };
    let fields = state
        .as_object_mut()
        .ok_or("its state is not a JSON object")?;
    fields.insert("optimizer".into(), scalars);
    Ok(slots)
}

/// The name of a tensor in format 2: with its slot renamed if the tensor belongs to the optimizer.
fn renamed(name: &str, slots: Renamed) -> String {
    let of_slot = |(old, new): &(&str, &str)| {
        let parameter = name
            .strip_prefix("optimizer.")?
            .strip_prefix(old)?
            .strip_prefix('.')?;
        Some(format!("optimizer.{new}.{parameter}"))
    };
    slots
        .iter()
        .find_map(of_slot)
        .unwrap_or_else(|| name.to_owned())
}

/// Sorts the keys of the header, so that equal states give equal files: the library writes metadata in the random order
/// of a hash map. None if sorting would change the length of the header.
fn sort_header(file: &mut [u8]) -> Option<()> {
    let length = u64::from_le_bytes(*file.first_chunk()?);
    let header = file.get_mut(8..8 + usize::try_from(length).ok()?)?;
    let keys: serde_json::Value = serde_json::from_slice(header).ok()?;
    let sorted = serde_json::to_vec(&keys).ok()?;
    let (text, padding) = header.split_at_mut_checked(sorted.len())?;
    text.copy_from_slice(&sorted);
    padding.iter().all(|&b| b == b' ').then_some(())
}

/// The header of a file, which is JSON. None if it is cut off.
fn header(file: &[u8]) -> Option<&[u8]> {
    let length = u64::from_le_bytes(*file.first_chunk()?);
    let end = 8usize.checked_add(usize::try_from(length).ok()?)?;
    file.get(8..end)
}

/// The offset of the hash's 64 digits. Quotes inside a JSON string are escaped, so the key cannot be found within a
/// string.
fn hash_slot(file: &[u8]) -> Option<usize> {
    let header = header(file)?;
    let end = 8 + header.len();
    let key = format!("\"{HASH}\":\"");
    let at = header
        .windows(key.len())
        .position(|w| w == key.as_bytes())?;
    let slot = 8 + at + key.len();
    (slot + HASH_DIGITS < end && file[slot + HASH_DIGITS] == b'"').then_some(slot)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Replaces the checksum of modified bytes by the right one, as an attacker would. For tests and the fuzz target.
#[cfg(any(test, fuzzing))]
pub fn fuzz_sign(mut file: Vec<u8>) -> Vec<u8> {
    if let Some(slot) = hash_slot(&file) {
        file[slot..slot + HASH_DIGITS].fill(b'0');
        let digest = hex(&Sha256::digest(&file));
        file[slot..slot + HASH_DIGITS].copy_from_slice(digest.as_bytes());
    }
    file
}
