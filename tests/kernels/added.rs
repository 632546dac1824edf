//! Adds a kind of layer and an optimizer that only this file knows, and checks that they train on every backend as in
//! the reference, without a change anywhere else.

use super::host::HostDevice;
use super::reference::agrees;
use super::{Training, cpu, left_out};
use candle_core::{Result, Tensor};
use cifar_tui::backend::candle::CandleDevice;
use cifar_tui::backend::{self, Device, NetworkSpec, Rule};
use cifar_tui::domain::arch::{self, Arch, ArchError, InferContext, Node, Shape};
use cifar_tui::domain::params::{Optimizer, ParameterGroup};
use cifar_tui::domain::report::StepSettings;
use cifar_tui::hardware::executor::{Cost, Launch};
use cifar_tui::layers::KINDS;
use cifar_tui::layers::candle::CandlePass;
use cifar_tui::layers::cpu::{CpuPlace, Layer, Parameter, Pass, image_len};
use cifar_tui::layers::gpu::{Activation, BackwardLaunches, LaunchBuilder};
use cifar_tui::layers::kind::{Initialization, Kind, LayerOp, ParameterSpec};
use cifar_tui::layers::slices::{read, write, zeros};
use cifar_tui::optimizers::{Coefficients, Numbers};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

/// `gain`: each channel times a weight that is trained, plus one that is not.
const GAIN: Kind = Kind {
    word: "gain",
    usage: "",
    parse: |_| Ok(Arc::new(GainOp)),
};

#[derive(Debug)]
struct GainOp;

impl fmt::Display for GainOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(GAIN.word)
    }
}

impl LayerOp for GainOp {
    fn word(&self) -> &'static str {
        GAIN.word
    }

    fn has_name(&self) -> bool {
        true
    }

    fn infer(
        &self,
        node: &mut Node,
        _context: &mut InferContext,
    ) -> std::result::Result<(), ArchError> {
        let channels = node.input.channels as usize;
        let parameter = |value| {
            let initial = Initialization::Constant(value);
            ParameterSpec::weight(ParameterGroup::Biases, vec![channels], initial)
        };
        node.parameters.push(parameter(1.5));
        node.parameters.push(ParameterSpec {
            suffix: "shift",
            trained: false,
            ..parameter(0.25)
        });
        Ok(())
    }

    fn cpu(&self, place: &mut CpuPlace) -> Result<Box<dyn Layer>> {
        Ok(Box::new(Gain {
            name: place.name.clone(),
            weight: place.parameter(place.node, "weight")?,
            shift: place.parameter(place.node, "shift")?,
            output: zeros(place.input.shape(), place.device())?,
        }))
    }

    fn candle(&self, node: &Node, x: &Tensor, pass: &mut CandlePass) -> Result<Tensor> {
        let channels = x.dims4()?.1;
        let parameter = |suffix| pass.parameter(node, suffix)?.reshape((1, channels, 1, 1));
        x.broadcast_mul(&parameter("weight")?)?
            .broadcast_add(&parameter("shift")?)
    }
}

struct Gain {
    name: String,
    weight: Parameter,
    shift: Parameter,
    output: Tensor,
}

impl Layer for Gain {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, input: &Tensor, pass: &Pass) -> Result<()> {
        let (x, weight, shift) = (
            read(input)?,
            read(&self.weight.var)?,
            read(&self.shift.var)?,
        );
        let len = pass.images * image_len(&self.output);
        write([&self.output], |[out]| {
            for (i, out) in out[..len].iter_mut().enumerate() {
                let channel = i % weight.len();
                *out = x[i] * weight[channel] + shift[channel];
            }
        })
    }

    fn output(&self) -> &Tensor {
        &self.output
    }

    fn backward(
        &mut self,
        input: &Tensor,
        grad_output: &Tensor,
        grad_input: Option<&Tensor>,
        pass: &Pass,
    ) -> Result<()> {
        let (x, grad, weight) = (read(input)?, read(grad_output)?, read(&self.weight.var)?);
        let len = pass.images * image_len(&self.output);
        let channels = weight.len();
        write([&self.weight.grad], |[sums]| {
            sums.fill(0.0);
            for i in 0..len {
                sums[i % channels] += x[i] * grad[i];
            }
        })?;
        let Some(grad_input) = grad_input else {
            return Ok(());
        };
        write([grad_input], |[out]| {
            for (i, out) in out[..len].iter_mut().enumerate() {
                *out = grad[i] * weight[i % channels];
            }
        })
    }

    fn schedule(
        &self,
        builder: &mut LaunchBuilder,
        input: &Activation,
    ) -> (Activation, BackwardLaunches) {
        let channels = self.weight.var.elem_count();
        let constants = format!("#define LEN {}\n#define C {channels}\n", input.len);
        let weight = builder.offset_of(&self.name, "weight");
        let shift = builder.offset_of(&self.name, "shift");
        let output = builder.activation(input.len);
        let arguments = vec![
            builder.step(),
            Some(input.at),
            Some(weight),
            Some(shift),
            Some(output.at),
        ];
        let all = builder.capacity() * input.len;
        let cost = Cost::of_f32(2 * all + 2 * channels, 2 * all);
        let launch = builder.elementwise(CUDA, &constants, "gain", input.len, arguments);
        builder.add_forward(launch, cost);
        let (input, grad) = (input.clone(), output.grad);
        let backward = move |builder: &mut LaunchBuilder| {
            let squares = builder.squares(channels);
            let launch = Launch {
                source: CUDA,
                constants: constants.as_str().into(),
                entry: "gain_weight",
                grid: [channels as u32, 1, 1],
                block: 64,
                arguments: vec![
                    builder.step(),
                    Some(input.at),
                    grad,
                    Some(builder.grad_of(weight)),
                    Some(squares),
                ],
                shared_memory: 64 * size_of::<f64>() as u32,
                starts_early: true,
            };
            builder.add_backward(launch, Cost::of_f32(2 * all + channels, 3 * all));
            builder.input_grad(&input, cost, |b, to| {
                let arguments = vec![b.step(), grad, Some(weight), None, Some(to)];
                b.elementwise(CUDA, &constants, "gain", input.len, arguments)
            });
        };
        (output, Box::new(backward))
    }

    fn params(&self) -> Vec<&Parameter> {
        vec![&self.weight, &self.shift]
    }
}

const CUDA: &str = r#"
extern "C" __global__ void __launch_bounds__(256) gain(const u64 *members, const Step *now, const float *from, const float *weight,
                                                       const float *shift, float *to) {
    move_to_member(members, 1, now, from, weight, shift, to);
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e < now->count * LEN) to[e] = from[e] * weight[e % C] + (shift ? shift[e % C] : 0.0f);
}

// A block sums one channel.
extern "C" __global__ void __launch_bounds__(64) gain_weight(const u64 *members, const Step *now, const float *x, const float *grad,
                                                             float *weight_grad, double *squares) {
    move_to_member(members, 1, now, x, grad, weight_grad, squares);
    dynamic_shared(double, scratch);
    wait_for_earlier_launches();
    double sum = 0.0;
    for (u32 e = blockIdx.x + threadIdx.x * C; e < now->count * LEN; e += 64 * C) sum += (double)x[e] * grad[e];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) weight_grad[blockIdx.x] = (float)sum, squares[blockIdx.x] = sum * sum;
}
"#;

/// Gradient descent that adds half of the previous step. It uses SGD's word, since a new word would need a row in
/// another file.
static HALF: Rule = Rule {
    flop: 5,
    word: Optimizer::Sgd,
    slots: &["last"],
    scalars: &[("steps", 0.0)],
    coefficients: |settings: &StepSettings, scalars: &mut [f64]| {
        scalars[0] += 1.0;
        Coefficients::new([settings.learning_rate as f32]).for_groups()
    },
    update: |coefficients: &Coefficients, clip: f32, numbers: Numbers| {
        let [last, _] = numbers.state;
        for ((w, g), last) in numbers.weights.iter_mut().zip(numbers.gradients).zip(last) {
            *last = 0.5 * *last + coefficients.own[0] * (clip * g);
            *w -= *last;
        }
    },
    cuda: "{ float step = 0.5f * SLOT(0) + OWN[0] * g; SLOT(0) = step; w -= step; }",
    filters: None,
};

/// The layer before another, behind one that expects its gradient prepared, with its own ReLU, in a block, and in front of
/// the last.
fn arch() -> Arch {
    let kinds: Vec<Kind> = KINDS.iter().copied().chain([GAIN]).collect();
    let text = "gain, conv 6, relu, pool, gain, conv 8 same, gain, relu, residual(conv 8 same, gain), dense 12, relu, gain, dense 10";
    let arch = arch::parse_with(text, &kinds).unwrap();
    assert_eq!(arch.to_string(), text);
    arch
}

#[test]
fn what_is_not_trained_stays_and_has_no_state_of_the_optimizer() {
    let mut devices: Vec<Rc<dyn Device>> = vec![cpu(), Rc::new(CandleDevice::reference())];
    if !left_out() {
        devices.push(Rc::new(HostDevice::new(6, false).device()));
    }
    for device in devices {
        let mut world = super::world(12, 5);
        world.params.optimizer = Optimizer::Adamw;
        let spec = NetworkSpec {
            arch: arch(),
            ..world.spec("seed")
        };
        let mut backend = device.backend(&spec, 8).unwrap();
        let member = backend.add(1).unwrap();
        let mut state = backend.export(member).unwrap();
        let fixed = state.tensors.get_mut("gain1.shift").unwrap();
        assert_eq!(fixed.values, [0.25; 3]);
        fixed.values = vec![0.5, -1.0, 2.0];
        backend.import(member, &state).unwrap();
        let mut training = Training { backend, member };
        world.train(&mut training, 1, &[8, 8]);
        let gradients = training.gradients();
        let norm = |name: &str| -> f32 {
            let gradient = gradients.iter().find(|(other, _)| other == name).unwrap();
            gradient.1.iter().map(|v| v.abs()).sum()
        };
        assert_eq!(norm("gain1.shift"), 0.0);
        assert!(norm("gain1.weight") > 0.0);
        let state = training.state();
        assert_eq!(state.tensors["gain1.shift"].values, [0.5, -1.0, 2.0]);
        assert!(state.tensors["gain1.weight"].values != [1.5; 3]);
        let has_state = |of: &str| {
            let slot = format!("optimizer.exp_avg.gain1.{of}");
            state.tensors.contains_key(&slot)
        };
        assert!(has_state("weight") && !has_state("shift"));
    }
}

#[test]
fn an_added_layer_and_an_added_optimizer_train_on_the_cpu_as_in_the_reference() {
    for rule in [backend::rule(Optimizer::Adam), &HALF] {
        agrees("cpu, gain", &*cpu(), arch(), Shape::new(3, 12, 12), rule);
    }
}

#[test]
fn an_added_layer_and_an_added_optimizer_train_on_the_gpu_as_in_the_reference() {
    if left_out() {
        return;
    }
    for rule in [backend::rule(Optimizer::Adam), &HALF] {
        let device = HostDevice::new(6, false).device();
        agrees("gpu, gain", &device, arch(), Shape::new(3, 12, 12), rule);
    }
}
