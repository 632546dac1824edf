//! Saves, their failures, and what a crash leaves.

use super::super::checkpoint::tests::example;
use super::super::checkpoint::{Best, EpochTotals};
use super::super::files::FileOp;
use super::super::files::faults::{Fault, inject};
use super::*;
use std::fs;

fn job(folder: &Path, step: u64, best: bool) -> Job {
    let mut checkpoint = example();
    checkpoint.run_state.step = step;
    // The checkpoint of step 1 was the best so far.
    checkpoint.run_state.best = Some(Best {
        accuracy: 0.5,
        epoch: 1,
        step: if best { step } else { 1 },
    });
    Job {
        checkpoint,
        folder: folder.into(),
        best: if best { NewBest::This } else { NewBest::None },
        keep: Keep::Last,
        metrics: None,
    }
}

#[test]
fn last_previous_and_best_follow_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut saver = Saver::start().unwrap();
    for (step, best) in [(1, true), (2, false), (3, false)] {
        saver.save(job(folder.path(), step, best));
        assert!(saver.finish().iter().all(Result::is_ok));
    }
    assert!(!saver.is_busy());
    let step = |name| {
        let read = Checkpoint::read(&folder.path().join(name)).unwrap();
        read.run_state.step
    };
    assert_eq!((step(LAST), step(PREVIOUS), step(BEST)), (3, 2, 1));
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, [BEST, LAST, PREVIOUS], "nothing is left behind");
}

#[test]
fn only_the_newest_and_the_newest_best_of_queued_jobs_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let queued = JobQueue::default();
    let jobs = [(1, true), (2, false), (3, true), (4, false), (5, false)];
    let added = jobs.map(|(step, best)| enqueue(&queued, job(folder.path(), step, best)));
    assert_eq!(added, [true, false, false, false, false]);
    // A job never replaces the job of another run.
    assert!(enqueue(&queued, job(other.path(), 1, false)));
    let mut pending = None;
    let queued = queued.lock().unwrap().drain(..).collect::<Vec<_>>();
    assert_eq!(queued.len(), 2);
    let reports: Vec<_> = queued
        .into_iter()
        .flat_map(|job| save(job, &mut pending).unwrap())
        .map(|report| (report.step, report.best))
        .collect();
    assert_eq!(reports, [(3, false), (3, true), (5, false), (1, false)]);
    assert_eq!(steps(folder.path()), [Some(5), Some(3), Some(3)]);
    assert_eq!(steps(other.path()), [Some(1), None, None]);
}

#[test]
fn a_failed_save_is_reported_and_leaves_no_temporary_file() {
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone");
    let mut saver = Saver::start().unwrap();
    saver.save(job(&gone, 5, false));
    let outcomes = saver.finish();
    let why = outcomes[0].as_ref().unwrap_err();
    assert!(
        why.contains("step 5") && why.contains("gone") && why.contains("room"),
        "{why}"
    );
    // A folder with the file's name makes the rename fail after the temporary file was written.
    let last = folder.path().join(LAST);
    fs::create_dir(&last).unwrap();
    assert!(Folder::from(folder.path()).write(LAST, b"x").is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// The steps of the run's three checkpoints; None for one that cannot be read.
fn steps(folder: &Path) -> [Option<u64>; 3] {
    [LAST, PREVIOUS, BEST].map(|name| {
        let read = Checkpoint::read(&folder.join(name));
        read.ok().map(|c| c.run_state.step)
    })
}

/// Saves steps 1 (the best) and 2, then step 3 with a fault. Returns the folder, the result and the file operations
/// of step 3.
fn faulty(fault: Option<Fault>) -> (tempfile::TempDir, SaveOutcome, Vec<FileOp>) {
    let folder = tempfile::tempdir().unwrap();
    for (step, best) in [(1, true), (2, false)] {
        save(job(folder.path(), step, best), &mut None).unwrap();
    }
    let injected = inject(folder.path(), fault);
    let outcome = save(job(folder.path(), 3, true), &mut None);
    let done = injected.done();
    drop(injected);
    (folder, outcome, done)
}

#[test]
fn each_operation_of_a_save_may_fail_and_the_next_save_goes_well() {
    let (_, outcome, operations) = faulty(None);
    assert!(outcome.is_ok() && operations.len() > 8, "{operations:?}");
    for (at, operation) in operations.iter().enumerate() {
        let mut faults = vec![
            Fault::Error {
                at,
                code: libc::EIO,
            },
            Fault::Error {
                at,
                code: libc::ENOSPC,
            },
        ];
        if *operation == FileOp::Write {
            faults.push(Fault::Short { at });
        }
        for fault in faults {
            let (folder, outcome, _) = faulty(Some(fault));
            // Without hard links the file is copied, which is not a failure.
            assert_eq!(outcome.is_ok(), *operation == FileOp::Link, "{fault:?}");
            let [last, previous, best] = steps(folder.path());
            assert!(matches!(last, Some(2 | 3)), "{fault:?}: {last:?}");
            assert!(matches!(previous, Some(1 | 2)), "{fault:?}: {previous:?}");
            assert!(matches!(best, Some(1 | 3)), "{fault:?}: {best:?}");
            save(job(folder.path(), 4, false), &mut None).unwrap();
            assert_eq!(steps(folder.path())[0], Some(4), "{fault:?}");
            Folder::from(folder.path()).sweep().unwrap();
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "{fault:?}");
        }
    }
}

/// Asserts that a run resumed from the last readable checkpoint has the best weights that it refers to.
#[track_caller]
fn has_its_best(folder: &Path, fault: Fault) {
    let last = Checkpoint::read(&folder.join(LAST)).unwrap().run_state;
    adopt(&folder.into(), LAST, last.is_best()).unwrap();
    assert_eq!(steps(folder)[2], last.best.map(|b| b.step), "{fault:?}");
}

#[test]
fn a_crash_before_or_after_each_operation_leaves_the_old_or_the_new_one() {
    let (.., operations) = faulty(None);
    for at in 0..operations.len() {
        for fault in [Fault::CrashBefore { at }, Fault::CrashAfter { at }] {
            let (folder, outcome, _) = faulty(Some(fault));
            assert!(outcome.is_err(), "{fault:?}");
            let [last, previous, best] = steps(folder.path());
            assert!(matches!(last, Some(2 | 3)), "{fault:?}: {last:?}");
            assert!(matches!(previous, Some(1 | 2)), "{fault:?}: {previous:?}");
            assert!(matches!(best, Some(1 | 3)), "{fault:?}: {best:?}");
            Folder::from(folder.path()).sweep().unwrap();
            has_its_best(folder.path(), fault);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "{fault:?}");
            save(job(folder.path(), 4, true), &mut None).unwrap();
            assert_eq!(steps(folder.path())[0], Some(4), "{fault:?}");
            assert_eq!(steps(folder.path())[2], Some(4), "{fault:?}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "{fault:?}");
        }
    }
}

/// The end of an epoch of ten steps.
fn end_of_epoch(folder: &Path, epoch: u32, keep: Keep) -> Job {
    let mut job = job(folder, 10 * u64::from(epoch), false);
    let run_state = &mut job.checkpoint.run_state;
    (run_state.epochs, run_state.step_in_epoch) = (epoch, 0);
    run_state.totals = EpochTotals::default();
    Job { keep, ..job }
}

#[test]
fn ends_of_epochs_are_kept_and_thinned() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let save = |job| save(job, &mut None).unwrap();
    for epoch in 1..=60 {
        save(end_of_epoch(path, epoch, Keep::Thin));
    }
    let expected: Vec<u32> = (1..=60).filter(|e| Keep::Thin.keeps(*e, 60)).collect();
    assert_eq!(kept::epochs(path), expected);
    for epoch in expected {
        let checkpoint = Checkpoint::read(&path.join(kept::file_of(epoch))).unwrap();
        assert_eq!(checkpoint.run_state.epochs, epoch);
    }
    // The run went back to epoch 50, and is within the one after it.
    let mut within = end_of_epoch(path, 50, Keep::Thin);
    within.checkpoint.run_state.step_in_epoch = 3;
    within.checkpoint.run_state.totals.images = 30;
    save(within);
    assert!(kept::epochs(path).iter().all(|epoch| *epoch <= 51));
    assert!(!path.join(kept::file_of(51)).exists());
    save(end_of_epoch(path, 51, Keep::Last));
    assert!(kept::epochs(path).is_empty());
}

#[test]
fn what_fails_while_an_epoch_is_kept_is_reported_and_the_next_save_goes_well() {
    let prepared = || {
        let folder = tempfile::tempdir().unwrap();
        for epoch in 1..=9 {
            save(end_of_epoch(folder.path(), epoch, Keep::All), &mut None).unwrap();
        }
        folder
    };
    let faulty = |fault| {
        let folder = prepared();
        let injected = inject(folder.path(), fault);
        let outcome = save(end_of_epoch(folder.path(), 10, Keep::Last), &mut None);
        let kept = end_of_epoch(folder.path(), 11, Keep::All);
        let outcome = outcome.and(save(kept, &mut None));
        let done = injected.done();
        drop(injected);
        (folder, outcome, done)
    };
    let (_, outcome, operations) = faulty(None);
    assert!(outcome.is_ok() && operations.contains(&FileOp::Remove));
    for at in 0..operations.len() {
        for fault in [
            Fault::Error {
                at,
                code: libc::ENOSPC,
            },
            Fault::CrashBefore { at },
            Fault::CrashAfter { at },
        ] {
            let (folder, ..) = faulty(Some(fault));
            let path = folder.path();
            let last = Checkpoint::read(&path.join(LAST))
                .or_else(|_| Checkpoint::read(&path.join(PREVIOUS)));
            assert!(last.is_ok(), "{fault:?}");
            for epoch in kept::epochs(path) {
                let kept = Checkpoint::read(&path.join(kept::file_of(epoch)));
                assert_eq!(kept.unwrap().run_state.epochs, epoch, "{fault:?}");
            }
            Folder::from(path).sweep().unwrap();
            kept::sweep(&path.into()).unwrap();
            save(end_of_epoch(path, 12, Keep::Thin), &mut None).unwrap();
            assert_eq!(kept::epochs(path).last(), Some(&12), "{fault:?}");
            let files = fs::read_dir(path.join(kept::KEPT)).unwrap().count();
            assert_eq!(
                files,
                kept::epochs(path).len(),
                "{fault:?}: nothing is left behind"
            );
        }
    }
}

#[test]
fn a_best_checkpoint_that_found_no_room_is_written_when_there_is_some() {
    let folder = tempfile::tempdir().unwrap();
    let mut pending = None;
    save(job(folder.path(), 1, true), &mut pending).unwrap();
    let full = inject(folder.path(), Some(Fault::Full));
    assert!(save(job(folder.path(), 2, true), &mut pending).is_err());
    assert!(save(job(folder.path(), 3, false), &mut pending).is_err());
    drop(full);
    assert_eq!(steps(folder.path()), [Some(1), None, Some(1)]);
    let written = save(job(folder.path(), 4, false), &mut pending).unwrap();
    assert_eq!(written.len(), 2);
    assert_eq!(steps(folder.path()), [Some(4), Some(1), Some(2)]);
    assert!(pending.is_none());
}

#[test]
fn an_inherited_best_comes_after_the_run_s_own_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let mut saver = Saver::start().unwrap();
    let inherit = |step, best| {
        let parent = Box::new(job(folder.path(), best, false).checkpoint);
        Job {
            best: NewBest::Inherited(parent),
            ..job(folder.path(), step, false)
        }
    };
    let step = |name: &str| {
        let checkpoint = Checkpoint::read(&folder.path().join(name));
        checkpoint.map(|c| c.run_state.step).ok()
    };
    // Nothing can be renamed to the name of this folder, which is not empty.
    let in_the_way = folder.path().join(LAST);
    std::fs::create_dir_all(in_the_way.join("file")).unwrap();
    saver.save(inherit(3, 2));
    assert!(saver.finish().iter().any(Result::is_err));
    assert_eq!((step(LAST), step(BEST)), (None, None));
    std::fs::remove_dir_all(&in_the_way).unwrap();
    saver.save(job(folder.path(), 4, false));
    assert!(saver.finish().iter().all(Result::is_ok));
    assert_eq!((step(LAST), step(BEST)), (Some(4), Some(2)));
}
