//! Loss or accuracy over the epochs: training and validation, the best epoch, and the changes made during the run.

use super::{
    Area, FONT, GREY, INK, PAPER, PlotError, RULE, SIZE, TRAIN, VALIDATION, WRONG, picture, text,
};
use crate::domain::marks::{Mark, merged};
use crate::domain::report::{EpochReport, Split, StepReport};
use crate::domain::scale::cut_off;
use crate::domain::text::compact;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The curve to plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    Accuracy,
    Loss,
}

/// Approximate share of the picture's width that a mark's label takes.
const LABEL_SHARE: f64 = 0.14;

/// The data to plot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Curves<'a> {
    /// The run's name and recipe.
    pub title: &'a str,
    pub epochs: &'a [EpochReport],
    /// The training curve in detail. May be empty.
    pub steps: &'a [StepReport],
    pub marks: &'a [Mark],
}

type PlotArea<'a, 'b> =
    ChartContext<'a, BitMapBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// The picture as PNG, 1200x800.
///
/// # Errors
/// Returns an error if drawing or encoding fails.
pub fn curves(curve: Curve, what: &Curves) -> Result<Vec<u8>, PlotError> {
    picture(|area| draw(area, curve, what))
}

/// (training, validation) of an epoch, as drawn: accuracy in percent.
fn values(curve: Curve, epoch: &EpochReport) -> (f64, f64) {
    match curve {
        Curve::Accuracy => (epoch.train_accuracy * 100.0, epoch.accuracy * 100.0),
        Curve::Loss => (epoch.train_loss, epoch.loss),
    }
}

fn step_value(curve: Curve, step: &StepReport) -> f64 {
    match curve {
        Curve::Accuracy => 100.0 * step.correct as f64 / step.images.max(1) as f64,
        Curve::Loss => step.loss,
    }
}

/// The position of a step report, in epochs.
fn place(step: &StepReport) -> f64 {
    f64::from(step.epoch.max(1) - 1)
        + step.step_in_epoch as f64 / step.steps_per_epoch.max(1) as f64
}

fn show(curve: Curve, value: f64) -> String {
    match curve {
        Curve::Accuracy => format!("{value:.1}%"),
        Curve::Loss => compact(value, 3),
    }
}

fn draw(area: &Area, curve: Curve, what: &Curves) -> Result<(), PlotError> {
    let (name, key) = match curve {
        Curve::Accuracy => ("Accuracy", "accuracy, %"),
        Curve::Loss => ("Loss", "cross-entropy"),
    };
    let put = |words: &str, style: &TextStyle, at: (i32, i32)| {
        area.draw_text(words, style, at).map_err(PlotError::of)
    };
    put(name, &text(34, INK), (86, 22))?;
    put(what.title, &text(19, GREY), (86, 62))?;

    let right = what
        .epochs
        .iter()
        .map(|e| e.position)
        .chain(what.steps.iter().map(place))
        .fold(1.0, f64::max);
    let finite = || {
        what.epochs
            .iter()
            .flat_map(|e| <[f64; 2]>::from(values(curve, e)))
            .chain(what.steps.iter().map(|s| step_value(curve, s)))
            .filter(|v| v.is_finite())
    };
    let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| {
        (a.min(v), b.max(v))
    });
    if low > high {
        let centred = text(24, GREY).pos(Pos::new(HPos::Center, VPos::Center));
        return put(
            "nothing was measured",
            &centred,
            (SIZE.0 as i32 / 2, SIZE.1 as i32 / 2),
        );
    }
    let steps = what.steps.iter().map(|s| step_value(curve, s));
    let train = what.epochs.iter().map(|e| values(curve, e).0);
    let seen: Vec<f64> = steps.chain(train).collect();
    // The values in the order of x, from the finer curve if there is one.
    let seen = match what.steps.len() {
        0 => &seen[..],
        n => &seen[..n],
    };
    let beyond = high;
    let high = match curve {
        Curve::Loss => cut_off(seen).unwrap_or(high).min(high),
        Curve::Accuracy => high,
    };
    let margin = ((high - low) * 0.08).max(if curve == Curve::Loss { 0.02 } else { 1.0 });
    let bottom = (low - margin).max(0.0);
    let top = match curve {
        Curve::Accuracy => (high + margin).min(100.0),
        Curve::Loss => high + margin,
    };

    let mut chart = ChartBuilder::on(area)
        .margin_top(110)
        .margin_right(36)
        .margin_left(8)
        .margin_bottom(14)
        .x_label_area_size(60)
        .y_label_area_size(78)
        .build_cartesian_2d(0.0..right, bottom..top)
        .map_err(PlotError::of)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RULE)
        .axis_style(GREY)
        .x_labels((right as usize + 1).min(16))
        .y_labels(9)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| match curve {
            Curve::Accuracy => format!("{y:.0}"),
            Curve::Loss if top >= 1e5 => compact(*y, 1),
            Curve::Loss if top - bottom < 0.5 => format!("{y:.2}"),
            Curve::Loss => format!("{y:.1}"),
        })
        .label_style(text(18, GREY))
        .x_desc("epoch")
        .y_desc(key)
        .axis_desc_style((FONT, 18).into_font().color(&GREY))
        .draw()
        .map_err(PlotError::of)?;

    // Values above the axis are drawn along its upper end.
    let held = |y: f64| if y > top { top } else { y };
    let detail = what
        .steps
        .iter()
        .map(|s| (place(s), held(step_value(curve, s))));
    line(&mut chart, detail, TRAIN.mix(0.28), 1, false)?;
    let at = |e: &EpochReport| e.position;
    let train = what
        .epochs
        .iter()
        .map(|e| (at(e), held(values(curve, e).0)));
    line(&mut chart, train, TRAIN.to_rgba(), 3, true)?;
    let validation = what
        .epochs
        .iter()
        .map(|e| (at(e), held(values(curve, e).1)));
    line(&mut chart, validation, VALIDATION.to_rgba(), 3, true)?;
    best(&mut chart, curve, what.epochs)?;
    let stretches = merged(what.marks, right * LABEL_SHARE);
    marks(area, &mut chart, &stretches, right, (bottom, top))?;
    if beyond > top {
        let first = what
            .steps
            .iter()
            .map(|s| (place(s), step_value(curve, s)))
            .chain(what.epochs.iter().map(|e| (at(e), values(curve, e).0)))
            .chain(what.epochs.iter().map(|e| (at(e), values(curve, e).1)))
            .filter(|p| p.1 > top)
            .map(|p| p.0)
            .reduce(f64::min);
        arrow(area, &chart, first.unwrap_or(right), top, beyond)?;
    }
    diverged(&mut chart, curve, what, (bottom, top))?;
    legend(area, curve, what.epochs)
}

/// Draws one line, interrupted where a value is not finite.
fn line(
    chart: &mut PlotArea,
    points: impl Iterator<Item = (f64, f64)>,
    color: RGBAColor,
    width: u32,
    dots: bool,
) -> Result<(), PlotError> {
    let points: Vec<_> = points.collect();
    for part in points.split(|p| !p.1.is_finite()) {
        chart
            .draw_series(LineSeries::new(
                part.iter().copied(),
                color.stroke_width(width),
            ))
            .map_err(PlotError::of)?;
        // With more points, the dots would overlap. A single point is only visible as a dot.
        if dots && (points.len() <= 60 || part.len() == 1) {
            chart
                .draw_series(part.iter().map(|&p| Circle::new(p, 4, color.filled())))
                .map_err(PlotError::of)?;
        }
    }
    Ok(())
}

fn marks(
    area: &Area,
    chart: &mut PlotArea,
    marks: &[Mark],
    right: f64,
    (bottom, top): (f64, f64),
) -> Result<(), PlotError> {
    for (i, mark) in marks.iter().enumerate() {
        let x = mark.x.clamp(0.0, right);
        chart
            .draw_series(DashedLineSeries::new(
                [(x, bottom), (x, top)],
                6,
                5,
                GREY.stroke_width(1),
            ))
            .map_err(PlotError::of)?;
        // Labels use four rows, so that close changes stay readable. Near the right edge they are left of their mark.
        let (x, y) = chart.backend_coord(&(x, top));
        let y = y + (i % 4) as i32 * 24 + 6;
        let style = text(16, INK);
        // The built-in font has no arrows.
        let words = mark.label().replace('→', " to ");
        let (width, height) = area
            .estimate_text_size(&words, &style)
            .map_err(PlotError::of)?;
        let x = match mark.x > right * 0.7 {
            true => x - width as i32 - 8,
            false => x + 8,
        };
        area.draw(&Rectangle::new(
            [
                (x - 3, y - 3),
                (x + width as i32 + 3, y + height as i32 + 5),
            ],
            PAPER.mix(0.85).filled(),
        ))
        .map_err(PlotError::of)?;
        area.draw_text(&words, &style, (x, y))
            .map_err(PlotError::of)?;
    }
    Ok(())
}

/// Draws an arrow where a curve first leaves the chart at the top, with the largest value.
fn arrow(area: &Area, chart: &PlotArea, x: f64, top: f64, beyond: f64) -> Result<(), PlotError> {
    let (x, y) = chart.backend_coord(&(x, top));
    let tip = [(x - 9, y), (x + 9, y), (x, y - 16)];
    area.draw(&Polygon::new(tip, WRONG))
        .map_err(PlotError::of)?;
    let style = text(18, WRONG).pos(Pos::new(HPos::Left, VPos::Bottom));
    let words = format!("up to {}", compact(beyond, 3));
    area.draw_text(&words, &style, (x + 14, y))
        .map_err(PlotError::of)
}

/// Marks the epoch of the highest validation accuracy, whose weights are in `best.safetensors`, on either curve.
fn best_epoch(epochs: &[EpochReport]) -> Option<&EpochReport> {
    epochs.iter().rev().find(|e| e.best)
}

fn best(chart: &mut PlotArea, curve: Curve, epochs: &[EpochReport]) -> Result<(), PlotError> {
    let at = best_epoch(epochs).map(|e| (e.position, values(curve, e).1));
    let ring = at
        .filter(|at| at.1.is_finite())
        .map(|at| Circle::new(at, 9, VALIDATION.stroke_width(2)));
    chart.draw_series(ring).map_err(PlotError::of)?;
    Ok(())
}

/// Marks the first loss that is not finite.
fn diverged(
    chart: &mut PlotArea,
    curve: Curve,
    what: &Curves,
    (bottom, top): (f64, f64),
) -> Result<(), PlotError> {
    let lost = what
        .steps
        .iter()
        .find(|s| !s.loss.is_finite())
        .map(place)
        .or_else(|| {
            let epoch = what
                .epochs
                .iter()
                .find(|e| !e.train_loss.is_finite() || !values(curve, e).1.is_finite());
            epoch.map(|e| e.position)
        });
    let Some(x) = lost else { return Ok(()) };
    let style = text(18, WRONG).pos(Pos::new(HPos::Right, VPos::Top));
    chart
        .draw_series(std::iter::once(PathElement::new(
            [(x, bottom), (x, top)],
            WRONG.stroke_width(3),
        )))
        .map_err(PlotError::of)?;
    chart
        .draw_series(std::iter::once(
            EmptyElement::at((x, top)) + Text::new("diverged", (-10, 100), style),
        ))
        .map_err(PlotError::of)?;
    Ok(())
}

/// The legend at the top right: the colours and the last values.
fn legend(area: &Area, curve: Curve, epochs: &[EpochReport]) -> Result<(), PlotError> {
    let last = epochs.last().map(|e| values(curve, e));
    let scored = epochs.last().map_or(Split::Validation, |e| e.split);
    let rows = [
        ("training", TRAIN, last.map(|l| l.0)),
        (scored.name(), VALIDATION, last.map(|l| l.1)),
    ];
    let right = SIZE.0 as i32 - 36;
    for (i, (name, color, value)) in rows.into_iter().enumerate() {
        let y = 36 + i as i32 * 28;
        let end = text(20, INK).pos(Pos::new(HPos::Right, VPos::Center));
        if let Some(value) = value {
            area.draw_text(&show(curve, value), &end, (right, y))
                .map_err(PlotError::of)?;
        }
        let start = text(20, INK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw_text(name, &start, (right - 180, y))
            .map_err(PlotError::of)?;
        area.draw(&PathElement::new(
            [(right - 226, y + 1), (right - 190, y + 1)],
            color.stroke_width(4),
        ))
        .map_err(PlotError::of)?;
    }
    if let Some(best) = best_epoch(epochs) {
        let words = format!(
            "best epoch {}: {}",
            best.epoch,
            show(curve, values(curve, best).1)
        );
        let end = text(18, VALIDATION).pos(Pos::new(HPos::Right, VPos::Center));
        area.draw_text(&words, &end, (right, 90))
            .map_err(PlotError::of)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::marks::Marked;
    use crate::domain::params::{Change, Value};

    fn epoch(epoch: u32, val_accuracy: f64, best: bool) -> EpochReport {
        EpochReport {
            epoch,
            step: u64::from(epoch) * 1250,
            train_loss: 2.3 / f64::from(epoch).sqrt(),
            train_accuracy: val_accuracy - 0.03,
            loss: 2.2 / f64::from(epoch).sqrt() - 0.05,
            split: Split::Validation,
            accuracy: val_accuracy,
            test_accuracy: None,
            average: None,
            best,
            images_per_s: 5000.0,
            elapsed: 8.0,
            position: f64::from(epoch),
            reached: None,
            tta: Default::default(),
        }
    }

    fn pixels(png: &[u8]) -> image::RgbImage {
        image::load_from_memory(png).unwrap().to_rgb8()
    }

    fn has(picture: &image::RgbImage, color: RGBColor) -> usize {
        let RGBColor(r, g, b) = color;
        picture.pixels().filter(|p| p.0 == [r, g, b]).count()
    }

    #[test]
    fn a_run_has_both_curves_its_best_epoch_and_its_changes() {
        let epochs: Vec<_> = (1..=15)
            .map(|e| epoch(e, 0.66 - 0.3 / f64::from(e), e <= 13))
            .collect();
        let steps: Vec<_> = (0..300)
            .map(|i| StepReport {
                first: i * 62 + 1,
                last: (i + 1) * 62,
                epoch: (i / 20) as u32 + 1,
                step_in_epoch: (i % 20 + 1) * 62,
                steps_per_epoch: 1250,
                images: 62 * 32,
                loss: 2.3 / (1.0 + i as f64 / 20.0).sqrt() + 0.05 * (i as f64 * 1.7).sin(),
                loss_min: 1.0,
                loss_max: 2.0,
                correct: 900 + (i as f64 * 1.3).sin().abs().mul_add(60.0, i as f64) as u64,
                grad_norm: 1.0,
                learning_rate: 1e-3,
                images_per_s: 5000.0,
                elapsed: i as f64,
                eta: None,
            })
            .collect();
        let mark = |x, key: &str, old, new| Mark {
            x,
            of: Marked::Change(Change {
                key: key.into(),
                old,
                new,
            }),
        };
        let marks = [
            mark(4.2, "learning_rate", Value::Float(1e-3), Value::Float(7e-4)),
            mark(4.3, "learning_rate", Value::Float(7e-4), Value::Float(5e-4)),
            mark(4.6, "dropout", Value::Float(0.5), Value::Float(0.4)),
            mark(12.5, "flip", Value::Bool(false), Value::Bool(true)),
        ];
        let what = Curves {
            title: "seed-0412 · CIFAR-10 · adam 0.001, batch 32",
            epochs: &epochs,
            steps: &steps,
            marks: &marks,
        };
        for curve in [Curve::Accuracy, Curve::Loss] {
            let png = curves(curve, &what).unwrap();
            keep(&format!("{curve:?}"), &png);
            let picture = pixels(&png);
            assert_eq!(picture.dimensions(), SIZE);
            assert!(has(&picture, TRAIN) > 500 && has(&picture, VALIDATION) > 500);
            assert_eq!(has(&picture, WRONG), 0);
        }
    }

    /// If CIFAR_TUI_PICTURES names a folder, saves the picture there for inspection.
    fn keep(name: &str, png: &[u8]) {
        if let Some(folder) = std::env::var_os("CIFAR_TUI_PICTURES") {
            let file = std::path::Path::new(&folder).join(format!("{name}.png"));
            std::fs::write(file, png).unwrap();
        }
    }

    #[test]
    fn divergence_is_seen_and_not_a_gap() {
        let mut epochs: Vec<_> = (1..=5).map(|e| epoch(e, 0.3, false)).collect();
        epochs[4].train_loss = f64::NAN;
        epochs[4].loss = f64::NAN;
        let what = Curves {
            title: "nan",
            epochs: &epochs,
            ..Default::default()
        };
        let png = curves(Curve::Loss, &what).unwrap();
        keep("diverged", &png);
        assert!(has(&pixels(&png), WRONG) > 500);
    }

    #[test]
    fn a_loss_that_explodes_leaves_with_an_arrow_and_the_curve_before_it_stays_seen() {
        let mut epochs: Vec<_> = (1..=8).map(|e| epoch(e, 0.3, false)).collect();
        let healthy = curves(
            Curve::Loss,
            &Curves {
                epochs: &epochs,
                ..Default::default()
            },
        );
        assert_eq!(has(&pixels(&healthy.unwrap()), WRONG), 0);
        (epochs[6].train_loss, epochs[6].loss) = (2e15, 40.0);
        epochs[7].train_loss = 3e9;
        let what = Curves {
            title: "explodes",
            epochs: &epochs,
            ..Default::default()
        };
        let png = curves(Curve::Loss, &what).unwrap();
        keep("explodes", &png);
        let picture = pixels(&png);
        assert!(has(&picture, WRONG) > 100, "the arrow and its words");
        // The rows that the finite part of the training curve covers. If the axis were not cut off, it would be a flat
        // line.
        let blue = |y: u32| (90..760).any(|x| picture.get_pixel(x, y).0 == [0, 114, 178]);
        let rows = (120..720).filter(|y| blue(*y)).count();
        assert!(rows > 100, "{rows}");
    }

    #[test]
    fn few_or_no_epochs_are_drawn_too() {
        let one = [epoch(1, 0.5, true)];
        let equal = [epoch(1, 0.5, true), epoch(2, 0.5, false)];
        let mut lost = epoch(1, 0.1, false);
        (lost.train_loss, lost.loss) = (f64::NAN, f64::INFINITY);
        let lost = [lost];
        for epochs in [&[][..], &one, &equal, &lost] {
            for curve in [Curve::Accuracy, Curve::Loss] {
                let what = Curves {
                    epochs,
                    ..Default::default()
                };
                assert_eq!(pixels(&curves(curve, &what).unwrap()).dimensions(), SIZE);
            }
        }
    }
}
