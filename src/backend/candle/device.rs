//! The devices that Candle has.

use super::CandleBackend;
use crate::backend::members::Members;
use crate::backend::{
    Backend, Device, DeviceInfo, ImageSet, NetworkSpec, NetworkState, Result, StepPlan,
};
use crate::hardware::threads::Threads;
use crate::layers::candle::{CandleTraining, Margins};
use crate::layers::cpu::TrainingPass;
use candle_core::{DType, Device as CandleCoreDevice};
use std::rc::Rc;

/// A Candle device.
pub struct CandleDevice {
    device: CandleCoreDevice,
    dtype: DType,
    info: DeviceInfo,
}

impl CandleDevice {
    fn new(device: CandleCoreDevice, dtype: DType, words: String, threads: Rc<Threads>) -> Self {
        let info = DeviceInfo {
            words,
            threads,
            gpu_index: None,
            unused_gpu: None,
        };
        CandleDevice {
            device,
            dtype,
            info,
        }
    }

    /// The CPU in double precision, with which tests compare other backends.
    pub fn reference() -> Self {
        let threads = Rc::new(Threads::new(1));
        Self::new(
            CandleCoreDevice::Cpu,
            DType::F64,
            "Candle CPU f64".into(),
            threads,
        )
    }

    /// The CPU.
    pub fn cpu(threads: Rc<Threads>) -> Self {
        Self::new(
            CandleCoreDevice::Cpu,
            DType::F32,
            "Candle CPU".into(),
            threads,
        )
    }

    /// CUDA device number `index`.
    ///
    /// # Errors
    /// Returns an error if the program was built without the feature `cuda`, or the device cannot be opened.
    pub fn cuda(index: usize, threads: Rc<Threads>) -> Result<Self> {
        let device = CandleCoreDevice::new_cuda(index)?;
        let mut opened = Self::new(device, DType::F32, format!("Candle CUDA:{index}"), threads);
        opened.info.gpu_index = Some(index);
        Ok(opened)
    }

    /// Metal device number `index`.
    ///
    /// # Errors
    /// Returns an error if the program was built without the feature `metal`, or the device cannot be opened.
    pub fn metal(index: usize, threads: Rc<Threads>) -> Result<Self> {
        let device = CandleCoreDevice::new_metal(index)?;
        Ok(Self::new(
            device,
            DType::F32,
            format!("Candle Metal:{index}"),
            threads,
        ))
    }

    /// Returns for each image of a training step's batch the smallest margin of the choices that the network makes with
    /// the weights of `state`, or the seed's initial ones: the absolute value of a ReLU's input, or the difference
    /// between the two largest numbers of a pooling window, divided by the largest absolute value of the layer's input.
    /// It is infinite if the network makes no choice.
    ///
    /// # Errors
    /// Returns an error if the batch or the architecture does not fit.
    pub fn margins(
        &self,
        spec: &NetworkSpec,
        state: Option<&NetworkState>,
        images: &ImageSet,
        plan: &StepPlan,
    ) -> Result<Vec<f64>> {
        let mut backend = self.new_backend(spec, plan.images.len())?;
        let member = backend.add(plan.settings.seed)?;
        if let Some(state) = state {
            backend.import(member, state)?;
        }
        let mut training = CandleTraining::new(TrainingPass::of(&plan.settings));
        training.margins = Some(Margins::new(plan.images.len()));
        backend.forward(member, images, plan, &mut training)?;
        Ok(training.margins.map_or(Vec::new(), |margins| margins.0))
    }

    fn new_backend(&self, spec: &NetworkSpec, capacity: usize) -> Result<CandleBackend> {
        // Refuse an architecture that does not fit.
        spec.nodes()?;
        Ok(CandleBackend {
            spec: spec.clone(),
            device: self.device.clone(),
            dtype: self.dtype,
            threads: Rc::clone(&self.info.threads),
            capacity: capacity.max(1),
            members: Members::default(),
        })
    }
}

impl Device for CandleDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn backend(&self, spec: &NetworkSpec, capacity: usize) -> Result<Box<dyn Backend>> {
        Ok(Box::new(self.new_backend(spec, capacity)?))
    }
}
