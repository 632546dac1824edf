//! Draws shapes with tiny-skia in coordinates from -1 to 1, and a sequence of random numbers for the choices in a
//! drawing.

use super::art::Pose;
use crate::domain::rng::Rng;
use tiny_skia::{FillRule, LineCap, LineJoin, Paint, PathBuilder, Pixmap, Rect, Stroke, Transform};

/// A colour, 8 bits a channel.
pub type Rgb = [u8; 3];

/// The colour with its channels multiplied by `factor`: lighter above 1, darker below.
pub fn shade(colour: Rgb, factor: f32) -> Rgb {
    colour.map(|c| (f32::from(c) * factor).min(255.0) as u8)
}

/// Mixes two colours: `share` 0 is `a`, 1 is `b`.
pub fn mix(a: Rgb, b: Rgb, share: f32) -> Rgb {
    [0, 1, 2].map(|c| (f32::from(a[c]) * (1.0 - share) + f32::from(b[c]) * share) as u8)
}

/// A sequence of random numbers, determined by its [`Rng`].
pub struct RandomSequence {
    rng: Rng,
    next: u32,
    words: [u32; 4],
}

impl RandomSequence {
    pub fn new(rng: Rng) -> Self {
        RandomSequence {
            rng,
            next: 0,
            words: [0; 4],
        }
    }

    fn word(&mut self) -> u32 {
        if self.next.is_multiple_of(4) {
            self.words = self.rng.block(self.next / 4);
        }
        let word = self.words[(self.next % 4) as usize];
        self.next += 1;
        word
    }

    /// Four random words. Starts a new block of the generator.
    pub fn block(&mut self) -> [u32; 4] {
        self.next = self.next.next_multiple_of(4) + 4;
        self.rng.block(self.next / 4 - 1)
    }

    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.word() >> 8) as f32 / 16_777_216.0
    }

    /// A uniform number in 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.word()) * n as u64) >> 32) as usize
    }

    pub fn chance(&mut self, share: f32) -> bool {
        self.between(0.0, 1.0) < share
    }

    /// One of `items`, which must not be empty.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// A random variation of `colour`: all channels shifted together by at most `by`, and each by at most half of that.
    pub fn near(&mut self, colour: Rgb, by: f32) -> Rgb {
        let all = self.between(-by, by);
        colour.map(|c| (f32::from(c) + all + self.between(-by, by) * 0.5).clamp(0.0, 255.0) as u8)
    }

    /// Any colour that is neither black nor white.
    pub fn any_colour(&mut self) -> Rgb {
        [(); 3].map(|()| self.between(25.0, 235.0) as u8)
    }
}

/// Draws shapes into a picture whose coordinates go from (-1, -1) at the top left to (1, 1), or into those of a pose.
pub struct Pen<'a> {
    map: &'a mut Pixmap,
    at: Transform,
}

/// Half the side of the picture in pixels.
const HALF: f32 = 16.0;

impl<'a> Pen<'a> {
    pub fn whole(map: &'a mut Pixmap) -> Self {
        Pen {
            map,
            at: Transform::from_row(HALF, 0.0, 0.0, HALF, HALF, HALF),
        }
    }

    pub fn posed(map: &'a mut Pixmap, pose: &Pose) -> Self {
        let mirror = if pose.mirrored { -1.0 } else { 1.0 };
        let at = Transform::from_scale(HALF * pose.scale * mirror, HALF * pose.scale)
            .post_concat(Transform::from_rotate(pose.turn))
            .post_translate(HALF * (1.0 + pose.x), HALF * (1.0 + pose.y));
        Pen { map, at }
    }

    /// A pen whose origin is at (x, y) of this one, rotated clockwise by `turn` degrees and scaled.
    pub fn moved(&mut self, x: f32, y: f32, turn: f32, scale: f32) -> Pen<'_> {
        let at = self
            .at
            .pre_translate(x, y)
            .pre_concat(Transform::from_rotate(turn));
        Pen {
            map: self.map,
            at: at.pre_scale(scale, scale),
        }
    }

    fn paint(colour: Rgb, alpha: f32) -> Paint<'static> {
        let mut paint = Paint::default();
        paint.set_color_rgba8(colour[0], colour[1], colour[2], (alpha * 255.0) as u8);
        paint
    }

    fn fill(&mut self, path: Option<tiny_skia::Path>, colour: Rgb, alpha: f32) {
        // None is a shape without extent.
        if let Some(path) = path {
            self.map.fill_path(
                &path,
                &Self::paint(colour, alpha),
                FillRule::Winding,
                self.at,
                None,
            );
        }
    }

    pub fn ellipse(&mut self, x: f32, y: f32, rx: f32, ry: f32, colour: Rgb) {
        let oval = Rect::from_ltrb(x - rx, y - ry, x + rx, y + ry);
        self.fill(oval.and_then(PathBuilder::from_oval), colour, 1.0);
    }

    pub fn circle(&mut self, x: f32, y: f32, r: f32, colour: Rgb) {
        self.ellipse(x, y, r, r, colour);
    }

    pub fn rect(&mut self, left: f32, top: f32, right: f32, bottom: f32, colour: Rgb) {
        self.veil(left, top, right, bottom, colour, 1.0);
    }

    /// A translucent rectangle.
    pub fn veil(&mut self, left: f32, top: f32, right: f32, bottom: f32, colour: Rgb, alpha: f32) {
        let rect = Rect::from_ltrb(left, top, right, bottom);
        self.fill(rect.map(PathBuilder::from_rect), colour, alpha);
    }

    pub fn polygon(&mut self, points: &[(f32, f32)], colour: Rgb) {
        let mut path = trace(points);
        path.close();
        self.fill(path.finish(), colour, 1.0);
    }

    /// Fills a closed shape with round corners: quadratic curves through the midpoints of the polygon's sides.
    pub fn blob(&mut self, points: &[(f32, f32)], colour: Rgb) {
        let middle = |i: usize| {
            let (a, b) = (points[i % points.len()], points[(i + 1) % points.len()]);
            ((a.0 + b.0) / 2.0, (a.1 + b.1) / 2.0)
        };
        let mut path = PathBuilder::new();
        let start = middle(0);
        path.move_to(start.0, start.1);
        for i in 1..=points.len() {
            let (corner, to) = (points[i % points.len()], middle(i));
            path.quad_to(corner.0, corner.1, to.0, to.1);
        }
        path.close();
        self.fill(path.finish(), colour, 1.0);
    }

    /// Draws a line through `points` with round ends.
    pub fn line(&mut self, points: &[(f32, f32)], width: f32, colour: Rgb) {
        let stroke = Stroke {
            width,
            line_cap: LineCap::Round,
            line_join: LineJoin::Round,
            ..Stroke::default()
        };
        if let Some(path) = trace(points).finish() {
            self.map
                .stroke_path(&path, &Self::paint(colour, 1.0), &stroke, self.at, None);
        }
    }
}

fn trace(points: &[(f32, f32)]) -> PathBuilder {
    let mut path = PathBuilder::new();
    for (i, (x, y)) in points.iter().enumerate() {
        if i == 0 {
            path.move_to(*x, *y);
        } else {
            path.line_to(*x, *y);
        }
    }
    path
}
