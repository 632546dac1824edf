//! The ten things. Each fills about -1..1 both ways, faces right, and has more than one view; colours, proportions and
//! what it carries are chosen by the dice.

mod beasts;
mod vehicles;

use super::pen::{Dice, Pen, Rgb};
use beasts::{bird, cat, deer, dog, frog, horse};
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
    pub fn random(dice: &mut Dice, class: usize) -> Self {
        // Only what flies is seen at any slant.
        let turn = if class == 0 { 30.0 } else { 10.0 };
        Pose {
            scale: dice.between(0.56, 1.0),
            turn: dice.between(-turn, turn),
            x: dice.between(-0.26, 0.26),
            y: dice.between(-0.2, 0.22),
            mirrored: dice.chance(0.5),
        }
    }
}

/// Draws a thing of `class` (0..10).
pub fn draw(pen: &mut Pen, dice: &mut Dice, class: usize) {
    let things = [
        airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck,
    ];
    things[class](pen, dice);
}

const BLACK: Rgb = [22, 20, 22];
const WHITE: Rgb = [244, 244, 240];
/// Of anything painted.
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
