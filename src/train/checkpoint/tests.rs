//! Tests of the checkpoint's file.

use super::*;

pub(crate) fn example() -> Checkpoint {
    let run_state = RunState {
        format: FORMAT,
        version: "0.1.0".into(),
        run: "seed-1123-0412".into(),
        started: 1.5,
        origin: None,
        split_seed: 4,
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
fn the_state_is_read_without_the_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let file = example().encode().unwrap();
    std::fs::write(&path, &file).unwrap();
    assert_eq!(Checkpoint::read_state(&path).unwrap(), example().run_state);
    for bytes in [&file[..4], &file[..100], &[0xff; 40], b""] {
        std::fs::write(&path, bytes).unwrap();
        assert!(Checkpoint::read_state(&path).is_err());
    }
    assert!(Checkpoint::read_state(folder.path()).is_err());
}

#[test]
fn the_split_of_older_formats_is_that_of_the_seed() {
    let example = example();
    let mut state = serde_json::to_value(&example.run_state).unwrap();
    state["format"] = 2.into();
    state["params"]["seed"] = 77.into();
    state.as_object_mut().unwrap().remove("split_seed");
    let metadata = HashMap::from([(STATE.to_owned(), state.to_string())]);
    let none: [(&str, TensorView); 0] = [];
    let file = safetensors::serialize(none, Some(metadata)).unwrap();
    let (run_state, _) = decode_state(&file, Path::new("x")).unwrap();
    assert_eq!((run_state.split_seed, run_state.format), (77, FORMAT));
    assert_eq!(run_state.origin, None);
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
