//! Chooses the variant of each product on the GPU at hand: by the winners that are on disk, by a guess, and by measuring.

use super::COMMON;
use super::records::{Record, StepRecord};
use super::trials::OnDevice;
use crate::backend::{Error, Result};
use crate::domain::gpu_tuning::GpuTuning;
use crate::hardware::executor::{Compiling, ExecutorDevice, ExecutorError};
use crate::layers::conv::product::Product;
use crate::layers::conv::variant::{Choices, KernelVariant, find, plain};
use crate::layers::gpu::{LaunchBuilder, LaunchTarget};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

/// How long variants are measured with `quick`, all products of a network together. A measurement that has begun is
/// finished.
const QUICK: Duration = Duration::from_secs(1);
/// Variants of each product that `quick` measures besides the plain one: those with the best guesses.
const QUICK_VARIANTS: usize = 4;
/// A variant whose results differ from the plain one's by more than this share of the largest is not used. The order in
/// which parts of a sum are added makes 1e-4 of it at most.
const MAX_DIFFERENCE: f32 = 1e-3;
/// A variant must take less than this share of the plain one's time to be preferred to it: times of two runs differ by a
/// few percent.
const PREFERRED_BELOW: f64 = 0.97;

/// The seconds of a launch, and some of its results.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub seconds: f64,
    pub results: Vec<f32>,
}

/// Measures variants. Tests script it.
pub trait Measure {
    /// Runs a product on data of its own.
    ///
    /// # Errors
    /// Returns an error if memory is short, a kernel does not compile or the device fails.
    fn measure(&mut self, product: &Product, variant: &'static KernelVariant) -> Result<Measured>;

    /// Time since the measurements began.
    fn elapsed(&self) -> Duration;
}

/// Why a variant was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The fixed table of `off`.
    Fixed,
    /// Nothing was measured yet.
    Guess,
    /// Measured now, or by an earlier process.
    Measured,
    Remembered,
}

/// What is known of a product's variants.
#[derive(Clone, Debug)]
pub struct TunedProduct {
    pub product: Rc<Product>,
    pub chosen: &'static KernelVariant,
    pub reason: Reason,
    /// The measured variants, in seconds: the fastest first.
    pub times: Vec<(&'static KernelVariant, f64)>,
    /// Those that are not used, and why.
    pub dropped: Vec<(&'static KernelVariant, String)>,
}

impl TunedProduct {
    fn new(product: Rc<Product>, chosen: &'static KernelVariant, reason: Reason) -> Self {
        TunedProduct {
            product,
            chosen,
            reason,
            times: Vec::new(),
            dropped: Vec::new(),
        }
    }

    /// By guesses alone: the best one, and the guessed times of the best and of the plain one.
    pub fn guessed(product: Rc<Product>, multiprocessors: u32) -> Self {
        let multiprocessors = multiprocessors as usize;
        let best = by_guess(&product, multiprocessors);
        let best = best.first().copied().unwrap_or(plain());
        let mut times = vec![(best, product.guess(best, multiprocessors))];
        if best != plain() {
            times.push((plain(), product.guess(plain(), multiprocessors)));
        }
        TunedProduct {
            times,
            ..TunedProduct::new(product, best, Reason::Guess)
        }
    }
}

/// A product's variants by their guesses, the best first.
fn by_guess(product: &Product, multiprocessors: usize) -> Vec<&'static KernelVariant> {
    let mut variants: Vec<_> = product.variants().collect();
    let guess = |variant: &&'static KernelVariant| product.guess(variant, multiprocessors);
    variants.sort_by(|a, b| guess(a).total_cmp(&guess(b)));
    variants
}

/// The variants that are measured, in this order: the plain one, which the others are compared with, then the best guesses.
fn candidates(
    product: &Product,
    multiprocessors: usize,
    tuning: GpuTuning,
) -> Vec<&'static KernelVariant> {
    let most = match tuning {
        GpuTuning::Full => usize::MAX,
        _ => QUICK_VARIANTS,
    };
    let others = by_guess(product, multiprocessors).into_iter();
    let others = others.filter(|variant| *variant != plain()).take(most);
    std::iter::once(plain()).chain(others).collect()
}

/// Why a variant's results are wrong, if they are.
fn difference(plain: &[f32], other: &[f32]) -> Option<String> {
    if plain.len() != other.len() {
        return Some("it has other results".into());
    }
    let largest = plain.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    for (a, b) in plain.iter().zip(other) {
        let difference = (a - b).abs();
        if difference.is_nan() || difference > MAX_DIFFERENCE * largest {
            return Some(format!(
                "{b} instead of {a}, where the largest is {largest}"
            ));
        }
    }
    None
}

/// Measures the candidates of these products until `limit`: the first ones of all products, then the second ones, and so
/// on. A variant that fails or whose results differ is dropped. A product keeps its choice if its plain variant fails, if
/// not all of its candidates were measured in time, or if the device fails.
fn measure(
    measure: &mut dyn Measure,
    products: &mut [TunedProduct],
    multiprocessors: usize,
    tuning: GpuTuning,
    limit: Duration,
) {
    let candidates: Vec<_> = products
        .iter()
        .map(|tuned| candidates(&tuned.product, multiprocessors, tuning))
        .collect();
    let most = candidates.iter().map(Vec::len).max().unwrap_or(0);
    let mut expected: Vec<Option<Vec<f32>>> = vec![None; products.len()];
    let mut left: Vec<usize> = candidates.iter().map(Vec::len).collect();
    for rank in 0..most {
        for (i, tuned) in products.iter_mut().enumerate() {
            let expected = &mut expected[i];
            let Some(variant) = candidates[i].get(rank).copied() else {
                continue;
            };
            if measure.elapsed() >= limit || (rank > 0 && expected.is_none()) {
                continue;
            }
            let measured = measure.measure(&tuned.product, variant);
            if let Err(Error::Executor(error @ ExecutorError::Lost { .. })) = &measured {
                // The next step fails too, and reports it.
                tracing::error!("{}, {}: {error}", variant.name, tuned.product.words());
                return;
            }
            left[i] -= 1;
            let wrong = match (&measured, &*expected) {
                (Err(error), _) => Some(error.to_string()),
                (Ok(measured), Some(expected)) => difference(expected, &measured.results),
                (Ok(_), None) => None,
            };
            match (measured, wrong) {
                (Ok(measured), None) => {
                    tuned.times.push((variant, measured.seconds));
                    expected.get_or_insert(measured.results);
                }
                (_, wrong) => {
                    let wrong = wrong.unwrap_or_default();
                    let product = tuned.product.words();
                    tracing::warn!("{}, {product}, is not used: {wrong}", variant.name);
                    tuned.dropped.push((variant, wrong));
                }
            }
        }
    }
    for (tuned, left) in products.iter_mut().zip(left) {
        tuned.times.sort_by(|a, b| a.1.total_cmp(&b.1));
        let of_plain = tuned.times.iter().find(|(v, _)| *v == plain());
        if let (0, Some((_, of_plain)), Some((fastest, time))) =
            (left, of_plain, tuned.times.first())
        {
            let preferred = *time < PREFERRED_BELOW * of_plain;
            tuned.chosen = if preferred { fastest } else { plain() };
            tuned.reason = Reason::Measured;
        } else if tuned.dropped.iter().any(|(v, _)| *v == tuned.chosen) {
            tuned.chosen = plain();
        }
    }
}

/// The builder of a product's trial, and the offset of its step's settings.
pub(super) fn trial_builder(
    product: &Product,
    variant: &'static KernelVariant,
    multiprocessors: u32,
) -> LaunchBuilder {
    let mut builder = LaunchBuilder::new(LaunchTarget {
        capacity: product.capacity,
        multiprocessors: multiprocessors as usize,
        format: product.format,
        choices: Rc::new(Choices::all(variant)),
    });
    builder.shared.step = builder.allocate(size_of::<StepRecord>());
    builder
}

/// The settings of a trial's step, with dropout.
pub(super) fn trial_step(product: &Product) -> Vec<u8> {
    let record = StepRecord {
        number: 1,
        seed: 1,
        count: product.capacity as u32,
        threshold: 1 << 22,
        scale: 4.0 / 3.0,
        ..StepRecord::default()
    };
    record.bytes().to_vec()
}

/// What a GPU knows of its products.
pub struct Tuning {
    pub level: GpuTuning,
    device: Rc<dyn ExecutorDevice>,
    known: HashMap<String, TunedProduct>,
    /// The keys of those that are to be measured, whose variants are being compiled.
    waiting: Vec<String>,
    compiling: Option<Compiling>,
    /// A variant that is used for every product that it fits.
    fixed: Option<&'static KernelVariant>,
}

impl Tuning {
    pub fn new(device: Rc<dyn ExecutorDevice>, level: GpuTuning) -> Self {
        Tuning {
            level,
            device,
            known: HashMap::new(),
            waiting: Vec::new(),
            compiling: None,
            fixed: None,
        }
    }

    /// From now on, every product that `variant` fits uses it.
    pub fn fix(&mut self, variant: &'static KernelVariant) {
        self.fixed = Some(variant);
    }

    /// The variants of these products, by what is known now. Begins to compile the variants of those that were never
    /// measured, which [`Tuning::advance`] measures.
    pub fn choices(&mut self, products: &[Rc<Product>], multiprocessors: u32) -> Choices {
        if let Some(variant) = self.fixed {
            return Choices::all(variant);
        }
        let mut choices = Choices::default();
        let mut sources = Vec::new();
        for product in products {
            let key = product.key();
            if !self.known.contains_key(&key) {
                let tuned = self.first_choice(product);
                if tuned.reason == Reason::Guess {
                    let variants = candidates(product, multiprocessors as usize, self.level);
                    sources.extend(variants.into_iter().map(|variant| {
                        let builder = trial_builder(product, variant, multiprocessors);
                        product.trial(builder).launch.text(COMMON)
                    }));
                    self.waiting.push(key.clone());
                }
                self.known.insert(key.clone(), tuned);
            }
            choices.choose(key.clone(), self.known[&key].chosen);
        }
        if !sources.is_empty() {
            self.compiling = Some(self.device.compile_ahead(sources));
        }
        choices
    }

    fn first_choice(&self, product: &Rc<Product>) -> TunedProduct {
        let new = |chosen, reason| TunedProduct::new(Rc::clone(product), chosen, reason);
        if self.level == GpuTuning::Off {
            return new(plain(), Reason::Fixed);
        }
        match self.remembered(product) {
            // Of some variants only, where all are asked for.
            Some((level, variant)) if [level, GpuTuning::Quick].contains(&self.level) => {
                new(variant, Reason::Remembered)
            }
            // The others only after this GPU has shown that they compute the same.
            _ => new(plain(), Reason::Guess),
        }
    }

    /// The winner of an earlier process, and which variants it had measured.
    fn remembered(&self, product: &Product) -> Option<(GpuTuning, &'static KernelVariant)> {
        let bytes = self.device.recall(&memory_key(product))?;
        let text = String::from_utf8(bytes).ok()?;
        let (level, name) = text.split_once(' ')?;
        let variant = find(name).filter(|variant| variant.fits(&product.shape()))?;
        Some((GpuTuning::named(level)?, variant))
    }

    /// Measures the products that wait, if their variants are compiled; with `wait`, compiles them first. Returns whether
    /// another variant is chosen for one.
    ///
    /// # Errors
    /// Returns an error if the device fails.
    pub fn advance(&mut self, wait: bool) -> Result<bool> {
        let compiled = self.compiling.as_ref().is_none_or(Compiling::is_done);
        if self.waiting.is_empty() || !(wait || compiled) {
            return Ok(false);
        }
        if let Some(compiling) = self.compiling.take() {
            compiling.wait();
        }
        let mut on_device = OnDevice::new(Rc::clone(&self.device));
        let multiprocessors = on_device.multiprocessors()?;
        Ok(self.measure_waiting(&mut on_device, multiprocessors))
    }

    fn measure_waiting(&mut self, by: &mut dyn Measure, multiprocessors: u32) -> bool {
        let waiting = std::mem::take(&mut self.waiting);
        let known = waiting.iter().filter_map(|key| self.known.get(key));
        let mut products: Vec<TunedProduct> = known.cloned().collect();
        let limit = match self.level {
            GpuTuning::Full => Duration::MAX,
            _ => QUICK,
        };
        measure(
            by,
            &mut products,
            multiprocessors as usize,
            self.level,
            limit,
        );
        let mut changed = false;
        for (key, tuned) in waiting.into_iter().zip(products) {
            let words = tuned.product.words();
            tracing::debug!("{words}: {}, {:?}", tuned.chosen.name, tuned.reason);
            let of_all = |(level, _)| level == GpuTuning::Full && self.level != level;
            if tuned.reason == Reason::Measured
                && !self.remembered(&tuned.product).is_some_and(of_all)
            {
                let found = format!("{} {}", self.level.name(), tuned.chosen.name);
                let key = memory_key(&tuned.product);
                self.device.remember(&key, found.as_bytes());
            }
            let before = self.known.insert(key, tuned.clone());
            changed |= before.is_none_or(|before| before.chosen != tuned.chosen);
        }
        changed
    }

    /// Measures these products now, as `level` says; those that were measured before only if `again` is set. Returns what is
    /// then known.
    ///
    /// # Errors
    /// Returns an error if the device fails.
    pub fn measure_now(
        &mut self,
        products: &[Rc<Product>],
        multiprocessors: u32,
        level: GpuTuning,
        again: bool,
    ) -> Result<Vec<TunedProduct>> {
        let usual = std::mem::replace(&mut self.level, level);
        self.choices(products, multiprocessors);
        if again && level != GpuTuning::Off {
            self.waiting = products.iter().map(|product| product.key()).collect();
        }
        let measured = self.advance(true);
        self.level = usual;
        measured?;
        let known = products
            .iter()
            .map(|product| self.known.get(&product.key()));
        Ok(known.flatten().cloned().collect())
    }
}

/// What the winner of a product depends on besides the device: its source, its shape, its batch.
fn memory_key(product: &Product) -> String {
    format!("{COMMON}\n{}\n{}", Product::SOURCE, product.key())
}

#[cfg(test)]
mod tests;
