//! Choosing where the network runs, the threads it runs on, and the vector instructions it uses. It knows no layer.

pub mod choice;
pub mod machine;
pub mod nvidia;
pub mod peak;
pub mod simd;
pub mod threads;
