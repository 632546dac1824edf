//! Looking back at an earlier state of a run.

use super::*;
use crate::train::checkpoint::Checkpoint;
use std::path::Path;

/// A run with an average of its weights, left after this step.
fn left_after(step: usize) -> Trainer {
    let mut run = short_run(2.0, false);
    let mut host = Recorder {
        leave_after: Some(step),
        ..Recorder::default()
    };
    assert_eq!(run.run(&mut host).unwrap(), End::Left);
    run
}

fn scores_of(run: &mut Trainer, checkpoint: &Checkpoint) -> Result<Option<Scores>> {
    run.look_back(checkpoint, Path::new("a test"), |past| {
        past.score_epoch(|| false)
    })
}

#[test]
fn the_past_is_scored_as_it_was_and_the_run_goes_on_as_without() {
    let (mut past, mut plain, mut looking) = (left_after(5), left_after(13), left_after(13));
    let checkpoint = past.checkpoint().unwrap().unwrap();
    let (state, before) = (past.state().unwrap(), looking.run_state().clone());
    let expected = past.score_epoch(|| false).unwrap().unwrap();
    let scores = scores_of(&mut looking, &checkpoint).unwrap().unwrap();
    assert_eq!((scores.step, expected.step), (5, 5));
    assert_eq!(scores.probabilities, expected.probabilities);
    assert_eq!(scores.evaluation.loss, expected.evaluation.loss);
    // It is the past for whatever looks at it.
    let seen = looking.look_back(&checkpoint, Path::new("a test"), |past| {
        assert!(*past.run_state() == checkpoint.run_state);
        past.state()
    });
    assert!(seen.unwrap() == state);
    let none = looking.look_back(&checkpoint, Path::new("a test"), |past| {
        past.score_epoch(|| true)
    });
    assert!(none.unwrap().is_none(), "it was told to stop");
    assert!(*looking.run_state() == before);

    let mut hosts = [Recorder::default(), Recorder::default()];
    looking.run(&mut hosts[0]).unwrap();
    plain.run(&mut hosts[1]).unwrap();
    assert_eq!(hosts[0].losses, hosts[1].losses);
    assert!(looking.state().unwrap() == plain.state().unwrap());
}

#[test]
fn a_checkpoint_of_another_run_or_with_a_part_missing_is_refused() {
    let checkpoint = left_after(5).checkpoint().unwrap().unwrap();
    let mut run = left_after(13);
    let before = run.state().unwrap();
    let wrong: [fn(&mut Checkpoint); 4] = [
        |c| c.run_state.split_seed += 1,
        |c| c.run_state.architecture = "dense 10".into(),
        |c| c.run_state.data.digest.clear(),
        |c| drop(c.tensors.remove("conv1.weight")),
    ];
    for (spoil, words) in wrong
        .into_iter()
        .zip(["this run", "this run", "digest", "conv1.weight"])
    {
        let mut spoiled = checkpoint.clone();
        spoil(&mut spoiled);
        let error = scores_of(&mut run, &spoiled).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(run.state().unwrap() == before);
    }
    assert!(scores_of(&mut run, &checkpoint).unwrap().is_some());
}
