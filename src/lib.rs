//! Watch and steer a convolutional network while it learns CIFAR-10, in a terminal.

pub mod cli;
pub mod commands;
pub mod config;
pub mod data;
pub mod device;
pub mod domain;
pub mod headless;
pub mod layers;
pub mod net;
pub mod plot;
pub mod session;
pub mod train;
pub mod tui;
