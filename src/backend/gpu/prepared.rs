//! A schedule on the device: its compiled lists, and the memory of the members that they run on.

use super::COMMON;
use super::member::words;
use super::schedule::{KernelSchedule, Slot};
use crate::backend::{Error, Result};
use crate::domain::layer_rates::LayerRates;
use crate::hardware::executor::{AllocationId, KernelExecutor, KernelList};
use crate::layers::gpu::ScheduledLaunch;
use crate::layers::slices;
use candle_core::Tensor;

/// A schedule whose lists can be run. All members that it runs on have memory of its layout.
pub(super) struct PreparedSchedule {
    pub executor: Box<dyn KernelExecutor>,
    pub schedule: KernelSchedule,
    pub training: KernelList,
    pub scoring: KernelList,
    pub packing: KernelList,
    /// Exchanges the weights and their average, if the schedule keeps one.
    pub swapping: Option<KernelList>,
}

impl PreparedSchedule {
    /// Compiles the kernels of a schedule. It has no memory yet.
    pub fn new(mut executor: Box<dyn KernelExecutor>, schedule: KernelSchedule) -> Result<Self> {
        let mut lists = vec![&schedule.training, &schedule.scoring, &schedule.packing];
        lists.extend(&schedule.swapping);
        let launches =
            |list: &Vec<ScheduledLaunch>| list.iter().map(|l| l.launch.clone()).collect();
        let lists = lists.into_iter().map(launches).collect();
        let lists = executor.prepare(COMMON, lists)?;
        let list = |index: usize| lists.get(index).copied();
        match (list(0), list(1), list(2)) {
            (Some(training), Some(scoring), Some(packing)) => Ok(PreparedSchedule {
                executor,
                schedule,
                training,
                scoring,
                packing,
                swapping: list(3),
            }),
            _ => unreachable!("the executor prepares every list"),
        }
    }

    /// Allocates a member's memory, with these layer rates and weights of zero.
    pub fn allocate(&mut self, rates: &LayerRates) -> Result<AllocationId> {
        let memory = self.executor.allocate(self.schedule.layout.bytes)?;
        match self.initialise(memory, rates) {
            Ok(()) => Ok(memory),
            Err(error) => {
                self.executor.free(memory);
                Err(error)
            }
        }
    }

    fn initialise(&mut self, memory: AllocationId, rates: &LayerRates) -> Result<()> {
        let schedule = &self.schedule;
        for &(at, bytes) in &schedule.zeroed {
            self.executor.clear(memory, at, bytes)?;
        }
        if !schedule.matrices.is_empty() {
            let (at, matrices) = (schedule.layout.matrices, words(&schedule.matrices));
            self.executor.write(memory, at, &matrices)?;
        }
        self.write_pieces(memory, rates)
    }

    /// Gives the optimizer's pieces these factors on their learning rates.
    pub fn write_pieces(&mut self, memory: AllocationId, rates: &LayerRates) -> Result<()> {
        let pieces = self.schedule.pieces_at(rates);
        let at = self.schedule.layout.pieces;
        Ok(self.executor.write(memory, at, &words(&pieces))?)
    }

    /// Moves a member's memory here from another schedule of the same network. If memory is short, the member keeps its
    /// memory there.
    pub fn take(
        &mut self,
        memory: &mut AllocationId,
        from: &mut PreparedSchedule,
        rates: &LayerRates,
    ) -> Result<()> {
        let mut lasting = vec![0; from.schedule.layout.lasting];
        from.executor.read(*memory, 0, &mut lasting)?;
        // The memory of both at once may not fit.
        from.executor.free(*memory);
        match self.allocate(rates) {
            Ok(new) => {
                *memory = new;
                self.restore(new, &lasting)
            }
            Err(error) => {
                *memory = from.allocate(rates).map_err(Error::while_restoring)?;
                from.restore(*memory, &lasting)?;
                Err(error)
            }
        }
    }

    /// Gives new memory the lasting part of old memory.
    fn restore(&mut self, memory: AllocationId, lasting: &[u8]) -> Result<()> {
        // Its end is the average, which one of two schedules may not have.
        let bytes = lasting.len().min(self.schedule.layout.lasting);
        self.executor.write(memory, 0, &lasting[..bytes])?;
        Ok(self.executor.run(self.packing, &[memory], 1)?)
    }

    /// Whether training steps can move an average of the weights.
    pub fn averages(&self) -> bool {
        self.schedule.layout.average.is_some()
    }

    /// Copies a member's weights and running statistics to its average. A training step changes only those that it moves.
    pub fn fill_average(&mut self, memory: AllocationId) -> Result<()> {
        let copies = self.schedule.average_copies();
        for (from, to, bytes) in copies.filter(|(_, _, bytes)| *bytes > 0) {
            self.executor.copy((memory, from), (memory, to), bytes)?;
        }
        Ok(())
    }

    /// Copies tensors to a row of a member's memory.
    pub fn write_row<'a>(
        &mut self,
        memory: AllocationId,
        row: TensorRow,
        tensors: impl Iterator<Item = &'a Tensor>,
    ) -> Result<()> {
        for (at, tensor) in self.offsets(row).into_iter().zip(tensors) {
            let numbers = slices::read(tensor)?;
            self.executor.write(memory, at, &float_bytes(&numbers))?;
        }
        Ok(())
    }

    /// Copies a row of a member's memory to tensors.
    pub fn read_row<'a>(
        &mut self,
        memory: AllocationId,
        row: TensorRow,
        tensors: impl Iterator<Item = &'a Tensor>,
    ) -> Result<()> {
        for (at, tensor) in self.offsets(row).into_iter().zip(tensors) {
            let mut read = Ok(());
            slices::write([tensor], |[numbers]| read = self.read(memory, at, numbers))?;
            read?;
        }
        Ok(())
    }

    /// Offsets of the tensors of a row.
    fn offsets(&self, row: TensorRow) -> Vec<usize> {
        let (schedule, layout) = (&self.schedule, &self.schedule.layout);
        let offsets = |at, slots: &mut dyn Iterator<Item = &Slot>| {
            slots.map(|slot| at + 4 * slot.begin).collect()
        };
        match row {
            TensorRow::Weights => offsets(layout.weights, &mut schedule.params.iter()),
            TensorRow::Gradients => offsets(layout.grads, &mut schedule.params.iter()),
            TensorRow::Running => offsets(layout.running, &mut schedule.running.iter()),
            TensorRow::State(slot) => offsets(schedule.state_row(slot), &mut schedule.trained()),
        }
    }

    /// Reads numbers of a member's memory.
    pub fn read(&mut self, memory: AllocationId, at: usize, numbers: &mut [f32]) -> Result<()> {
        let mut bytes = vec![0; 4 * numbers.len()];
        self.executor.read(memory, at, &mut bytes)?;
        for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *number = f32::from_le_bytes(*bytes);
        }
        Ok(())
    }
}

/// Tensors that stand one after the other in a member's memory.
#[derive(Clone, Copy)]
pub(super) enum TensorRow {
    Weights,
    Gradients,
    /// The norms' running statistics.
    Running,
    /// This number of the optimizer's state tensors of each trained parameter.
    State(usize),
}

pub(super) fn float_bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|v| v.to_le_bytes()).collect()
}
