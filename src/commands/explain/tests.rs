use super::*;
use crate::backend::gpu::tuning::TunedProduct;
use crate::backend::{Scaling, rule};
use crate::config;
use crate::domain::arch::{ARCHS, Node, resolve};
use crate::domain::params::{Optimizer, Precision};
use crate::domain::recipes;

const H200: &str = "h200";

fn spec(architecture: &str, precision: Precision, optimizer: Optimizer) -> NetworkSpec {
    NetworkSpec {
        arch: resolve(architecture).unwrap(),
        input: Shape::CIFAR,
        classes: CIFAR_CLASSES,
        scaling: Scaling::UNIT,
        optimizer: rule(optimizer),
        precision,
    }
}

/// Twice the multiply-adds of one image's forward pass. Where 2x2 pooling follows a convolution (and its ReLU), only those of
/// the pixels in whole windows.
fn product_flop(nodes: &[Node]) -> u64 {
    let of_node = |(i, node): (usize, &Node)| -> u64 {
        let mut after = nodes[i + 1..].iter().map(|next| next.layer.op.to_string());
        let next = after.find(|text| text != "relu");
        let pools = next.is_some_and(|text| text == "pool");
        let (height, width) = (u64::from(node.output.height), u64::from(node.output.width));
        let own = match pools {
            true => node.multiply_adds / (height * width) * (height / 2 * 2) * (width / 2 * 2),
            false => node.multiply_adds,
        };
        let branches = node.branches.iter().map(|branch| product_flop(branch));
        2 * own + branches.sum::<u64>()
    };
    nodes.iter().enumerate().map(of_node).sum()
}

#[test]
fn the_forward_products_do_the_arithmetic_of_the_architecture() {
    for preset in ARCHS {
        let spec = spec(preset.text, Precision::Bf16, Optimizer::Adam);
        let nodes = spec.nodes().unwrap();
        for batch in [1, 50] {
            let schedule = KernelSchedule::of(&spec, batch, 132, false).unwrap();
            for list in [&schedule.training, &schedule.scoring] {
                let forward = list.iter().filter(|l| l.launch.entry == "forward");
                let flop: u64 = forward.map(|l| l.cost.product_flop).sum();
                assert_eq!(flop, batch as u64 * product_flop(&nodes), "{}", preset.name);
            }
        }
        // Only pooling that leaves an edge out makes less than all of them necessary.
        let all: u64 = spec
            .arch
            .summary(Shape::CIFAR, CIFAR_CLASSES)
            .unwrap()
            .iter()
            .map(|line| 2 * line.multiply_adds)
            .sum();
        let has_edges = ["airbench", "tiny"].contains(&preset.name);
        assert_eq!(product_flop(&nodes) < all, has_edges, "{}", preset.name);
    }
}

#[test]
fn every_launch_says_its_layer_and_its_cost() {
    for preset in ARCHS {
        for optimizer in Optimizer::ALL {
            let spec = spec(preset.text, Precision::F32, *optimizer);
            let schedule = KernelSchedule::of(&spec, 32, 132, true).unwrap();
            let swapping = schedule.swapping.as_ref().unwrap();
            let lists = [
                &schedule.training,
                &schedule.scoring,
                &schedule.packing,
                swapping,
            ];
            for scheduled in lists.into_iter().flatten() {
                let (launch, cost) = (&scheduled.launch, &scheduled.cost);
                let what = format!("{}, {optimizer:?}, {}", preset.name, launch.entry);
                assert!(!scheduled.layer.is_empty(), "{what}");
                assert!(cost.bytes > 0, "{what}");
                let copies = ["mask", "pack", "swap_average"].contains(&launch.entry);
                assert_eq!(cost.product_flop + cost.flop == 0, copies, "{what}");
            }
        }
    }
}

/// The configuration of these flags.
fn config(change: impl FnOnce(&mut Hyperparameters)) -> Config {
    let around = config::Surroundings::default();
    let mut config = config::load_without_file(&around, &config::Flags::default()).unwrap();
    change(&mut config.params);
    config
}

#[test]
fn the_table_of_a_small_network() {
    let config = config(|p| {
        p.architecture = "conv 8, relu, pool, residual(conv 8 same, norm), gelu, dense 10".into();
        p.batch_size = 64;
        p.optimizer = Optimizer::Muon;
    });
    let report = lay_out(&config, gpus::find(H200).unwrap()).unwrap();
    let mut text = Vec::new();
    print(&report, &mut text).unwrap();
    insta::assert_snapshot!(String::from_utf8(text).unwrap());
}

#[test]
fn a_run_scores_what_the_trainer_scores() {
    let times = |change: &dyn Fn(&mut Hyperparameters)| {
        let config = config(|p| change(p));
        lay_out(&config, gpus::find(H200).unwrap()).unwrap().run
    };
    // 40,000 images in batches of 32; validation images after each epoch, test images at the end.
    let seed = times(&|_| {});
    assert_eq!((seed.steps, seed.evaluated), (15 * 1250, 15 * 10_000));
    assert_eq!((seed.scored_at_the_end, seed.views), (10_000, 1));
    // 25 whole batches in each of 8 epochs; test images after each epoch, and again in six views at the end.
    let airbench = times(&|p| recipes::find("airbench").unwrap().apply(p));
    assert_eq!((airbench.steps, airbench.evaluated), (200, 80_000));
    assert_eq!((airbench.scored_at_the_end, airbench.views), (10_000, 6));
    for times in [airbench.floor, airbench.expected.unwrap()] {
        let parts = times.training + times.evaluations + times.final_score;
        assert!((times.all - parts).abs() < 1e-9);
        assert!(times.final_score > 4.0 * times.evaluations / 8.0);
    }
    assert!(airbench.expected.unwrap().all > airbench.floor.all);
    // Without a view of its own, the last evaluation is the final score.
    let once = times(&|p| {
        recipes::find("airbench").unwrap().apply(p);
        p.tta = crate::domain::params::Tta::None;
    });
    assert_eq!((once.scored_at_the_end, once.floor.final_score), (0, 0.0));
    assert_eq!(once.floor.evaluations, airbench.floor.evaluations);
    // An epoch of 40,000 images is a batch of 30,000 and one of 10,000, which takes about a third as long.
    let uneven = lay_out(
        &config(|p| p.batch_size = 30_000),
        gpus::find(H200).unwrap(),
    )
    .unwrap();
    let step = uneven.training.floor_us / 1e6;
    assert_eq!(uneven.run.steps, 30);
    let steps = uneven.run.floor.training / step;
    assert!((19.9..21.0).contains(&steps), "{steps}");
}

/// The steps on one H200 that the expected times are fitted to, in images/s in f32, tf32 and bf16.
#[test]
fn the_expected_steps_are_near_the_measured_ones() {
    for (architecture, batch, measured) in [
        ("seed", 32, [141_668.0, 174_194.0, 169_988.0]),
        ("seed", 512, [234_259.0, 314_737.0, 309_849.0]),
        ("seed", 4096, [240_465.0, 335_367.0, 325_051.0]),
        ("resnet", 128, [76_837.0, 96_558.0, 93_051.0]),
    ] {
        let formats = [Precision::F32, Precision::Tf32, Precision::Bf16];
        for (precision, measured) in formats.into_iter().zip(measured) {
            let config = config(|p| {
                p.architecture = architecture.into();
                p.batch_size = batch;
                p.precision = precision;
            });
            let table = lay_out(&config, gpus::find(H200).unwrap())
                .unwrap()
                .training;
            let times_as_long = measured / table.expected_images_per_s.unwrap();
            eprintln!("{architecture} {batch} {precision:?}: {times_as_long:.3}");
            assert!(table.floor_images_per_s > measured);
            assert!((0.9..1.15).contains(&times_as_long), "{times_as_long}");
            // The same with the guesses by which variants are tried.
            let spec = spec(architecture, precision, Optimizer::Adam);
            let schedule = KernelSchedule::of(&spec, batch as usize, 132, false).unwrap();
            let products = schedule.training.iter().map(|launch| {
                let product = launch.product.clone()?;
                let plain = TunedProduct::guessed(product, 132).times.pop()?;
                Some(1e6 * plain.1)
            });
            let guessed: f64 = products
                .zip(&table.launches)
                .map(|(guess, row)| guess.or(row.expected_us).unwrap())
                .sum();
            let times_as_long = measured * guessed / (1e6 * f64::from(batch));
            eprintln!("{architecture} {batch} {precision:?}: guessed {times_as_long:.3}");
            assert!((0.75..1.3).contains(&times_as_long), "{times_as_long}");
        }
    }
}

/// The launches are made once, and the work grows with the networks.
#[test]
fn several_networks_share_the_launches_and_not_the_work() {
    let config = config(|p| p.architecture = "seed".into());
    let report = lay_out(&config, gpus::find(H200).unwrap()).unwrap();
    let one = report.training.expected_images_per_s.unwrap();
    let launches = report.training.launches.len() as f64;
    let reached = gpus::find(H200).unwrap().rates.reached.unwrap();
    let launching = launches * reached.launch;
    let working = 32.0 / one - launching;
    for together in &report.together {
        let networks = together.networks as f64;
        let expected = together.expected_images_per_s.unwrap();
        let seconds = launching + networks * working;
        assert!((expected * seconds / (networks * 32.0) - 1.0).abs() < 1e-9);
        assert!(expected > one && expected < networks * one);
        assert!(together.floor_images_per_s > expected);
        eprintln!("{networks} networks: {:.2} times one", expected / one);
    }
}
