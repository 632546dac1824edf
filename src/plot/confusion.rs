//! The confusion matrix as a heat map.

use super::{Area, GREY, INK, PAPER, PlotError, SIZE, picture, text};
use crate::domain::confusion::Confusion;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A confusion matrix as PNG, 1200x800: rows are true classes, columns predicted classes, and colour is the share of
/// the row. `title` names the run and the images. A class without a name in `classes` is shown as its index.
///
/// # Errors
/// Returns an error if there are no classes, or drawing or encoding fails.
pub fn confusion(
    matrix: &Confusion,
    classes: &[String],
    title: &str,
) -> Result<Vec<u8>, PlotError> {
    if matrix.classes == 0 {
        return Err(PlotError("the confusion matrix has no classes".into()));
    }
    picture(|area| draw(area, matrix, classes, title))
}

fn draw(area: &Area, matrix: &Confusion, classes: &[String], title: &str) -> Result<(), PlotError> {
    let n = matrix.classes as i32;
    let (left, top) = (150, 140);
    let width = (SIZE.0 as i32 - left - 170) / n;
    let height = (SIZE.1 as i32 - top - 30) / n;
    let put = |words: &str, style: TextStyle, at: (i32, i32)| {
        area.draw_text(words, &style, at).map_err(PlotError::of)
    };
    let at = |h, v| Pos::new(h, v);
    put("Confusion", text(34, INK), (left, 18))?;
    let accuracy = match matrix.accuracy() {
        Some(share) => format!("accuracy {:.2}%", share * 100.0),
        None => "no images".into(),
    };
    put(
        &accuracy,
        text(22, INK).pos(at(HPos::Right, VPos::Top)),
        (SIZE.0 as i32 - 30, 28),
    )?;
    put(title, text(19, GREY), (left, 60))?;
    let name = |class: i32| {
        let number = class.to_string();
        classes.get(class as usize).cloned().unwrap_or(number)
    };
    // With more than ten classes, the names are smaller.
    let label = (width / 5).clamp(8, 18) as u32;
    for class in 0..n {
        put(
            &name(class),
            text(label, INK).pos(at(HPos::Center, VPos::Bottom)),
            (left + class * width + width / 2, top - 8),
        )?;
        put(
            &name(class),
            text(18.min(height as u32).max(8), INK).pos(at(HPos::Right, VPos::Center)),
            (left - 12, top + class * height + height / 2),
        )?;
        let recall = match matrix.recall(class as usize) {
            Some(share) => format!("{:.1}%", share * 100.0),
            None => "–".into(),
        };
        put(
            &recall,
            text(18, INK).pos(at(HPos::Right, VPos::Center)),
            (SIZE.0 as i32 - 50, top + class * height + height / 2),
        )?;
    }
    put(
        "true",
        text(16, GREY).pos(at(HPos::Right, VPos::Bottom)),
        (left - 12, top - 8),
    )?;
    put(
        "called",
        text(16, GREY).pos(at(HPos::Center, VPos::Bottom)),
        (left + n * width / 2, top - 32),
    )?;
    put(
        "recall",
        text(16, GREY).pos(at(HPos::Right, VPos::Bottom)),
        (SIZE.0 as i32 - 50, top - 8),
    )?;
    for truth in 0..n {
        let total = matrix.row_total(truth as usize).max(1);
        for called in 0..n {
            let count = matrix.count(truth as usize, called as usize);
            let share = f64::from(count) / f64::from(total);
            let (x, y) = (left + called * width, top + truth * height);
            let fill = heat(share, truth == called);
            area.draw(&Rectangle::new(
                [(x + 1, y + 1), (x + width - 2, y + height - 2)],
                fill.filled(),
            ))
            .map_err(PlotError::of)?;
            let ink = match (count, dark(fill)) {
                (0, _) => RGBColor(190, 194, 202),
                (_, true) => PAPER,
                (_, false) => INK,
            };
            let size = (height / 3).clamp(8, 21) as u32;
            put(
                &thousands(count),
                text(size, ink).pos(at(HPos::Center, VPos::Center)),
                (x + width / 2, y + height / 2),
            )?;
        }
    }
    Ok(())
}

/// White to blue on the diagonal, white to vermilion elsewhere. The square root emphasises small shares, such as
/// mistakes.
fn heat(share: f64, right: bool) -> RGBColor {
    let full = match right {
        true => (0.0, 84.0, 150.0),
        false => (190.0, 60.0, 0.0),
    };
    let t = match right {
        true => share,
        false => (share * 1.6).min(1.0).sqrt(),
    };
    let mix = |to: f64| (247.0 + (to - 247.0) * t).round() as u8;
    RGBColor(mix(full.0), mix(full.1), mix(full.2))
}

/// Whether white text is more readable than black on this colour (relative luminance, ITU-R BT.709).
fn dark(RGBColor(r, g, b): RGBColor) -> bool {
    0.2126 * f64::from(r) + 0.7152 * f64::from(g) + 0.0722 * f64::from(b) < 140.0
}

fn thousands(count: u32) -> String {
    match count {
        0..1000 => count.to_string(),
        _ => format!("{},{:03}", count / 1000, count % 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        "airplane automobile bird cat deer dog frog horse ship truck"
            .split(' ')
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn the_diagonal_is_blue_and_mistakes_are_not() {
        let mut matrix = Confusion::new(10);
        for truth in 0..10 {
            for called in 0..10 {
                matrix.counts[truth * 10 + called] = match truth == called {
                    true => 600 + 35 * truth as u32,
                    false => ((truth * 7 + called * 13) % 37) as u32,
                };
            }
        }
        matrix.counts[3 * 10 + 5] = 212;
        matrix.counts[9 * 10 + 9] = 1012;
        let png = confusion(&matrix, &names(), "seed-0412 · 10,000 test images").unwrap();
        if let Some(folder) = std::env::var_os("CIFAR_TUI_PICTURES") {
            std::fs::write(std::path::Path::new(&folder).join("confusion.png"), &png).unwrap();
        }
        let picture = image::load_from_memory(&png).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), SIZE);
        // A corner of the cells (cat, cat) and (cat, dog).
        let (width, height) = ((1200 - 150 - 170) / 10, (800 - 140 - 30) / 10);
        let cell = |called: u32, truth: u32| {
            picture
                .get_pixel(150 + called * width + 4, 140 + truth * height + 4)
                .0
        };
        assert!(cell(3, 3)[2] > cell(3, 3)[0] + 50, "{:?}", cell(3, 3));
        assert!(cell(5, 3)[0] > cell(5, 3)[2] + 50, "{:?}", cell(5, 3));
    }

    #[test]
    fn an_empty_matrix_and_one_of_many_classes_are_drawn() {
        assert!(confusion(&Confusion::new(10), &names(), "empty").is_ok());
        assert!(confusion(&Confusion::new(100), &[], "many").is_ok());
        assert!(confusion(&Confusion::new(0), &[], "none").is_err());
    }
}
