//! Draws one object of each of the ten classes. Each fills about -1..1 in both directions, faces right, and has more
//! than one view. Colours, proportions and details are random.

mod animals;
mod vehicles;

use super::pen::{Pen, RandomSequence, Rgb};
use animals::{bird, cat, deer, dog, frog, horse};
use vehicles::{airplane, automobile, ship, truck};

/// Position, size and rotation of the object in the image.
pub struct Pose {
    /// Relative to the usual size.
    pub scale: f32,
    /// Clockwise, in degrees.
    pub turn: f32,
    /// Shift, in half sides.
    pub x: f32,
    pub y: f32,
    pub mirrored: bool,
}

impl Pose {
    pub fn random(random: &mut RandomSequence, class: usize) -> Self {
        // Airplanes may be tilted further than objects that stand on the ground.
        let turn = if class == 0 { 30.0 } else { 10.0 };
        Pose {
            scale: random.between(0.56, 1.0),
            turn: random.between(-turn, turn),
            x: random.between(-0.26, 0.26),
            y: random.between(-0.2, 0.22),
            mirrored: random.chance(0.5),
        }
    }
}

/// Draws an object of `class` (0..10).
pub fn draw(pen: &mut Pen, random: &mut RandomSequence, class: usize) {
    let things = [
        airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck,
    ];
    things[class](pen, random);
}

const BLACK: Rgb = [22, 20, 22];
const WHITE: Rgb = [244, 244, 240];
/// Colours of painted objects.
const PAINTS: [Rgb; 8] = [
    [196, 36, 36],
    [40, 80, 176],
    [236, 236, 236],
    [44, 46, 52],
    [222, 180, 44],
    [52, 128, 76],
    [150, 154, 160],
    [206, 106, 40],
];
