//! The training and test images of a run, in the form that backends take.

use super::checkpoint::DataIdentity;
use super::{Error, Result};
use crate::backend::ImageSet;
use crate::data::{CHANNELS, Dataset, Images, SAMPLE};
use crate::domain::report::{DataInfo, Picture, Split};
use std::rc::Rc;

/// Image `image` of a set for drawing.
///
/// # Errors
/// Returns an error if there is no such image.
pub fn picture(set: &ImageSet, image: u32) -> Result<Picture> {
    match set.image(image) {
        Some(bytes) => Ok(Picture::from_planes(set.side() as u32, bytes)),
        None => Err(Error::Question(format!(
            "there is no image {image}: there are {}",
            set.len()
        ))),
    }
}

/// Converts a split to an [`ImageSet`] without copying its pixels.
///
/// # Errors
/// Returns an error if the number of pixels does not fit the number of labels.
pub fn image_set(images: Images) -> Result<ImageSet> {
    let labels = images
        .labels
        .iter()
        .map(|label| u16::from(*label))
        .collect();
    Ok(ImageSet::new(CHANNELS, images.side, images.pixels, labels)?)
}

/// The identity of a data set, which its checkpoints record.
pub fn identity(data: &Dataset) -> DataIdentity {
    let Dataset { info, train, test } = data;
    DataIdentity::of(
        info,
        [(&train.pixels, &train.labels), (&test.pixels, &test.labels)],
        train.image_bytes(),
    )
}

/// A data set in host memory; a device may keep a copy.
pub struct TrainingData {
    pub info: DataInfo,
    pub identity: DataIdentity,
    /// The location of the data: an absolute path, or [`SAMPLE`].
    pub source: String,
    pub train: Rc<ImageSet>,
    pub test: Rc<ImageSet>,
}

impl TrainingData {
    /// # Errors
    /// Returns an error if there are no images to train or to test on.
    pub fn new(data: Dataset) -> Result<Self> {
        let identity = identity(&data);
        let Dataset { info, train, test } = data;
        if train.labels.len() < 2 || test.labels.is_empty() {
            return Err(Error::Question(format!(
                "{} holds {} training and {} test images; at least two training images and one test image are needed",
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
        Ok(TrainingData {
            source,
            info,
            identity,
            train: Rc::new(image_set(train)?),
            test: Rc::new(image_set(test)?),
        })
    }

    /// The images that contain `split`.
    pub fn images(&self, split: Split) -> &Rc<ImageSet> {
        match split {
            Split::Train | Split::Validation => &self.train,
            Split::Test => &self.test,
        }
    }
}
