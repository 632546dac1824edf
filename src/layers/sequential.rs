//! A sequence of layers, and the gradients between them.

use super::cpu::{Layer, Parameter, Pass};
use super::gpu::{Activation, BackwardLaunches, LaunchBuilder};
use super::slices;
use candle_core::{Device, Result, Tensor, bail};
use std::time::Instant;

/// A sequence of layers. The gradients are in two buffers that the layers use alternately, so that a gradient is still
/// in the cache when the next layer reads it. Outputs that can be computed again are in one buffer: a layer's forward
/// pass reads its input before the next of them overwrites it, and before its backward pass the input is computed again.
pub struct Sequential {
    layers: Vec<Box<dyn Layer>>,
    /// The layers whose outputs share a buffer.
    sharing: Vec<usize>,
    /// The gradient of each layer's output except the last.
    grads: Vec<Tensor>,
    times: Option<Vec<Time>>,
}

/// Seconds spent in one layer since timing began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Time {
    pub forward: f64,
    pub backward: f64,
}

impl Sequential {
    /// # Errors
    /// Returns an error if the device runs out of memory.
    pub fn new(mut layers: Vec<Box<dyn Layer>>, device: &Device) -> Result<Self> {
        let sharing = share_outputs(&mut layers, device)?;
        let inner = layers.len().saturating_sub(1);
        let mut arenas = Vec::new();
        for parity in 0..2 {
            let sizes = layers[..inner].iter().skip(parity).step_by(2);
            let most = sizes.map(|l| l.output().elem_count()).max().unwrap_or(0);
            arenas.push(slices::zeros(most, device)?);
        }
        let grads = layers[..inner]
            .iter()
            .enumerate()
            .map(|(i, layer)| {
                let shape = layer.output().shape();
                arenas[i % 2]
                    .narrow(0, 0, shape.elem_count())?
                    .reshape(shape)
            })
            .collect::<Result<_>>()?;
        Ok(Sequential {
            layers,
            sharing,
            grads,
            times: None,
        })
    }

    pub fn layers(&self) -> &[Box<dyn Layer>] {
        &self.layers
    }

    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Starts measuring each layer's time from zero, or stops measuring.
    pub fn time(&mut self, on: bool) {
        self.times = on.then(|| vec![Time::default(); self.layers.len()]);
    }

    /// The measured time of each layer; empty if time is not measured.
    pub fn times(&self) -> &[Time] {
        self.times.as_deref().unwrap_or_default()
    }

    /// Runs the layers in order; stops early if the pass is stopped.
    ///
    /// # Errors
    /// Returns an error if a layer returns one.
    pub fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()> {
        for i in 0..self.layers.len() {
            if pass.is_stopped() {
                break;
            }
            let begin = self.times.is_some().then(Instant::now);
            let (before, rest) = self.layers.split_at_mut(i);
            let input = before.last().map_or(input, |layer| layer.output());
            rest[0].forward(input, pass)?;
            if let (Some(times), Some(begin)) = (&mut self.times, begin) {
                times[i].forward += begin.elapsed().as_secs_f64();
            }
        }
        Ok(())
    }

    /// The last layer's output, or `input` if there are no layers.
    pub fn output<'a>(&'a self, input: &'a Tensor) -> &'a Tensor {
        self.layers.last().map_or(input, |layer| layer.output())
    }

    /// Makes the output of layer number `i` valid until the next call, for the same input and pass as the last forward
    /// pass: another layer's may have taken its place.
    ///
    /// # Errors
    /// Returns an error if a layer returns one.
    pub fn recompute(&self, i: usize, input: &Tensor, pass: &Pass) -> Result<()> {
        if !self.sharing.contains(&i) {
            return Ok(());
        }
        let input = match i.checked_sub(1) {
            Some(before) => self.layers[before].output(),
            None => input,
        };
        self.layers[i].recompute(input, pass)
    }

    /// Runs the layers' backward passes in reverse order, with the same arguments as [`Layer::backward`].
    ///
    /// # Errors
    /// Returns an error if a layer returns one, or there is no layer.
    pub fn backward(
        &mut self,
        input: &Tensor,
        grad_output: &Tensor,
        grad_input: Option<&Tensor>,
        pass: &Pass,
    ) -> Result<()> {
        if self.layers.is_empty() {
            bail!("a chain without layers has no gradients");
        }
        for i in (0..self.layers.len()).rev() {
            if pass.is_stopped() {
                break;
            }
            let begin = self.times.is_some().then(Instant::now);
            // The last one that shares the buffer has it still.
            if let Some(before) = i.checked_sub(1)
                && self.sharing.last() != Some(&before)
            {
                self.recompute(before, input, pass)?;
            }
            let (before, rest) = self.layers.split_at_mut(i);
            let layer_input = before.last().map_or(input, |layer| layer.output());
            let grad_output = self.grads.get(i).unwrap_or(grad_output);
            let grad_input = match i.checked_sub(1) {
                Some(before) => Some(&self.grads[before]),
                None => grad_input,
            };
            rest[0].backward(layer_input, grad_output, grad_input, pass)?;
            if let (Some(times), Some(begin)) = (&mut self.times, begin) {
                times[i].backward += begin.elapsed().as_secs_f64();
            }
        }
        Ok(())
    }

    /// Adds the launches of all layers, as [`Layer::schedule`].
    pub fn schedule(
        &self,
        builder: &mut LaunchBuilder,
        mut input: Activation,
    ) -> (Activation, BackwardLaunches) {
        let mut backward = Vec::new();
        for layer in &self.layers {
            let name = layer.name();
            let (output, of_layer) = builder.within(name, |b| layer.schedule(b, &input));
            backward.push((name.to_owned(), of_layer));
            input = output;
        }
        let all = move |builder: &mut LaunchBuilder| {
            for (name, of_layer) in backward.into_iter().rev() {
                builder.within(&name, of_layer);
            }
        };
        (input, Box::new(all))
    }

    pub fn params(&self) -> Vec<&Parameter> {
        self.layers
            .iter()
            .flat_map(|layer| layer.params())
            .collect()
    }

    pub fn buffers(&self) -> Vec<(String, &Tensor)> {
        self.layers
            .iter()
            .flat_map(|layer| layer.buffers())
            .collect()
    }
}

/// Gives the outputs that can be computed again one buffer, except the last layer's, which others read. Returns the
/// numbers of these layers.
fn share_outputs(layers: &mut [Box<dyn Layer>], device: &Device) -> Result<Vec<usize>> {
    let inner = layers.len().saturating_sub(1);
    let mut outputs = Vec::new();
    for (i, layer) in layers[..inner].iter_mut().enumerate() {
        if let Some(output) = layer.shareable_output() {
            outputs.push((i, output));
        }
    }
    let sizes = outputs.iter().map(|(_, output)| output.elem_count());
    let buffer = slices::zeros(sizes.max().unwrap_or(0), device)?;
    let mut sharing = Vec::new();
    for (i, output) in outputs {
        *output = buffer
            .narrow(0, 0, output.elem_count())?
            .reshape(output.shape())?;
        sharing.push(i);
    }
    Ok(sharing)
}
