//! Draws dogs.

use super::COATS;
use crate::data::sample::art::{BLACK, PAINTS, WHITE};
use crate::data::sample::pen::{Pen, RandomSequence, Rgb, mix, shade};

fn dog_face(pen: &mut Pen, random: &mut RandomSequence, coat: Rgb) {
    let ear = shade(coat, random.between(0.45, 0.7));
    let muzzle = mix(coat, WHITE, random.between(0.3, 0.75));
    pen.blob(
        &[
            (-0.6, -0.8),
            (0.6, -0.8),
            (0.78, 0.0),
            (0.45, 0.95),
            (-0.45, 0.95),
            (-0.78, 0.0),
        ],
        coat,
    );
    if random.chance(0.35) {
        pen.ellipse(0.26, -0.18, 0.26, 0.28, ear);
    }
    for side in [-1.0, 1.0] {
        // Ears hang from the top of the head.
        pen.blob(
            &[
                (side * 0.3, -0.85),
                (side * 0.85, -0.9),
                (side * 1.15, 0.1),
                (side * 0.85, 0.6),
                (side * 0.62, 0.0),
            ],
            ear,
        );
    }
    if random.chance(0.6) {
        pen.ellipse(0.0, 0.86, 0.15, 0.24, [222, 96, 110]);
    }
    pen.ellipse(0.0, 0.42, 0.42, 0.38, muzzle);
    pen.line(&[(0.0, 0.3), (0.0, 0.6)], 0.05, shade(muzzle, 0.45));
    pen.line(
        &[(-0.26, 0.62), (0.0, 0.68), (0.26, 0.62)],
        0.05,
        shade(muzzle, 0.45),
    );
    pen.ellipse(0.0, 0.2, 0.21, 0.15, BLACK);
    for side in [-1.0, 1.0] {
        pen.circle(side * 0.3, -0.16, 0.12, [54, 34, 24]);
        pen.circle(side * 0.33, -0.2, 0.045, WHITE);
    }
}

pub fn dog(pen: &mut Pen, random: &mut RandomSequence) {
    let coat = random.pick(&COATS);
    let coat = random.near(coat, 16.0);
    if random.chance(0.6) {
        pen.ellipse(0.0, 1.05, 0.62, 0.4, shade(coat, 0.85));
        return dog_face(pen, random, coat);
    }
    // A standing dog in profile with its tail up.
    let dark = shade(coat, 0.7);
    let wag = random.between(-0.25, 0.1);
    pen.line(
        &[(-0.68, -0.02), (-0.9, -0.35), (-0.85 + wag, -0.62)],
        0.13,
        coat,
    );
    for (x, far) in [(-0.42, true), (0.4, true), (-0.62, false), (0.24, false)] {
        let step = random.between(-0.08, 0.08);
        pen.line(
            &[(x, 0.3), (x + step, 0.9)],
            0.17,
            if far { dark } else { coat },
        );
    }
    pen.blob(
        &[
            (-0.85, -0.14),
            (-0.2, -0.16),
            (0.5, -0.2),
            (0.62, 0.2),
            (0.3, 0.5),
            (-0.3, 0.38),
            (-0.8, 0.42),
        ],
        coat,
    );
    pen.blob(&[(0.3, 0.1), (0.3, -0.55), (0.7, -0.7), (0.75, 0.1)], coat);
    pen.circle(0.58, -0.46, 0.28, coat);
    pen.blob(
        &[
            (0.6, -0.56),
            (0.98, -0.48),
            (1.1, -0.3),
            (0.95, -0.18),
            (0.6, -0.22),
        ],
        mix(coat, WHITE, 0.4),
    );
    pen.circle(1.0, -0.44, 0.09, BLACK);
    pen.circle(0.68, -0.54, 0.06, BLACK);
    let ear = shade(coat, 0.5);
    pen.blob(
        &[
            (0.34, -0.72),
            (0.56, -0.7),
            (0.56, -0.2),
            (0.42, 0.02),
            (0.26, -0.2),
        ],
        ear,
    );
    let collar = random.pick(&PAINTS);
    pen.line(&[(0.34, -0.1), (0.72, -0.06)], 0.09, collar);
}
