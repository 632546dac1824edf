//! Measures the launches of a network one by one on the device.

use super::GpuBackend;
use super::prepared::PreparedSchedule;
use super::records::{ProgressRecord, StepRecord};
use super::schedule::MemoryLayout;
use crate::backend::gpu::COMMON;
use crate::backend::{Backend, Error, ImageSet, Result, ScoringBatch, StepPlan};
use crate::domain::params::{Tta, Weights};
use crate::hardware::executor::{AllocationId, KernelExecutor};
use crate::layers::gpu::ScheduledLaunch;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

/// Copies of a launch in one list, so that the time of submitting the list does not count.
const COPIES: usize = 32;
/// Measurements of each launch.
const REPETITIONS: usize = 5;
/// Training steps before the measurement: every launch then reads what it reads in training.
const STEPS: usize = 3;

/// Launches and the median seconds of each, alone.
#[derive(Clone, Debug)]
pub struct LaunchTimes {
    pub multiprocessors: u32,
    pub training: Vec<(ScheduledLaunch, f64)>,
    pub scoring: Vec<(ScheduledLaunch, f64)>,
}

/// Measures the launches of a training step and of a scoring pass over the same images. The backend's memory is not usable
/// afterwards: drop it.
pub(super) fn time_launches(
    backend: &mut GpuBackend,
    images: &Rc<ImageSet>,
    step: &StepPlan,
) -> Result<LaunchTimes> {
    let id = backend.add(step.settings.seed)?;
    let work = [(id, vec![step.clone(); STEPS])];
    let outcomes = backend.train(images, &work, &AtomicBool::new(false))?;
    if let Some(what) = outcomes
        .iter()
        .flatten()
        .find_map(|o| o.not_finite.as_ref())
    {
        return Err(Error::Compute(format!(
            "{what} was not finite; choose a lower learning rate"
        )));
    }
    let memory = backend.members.get(id)?.memory;
    let layout = backend.prepared.schedule.layout.clone();
    let read_record = |backend: &mut GpuBackend, at| {
        let mut record = vec![0; size_of::<StepRecord>()];
        let read = backend.prepared.executor.read(memory, at, &mut record);
        read.map(|()| record)
    };
    let training_step = read_record(backend, layout.steps)?;
    let count = step.images.len();
    let (mut probabilities, mut losses) =
        (vec![0.0; count * backend.spec.classes], vec![0.0; count]);
    backend.score(
        id,
        ScoringBatch {
            images,
            numbers: &step.images,
            weights: Weights::Last,
            tta: Tta::None,
            probabilities: &mut probabilities,
            losses: &mut losses,
        },
    )?;
    let scoring_pass = read_record(backend, layout.now)?;
    let PreparedSchedule {
        executor, schedule, ..
    } = &mut backend.prepared;
    let mut time =
        |launches, step: &[u8]| time_list(&mut **executor, memory, &layout, launches, step);
    let scoring = time(&schedule.scoring, &scoring_pass)?;
    let training = time(&schedule.training, &training_step)?;
    Ok(LaunchTimes {
        multiprocessors: backend.prepared.executor.multiprocessors(),
        scoring,
        training,
    })
}

/// Measures the launches of a list under these settings of a step.
fn time_list(
    executor: &mut dyn KernelExecutor,
    memory: AllocationId,
    layout: &MemoryLayout,
    launches: &[ScheduledLaunch],
    step: &[u8],
) -> Result<Vec<(ScheduledLaunch, f64)>> {
    let copies = |scheduled: &ScheduledLaunch| vec![scheduled.launch.clone(); COPIES];
    let lists = executor.prepare(COMMON, launches.iter().map(copies).collect())?;
    let mut lasting = vec![0; layout.lasting];
    executor.read(memory, 0, &mut lasting)?;
    // The optimizer's launch goes on to the next step of the list, which must be the same one.
    let steps = step.repeat(2 * COPIES + 1);
    let mut timed = Vec::with_capacity(launches.len());
    for (launch, list) in launches.iter().zip(lists) {
        // Weights that many steps moved in one direction would overflow.
        executor.write(memory, 0, &lasting)?;
        let mut seconds = Vec::with_capacity(REPETITIONS);
        for repetition in 0..=REPETITIONS {
            executor.write(memory, layout.steps, &steps)?;
            executor.write(memory, layout.now, step)?;
            executor.clear(memory, layout.state, size_of::<ProgressRecord>())?;
            let all = executor.time(list, memory)?;
            // The first measurement loads the kernel and records the list.
            if repetition > 0 {
                seconds.push(all / COPIES as f64);
            }
        }
        seconds.sort_by(f64::total_cmp);
        timed.push((launch.clone(), seconds[REPETITIONS / 2]));
    }
    Ok(timed)
}

const _: () = assert!(2 * COPIES < super::schedule::MAX_STEPS);
