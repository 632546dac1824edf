//! Draws birds.

use crate::data::sample::art::{BLACK, WHITE};
use crate::data::sample::pen::{Pen, RandomSequence, mix, shade};

pub fn bird(pen: &mut Pen, random: &mut RandomSequence) {
    let coat = random.pick(&[
        [180, 60, 44],
        [60, 104, 176],
        [120, 96, 70],
        [228, 200, 60],
        [64, 62, 66],
        [226, 226, 222],
        [104, 140, 72],
        [150, 150, 156],
    ]);
    let coat = random.near(coat, 20.0);
    let breast = mix(coat, [240, 216, 180], random.between(0.3, 0.85));
    let wing = shade(coat, random.between(0.5, 0.75));
    let bill = random.pick(&[[236, 150, 40], [230, 190, 60], [60, 56, 52], [214, 90, 50]]);
    if random.chance(0.3) {
        // A flying bird with raised wings.
        let lift = random.between(0.55, 0.95);
        pen.blob(
            &[
                (0.0, 0.0),
                (-0.2, -lift),
                (-0.75, -lift - 0.05),
                (-0.45, 0.1),
            ],
            shade(wing, 0.85),
        );
        pen.polygon(
            &[(-0.4, 0.1), (-1.0, 0.12), (-0.92, 0.4), (-0.3, 0.26)],
            wing,
        );
        pen.ellipse(0.0, 0.18, 0.52, 0.24, breast);
        pen.ellipse(0.0, 0.12, 0.52, 0.2, coat);
        pen.blob(
            &[
                (0.2, 0.1),
                (0.3, -lift * 0.9),
                (0.0, -lift - 0.15),
                (-0.2, -0.2),
                (-0.25, 0.15),
            ],
            wing,
        );
        pen.circle(0.52, 0.02, 0.21, coat);
        pen.polygon(&[(0.68, -0.06), (1.0, 0.06), (0.68, 0.13)], bill);
        pen.circle(0.57, -0.03, 0.05, BLACK);
        return;
    }
    // A bird that perches or stands.
    let leg = shade(bill, 0.8);
    pen.line(&[(-0.05, 0.5), (-0.02, 0.9)], 0.06, leg);
    pen.line(&[(0.14, 0.5), (0.17, 0.9)], 0.06, leg);
    if random.chance(0.55) {
        pen.line(&[(-1.3, 0.95), (1.3, 0.88)], 0.13, [94, 70, 48]);
    } else {
        pen.line(&[(-0.1, 0.92), (0.1, 0.92)], 0.05, leg);
        pen.line(&[(0.12, 0.92), (0.32, 0.92)], 0.05, leg);
    }
    let up = random.between(-0.25, 0.1);
    pen.polygon(
        &[
            (-0.4, 0.15),
            (-1.0, 0.5 + up),
            (-0.92, 0.66 + up),
            (-0.2, 0.45),
        ],
        wing,
    );
    pen.blob(
        &[
            (-0.62, 0.2),
            (-0.2, -0.4),
            (0.4, -0.45),
            (0.62, 0.1),
            (0.2, 0.72),
            (-0.3, 0.6),
        ],
        coat,
    );
    pen.ellipse(0.24, 0.22, 0.24, 0.34, breast);
    let head = -0.5;
    pen.circle(0.36, head, 0.28, coat);
    pen.polygon(
        &[
            (0.56, head - 0.12),
            (0.98, head + 0.06),
            (0.56, head + 0.14),
        ],
        bill,
    );
    pen.circle(0.44, head - 0.06, 0.09, WHITE);
    pen.circle(0.45, head - 0.06, 0.06, BLACK);
    pen.blob(
        &[
            (0.1, -0.12),
            (0.1, 0.42),
            (-0.35, 0.5),
            (-0.75, 0.42),
            (-0.3, 0.0),
        ],
        wing,
    );
    if random.chance(0.25) {
        pen.polygon(
            &[(0.2, head - 0.2), (0.16, head - 0.55), (0.42, head - 0.26)],
            wing,
        );
    }
}
