//! The header, the footer and messages.

use super::*;

#[test]
fn no_end_is_estimated_while_nothing_is_trained() {
    for (name, events) in states() {
        let app = app(Colors::True, 120, 36, &events);
        let text = rows(&paint(&app));
        let foretold = text.contains("ETA") || text.contains("ends about");
        assert_eq!(
            foretold,
            matches!(name, "running" | "compared" | "disk_full"),
            "{name}: {text}"
        );
    }
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
