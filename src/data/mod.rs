//! Bytes on disk to images in memory.

/// Images of one split: u8, NCHW in one block (`3 * side * side` bytes an image), and a label each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    pub side: usize,
    pub pixels: Vec<u8>,
    pub labels: Vec<u8>,
}

/// A data set: as published, in the published order.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    pub info: crate::domain::report::DataInfo,
    pub train: Images,
    pub test: Images,
}
