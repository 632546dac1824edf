//! The images that a run learns from and is tested on, as the network takes them.

use super::checkpoint::DataIdentity;
use super::{Error, Result};
use crate::data::{Dataset, Images, SAMPLE};
use crate::domain::report::{DataInfo, Picture, Split};
use candle_core::{CpuStorage, Device, Storage, Tensor};

/// Images of one published split: u8, `[n, 3, side, side]`, and a label each.
pub struct Pool {
    pub pixels: Tensor,
    pub labels: Vec<u8>,
    side: usize,
}

impl Pool {
    /// Takes the block of pixels over: nothing is copied.
    fn new(images: Images) -> Result<Self> {
        let shape = (images.labels.len(), 3, images.side, images.side);
        Ok(Pool {
            pixels: Tensor::from_vec(images.pixels, shape, &Device::Cpu)?,
            labels: images.labels,
            side: images.side,
        })
    }

    /// Image number `image` as it is drawn.
    ///
    /// # Errors
    /// When there is no such image; those of the device.
    pub fn picture(&self, image: u32) -> Result<Picture> {
        if image as usize >= self.labels.len() {
            return Err(Error::Question(format!(
                "there is no image {image}: there are {}",
                self.labels.len()
            )));
        }
        let one = self.pixels.narrow(0, image as usize, 1)?;
        let (storage, layout) = one.storage_and_layout();
        let picture = |chw: &[u8]| {
            let plane = self.side * self.side;
            let rgb = (0..plane).flat_map(|i| [chw[i], chw[plane + i], chw[2 * plane + i]]);
            Picture {
                side: self.side as u32,
                rgb: rgb.collect(),
            }
        };
        match (&*storage, layout.contiguous_offsets()) {
            (Storage::Cpu(CpuStorage::U8(all)), Some((start, end))) => {
                Ok(picture(&all[start..end]))
            }
            _ => Ok(picture(&one.flatten_all()?.to_vec1()?)),
        }
    }
}

/// What tells a data set from another.
pub fn identity(data: &Dataset) -> DataIdentity {
    let Dataset { info, train, test } = data;
    DataIdentity::of(
        info,
        [(&train.pixels, &train.labels), (&test.pixels, &test.labels)],
        3 * train.side * train.side,
    )
}

/// A data set, on the host; a machine takes a copy.
pub struct Material {
    pub info: DataInfo,
    pub identity: DataIdentity,
    /// Where the data was: an absolute path, or [`SAMPLE`].
    pub source: String,
    pub train: Pool,
    pub test: Pool,
}

impl Material {
    /// # Errors
    /// When there are no images to train or to test on; those of the device.
    pub fn new(data: Dataset) -> Result<Self> {
        let identity = identity(&data);
        let Dataset { info, train, test } = data;
        if train.labels.len() < 2 || test.labels.is_empty() {
            return Err(Error::Question(format!(
                "{} holds {} training and {} test images: too few to learn from",
                info.source,
                train.labels.len(),
                test.labels.len()
            )));
        }
        let source = match info.is_sample {
            true => SAMPLE.into(),
            false => std::path::absolute(&info.source)
                .map_or_else(|_| info.source.clone(), |path| path.display().to_string()),
        };
        Ok(Material {
            source,
            info,
            identity,
            train: Pool::new(train)?,
            test: Pool::new(test)?,
        })
    }

    /// The images that `split` is drawn from.
    pub fn pool(&self, split: Split) -> &Pool {
        match split {
            Split::Train | Split::Validation => &self.train,
            Split::Test => &self.test,
        }
    }
}
