//! Layers that get fresh weights while a run trains.

use super::layer_rates::{paused, tensors};
use super::*;
use crate::domain::report::LayerReset;
use crate::train::checkpoint::Checkpoint;

fn reset(layer: &str) -> Command {
    Command::ResetLayer {
        layer: layer.into(),
    }
}

impl FrontEnd {
    /// Sends a command and waits until it has reset a layer, or taken that back.
    fn resets(&mut self, command: Command) -> LayerReset {
        let id = self.send(command);
        let reset = self.until(|e| match e {
            Event::LayerReset(reset) => Some(reset.clone()),
            _ => None,
        });
        assert_eq!(self.done(id), Outcome::AppliedAt(reset.step));
        reset
    }

    /// Writes a checkpoint and reads it, also if there is one of this step already.
    fn new_checkpoint(&mut self, runs: &Path) -> Checkpoint {
        self.checkpoint_since(self.events.len(), runs)
    }
}

/// Whether the tensor `name` belongs to a layer.
fn is_of(name: &str, layer: &str) -> bool {
    name.split('.').any(|part| part == layer)
}

#[test]
fn a_reset_renews_one_layer_alone_and_undo_brings_it_back() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::paused(paused(runs.path()));
    let why = front.refused(reset("dense1"));
    assert!(why.contains("all weights are fresh"), "{why}");
    front.make_steps(3);
    let before = front.new_checkpoint(runs.path());
    for layer in ["dense1", "norm1"] {
        let at = front.resets(reset(layer));
        assert_eq!((at.layer.as_str(), at.step, at.epoch), (layer, 4, 1));
        assert!(!at.taken_back);
        let why = front.refused(reset(layer));
        assert!(why.contains("was reset at this step already"), "{why}");
        let after = front.new_checkpoint(runs.path());
        assert_eq!(after.run_state.optimizer, before.run_state.optimizer);
        let (mut changed, mut zero) = (0, 0);
        for (name, tensor) in &after.tensors {
            assert_eq!(
                *tensor != before.tensors[name],
                is_of(name, layer),
                "{name}"
            );
            changed += usize::from(is_of(name, layer));
            if is_of(name, layer) && name.starts_with("optimizer.") {
                assert!(tensor.values.iter().all(|v| *v == 0.0), "{name}");
                zero += 1;
            }
            if let Some(averaged) = name.strip_prefix("average.").filter(|n| is_of(n, layer)) {
                assert_eq!(*tensor, after.tensors[averaged], "{name}");
            }
        }
        // A weight and a bias (or gain and shift, and two statistics), each with two moments, and their averages.
        assert_eq!(
            (changed, zero),
            if layer == "dense1" { (8, 4) } else { (12, 4) }
        );
        let back = front.resets(Command::Undo);
        assert_eq!((back.layer.as_str(), back.taken_back), (layer, true));
        assert!(front.new_checkpoint(runs.path()).tensors == before.tensors);
    }
    // Steps later, the layer alone gets back what it had.
    front.resets(reset("dense1"));
    front.make_steps(2);
    let later = front.new_checkpoint(runs.path());
    assert_eq!(front.resets(Command::Undo).step, 6);
    let back = front.new_checkpoint(runs.path());
    for (name, tensor) in &back.tensors {
        let from = if is_of(name, "dense1") {
            &before
        } else {
            &later
        };
        assert!(*tensor == from.tensors[name], "{name}");
    }
    assert!(front.refused(Command::Undo).contains("no change to undo"));
    for (layer, part) in [
        (
            "dense2",
            "the network has no layer 'dense2'; did you mean 'dense1'?",
        ),
        ("relu1", "the network has no layer"),
        ("", "the network has no layer ''"),
    ] {
        let why = front.refused(reset(layer));
        assert!(why.contains(part), "{layer}: {why}");
    }
    // Where an epoch ends, its scores and checkpoints name the weights.
    front.resets(reset("conv1"));
    front.make_steps(5);
    for command in [reset("dense1"), Command::Undo] {
        let why = front.refused(command);
        assert!(why.contains("an epoch ends here"), "{why}");
    }
    front.make_steps(1);
    assert_eq!(front.resets(Command::Undo).step, 12);
    front.quit();
    let recorded = metrics(&runs.path().join("one"));
    let resets = recorded
        .iter()
        .filter(|e| matches!(e, Event::LayerReset(_)));
    assert_eq!(resets.count(), 8);
}

#[test]
fn a_reset_within_a_run_is_resumed_bit_for_bit_and_repeated_by_the_seed() {
    let folders = [0; 3].map(|_| tempfile::tempdir().unwrap());
    let mut last = Vec::new();
    for (i, runs) in folders.iter().enumerate() {
        let mut front = FrontEnd::paused(paused(runs.path()));
        front.make_steps(3);
        if i < 2 {
            front.resets(reset("conv1"));
        }
        if i == 1 {
            front = front.quit_and_resume(runs.path());
        }
        front.send(Command::Resume);
        front.until_state(State::Done);
        front.quit();
        assert_metrics_are_seamless(&runs.path().join("one"), 30);
        last.push(content(&runs.path().join("one").join(LAST)));
    }
    assert!(last[0] == last[1]);
    assert!(tensors(&last[0], "conv1.").all(|(name, t)| *t != last[2].tensors[name]));
}

#[test]
fn blocks_are_reset_whole_and_fixed_filters_stay() {
    let runs = tempfile::tempdir().unwrap();
    let mut settings = paused(runs.path());
    settings.params.architecture =
        "whiten, relu, residual(conv 24 same, norm), pool, dense 10".into();
    let mut front = FrontEnd::paused(settings);
    front.make_steps(2);
    let before = front.new_checkpoint(runs.path());
    front.resets(reset("residual1"));
    front.resets(reset("whiten1"));
    let after = front.new_checkpoint(runs.path());
    for (name, tensor) in &after.tensors {
        let renewed = (is_of(name, "residual1") || is_of(name, "whiten1"))
            && !name.ends_with("whiten1.weight");
        assert_eq!(*tensor != before.tensors[name], renewed, "{name}");
    }
    front.quit();
}

#[test]
fn a_reset_is_refused_in_a_comparison_and_after_the_end() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::paused(paused(runs.path()));
    front.make_steps(2);
    front.resets(reset("dense1"));
    let id = front.send(Command::Compare {
        key: "dropout".into(),
        value: Value::Float(0.1),
    });
    assert_eq!(front.done(id), Outcome::AppliedAt(3));
    for command in [reset("conv1"), Command::Undo] {
        let why = front.refused(command);
        assert!(why.contains("a comparison is under way"), "{why}");
    }
    let id = front.send(Command::DropChange);
    front.done(id);
    assert!(front.resets(Command::Undo).taken_back);
    front.send(Command::Resume);
    front.until_state(State::Done);
    let why = front.refused(reset("conv1"));
    assert!(why.contains("the run is over"), "{why}");
    front.quit();
}

#[test]
fn scores_are_of_one_network_when_a_layer_is_reset_while_images_are_scored() {
    let runs = tempfile::tempdir().unwrap();
    let mut settings = paused(runs.path());
    settings.params.average_decay = 0.0;
    let mut front = FrontEnd::paused(settings);
    front.make_steps(4);
    front.send(Command::Evaluate);
    let mut before = front.evaluation(Split::Validation).loss;
    for _ in 0..5 {
        // The reset arrives within the evaluation, before it or after it. The evaluation is not lost.
        let heard = front.events.len();
        front.send(Command::Evaluate);
        front.resets(reset("conv1"));
        front.send(Command::Evaluate);
        front.evaluation(Split::Validation);
        front.until_state(State::Paused);
        front.send(Command::Evaluate);
        let after = front.evaluation(Split::Validation).loss;
        front.resets(Command::Undo);
        let scored = front.events[heard..].iter().filter_map(|e| match e {
            Event::Evaluation(e) => Some(e.loss),
            _ => None,
        });
        let scored: Vec<f64> = scored.collect();
        assert!(scored.len() >= 2 && before != after, "{scored:?}");
        assert!(
            scored.iter().all(|loss| [before, after].contains(loss)),
            "{scored:?}"
        );
        front.make_steps(1);
        front.send(Command::Evaluate);
        before = front.evaluation(Split::Validation).loss;
    }
    front.quit();
}
