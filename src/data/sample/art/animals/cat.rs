//! Draws cats.

use super::{COATS, eyes};
use crate::data::sample::art::WHITE;
use crate::data::sample::pen::{Pen, RandomSequence, Rgb, mix, shade};

fn cat_face(pen: &mut Pen, random: &mut RandomSequence, coat: Rgb) {
    let dark = shade(coat, 0.55);
    for side in [-1.0, 1.0] {
        pen.polygon(
            &[
                (side * 0.12, -0.5),
                (side * 0.66, -1.05),
                (side * 0.78, -0.1),
            ],
            coat,
        );
        pen.polygon(
            &[
                (side * 0.32, -0.5),
                (side * 0.6, -0.85),
                (side * 0.66, -0.3),
            ],
            [226, 150, 146],
        );
    }
    pen.ellipse(0.0, 0.05, 0.82, 0.7, coat);
    if random.chance(0.6) {
        // Draw the stripes of a tabby.
        for x in [-0.2, 0.0, 0.2] {
            pen.line(&[(x, -0.6), (x * 0.8, -0.34)], 0.08, dark);
        }
        for side in [-1.0, 1.0] {
            pen.line(&[(side * 0.8, 0.0), (side * 0.58, 0.06)], 0.07, dark);
        }
    }
    pen.ellipse(0.0, 0.38, 0.36, 0.24, mix(coat, WHITE, 0.6));
    let iris = random.pick(&[[150, 200, 70], [226, 190, 60], [110, 180, 200]]);
    eyes(pen, 0.34, -0.08, 0.19, iris, true);
    pen.polygon(&[(-0.11, 0.2), (0.11, 0.2), (0.0, 0.34)], [214, 110, 116]);
    pen.line(&[(-0.16, 0.48), (0.0, 0.36), (0.16, 0.48)], 0.05, dark);
    let hair = if coat[1] > 140 { [60, 54, 52] } else { WHITE };
    for side in [-1.0, 1.0] {
        for y in [0.22, 0.38, 0.54] {
            pen.line(&[(side * 0.3, 0.36), (side * 1.05, y)], 0.035, hair);
        }
    }
}

pub fn cat(pen: &mut Pen, random: &mut RandomSequence) {
    let coat = random.pick(&COATS);
    let coat = random.near(coat, 16.0);
    if random.chance(0.6) {
        pen.ellipse(0.0, 1.0, 0.7, 0.5, shade(coat, 0.85));
        return cat_face(pen, random, coat);
    }
    // A sitting cat with its tail curled up.
    let tail = random.between(-0.2, 0.2);
    pen.line(
        &[
            (-0.4, 0.85),
            (-0.85, 0.7),
            (-0.92, 0.25),
            (-0.72, tail - 0.1),
        ],
        0.17,
        shade(coat, 0.8),
    );
    pen.blob(
        &[
            (-0.72, 1.05),
            (-0.5, 0.1),
            (0.0, -0.3),
            (0.5, 0.1),
            (0.62, 1.05),
        ],
        coat,
    );
    pen.ellipse(0.0, 0.5, 0.2, 0.36, mix(coat, WHITE, 0.5));
    for x in [-0.18, 0.2] {
        pen.line(&[(x, 0.4), (x, 0.92)], 0.16, shade(coat, 0.9));
    }
    cat_face(&mut pen.moved(0.02, -0.32, 0.0, 0.6), random, coat);
}
