//! Draws animals: birds, cats, deer, dogs, frogs and horses.

mod bird;
mod cat;
mod deer;
mod dog;
mod frog;
mod horse;

pub use bird::bird;
pub use cat::cat;
pub use deer::deer;
pub use dog::dog;
pub use frog::frog;
pub use horse::horse;

use super::BLACK;
use crate::data::sample::pen::{Pen, Rgb};

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

/// Draws a pair of eyes at (-x, y) and (x, y).
fn eyes(pen: &mut Pen, x: f32, y: f32, r: f32, iris: Rgb, slit: bool) {
    for side in [-1.0, 1.0] {
        pen.circle(side * x, y, r, iris);
        let width = if slit { r * 0.4 } else { r * 0.62 };
        pen.ellipse(side * x, y, width, r * 0.85, BLACK);
    }
}
