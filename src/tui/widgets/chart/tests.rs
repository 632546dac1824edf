//! Tests of charts as text.

use super::*;
use crate::domain::symbols::Symbols;
use crate::tui::theme::Colors;

fn drawn(chart: &Chart, width: u16, height: u16) -> Vec<String> {
    let area = Rect::new(0, 0, width, height);
    let mut buf = Buffer::empty(area);
    chart.draw(
        Theme {
            colors: Colors::None,
            symbols: Symbols::Braille,
        },
        area,
        &mut buf,
    );
    (0..height)
        .map(|y| (0..width).map(|x| buf[(x, y)].symbol()).collect::<String>())
        .collect()
}

#[test]
fn steps_are_round() {
    assert_eq!(nice_step(2.3, 4.0), 1.0);
    assert_eq!(nice_step(1.0, 5.0), 0.2);
    assert_eq!(nice_step(15.0, 8.0), 2.0);
    assert!((nice_step(0.07, 5.0) - 0.02).abs() < 1e-12);
}

#[test]
fn labels_of_large_values_are_whole_and_short() {
    let labels = [0.0, 5e4, 10e4, 15e4].map(|value| label(value, 5e4, 15e4));
    assert_eq!(labels, ["0", "5e4", "1e5", "15e4"]);
    assert_eq!(label(-20e14, 1e14, 20e14), "-2e15");
}

#[test]
fn a_falling_line_runs_from_corner_to_corner() {
    let line = [(0.0, 2.0), (4.0, 1.0)];
    let rows = drawn(
        &Chart {
            x: (0.0, 4.0),
            train: &line,
            ..Chart::default()
        },
        46,
        10,
    );
    let column = |row: &str| {
        row.chars()
            .skip(usize::from(GUTTER))
            .position(|c| ('\u{2801}'..='\u{28ff}').contains(&c))
    };
    assert_eq!(column(&rows[0]), Some(0));
    assert!(column(&rows[7]).unwrap() >= 34, "{rows:#?}");
    assert!(
        rows[0].contains("2.0") && rows[7].contains("1.0"),
        "{rows:#?}"
    );
    assert!(rows[9].trim_start().starts_with('0') && rows[9].contains('4'));
}

#[test]
fn marks_best_and_divergence_are_seen_without_colour() {
    let curve: Vec<(f64, f64)> = (0..50).map(|i| (f64::from(i) / 10.0, 0.5)).collect();
    let rows = drawn(
        &Chart {
            x: (0.0, 10.0),
            percent: true,
            train: &curve,
            validation: &[(1.0, 0.4), (2.0, 0.6)],
            best: Some((2.0, 0.6)),
            marks: &[(3.0, "lr 0.1→0.05".into()), (3.1, "drop 0.3".into())],
            broken: &[5.1],
            ..Chart::default()
        },
        70,
        12,
    )
    .join("\n");
    for glyph in ["◆", "•", "lr 0.1→0.05", "drop 0.3", "▲", "╳", "NaN"] {
        assert!(rows.contains(glyph), "{glyph}\n{rows}");
    }
}

#[test]
fn an_exploding_loss_is_cut_off_and_the_curve_before_it_stays_visible() {
    let mut curve: Vec<(f64, f64)> = (0..40)
        .map(|i| (f64::from(i) / 10.0, 2.3 - 0.03 * f64::from(i)))
        .collect();
    curve.extend([(4.0, 50.0), (4.1, 2e15)]);
    let chart = Chart {
        x: (0.0, 6.0),
        train: &curve,
        ..Chart::default()
    };
    let rows = drawn(&chart, 66, 14);
    assert!(
        rows[0].contains('↑') && rows[0].contains("↑2.0e15"),
        "{rows:#?}"
    );
    let labels: Vec<&str> = rows[..12]
        .iter()
        .filter_map(|r| r.split(['┤', '│']).next())
        .map(str::trim)
        .collect();
    assert!(labels.iter().all(|l| l.len() <= 3), "{labels:?}");
    // The finite part of the curve covers more than one row.
    let dots = |row: &String| row.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c));
    assert!(rows.iter().filter(|r| dots(r)).count() >= 4, "{rows:#?}");
    // On a logarithmic axis everything fits, with labels that fit.
    let rows = drawn(
        &Chart {
            log_y: true,
            ..chart.clone()
        },
        66,
        14,
    );
    assert!(!rows.join("").contains('↑'), "{rows:#?}");
    assert!(
        rows.iter()
            .any(|r| r.contains("1e15┤") || r.contains("1e12┤")),
        "{rows:#?}"
    );
    // Zoomed in to the exploding values only.
    let rows = drawn(
        &Chart {
            x: (4.05, 4.2),
            ..chart
        },
        66,
        14,
    );
    assert!(
        rows.iter()
            .any(|r| r.contains("e14┤") || r.contains("e15┤")),
        "{rows:#?}"
    );
}

#[test]
fn nothing_panics() {
    let wild = [
        (0.0, f64::NAN),
        (0.1, 1e300),
        (0.2, -1e300),
        (0.3, 0.0),
        (f64::NAN, 1.0),
        (1e12, 2.0),
    ];
    for (width, height) in [(0, 0), (1, 1), (10, 4), (11, 5), (80, 24), (300, 100)] {
        for log_y in [false, true] {
            for percent in [false, true] {
                for x in [(0.0, 1.0), (0.0, 0.0), (0.0, 1e9)] {
                    drawn(
                        &Chart {
                            log_x: false,
                            x,
                            log_y,
                            percent,
                            raw: &wild,
                            train: &wild,
                            validation: &wild,
                            branches: &[Branch {
                                name: "with",
                                train: &wild,
                                validation: &wild,
                                style: Style::default(),
                            }],
                            best: Some((0.3, f64::INFINITY)),
                            marks: &[(0.5, "a label that is longer than the chart".into())],
                            broken: &[0.4, f64::NAN],
                            cursor: Some(0.2),
                            target: Some(0.94),
                        },
                        width,
                        height,
                    );
                }
            }
        }
    }
}
