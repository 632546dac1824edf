//! The pixels of a data set, which several runs of one process share.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Bytes that are copied when a clone is changed, not when it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pixels(Arc<Vec<u8>>);

impl From<Vec<u8>> for Pixels {
    fn from(bytes: Vec<u8>) -> Self {
        Pixels(Arc::new(bytes))
    }
}

impl FromIterator<u8> for Pixels {
    fn from_iter<T: IntoIterator<Item = u8>>(bytes: T) -> Self {
        Vec::from_iter(bytes).into()
    }
}

impl Deref for Pixels {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Pixels {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        Arc::make_mut(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_their_bytes_until_one_changes() {
        let pixels = Pixels::from(vec![1, 2, 3]);
        let mut clone = pixels.clone();
        assert!(std::ptr::eq(pixels.as_ptr(), clone.as_ptr()));
        clone[1] = 9;
        assert_eq!((&pixels[..], &clone[..]), (&[1, 2, 3][..], &[1, 9, 3][..]));
    }
}
