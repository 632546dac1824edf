//! Max-pooling in Candle's operations. The gradient goes to the first of equal numbers of a window.

use candle_core::{Result, Tensor};

pub fn max_pool(x: &Tensor, kernel: usize, stride: usize) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    let starts = |size: usize, offset: usize| {
        let count = (size - kernel) / stride + 1;
        let at: Vec<u32> = (0..count).map(|i| (i * stride + offset) as u32).collect();
        Tensor::from_vec(at, count, x.device())
    };
    let mut largest: Option<Tensor> = None;
    for place in 0..kernel * kernel {
        let rows = x.index_select(&starts(height, place / kernel)?, 2)?;
        let values = rows.index_select(&starts(width, place % kernel)?, 3)?;
        largest = Some(match largest {
            None => values,
            Some(largest) => values.gt(&largest)?.where_cond(&values, &largest)?,
        });
    }
    Ok(largest.unwrap_or_else(|| x.clone()))
}
