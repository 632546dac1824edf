//! Frozen layers and factors on their learning rates, of a live run.

use super::*;
use crate::domain::layer_rates::KEY;
use crate::session::protocol::ForkRequest;

pub(super) fn paused(runs: &Path) -> Settings {
    let mut settings = settings(runs);
    settings.paused = true;
    settings.params.architecture = "conv 4, norm, relu, pool, drop, dense 10".into();
    settings.params.optimizer = Optimizer::Adamw;
    settings.params.weight_decay = 0.1;
    settings.params.average_decay = 0.9;
    settings
}

fn rates(text: &str) -> Command {
    Command::Set {
        key: KEY.into(),
        value: Value::Text(text.into()),
    }
}

impl FrontEnd {
    /// Writes a checkpoint and reads it.
    fn checkpoint(&mut self, runs: &Path) -> Checkpoint {
        // An earlier checkpoint of this step counts.
        self.checkpoint_since(0, runs)
    }

    /// Writes a checkpoint and reads it. Only the events from number `heard` on count.
    pub(super) fn checkpoint_since(&mut self, heard: usize, runs: &Path) -> Checkpoint {
        let id = self.send(Command::Checkpoint);
        let outcome = self.done(id);
        let saved = |e: &Event| matches!(e, Event::Checkpoint(c) if !c.best && outcome == Outcome::AppliedAt(c.step + 1));
        if !self.events[heard..].iter().any(saved) {
            self.until(|e| saved(e).then_some(()));
        }
        content(&runs.join("one").join(LAST))
    }
}

/// The tensors of a checkpoint whose names have this in them.
pub(super) fn tensors<'a>(
    checkpoint: &'a Checkpoint,
    of: &'a str,
) -> impl Iterator<Item = (&'a String, &'a crate::backend::TensorData)> {
    checkpoint
        .tensors
        .iter()
        .filter(move |(name, _)| name.contains(of))
}

#[test]
fn a_frozen_layer_stays_as_it_is_until_undo() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::paused(paused(runs.path()));
    front.make_steps(3);
    let id = front.send(rates("conv1 0, norm1 0"));
    assert_eq!(front.done(id), Outcome::AppliedAt(4));
    let before = front.checkpoint(runs.path());
    front.make_steps(4);
    let after = front.checkpoint(runs.path());
    let is_statistic = |name: &str| name.contains("running");
    let mut kept = 0;
    for layer in ["conv1.", "norm1."] {
        for (name, tensor) in tensors(&before, layer) {
            // The running statistics follow the batches, and the average follows what it averages.
            let stays = !is_statistic(name) && !name.starts_with("average.");
            assert_eq!(after.tensors[name] == *tensor, stays, "{name}");
            kept += usize::from(stays);
        }
    }
    // The filters, and the norm's gain and shift, each with two moments.
    assert_eq!(kept, 9);
    for (name, tensor) in tensors(&before, "dense1.") {
        assert!(after.tensors[name] != *tensor, "{name}");
    }
    front.send(Command::Undo);
    assert_eq!(front.applied(), (KEY.into(), Value::Text("none".into()), 8));
    front.make_steps(1);
    let thawed = front.checkpoint(runs.path());
    for (name, tensor) in tensors(&after, "conv1.") {
        assert!(thawed.tensors[name] != *tensor, "{name}");
    }
    let why = front.refused(rates("conv2 0"));
    assert!(
        why.contains("the network has no layer 'conv2'; did you mean 'conv1'?"),
        "{why}"
    );
    let why = front.refused(rates("conv1 -1"));
    assert!(why.contains("not a factor from 0 to 100"), "{why}");
    front.quit();
    // The record has both changes.
    let changes = metrics(&runs.path().join("one"));
    let changes: Vec<_> = changes
        .iter()
        .filter_map(|event| match event {
            Event::Applied { change, step, .. } => Some((change.new.to_string(), *step)),
            _ => None,
        })
        .collect();
    assert_eq!(
        changes,
        [("conv1 0, norm1 0".into(), 4), ("none".into(), 8)]
    );
}

#[test]
fn a_resumed_run_goes_on_with_the_same_factors_bit_for_bit() {
    let (plain, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut last = Vec::new();
    for (runs, breaks) in [(&plain, false), (&broken, true)] {
        let mut front = FrontEnd::paused(paused(runs.path()));
        front.make_steps(3);
        front.send(rates("conv1 0, dense1 0.25"));
        front.make_steps(2);
        if breaks {
            front = front.quit_and_resume(runs.path());
        }
        front.send(Command::Resume);
        front.until_state(State::Done);
        front.quit();
        last.push(content(&runs.path().join("one").join(LAST)));
    }
    assert_eq!(
        last[0].run_state.params.layer_rates.to_string(),
        "conv1 0, dense1 0.25"
    );
    assert!(last[0] == last[1]);
}

#[test]
fn a_new_run_with_a_factor_of_a_layer_that_it_does_not_have_fails_with_its_name() {
    let runs = tempfile::tempdir().unwrap();
    let mut settings = paused(runs.path());
    settings.params.layer_rates = "conv9 0.5".parse().unwrap();
    let mut front = FrontEnd::start(settings);
    let State::Failed { why } = front.until_ended() else {
        panic!("it has begun");
    };
    assert!(why.contains("the network has no layer 'conv9'"), "{why}");
}

#[test]
fn a_fork_with_another_architecture_keeps_the_factors_of_the_layers_that_it_has() {
    let runs = tempfile::tempdir().unwrap();
    let mut front = FrontEnd::paused(paused(runs.path()));
    front.make_steps(2);
    front.send(rates("norm1 0, conv1 0.5"));
    front.applied();
    front.send(Command::Fork(ForkRequest {
        changes: vec![(
            "architecture".into(),
            Value::Text("conv 4, relu, dense 10".into()),
        )],
        paused: true,
        ..ForkRequest::default()
    }));
    let params = front.until(|e| match e {
        Event::Started(run) => Some(run.params.clone()),
        _ => None,
    });
    assert_eq!(params.layer_rates.to_string(), "conv1 0.5");
    front.until_state(State::Paused);
    front.make_steps(1);
    front.quit();
}
