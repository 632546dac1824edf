//! Draws the background and the objects in front. They are chosen so that they reveal little about the class.

use super::pen::{Pen, RandomSequence, Rgb, mix, shade};

/// The surroundings of an object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    Sky,
    Sea,
    Field,
    Wood,
    Street,
    Room,
    Pond,
    /// A wall of one colour.
    Plain,
}

use Scene::{Field, Plain, Pond, Room, Sea, Sky, Street, Wood};

/// The usual scenes of each class, in the order of the classes.
const USUAL: [&[Scene]; 10] = [
    &[Sky, Sky, Sky, Street, Sea, Plain],
    &[Street, Street, Field, Plain, Wood],
    &[Sky, Wood, Wood, Field, Plain, Pond],
    &[Room, Room, Field, Plain, Street],
    &[Field, Wood, Wood, Plain],
    &[Room, Field, Field, Plain, Street],
    &[Pond, Pond, Wood, Field, Plain],
    &[Field, Field, Wood, Street, Plain],
    &[Sea, Sea, Sea, Pond, Plain],
    &[Street, Street, Field, Plain, Wood],
];
const ANY: [Scene; 8] = [Sky, Sea, Field, Wood, Street, Room, Pond, Plain];
/// Probability of a scene that is unusual for the class.
const UNUSUAL: f32 = 0.3;

/// Draws a random background for `class`. Returns its scene.
pub fn behind(pen: &mut Pen, random: &mut RandomSequence, class: usize) -> Scene {
    let scene = if random.chance(UNUSUAL) {
        random.pick(&ANY)
    } else {
        random.pick(USUAL[class])
    };
    let horizon = random.between(0.05, 0.6);
    match scene {
        Sky => sky(pen, random, 1.0),
        Sea => {
            sky(pen, random, horizon);
            water(pen, random, horizon, [40, 90, 140]);
        }
        Field => {
            sky(pen, random, horizon);
            ground(
                pen,
                random,
                horizon,
                &[
                    [104, 142, 62],
                    [150, 140, 80],
                    [196, 176, 120],
                    [225, 228, 235],
                ],
            );
        }
        Wood => wood(pen, random, horizon),
        Street => street(pen, random, horizon),
        Room => room(pen, random, horizon),
        Pond => {
            let bank = random.near([84, 110, 60], 25.0);
            pen.rect(-1.0, -1.0, 1.0, 1.0, bank);
            patches(
                pen,
                random,
                6,
                &[[60, 96, 44], [120, 130, 70]],
                (-1.0, horizon),
            );
            water(pen, random, horizon - 0.3, [52, 96, 100]);
            for _ in 0..random.below(4) {
                let (x, y) = (random.between(-1.0, 1.0), random.between(horizon, 1.0));
                let pad = random.near([70, 130, 60], 20.0);
                pen.ellipse(x, y, 0.22, 0.09, pad);
            }
        }
        Plain => {
            let wall = random.any_colour();
            pen.rect(-1.0, -1.0, 1.0, 1.0, wall);
            patches(
                pen,
                random,
                3,
                &[shade(wall, 0.9), shade(wall, 1.12)],
                (-1.0, 1.0),
            );
        }
    }
    clutter(pen, random, 4);
    scene
}

/// Draws objects between the camera and the subject.
pub fn in_front(pen: &mut Pen, random: &mut RandomSequence, scene: Scene) {
    match scene {
        Field | Wood | Pond => {
            // Blades of grass.
            let green = random.near([80, 120, 50], 30.0);
            for _ in 0..random.below(7) {
                let x = random.between(-1.0, 1.0);
                let (lean, top) = (random.between(-0.15, 0.15), random.between(0.5, 0.9));
                pen.line(&[(x, 1.0), (x + lean, top)], 0.05, green);
            }
        }
        Sky if random.chance(0.3) => {
            let y = random.between(-1.0, 1.0);
            pen.veil(-1.0, y, 1.0, y + 0.3, [240, 244, 248], 0.35);
        }
        _ => {}
    }
    if random.chance(0.35) {
        // A post, a branch, a wire: something long and thin.
        let colour = random.any_colour();
        let (x, y) = (random.between(-1.0, 1.0), random.between(-1.0, 1.0));
        let (dx, dy) = if random.chance(0.5) {
            (random.between(-0.3, 0.3), 2.5)
        } else {
            (2.5, random.between(-0.5, 0.5))
        };
        let width = random.between(0.05, 0.16);
        pen.line(&[(x - dx, y - dy), (x + dx, y + dy)], width, colour);
    }
    if random.chance(0.35) {
        // An object close to the camera hides a corner.
        let colour = random.any_colour();
        let (x, y) = (random.pick(&[-1.0, 1.0]), random.pick(&[-1.0, 1.0]));
        let (rx, ry) = (random.between(0.2, 0.6), random.between(0.2, 0.6));
        pen.ellipse(x, y, rx, ry, colour);
    }
}

/// Draws up to `most` simple shapes of any colour, which depend on no class.
fn clutter(pen: &mut Pen, random: &mut RandomSequence, most: usize) {
    for _ in 0..random.below(most + 1) {
        let (x, y) = (random.between(-1.0, 1.0), random.between(-1.0, 1.0));
        let (size, turn) = (random.between(0.08, 0.3), random.between(0.0, 360.0));
        let colour = random.any_colour();
        let kind = random.below(4);
        let mut pen = pen.moved(x, y, turn, size);
        match kind {
            0 => pen.rect(-1.0, -0.6, 1.0, 0.6, colour),
            1 => pen.ellipse(0.0, 0.0, 1.0, 0.6, colour),
            2 => pen.polygon(&[(-1.0, 0.7), (0.0, -0.9), (1.0, 0.7)], colour),
            _ => pen.line(&[(-1.4, 0.0), (1.4, 0.0)], 0.4, colour),
        }
    }
}

fn sky(pen: &mut Pen, random: &mut RandomSequence, bottom: f32) {
    let top = random.pick(&[
        [88, 148, 214],
        [120, 170, 220],
        [170, 190, 205],
        [60, 100, 170],
        [228, 160, 110],
        [200, 205, 212],
    ]);
    let top = random.near(top, 18.0);
    let low = mix(top, [236, 238, 240], random.between(0.1, 0.7));
    let bands = 5;
    for i in 0..bands {
        let step = (bottom + 1.0) / bands as f32;
        let y = -1.0 + step * i as f32;
        pen.rect(
            -1.0,
            y,
            1.0,
            y + step + 0.05,
            mix(top, low, i as f32 / (bands - 1) as f32),
        );
    }
    for _ in 0..random.below(3) {
        let (x, y) = (random.between(-1.0, 1.0), random.between(-1.0, bottom));
        let cloud = random.near([232, 234, 238], 18.0);
        let r = random.between(0.1, 0.3);
        pen.ellipse(x, y, r * 1.8, r * 0.6, cloud);
        pen.ellipse(x - r * 0.5, y - r * 0.3, r * 0.8, r * 0.5, cloud);
    }
}

fn water(pen: &mut Pen, random: &mut RandomSequence, top: f32, colour: Rgb) {
    let colour = random.near(colour, 25.0);
    pen.rect(-1.0, top, 1.0, 1.0, colour);
    for _ in 0..5 {
        let (x, y) = (random.between(-1.0, 1.0), random.between(top, 1.0));
        let length = random.between(0.1, 0.5);
        pen.line(&[(x, y), (x + length, y)], 0.05, shade(colour, 1.3));
    }
}

fn ground(pen: &mut Pen, random: &mut RandomSequence, top: f32, colours: &[Rgb]) {
    let colour = random.pick(colours);
    let colour = random.near(colour, 20.0);
    pen.rect(-1.0, top, 1.0, 1.0, colour);
    patches(
        pen,
        random,
        5,
        &[shade(colour, 0.82), shade(colour, 1.15)],
        (top + 0.1, 1.0),
    );
}

/// Draws `n` flat spots of `colours` between two heights.
fn patches(
    pen: &mut Pen,
    random: &mut RandomSequence,
    n: usize,
    colours: &[Rgb],
    (top, bottom): (f32, f32),
) {
    for _ in 0..n {
        let (x, y) = (random.between(-1.0, 1.0), random.between(top, bottom));
        let (rx, ry) = (random.between(0.15, 0.5), random.between(0.04, 0.14));
        let colour = random.pick(colours);
        pen.ellipse(x, y, rx, ry, colour);
    }
}

fn wood(pen: &mut Pen, random: &mut RandomSequence, horizon: f32) {
    let leaves = random.pick(&[[58, 92, 50], [96, 120, 66], [150, 104, 50], [84, 96, 84]]);
    let leaves = random.near(leaves, 20.0);
    pen.rect(-1.0, -1.0, 1.0, 1.0, leaves);
    for _ in 0..7 {
        let (x, y) = (random.between(-1.0, 1.0), random.between(-1.0, horizon));
        let factor = random.between(0.7, 1.3);
        let (rx, ry) = (random.between(0.15, 0.4), random.between(0.1, 0.3));
        pen.ellipse(x, y, rx, ry, shade(leaves, factor));
    }
    for _ in 0..random.below(4) {
        let x = random.between(-1.0, 1.0);
        let (width, factor) = (random.between(0.06, 0.16), random.between(0.6, 1.2));
        pen.rect(
            x - width / 2.0,
            -1.0,
            x + width / 2.0,
            horizon + 0.1,
            shade([90, 70, 52], factor),
        );
    }
    ground(
        pen,
        random,
        horizon,
        &[[92, 84, 50], [90, 112, 60], [120, 96, 64]],
    );
}

fn street(pen: &mut Pen, random: &mut RandomSequence, horizon: f32) {
    sky(pen, random, horizon);
    let mut x = -1.0;
    while x < 1.0 {
        let (width, height) = (random.between(0.25, 0.6), random.between(0.0, 1.2));
        let wall = random.pick(&[
            [150, 120, 100],
            [128, 128, 134],
            [180, 168, 140],
            [110, 90, 88],
        ]);
        let wall = random.near(wall, 20.0);
        pen.rect(x, horizon - height, x + width, horizon, wall);
        if height > 0.5 && random.chance(0.6) {
            pen.rect(
                x + width * 0.2,
                horizon - height + 0.15,
                x + width * 0.4,
                horizon - height + 0.35,
                shade(wall, 0.6),
            );
            pen.rect(
                x + width * 0.6,
                horizon - height + 0.15,
                x + width * 0.8,
                horizon - height + 0.35,
                shade(wall, 0.6),
            );
        }
        x += width;
    }
    let road = random.near([104, 104, 108], 28.0);
    pen.rect(-1.0, horizon, 1.0, 1.0, road);
    if random.chance(0.5) {
        let y = random.between(horizon, 1.0);
        pen.line(&[(-1.0, y), (1.0, y)], 0.06, [214, 208, 180]);
    }
}

fn room(pen: &mut Pen, random: &mut RandomSequence, floor: f32) {
    let wall = random.pick(&[
        [206, 192, 168],
        [170, 184, 196],
        [196, 160, 150],
        [150, 160, 130],
        [120, 100, 110],
    ]);
    let wall = random.near(wall, 22.0);
    pen.rect(-1.0, -1.0, 1.0, floor, wall);
    let boards = random.pick(&[
        [150, 104, 66],
        [120, 120, 124],
        [176, 60, 56],
        [196, 180, 150],
    ]);
    let boards = random.near(boards, 22.0);
    pen.rect(-1.0, floor, 1.0, 1.0, boards);
    if random.chance(0.5) {
        // A window or a picture.
        let (x, y) = (random.between(-1.0, 0.6), random.between(-1.0, -0.3));
        let glass = random.any_colour();
        pen.rect(x - 0.05, y - 0.05, x + 0.5, y + 0.55, shade(wall, 0.6));
        pen.rect(x, y, x + 0.45, y + 0.5, glass);
    }
    if random.chance(0.6) {
        // A cushion or a sofa.
        let cloth = random.any_colour();
        let x = random.between(-1.0, 0.5);
        pen.blob(
            &[
                (x, floor - 0.4),
                (x + 0.9, floor - 0.4),
                (x + 0.9, 1.0),
                (x, 1.0),
            ],
            cloth,
        );
    }
}
