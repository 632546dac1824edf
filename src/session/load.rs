//! How busy this process keeps the machine.

use crate::domain::report::SystemLoad;
use crate::hardware::nvidia::nvml::Monitor;
use std::time::{Duration, Instant};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks once a second, when asked often enough.
pub(super) struct LoadMeter {
    system: System,
    process: Pid,
    cores: f32,
    last: Instant,
    /// Where a GPU computes and its driver tells.
    gpu: Option<Monitor>,
}

impl LoadMeter {
    /// `gpu` is the number of the CUDA device that computes.
    pub fn new(gpu: Option<usize>) -> Self {
        let mut meter = LoadMeter {
            system: System::new(),
            process: Pid::from_u32(std::process::id()),
            cores: std::thread::available_parallelism().map_or(1.0, |n| n.get() as f32),
            last: Instant::now(),
            gpu: gpu.and_then(Monitor::open),
        };
        // The share of the processor is measured from one look to the next.
        meter.refresh();
        meter
    }

    fn refresh(&mut self) {
        self.last = Instant::now();
        self.system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[self.process]),
            false,
            ProcessRefreshKind::nothing().with_cpu().with_memory(),
        );
    }

    /// The load since the last look; None when that was less than a second ago.
    pub fn look(&mut self) -> Option<SystemLoad> {
        if self.last.elapsed() < INTERVAL {
            return None;
        }
        self.refresh();
        let process = self.system.process(self.process)?;
        let gpu = self.gpu.as_ref().map(Monitor::usage).unwrap_or_default();
        Some(SystemLoad {
            gpu: gpu.load,
            gpu_memory: gpu.memory,
            gpu_temperature: gpu.temperature,
            gpu_watts: gpu.watts,
            cpu: Some(f64::from(process.cpu_usage() / 100.0 / self.cores).min(1.0)),
            memory: Some(process.memory()),
        })
    }
}
