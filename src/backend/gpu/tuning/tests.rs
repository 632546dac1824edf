use super::*;
use crate::backend::gpu::schedule::KernelSchedule;
use crate::backend::{Error, NetworkSpec, Scaling, rule};
use crate::domain::arch::{CIFAR_CLASSES, Shape, resolve};
use crate::domain::params::{Optimizer, Precision};
use crate::hardware::executor::{ExecutorError, KernelExecutor, Result as ExecutorResult};
use crate::hardware::nvidia::kernel_cache::{CacheKey, KernelCache};
use crate::layers::conv::variant::Loads;
use std::cell::{Cell, RefCell};
use std::path::Path;

const MULTIPROCESSORS: u32 = 132;

/// A device without executors, with a cache in a folder.
struct FakeDevice {
    cache: KernelCache,
    compiled: RefCell<Vec<String>>,
}

impl FakeDevice {
    fn new(folder: &Path) -> Rc<Self> {
        Rc::new(FakeDevice {
            cache: KernelCache::new(folder.into(), 1 << 20),
            compiled: RefCell::default(),
        })
    }

    fn key(key: &str) -> CacheKey<'_> {
        CacheKey {
            source: key,
            options: &[],
            architecture: 90,
            compiler: (13, 0),
        }
    }
}

impl ExecutorDevice for FakeDevice {
    fn executor(self: Rc<Self>) -> ExecutorResult<Box<dyn KernelExecutor>> {
        Err(lost())
    }

    fn upload(&self, _: &[u8]) -> ExecutorResult<u64> {
        Err(lost())
    }

    fn compile_ahead(&self, sources: Vec<String>) -> Compiling {
        self.compiled.borrow_mut().extend(sources);
        Compiling::default()
    }

    fn recall(&self, key: &str) -> Option<Vec<u8>> {
        self.cache.read(&Self::key(key))
    }

    fn remember(&self, key: &str, value: &[u8]) {
        self.cache.write(&Self::key(key), value);
    }
}

fn lost() -> ExecutorError {
    ExecutorError::Lost {
        device: "a fake".into(),
        what: "being real",
        why: "it is a test".into(),
    }
}

/// Measurements by the variants' names: seconds, and a result. Other variants take a second. Each takes `cost` of the time
/// that is left.
struct Script {
    rows: Vec<(&'static str, Option<f64>, f32)>,
    cost: Duration,
    elapsed: Cell<Duration>,
    measured: Vec<(ProductPass, &'static str)>,
    /// Whether a variant without a time loses the device.
    loses_device: bool,
}

use crate::layers::conv::variant::ProductPass;

fn script(rows: &[(&'static str, Option<f64>, f32)]) -> Script {
    Script {
        rows: rows.to_vec(),
        cost: Duration::from_millis(1),
        elapsed: Cell::default(),
        measured: Vec::new(),
        loses_device: false,
    }
}

impl Measure for Script {
    fn measure(&mut self, product: &Product, variant: &'static KernelVariant) -> Result<Measured> {
        self.elapsed.set(self.elapsed.get() + self.cost);
        self.measured.push((product.pass, variant.name));
        let row = self.rows.iter().find(|row| row.0 == variant.name);
        let (_, seconds, result) = *row.unwrap_or(&("", Some(1.0), 3.0));
        match seconds {
            Some(seconds) => Ok(Measured {
                seconds,
                results: vec![-1.0, result],
            }),
            None if self.loses_device => Err(Error::Executor(lost())),
            None => Err(Error::Executor(ExecutorError::Kernel {
                device: "a fake".into(),
                log: "it is a test".into(),
            })),
        }
    }

    fn elapsed(&self) -> Duration {
        self.elapsed.get()
    }
}

/// The products of the seed's second convolution and the dense layer behind it.
fn products(capacity: usize) -> Vec<Rc<Product>> {
    let spec = NetworkSpec {
        arch: resolve("conv 32, relu, conv 32, relu, pool, dense 10").unwrap(),
        input: Shape::CIFAR,
        classes: CIFAR_CLASSES,
        scaling: Scaling::UNIT,
        optimizer: rule(Optimizer::Sgd),
        precision: Precision::Tf32,
    };
    let schedule = KernelSchedule::of(&spec, capacity, MULTIPROCESSORS, false).unwrap();
    let of_conv2 = schedule
        .products()
        .into_iter()
        .filter(|p| p.shape().depth() == 32);
    of_conv2.collect()
}

/// Begins a tuning of these products, and measures them by `script`.
fn tuned(
    device: &Rc<FakeDevice>,
    level: GpuTuning,
    products: &[Rc<Product>],
    script: &mut Script,
) -> (Tuning, bool) {
    let mut tuning = Tuning::new(Rc::clone(device) as _, level);
    tuning.choices(products, MULTIPROCESSORS);
    let changed = tuning.measure_waiting(script, MULTIPROCESSORS);
    (tuning, changed)
}

fn chosen(tuning: &mut Tuning, product: &Rc<Product>) -> &'static str {
    let choices = tuning.choices(std::slice::from_ref(product), MULTIPROCESSORS);
    choices.of(&product.key(), &product.shape()).name
}

#[test]
fn the_fastest_is_chosen_and_found_again_by_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let device = FakeDevice::new(folder.path());
    let products = products(32);
    // One that is not used before it is measured.
    let mut candidates = candidates(&products[0], 132, GpuTuning::Quick).into_iter();
    let best = candidates.find(|v| v.loads != Loads::Registers).unwrap();
    let mut script = script(&[("plain", Some(2.0), 3.0), (best.name, Some(0.5), 3.0)]);
    let (mut tuning, changed) = tuned(&device, GpuTuning::Quick, &products, &mut script);
    assert!(changed);
    assert_eq!(chosen(&mut tuning, &products[0]), best.name);
    let known = &tuning.known[&products[0].key()];
    assert_eq!(known.reason, Reason::Measured);
    assert_eq!(known.times.len(), QUICK_VARIANTS + 1);
    assert_eq!(known.times[0], (best, 0.5));
    // Sources of all candidates were compiled before.
    let compiled = device.compiled.borrow().len();
    assert_eq!(compiled, products.len() * (QUICK_VARIANTS + 1));
    // Nothing is left to measure, and nothing changes.
    script.measured.clear();
    assert!(!tuning.measure_waiting(&mut script, MULTIPROCESSORS));
    // Another process on such a device.
    let next = FakeDevice::new(folder.path());
    let (mut tuning, changed) = tuned(&next, GpuTuning::Quick, &products, &mut script);
    assert!(!changed);
    assert_eq!(chosen(&mut tuning, &products[0]), best.name);
    assert_eq!(tuning.known[&products[0].key()].reason, Reason::Remembered);
    assert_eq!(
        (script.measured.len(), next.compiled.borrow().len()),
        (0, 0)
    );
    // Another batch size is another product.
    let others = self::products(64);
    tuned(&next, GpuTuning::Quick, &others, &mut script);
    assert_eq!(script.measured.len(), others.len() * (QUICK_VARIANTS + 1));
}

#[test]
fn a_variant_that_differs_or_fails_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let products = products(32);
    let variants = candidates(&products[0], 132, GpuTuning::Quick);
    let [plain, wrong, failing, not_finite, right] = variants[..] else {
        panic!("{variants:?}");
    };
    let mut script = script(&[
        ("plain", Some(2.0), 3.0),
        (wrong.name, Some(0.1), 3.004),
        (failing.name, None, 3.0),
        (not_finite.name, Some(0.2), f32::NAN),
        // Rounding.
        (right.name, Some(0.9), 3.002),
    ]);
    let device = FakeDevice::new(folder.path());
    let (mut tuning, _) = tuned(&device, GpuTuning::Quick, &products[..1], &mut script);
    assert_eq!(chosen(&mut tuning, &products[0]), right.name);
    let known = &tuning.known[&products[0].key()];
    let dropped: Vec<_> = known.dropped.iter().map(|(v, _)| v.name).collect();
    assert_eq!(dropped, [wrong.name, failing.name, not_finite.name]);
    assert!(
        known.dropped[0].1.contains("3.004 instead of 3"),
        "{known:?}"
    );
    assert!(known.dropped[1].1.contains("it is a test"), "{known:?}");
    let times: Vec<_> = known.times.iter().map(|(v, _)| v.name).collect();
    assert_eq!(times, [right.name, plain.name]);
}

#[test]
fn without_the_plain_one_nothing_is_compared_and_nothing_kept() {
    let folder = tempfile::tempdir().unwrap();
    let products = products(32);
    let mut script = script(&[("plain", None, 3.0)]);
    let device = FakeDevice::new(folder.path());
    let (tuning, changed) = tuned(&device, GpuTuning::Quick, &products[..1], &mut script);
    assert!(!changed);
    assert_eq!(script.measured.len(), 1);
    assert_eq!(tuning.known[&products[0].key()].reason, Reason::Guess);
    assert_eq!(device.recall(&memory_key(&products[0])), None);
}

#[test]
fn a_lost_device_ends_the_measurements_and_nothing_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let products = products(32);
    let second = candidates(&products[0], 132, GpuTuning::Quick)[1];
    let mut script = script(&[(second.name, None, 3.0)]);
    script.loses_device = true;
    let device = FakeDevice::new(folder.path());
    let (tuning, changed) = tuned(&device, GpuTuning::Quick, &products, &mut script);
    assert!(!changed);
    assert_eq!(script.measured.last().unwrap().1, second.name);
    for product in &products {
        assert_eq!(tuning.known[&product.key()].chosen, plain());
        assert_eq!(device.recall(&memory_key(product)), None);
    }
}

#[test]
fn what_quick_has_found_is_measured_again_by_full_and_never_replaces_it() {
    let folder = tempfile::tempdir().unwrap();
    let device = FakeDevice::new(folder.path());
    let product = &products(32)[..1];
    let kept = || String::from_utf8(device.recall(&memory_key(&product[0])).unwrap()).unwrap();
    for (level, found) in [
        (GpuTuning::Quick, "quick plain"),
        (GpuTuning::Full, "full plain"),
    ] {
        let (tuning, _) = tuned(&device, level, product, &mut script(&[]));
        assert_eq!(tuning.known[&product[0].key()].reason, Reason::Measured);
        assert_eq!(kept(), found);
    }
    let mut tuning = Tuning::new(Rc::clone(&device) as _, GpuTuning::Quick);
    tuning.choices(product, MULTIPROCESSORS);
    assert_eq!(tuning.known[&product[0].key()].reason, Reason::Remembered);
    tuning.waiting = vec![product[0].key()];
    tuning.measure_waiting(&mut script(&[]), MULTIPROCESSORS);
    assert_eq!(kept(), "full plain");
}

#[test]
fn quick_ends_after_a_second_and_full_measures_all() {
    let products = products(32);
    let run = |level, cost| {
        let folder = tempfile::tempdir().unwrap();
        let device = FakeDevice::new(folder.path());
        let mut script = script(&[]);
        script.cost = Duration::from_millis(cost);
        let (tuning, _) = tuned(&device, level, &products, &mut script);
        // What was not measured whole is not kept.
        for product in &products {
            let is_whole = tuning.known[&product.key()].reason == Reason::Measured;
            assert_eq!(device.recall(&memory_key(product)).is_some(), is_whole);
            assert_eq!(is_whole, level == GpuTuning::Full);
        }
        script.measured
    };
    // Of each product one variant, then of each the next one, until a second is over.
    let measured = run(GpuTuning::Quick, 300);
    assert_eq!(measured.len(), 4);
    assert!(
        measured[..products.len()]
            .iter()
            .all(|(_, name)| *name == "plain")
    );
    let all: usize = products.iter().map(|p| p.variants().count()).sum();
    assert_eq!(run(GpuTuning::Full, 300_000).len(), all);
    assert_eq!(run(GpuTuning::Off, 1).len(), 0);
}

#[test]
fn off_uses_the_plain_ones_whatever_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let device = FakeDevice::new(folder.path());
    let products = products(32);
    let best = candidates(&products[0], 132, GpuTuning::Quick)[1];
    let found = format!("quick {}", best.name);
    device.remember(&memory_key(&products[0]), found.as_bytes());
    for (level, expected) in [(GpuTuning::Off, "plain"), (GpuTuning::Quick, best.name)] {
        let mut tuning = Tuning::new(Rc::clone(&device) as _, level);
        assert_eq!(chosen(&mut tuning, &products[0]), expected);
    }
    assert!(device.compiled.borrow().is_empty());
}

#[test]
fn what_is_remembered_wrongly_is_measured_again() {
    let folder = tempfile::tempdir().unwrap();
    let device = FakeDevice::new(folder.path());
    let product = &products(32)[..1];
    let key = memory_key(&product[0]);
    // A name that no variant has, no text, a variant that does not fit, and damaged files.
    for value in [
        &b"quick another"[..],
        b"\xff\xfe",
        b"quick 128x64 copies 3",
        b"slow plain",
        b"plain",
        b"",
    ] {
        device.remember(&key, value);
        let (tuning, _) = tuned(&device, GpuTuning::Quick, product, &mut script(&[]));
        assert_eq!(
            tuning.known[&product[0].key()].reason,
            Reason::Measured,
            "{value:?}"
        );
    }
    for damage in [
        |bytes: &mut Vec<u8>| bytes.truncate(9),
        |bytes: &mut Vec<u8>| bytes[12] ^= 1,
    ] {
        let file = std::fs::read_dir(folder.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let mut bytes = std::fs::read(&file).unwrap();
        damage(&mut bytes);
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(device.recall(&key), None);
        let (tuning, _) = tuned(&device, GpuTuning::Quick, product, &mut script(&[]));
        assert_eq!(tuning.known[&product[0].key()].reason, Reason::Measured);
        assert!(device.recall(&key).is_some());
    }
}

#[test]
fn processes_that_measure_at_the_same_time_keep_one_of_their_winners() {
    let folder = tempfile::tempdir().unwrap();
    let winners: Vec<_> = candidates(&products(32)[0], 132, GpuTuning::Quick);
    std::thread::scope(|scope| {
        for winner in &winners {
            let folder = folder.path();
            scope.spawn(move || {
                for _ in 0..20 {
                    let device = FakeDevice::new(folder);
                    let products = products(32);
                    let mut script = script(&[(winner.name, Some(0.5), 3.0)]);
                    let mut tuning = Tuning::new(device as _, GpuTuning::Quick);
                    tuning.choices(&products, MULTIPROCESSORS);
                    tuning.waiting = vec![products[0].key()];
                    tuning.measure_waiting(&mut script, MULTIPROCESSORS);
                }
            });
        }
    });
    let next = FakeDevice::new(folder.path());
    let mut tuning = Tuning::new(next as _, GpuTuning::Quick);
    let product = &products(32)[0];
    let name = chosen(&mut tuning, product);
    assert_eq!(tuning.known[&product.key()].reason, Reason::Remembered);
    assert!(winners.iter().any(|winner| winner.name == name));
}

#[test]
fn guesses_prefer_what_the_arithmetic_prefers() {
    // In a small batch the rectangle of pixels is there at once; in a large one it is read once and not nine times.
    for capacity in [32, 4096] {
        for product in products(capacity) {
            if !product.input_wanted {
                continue;
            }
            let best = by_guess(&product, 132)[0];
            assert!(
                best.name.contains("rim"),
                "{}: {}",
                product.words(),
                best.name
            );
            for variant in product.variants() {
                let seconds = product.guess(variant, 132);
                assert!(
                    (2e-6..1.0).contains(&seconds),
                    "{}: {seconds}",
                    variant.name
                );
            }
        }
    }
}
