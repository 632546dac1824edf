use super::*;

fn mutations(count: u32) {
    let texts: Vec<&str> = ARCHS.iter().map(|preset| preset.text).collect();
    let mut fit = 0;
    for number in 0..count {
        let text = texts[number as usize % texts.len()];
        let bytes = crate::domain::mutate::mutated(text.as_bytes(), number);
        let text = String::from_utf8_lossy(&bytes);
        // Whatever fits is printed as text that means the same.
        if let Ok(arch) = resolve(&text)
            && let Ok(layers) = arch.summary(Shape::CIFAR, 10)
        {
            fit += 1;
            assert_eq!(resolve(&arch.to_string()).as_ref(), Ok(&arch), "{text}");
            assert!(layers.iter().map(|l| l.parameters).sum::<u64>() <= 100_000_000);
        }
    }
    assert!(fit > 0 && fit < count, "{fit} of {count}");
}

#[test]
fn mutated_texts_never_panic() {
    mutations(1000);
}

#[test]
#[ignore = "the long form: 20,000"]
fn twenty_thousand_mutated_texts_never_panic() {
    mutations(20_000);
}

#[test]
fn the_presets_are_the_fuzz_target_s_seeds() {
    for preset in ARCHS {
        super::super::mutate::is_seed("arch", preset.name, preset.text.as_bytes());
    }
}

fn summary(text: &str) -> Result<Vec<Summary>, ArchError> {
    resolve(text)?.summary(Shape::CIFAR, 10)
}

#[test]
fn the_seed_model_has_the_figures_of_the_blog_post() {
    let lines = summary("seed").unwrap();
    assert_eq!(
        lines.iter().map(|l| l.multiply_adds).sum::<u64>(),
        9_478_784
    );
    assert_eq!(lines.iter().map(|l| l.parameters).sum::<u64>(), 168_266);
    let named: Vec<_> = lines
        .iter()
        .filter(|l| !l.name.is_empty())
        .map(|l| (l.name.as_str(), l.output.to_string(), l.parameters))
        .collect();
    assert_eq!(
        named,
        [
            ("conv1", "32 x 30x30".into(), 896),
            ("conv2", "32 x 28x28".into(), 9248),
            ("conv3", "32 x 12x12".into(), 9248),
            ("dense1", "128".into(), 147_584),
            ("dense2", "10".into(), 1290),
        ]
    );
    assert_eq!(lines[8].output, Shape::new(32, 6, 6));
}

#[test]
fn every_preset_fits_and_has_a_name_of_its_own() {
    for (i, preset) in ARCHS.iter().enumerate() {
        assert_eq!(check(preset.name), Ok(()), "{}", preset.name);
        assert_eq!(check(preset.text), Ok(()), "{}", preset.name);
        assert!(!preset.about.is_empty());
        assert!(ARCHS[..i].iter().all(|other| other.name != preset.name));
    }
}

#[test]
fn the_filters_of_whiten_are_not_trained() {
    let lines = summary("airbench").unwrap();
    assert_eq!(
        (lines[0].name.as_str(), lines[0].output, lines[0].parameters),
        ("whiten1", Shape::new(24, 31, 31), 24)
    );
    assert_eq!(lines[0].multiply_adds, 12 * 24 * 31 * 31);
    let trained: u64 = lines.iter().map(|l| l.parameters).sum();
    // Convolutions, biases of norms and of whiten, head.
    let convs = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256);
    assert_eq!(trained, convs + 2 * 64 + 4 * 256 + 24 + 2560);
    let parsed = resolve("airbench").unwrap();
    let nodes = parsed.infer_shapes(Shape::CIFAR, 10).unwrap();
    let fixed = nodes
        .iter()
        .flat_map(|n| &n.parameters)
        .filter(|p| !p.trained);
    assert_eq!(
        fixed.map(|p| p.shape.clone()).collect::<Vec<_>>(),
        [[24, 3, 2, 2]]
    );
}

#[test]
fn names_in_residual_blocks_and_shortcuts() {
    let lines = summary(
        "conv 8 same, residual(conv 16 same s2, norm, relu, conv 16 same), residual(relu), global-pool, dense 10",
    )
    .unwrap();
    let names: Vec<_> = lines
        .iter()
        .filter(|l| !l.name.is_empty())
        .map(|l| (l.name.as_str(), l.depth, l.parameters))
        .collect();
    assert_eq!(
        names,
        [
            ("conv1", 0, 224),
            ("residual1", 0, 0),
            ("residual1.conv1", 1, 8 * 16 * 9),
            ("residual1.norm1", 1, 32),
            ("residual1.conv2", 1, 16 * 16 * 9 + 16),
            ("residual1.shortcut.conv1", 1, 8 * 16),
            ("residual1.shortcut.norm1", 1, 32),
            ("residual2", 0, 0),
            ("dense1", 0, 170),
        ]
    );
    assert!(lines.iter().any(|l| l.text == "conv 16 k1 s2"));
}

#[test]
fn errors_name_the_layer_and_point_at_it() {
    for (text, number, at, part) in [
        (
            "conv 8, pool 40, dense 10",
            2,
            "pool 40",
            "larger than its input (30x30)",
        ),
        (
            "pool, pool, pool, pool, pool, pool, dense 10",
            6,
            "pool",
            "2x2 window is larger than its input (1x1)",
        ),
        (
            "global-pool, conv 8, dense 10",
            2,
            "conv 8",
            "3x3 kernel is larger than its input (1x1)",
        ),
        ("pool 16, conv 8 k5, dense 10", 2, "conv 8 k5", "try 'same'"),
        (
            "relu, whiten, dense 10",
            2,
            "whiten",
            "must be the first layer",
        ),
        ("conv 8, dense 12", 2, "dense 12", "must be 'dense 10'"),
        ("dense 10, relu", 2, "relu", "must be 'dense 10'"),
        (
            "residual(conv 8), dense 10",
            1,
            "residual(conv 8)",
            "no stride",
        ),
        (
            "relu, residual(dense 10), dense 10",
            3,
            "dense 10",
            "global-pool",
        ),
        (
            "dense 8000, dense 8000, dense 8000, dense 10",
            3,
            "dense 8000",
            "parameters",
        ),
        (
            "64 x (conv 1024 k1), dense 10",
            48,
            "conv 1024 k1",
            "activations",
        ),
    ] {
        let error = summary(text).unwrap_err();
        assert_eq!(error.layer.as_ref().map(|l| l.0), Some(number), "{error}");
        assert_eq!(&text[error.at.clone()], at, "{error}");
        assert!(error.why.contains(part), "{error}");
        assert!(
            error
                .to_string()
                .starts_with(&format!("layer {number}, '{at}'")),
            "{error}"
        );
    }
    let error = resolve("resent").unwrap_err();
    assert!(
        error.to_string().contains("seed, resnet, airbench, tiny"),
        "{error}"
    );
    assert!(check("").is_err());
}
