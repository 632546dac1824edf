//! A checkpoint: one safetensors file with the weights, the optimizer's state and, in its metadata, everything else
//! that resuming needs.
//!
//! The metadata holds `format` = `pt` (the tensors have PyTorch's names and shapes), `cifar-tui` (a [`RunState`] as
//! JSON) and `sha256`: the hash of the whole file with the 64 digits of that hash written as zeros. So no byte of the
//! file, header or padding included, can change unnoticed.

use crate::backend::TensorData;
use crate::domain::params::{Change, Hyperparameters, Value};
use crate::domain::report::{DataInfo, StepReport};
use crate::files;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The version of [`RunState`] that this program writes. Older ones are read, newer ones refused.
///
/// Format 1 named the optimizer's slots `first` and `second` for every optimizer, and stored the products of the betas
/// in a separate field.
pub const FORMAT: u32 = 2;
/// Maximum size in bytes of a checkpoint file: enough for 100 million parameters and their optimizer state.
const LARGEST_FILE: u64 = 2 << 30;
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
    /// The values in force.
    pub params: Hyperparameters,
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
        let (_, metadata) =
            SafeTensors::read_metadata(&file).map_err(|e| damaged(e.to_string()))?;
        let state = metadata
            .metadata()
            .as_ref()
            .and_then(|m| m.get(STATE))
            .ok_or_else(|| damaged("its metadata lacks the state of the training".into()))?;
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
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
        let run_state = RunState::deserialize(state).map_err(|e| damaged(e.to_string()))?;
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
        let file = files::read(path, LARGEST_FILE).map_err(|error| match error.kind() {
            ErrorKind::FileTooLarge => CheckpointError::Damaged {
                path: path.into(),
                why: format!("{error}, more than any checkpoint of this program"),
            },
            _ => CheckpointError::Io {
                path: path.into(),
                source: error,
            },
        })?;
        Self::decode(file, path)
    }
}

/// Old and new names of the optimizer's slots.
type Renamed = &'static [(&'static str, &'static str)];

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
    fields.insert("format".into(), FORMAT.into());
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

/// The offset of the hash's 64 digits. Quotes inside a JSON string are escaped, so the key cannot be found within a
/// string.
fn hash_slot(file: &[u8]) -> Option<usize> {
    let length = u64::from_le_bytes(*file.first_chunk()?);
    let end = 8usize.checked_add(usize::try_from(length).ok()?)?;
    let header = file.get(8..end)?;
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Checkpoint {
        let run_state = RunState {
            format: FORMAT,
            version: "0.1.0".into(),
            run: "seed-1123-0412".into(),
            started: 1.5,
            params: Hyperparameters {
                architecture: "a \"sha256\":\"quoted\" text".into(),
                ..Hyperparameters::default()
            },
            pending: vec![("batch_size".into(), Value::Int(64))],
            changes: vec![Applied {
                change: Change {
                    key: "learning_rate".into(),
                    old: Value::Float(1e-3),
                    new: Value::Float(5e-4),
                },
                step: 7,
                epoch: 1,
            }],
            architecture: "dense 10".into(),
            data: DataIdentity {
                name: "sample set".into(),
                train: 10,
                test: 2,
                digest: "00".into(),
            },
            data_source: "/data/cifar-10-batches-py".into(),
            classes: vec!["cat".into()],
            side: 32,
            mean: vec![0.1, 0.2, 0.3],
            deviation: vec![0.4; 3],
            step: 9,
            epochs: 1,
            step_in_epoch: 3,
            images_in_epoch: 96,
            totals: EpochTotals {
                loss: 0.1 + 0.2,
                correct: 3,
                images: 96,
                seconds: 0.3,
            },
            best: None,
            elapsed: 1.0 / 3.0,
            optimizer: BTreeMap::from([
                ("beta1_product".into(), 0.9 * 0.9),
                ("beta2_product".into(), 0.999 * 0.999),
            ]),
            metrics_bytes: 123,
            unwritten: None,
        };
        let tensor = |n: usize| TensorData {
            shape: vec![n, 3],
            // Division is rounded in the same way on every platform, unlike sines and powers.
            values: (0..3 * n).map(|i| 1.0 - i as f32 / 7.0).collect(),
        };
        Checkpoint {
            run_state,
            tensors: BTreeMap::from([
                ("dense1.weight".into(), tensor(10)),
                ("optimizer.exp_avg.dense1.weight".into(), tensor(10)),
                ("average.dense1.weight".into(), tensor(10)),
                ("dense1.bias".into(), tensor(1)),
            ]),
        }
    }

    #[test]
    fn a_checkpoint_comes_back_bit_for_bit_and_others_can_read_it() {
        let checkpoint = example();
        let file = checkpoint.encode().unwrap();
        let plain = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(plain.tensor("dense1.weight").unwrap().shape(), [10, 3]);
        assert_eq!(
            Checkpoint::decode(file, Path::new("x")).unwrap(),
            checkpoint
        );
    }

    #[test]
    fn the_same_state_makes_the_same_file() {
        let file = example().encode().unwrap();
        for _ in 0..20 {
            assert_eq!(example().encode().unwrap(), file);
        }
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_detected() {
        let file = example().encode().unwrap();
        let path = Path::new("runs/a/last.safetensors");
        for at in 0..file.len() {
            // The lowest bit, and the bit that distinguishes upper and lower case.
            for bit in [1, 0x20] {
                let mut bad = file.clone();
                bad[at] ^= bit;
                let error = Checkpoint::decode(bad, path).unwrap_err().to_string();
                assert!(error.contains("runs/a/last.safetensors"), "{at}: {error}");
                let cut = Checkpoint::decode(file[..at].to_vec(), path);
                assert!(cut.is_err(), "cut at {at}");
            }
        }
    }

    #[test]
    fn a_newer_format_is_refused_with_advice() {
        let mut checkpoint = example();
        checkpoint.run_state.format = FORMAT + 1;
        let file = checkpoint.encode().unwrap();
        let error = Checkpoint::decode(file, Path::new("x")).unwrap_err();
        assert!(error.to_string().contains("Update"), "{error}");
    }

    #[test]
    fn a_checkpoint_is_the_fuzz_target_s_seed() {
        let bytes = example().encode().unwrap();
        crate::domain::mutate::is_seed("checkpoint", "example", &bytes);
    }

    fn mutations(count: u32) {
        let file = example().encode().unwrap();
        let path = Path::new("runs/a/last.safetensors");
        let mut readable = 0;
        for number in 0..count {
            let bad = crate::domain::mutate::mutated(&file, number);
            if bad != file {
                let error = Checkpoint::decode(bad.clone(), path).unwrap_err();
                assert!(error.to_string().contains("last.safetensors"), "{number}");
            }
            readable += u32::from(Checkpoint::decode(fuzz_sign(bad), path).is_ok());
        }
        // Some modifications are harmless, such as other values in a tensor.
        assert!(readable > 0 && readable < count, "{readable} of {count}");
    }

    #[test]
    fn mutations_are_detected_and_signed_ones_never_panic() {
        mutations(1000);
    }

    #[test]
    #[ignore = "the long form: 20,000"]
    fn twenty_thousand_mutations_are_detected_and_signed_ones_never_panic() {
        mutations(20_000);
    }
}
