//! Runs variants of products on a device, each in memory of its own on data that are made up.

use super::COMMON;
use super::tuning::{Measure, Measured, trial_builder, trial_step};
use crate::backend::Result;
use crate::domain::rng::{Rng, Stream};
use crate::hardware::executor::{AllocationId, ExecutorDevice, KernelExecutor};
use crate::layers::conv::product::{Product, ProductTrial};
use crate::layers::conv::variant::KernelVariant;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Copies of a short launch in one list, so that the time of submitting the list does not count.
const COPIES: usize = 16;
/// Seconds from which a launch is measured without copies.
const LONG: f64 = 2e-4;
/// Measurements of a launch, of which the shortest counts.
const REPETITIONS: usize = 3;
/// Bytes of data that are made up, and written again and again.
const PATTERN: usize = 1 << 20;
/// Bytes at each end of a result that are compared.
const COMPARED: usize = 256 << 10;

/// Measures variants on a device.
pub struct OnDevice {
    device: Rc<dyn ExecutorDevice>,
    begun: Instant,
}

impl OnDevice {
    pub fn new(device: Rc<dyn ExecutorDevice>) -> Self {
        OnDevice {
            device,
            begun: Instant::now(),
        }
    }

    pub(super) fn multiprocessors(&self) -> Result<u32> {
        Ok(Rc::clone(&self.device).executor()?.multiprocessors())
    }
}

/// A product in memory of its own.
struct OpenTrial {
    executor: Box<dyn KernelExecutor>,
    memory: AllocationId,
    trial: ProductTrial,
}

impl OnDevice {
    fn open(&self, product: &Product, variant: &'static KernelVariant) -> Result<OpenTrial> {
        let mut executor = Rc::clone(&self.device).executor()?;
        let builder = trial_builder(product, variant, executor.multiprocessors());
        let step = builder.shared.step;
        let trial = product.trial(builder);
        let memory = executor.allocate(trial.bytes)?;
        executor.clear(memory, 0, trial.bytes)?;
        executor.write(memory, step, &trial_step(product))?;
        for (number, range) in trial.reads.iter().enumerate() {
            fill(&mut *executor, memory, number as u64, range.clone())?;
        }
        Ok(OpenTrial {
            executor,
            memory,
            trial,
        })
    }

    /// Runs a product once. Returns what is compared of its results.
    ///
    /// # Errors
    /// Returns an error if memory is short, the kernel does not compile or the device fails.
    pub fn results(&self, product: &Product, variant: &'static KernelVariant) -> Result<Vec<f32>> {
        let mut open = self.open(product, variant)?;
        let launches = vec![vec![open.trial.launch.clone()]];
        for list in open.executor.prepare(COMMON, launches)? {
            open.executor.run(list, &[open.memory], 1)?;
        }
        open.results()
    }
}

impl OpenTrial {
    fn results(&mut self) -> Result<Vec<f32>> {
        let mut results = Vec::new();
        for range in &self.trial.writes {
            results.extend(both_ends(&mut *self.executor, self.memory, range.clone())?);
        }
        Ok(results)
    }
}

impl Measure for OnDevice {
    fn measure(&mut self, product: &Product, variant: &'static KernelVariant) -> Result<Measured> {
        let mut open = self.open(product, variant)?;
        let copies = |count| vec![open.trial.launch.clone(); count];
        let lists = open
            .executor
            .prepare(COMMON, vec![copies(1), copies(COPIES)])?;
        let mut seconds = f64::INFINITY;
        if let [one, many] = lists[..] {
            // The first measurement of a list records it.
            open.executor.time(one, open.memory)?;
            let (list, count) = match open.executor.time(one, open.memory)? < LONG {
                true => (many, COPIES),
                false => (one, 1),
            };
            open.executor.time(list, open.memory)?;
            for _ in 0..REPETITIONS {
                let all = open.executor.time(list, open.memory)?;
                seconds = seconds.min(all / count as f64);
            }
        }
        let results = open.results()?;
        Ok(Measured { seconds, results })
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// Writes numbers from -1 to 1 to a range of bytes.
fn fill(
    executor: &mut dyn KernelExecutor,
    memory: AllocationId,
    number: u64,
    range: Range<usize>,
) -> Result<()> {
    let rng = Rng::new(1, Stream::Sample, number);
    let count = range.len().min(PATTERN) / 4;
    let unit = |i: u32| rng.word(i) as f32 / u32::MAX as f32 * 2.0 - 1.0;
    let pattern: Vec<u8> = (0..count as u32)
        .flat_map(|i| unit(i).to_le_bytes())
        .collect();
    for at in range.clone().step_by(PATTERN) {
        let bytes = (range.end - at).min(pattern.len());
        executor.write(memory, at, &pattern[..bytes])?;
    }
    Ok(())
}

/// The f32 at both ends of a range of bytes.
fn both_ends(
    executor: &mut dyn KernelExecutor,
    memory: AllocationId,
    range: Range<usize>,
) -> Result<Vec<f32>> {
    let first = range.start..range.end.min(range.start + COMPARED);
    let last = first.end.max(range.end.saturating_sub(COMPARED))..range.end;
    let mut numbers = Vec::new();
    for part in [first, last] {
        let mut bytes = vec![0; part.len()];
        executor.read(memory, part.start, &mut bytes)?;
        let floats = bytes.as_chunks::<4>().0.iter();
        numbers.extend(floats.map(|bytes| f32::from_le_bytes(*bytes)));
    }
    Ok(numbers)
}
