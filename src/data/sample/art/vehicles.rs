//! Draws vehicles: airplanes, automobiles, ships and trucks.

use super::{BLACK, PAINTS, WHITE};
use crate::data::sample::pen::{Pen, RandomSequence, Rgb, mix, shade};

const GLASS: Rgb = [150, 190, 214];
const RUBBER: Rgb = [30, 30, 34];

pub fn airplane(pen: &mut Pen, random: &mut RandomSequence) {
    let body = random.pick(&[
        WHITE,
        [214, 218, 224],
        [176, 184, 194],
        [236, 222, 176],
        [92, 104, 120],
    ]);
    let body = random.near(body, 12.0);
    let paint = random.pick(&PAINTS);
    let wing = mix(body, [70, 78, 92], random.between(0.25, 0.5));
    match random.below(3) {
        // From above, nose up.
        0 => {
            let sweep = random.between(0.1, 0.55);
            for side in [-1.0, 1.0] {
                pen.polygon(
                    &[
                        (0.0, -0.35),
                        (side, sweep - 0.15),
                        (side, sweep + 0.05),
                        (0.0, 0.2),
                    ],
                    wing,
                );
                pen.polygon(
                    &[
                        (0.0, 0.62),
                        (side * 0.42, 0.85),
                        (side * 0.42, 0.97),
                        (0.0, 0.85),
                    ],
                    wing,
                );
                pen.ellipse(
                    side * 0.45,
                    sweep * 0.45 - 0.2,
                    0.07,
                    0.16,
                    shade(body, 0.6),
                );
            }
            pen.ellipse(0.0, 0.0, 0.14, 1.0, body);
            pen.line(&[(0.0, 0.62), (0.0, 0.95)], 0.08, paint);
            pen.ellipse(0.0, -0.8, 0.07, 0.07, [40, 60, 84]);
        }
        // From the side: an airliner.
        1 => {
            pen.polygon(
                &[(0.15, -0.05), (-0.25, -0.5), (-0.42, -0.5), (-0.2, -0.05)],
                shade(wing, 0.85),
            );
            pen.polygon(
                &[
                    (-0.62, -0.05),
                    (-0.98, -0.62),
                    (-0.78, -0.62),
                    (-0.4, -0.08),
                ],
                paint,
            );
            pen.blob(
                &[
                    (-1.05, -0.2),
                    (-0.6, -0.18),
                    (0.7, -0.2),
                    (1.15, 0.02),
                    (0.7, 0.17),
                    (-0.5, 0.17),
                ],
                body,
            );
            pen.line(&[(-0.62, -0.03), (0.62, -0.03)], 0.05, [58, 74, 100]);
            pen.line(&[(-0.8, 0.06), (0.8, 0.08)], 0.05, paint);
            pen.polygon(
                &[(0.3, 0.08), (-0.35, 0.66), (-0.56, 0.66), (-0.12, 0.08)],
                wing,
            );
            pen.ellipse(-0.02, 0.34, 0.15, 0.08, shade(body, 0.55));
            pen.polygon(
                &[(-0.62, 0.02), (-1.0, 0.2), (-1.08, 0.2), (-0.86, 0.0)],
                wing,
            );
        }
        // From the front and below: a propeller plane, or wheels out.
        _ => {
            let droop = random.between(-0.2, 0.1);
            pen.polygon(
                &[
                    (0.0, -0.1),
                    (1.05, droop - 0.05),
                    (1.05, droop + 0.05),
                    (0.0, 0.14),
                ],
                wing,
            );
            pen.polygon(
                &[
                    (0.0, -0.1),
                    (-1.05, droop - 0.05),
                    (-1.05, droop + 0.05),
                    (0.0, 0.14),
                ],
                wing,
            );
            pen.polygon(
                &[(-0.05, -0.1), (-0.03, -0.72), (0.03, -0.72), (0.05, -0.1)],
                paint,
            );
            pen.polygon(
                &[(-0.4, -0.4), (0.4, -0.4), (0.3, -0.3), (-0.3, -0.3)],
                wing,
            );
            pen.circle(0.0, 0.05, 0.26, body);
            pen.ellipse(0.0, -0.06, 0.16, 0.07, [40, 60, 84]);
            for side in [-1.0, 1.0] {
                pen.circle(side * 0.48, droop * 0.5 + 0.14, 0.11, shade(body, 0.7));
                pen.circle(side * 0.48, droop * 0.5 + 0.14, 0.06, BLACK);
                pen.line(&[(side * 0.22, 0.26), (side * 0.22, 0.44)], 0.06, BLACK);
            }
        }
    }
}

fn wheel(pen: &mut Pen, x: f32, y: f32, r: f32) {
    pen.circle(x, y, r, RUBBER);
    pen.circle(x, y, r * 0.5, [172, 174, 180]);
}

pub fn automobile(pen: &mut Pen, random: &mut RandomSequence) {
    let paint = random.pick(&PAINTS);
    let paint = random.near(paint, 22.0);
    let glass = mix(GLASS, BLACK, random.between(0.1, 0.75));
    if random.chance(0.3) {
        // From the front.
        let roof = random.between(-0.62, -0.45);
        pen.rect(-0.78, 0.3, -0.48, 0.62, RUBBER);
        pen.rect(0.48, 0.3, 0.78, 0.62, RUBBER);
        pen.polygon(
            &[(-0.46, roof), (0.46, roof), (0.68, 0.0), (-0.68, 0.0)],
            paint,
        );
        pen.polygon(
            &[
                (-0.38, roof + 0.1),
                (0.38, roof + 0.1),
                (0.54, 0.0),
                (-0.54, 0.0),
            ],
            glass,
        );
        pen.blob(
            &[
                (-0.9, -0.1),
                (0.0, -0.12),
                (0.9, -0.1),
                (0.95, 0.5),
                (-0.95, 0.5),
            ],
            paint,
        );
        pen.rect(-0.34, 0.16, 0.34, 0.32, shade(paint, 0.35));
        for side in [-1.0, 1.0] {
            pen.ellipse(side * 0.58, 0.17, 0.15, 0.1, [250, 244, 200]);
            pen.ellipse(side * 0.8, -0.1, 0.1, 0.07, shade(paint, 0.7));
        }
        pen.rect(-0.78, 0.36, 0.78, 0.44, shade(paint, 0.55));
        return;
    }
    let roof = random.between(-0.5, -0.34);
    let (rear, front) = (random.between(-0.85, -0.55), random.between(0.2, 0.42));
    // The cabin, then the body with its bonnet lower in front.
    pen.polygon(
        &[
            (rear, -0.02),
            (rear + 0.22, roof),
            (front - 0.1, roof),
            (front + 0.18, -0.02),
        ],
        paint,
    );
    pen.polygon(
        &[
            (rear + 0.12, -0.02),
            (rear + 0.28, roof + 0.09),
            (-0.16, roof + 0.09),
            (-0.16, -0.02),
        ],
        glass,
    );
    pen.polygon(
        &[
            (-0.08, -0.02),
            (-0.08, roof + 0.09),
            (front - 0.13, roof + 0.09),
            (front + 0.07, -0.02),
        ],
        glass,
    );
    pen.blob(
        &[
            (-1.1, -0.08),
            (-0.4, -0.08),
            (0.5, -0.06),
            (1.12, 0.06),
            (1.06, 0.38),
            (-1.08, 0.38),
        ],
        paint,
    );
    pen.line(&[(-0.88, 0.12), (0.88, 0.14)], 0.04, shade(paint, 0.7));
    pen.line(&[(-0.9, 0.32), (0.9, 0.32)], 0.06, shade(paint, 0.5));
    let r = random.between(0.19, 0.25);
    wheel(pen, -0.55, 0.34, r);
    wheel(pen, 0.55, 0.34, r);
    pen.circle(0.94, 0.1, 0.07, [252, 240, 180]);
    pen.circle(-0.96, 0.08, 0.06, [190, 30, 30]);
}

pub fn truck(pen: &mut Pen, random: &mut RandomSequence) {
    let paint = random.pick(&PAINTS);
    let paint = random.near(paint, 22.0);
    let cargo = if random.chance(0.5) {
        WHITE
    } else {
        random.any_colour()
    };
    let glass = mix(GLASS, BLACK, random.between(0.1, 0.7));
    if random.chance(0.25) {
        // Seen from the front, the box is above the cab.
        pen.rect(-0.72, -0.95, 0.72, 0.4, cargo);
        pen.rect(-0.72, -0.95, 0.72, -0.86, shade(cargo, 0.75));
        pen.rect(-0.6, 0.5, -0.36, 0.82, RUBBER);
        pen.rect(0.36, 0.5, 0.6, 0.82, RUBBER);
        pen.rect(-0.6, -0.5, 0.6, 0.62, paint);
        pen.rect(-0.5, -0.4, 0.5, 0.0, glass);
        pen.rect(-0.3, 0.12, 0.3, 0.44, shade(paint, 0.35));
        for y in [0.2, 0.34] {
            pen.line(&[(-0.28, y), (0.28, y)], 0.03, [190, 190, 196]);
        }
        pen.circle(-0.45, 0.4, 0.09, [250, 244, 200]);
        pen.circle(0.45, 0.4, 0.09, [250, 244, 200]);
        pen.rect(-0.66, 0.54, 0.66, 0.64, [90, 92, 98]);
        pen.rect(-0.8, -0.35, -0.7, -0.05, BLACK);
        pen.rect(0.7, -0.35, 0.8, -0.05, BLACK);
        return;
    }
    let top = random.between(-0.78, -0.55);
    let cab = random.between(0.36, 0.5);
    pen.rect(-1.0, 0.3, 0.95, 0.42, [52, 52, 58]);
    match random.below(4) {
        // A tank.
        0 => {
            pen.blob(
                &[
                    (-1.1, top * 0.7),
                    (-0.5, top * 0.8),
                    (cab, top * 0.7),
                    (cab, 0.3),
                    (-0.5, 0.32),
                    (-1.1, 0.3),
                ],
                cargo,
            );
            pen.line(
                &[(-0.85, -0.3), (cab - 0.2, -0.3)],
                0.06,
                shade(cargo, 1.25),
            );
        }
        // A dump box with its load.
        1 => {
            pen.ellipse(-0.33, -0.32, 0.5, 0.26, [134, 108, 80]);
            pen.polygon(
                &[
                    (-1.04, -0.34),
                    (cab, -0.34),
                    (cab - 0.12, 0.3),
                    (-0.92, 0.3),
                ],
                cargo,
            );
            for x in [-0.6, -0.25, 0.1] {
                pen.line(&[(x, -0.3), (x, 0.26)], 0.04, shade(cargo, 0.7));
            }
        }
        // A closed box.
        _ => {
            pen.rect(-1.04, top, cab - 0.04, 0.32, cargo);
            pen.rect(-1.04, 0.24, cab - 0.04, 0.32, shade(cargo, 0.7));
            pen.rect(-1.04, top, cab - 0.04, top + 0.06, shade(cargo, 0.8));
            if random.chance(0.5) {
                let sign = random.any_colour();
                pen.rect(-0.75, top + 0.25, cab - 0.35, top + 0.5, sign);
            }
        }
    }
    let hood = if random.chance(0.4) { 0.3 } else { 0.0 };
    pen.polygon(
        &[
            (cab, -0.42),
            (0.88 - hood, -0.42),
            (1.0 - hood, 0.0),
            (1.02, 0.04),
            (1.02, 0.4),
            (cab, 0.4),
        ],
        paint,
    );
    pen.polygon(
        &[
            (cab + 0.12, -0.32),
            (0.83 - hood, -0.32),
            (0.93 - hood, -0.02),
            (cab + 0.12, -0.02),
        ],
        glass,
    );
    pen.circle(0.97, 0.2, 0.06, [252, 240, 180]);
    let r = random.between(0.18, 0.22);
    for x in [-0.82, -0.42, 0.7] {
        wheel(pen, x, 0.44, r);
    }
}

pub fn ship(pen: &mut Pen, random: &mut RandomSequence) {
    let paint = random.pick(&[
        [172, 44, 40],
        [36, 52, 92],
        [40, 42, 46],
        [232, 232, 228],
        [46, 104, 92],
        [120, 126, 132],
    ]);
    let hull = random.near(paint, 18.0);
    let deck = 0.22;
    match random.below(3) {
        // Under sail.
        0 => {
            let sail = random.pick(&[WHITE, [240, 226, 190], [200, 60, 50], [70, 110, 170]]);
            let sail = random.near(sail, 10.0);
            pen.line(&[(0.0, deck), (0.0, -1.0)], 0.07, [84, 62, 44]);
            pen.blob(
                &[(0.06, -0.95), (0.1, -1.0), (0.9, 0.1), (0.06, 0.14)],
                sail,
            );
            pen.blob(
                &[(-0.06, -0.8), (-0.1, -0.84), (-0.72, 0.1), (-0.06, 0.14)],
                shade(sail, 0.86),
            );
            pen.polygon(
                &[
                    (-0.8, deck),
                    (0.95, deck - 0.06),
                    (0.62, 0.56),
                    (-0.6, 0.56),
                ],
                hull,
            );
            pen.line(
                &[(-0.76, deck + 0.05), (0.86, deck)],
                0.05,
                shade(hull, 1.4),
            );
        }
        // A freighter: boxes on deck, the bridge astern.
        1 => {
            for (i, x) in [-0.4, -0.12, 0.16, 0.44].into_iter().enumerate() {
                for level in 0..=random.below(3) {
                    let (y, colour) = (deck - 0.16 * level as f32, random.any_colour());
                    pen.rect(x, y - 0.16, x + 0.26, y, colour);
                }
                if i == 3 {
                    pen.line(&[(x + 0.3, deck), (x + 0.3, -0.4)], 0.06, [150, 140, 60]);
                }
            }
            pen.rect(-0.86, -0.56, -0.52, deck, WHITE);
            pen.line(&[(-0.8, -0.4), (-0.58, -0.4)], 0.07, [46, 60, 80]);
            pen.line(&[(-0.72, -0.56), (-0.72, -0.86)], 0.06, BLACK);
            pen.polygon(
                &[(-1.0, deck), (1.06, deck - 0.12), (0.8, 0.6), (-0.88, 0.6)],
                hull,
            );
            pen.line(&[(-0.86, 0.54), (0.78, 0.54)], 0.1, [140, 40, 36]);
        }
        // A passenger ship: decks, a funnel, a mast.
        _ => {
            let funnel = random.pick(&PAINTS);
            pen.line(&[(0.42, -0.1), (0.42, -0.95)], 0.06, [70, 66, 60]);
            pen.line(&[(0.42, -0.9), (0.95, 0.1)], 0.025, [70, 66, 60]);
            pen.polygon(
                &[(-0.34, -0.82), (-0.08, -0.82), (0.0, -0.3), (-0.3, -0.3)],
                funnel,
            );
            pen.rect(-0.36, -0.82, -0.06, -0.7, BLACK);
            pen.rect(-0.55, -0.36, 0.44, -0.06, WHITE);
            pen.rect(-0.76, -0.08, 0.66, deck, shade(WHITE, 0.92));
            for x in [-0.4, -0.15, 0.1, 0.32] {
                pen.rect(x - 0.06, -0.28, x + 0.06, -0.16, [46, 60, 80]);
                pen.rect(x - 0.16, 0.0, x - 0.04, 0.1, [46, 60, 80]);
            }
            pen.polygon(
                &[
                    (-0.98, deck),
                    (1.08, deck - 0.14),
                    (0.78, 0.58),
                    (-0.84, 0.58),
                ],
                hull,
            );
            for x in [-0.6, -0.3, 0.0, 0.3, 0.6] {
                pen.circle(x, 0.36, 0.045, shade(WHITE, 0.9));
            }
        }
    }
    // The waterline.
    let foam = random.near([196, 212, 220], 20.0);
    let y = 0.6;
    pen.line(
        &[
            (-1.0, y),
            (-0.6, y - 0.05),
            (-0.2, y),
            (0.2, y - 0.05),
            (0.6, y),
            (1.0, y - 0.03),
        ],
        0.09,
        foam,
    );
}
