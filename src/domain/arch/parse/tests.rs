use super::super::{ARCHS, MAX_CHANNELS, MAX_STRIDE, Shape, check};
use super::*;
use crate::layers::conv::{ConvOp, MAX_KERNEL};
use crate::layers::dense::DenseOp;
use crate::layers::dropout::{DropoutOp, MAX_SHARE};
use crate::layers::global_pool::GlobalPoolOp;
use crate::layers::kind::LayerOp;
use crate::layers::norm::NormOp;
use crate::layers::pool::{MAX_WINDOW, PoolOp};
use crate::layers::relu::ReluOp;
use crate::layers::residual::ResidualOp;
use proptest::prelude::*;
use std::sync::Arc;

#[test]
fn every_form_of_a_layer() {
    let arch = parse(
        "CONV 8,conv 16 k5 s2 p1,\n conv 4 same k1,conv 4 k 5 same, pool, pool 3, pool 3 s2, pool s1, drop, drop 0.3, \
         drop 25%, norm, norm eps 1e-12 no-scale momentum 0.4, norm momentum 2E-1 eps 0.001, norm eps 0.00001, relu, global-pool, residual( relu ), conv 4 Dirac no-bias k2, dense 5 unit-variance, dense 6 unit-variance no-bias, dense 10,",
    )
    .unwrap();
    assert_eq!(
        arch.to_string(),
        "conv 8, conv 16 k5 s2 p1, conv 4 k1, conv 4 k5 same, pool, pool 3, pool 3 s2, pool s1, drop, drop 0.3, \
         drop 0.25, norm, norm no-scale momentum 0.4 eps 1e-12, norm momentum 0.2 eps 1e-3, norm, relu, global-pool, residual(relu), conv 4 k2 no-bias dirac, dense 5 unit-variance, dense 6 no-bias unit-variance, dense 10"
    );
}

/// What `--help` says of every kind is read when its placeholders are filled in.
#[test]
fn the_usage_of_every_kind_is_right() {
    for kind in KINDS {
        let mut text = format!("{} {}", kind.word, kind.usage);
        for (placeholder, example) in [
            ("CHANNELS", "8"),
            ("OUTPUTS", "8"),
            ("KERNEL", "3"),
            ("STRIDE", "2"),
            ("PADDING | same", "1"),
            ("WINDOW", "2"),
            ("SHARE | SHARE%", "25%"),
            ("FACTOR", "0.5"),
            ("LAYERS", "relu"),
            ("X", "0.5"),
            ("[", ""),
            ("]", ""),
        ] {
            text = text.replace(placeholder, example);
        }
        assert!(parse(&text).is_ok(), "{text}");
    }
}

#[test]
fn repeats_are_written_out() {
    assert_eq!(
        parse("2 x (3x relu, norm), 2 x residual(2x(relu))").unwrap(),
        parse("relu, relu, relu, norm, relu, relu, relu, norm, residual(relu, relu), residual(relu, relu)").unwrap()
    );
}

#[test]
fn errors_point_at_the_place() {
    for (text, at, part) in [
        ("conv", "", "number of channels"),
        ("conv 0, relu", "0", "from 1 to 8192"),
        (
            "conv 99999999999999999999",
            "99999999999999999999",
            "from 1 to 8192",
        ),
        ("conv 8 k4 same", "same", "odd kernel"),
        ("conv 8 k4 k4", "k", "twice"),
        ("conv 8 same p1", "p", "twice"),
        ("conv 8 p3", "3", "smaller than the kernel"),
        ("conv 8 relu", "relu", "not a property"),
        ("relu norm", "norm", "comma is missing"),
        ("relu,, norm", ",", "a layer is expected"),
        ("drop 1.0", "1.0", "0 to 0.95"),
        ("drop 0.1.2", "0.1.2", "0 to 0.95"),
        ("conv 8 dirac dirac", "dirac", "twice"),
        ("dense 8 relu", "relu", "comma is missing"),
        ("dense 8 no-bias no-bias", "no-bias", "twice"),
        ("norm scale", "scale", "comma is missing"),
        ("norm eps 1e-2 eps 1", "eps", "twice"),
        ("norm no-scale no-scale", "no-scale", "twice"),
        ("norm momentum 0", "0", "0.001 to 1"),
        ("norm eps 1e-13", "1e-13", "0.000000000001 to 1"),
        ("norm eps 1e", "e", "comma is missing"),
        ("rleu", "rleu", "did you mean 'relu'"),
        ("relu, fancy", "fancy", "there are: conv"),
        ("residual, relu", ",", "parentheses"),
        ("(relu", "(", "not closed"),
        ("relu)", ")", "closes nothing"),
        ("relu; norm", ";", "no meaning"),
        ("relu, né", "é", "no meaning"),
        ("3 relu", "relu", "'x' must follow"),
        ("65 x relu", "65", "from 1 to 64"),
        (
            "relu, 64 x (64 x relu)",
            "64 x (64 x relu)",
            "more than 256",
        ),
        ("64 x (5 x relu)", "64 x (5 x relu)", "more than 256"),
        ("((((((((( relu", "(", "nested deeper"),
        ("residual()", ")", "a layer is expected"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(&text[error.at.clone()], at, "{text}: {error}");
        assert!(error.why.contains(part), "{text}: {error}");
    }
    assert_eq!(
        parse("relu, conv 8 k99").unwrap_err().to_string(),
        "layer 2, 'conv 8 k99': the kernel must be a whole number from 1 to 11"
    );
    assert!(parse(&"relu,".repeat(MAX_TEXT)).is_err());
    assert!(parse(&"(".repeat(MAX_TEXT)).is_err());
}

type Op = Arc<dyn LayerOp>;

fn op(op: impl LayerOp) -> Op {
    Arc::new(op)
}

fn layer() -> impl Strategy<Value = Op> {
    let leaf = prop_oneof![
        (
            1..=MAX_CHANNELS,
            1..=MAX_KERNEL,
            1..=MAX_STRIDE,
            0.0..1.0f64,
            any::<[bool; 2]>()
        )
            .prop_map(|(out, kernel, stride, p, [no_bias, dirac])| op(ConvOp {
                out,
                kernel,
                stride,
                padding: (p * f64::from(kernel)) as u32,
                no_bias,
                dirac,
            })),
        (any::<bool>(), 0.001..=1.0f64, 1e-12..=1.0f64).prop_map(|(scale, momentum, epsilon)| op(
            NormOp {
                scale,
                momentum,
                epsilon,
            }
        )),
        Just(()).prop_map(|()| op(NormOp::default())),
        Just(()).prop_map(|()| op(ReluOp)),
        Just(()).prop_map(|()| op(GlobalPoolOp)),
        (1..=MAX_WINDOW, 1..=MAX_STRIDE).prop_map(|(kernel, stride)| op(PoolOp { kernel, stride })),
        proptest::option::of(0.0..=MAX_SHARE).prop_map(|share| op(DropoutOp { share })),
        (1..=MAX_CHANNELS, any::<[bool; 2]>()).prop_map(|(out, [no_bias, unit_variance])| op(
            DenseOp {
                out,
                no_bias,
                unit_variance,
            }
        )),
        proptest::sample::select(vec!["gelu", "silu", "scale 0.111", "scale 25", "whiten"])
            .prop_map(|text| Arc::clone(&parse(text).unwrap().layers[0].op)),
    ];
    leaf.prop_recursive(3, 24, 6, |ops| {
        proptest::collection::vec(ops, 1..6).prop_map(|ops| op(ResidualOp { body: layers(ops) }))
    })
}

fn layers(ops: Vec<Op>) -> Vec<ArchLayer> {
    ops.into_iter()
        .map(|op| ArchLayer { op, at: 0..0 })
        .collect()
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(ops in proptest::collection::vec(layer(), 1..8)) {
        let arch = Arch { layers: layers(ops) };
        let text = arch.to_string();
        let again = parse(&text);
        prop_assert_eq!(again.as_ref(), Ok(&arch), "{}", text);
        // Any shape of input gives an answer.
        let _ = arch.infer_shapes(Shape::new(3, 9, 31), 10);
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,80}") {
        let _ = check(&text);
    }

    #[test]
    fn no_text_of_the_right_words_panics(
        words in proptest::collection::vec(
            proptest::sample::select(vec![
                "conv", "norm", "relu", "pool", "global-pool", "drop", "dense", "residual", "x", "k", "s", "p",
                "gelu", "silu", "scale", "whiten", "no-bias", "same", "dirac", "unit-variance", "no-scale", "momentum", "eps", "1e-12", "1e", "(", ")", ",", "%", "0", "1", "3", "10", "64", "0.5", "99999999999", " ",
            ]),
            0..40,
        )
    ) {
        if let Err(error) = parse(&words.concat()) {
            prop_assert!(words.concat().get(error.at.clone()).is_some());
        }
        let _ = check(&words.join(" "));
    }

    #[test]
    fn a_changed_preset_never_panics(which in 0..ARCHS.len(), at in 0..300usize, byte in 0u8..128) {
        let mut text = ARCHS[which].text.as_bytes().to_vec();
        let at = at % text.len();
        text[at] = byte;
        let _ = check(&String::from_utf8_lossy(&text));
    }
}
