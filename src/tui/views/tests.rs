//! Tests of the screens as drawn text, at every size and in every state.

mod images;
mod input;
mod layer_rates;
mod past;
mod rate_test;
mod runs;

use super::app_harness::{self, AppHarness};
use super::{Screen, VIEWS};
use crate::domain::params::Tta;
use crate::domain::report::{EpochReport, Evaluation, Split, State};
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
fn scores_that_are_averages_over_views_say_so_on_every_screen() {
    let tta = Tta::MirrorTranslate;
    for screen in [Screen::Train, Screen::Confusion] {
        let mut harness = AppHarness::running(120, 36, screen);
        let (evaluation, report) = (app_harness::evaluation(3), app_harness::epoch_report(3));
        harness.event(Event::Evaluation(Evaluation { tta, ..evaluation }));
        harness.event(Event::Epoch(EpochReport { tta, ..report }));
        harness.answer_all();
        let name = format!("tta_{}_120x36", screen.title().to_lowercase());
        insta::assert_snapshot!(name, harness.text());
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
fn forks_are_drawn_below_their_parents() {
    for (width, height) in [(80, 24), (100, 30), (120, 36), (200, 60)] {
        let mut harness = AppHarness::new(width, height);
        harness.answers = false;
        harness.play();
        harness.open(Screen::Runs);
        let (id, _) = harness.open.pop().unwrap();
        let answer = Answer::Runs {
            folder: "runs".into(),
            items: runs::family(),
        };
        harness.event(Event::Answer { id, answer });
        harness.key("j");
        insta::assert_snapshot!(format!("runs_family_{width}x{height}"), harness.body());
    }
}

#[test]
fn goldens_of_what_keys_open() {
    let cases = [
        (Screen::Confusion, "m enter", "cell"),
        (Screen::Confusion, "v v", "change"),
        (Screen::Samples, "f l enter", "large"),
        (Screen::Samples, "f f f f f", "nothing_pinned"),
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
fn an_architecture_is_checked_for_the_images_of_the_session() {
    let mut harness = AppHarness::new(120, 36);
    let mut info = app_harness::data();
    info.classes.truncate(3);
    info.mean.truncate(1);
    info.side = 28;
    harness.event(Event::Data(info));
    harness.open(Screen::Model);
    harness.key("enter ctrl-u");
    harness.types("dense 10");
    harness.line("^");
    harness.key("ctrl-u");
    harness.types("dense 3");
    harness.line("✓ It fits.");
    // One channel of 28 x 28, and a bias for each class.
    harness.line("2,355");
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
fn a_recipe_brings_its_architecture() {
    let mut harness = AppHarness::running(120, 36, Screen::Model);
    harness.line("recipe  seed");
    for (recipe, layer) in [
        ("resnet", "residual"),
        ("airbench", "whiten"),
        ("seed", "conv 32"),
    ] {
        harness.forget_sent();
        harness.key("m");
        let set = Command::Set {
            key: "recipe".into(),
            value: crate::domain::params::Value::Text(recipe.into()),
        };
        assert!(harness.sent.contains(&set), "{:?}", harness.sent);
        harness.line(&format!("recipe  {recipe}"));
        harness.line(layer);
    }
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
fn the_average_stands_beside_the_score_of_the_last_weights() {
    use crate::domain::report::{AverageScores, Evaluation, ScoredWeights, Split, State};
    let mut harness = AppHarness::running(160, 50, Screen::Train);
    harness.event(Event::Steps(app_harness::steps(3750, 1.2)));
    let last = app_harness::evaluation(3);
    let average = Evaluation {
        weights: ScoredWeights::Average,
        accuracy: 0.7123,
        ..last.clone()
    };
    harness.event(Event::Evaluation(last.clone()));
    assert!(!harness.text().contains("avg 71"));
    harness.event(Event::Evaluation(average.clone()));
    let accuracy = 100.0 * last.accuracy;
    harness.line(&format!("val {accuracy:.1}% (avg 71.2%)"));
    let mut report = app_harness::epoch_report(3);
    report.average = Some(AverageScores {
        loss: average.loss,
        accuracy: average.accuracy,
        test_accuracy: None,
    });
    harness.event(Event::Epoch(report));
    harness.line(&format!(
        "epoch 3: val {accuracy:.2}%, best, average 71.23%"
    ));
    for evaluation in [last, average] {
        harness.event(Event::Evaluation(Evaluation {
            split: Split::Test,
            ..evaluation
        }));
    }
    harness.event(Event::State(State::Done));
    harness.line(&format!("test {accuracy:.1}% (avg 71.2%)"));
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
