//! Draws frogs.

use crate::data::sample::art::BLACK;
use crate::data::sample::pen::{Pen, RandomSequence, mix, shade};

pub fn frog(pen: &mut Pen, random: &mut RandomSequence) {
    let skin = random.pick(&[
        [92, 158, 54],
        [62, 128, 60],
        [128, 170, 66],
        [110, 130, 60],
        [136, 112, 66],
        [50, 150, 110],
    ]);
    let skin = random.near(skin, 16.0);
    let (dark, belly) = (shade(skin, 0.62), mix(skin, [240, 236, 190], 0.6));
    let iris = random.pick(&[[236, 200, 60], [240, 236, 220], [214, 110, 50]]);
    if random.chance(0.3) {
        // A frog from the side, ready to jump.
        pen.line(
            &[(-0.3, 0.3), (-0.95, 0.15), (-0.5, 0.68), (-0.95, 0.78)],
            0.24,
            dark,
        );
        pen.blob(
            &[
                (-0.95, 0.45),
                (-0.5, -0.1),
                (0.3, -0.5),
                (0.95, -0.15),
                (0.7, 0.5),
                (-0.3, 0.72),
            ],
            skin,
        );
        pen.blob(&[(0.2, 0.3), (0.95, 0.0), (0.7, 0.45), (0.0, 0.66)], belly);
        pen.line(&[(0.4, 0.3), (0.5, 0.76), (0.74, 0.8)], 0.15, skin);
        pen.circle(0.42, -0.42, 0.24, skin);
        pen.circle(0.46, -0.44, 0.17, iris);
        pen.circle(0.48, -0.44, 0.09, BLACK);
        pen.line(&[(0.4, 0.08), (0.88, -0.06)], 0.05, shade(skin, 0.4));
        pen.circle(-0.3, 0.05, 0.09, dark);
        pen.circle(-0.02, -0.1, 0.07, dark);
        return;
    }
    // A frog from the front: a wide body, eyes on top, knees at the sides.
    for side in [-1.0, 1.0] {
        pen.blob(
            &[
                (side * 0.4, 0.2),
                (side * 1.15, 0.05),
                (side * 1.1, 0.75),
                (side * 0.5, 0.85),
            ],
            dark,
        );
        pen.line(&[(side * 0.8, 0.84), (side * 1.05, 0.86)], 0.13, skin);
    }
    pen.blob(
        &[
            (-0.95, 0.0),
            (-0.5, -0.42),
            (0.5, -0.42),
            (0.95, 0.0),
            (0.75, 0.85),
            (-0.75, 0.85),
        ],
        skin,
    );
    pen.ellipse(0.0, 0.55, 0.48, 0.3, belly);
    for side in [-1.0, 1.0] {
        pen.line(
            &[(side * 0.46, 0.5), (side * 0.4, 0.86), (side * 0.2, 0.9)],
            0.14,
            skin,
        );
        pen.circle(side * 0.46, -0.45, 0.29, skin);
        pen.circle(side * 0.46, -0.47, 0.2, iris);
        pen.ellipse(side * 0.46, -0.47, 0.13, 0.09, BLACK);
        pen.circle(side * 0.08, -0.04, 0.035, dark);
    }
    pen.line(
        &[
            (-0.66, 0.06),
            (-0.35, 0.2),
            (0.0, 0.24),
            (0.35, 0.2),
            (0.66, 0.06),
        ],
        0.065,
        shade(skin, 0.35),
    );
    if random.chance(0.5) {
        for (x, y) in [(-0.6, -0.14), (0.64, -0.12), (0.0, -0.26)] {
            pen.circle(x, y, 0.08, dark);
        }
    }
}
