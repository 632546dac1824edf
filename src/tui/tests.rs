//! Tests of the screen with scripted events, without a worker, a terminal or a clock.

use super::app::{App, Effect, Msg, press};
use super::session_view::Severity;
use super::theme::{Colors, Theme};
use super::views::app_harness::CLASSES;
use super::views::{Screen, VIEWS};
use crate::domain::confusion::Confusion;
use crate::domain::params::{Applies, Hyperparameters, Value};
use crate::domain::report::{
    CheckpointReport, Collapse, DataInfo, EpochReport, Evaluation, Health, RunInfo, ScoredWeights,
    Split, State, StepReport, Symptom, SystemLoad,
};
use crate::domain::symbols::Symbols;
use crate::session::client::CommandIds;
use crate::session::protocol::{Change, Command, Event};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use proptest::prelude::*;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

const PER_EPOCH: u64 = 1250;
fn data() -> DataInfo {
    DataInfo {
        name: "CIFAR-10".into(),
        source: "data/cifar-10-batches-py".into(),
        format: "python batches".into(),
        classes: CLASSES.map(String::from).to_vec(),
        side: 32,
        train: 50_000,
        test: 10_000,
        train_counts: vec![5000; 10],
        test_counts: vec![1000; 10],
        mean: vec![0.491, 0.482, 0.447],
        std: vec![0.247, 0.243, 0.262],
        bytes: 184_320_000,
        load_seconds: Some(0.21),
        ..DataInfo::default()
    }
}

fn run() -> RunInfo {
    RunInfo {
        name: "seed-0412".into(),
        folder: "runs/seed-0412".into(),
        data: data(),
        device: "CPU 2 threads AVX-512".into(),
        params: Hyperparameters::default(),
        architecture: "conv 32, relu, pool, dense 10".into(),
        layers: Vec::new(),
        parameters: 550_570,
        multiply_adds: 9_479_000,
        train: 40_000,
        validation: 10_000,
        test: 10_000,
        steps_per_epoch: PER_EPOCH,
        resumed_at: None,
        started: 0.0,
    }
}

/// A pseudo-random number from 0 to 1.
fn noise(n: u64) -> f64 {
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 31;
    (x.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 11) as f64 / (1u64 << 53) as f64
}

/// A report of the 50 steps up to `last` of a network that learns.
fn steps(last: u64) -> StepReport {
    let x = last as f64 / PER_EPOCH as f64;
    let loss = 0.95 + 1.35 * (-x / 2.0).exp() + 0.2 * (noise(last) - 0.5);
    let epoch = ((last - 1) / PER_EPOCH) as u32 + 1;
    StepReport {
        first: last - 49,
        last,
        epoch,
        step_in_epoch: last - u64::from(epoch - 1) * PER_EPOCH,
        steps_per_epoch: PER_EPOCH,
        images: 1600,
        loss,
        loss_min: loss - 0.2,
        loss_max: loss + 0.2,
        correct: (1600.0 * (0.67 - 0.55 * (-x / 2.0).exp() + 0.05 * (noise(last + 1) - 0.5)))
            as u64,
        grad_norm: 0.6 + 1.2 * (-x / 3.0).exp() + 0.2 * noise(last + 2),
        learning_rate: if last > 7020 { 0.0005 } else { 0.001 },
        images_per_s: 5600.0 + 200.0 * noise(last + 3),
        elapsed: last as f64 * 32.0 / 5600.0,
        eta: Some((15 * PER_EPOCH - last) as f64 * 32.0 / 5600.0),
    }
}

fn matrix(epoch: u32) -> Confusion {
    let mut m = Confusion::new(10);
    for t in 0..10 {
        for p in 0..10 {
            let n = match (t, p) {
                (t, p) if t == p => 500 + 20 * epoch,
                (3, 5) => 310,
                (5, 3) => 200,
                _ => (40.0 * noise((t * 10 + p) as u64)) as u32,
            };
            m.counts[t * 10 + p] = n;
        }
    }
    m
}

fn epoch_events(epoch: u32) -> [Event; 3] {
    let x = f64::from(epoch);
    let step = u64::from(epoch) * PER_EPOCH;
    let (loss, accuracy) = (
        0.98 + 1.1 * (-x / 2.0).exp() + 0.03 * noise(u64::from(epoch)),
        0.66 - 0.4 * (-x / 2.0).exp() - 0.02 * noise(u64::from(epoch)),
    );
    [
        Event::Evaluation(Evaluation {
            split: Split::Validation,
            weights: ScoredWeights::Last,
            step,
            epoch,
            loss,
            accuracy,
            confusion: matrix(epoch),
            images_per_s: 20_000.0,
        }),
        Event::Epoch(EpochReport {
            epoch,
            step,
            train_loss: loss + 0.05,
            train_accuracy: accuracy - 0.03,
            loss,
            split: Split::Validation,
            accuracy,
            test_accuracy: None,
            best: epoch != 4,
            images_per_s: 5600.0,
            elapsed: step as f64 * 32.0 / 5600.0,
            position: f64::from(epoch),
            reached: None,
        }),
        Event::Checkpoint(CheckpointReport {
            step,
            epoch,
            path: "runs/seed-0412/best.safetensors".into(),
            bytes: 2_203_000,
            best: epoch != 4,
        }),
    ]
}

/// The events of a run up to a step, with one change of a hyperparameter.
fn story(until: u64) -> Vec<Event> {
    let mut events = vec![
        Event::Data(data()),
        Event::Started(Box::new(run())),
        Event::State(State::Running),
    ];
    for step in (50..=until).step_by(50) {
        events.push(Event::Steps(steps(step)));
        if step % PER_EPOCH == 0 {
            events.extend(epoch_events((step / PER_EPOCH) as u32));
        }
        if step == 7000 {
            events.push(Event::Applied {
                change: Change {
                    key: "learning_rate".into(),
                    old: Value::Float(0.001),
                    new: Value::Float(0.0005),
                },
                step: 7001,
                epoch: 6,
            });
            events.push(Event::Pending {
                change: Change {
                    key: "batch_size".into(),
                    old: Value::Int(32),
                    new: Value::Int(64),
                },
                applies: Applies::NextEpoch,
            });
        }
        if step % 500 == 0 {
            events.push(Event::Load(SystemLoad {
                cpu: Some(0.90 + 0.05 * noise(step)),
                memory: Some(305 << 20),
                ..SystemLoad::default()
            }));
        }
    }
    events
}

/// Every state for which there are golden screens.
fn states() -> Vec<(&'static str, Vec<Event>)> {
    let with = |until: u64, more: Vec<Event>| {
        let mut events = story(until);
        events.extend(more);
        events
    };
    let mut nan = steps(8150);
    (nan.loss, nan.loss_max, nan.grad_norm) = (f64::NAN, f64::NAN, f64::NAN);
    let sample = DataInfo {
        name: "sample set".into(),
        is_sample: true,
        ..data()
    };
    let ended = |state: State| Event::Ended {
        params: Box::default(),
        state,
    };
    vec![
        ("empty", Vec::new()),
        (
            "loading",
            vec![
                Event::Data(sample),
                Event::State(State::Loading {
                    what: "sample set".into(),
                    done: 4200,
                    total: 12_000,
                }),
            ],
        ),
        ("running", story(8100)),
        ("paused", with(8100, vec![Event::State(State::Paused)])),
        (
            "diverged",
            with(
                8100,
                vec![
                    Event::Steps(nan),
                    Event::State(State::Diverged {
                        step: 8101,
                        first: "the output of conv2".into(),
                    }),
                ],
            ),
        ),
        (
            "failed",
            with(
                3000,
                vec![ended(State::Failed {
                    why: "data_batch_3: cut short at byte 18,000,000; fetch it again".into(),
                })],
            ),
        ),
        (
            "done",
            with(15 * PER_EPOCH, vec![Event::State(State::Done)]),
        ),
        (
            "disk_full",
            with(
                8100,
                vec![Event::Unsaved {
                    why: Some(
                        "the checkpoint of step 8100 could not be saved in runs/seed-0412: No space left on device (os error 28). Make room there, or check that you may write."
                            .into(),
                    ),
                }],
            ),
        ),
    ]
}

fn app(colors: Colors, width: u16, height: u16, events: &[Event]) -> App {
    let symbols = Symbols::Braille;
    themed(Theme { colors, symbols }, width, height, events)
}

fn themed(theme: Theme, width: u16, height: u16, events: &[Event]) -> App {
    let mut app = App::new(theme, width, height, 52_000.0, CommandIds::default());
    for event in events {
        app.update(Msg::Event(Box::new(event.clone())));
    }
    app
}

fn key(code: char) -> Msg {
    Msg::Key(press(KeyCode::Char(code), false))
}

fn paint(app: &App) -> Buffer {
    let mut buf = Buffer::empty(app.size());
    app.draw(&mut buf);
    buf
}

fn rows(buf: &Buffer) -> String {
    let mut text = String::new();
    for y in 0..buf.area.height {
        let row: String = (0..buf.area.width).map(|x| buf[(x, y)].symbol()).collect();
        text += row.trim_end();
        text.push('\n');
    }
    text
}

#[test]
fn train_looks_as_it_should() {
    for (name, events) in states() {
        for (width, height) in [(80, 24), (120, 36), (200, 60)] {
            let mut app = app(Colors::True, width, height, &events);
            // Time out the message on the status line.
            app.update(Msg::Tick(60_000.0));
            app.update(Msg::Tick(60_006.0));
            insta::assert_snapshot!(format!("train_{name}_{width}x{height}"), rows(&paint(&app)));
        }
    }
}

#[test]
fn terminals_with_fewer_symbols_show_the_same() {
    for symbols in [Symbols::Block, Symbols::Ascii] {
        let colors = Colors::Ansi16;
        let mut app = themed(Theme { colors, symbols }, 120, 36, &story(8100));
        app.update(Msg::Tick(60_000.0));
        app.update(Msg::Tick(60_006.0));
        insta::assert_snapshot!(format!("train_in_{symbols}"), rows(&paint(&app)));
    }
}

#[test]
fn every_state_shows_in_ascii_and_in_blocks() {
    for (name, events) in states() {
        for symbols in [Symbols::Block, Symbols::Ascii] {
            for (width, height) in [(60, 18), (80, 24), (200, 60)] {
                let colors = Colors::Ansi16;
                let app = themed(Theme { colors, symbols }, width, height, &events);
                shows_only(symbols, &paint(&app), name);
            }
        }
    }
}

/// Asserts that a terminal with these symbols can show every cell.
#[track_caller]
pub fn shows_only(symbols: Symbols, buf: &Buffer, what: &str) {
    for cell in &buf.content {
        let symbol = cell.symbol();
        let mut drawn = symbol.chars();
        assert!(
            drawn.all(|c| symbols.fit(c) == c),
            "{what}: {symbol} in {symbols}"
        );
        if symbols == Symbols::Ascii {
            assert!(
                symbol.bytes().all(|b| (b' '..=b'~').contains(&b)),
                "{what}: {symbol:?}"
            );
        }
    }
}

#[test]
fn every_view_draws_at_every_size_in_every_state() {
    for (_, events) in states() {
        for row in VIEWS {
            for colors in [Colors::True, Colors::Ansi16, Colors::None] {
                let mut app = app(colors, 80, 24, &events);
                app.update(key(char::from(b'1' + row.screen as u8)));
                let sizes = [
                    (0, 0),
                    (1, 1),
                    (20, 5),
                    (60, 18),
                    (61, 40),
                    (80, 24),
                    (130, 19),
                    (200, 60),
                    (300, 100),
                ];
                for (width, height) in sizes {
                    app.update(Msg::Resize(width, height));
                    paint(&app);
                    // Views must also draw at sizes below the minimum.
                    let area = Rect::new(0, 0, width, height);
                    let mut buf = Buffer::empty(area);
                    app.view().draw(&app.session, app.theme, area, &mut buf);
                }
            }
        }
    }
}

/// Presses the keys and returns the commands that they send.
fn commands(app: &mut App, keys: &str) -> Vec<Command> {
    let mut sent = Vec::new();
    for c in keys.chars() {
        let event = match c {
            '\n' => press(KeyCode::Enter, false),
            '\u{1b}' => press(KeyCode::Esc, false),
            '\u{3}' => press(KeyCode::Char('c'), true),
            c => press(KeyCode::Char(c), false),
        };
        for effect in app.update(Msg::Key(event)) {
            if let Effect::Send(command) = effect {
                sent.push(command);
            }
        }
    }
    sent
}

fn running() -> App {
    app(Colors::True, 120, 36, &story(2000))
}

fn set(key: &str, value: Value) -> Command {
    Command::Set {
        key: key.into(),
        value,
    }
}

#[test]
fn keys_send_commands() {
    let mut app = running();
    assert_eq!(
        commands(&mut app, " ewu"),
        [
            Command::Pause,
            Command::Evaluate,
            Command::Checkpoint,
            Command::Undo
        ]
    );
    assert_eq!(commands(&mut app, "n"), [], "steps only while paused");
    assert!(
        app.toast
            .as_ref()
            .unwrap()
            .text
            .contains("only while paused")
    );
    app.update(Msg::Event(Box::new(Event::State(State::Paused))));
    assert_eq!(commands(&mut app, "n "), [Command::Step, Command::Resume]);
}

#[test]
fn every_screen_shows_the_same_smoothed_loss() {
    let mut app = app(Colors::True, 140, 36, &story(8100));
    let shown = |app: &mut App, screen: char| {
        app.update(key(screen));
        let text = rows(&paint(app));
        let from = text.find("train ").unwrap() + 6;
        text[from..]
            .trim_start()
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    let mut seen = Vec::new();
    let mut now = 60_000.0;
    for keys in ["", "((", ")))))"] {
        app.update(key('1'));
        commands(&mut app, keys);
        // The message about the keys frees its line.
        for _ in 0..2 {
            now += 60_000.0;
            app.update(Msg::Tick(now));
        }
        let train = shown(&mut app, '1');
        assert_eq!(train, shown(&mut app, '2'), "after {keys}");
        seen.push(train);
    }
    assert!(seen[0] != seen[1] && seen[1] != seen[2], "{seen:?}");
}

#[test]
fn the_banner_shows_a_collapse_and_going_back_asks() {
    let health = |best| {
        Event::Health(Health {
            step: 8100,
            epoch: 6,
            collapse: Some(Collapse {
                since: 5,
                signs: vec![Symptom::OneClass {
                    class: 4,
                    images: 10_000,
                    of: 10_000,
                }],
                best,
            }),
            plateau: None,
        })
    };
    let mut app = running();
    assert_eq!(commands(&mut app, "b"), []);
    app.update(Msg::Event(Box::new(health(Some(3)))));
    let screen = rows(&paint(&app));
    for part in ["since epoch 5", "every prediction is deer", "epoch 3"] {
        assert!(screen.contains(part), "{part} is missing in\n{screen}");
    }
    assert_eq!(commands(&mut app, "b"), [], "asks first");
    assert_eq!(commands(&mut app, "y"), [Command::GoBack]);
    app.update(Msg::Event(Box::new(health(None))));
    assert_eq!(
        commands(&mut app, "b"),
        [],
        "there is nothing to go back to"
    );
    assert!(rows(&paint(&app)).contains("R starts again"));
    app.update(Msg::Event(Box::new(Event::Health(Health::default()))));
    assert!(!rows(&paint(&app)).contains("since epoch"));
}

#[test]
fn nudging_starts_from_what_is_on_its_way() {
    let mut app = running();
    assert_eq!(
        commands(&mut app, "hh"),
        [
            set("learning_rate", Value::Float(0.0005)),
            set("learning_rate", Value::Float(0.00025)),
        ]
    );
    assert_eq!(
        app.session.params.learning_rate, 0.001,
        "not acknowledged yet"
    );
    app.update(Msg::Event(Box::new(Event::Applied {
        change: Change {
            key: "learning_rate".into(),
            old: Value::Float(0.001),
            new: Value::Float(0.00025),
        },
        step: 2001,
        epoch: 2,
    })));
    assert_eq!(app.session.params.learning_rate, 0.00025);
    assert!(app.session.sent.is_empty());
    assert_eq!(app.session.marks[0].label(), "lr 0.001→0.00025");
    assert!((app.session.marks[0].x - 1.6).abs() < 1e-9);
}

#[test]
fn typing_a_value_is_held_to_its_range() {
    let mut app = running();
    assert_eq!(commands(&mut app, "jj\n7\n"), [], "0 to 0.95");
    assert!(rows(&paint(&app)).contains("not allowed: 0 to 0.95"));
    // In a text field, letters are text and not keys.
    assert_eq!(commands(&mut app, "q\u{1b}"), []);
    assert_eq!(
        commands(&mut app, "\n0.3\n"),
        [set("dropout", Value::Float(0.3))]
    );
    commands(&mut app, "\n");
    app.update(Msg::Paste("0.25\n".into()));
    assert!(app.view().editing(), "a pasted line break is a space");
    assert_eq!(
        commands(&mut app, "\n"),
        [set("dropout", Value::Float(0.25))]
    );
}

#[test]
fn the_filter_narrows_the_panel() {
    let mut app = running();
    assert_eq!(
        commands(&mut app, "/smoo\nl"),
        [set("label_smoothing", Value::Float(0.05))]
    );
    assert!(!rows(&paint(&app)).contains("weight decay"));
    commands(&mut app, "\u{1b}");
    assert!(rows(&paint(&app)).contains("weight decay"));
}

#[test]
fn quitting_saves_once_and_asks_only_when_work_would_be_lost() {
    let mut app = running();
    assert_eq!(commands(&mut app, "q"), [Command::SaveAndQuit]);
    assert_eq!(
        commands(&mut app, "q\u{3}"),
        [],
        "a second one never breaks the save"
    );
    let ended = Event::Ended {
        params: Box::default(),
        state: State::Running,
    };
    assert_eq!(app.update(Msg::Event(Box::new(ended))), [Effect::Leave]);

    let unsaved = RunInfo {
        name: String::new(),
        ..run()
    };
    let mut app = self::app(
        Colors::True,
        80,
        24,
        &[
            Event::Started(Box::new(unsaved)),
            Event::State(State::Running),
            Event::Steps(steps(100)),
        ],
    );
    assert_eq!(commands(&mut app, "q"), []);
    assert!(rows(&paint(&app)).contains("Quit and lose it?"));
    assert_eq!(commands(&mut app, "n"), []);
    assert_eq!(commands(&mut app, "qy"), [Command::SaveAndQuit]);
}

#[test]
fn what_is_not_saved_is_not_lost_without_a_question() {
    let unsaved = || {
        Msg::Event(Box::new(Event::Unsaved {
            why: Some("the checkpoint of step 500 could not be saved".into()),
        }))
    };
    // The worker refuses to quit, which was not known before.
    let mut app = running();
    assert_eq!(commands(&mut app, "q"), [Command::SaveAndQuit]);
    app.update(unsaved());
    assert!(rows(&paint(&app)).contains("Quit all the same?"));
    assert_eq!(commands(&mut app, "n"), []);
    assert_eq!(commands(&mut app, "q"), [Command::SaveAndQuit]);
    app.update(unsaved());
    assert_eq!(commands(&mut app, "\u{3}"), [Command::Quit]);
    // Starting a new run asks too, even when this one is done.
    let mut app = running();
    app.update(unsaved());
    app.update(Msg::Event(Box::new(Event::State(State::Done))));
    assert_eq!(commands(&mut app, "R"), []);
    assert!(rows(&paint(&app)).contains("Start a new run all the same?"));
    assert_eq!(commands(&mut app, "y"), [Command::Restart]);
    // A signal quits without a question.
    let mut app = running();
    app.update(unsaved());
    let quit = [Effect::Send(Command::Quit)];
    assert_eq!(app.update(Msg::Terminate), quit);
}

#[test]
fn no_end_is_estimated_while_nothing_is_trained() {
    for (name, events) in states() {
        let app = app(Colors::True, 120, 36, &events);
        let text = rows(&paint(&app));
        let foretold = text.contains("ETA") || text.contains("ends about");
        assert_eq!(
            foretold,
            matches!(name, "running" | "disk_full"),
            "{name}: {text}"
        );
    }
}

#[test]
fn stop_and_restart_ask_first() {
    let mut app = running();
    assert_eq!(commands(&mut app, "xn"), []);
    assert_eq!(commands(&mut app, "xy"), [Command::Stop]);
    assert_eq!(commands(&mut app, "R\n"), [Command::Restart]);
    app.update(Msg::Event(Box::new(Event::State(State::Done))));
    assert_eq!(
        commands(&mut app, "R"),
        [Command::Restart],
        "nothing is lost"
    );
}

#[test]
fn the_palette_finds_by_name() {
    let mut app = running();
    assert_eq!(commands(&mut app, ":check\n"), [Command::Checkpoint]);
    assert_eq!(commands(&mut app, ":zzzz\n\u{1b}"), []);
    commands(&mut app, ":confus\n");
    assert_eq!(app.screen, Screen::Confusion);
}

#[test]
fn tabs_are_reached_by_key_and_mouse() {
    let mut app = running();
    let click = |column, row| MouseEvent {
        kind: MouseEventKind::Down(MouseButton::Left),
        column,
        row,
        modifiers: KeyModifiers::NONE,
    };
    app.update(Msg::Mouse(click(14, 1)));
    assert_eq!(app.screen, Screen::Confusion);
    app.update(Msg::Key(press(KeyCode::Tab, false)));
    assert_eq!(app.screen, Screen::Samples);
    app.update(Msg::Key(press(KeyCode::BackTab, false)));
    app.update(key('1'));
    assert_eq!(app.screen, Screen::Train);
    app.update(Msg::Mouse(click(117, 1)));
    assert!(rows(&paint(&app)).contains("help: Train"));
}

#[test]
fn the_header_says_why_the_gpu_is_not_used() {
    let device = "CPU 2 threads AVX-512 (GPU: no NVRTC)";
    let started = Event::Started(Box::new(RunInfo {
        device: device.into(),
        ..run()
    }));
    for width in [80, 120, 200] {
        let mut events = vec![Event::Data(data()), started.clone()];
        events.push(Event::Steps(steps(50)));
        let app = app(Colors::True, width, 24, &events);
        let text = rows(&paint(&app));
        let header = text.lines().next().unwrap();
        let words = if width == 200 {
            device
        } else {
            "(GPU: no NVRTC)"
        };
        assert!(
            header.contains("CPU") && header.contains(words),
            "{width}: {header}"
        );
    }
}

#[test]
fn too_small_a_screen_says_so_and_still_quits() {
    let mut app = app(Colors::True, 59, 30, &story(500));
    let text = rows(&paint(&app));
    assert!(text.contains("have 59x30") && text.contains("need 60x18"));
    assert_eq!(commands(&mut app, "q"), [Command::SaveAndQuit]);
}

#[test]
fn a_message_on_an_idle_screen_stays_for_five_seconds() {
    for state in [State::Done, State::Paused] {
        let mut app = app(Colors::True, 80, 24, &story(500));
        app.update(Msg::Event(Box::new(Event::State(state))));
        app.update(Msg::Tick(52_100.0));
        app.update(Msg::Tick(52_200.0));
        // No message for an hour, then a key with the current time.
        commands(&mut app, "b");
        assert!(app.wake_at().is_some_and(|at| at <= 55_800.0));
        for (now, stands) in [(55_800.0, true), (55_804.9, true), (55_805.1, false)] {
            app.update(Msg::Tick(now));
            let text = rows(&paint(&app));
            assert_eq!(text.contains("! go back: the run "), stands, "{text}");
        }
        assert_eq!(app.wake_at(), None);
    }
}

#[test]
fn a_message_covers_neither_the_footer_nor_itself() {
    for (width, height) in [(60, 18), (80, 24), (120, 36)] {
        for row in VIEWS {
            let mut app = app(Colors::True, width, height, &story(1300));
            app.update(Msg::Tick(60_000.0));
            app.update(Msg::Tick(60_006.0));
            app.update(key(char::from(b'1' + row.screen as u8)));
            let footer = |app: &App| rows(&paint(app)).lines().last().map(str::to_owned);
            let before = footer(&app);
            let why = "seed-0412 cannot be renamed: there is a run named other-0413 already; give it another name, \
                       or rename that one first";
            app.update(Msg::Report(Severity::Warning, why.into()));
            assert_eq!(footer(&app), before, "{}", row.title);
            let text = rows(&paint(&app));
            let words: Vec<&str> = text.split_whitespace().collect();
            let wanted: Vec<&str> = why.split_whitespace().collect();
            assert!(words.windows(wanted.len()).any(|w| w == wanted), "{text}");
        }
    }
}

/// The columns of these words in the header.
fn header_places(app: &App, words: &[&str]) -> Vec<Option<usize>> {
    let text = rows(&paint(app));
    let header = text.lines().next().unwrap_or_default();
    words
        .iter()
        .map(|w| header.find(w).map(|at| header[..at].chars().count()))
        .collect()
}

#[test]
fn the_header_keeps_its_places_while_its_figures_change() {
    let words = ["seed-0412", "CIFAR-10", "CPU", "epoch", "step", "img/s"];
    for width in [60, 80, 100, 120, 140, 160, 200] {
        let mut app = app(Colors::True, width, 36, &story(100));
        let places = header_places(&app, &words);
        assert!(places[0].is_some() && places[3].is_some(), "{width}");
        assert!(places[5].is_some() || width < 80, "{width}");
        let mut report = steps(18_700);
        report.elapsed = 9000.0 * 9.9;
        report.images_per_s = 2_134_000.0;
        report.eta = None;
        for event in [
            Event::State(State::Paused),
            Event::State(State::Evaluating {
                split: Split::Validation,
                done: 0,
                total: 0,
            }),
            Event::State(State::Evaluating {
                split: Split::Validation,
                done: 10_000,
                total: 10_000,
            }),
            Event::State(State::Running),
            Event::Steps(report),
            Event::State(State::Diverged {
                step: 18_700,
                first: "the loss".into(),
            }),
            Event::State(State::Stopped),
            Event::State(State::Done),
        ] {
            app.update(Msg::Event(Box::new(event.clone())));
            assert_eq!(
                header_places(&app, &words),
                places,
                "{width}: {event:?}\n{}",
                rows(&paint(&app))
            );
        }
    }
}

#[test]
fn the_header_has_its_figures_from_the_start_of_a_run() {
    let words = ["seed-0412", "CIFAR-10", "CPU", "epoch", "step", "img/s"];
    let started = [Event::Data(data()), Event::Started(Box::new(run()))];
    let before = app(Colors::True, 120, 36, &started);
    let after = app(Colors::True, 120, 36, &story(50));
    assert_eq!(
        header_places(&before, &words),
        header_places(&after, &words)
    );
}

#[test]
fn a_long_name_leaves_the_figures_in_the_header() {
    let long = RunInfo {
        name: "a-name-that-somebody-gave-to-say-everything-about-the-run-at-once".into(),
        ..run()
    };
    let mut events = story(100);
    events[1] = Event::Started(Box::new(long));
    let app = app(Colors::True, 80, 24, &events);
    let text = rows(&paint(&app));
    let header = text.lines().next().unwrap();
    assert!(header.contains("a-name-that-"), "{header}");
    assert!(header.contains('…') && header.contains("epoch") && header.contains("img/s"));
}

#[test]
fn long_values_leave_the_words_beside_them_whole() {
    for width in [104, 120, 200] {
        let mut info = run();
        info.params.seed = 9_223_372_036_854_775_807;
        info.params.architecture = "conv 32, relu, conv 32, relu, pool, drop, dense 10".into();
        let mut app = app(
            Colors::True,
            width,
            60,
            &[
                Event::Data(data()),
                Event::Started(Box::new(info)),
                Event::State(State::Running),
            ],
        );
        let line = |app: &App, with: &str| {
            let text = rows(&paint(app));
            // The recipe is called seed too.
            let mut lines = text.lines().filter(|l| !l.contains("recipe "));
            let found = lines.find(|l| l.contains(with));
            found.unwrap_or_else(|| panic!("{with}\n{text}")).to_owned()
        };
        for (label, value) in [("seed ", "9223372036854"), ("architecture ", "conv 32, r")] {
            let row = line(&app, &format!("  {label}"));
            let whole = label == "seed " && row.contains("9223372036854775807  ");
            assert!(row.contains(value) && row.contains("  next run"), "{row}");
            assert!(whole || row.contains("…  next run"), "{row}");
        }
        app.update(Msg::Event(Box::new(Event::Pending {
            change: Change {
                key: "seed".into(),
                old: Value::Int(9_223_372_036_854_775_807),
                new: Value::Int(7),
            },
            applies: Applies::NextRun,
        })));
        let row = line(&app, "  seed ");
        assert!(row.contains(" → 7 at next run"), "{row}");
        assert!(row.contains("… ") || row.contains("775807 "), "{row}");
    }
}

#[test]
fn the_footer_shows_only_keys_that_have_an_effect() {
    let mut app = running();
    let footer = |app: &App| rows(&paint(app)).lines().last().unwrap().trim().to_owned();
    let places = |app: &App| footer(app).find("undo");
    let before = places(&app);
    app.update(Msg::Event(Box::new(Event::State(State::Paused))));
    assert!(footer(&app).contains("space resume"));
    assert_eq!(places(&app), before);
    commands(&mut app, "\n");
    assert_eq!(footer(&app), "⏎ apply  esc cancel", "keys are text now");
    commands(&mut app, "\u{1b}?");
    assert_eq!(footer(&app), "", "the help has the keys");
}

#[test]
fn a_load_that_idles_draws_nothing() {
    let mut app = app(Colors::True, 80, 24, &story(500));
    app.update(Msg::Event(Box::new(Event::State(State::Paused))));
    app.changed = super::app::Urgency::None;
    app.update(Msg::Event(Box::new(Event::Load(SystemLoad::default()))));
    app.update(Msg::Tick(52_001.0));
    assert_eq!(app.changed, super::app::Urgency::None);
}

/// Writes frames with their escape codes, for inspection: `FRAMES=folder cargo test --lib frames -- --ignored`.
#[test]
#[ignore = "writes files for a person to look at"]
fn frames() {
    use ratatui::backend::{Backend, CrosstermBackend};
    let folder = std::env::var("FRAMES").expect("FRAMES names a folder");
    for (name, events) in states() {
        for (colors, (width, height)) in [
            (Colors::True, (80, 24)),
            (Colors::True, (120, 36)),
            (Colors::True, (200, 60)),
            (Colors::Ansi256, (120, 36)),
            (Colors::Ansi16, (120, 36)),
            (Colors::None, (120, 36)),
        ] {
            for (overlay, keys) in [
                ("", ""),
                ("-help", "?"),
                ("-palette", ":c"),
                ("-edit", "jj\n7\n"),
                ("-cursor", "[[[[[[[["),
            ] {
                let mut app = app(colors, width, height, &events);
                app.update(Msg::Tick(60_000.0));
                app.update(Msg::Tick(60_006.0));
                commands(&mut app, keys);
                let buf = paint(&app);
                let mut bytes = Vec::new();
                let mut backend = CrosstermBackend::new(&mut bytes);
                let blank = Buffer::empty(buf.area);
                backend.draw(blank.diff(&buf).into_iter()).unwrap();
                let path = format!("{folder}/{name}{overlay}-{colors:?}-{width}x{height}.ansi");
                std::fs::write(path, bytes).unwrap();
            }
        }
    }
}

fn any_input() -> impl Strategy<Value = Msg> {
    let code = prop_oneof![
        6 => proptest::char::range(' ', '~').prop_map(KeyCode::Char),
        1 => Just(KeyCode::Enter),
        1 => Just(KeyCode::Esc),
        1 => Just(KeyCode::Tab),
        1 => Just(KeyCode::BackTab),
        1 => Just(KeyCode::Backspace),
        1 => Just(KeyCode::Up),
        1 => Just(KeyCode::Down),
        1 => Just(KeyCode::Left),
        1 => Just(KeyCode::Right),
        1 => Just(KeyCode::PageDown),
        1 => Just(KeyCode::End),
    ];
    let kind = prop_oneof![
        Just(MouseEventKind::Down(MouseButton::Left)),
        Just(MouseEventKind::Drag(MouseButton::Left)),
        Just(MouseEventKind::ScrollUp),
        Just(MouseEventKind::ScrollDown),
    ];
    prop_oneof![
        10 => (code, any::<bool>()).prop_map(|(code, ctrl)| {
            let modifiers = if ctrl { KeyModifiers::CONTROL } else { KeyModifiers::NONE };
            Msg::Key(KeyEvent::new(code, modifiers))
        }),
        3 => (kind, 0u16..130, 0u16..40).prop_map(|(kind, column, row)| Msg::Mouse(MouseEvent {
            kind, column, row, modifiers: KeyModifiers::NONE,
        })),
        1 => (0u16..140, 0u16..50).prop_map(|(w, h)| Msg::Resize(w, h)),
        1 => "\\PC{0,12}".prop_map(Msg::Paste),
        1 => (1u64..300).prop_map(|n| Msg::Steps(steps(50 * n))),
        1 => (0usize..8).prop_map(|i| {
            let mut events = states().swap_remove(i).1;
            Msg::Event(Box::new(events.pop().unwrap_or(Event::State(State::Paused))))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// For any sequence of input there is no panic, and the worker receives only values that the table allows.
    #[test]
    fn random_input_never_panics(inputs in proptest::collection::vec(any_input(), 0..120)) {
        let mut app = app(Colors::True, 110, 34, &story(1500));
        for input in inputs {
            for effect in app.update(input) {
                if let Effect::Send(Command::Set { key, value }) = effect {
                    let row = crate::domain::params::param(&key).unwrap();
                    prop_assert_eq!(row.check(value.clone()), Ok(value));
                }
            }
            paint(&app);
        }
    }
}
