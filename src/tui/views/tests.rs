//! The screens as a person sees them, at every size and in every state.

use super::stage::{self, Stage};
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
            let stage = Stage::running(width, height, screen);
            let name = format!("{}_{width}x{height}", screen.title().to_lowercase());
            insta::assert_snapshot!(name, stage.body());
        }
    }
}

#[test]
fn no_cell_has_what_a_terminal_acts_on() {
    // By ESC, C1, a line break, a turned direction, without a width, and hidden behind the letter before it.
    let hostile = "a\u{1b}[31mb\u{9b}c\nd\u{202e}e\u{200b}f\u{200d}g\u{e0041}h\u{ad}";
    for row in VIEWS {
        let mut stage = Stage::new(120, 36);
        stage.play();
        let mut run = stage::run_info();
        run.name = hostile.into();
        run.folder = hostile.into();
        run.data.name = hostile.into();
        run.data.source = hostile.into();
        run.data.classes = vec![hostile.into(); 10];
        stage.event(Event::Data(run.data.clone()));
        stage.event(Event::Started(Box::new(run)));
        stage.event(Event::Warning {
            text: hostile.into(),
        });
        stage.event(Event::Evaluation(stage::evaluation(1)));
        stage.event(Event::State(State::Failed {
            why: hostile.into(),
        }));
        stage.open(row.screen);
        let buffer = stage.buffer();
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
        let mut stage = Stage::running(80, 24, screen);
        stage.key(keys);
        let name = format!("{}_{name}", screen.title().to_lowercase());
        insta::assert_snapshot!(name, stage.body());
    }
}

#[test]
fn empty_screens_say_what_will_come() {
    for screen in SCREENS {
        let mut stage = Stage::new(80, 24);
        stage.open(screen);
        let name = format!("{}_empty", screen.title().to_lowercase());
        insta::assert_snapshot!(name, stage.body());
    }
}

type Play = (&'static str, fn(&mut Stage));

/// The states in which every screen must hold.
fn states() -> Vec<Play> {
    vec![
        ("empty", |_| {}),
        ("no evaluation yet", |s| {
            s.event(Event::Data(stage::data()));
            s.event(Event::Started(Box::new(stage::run_info())));
            s.event(Event::State(State::Running));
            s.event(Event::Steps(stage::steps(40, 2.3)));
        }),
        ("running", Stage::play),
        ("NaN", |s| {
            s.play();
            s.event(Event::Steps(stage::steps(2700, f64::NAN)));
            let mut evaluation = stage::evaluation(2);
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
                let mut stage = Stage::colored(width, height, colors);
                play(&mut stage);
                for row in VIEWS {
                    stage.open(row.screen);
                    let _ = (stage.buffer(), name);
                }
            }
        }
    }
}

/// Every screen, with what each of its keys opens, help, palette and questions among it.
#[test]
fn in_ascii_and_in_blocks_every_screen_shows_what_the_terminal_has() {
    for symbols in [Symbols::Block, Symbols::Ascii] {
        for (colors, (width, height)) in [(Colors::Ansi16, (80, 24)), (Colors::None, (120, 36))] {
            for row in VIEWS {
                for action in actions::ACTIONS.iter().filter(|a| a.counts_on(row.screen)) {
                    let Some(key) = action.keys.first() else {
                        continue;
                    };
                    let mut stage = Stage::themed(width, height, Theme { colors, symbols });
                    stage.play();
                    stage.open(row.screen);
                    stage.update(Msg::Key(press(key.code, key.ctrl)));
                    let what = format!("{}, {key}", row.title);
                    shows_only(symbols, &stage.buffer(), &what);
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
    let mut stage = Stage::themed(120, 36, theme);
    let mut info = stage::run_info();
    info.name = "größe-漢→x".into();
    stage.event(Event::Started(Box::new(info)));
    shows_only(Symbols::Ascii, &stage.buffer(), "the header");
    stage.line("grose-?->x");
}

#[test]
fn no_size_is_too_small_for_any_screen() {
    for (_, play) in states() {
        let mut stage = Stage::new(80, 24);
        play(&mut stage);
        for row in VIEWS {
            stage.update(Msg::Resize(80, 24));
            stage.open(row.screen);
            for (width, height) in (0..=40).flat_map(|w| (0..=20).map(move |h| (w, h))) {
                stage.update(Msg::Resize(width, height));
                stage.buffer();
            }
        }
    }
}

/// `count` inputs, keys mostly, on all screens in turn, with what a worker says in between: no panic, and no value that
/// the table would refuse reaches the worker.
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
        let mut stage = Stage::running(100, 30, screen);
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
                6 => Msg::Steps(stage::steps(2600 + number * 10, 1.0)),
                7 => Msg::Event(Box::new(match below(6) {
                    0 => Event::Evaluation(stage::evaluation(1 + below(9) as u32)),
                    1 => Event::Started(Box::new(stage::run_info())),
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
            stage.answers = below(4) > 0;
            stage.update(msg);
            for command in stage.sent.drain(..) {
                if let Command::Set { key, value } = command {
                    let row = crate::domain::params::param(&key).unwrap();
                    assert_eq!(row.check(value.clone()), Ok(value), "{key}");
                    changes += 1;
                }
            }
            stage.buffer();
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
            let mut stage = Stage::new(80, 24);
            play(&mut stage);
            stage.open(screen);
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
                stage.update(Msg::Key(KeyEvent::new(key.code, modifiers)));
                stage.buffer();
                stage.key("esc");
            }
        }
    }
}

/// Whether an action, begun by its key or in the palette, shows: in the frame, as a command or as another effect.
fn shows(stage: &mut Stage, action: &Action) -> bool {
    // Earlier messages pass.
    stage.update(Msg::Tick(1000.0));
    stage.update(Msg::Tick(1010.0));
    let (before, effects) = (stage.buffer(), stage.effects);
    match action.keys.first() {
        Some(key) => {
            let modifiers = if key.ctrl {
                KeyModifiers::CONTROL
            } else {
                KeyModifiers::NONE
            };
            stage.update(Msg::Key(KeyEvent::new(key.code, modifiers)));
        }
        None => {
            stage.key(":");
            stage.types(action.name);
            stage.key("enter");
        }
    }
    stage.effects > effects || stage.buffer() != before
}

/// Every row of ACTIONS on its screen in every state: it does something or says why not. Where a cursor stands at an end,
/// or a zoom at its edge, other keys come first.
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
                    let mut stage = Stage::new(width, height);
                    play(&mut stage);
                    stage.open(screen);
                    if !keys.is_empty() {
                        stage.key(keys);
                    }
                    shows(&mut stage, action)
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
    let said = |stage: &Stage| stage.app.toast.as_ref().map(|t| t.text.clone());
    let mut stage = Stage::running(200, 60, Screen::Model);
    stage.key("v");
    assert_eq!(
        said(&stage).as_deref(),
        Some("filters: activations and filters are both on the screen")
    );
    let mut stage = Stage::running(200, 60, Screen::Train);
    stage.key("f");
    assert_eq!(
        said(&stage).as_deref(),
        Some("flip: both charts are on the screen")
    );
    let mut stage = Stage::running(80, 24, Screen::Train);
    stage.key("f");
    assert_eq!(said(&stage), None);
    stage.line("╭ accuracy ─");
    let mut stage = Stage::running(80, 24, Screen::Model);
    stage.key("v");
    assert_eq!(said(&stage), None);
    stage.line("╭ first-layer filters");
}

/// A picture that never was a square, a class that is out of range: a newer worker's, or a broken one's.
#[test]
fn odd_answers_do_not_panic() {
    let mut stage = Stage::running(120, 36, Screen::Samples);
    stage.answers = false;
    stage.key("f");
    let (id, _) = stage.open.pop().unwrap();
    let mut item = stage::prediction(1, 3, 5);
    (item.truth, item.predicted) = (200, 100);
    item.picture.rgb.truncate(7);
    item.probabilities = vec![f32::NAN; 3];
    let answer = Answer::Predictions {
        split: Split::Validation,
        total: 1,
        offset: 0,
        items: vec![item],
    };
    stage.event(Event::Answer { id, answer });
    stage.buffer();
    stage.key("enter");
    stage.buffer();
}

#[test]
fn questions_are_asked_when_they_are_needed_and_once() {
    let mut stage = Stage::new(120, 36);
    stage.play();
    assert_eq!(stage.questions(), [], "no screen that asks is open");
    stage.open(Screen::Confusion);
    let asked = stage.questions();
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
    stage.event(Event::Steps(stage::steps(2700, 1.2)));
    assert_eq!(stage.questions(), [], "nothing new was scored");
    stage.event(Event::Evaluation(stage::evaluation(3)));
    assert_eq!(
        stage.questions().len(),
        1,
        "the images of the new evaluation"
    );
    stage.key("m");
    let asked = stage.questions();
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
    let mut stage = Stage::running(120, 36, Screen::Samples);
    stage.answers = false;
    stage.key("f f");
    assert_eq!(stage.open.len(), 2);
    let (late, _) = stage.open.remove(0);
    let answer = stage::answer(&Question::Samples {
        filter: Filter::Class { class: 8 },
        offset: 0,
        count: 4,
    });
    stage.event(Event::Answer { id: late, answer });
    assert!(!stage.text().contains("ship"), "{}", stage.text());
}

#[test]
fn the_most_confused_pair_and_its_images() {
    let mut stage = Stage::running(120, 36, Screen::Confusion);
    stage.key("m");
    assert!(stage.line("166 of 1,000 (16.6%)").contains('│'));
    stage.line("-0.6 since last evaluation");
    stage.key("enter");
    stage.line("cat called dog: 166 of 1,000 (16.6%), -0.6 since last evaluation");
    stage.line("✗ cat → dog");
    stage.key("esc v");
    stage.line("% of row");
}

#[test]
fn a_click_picks_a_cell() {
    let mut stage = Stage::running(120, 36, Screen::Confusion);
    let text = stage.text();
    let (row, line) = text
        .lines()
        .enumerate()
        .find(|(_, l)| l.contains("  cat ") && l.contains("166"))
        .unwrap();
    let column = line[..line.find("166").unwrap()].chars().count();
    stage.click(column as u16, row as u16);
    stage.line("cat called dog");
}

#[test]
fn the_other_split_is_shown_from_then_on() {
    let mut stage = Stage::running(80, 24, Screen::Samples);
    stage.sent.clear();
    stage.key("t");
    assert_eq!(stage.sent[0], Command::Show { split: Split::Test });
    stage.line("Nothing is known of the test images yet.");
    let mut test = stage::evaluation(2);
    test.split = Split::Test;
    stage.event(Event::Evaluation(test));
    assert_eq!(stage.questions().len(), 1);
}

#[test]
fn a_pinned_image_is_followed_through_evaluations() {
    let mut stage = Stage::running(80, 24, Screen::Samples);
    stage.key("f l p f f f f");
    stage.line("pinned 1");
    stage.line("✗ deer→ship 0.78");
    stage.sent.clear();
    stage.event(Event::Evaluation(stage::evaluation(3)));
    let pinned = Question::Samples {
        filter: Filter::Pinned { indices: vec![4] },
        offset: 0,
        count: 8,
    };
    assert_eq!(stage.questions(), [pinned]);
    stage.key("p");
    stage.line("No image is pinned.");
}

#[test]
fn the_large_image_stays_while_the_filter_moves_on() {
    let mut stage = Stage::running(80, 24, Screen::Samples);
    stage.key("f l enter");
    stage.line("validation image 4");
    stage.event(Event::Evaluation(stage::evaluation(3)));
    stage.line("validation image 4");
    stage.key("l");
    stage.line("validation image 5");
    stage.key("esc");
    stage.line("1-8 of 3,700");
}

#[test]
fn pages_go_to_the_end_and_back() {
    let mut stage = Stage::running(80, 24, Screen::Samples);
    stage.key("ctrl-d ctrl-d");
    stage.line("17-24 of 10,000");
    stage.key("G");
    stage.line("9,993-10,000 of 10,000");
    stage.key("g ctrl-u");
    stage.line("1-8 of 10,000");
}

#[test]
fn an_architecture_is_checked_as_it_is_typed_and_set_for_the_next_run() {
    let mut stage = Stage::running(120, 36, Screen::Model);
    stage.key("enter ctrl-u");
    stage.types("conv 16, rel");
    stage.line("^^^");
    stage.sent.clear();
    stage.key("enter");
    assert_eq!(stage.sent, [], "what is wrong is not sent");
    stage.types("u, pool, dense 10");
    stage.line("✓ It fits.");
    stage.key("enter");
    assert_eq!(
        stage.sent[..1],
        [Command::Set {
            key: "architecture".into(),
            value: crate::domain::params::Value::Text("conv 16, relu, pool, dense 10".into()),
        }]
    );
}

#[test]
fn a_preset_goes_by_its_name() {
    let mut stage = Stage::running(120, 36, Screen::Model);
    stage.sent.clear();
    stage.key("a enter");
    let set = stage.sent.iter().find_map(|c| match c {
        Command::Set { value, .. } => Some(value.to_string()),
        _ => None,
    });
    assert_eq!(set.as_deref(), Some("resnet"));
}

#[test]
fn runs_are_renamed_noted_and_deleted_after_asking() {
    let mut stage = Stage::running(120, 36, Screen::Runs);
    stage.key("j");
    stage.questions();
    stage.key("r");
    stage.types("-2");
    stage.key("enter");
    let rename = Question::RenameRun {
        name: "wide".into(),
        to: "wide-2".into(),
    };
    assert_eq!(stage.questions()[0], rename);
    stage.key("j o");
    stage.types("too hot");
    stage.key("enter");
    assert!(stage.questions().contains(&Question::NoteRun {
        name: "wide".into(),
        note: "the good onetoo hot".into(),
    }));
    stage.key("d");
    assert_eq!(stage.questions(), [], "it asks first");
    stage.key("y");
    let delete = Question::DeleteRun {
        name: "wide".into(),
    };
    assert_eq!(stage.questions()[0], delete);
}

/// A row of the Runs screen's table.
fn listed(name: &str) -> crate::domain::report::RunSummary {
    let Answer::Runs { mut items, .. } = stage::answer(&Question::Runs) else {
        unreachable!("the question asks for runs")
    };
    items[1].name = name.into();
    items.swap_remove(1)
}

fn answer_runs(stage: &mut Stage, names: &[&str]) {
    let (id, _) = stage.open.pop().expect("the runs were asked for");
    let answer = Answer::Runs {
        folder: "runs".into(),
        items: names.iter().map(|name| listed(name)).collect(),
    };
    stage.event(Event::Answer { id, answer });
}

#[test]
fn after_a_delete_the_cursor_stays_in_its_place() {
    let mut stage = Stage::new(120, 36);
    stage.answers = false;
    stage.play();
    stage.open(Screen::Runs);
    answer_runs(&mut stage, &["a", "b", "c", "d"]);
    stage.key("j j d y");
    answer_runs(&mut stage, &["a", "b", "d"]);
    answer_runs(&mut stage, &["a", "b", "d"]);
    // The panel about the chosen run has its name as its title.
    stage.line("╮╭ d ─");
    stage.key("d y");
    answer_runs(&mut stage, &["a", "b"]);
    answer_runs(&mut stage, &["a", "b"]);
    stage.line("╮╭ b ─");
}

#[test]
fn an_error_of_the_runs_folder_is_whole_and_goes_when_it_can_be_read() {
    let mut stage = Stage::new(80, 24);
    stage.answers = false;
    stage.play();
    stage.open(Screen::Runs);
    let (id, _) = stage.open.pop().unwrap();
    let why = "/scratch/someone/experiments/of-the-year/cifar-tui/runs cannot be read: Permission denied \
               (os error 13); give it the right permissions, or name another folder with --runs; the end";
    stage.event(Event::Answer {
        id,
        answer: Answer::Failed { why: why.into() },
    });
    let words: Vec<String> = stage
        .body()
        .replace(['│', '\n'], " ")
        .split_whitespace()
        .map(String::from)
        .collect();
    let wanted: Vec<&str> = why.split_whitespace().collect();
    assert!(
        words.windows(wanted.len()).any(|w| w == wanted),
        "{}",
        stage.text()
    );
    stage.key("j");
    answer_runs(&mut stage, &["a", "b"]);
    assert!(!stage.text().contains("could not be read"));
}

#[test]
fn ten_thousand_epochs_fit_their_column() {
    for width in [80, 120, 200] {
        let mut stage = Stage::new(width, 24);
        stage.answers = false;
        stage.play();
        stage.open(Screen::Runs);
        let (id, _) = stage.open.pop().unwrap();
        let mut run = listed("long");
        run.params.epochs = 10_000;
        run.epochs_done = 10_000;
        let answer = Answer::Runs {
            folder: "runs".into(),
            items: vec![run],
        };
        stage.event(Event::Answer { id, answer });
        stage.line("66.00%  10000/10000 ");
    }
}

#[test]
fn a_change_without_an_earlier_evaluation_is_said_and_no_matrix_drawn() {
    let mut stage = Stage::new(80, 24);
    stage.event(Event::Data(stage::data()));
    stage.event(Event::Started(Box::new(stage::run_info())));
    stage.event(Event::Steps(stage::steps(1250, 1.6)));
    stage.event(Event::Evaluation(stage::evaluation(1)));
    stage.open(Screen::Confusion);
    stage.key("v v");
    // The matrix's panel is the upper left one, 13 rows high.
    let rows: Vec<String> = stage
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
    let mut stage = Stage::running(120, 36, Screen::Runs);
    stage.questions();
    stage.key("d");
    assert_eq!(stage.questions(), []);
    stage.line("seed-0412 is in use");
}

#[test]
fn the_sample_set_says_how_to_get_the_real_one() {
    let mut stage = Stage::new(80, 24);
    let mut info = stage::run_info();
    info.data.is_sample = true;
    info.data.name = "sample set".into();
    stage.event(Event::Data(info.data.clone()));
    stage.event(Event::Started(Box::new(info)));
    stage.open(Screen::Data);
    stage.line("fetches the real CIFAR-10");
    stage.sent.clear();
    stage.key("d");
    assert_eq!(stage.sent, [Command::Download]);
    stage.event(Event::Download {
        done: 85_000_000,
        total: 170_498_071,
        finished: false,
        error: None,
    });
    stage.line(" 50%  85.0 MB of 170.5 MB");
}

#[test]
fn augmentation_is_previewed_when_it_is_on() {
    let mut stage = Stage::new(120, 40);
    let mut info = stage::run_info();
    (info.params.flip, info.params.crop) = (true, 4);
    stage.event(Event::Data(info.data.clone()));
    stage.event(Event::Started(Box::new(info)));
    stage.open(Screen::Data);
    stage.line("flip, crop 4");
    let asked = stage.questions();
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
        let stage = Stage::running(120, 36, screen);
        assert_eq!(stage.buffer(), stage.buffer());
    }
}
