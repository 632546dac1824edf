//! Keys, the mouse and pasted text.

use super::*;
use crate::domain::fork::ForkAt;
use crate::session::protocol::ForkRequest;
use proptest::prelude::*;

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
    // It stays paused while images are scored.
    let (split, done, total) = (Split::Validation, 0, 100);
    let scoring = State::Evaluating { split, done, total };
    app.update(Msg::Event(Box::new(Event::State(scoring.clone()))));
    assert_eq!(commands(&mut app, " "), [Command::Resume]);
    app.update(Msg::Event(Box::new(Event::State(State::Running))));
    app.update(Msg::Event(Box::new(Event::State(scoring))));
    assert_eq!(commands(&mut app, " "), [Command::Pause]);
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

#[test]
fn a_fork_begins_here_or_at_the_epoch_of_the_cursor() {
    let fork = |at| {
        Command::Fork(ForkRequest {
            at,
            paused: true,
            ..ForkRequest::default()
        })
    };
    let mut app = app(Colors::True, 120, 36, &story(8114));
    assert_eq!(commands(&mut app, "F"), [fork(ForkAt::Last)]);
    // The cursor to the end of the epoch before this one, and to that of the one before.
    assert_eq!(commands(&mut app, "{F"), [fork(ForkAt::Epoch(6))]);
    assert_eq!(commands(&mut app, "{F"), [fork(ForkAt::Epoch(5))]);
    // What is not saved is lost for good.
    let why = Some("the disk is full".into());
    app.update(Msg::Event(Box::new(Event::Unsaved { why })));
    assert_eq!(commands(&mut app, "F"), []);
    assert!(rows(&paint(&app)).contains("Fork all the same?"));
    // Without a folder there is nothing to fork.
    let mut app = running();
    app.update(Msg::Event(Box::new(Event::Started(Box::new(RunInfo {
        name: String::new(),
        ..run()
    })))));
    assert_eq!(commands(&mut app, "F"), []);
}

#[test]
fn a_typed_range_is_for_a_sweep_and_esc_forgets_it() {
    let mut app = running();
    let text = |app: &App| rows(&paint(app));
    let toast = |app: &App| app.toast.as_ref().map_or(String::new(), |t| t.text.clone());
    commands(&mut app, "S");
    assert!(
        toast(&app).contains("no hyperparameter has a range"),
        "{}",
        toast(&app)
    );
    // The learning rate, then dropout.
    for (down, typed) in [("", "1e-4..1e-2 log"), ("jj", "0.1,0.5")] {
        commands(&mut app, down);
        app.update(Msg::Key(press(KeyCode::Enter, false)));
        assert_eq!(commands(&mut app, typed), []);
        app.update(Msg::Key(press(KeyCode::Enter, false)));
        assert!(text(&app).contains(typed), "{}", text(&app));
    }
    let mut attached = running();
    std::mem::swap(&mut attached, &mut app);
    attached.attached = true;
    assert_eq!(commands(&mut attached, "S"), []);
    assert!(
        toast(&attached).contains("own screen"),
        "{}",
        toast(&attached)
    );
    attached.attached = false;
    assert_eq!(commands(&mut attached, "S"), [Command::SaveAndQuit]);
    assert!(
        attached.sweep_to_begin().is_none(),
        "not before the session has ended"
    );
    let ended = Event::Ended {
        params: Box::default(),
        state: State::Stopped,
    };
    attached.update(Msg::Event(Box::new(ended)));
    let plan = attached.sweep_to_begin().unwrap();
    assert_eq!(plan.trials.len(), 6);
    assert_eq!(plan.trials[5].describe(), "lr 0.01, drop 0.5");

    // A wrong range says what is wrong with it, and stays in the field.
    app.update(Msg::Key(press(KeyCode::Enter, false)));
    commands(&mut app, "0..1 log");
    app.update(Msg::Key(press(KeyCode::Enter, false)));
    assert!(text(&app).contains("must begin above 0"), "{}", text(&app));
    app.update(Msg::Key(press(KeyCode::Esc, false)));
    app.update(Msg::Key(press(KeyCode::Enter, false)));
    commands(&mut app, "1e-3,1e-2");
    app.update(Msg::Key(press(KeyCode::Enter, false)));
    assert!(text(&app).contains("1e-3,1e-2"));
    app.update(Msg::Key(press(KeyCode::Esc, false)));
    assert!(!text(&app).contains("1e-3,1e-2"));
    commands(&mut app, "S");
    assert!(app.sweep.is_none());
}
