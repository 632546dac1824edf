//! Keys, clicks and random input on every screen.

use super::*;

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
