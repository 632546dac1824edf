//! Measures the load that this process puts on the computer.

use crate::domain::report::SystemLoad;
use crate::hardware::nvidia::nvml::Monitor;
use std::time::{Duration, Instant};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Minimum time between two measurements.
const INTERVAL: Duration = Duration::from_secs(1);

/// Measures the load at most once a second.
pub(super) struct LoadMeter {
    system: System,
    process: Pid,
    cores: f32,
    measured_at: Instant,
    /// The monitor of the GPU that computes. None without a GPU, or without NVML.
    gpu: Option<Monitor>,
}

impl LoadMeter {
    /// `gpu` is the index of the CUDA device that computes, if one does.
    pub fn new(gpu: Option<usize>) -> Self {
        let mut meter = LoadMeter {
            system: System::new(),
            process: Pid::from_u32(std::process::id()),
            cores: std::thread::available_parallelism().map_or(1.0, |n| n.get() as f32),
            measured_at: Instant::now(),
            gpu: gpu.and_then(Monitor::open),
        };
        // CPU usage is measured from one refresh to the next.
        meter.refresh();
        meter
    }

    fn refresh(&mut self) {
        self.measured_at = Instant::now();
        self.system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[self.process]),
            false,
            ProcessRefreshKind::nothing().with_cpu().with_memory(),
        );
    }

    /// The load since the previous measurement. None if that is less than a second ago.
    pub fn measure(&mut self) -> Option<SystemLoad> {
        if self.measured_at.elapsed() < INTERVAL {
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
