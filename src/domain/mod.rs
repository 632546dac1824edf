//! Plain data and pure functions: hyperparameters, architectures, reports, random numbers, text. Knows no device, no
//! file and no screen; uses std, serde and strsim only. One module knows another room: [`arch`] walks the table of kinds
//! of layers, [`crate::layers::KINDS`].

pub mod arch;
pub mod augment;
pub mod comparison;
pub mod confusion;
pub mod engine;
pub mod fork;
pub mod gpu_tuning;
pub mod gpus;
pub mod health;
pub mod history;
pub mod keep;
pub mod layer_rates;
pub mod marks;
#[cfg(test)]
pub(crate) mod mutate;
pub mod number;
pub mod params;
pub mod rate_test;
pub mod recipes;
pub mod report;
pub mod rng;
pub mod scale;
pub mod shared_bytes;
pub mod sweep;
pub mod symbols;
pub mod terminal;
pub mod text;
