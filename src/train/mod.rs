//! Training: the optimizers, the schedule, scoring, checkpoints, and the loop that ties them together. This room knows
//! the network, the data and the device; it knows no command, no event and no screen.

pub mod checkpoint;
pub mod optim;
pub mod saver;
pub mod schedule;
