//! Choosing where the network runs, the threads it runs on, and the vector instructions it uses. It knows no layer.

pub mod choice;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod machine;
pub mod nvidia;
pub mod peak;
pub mod simd;
pub mod threads;
