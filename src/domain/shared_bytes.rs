//! Bytes that several owners share: the pixels of a data set that several runs of one process train on.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Bytes that are copied when a clone is changed, not when it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedBytes(Arc<Vec<u8>>);

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        SharedBytes(Arc::new(bytes))
    }
}

impl FromIterator<u8> for SharedBytes {
    fn from_iter<T: IntoIterator<Item = u8>>(bytes: T) -> Self {
        Vec::from_iter(bytes).into()
    }
}

impl Deref for SharedBytes {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for SharedBytes {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        Arc::make_mut(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_their_bytes_until_one_changes() {
        let pixels = SharedBytes::from(vec![1, 2, 3]);
        let mut clone = pixels.clone();
        assert!(std::ptr::eq(pixels.as_ptr(), clone.as_ptr()));
        clone[1] = 9;
        assert_eq!((&pixels[..], &clone[..]), (&[1, 2, 3][..], &[1, 9, 3][..]));
    }
}
