//! Draws horses.

use super::COATS;
use crate::data::sample::art::{BLACK, PAINTS, WHITE};
use crate::data::sample::pen::{Pen, RandomSequence, mix, shade};

pub fn horse(pen: &mut Pen, random: &mut RandomSequence) {
    let coat = random.pick(&COATS);
    let coat = random.near(coat, 14.0);
    let mane = if coat[0] > 120 && random.chance(0.7) {
        shade(coat, 0.3)
    } else {
        mix(coat, [236, 220, 180], 0.7)
    };
    if random.chance(0.3) {
        // A head with its neck.
        pen.blob(
            &[
                (-1.0, 1.2),
                (-0.8, 0.2),
                (-0.35, -0.7),
                (0.2, -0.7),
                (0.2, 0.1),
                (0.35, 1.2),
            ],
            coat,
        );
        pen.polygon(&[(-0.12, -0.6), (0.0, -1.05), (0.16, -0.6)], coat);
        pen.blob(
            &[
                (-0.15, -0.72),
                (0.3, -0.72),
                (0.9, 0.08),
                (0.95, 0.42),
                (0.6, 0.52),
                (0.1, 0.05),
            ],
            coat,
        );
        pen.blob(
            &[(0.62, 0.1), (0.9, 0.1), (0.94, 0.44), (0.62, 0.48)],
            mix(coat, [90, 76, 72], 0.5),
        );
        pen.circle(0.82, 0.24, 0.06, BLACK);
        pen.circle(0.26, -0.36, 0.085, BLACK);
        pen.blob(
            &[
                (0.05, -0.85),
                (-0.3, -0.75),
                (-0.75, -0.1),
                (-1.02, 0.7),
                (-0.6, 0.6),
                (-0.4, -0.05),
            ],
            mane,
        );
        if random.chance(0.5) {
            pen.line(&[(0.42, -0.5), (0.7, -0.02)], 0.1, WHITE);
        }
        if random.chance(0.4) {
            pen.line(&[(0.5, 0.3), (0.66, -0.1)], 0.05, [120, 40, 36]);
            pen.line(&[(0.56, 0.1), (-0.1, -0.3)], 0.05, [120, 40, 36]);
        }
        return;
    }
    // A horse in profile, with a heavy body, a thick arched neck with a mane, and a long tail.
    pen.blob(
        &[
            (-0.7, -0.14),
            (-0.95, -0.1),
            (-1.02, 0.6),
            (-0.86, 0.72),
            (-0.76, 0.2),
        ],
        mane,
    );
    let dark = shade(coat, 0.7);
    for (x, far) in [(-0.4, true), (0.36, true), (-0.6, false), (0.2, false)] {
        let step = random.between(-0.14, 0.14);
        let colour = if far { dark } else { coat };
        pen.line(
            &[(x, 0.25), (x + step * 0.3, 0.62), (x + step, 0.94)],
            0.15,
            colour,
        );
        pen.line(
            &[(x + step, 0.96), (x + step + 0.04, 0.96)],
            0.13,
            shade(colour, 0.45),
        );
    }
    pen.blob(
        &[
            (-0.88, -0.22),
            (-0.3, -0.1),
            (0.3, -0.26),
            (0.62, 0.1),
            (0.3, 0.46),
            (-0.3, 0.4),
            (-0.86, 0.46),
        ],
        coat,
    );
    pen.polygon(
        &[(0.1, -0.1), (0.42, -0.82), (0.72, -0.72), (0.58, 0.22)],
        coat,
    );
    pen.polygon(&[(0.48, -0.78), (0.52, -1.0), (0.64, -0.76)], coat);
    pen.blob(
        &[
            (0.42, -0.86),
            (0.72, -0.84),
            (1.1, -0.36),
            (1.02, -0.18),
            (0.84, -0.2),
            (0.56, -0.5),
        ],
        coat,
    );
    pen.circle(0.98, -0.28, 0.05, BLACK);
    pen.circle(0.68, -0.66, 0.05, BLACK);
    pen.blob(
        &[
            (0.58, -0.92),
            (0.36, -0.88),
            (0.1, -0.45),
            (0.0, -0.08),
            (0.22, -0.1),
            (0.36, -0.5),
        ],
        mane,
    );
    if random.chance(0.35) {
        let saddle = random.pick(&PAINTS);
        pen.blob(
            &[(-0.34, -0.22), (0.1, -0.24), (0.06, 0.14), (-0.26, 0.14)],
            saddle,
        );
    }
}
