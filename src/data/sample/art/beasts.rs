//! Draws animals: birds, cats, deer, dogs, frogs and horses.

use super::{BLACK, PAINTS, WHITE};
use crate::data::sample::pen::{Pen, RandomSequence, Rgb, mix, shade};

/// Coats of cats, dogs and horses.
const COATS: [Rgb; 7] = [
    [146, 96, 54],
    [92, 62, 42],
    [186, 146, 98],
    [52, 46, 44],
    [226, 220, 210],
    [150, 146, 144],
    [206, 128, 62],
];

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
        // In flight: wings raised.
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
    // Perched, or standing.
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

/// A pair of eyes at +-x.
fn eyes(pen: &mut Pen, x: f32, y: f32, r: f32, iris: Rgb, slit: bool) {
    for side in [-1.0, 1.0] {
        pen.circle(side * x, y, r, iris);
        let width = if slit { r * 0.4 } else { r * 0.62 };
        pen.ellipse(side * x, y, width, r * 0.85, BLACK);
    }
}

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
        // A tabby.
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
    // Sitting, the tail curled up.
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
    // Standing in profile, the tail up.
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
        // Face on.
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
    // In profile: thin legs, a long slender neck, a short white tail.
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

pub fn horse(pen: &mut Pen, random: &mut RandomSequence) {
    let coat = random.pick(&COATS);
    let coat = random.near(coat, 14.0);
    let mane = if coat[0] > 120 && random.chance(0.7) {
        shade(coat, 0.3)
    } else {
        mix(coat, [236, 220, 180], 0.7)
    };
    if random.chance(0.3) {
        // Head and neck.
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
    // In profile: a heavy body, a thick arched neck with a mane, a long tail.
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
        // From the side, ready to jump.
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
    // From the front: wide, the eyes on top, the knees out.
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
