//! Tests of the screens as drawn text, at every size and in every state.

use super::app_harness::{self, AppHarness};
use super::{Screen, VIEWS};
use crate::domain::report::{Split, State};
use crate::domain::rng::{Rng, Stream};
use crate::domain::symbols::Symbols;
use crate::domain::text::is_hidden;
use crate::session::protocol::{Answer, Command, Event, Filter, Question};
use crate::tui::actions::{self, ACTIONS, Action, Do, Key, ProgramAction};
use crate::tui::app::{Msg, press};
use crate::tui::tests::shows_only;
use crate::tui::theme::{Colors, Theme};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};

const SCREENS: [Screen; 5] = [
    Screen::Confusion,
    Screen::Samples,
    Screen::Model,
    Screen::Runs,
    Screen::Data,
];

#[test]
fn rows_stand_in_the_order_of_their_screens() {
    for (i, row) in VIEWS.iter().enumerate() {
        assert_eq!(row.screen as usize, i);
    }
}

#[test]
fn goldens() {
    for screen in SCREENS {
        for (width, height) in [(80, 24), (120, 36), (200, 60)] {
            let harness = AppHarness::running(width, height, screen);
            let name = format!("{}_{width}x{height}", screen.title().to_lowercase());
            insta::assert_snapshot!(name, harness.body());
        }
    }
}

#[test]
fn no_cell_contains_a_character_that_a_terminal_interprets() {
    // Contains ESC, a C1 control character, a line break, a change of the text direction, and characters without a
    // width.
    let hostile = "a\u{1b}[31mb\u{9b}c\nd\u{202e}e\u{200b}f\u{200d}g\u{e0041}h\u{ad}";
    for row in VIEWS {
        let mut harness = AppHarness::new(120, 36);
        harness.play();
        let mut run = app_harness::run_info();
        run.name = hostile.into();
        run.folder = hostile.into();
        run.data.name = hostile.into();
        run.data.source = hostile.into();
        run.data.classes = vec![hostile.into(); 10];
        harness.event(Event::Data(run.data.clone()));
        harness.event(Event::Started(Box::new(run)));
        harness.event(Event::Warning {
            text: hostile.into(),
        });
        harness.event(Event::Evaluation(app_harness::evaluation(1)));
        harness.event(Event::State(State::Failed {
            why: hostile.into(),
        }));
        harness.open(row.screen);
        let buffer = harness.buffer();
        let seen: String = buffer.content.iter().map(|cell| cell.symbol()).collect();
        assert!(
            seen.contains("a[31mb"),
            "{} shows nothing of it",
            row.screen.title()
        );
        assert_eq!(
            seen.chars().find(|c| is_hidden(*c)),
            None,
            "{}",
            row.screen.title()
        );
    }
}

#[test]
fn goldens_of_what_keys_open() {
    let cases = [
        (Screen::Confusion, "m enter", "cell"),
        (Screen::Confusion, "v v", "change"),
        (Screen::Samples, "f l enter", "large"),
        (Screen::Samples, "F", "nothing_pinned"),
        (Screen::Model, "enter x", "typed_wrong"),
        (Screen::Model, "a", "preset"),
        (Screen::Runs, "m j m", "marked"),
        (Screen::Runs, "j r", "rename"),
        (Screen::Data, "enter", "augmentation_off"),
        (Screen::Data, "c t", "class"),
    ];
    for (screen, keys, name) in cases {
        let mut harness = AppHarness::running(80, 24, screen);
        harness.key(keys);
        let name = format!("{}_{name}", screen.title().to_lowercase());
        insta::assert_snapshot!(name, harness.body());
    }
}

#[test]
fn empty_screens_say_what_will_come() {
    for screen in SCREENS {
        let mut harness = AppHarness::new(80, 24);
        harness.open(screen);
        let name = format!("{}_empty", screen.title().to_lowercase());
        insta::assert_snapshot!(name, harness.body());
    }
}

type Play = (&'static str, fn(&mut AppHarness));

/// The states in which every screen is tested.
fn states() -> Vec<Play> {
    vec![
        ("empty", |_| {}),
        ("no evaluation yet", |s| {
            s.event(Event::Data(app_harness::data()));
            s.event(Event::Started(Box::new(app_harness::run_info())));
            s.event(Event::State(State::Running));
            s.event(Event::Steps(app_harness::steps(40, 2.3)));
        }),
        ("running", AppHarness::play),
        ("NaN", |s| {
            s.play();
            s.event(Event::Steps(app_harness::steps(2700, f64::NAN)));
            let mut evaluation = app_harness::evaluation(2);
            (evaluation.loss, evaluation.step) = (f64::NAN, 2700);
            s.event(Event::Evaluation(evaluation));
            s.event(Event::State(State::Diverged {
                step: 2700,
                first: "the output of conv2".into(),
            }));
        }),
        ("failed", |s| {
            s.event(Event::State(State::Failed {
                why: "data/test_batch is cut short at byte 17".into(),
            }));
        }),
        ("unanswered", |s| {
            s.answers = false;
            s.play();
        }),
        ("paused", |s| {
            s.play();
            s.event(Event::State(State::Paused));
        }),
        ("done", |s| {
            s.play();
            s.event(Event::State(State::Done));
        }),
        ("ended", |s| {
            s.play();
            s.event(Event::Ended {
                params: Box::default(),
                state: State::Failed {
                    why: "the disk has gone".into(),
                },
            });
        }),
        ("downloading", |s| {
            s.play();
            s.event(Event::Download {
                done: 5,
                total: 170,
                finished: false,
                error: None,
            });
        }),
    ]
}

#[test]
fn every_screen_at_every_size_in_every_state() {
    for (name, play) in states() {
        for (width, height) in [
            (1, 1),
            (20, 5),
            (60, 18),
            (79, 23),
            (80, 24),
            (200, 60),
            (300, 100),
        ] {
            for colors in [Colors::True, Colors::None] {
                let mut harness = AppHarness::colored(width, height, colors);
                play(&mut harness);
                for row in VIEWS {
                    harness.open(row.screen);
                    let _ = (harness.buffer(), name);
                }
            }
        }
    }
}

/// Draws every screen, and everything that its keys open: help, palette and questions included.
#[test]
fn in_ascii_and_in_blocks_every_screen_shows_what_the_terminal_has() {
    for symbols in [Symbols::Block, Symbols::Ascii] {
        for (colors, (width, height)) in [(Colors::Ansi16, (80, 24)), (Colors::None, (120, 36))] {
            for row in VIEWS {
                for action in actions::ACTIONS.iter().filter(|a| a.works_on(row.screen)) {
                    let Some(key) = action.keys.first() else {
                        continue;
                    };
                    let mut harness = AppHarness::themed(width, height, Theme { colors, symbols });
                    harness.play();
                    harness.open(row.screen);
                    harness.update(Msg::Key(press(key.code, key.ctrl)));
                    let what = format!("{}, {key}", row.title);
                    shows_only(symbols, &harness.buffer(), &what);
                }
            }
        }
    }
}

#[test]
fn a_name_that_the_terminal_cannot_show_is_spelled_in_ascii() {
    let theme = Theme {
        colors: Colors::Ansi16,
        symbols: Symbols::Ascii,
    };
    let mut harness = AppHarness::themed(120, 36, theme);
    let mut info = app_harness::run_info();
    info.name = "größe-漢→x".into();
    harness.event(Event::Started(Box::new(info)));
    shows_only(Symbols::Ascii, &harness.buffer(), "the header");
    harness.line("grose-?->x");
}

#[test]
fn no_size_is_too_small_for_any_screen() {
    for (_, play) in states() {
        let mut harness = AppHarness::new(80, 24);
        play(&mut harness);
        for row in VIEWS {
            harness.update(Msg::Resize(80, 24));
            harness.open(row.screen);
            for (width, height) in (0..=40).flat_map(|w| (0..=20).map(move |h| (w, h))) {
                harness.update(Msg::Resize(width, height));
                harness.buffer();
            }
        }
    }
}

/// Sends `count` inputs, mostly keys, to all screens in turn, mixed with events of the worker. There must be no panic,
/// and the worker must receive only values that the table allows.
fn storm(count: u64) {
    const CODES: [KeyCode; 14] = [
        KeyCode::Enter,
        KeyCode::Esc,
        KeyCode::Tab,
        KeyCode::BackTab,
        KeyCode::Backspace,
        KeyCode::Delete,
        KeyCode::Up,
        KeyCode::Down,
        KeyCode::Left,
        KeyCode::Right,
        KeyCode::PageUp,
        KeyCode::PageDown,
        KeyCode::Home,
        KeyCode::End,
    ];
    const KINDS: [MouseEventKind; 5] = [
        MouseEventKind::Down(MouseButton::Left),
        MouseEventKind::Drag(MouseButton::Left),
        MouseEventKind::Up(MouseButton::Left),
        MouseEventKind::ScrollUp,
        MouseEventKind::ScrollDown,
    ];
    const SIZES: [(u16, u16); 6] = [(80, 24), (120, 36), (200, 60), (60, 18), (31, 7), (0, 0)];
    let rng = Rng::new(1, Stream::Sample, 0);
    let mut drawn = 0;
    let mut below = |limit: usize| {
        drawn += 1;
        rng.word(drawn) as usize % limit
    };
    let mut changes = 0;
    for round in 0..count.div_ceil(200) {
        let screen = VIEWS[round as usize % VIEWS.len()].screen;
        let mut harness = AppHarness::running(100, 30, screen);
        for number in 0..200 {
            let msg = match below(24) {
                0 => {
                    let (width, height) = SIZES[below(SIZES.len())];
                    Msg::Resize(width, height)
                }
                1..=4 => Msg::Mouse(MouseEvent {
                    kind: KINDS[below(KINDS.len())],
                    column: below(210) as u16,
                    row: below(64) as u16,
                    modifiers: KeyModifiers::NONE,
                }),
                5 => Msg::Paste("conv 8, \u{1F600}\t1e400 dense 10"[..8 + 4 * below(3)].into()),
                6 => Msg::Steps(app_harness::steps(2600 + number * 10, 1.0)),
                7 => Msg::Event(Box::new(match below(6) {
                    0 => Event::Evaluation(app_harness::evaluation(1 + below(9) as u32)),
                    1 => Event::Started(Box::new(app_harness::run_info())),
                    2 => Event::State(State::Done),
                    3 => Event::State(State::Paused),
                    4 => Event::Unsaved {
                        why: Some("there is no room: make some".into()),
                    },
                    _ => Event::State(State::Running),
                })),
                8..=13 => Msg::Key(press(CODES[below(CODES.len())], false)),
                14 => Msg::Key(press(
                    KeyCode::Char(char::from(b'a' + below(26) as u8)),
                    true,
                )),
                _ => Msg::Key(press(
                    KeyCode::Char(char::from(b' ' + below(95) as u8)),
                    false,
                )),
            };
            harness.answers = below(4) > 0;
            harness.update(msg);
            for command in harness.sent.drain(..) {
                if let Command::Set { key, value } = command {
                    let row = crate::domain::params::param(&key).unwrap();
                    assert_eq!(row.check(value.clone()), Ok(value), "{key}");
                    changes += 1;
                }
            }
            harness.buffer();
        }
    }
    assert!(changes > 0, "nothing was ever set");
}

#[test]
fn a_storm_of_input_never_panics() {
    storm(2400);
}

#[test]
#[ignore = "the long form: 200,000 inputs"]
fn two_hundred_thousand_inputs_never_panic() {
    storm(200_000);
}

#[test]
fn every_key_on_every_screen_in_every_state() {
    for (_, play) in states() {
        for screen in SCREENS {
            let mut harness = AppHarness::new(80, 24);
            play(&mut harness);
            harness.open(screen);
            let keys: Vec<Key> = actions::on_screen(screen)
                .filter(|a| matches!(a.does, Do::View(_)))
                .flat_map(|a| a.keys.iter().copied())
                .collect();
            for key in keys.iter().chain(keys.iter().rev()) {
                let modifiers = if key.ctrl {
                    crossterm::event::KeyModifiers::CONTROL
                } else {
                    crossterm::event::KeyModifiers::NONE
                };
                harness.update(Msg::Key(KeyEvent::new(key.code, modifiers)));
                harness.buffer();
                harness.key("esc");
            }
        }
    }
}

/// Whether an action, started by its key or in the palette, has a visible result: a change of the frame, a command or
/// another effect.
fn shows(harness: &mut AppHarness, action: &Action) -> bool {
    // Time out earlier messages.
    harness.update(Msg::Tick(1000.0));
    harness.update(Msg::Tick(1010.0));
    let (before, effects) = (harness.buffer(), harness.effects);
    match action.keys.first() {
        Some(key) => {
            let modifiers = if key.ctrl {
                KeyModifiers::CONTROL
            } else {
                KeyModifiers::NONE
            };
            harness.update(Msg::Key(KeyEvent::new(key.code, modifiers)));
        }
        None => {
            harness.key(":");
            harness.types(action.name);
            harness.key("enter");
        }
    }
    harness.effects > effects || harness.buffer() != before
}

/// Every row of ACTIONS, on its screen and in every state, has a visible result or a message that says why not. Other
/// keys are pressed first where the cursor is at an end or the zoom at its limit.
#[test]
fn every_action_does_something_or_says_why_not() {
    const BEFORE: [&str; 5] = ["", "j l", "G", "+ <", "+ + ["];
    for (state, play) in states() {
        let large = (state == "running").then_some((200, 60));
        for (width, height) in [(80, 24)].into_iter().chain(large) {
            for action in ACTIONS {
                // The program's actions are tried on the first screen.
                let screen = action.screen.unwrap_or(Screen::Train);
                if action.does == ProgramAction::Show(screen).into() {
                    continue;
                }
                let shown = BEFORE.iter().any(|keys| {
                    let mut harness = AppHarness::new(width, height);
                    play(&mut harness);
                    harness.open(screen);
                    if !keys.is_empty() {
                        harness.key(keys);
                    }
                    shows(&mut harness, action)
                });
                assert!(
                    shown,
                    "{:?} does nothing and says nothing: {state}, {width}x{height}",
                    action.does
                );
            }
        }
    }
}

#[test]
fn keys_that_would_change_nothing_say_why() {
    let said = |harness: &AppHarness| harness.app.toast.as_ref().map(|t| t.text.clone());
    let mut harness = AppHarness::running(200, 60, Screen::Model);
    harness.key("v");
    assert_eq!(
        said(&harness).as_deref(),
        Some("filters: activations and filters are both on the screen")
    );
    let mut harness = AppHarness::running(200, 60, Screen::Train);
    harness.key("f");
    assert_eq!(
        said(&harness).as_deref(),
        Some("flip: both charts are on the screen")
    );
    let mut harness = AppHarness::running(80, 24, Screen::Train);
    harness.key("f");
    assert_eq!(said(&harness), None);
    harness.line("╭ accuracy ─");
    let mut harness = AppHarness::running(80, 24, Screen::Model);
    harness.key("v");
    assert_eq!(said(&harness), None);
    harness.line("╭ first-layer filters");
}

/// Answers with a picture that is not square and a class that is out of range, as a newer or a faulty worker might
/// send.
#[test]
fn odd_answers_do_not_panic() {
    let mut harness = AppHarness::running(120, 36, Screen::Samples);
    harness.answers = false;
    harness.key("f");
    let (id, _) = harness.open.pop().unwrap();
    let mut item = app_harness::prediction(1, 3, 5);
    (item.truth, item.predicted) = (200, 100);
    item.picture.rgb.truncate(7);
    item.probabilities = vec![f32::NAN; 3];
    let answer = Answer::Predictions {
        split: Split::Validation,
        total: 1,
        offset: 0,
        items: vec![item],
    };
    harness.event(Event::Answer { id, answer });
    harness.buffer();
    harness.key("enter");
    harness.buffer();
}

#[test]
fn questions_are_asked_when_they_are_needed_and_once() {
    let mut harness = AppHarness::new(120, 36);
    harness.play();
    assert_eq!(harness.questions(), [], "no screen that asks is open");
    harness.open(Screen::Confusion);
    let asked = harness.questions();
    assert!(
        matches!(
            asked[..],
            [Question::Cell {
                truth: 0,
                predicted: 0,
                ..
            }]
        ),
        "{asked:?}"
    );
    harness.event(Event::Steps(app_harness::steps(2700, 1.2)));
    assert_eq!(harness.questions(), [], "nothing new was scored");
    harness.event(Event::Evaluation(app_harness::evaluation(3)));
    assert_eq!(
        harness.questions().len(),
        1,
        "the images of the new evaluation"
    );
    harness.key("m");
    let asked = harness.questions();
    assert!(
        matches!(
            asked[..],
            [Question::Cell {
                truth: 3,
                predicted: 5,
                ..
            }]
        ),
        "{asked:?}"
    );
}

#[test]
fn an_answer_that_comes_late_is_dropped() {
    let mut harness = AppHarness::running(120, 36, Screen::Samples);
    harness.answers = false;
    harness.key("f f");
    assert_eq!(harness.open.len(), 2);
    let (late, _) = harness.open.remove(0);
    let answer = app_harness::answer(&Question::Samples {
        filter: Filter::Class { class: 8 },
        offset: 0,
        count: 4,
    });
    harness.event(Event::Answer { id: late, answer });
    assert!(!harness.text().contains("ship"), "{}", harness.text());
}

#[test]
fn the_most_confused_pair_and_its_images() {
    let mut harness = AppHarness::running(120, 36, Screen::Confusion);
    harness.key("m");
    assert!(harness.line("166 of 1,000 (16.6%)").contains('│'));
    harness.line("-0.6 since last evaluation");
    harness.key("enter");
    harness.line("cat called dog: 166 of 1,000 (16.6%), -0.6 since last evaluation");
    harness.line("✗ cat → dog");
    harness.key("esc v");
    harness.line("% of row");
}

#[test]
fn a_click_picks_a_cell() {
    let mut harness = AppHarness::running(120, 36, Screen::Confusion);
    let text = harness.text();
    let (row, line) = text
        .lines()
        .enumerate()
        .find(|(_, l)| l.contains("  cat ") && l.contains("166"))
        .unwrap();
    let column = line[..line.find("166").unwrap()].chars().count();
    harness.click(column as u16, row as u16);
    harness.line("cat called dog");
}

#[test]
fn the_other_split_is_shown_from_then_on() {
    let mut harness = AppHarness::running(80, 24, Screen::Samples);
    harness.forget_sent();
    harness.key("t");
    assert_eq!(harness.sent[0], Command::Show { split: Split::Test });
    harness.line("The test images have not been scored yet.");
    let mut test = app_harness::evaluation(2);
    test.split = Split::Test;
    harness.event(Event::Evaluation(test));
    assert_eq!(harness.questions().len(), 1);
}

#[test]
fn the_prediction_of_a_pinned_image_is_updated_at_each_evaluation() {
    let mut harness = AppHarness::running(80, 24, Screen::Samples);
    harness.key("f l p f f f f");
    harness.line("pinned 1");
    harness.line("✗ deer→ship 0.78");
    harness.forget_sent();
    harness.event(Event::Evaluation(app_harness::evaluation(3)));
    let pinned = Question::Samples {
        filter: Filter::Pinned { indices: vec![4] },
        offset: 0,
        count: 8,
    };
    assert_eq!(harness.questions(), [pinned]);
    harness.key("p");
    harness.line("No image is pinned.");
}

#[test]
fn the_large_image_stays_while_the_filter_moves_on() {
    let mut harness = AppHarness::running(80, 24, Screen::Samples);
    harness.key("f l enter");
    harness.line("validation image 4");
    harness.event(Event::Evaluation(app_harness::evaluation(3)));
    harness.line("validation image 4");
    harness.key("l");
    harness.line("validation image 5");
    harness.key("esc");
    harness.line("1-8 of 3,700");
}

#[test]
fn pages_go_to_the_end_and_back() {
    let mut harness = AppHarness::running(80, 24, Screen::Samples);
    harness.key("ctrl-d ctrl-d");
    harness.line("17-24 of 10,000");
    harness.key("G");
    harness.line("9,993-10,000 of 10,000");
    harness.key("g ctrl-u");
    harness.line("1-8 of 10,000");
}

#[test]
fn an_architecture_is_checked_as_it_is_typed_and_set_for_the_next_run() {
    let mut harness = AppHarness::running(120, 36, Screen::Model);
    harness.key("enter ctrl-u");
    harness.types("conv 16, rel");
    harness.line("^^^");
    harness.forget_sent();
    harness.key("enter");
    assert_eq!(harness.sent, [], "what is wrong is not sent");
    harness.types("u, pool, dense 10");
    harness.line("✓ It fits.");
    harness.key("enter");
    assert_eq!(
        harness.sent[..1],
        [Command::Set {
            key: "architecture".into(),
            value: crate::domain::params::Value::Text("conv 16, relu, pool, dense 10".into()),
        }]
    );
}

#[test]
fn a_preset_goes_by_its_name() {
    let mut harness = AppHarness::running(120, 36, Screen::Model);
    harness.forget_sent();
    harness.key("a enter");
    let set = harness.sent.iter().find_map(|c| match c {
        Command::Set { value, .. } => Some(value.to_string()),
        _ => None,
    });
    assert_eq!(set.as_deref(), Some("resnet"));
}

#[test]
fn runs_are_renamed_noted_and_deleted_after_asking() {
    let mut harness = AppHarness::running(120, 36, Screen::Runs);
    harness.key("j");
    harness.questions();
    harness.key("r");
    harness.types("-2");
    harness.key("enter");
    let rename = Question::RenameRun {
        name: "wide".into(),
        to: "wide-2".into(),
    };
    assert_eq!(harness.questions()[0], rename);
    harness.key("j o");
    harness.types("too hot");
    harness.key("enter");
    assert!(harness.questions().contains(&Question::NoteRun {
        name: "wide".into(),
        note: "the good onetoo hot".into(),
    }));
    harness.key("d");
    assert_eq!(harness.questions(), [], "it asks first");
    harness.key("y");
    let delete = Question::DeleteRun {
        name: "wide".into(),
    };
    assert_eq!(harness.questions()[0], delete);
}

/// A row of the Runs screen's table.
fn listed(name: &str) -> crate::domain::report::RunSummary {
    let Answer::Runs { mut items, .. } = app_harness::answer(&Question::Runs) else {
        unreachable!("the question asks for runs")
    };
    items[1].name = name.into();
    items.swap_remove(1)
}

fn answer_runs(harness: &mut AppHarness, names: &[&str]) {
    let (id, _) = harness.open.pop().expect("the runs were asked for");
    let answer = Answer::Runs {
        folder: "runs".into(),
        items: names.iter().map(|name| listed(name)).collect(),
    };
    harness.event(Event::Answer { id, answer });
}

#[test]
fn after_a_delete_the_cursor_stays_in_its_place() {
    let mut harness = AppHarness::new(120, 36);
    harness.answers = false;
    harness.play();
    harness.open(Screen::Runs);
    answer_runs(&mut harness, &["a", "b", "c", "d"]);
    harness.key("j j d y");
    answer_runs(&mut harness, &["a", "b", "d"]);
    answer_runs(&mut harness, &["a", "b", "d"]);
    // The panel about the chosen run has its name as its title.
    harness.line("╮╭ d ─");
    harness.key("d y");
    answer_runs(&mut harness, &["a", "b"]);
    answer_runs(&mut harness, &["a", "b"]);
    harness.line("╮╭ b ─");
}

#[test]
fn an_error_of_the_runs_folder_is_whole_and_goes_when_it_can_be_read() {
    let mut harness = AppHarness::new(80, 24);
    harness.answers = false;
    harness.play();
    harness.open(Screen::Runs);
    let (id, _) = harness.open.pop().unwrap();
    let why = "/scratch/someone/experiments/of-the-year/cifar-tui/runs cannot be read: Permission denied \
               (os error 13); give it the right permissions, or name another folder with --runs; the end";
    harness.event(Event::Answer {
        id,
        answer: Answer::Failed { why: why.into() },
    });
    let words: Vec<String> = harness
        .body()
        .replace(['│', '\n'], " ")
        .split_whitespace()
        .map(String::from)
        .collect();
    let wanted: Vec<&str> = why.split_whitespace().collect();
    assert!(
        words.windows(wanted.len()).any(|w| w == wanted),
        "{}",
        harness.text()
    );
    harness.key("j");
    answer_runs(&mut harness, &["a", "b"]);
    assert!(!harness.text().contains("could not be read"));
}

#[test]
fn ten_thousand_epochs_fit_their_column() {
    for width in [80, 120, 200] {
        let mut harness = AppHarness::new(width, 24);
        harness.answers = false;
        harness.play();
        harness.open(Screen::Runs);
        let (id, _) = harness.open.pop().unwrap();
        let mut run = listed("long");
        run.params.epochs = 10_000.0;
        run.epochs_done = 10_000;
        let answer = Answer::Runs {
            folder: "runs".into(),
            items: vec![run],
        };
        harness.event(Event::Answer { id, answer });
        harness.line("66.00%  10000/10000 ");
    }
}

#[test]
fn a_change_without_an_earlier_evaluation_is_said_and_no_matrix_drawn() {
    let mut harness = AppHarness::new(80, 24);
    harness.event(Event::Data(app_harness::data()));
    harness.event(Event::Started(Box::new(app_harness::run_info())));
    harness.event(Event::Steps(app_harness::steps(1250, 1.6)));
    harness.event(Event::Evaluation(app_harness::evaluation(1)));
    harness.open(Screen::Confusion);
    harness.key("v v");
    // The matrix's panel is the upper left one, 13 rows high.
    let rows: Vec<String> = harness
        .body()
        .lines()
        .take(12)
        .skip(1)
        .filter_map(|line| line.split_once("││"))
        .map(|(matrix, _)| matrix.trim_matches(['│', ' ']).to_owned())
        .filter(|words| !words.is_empty())
        .collect();
    assert_eq!(
        rows,
        [
            "There is no earlier evaluation to compare with.",
            "v shows the counts."
        ]
    );
}

#[test]
fn the_run_in_use_is_not_deleted() {
    let mut harness = AppHarness::running(120, 36, Screen::Runs);
    harness.questions();
    harness.key("d");
    assert_eq!(harness.questions(), []);
    harness.line("seed-0412 is in use");
}

#[test]
fn the_sample_set_says_how_to_get_the_real_one() {
    let mut harness = AppHarness::new(80, 24);
    let mut info = app_harness::run_info();
    info.data.is_sample = true;
    info.data.name = "sample set".into();
    harness.event(Event::Data(info.data.clone()));
    harness.event(Event::Started(Box::new(info)));
    harness.open(Screen::Data);
    harness.line("fetches the real CIFAR-10");
    harness.forget_sent();
    harness.key("d");
    assert_eq!(harness.sent, [Command::Download]);
    harness.event(Event::Download {
        done: 85_000_000,
        total: 170_498_071,
        finished: false,
        error: None,
    });
    harness.line(" 50%  85.0 MB of 170.5 MB");
}

#[test]
fn augmentation_is_previewed_when_it_is_on() {
    let mut harness = AppHarness::new(120, 40);
    let mut info = app_harness::run_info();
    (info.params.flip, info.params.crop) = (crate::domain::params::Flip::Random, 4);
    harness.event(Event::Data(info.data.clone()));
    harness.event(Event::Started(Box::new(info)));
    harness.open(Screen::Data);
    harness.line("flip random, crop 4");
    let asked = harness.questions();
    assert!(
        asked
            .iter()
            .any(|q| matches!(q, Question::Augmented { index: 0, .. })),
        "{asked:?}"
    );
}

#[test]
fn drawing_twice_gives_the_same_cells() {
    for screen in SCREENS {
        let harness = AppHarness::running(120, 36, screen);
        assert_eq!(harness.buffer(), harness.buffer());
    }
}

#[test]
fn a_target_is_a_line_on_the_chart_and_the_header_says_when_it_was_reached() {
    let mut harness = AppHarness::new(200, 50);
    let mut info = app_harness::run_info();
    let [first, second] = [1, 2].map(app_harness::epoch_report);
    assert!(first.accuracy < second.accuracy);
    info.params.target = second.accuracy;
    harness.event(Event::Data(info.data.clone()));
    harness.event(Event::Started(Box::new(info)));
    harness.open(Screen::Train);
    harness.event(Event::Epoch(first));
    harness.line("┄┄┄┄┄┄┄┄");
    assert!(!harness.text().contains(", step 2,500"));
    harness.event(Event::Epoch(second));
    harness.event(Event::Epoch(app_harness::epoch_report(3)));
    harness.line(" in 0:16, step 2,500");
}
