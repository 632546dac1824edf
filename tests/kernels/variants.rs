//! The variants of the kernels of products: each computes what the plain one computes, in every order of threads and
//! blocks, and trains networks as the CPU does. None spills registers.

use super::*;
use cifar_tui::backend::gpu::schedule::ScheduledLaunch;
use cifar_tui::backend::gpu::trials::OnDevice;
use cifar_tui::backend::gpu::tuning::{Reason, TunedProduct};
use cifar_tui::domain::gpu_tuning::GpuTuning;
use cifar_tui::layers::conv::product::Product;
use cifar_tui::layers::conv::variant::{Choices, ProductPass, VARIANTS, find};
use std::collections::BTreeMap;

/// The products of these networks, on images of `side`: each shape once.
fn products(
    texts: &[&str],
    side: usize,
    capacity: usize,
    precision: Precision,
) -> Vec<Rc<Product>> {
    let mut world = world(side, 1);
    world.precision = precision;
    let mut products = BTreeMap::new();
    for text in texts {
        let schedule = KernelSchedule::of(&world.spec(text), capacity, 1, false).unwrap();
        let launches = schedule.training.into_iter().chain(schedule.scoring);
        for product in launches.filter_map(|launch| launch.product) {
            products.entry(product.key()).or_insert(product);
        }
    }
    products.into_values().collect()
}

fn results(product: &Product, name: &str, multiprocessors: u32, backwards: bool) -> Vec<f32> {
    let device = Rc::new(HostDevice::new(multiprocessors, backwards));
    let variant = find(name).unwrap();
    OnDevice::new(device).results(product, variant).unwrap()
}

/// Every variant whose number is a multiple of `step`.
fn variants_equal_the_plain_one(products: &[Rc<Product>], step: usize) {
    if left_out() {
        return;
    }
    assert!(!products.is_empty());
    for product in products {
        let plain = results(product, "plain", 0, false);
        let largest = plain.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        assert!(largest > 0.0 && largest.is_finite(), "{}", product.words());
        for variant in product.variants().step_by(step) {
            let what = format!("{}, {}", product.words(), variant.name);
            // For no multiprocessor, no sum is shared, and every variant adds in the same order.
            for backwards in [false, true] {
                let alone = results(product, variant.name, 0, backwards);
                assert!(alone == plain, "{what}, {backwards}");
            }
            let shared = results(product, variant.name, 40, false);
            let apart = difference(&shared, &plain);
            assert!(apart < 1e-5 * largest, "{what}: {apart:e} of {largest}");
            let backwards = results(product, variant.name, 40, true);
            assert!(backwards == shared, "{what}, shared backwards");
        }
    }
}

/// Every variant fits one of its products: with pooling, odd channels, a stride, dense layers.
const TEXT: &str =
    "conv 8 same, relu, conv 40 same, relu, pool, drop, conv 40, relu, conv 7 s2, relu, dense 10";

/// A product of `TEXT` that every variant fits.
fn wide(pass: ProductPass, precision: Precision) -> Rc<Product> {
    let all = products(&[TEXT], 13, 3, precision);
    let fits = |product: &&Rc<Product>| {
        product.pass == pass && product.variants().count() == VARIANTS.len()
    };
    Rc::clone(all.iter().find(fits).unwrap())
}

/// Other shapes are in the ignored test below and, by their training, in the one after it.
#[test]
fn every_variant_computes_what_the_plain_one_does() {
    let passes = [ProductPass::Forward, ProductPass::Backward];
    variants_equal_the_plain_one(&passes.map(|pass| wide(pass, Precision::F32)), 1);
}

#[test]
fn some_variants_compute_what_the_plain_one_does_on_tensor_cores() {
    let forward = wide(ProductPass::Forward, Precision::Tf32);
    variants_equal_the_plain_one(&[forward, wide(ProductPass::Backward, Precision::Bf16)], 4);
}

/// As above, for the shapes that `bench --suite` compares on a GPU.
#[test]
#[ignore = "takes minutes"]
fn every_variant_computes_the_suite_as_the_plain_one_does() {
    variants_equal_the_plain_one(&products(&[TEXT], 13, 3, Precision::F32), 1);
    variants_equal_the_plain_one(&products(&[TEXT], 13, 3, Precision::Tf32), 1);
    variants_equal_the_plain_one(&products(&[TEXT], 13, 3, Precision::Bf16), 1);
    variants_equal_the_plain_one(&products(suite::ALL_LAYERS, 16, 2, Precision::F32), 1);
}

#[test]
fn some_variants_train_as_the_cpu() {
    if left_out() {
        return;
    }
    let world = world(13, 5);
    let mut expected = world.training(&*cpu(), TEXT, 16);
    let theirs = world.train(&mut expected, 1, &[9, 16]);
    for variant in VARIANTS.iter().step_by(4) {
        let device = HostDevice::new(20, false).device();
        let device = device.with_variant(variant);
        let mut ours = world.training(&device, TEXT, 16);
        let outcomes = world.train(&mut ours, 1, &[9, 16]);
        same_outcomes(variant.name, &outcomes, &theirs, 1e-4);
        compare(variant.name, &mut ours, &mut expected, 2e-4, 1e-4);
    }
}

#[test]
fn training_goes_on_while_variants_are_compiled_and_changes_over_between_two_steps() {
    if left_out() {
        return;
    }
    // Two products. Compiling takes longer here than `quick` may measure.
    let text = "dense 10";
    let world = world(8, 5);
    let host = Rc::new(HostDevice::new(20, false));
    let end = host.delay_compiling();
    let device = Rc::clone(&host).tuned_device(GpuTuning::Full);
    let mut ours = world.training(&device, text, 8);
    let mut outcomes = world.train(&mut ours, 1, &[8, 5]);
    assert_eq!(host.remembered(), 0);
    drop(end);
    while host.remembered() == 0 {
        let next = outcomes.len() as u64 + 1;
        outcomes.extend(world.train(&mut ours, next, &[8]));
    }
    let next = outcomes.len() as u64 + 1;
    outcomes.extend(world.train(&mut ours, next, &[7]));
    // The same steps on the CPU, and its state after them.
    let mut expected = world.training(&*cpu(), text, 8);
    let mut sizes = vec![8; outcomes.len()];
    (sizes[1], sizes[outcomes.len() - 1]) = (5, 7);
    let theirs = world.train(&mut expected, 1, &sizes);
    same_outcomes("tuned", &outcomes, &theirs, 1e-4);
    compare("tuned", &mut ours, &mut expected, 2e-4, 1e-4);
    // A later backend uses the winners.
    let spec = world.spec(text);
    let known = |tuning| {
        let device = Rc::clone(&host).tuned_device(tuning);
        device.tune(&spec, 8, tuning, false).unwrap()
    };
    let again = known(GpuTuning::Quick);
    let remembered = |tuned: &TunedProduct| tuned.reason == Reason::Remembered;
    assert!(
        again.len() == 2 && again.iter().all(remembered),
        "{again:?}"
    );
    // Plain ones, whatever is remembered.
    for tuned in known(GpuTuning::Off) {
        assert_eq!((tuned.reason, tuned.chosen.name), (Reason::Fixed, "plain"));
    }
    let none = cpu().tune(&spec, 8, GpuTuning::Full, true).unwrap();
    assert!(none.is_empty());
}

/// Both kernels of a product that every variant fits, of each variant: in one number format after the other.
pub fn one_of_each() -> Vec<Launch> {
    let formats = [Precision::F32, Precision::Tf32, Precision::Bf16];
    let mut launches = Vec::new();
    for (variant, precision) in VARIANTS.iter().zip(formats.into_iter().cycle()) {
        let mut world = world(14, 1);
        world.precision = precision;
        let choices = Rc::new(Choices::all(variant));
        let spec = world.spec("conv 40 same, relu, conv 40 same, relu, pool, dense 10");
        let schedule = KernelSchedule::with_choices(&spec, 16, 20, false, &choices).unwrap();
        let fits = |launch: &&ScheduledLaunch| {
            let product = launch.product.as_ref();
            product.is_some_and(|product| product.variants().count() == VARIANTS.len())
        };
        let of_product = schedule.training.iter().filter(fits);
        launches.extend(of_product.map(|scheduled| scheduled.launch.clone()));
    }
    assert_eq!(launches.len(), 2 * VARIANTS.len());
    launches
}

/// Launches of every variant in every number format: the seed's second convolution, its first, which has three channels,
/// and a dense layer.
fn launches() -> Vec<(String, Launch)> {
    let mut launches = Vec::new();
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        for product in products(&["seed"], 32, 32, precision) {
            for variant in product.variants() {
                let mut world = world(32, 1);
                world.precision = precision;
                let choices = Rc::new(Choices::all(variant));
                let spec = world.spec("seed");
                let schedule =
                    KernelSchedule::with_choices(&spec, 32, 132, false, &choices).unwrap();
                let mut all = schedule.training.into_iter();
                let found =
                    all.find(|l| l.product.as_ref().is_some_and(|p| p.key() == product.key()));
                let name = format!("{precision:?} {:<18} {}", variant.name, product.words());
                launches.push((name, found.unwrap().launch));
            }
        }
    }
    launches
}

/// Registers, and bytes of spilled registers, in the log of ptxas.
fn used(log: &str) -> (usize, usize) {
    let number = |before: &str, after: &str| -> usize {
        let words = log.split(after).next().unwrap();
        words.rsplit(before).next().unwrap().trim().parse().unwrap()
    };
    (
        number("Used", "registers"),
        number(",", "bytes spill stores"),
    )
}

/// Compiles every variant, and checks that none spills. `cargo test --test kernels -- --ignored --nocapture ptxas` prints
/// the table.
#[test]
#[ignore = "takes minutes"]
fn ptxas_spills_no_registers_of_any_variant() {
    let Some(nvrtc) = SearchPath::of_process().newest(u32::MAX) else {
        eprintln!("left out: NVRTC was not found (pip install nvidia-cuda-nvrtc-cu12)");
        return;
    };
    let mut spilling = Vec::new();
    for (name, launch) in launches() {
        let text = launch.text(COMMON);
        let mut line = format!("{name}, {} bytes shared:", launch.shared_memory);
        for architecture in ARCHITECTURES.into_iter().filter(|a| nvrtc.supports(*a)) {
            let log = nvrtc.explain(&text, architecture).unwrap();
            let (registers, spilled) = used(&log);
            line += &format!(" {registers}");
            if spilled > 0 {
                spilling.push(format!("{name}, sm_{architecture}: {spilled} bytes"));
            }
        }
        println!("{line}");
    }
    assert!(spilling.is_empty(), "{spilling:#?}");
}

#[test]
fn no_block_asks_for_more_shared_memory_than_every_gpu_has() {
    for (name, launch) in launches() {
        assert!(launch.shared_memory <= 99 << 10, "{name}");
        assert!(launch.block <= 256, "{name}");
    }
}
