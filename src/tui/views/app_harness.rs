//! Test harness of the screens: an [`App`] driven by keys and events, a scripted worker that answers its questions, and the
//! drawn text as a person would read it.

use crate::domain::arch::{Shape, resolve};
use crate::domain::confusion::Confusion;
use crate::domain::fork::ForkOrigin;
use crate::domain::params::Hyperparameters;
use crate::domain::report::*;
use crate::domain::symbols::Symbols;
use crate::session::client::CommandIds;
use crate::session::protocol::{Answer, Command, Event, Filter, Question};
use crate::tui::app::{App, Effect, Msg, press};
use crate::tui::theme::{Colors, Theme};
use crate::tui::views::Screen;
use crossterm::event::{KeyCode, MouseButton, MouseEvent, MouseEventKind};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

pub const CLASSES: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];

/// An app, and the commands and questions it sent to the worker.
pub struct AppHarness {
    pub app: App,
    pub sent: Vec<Command>,
    /// Questions sent, answered or not, and the epochs that they are about.
    pub asked: Vec<Question>,
    pub epochs: Vec<Option<u32>>,
    /// Number of effects returned by the app, commands included.
    pub effects: usize,
    /// Questions that were sent and not answered.
    pub open: Vec<(u64, Question)>,
    /// Whether questions are answered immediately.
    pub answers: bool,
}

impl AppHarness {
    pub fn new(width: u16, height: u16) -> Self {
        AppHarness::colored(width, height, Colors::True)
    }

    pub fn colored(width: u16, height: u16, colors: Colors) -> Self {
        let symbols = Symbols::Braille;
        AppHarness::themed(width, height, Theme { colors, symbols })
    }

    pub fn themed(width: u16, height: u16, theme: Theme) -> Self {
        AppHarness {
            app: App::new(theme, width, height, 0.0, CommandIds::default()),
            sent: Vec::new(),
            asked: Vec::new(),
            epochs: Vec::new(),
            effects: 0,
            open: Vec::new(),
            answers: true,
        }
    }

    /// The app after two scored epochs, training.
    pub fn running(width: u16, height: u16, screen: Screen) -> Self {
        let mut harness = AppHarness::new(width, height);
        harness.play();
        harness.open(screen);
        harness
    }

    /// The events of two epochs.
    pub fn play(&mut self) {
        self.event(Event::Data(data()));
        self.event(Event::Started(Box::new(run_info())));
        self.event(Event::State(State::Running));
        for epoch in 1..=2 {
            self.event(Event::Steps(steps(u64::from(epoch) * 1250, 1.6)));
            self.event(Event::Evaluation(evaluation(epoch)));
            self.event(Event::Epoch(epoch_report(epoch)));
        }
        self.event(Event::Steps(steps(2600, 1.3)));
    }

    pub fn event(&mut self, event: Event) {
        self.update(Msg::Event(Box::new(event)));
    }

    pub fn open(&mut self, screen: Screen) {
        self.key(&(screen as usize + 1).to_string());
    }

    /// Presses keys, given by name and separated by blanks: `j j enter ctrl-d`.
    pub fn key(&mut self, keys: &str) {
        for name in keys.split(' ') {
            let (name, ctrl) = match name.strip_prefix("ctrl-") {
                Some(rest) => (rest, true),
                None => (name, false),
            };
            let code = match name {
                "enter" => KeyCode::Enter,
                "esc" => KeyCode::Esc,
                "space" => KeyCode::Char(' '),
                "backspace" => KeyCode::Backspace,
                "left" => KeyCode::Left,
                "right" => KeyCode::Right,
                _ => KeyCode::Char(name.chars().next().unwrap()),
            };
            self.update(Msg::Key(press(code, ctrl)));
        }
    }

    pub fn types(&mut self, text: &str) {
        for c in text.chars() {
            self.update(Msg::Key(press(KeyCode::Char(c), false)));
        }
    }

    pub fn click(&mut self, column: u16, row: u16) {
        self.update(Msg::Mouse(MouseEvent {
            kind: MouseEventKind::Down(MouseButton::Left),
            column,
            row,
            modifiers: crossterm::event::KeyModifiers::NONE,
        }));
    }

    pub fn update(&mut self, msg: Msg) {
        for effect in self.app.update(msg) {
            self.effects += 1;
            match effect {
                Effect::Send(command) => self.sent.push(command),
                Effect::Ask {
                    id,
                    question,
                    epoch,
                } => {
                    self.asked.push(question.clone());
                    self.epochs.push(epoch);
                    self.open.push((id, question));
                }
                _ => {}
            }
        }
        if self.answers {
            self.answer_all();
        }
    }

    pub fn answer_all(&mut self) {
        while !self.open.is_empty() {
            let (id, question) = self.open.remove(0);
            let answer = answer(&question);
            self.update(Msg::Event(Box::new(Event::Answer { id, answer })));
        }
    }

    /// Forgets the commands and questions that were sent so far.
    pub fn forget_sent(&mut self) {
        self.sent.clear();
        self.asked.clear();
    }

    /// The questions sent since the last call.
    pub fn questions(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.asked)
    }

    pub fn buffer(&self) -> Buffer {
        let mut buf = Buffer::empty(self.app.size());
        self.app.draw(&mut buf);
        buf
    }

    /// The drawn text, line by line.
    pub fn text(&self) -> String {
        self.lines(self.app.size())
    }

    /// The view's text, without header and footer.
    pub fn body(&self) -> String {
        self.lines(self.app.layout().body)
    }

    fn lines(&self, area: Rect) -> String {
        let buf = self.buffer();
        let mut text = String::new();
        for y in area.top()..area.bottom() {
            let line: String = (area.left()..area.right())
                .map(|x| buf[(x, y)].symbol())
                .collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// The drawn line that contains a text.
    pub fn line(&self, with: &str) -> String {
        let text = self.text();
        let found = text.lines().find(|l| l.contains(with));
        found
            .unwrap_or_else(|| panic!("no '{with}' in\n{text}"))
            .to_owned()
    }
}

pub fn data() -> DataInfo {
    DataInfo {
        name: "CIFAR-10".into(),
        source: "data/cifar-10-batches-py".into(),
        format: "python batches".into(),
        is_sample: false,
        classes: CLASSES.map(String::from).into(),
        side: 32,
        train: 50_000,
        test: 10_000,
        train_counts: vec![5000; 10],
        test_counts: vec![1000; 10],
        mean: vec![0.4914, 0.4822, 0.4465],
        std: vec![0.2470, 0.2435, 0.2616],
        bytes: 184_320_000,
        load_seconds: Some(0.16),
    }
}

pub fn run_info() -> RunInfo {
    let arch = resolve("seed").unwrap();
    let layers = arch.summary(Shape::CIFAR, 10).unwrap();
    RunInfo {
        name: "seed-0412".into(),
        folder: "runs/seed-0412".into(),
        data: data(),
        device: "CPU 2 threads AVX-512".into(),
        params: Hyperparameters::default(),
        architecture: arch.to_string(),
        parameters: layers.iter().map(|l| l.parameters).sum(),
        multiply_adds: layers.iter().map(|l| l.multiply_adds).sum(),
        layers,
        train: 40_000,
        validation: 10_000,
        test: 10_000,
        steps_per_epoch: 1250,
        split_seed: 4,
        origin: None,
        resumed_at: None,
        started: 1.7e9,
    }
}

pub fn steps(last: u64, loss: f64) -> StepReport {
    StepReport {
        first: last - 9,
        last,
        epoch: (last / 1250 + 1) as u32,
        step_in_epoch: last % 1250,
        steps_per_epoch: 1250,
        images: 320,
        loss,
        loss_min: loss - 0.1,
        loss_max: loss + 0.1,
        correct: 160,
        grad_norm: 0.84,
        learning_rate: 1e-3,
        images_per_s: 5000.0,
        elapsed: last as f64 * 32.0 / 5000.0,
        eta: Some(90.0),
    }
}

/// A matrix in which cats and dogs, and cars and trucks, are confused. The accuracy rises with each epoch.
pub fn confusion(epoch: u32) -> Confusion {
    let mut m = Confusion::new(10);
    for t in 0..10 {
        let mut left = 1000;
        for p in (0..10).filter(|p| *p != t) {
            let near = match (t, p) {
                (3, 5) => 160,
                (5, 3) => 140,
                (1, 9) | (9, 1) => 90,
                (0, 8) | (2, 4) => 70,
                _ => (t as u32 * 7 + p as u32 * 13) % 37,
            };
            let count = near + 12 / epoch;
            m.counts[t * 10 + p] = count;
            left -= count;
        }
        m.counts[t * 10 + t] = left;
    }
    m
}

pub fn evaluation(epoch: u32) -> Evaluation {
    let confusion = confusion(epoch);
    Evaluation {
        split: Split::Validation,
        weights: ScoredWeights::Last,
        tta: Default::default(),
        step: 1250 * u64::from(epoch),
        epoch,
        loss: 1.4 - 0.1 * f64::from(epoch),
        accuracy: confusion.accuracy().unwrap(),
        confusion,
        images_per_s: 30_000.0,
    }
}

pub fn epoch_report(epoch: u32) -> EpochReport {
    EpochReport {
        epoch,
        step: 1250 * u64::from(epoch),
        train_loss: 1.7,
        train_accuracy: 0.4 + 0.05 * f64::from(epoch),
        loss: 1.4 - 0.1 * f64::from(epoch),
        split: Split::Validation,
        accuracy: confusion(epoch).accuracy().unwrap(),
        test_accuracy: None,
        average: None,
        best: true,
        images_per_s: 5000.0,
        elapsed: 8.0 * f64::from(epoch),
        position: f64::from(epoch),
        reached: None,
        tta: Default::default(),
    }
}

/// A picture that depends on its number: a bright disc on a gradient.
pub fn picture(n: u32) -> Picture {
    let side = 32;
    let (cx, cy) = ((n * 7 % 20 + 6) as i32, (n * 11 % 20 + 6) as i32);
    let mut rgb = Vec::new();
    for y in 0..side {
        for x in 0..side {
            let inside = (x - cx).pow(2) + (y - cy).pow(2) < 36;
            let slope = (4 * x + 2 * y) as u8;
            let disc = [230, (n * 40 % 200) as u8 + 40, 60];
            rgb.extend(if inside {
                disc
            } else {
                [slope / 2, slope, 120]
            });
        }
    }
    Picture {
        side: side as u32,
        rgb,
    }
}

pub fn prediction(index: u32, truth: u16, predicted: u16) -> Prediction {
    let mut probabilities = vec![0.02; 10];
    probabilities[usize::from(predicted)] = 0.82 - 0.01 * (index % 40) as f32;
    Prediction {
        split: Split::Validation,
        index,
        truth,
        predicted,
        probabilities,
        step: 2500,
        picture: picture(index),
        past: [(1250, 6, 0.31), (2500, predicted, 0.82)]
            .map(|(step, predicted, confidence)| PastPrediction {
                step,
                predicted,
                confidence,
            })
            .into(),
    }
}

/// The parent of a fork that began at the end of its eighth epoch.
pub fn origin(run: &str, run_started: f64) -> ForkOrigin {
    ForkOrigin {
        run: run.into(),
        run_started,
        step: 10_000,
        epoch: 8,
        epoch_over: true,
        changes: Vec::new(),
        taken: 10,
        fresh: Vec::new(),
    }
}

fn run_summary(name: &str, outcome: &str, gain: f64, lr: &str) -> RunSummary {
    let epochs: Vec<EpochReport> = (1..=8)
        .map(|e| EpochReport {
            accuracy: 0.45 + gain * (1.0 - 1.0 / f64::from(e)),
            ..epoch_report(e)
        })
        .collect();
    RunSummary {
        name: name.into(),
        folder: format!("runs/{name}"),
        note: if gain > 0.2 {
            "the good one".into()
        } else {
            String::new()
        },
        started: 1.7e9,
        outcome: outcome.into(),
        open: (outcome == "running").then(|| crate::domain::report::THIS_COMPUTER.into()),
        problem: String::new(),
        data: "CIFAR-10".into(),
        origin: None,
        parent: None,
        depth: 0,
        params: Hyperparameters::default(),
        epochs_done: 8,
        step: 10_000,
        best_val_accuracy: Some(0.45 + gain * 0.875),
        best_epoch: Some(8),
        reached: None,
        final_val_accuracy: Some(0.45 + gain * 0.875),
        test_accuracy: (outcome == "done").then_some(0.643),
        average_test_accuracy: None,
        best_test_accuracy: (outcome == "done").then_some(0.651),
        test_tta: Default::default(),
        elapsed: 74.0,
        bytes: 3_400_000,
        kept: 15,
        differs: vec![
            ("learning_rate".into(), lr.into()),
            ("flip".into(), "on".into()),
        ],
        epochs,
    }
}

fn model_report(image: Option<u32>) -> ModelReport {
    let info = run_info();
    let named: Vec<&crate::domain::arch::Summary> =
        info.layers.iter().filter(|l| !l.name.is_empty()).collect();
    ModelReport {
        step: 2600,
        parameters: named
            .iter()
            .flat_map(|l| ["weight", "bias"].map(|p| format!("{}.{p}", l.name)))
            .enumerate()
            .map(|(i, name)| ParameterHealth {
                name,
                shape: vec![32, 3, 3, 3],
                weight_norm: 3.5 + i as f64,
                grad_norm: Some(0.04 / (i + 1) as f64),
            })
            .collect(),
        units: named
            .iter()
            .enumerate()
            .map(|(i, l)| UnitHealth {
                name: l.name.clone(),
                dead: 0.03 * i as f64,
                zero: 0.6,
            })
            .collect(),
        filters: (0..32)
            .map(|n| Picture {
                side: 3,
                rgb: (0..27).map(|i| ((n * 31 + i * 17) % 256) as u8).collect(),
            })
            .collect(),
        activations: image.map_or(Vec::new(), |image| {
            named
                .iter()
                .map(|l| Activations {
                    name: l.name.clone(),
                    height: l.output.height,
                    width: l.output.width,
                    maps: (0..l.output.channels)
                        .map(|c| {
                            (0..l.output.height * l.output.width)
                                .map(|i| ((image + c * 29 + i * 3) % 256) as u8)
                                .collect()
                        })
                        .collect(),
                    largest: 2.5,
                })
                .collect()
        }),
    }
}

/// The worker's answer to a question.
pub fn answer(question: &Question) -> Answer {
    let page = |total: u32, offset: u32, count: u32| offset..(offset + count).min(total);
    let class = |i: u32| (i % 10) as u16;
    let called = |i: u32| ((i + i / 3 % 2 * 4) % 10) as u16;
    match question {
        Question::Evaluation => Answer::Evaluation {
            evaluation: Box::new(evaluation(1)),
        },
        Question::Samples {
            filter,
            offset,
            count,
        } => {
            let (total, at): (u32, Box<dyn Fn(u32) -> u32>) = match filter {
                Filter::Pinned { indices } => {
                    let indices = indices.clone();
                    (indices.len() as u32, Box::new(move |i| indices[i as usize]))
                }
                Filter::All => (10_000, Box::new(|i| i)),
                Filter::Class { class } => {
                    let class = u32::from(*class);
                    (1000, Box::new(move |i| 10 * i + class))
                }
                _ => (3_700, Box::new(|i| 6 * (i / 3) + 3 + i % 3)),
            };
            Answer::Predictions {
                split: Split::Validation,
                total,
                offset: *offset,
                items: page(total, *offset, *count)
                    .map(|i| prediction(at(i), class(at(i)), called(at(i))))
                    .collect(),
            }
        }
        Question::Cell {
            truth,
            predicted,
            offset,
            count,
        } => {
            let total = confusion(2).count(usize::from(*truth), usize::from(*predicted));
            Answer::Predictions {
                split: Split::Validation,
                total,
                offset: *offset,
                items: page(total, *offset, *count)
                    .map(|i| prediction(i, *truth, *predicted))
                    .collect(),
            }
        }
        Question::Browse {
            class: of,
            offset,
            count,
            ..
        } => Answer::Pictures {
            total: 40_000,
            offset: *offset,
            items: page(40_000, *offset, *count)
                .map(|i| (i, of.unwrap_or(class(i)), picture(i)))
                .collect(),
        },
        Question::Augmented { index, count } => Answer::Pictures {
            total: *count,
            offset: 0,
            items: (0..*count)
                .map(|i| (*index, class(*index), picture(i)))
                .collect(),
        },
        Question::Model { activations_of } => {
            Answer::Model(Box::new(model_report(*activations_of)))
        }
        _ => Answer::Runs {
            folder: "runs".into(),
            items: vec![
                run_summary("seed-0412", "running", 0.21, "0.001"),
                run_summary("wide", "done", 0.24, "0.002"),
                run_summary("hot", "diverged", 0.02, "0.1"),
            ],
        },
    }
}
