//! The network's variables by name: made, initialised, taken from a checkpoint.

use super::{Error, Result};
use crate::domain::arch::{Node, Op};
use crate::domain::rng::{Rng, Stream};
use candle_core::{DType, Device, Tensor, Var};
use std::collections::HashMap;

/// Variables by name. Clones share them.
#[derive(Clone, Default)]
pub struct Weights {
    vars: HashMap<String, Var>,
    /// In the order in which they were made.
    names: Vec<String>,
}

impl Weights {
    /// New variables for all layers: weights Glorot uniform (Glorot, Bengio: "Understanding the difficulty of training
    /// deep feedforward neural networks", AISTATS 2010: between plus and minus sqrt(6 / (fan in + fan out)), where the
    /// fans of a convolution count its kernel's places, as Keras has it), biases zero, norms one.
    pub fn fresh(nodes: &[Node], seed: u64, device: &Device) -> Result<Self> {
        let mut weights = Weights::default();
        let mut number = 0;
        weights.add(nodes, seed, &mut number, device)?;
        Ok(weights)
    }

    fn add(&mut self, nodes: &[Node], seed: u64, number: &mut u16, device: &Device) -> Result<()> {
        for node in nodes {
            let name = &node.name;
            let inputs = node.input.channels as usize;
            match node.layer.op {
                Op::Conv { out, kernel, .. } => {
                    let (out, kernel) = (out as usize, kernel as usize);
                    let places = kernel * kernel;
                    let fans = (inputs + out) * places;
                    let shape = [out, inputs, kernel, kernel];
                    let weight = glorot(&shape, fans, seed, number, device)?;
                    self.insert(format!("{name}.weight"), weight)?;
                }
                Op::Dense { out } => {
                    let (out, inputs) = (out as usize, node.input.len() as usize);
                    let weight = glorot(&[out, inputs], inputs + out, seed, number, device)?;
                    self.insert(format!("{name}.weight"), weight)?;
                }
                Op::Norm => {
                    *number += 2;
                    let ones = Tensor::ones(inputs, DType::F32, device)?;
                    let zeros = Tensor::zeros(inputs, DType::F32, device)?;
                    self.insert(format!("{name}.weight"), ones.clone())?;
                    self.insert(format!("{name}.bias"), zeros.clone())?;
                    self.insert(format!("{name}.running_mean"), zeros)?;
                    self.insert(format!("{name}.running_var"), ones)?;
                }
                Op::Relu
                | Op::Pool { .. }
                | Op::GlobalPool
                | Op::Drop { .. }
                | Op::Residual { .. } => {}
            }
            if node.bias {
                *number += 1;
                let out = node.output.channels as usize;
                let zeros = Tensor::zeros(out, DType::F32, device)?;
                self.insert(format!("{name}.bias"), zeros)?;
            }
            self.add(&node.body, seed, number, device)?;
            self.add(&node.shortcut, seed, number, device)?;
        }
        Ok(())
    }

    fn insert(&mut self, name: String, tensor: Tensor) -> Result<()> {
        self.vars.insert(name.clone(), Var::from_tensor(&tensor)?);
        self.names.push(name);
        Ok(())
    }

    /// The variable of this name.
    pub fn get(&self, name: &str) -> Result<Var> {
        match self.vars.get(name) {
            Some(var) => Ok(var.clone()),
            None => Err(Error::Weights(format!("there is no {name}"))),
        }
    }

    /// Takes over the values of all variables, or of none.
    pub fn load(&self, saved: &HashMap<String, Tensor>) -> Result<()> {
        let (mut wrong, mut values) = (Vec::new(), Vec::new());
        for name in &self.names {
            let var = self.get(name)?;
            match saved.get(name) {
                None => wrong.push(format!("{name} is missing")),
                Some(tensor) if tensor.dims() != var.dims() => wrong.push(format!(
                    "{name} has the shape {:?} instead of {:?}",
                    tensor.dims(),
                    var.dims()
                )),
                Some(tensor) => {
                    let value = tensor.to_dtype(DType::F32)?.to_device(var.device())?;
                    values.push((var, value.contiguous()?));
                }
            }
        }
        match wrong.len() {
            0 => {}
            1..=3 => return Err(Error::Weights(wrong.join(", "))),
            n => {
                wrong.truncate(3);
                let first = wrong.join(", ");
                return Err(Error::Weights(format!("{first}, and {} more", n - 3)));
            }
        }
        for (var, value) in values {
            var.set(&value)?;
        }
        Ok(())
    }
}

fn glorot(
    shape: &[usize],
    fans: usize,
    seed: u64,
    number: &mut u16,
    device: &Device,
) -> Result<Tensor> {
    let rng = Rng::new(seed, Stream::Init(*number), 0);
    *number += 1;
    let limit = (6.0 / fans as f64).sqrt() as f32;
    let count: usize = shape.iter().product();
    let numbers: Vec<f32> = (0..count as u32)
        .map(|i| (2.0 * rng.uniform(i) - 1.0) * limit)
        .collect();
    Ok(Tensor::from_vec(numbers, shape, device)?)
}
