//! Draws deer.

use crate::data::sample::art::{BLACK, WHITE};
use crate::data::sample::pen::{Pen, RandomSequence, mix, shade};

fn antlers(pen: &mut Pen, random: &mut RandomSequence, width: f32) {
    let horn = random.near([196, 164, 118], 20.0);
    for side in [-1.0, 1.0] {
        let x = |v: f32| side * v * width;
        pen.line(
            &[
                (x(0.14), 0.0),
                (x(0.4), -0.3),
                (x(0.5), -0.66),
                (x(0.42), -0.98),
            ],
            0.085,
            horn,
        );
        pen.line(&[(x(0.4), -0.3), (x(0.78), -0.52)], 0.075, horn);
        pen.line(&[(x(0.5), -0.62), (x(0.86), -0.86)], 0.07, horn);
    }
}

pub fn deer(pen: &mut Pen, random: &mut RandomSequence) {
    let coat = random.pick(&[[164, 110, 64], [134, 92, 58], [188, 134, 82], [120, 96, 78]]);
    let coat = random.near(coat, 14.0);
    let dark = shade(coat, 0.65);
    if random.chance(0.4) {
        // A head from the front.
        antlers(&mut pen.moved(0.0, -0.22, 0.0, 0.85), random, 1.05);
        pen.blob(
            &[(-0.5, 1.2), (-0.3, 0.4), (0.3, 0.4), (0.5, 1.2)],
            shade(coat, 0.85),
        );
        for side in [-1.0, 1.0] {
            pen.blob(
                &[
                    (side * 0.2, -0.2),
                    (side * 0.75, -0.42),
                    (side * 0.85, -0.2),
                    (side * 0.3, 0.08),
                ],
                coat,
            );
            pen.ellipse(side * 0.55, -0.2, 0.14, 0.06, [222, 190, 170]);
        }
        pen.blob(
            &[
                (-0.42, -0.34),
                (0.42, -0.34),
                (0.36, 0.3),
                (0.2, 0.86),
                (-0.2, 0.86),
                (-0.36, 0.3),
            ],
            coat,
        );
        pen.ellipse(0.0, 0.64, 0.18, 0.14, mix(coat, WHITE, 0.6));
        pen.ellipse(0.0, 0.58, 0.13, 0.09, BLACK);
        pen.circle(-0.24, 0.06, 0.09, BLACK);
        pen.circle(0.24, 0.06, 0.09, BLACK);
        return;
    }
    // A deer in profile, with thin legs, a long slender neck and a short white tail.
    for (x, far) in [(-0.4, true), (0.28, true), (-0.56, false), (0.14, false)] {
        let step = random.between(-0.07, 0.07);
        pen.line(
            &[(x, 0.3), (x + step, 1.0)],
            0.085,
            if far { dark } else { coat },
        );
    }
    pen.ellipse(-0.76, 0.02, 0.1, 0.14, WHITE);
    pen.blob(
        &[
            (-0.82, -0.08),
            (-0.2, -0.12),
            (0.42, -0.16),
            (0.5, 0.28),
            (0.0, 0.46),
            (-0.7, 0.4),
        ],
        coat,
    );
    pen.line(&[(0.28, 0.08), (0.5, -0.4)], 0.22, coat);
    if random.chance(0.5) {
        for (x, y) in [
            (-0.5, 0.04),
            (-0.25, 0.0),
            (0.0, 0.06),
            (-0.38, 0.16),
            (-0.1, 0.18),
        ] {
            pen.circle(x, y, 0.045, [240, 226, 200]);
        }
    }
    pen.blob(
        &[
            (0.4, -0.58),
            (0.66, -0.6),
            (0.98, -0.36),
            (0.92, -0.24),
            (0.5, -0.28),
        ],
        coat,
    );
    pen.circle(0.92, -0.32, 0.06, BLACK);
    pen.circle(0.64, -0.46, 0.045, BLACK);
    pen.ellipse(0.36, -0.56, 0.15, 0.06, dark);
    antlers(&mut pen.moved(0.52, -0.52, 0.0, 0.62), random, 1.0);
}
