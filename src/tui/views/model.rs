//! The Model screen: the architecture as text that is checked as it is typed, its layers and what they cost, and a look
//! inside the running network: first-layer filters, activations of an image, norms, dead units.

use super::feed::{Basis, Feed, message};
use super::{Context, View};
use crate::domain::arch::{ARCHS, ArchError, Shape, Summary, resolve};
use crate::domain::params::{Value, param};
use crate::domain::report::{Activations, ModelReport, Picture, State};
use crate::domain::text::grouped;
use crate::session::protocol::{Answer, Event, Filter, Question};
use crate::tui::actions::{Move, ProgramAction, key_of, moved};
use crate::tui::theme::Theme;
use crate::tui::told::{Told, Weight, split_name};
use crate::tui::widgets::field::Field;
use crate::tui::widgets::half_block::{self, Scale};
use crate::tui::widgets::{fitted, panel, text, text_right, wrapped_ranges};
use crossterm::event::{KeyCode, KeyEvent, MouseButton, MouseEvent, MouseEventKind};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// What the Model screen does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelAction {
    Edit,
    Presets,
    Back,
    /// Choose a layer.
    Choose(Move),
    /// Filters instead of activations, or the other way round.
    OtherPictures,
    NextImage,
    PreviousImage,
}

/// The report is asked anew after so many seconds of training, while the screen is open: it costs a forward pass.
const REFRESH_SECONDS: f64 = 5.0;
/// Classes of CIFAR-10, which architectures are checked against.
const CLASSES: usize = 10;

/// State of the Model screen.
#[derive(Debug, Default)]
pub struct Model {
    /// What is being typed.
    draft: Option<Field>,
    /// Chosen layer.
    selected: usize,
    /// The image whose activations are shown: its number in the shown split.
    image: u32,
    /// Filters instead of activations, where there is no room for both.
    filters: bool,
    report: Feed,
    /// The image itself.
    picture: Feed,
}

/// Where the parts lie.
struct Layout {
    text: Rect,
    layers: Rect,
    activations: Rect,
    filters: Rect,
}

impl Layout {
    fn of(area: Rect, lines: u16, filters: bool) -> Self {
        let none = Rect::new(area.x, area.y, 0, 0);
        let top = (lines + 2).min((area.height / 2).max(4)).min(area.height);
        let rest = Rect::new(area.x, area.y + top, area.width, area.height - top);
        let side = if rest.width >= 76 {
            (rest.width * 2 / 5).clamp(32, 90)
        } else {
            0
        };
        let layers = Rect::new(rest.x, rest.y, rest.width - side, rest.height);
        let right = Rect::new(rest.x + rest.width - side, rest.y, side, rest.height);
        let (activations, below) = if right.height >= 24 {
            let share = right.height * 3 / 5;
            (
                Rect::new(right.x, right.y, right.width, share),
                Rect::new(right.x, right.y + share, right.width, right.height - share),
            )
        } else if filters {
            (none, right)
        } else {
            (right, none)
        };
        Layout {
            text: Rect::new(area.x, area.y, area.width, top),
            layers,
            activations,
            filters: below,
        }
    }
}

/// The layers of a text, or what is wrong with it.
fn summary(text: &str) -> Result<Vec<Summary>, ArchError> {
    resolve(text)?.summary(Shape::CIFAR, CLASSES)
}

/// The architecture that the next run will have: a preset's name or a text.
fn wanted(told: &Told) -> String {
    told.wanted().architecture
}

/// A preset's text for its name, other text as it is.
fn written_out(name_or_text: &str) -> &str {
    ARCHS
        .iter()
        .find(|p| p.name.eq_ignore_ascii_case(name_or_text.trim()))
        .map_or(name_or_text, |p| p.text)
}

/// The preset that a text is, if any.
fn preset(name_or_text: &str) -> Option<&'static str> {
    let arch = resolve(name_or_text).ok()?;
    ARCHS
        .iter()
        .find(|p| resolve(p.text).is_ok_and(|a| a == arch))
        .map(|p| p.name)
}

impl Model {
    /// Why an action cannot be used now, if so.
    pub fn enabled(&self, does: ModelAction, told: &Told, area: Rect) -> Result<(), String> {
        use ModelAction::*;
        let layout = self.layout(told, area);
        let (activations, filters) = (!layout.activations.is_empty(), !layout.filters.is_empty());
        match does {
            Edit | Presets if told.ended => Err("the session is over".into()),
            Back => Err("nothing was typed".into()),
            OtherPictures | NextImage | PreviousImage if !activations && !filters => {
                Err("there is no room for pictures beside the layers".into())
            }
            OtherPictures if activations && filters => {
                Err("activations and filters are both on the screen".into())
            }
            NextImage | PreviousImage if images(told) == 0 => Err("no run has begun".into()),
            NextImage | PreviousImage if !activations => Err(format!(
                "the activations are not on the screen; {} turns to them",
                key_of(OtherPictures)
            )),
            Edit | Presets | Choose(_) | OtherPictures | NextImage | PreviousImage => Ok(()),
        }
    }

    pub fn act(&mut self, does: ModelAction, ctx: &mut Context) {
        use ModelAction::*;
        let half = usize::from(ctx.area.height / 2);
        match does {
            Edit => self.draft = Some(Field::new(&self.text(ctx.told))),
            Presets => self.next_preset(ctx.told),
            // While something is typed, `typed` has this key.
            Back => {}
            Choose(step) => self.select(step.by(1, half), ctx.told),
            OtherPictures => self.filters = !self.filters,
            NextImage => self.image = (self.image + 1) % images(ctx.told).max(1),
            PreviousImage => {
                let n = images(ctx.told).max(1);
                self.image = (self.image % n + n - 1) % n;
            }
        }
        self.refresh(ctx);
    }

    fn refresh(&mut self, ctx: &mut Context) {
        if !ctx.visible || ctx.told.run.is_none() {
            return;
        }
        let images = images(ctx.told);
        self.image = self.image.min(images.saturating_sub(1));
        let question = Question::Model {
            activations_of: (images > 0).then_some(self.image),
        };
        let seconds = ctx.told.steps.as_ref().map_or(0.0, |s| s.elapsed);
        let at = format!("{:.0}", (seconds / REFRESH_SECONDS).floor());
        // Whatever is awaited is news enough.
        if !self.report.is_waiting() || self.report.is_about_other(&question) {
            self.report.want(question, Basis::and(ctx.told, &at), ctx);
        }
        if let Some(basis) = Basis::evaluation(ctx.told) {
            let filter = Filter::Pinned {
                indices: vec![self.image],
            };
            let question = Question::Samples {
                filter,
                offset: 0,
                count: 1,
            };
            self.picture.want(question, basis, ctx);
        }
    }

    fn report(&self) -> Option<&ModelReport> {
        match self.report.answer() {
            Some(Answer::Model(report)) => Some(report),
            _ => None,
        }
    }

    /// The text that the screen is about: what is typed, what waits, or what runs.
    fn text(&self, told: &Told) -> String {
        match &self.draft {
            Some(field) => field.text().to_owned(),
            None => written_out(&wanted(told)).to_owned(),
        }
    }

    /// The layers to list: those of the text if it is right, else those of the running network.
    fn layers(&self, told: &Told) -> Vec<Summary> {
        summary(&self.text(told)).unwrap_or_else(|_| {
            told.run
                .as_ref()
                .map_or_else(Vec::new, |r| r.layers.clone())
        })
    }

    /// Whether the layers listed are those of the running network.
    fn runs(&self, told: &Told, layers: &[Summary]) -> bool {
        told.run.as_ref().is_some_and(|r| r.layers == layers)
    }

    fn apply(&mut self, ctx: &mut Context) {
        let Some(field) = &self.draft else {
            return;
        };
        let text = field.text().trim().to_owned();
        let Some(row) = param("architecture") else {
            return;
        };
        if let Err(error) = summary(&text) {
            ctx.say(Weight::Warning, error.to_string());
            return;
        }
        // A preset goes by its name, however it was typed.
        let value = preset(&text).map_or(text, str::to_owned);
        match row.check(Value::Text(value)) {
            Ok(value) => {
                if row.get(&ctx.told.wanted()) != value {
                    ctx.set("architecture", value);
                }
                self.draft = None;
            }
            Err(error) => ctx.say(Weight::Warning, error.to_string()),
        }
    }

    fn next_preset(&mut self, told: &Told) {
        let now = preset(&self.text(told));
        let at = ARCHS.iter().position(|p| Some(p.name) == now);
        let next = at.map_or(0, |i| (i + 1) % ARCHS.len());
        self.draft = Some(Field::new(ARCHS[next].text));
    }

    fn select(&mut self, by: i64, told: &Told) {
        self.selected = moved(self.selected, by, self.layers(told).len());
    }

    fn text_lines(&self, told: &Told, width: u16) -> u16 {
        let text = self.text(told);
        let error = u16::from(self.draft.is_some()) * 2;
        wrapped_ranges(&text, width.saturating_sub(4).into()).len() as u16 + error
    }

    fn layout(&self, told: &Told, area: Rect) -> Layout {
        Layout::of(area, self.text_lines(told, area.width), self.filters)
    }

    fn draw_text(&self, told: &Told, theme: Theme, area: Rect, buf: &mut Buffer) {
        let content = self.text(told);
        let error = summary(&content).err();
        let name = preset(&content).unwrap_or("your own");
        let title = Line::from(vec![
            Span::styled("architecture  ", theme.text()),
            Span::styled(name, theme.accent()),
        ]);
        let waiting = told.coming("architecture").is_some();
        let right = match (&self.draft, waiting) {
            (Some(_), _) => Span::styled(
                format!(
                    "{} next run   ctrl-n preset   esc forget",
                    theme.symbols.enter()
                ),
                theme.pending(),
            ),
            (None, true) => Span::styled(
                format!(
                    "waits for the next run: {} starts it",
                    key_of(ProgramAction::Restart)
                ),
                theme.pending(),
            ),
            (None, false) if told.run.is_none() => Span::styled("the next run's", theme.dim()),
            (None, false) => Span::styled("as it runs", theme.dim()),
        };
        let frame = if self.draft.is_some() {
            theme.accent()
        } else {
            theme.frame()
        };
        let inner = panel(buf, area, frame, &title, &Line::from(right));
        if inner.is_empty() {
            return;
        }
        let lines = wrapped_ranges(&content, inner.width.saturating_sub(2).into());
        let cursor = self.draft.as_ref().map(Field::cursor);
        let wrong = error.as_ref().filter(|_| self.draft.is_some());
        let mut y = inner.y;
        // The line with the cursor stays in sight.
        let room = usize::from(
            inner
                .height
                .saturating_sub(2 * u16::from(self.draft.is_some())),
        )
        .max(1);
        let line_of = |at: usize| lines.iter().position(|l| at <= l.end).unwrap_or(0);
        let first = cursor.map_or(0, |c| (line_of(c) + 1).saturating_sub(room));
        let error_line = wrong.map(|e| line_of(e.at.start));
        for (i, range) in lines.iter().enumerate().skip(first).take(room) {
            let line_text = &content[range.clone()];
            text(buf, inner, inner.x + 1, y, line_text, theme.text());
            if let Some(at) = cursor
                && range.contains(&at) | (at == range.end && i == line_of(at))
            {
                let x = inner.x + 1 + columns(&content[range.start..at]);
                let inner = inner.intersection(buf.area);
                if inner.contains((x, y).into()) {
                    buf[(x, y)]
                        .set_style(Style::new().add_modifier(ratatui::style::Modifier::REVERSED));
                }
            }
            y += 1;
            if error_line == Some(i)
                && let Some(e) = wrong
            {
                let start = e.at.start.clamp(range.start, range.end);
                let end = e.at.end.clamp(start, range.end);
                let x = inner.x + 1 + columns(&content[range.start..start]);
                let carets = usize::from(columns(&content[start..end])).max(1);
                text(buf, inner, x, y, "^".repeat(carets), theme.wrong());
                y += 1;
            }
        }
        if self.draft.is_some() {
            let y = inner.bottom() - 1;
            text(
                buf,
                inner,
                inner.x,
                y,
                " ".repeat(inner.width.into()),
                Style::new(),
            );
            match wrong {
                Some(e) => text(buf, inner, inner.x + 1, y, e.to_string(), theme.wrong()),
                None => {
                    let about = ARCHS
                        .iter()
                        .find(|p| p.name == name)
                        .map_or("It fits.", |p| p.about);
                    text(
                        buf,
                        inner,
                        inner.x + 1,
                        y,
                        format!("✓ {about}"),
                        theme.best(),
                    )
                }
            };
        } else if lines.len() > room {
            text_right(
                buf,
                inner,
                inner.right(),
                inner.bottom() - 1,
                " …",
                theme.dim(),
            );
        }
    }

    fn draw_layers(&self, told: &Told, theme: Theme, area: Rect, buf: &mut Buffer) {
        let layers = self.layers(told);
        let runs = self.runs(told, &layers);
        let total: u64 = layers.iter().map(|l| l.parameters).sum();
        let work: u64 = layers.iter().map(|l| l.multiply_adds).sum();
        let title = Line::from(Span::styled(
            if runs { "layers" } else { "layers of the text" },
            theme.text(),
        ));
        let right = Line::from(Span::styled(
            format!("{} parameters  {}", grouped(total), flops(work)),
            theme.dim(),
        ));
        let inner = panel(buf, area, theme.frame(), &title, &right);
        if inner.height < 2 {
            return;
        }
        // Health belongs to the network that runs.
        let report = self.report().filter(|_| runs);
        let wide = inner.width >= 70;
        let foot = if wide || report.is_none() {
            0
        } else {
            2.min(inner.height / 4)
        };
        let figures = 30;
        let extra = if wide { 23 } else { 0 };
        // Beyond that the figures would stand far from what they are of.
        let name = inner.width.saturating_sub(figures + extra).min(48);
        let right_of = |column: u16| inner.x + name + column;
        let header = [("output", 12), ("params", 20), ("mult-adds", 30)];
        text(buf, inner, inner.x + 2, inner.y, "layer", theme.dim());
        for (word, end) in header {
            text_right(buf, inner, right_of(end), inner.y, word, theme.dim());
        }
        if wide {
            for (word, end) in [("weights", 38), ("gradient", 47), ("dead", 53)] {
                text_right(buf, inner, right_of(end), inner.y, word, theme.dim());
            }
        }
        let lines = usize::from(inner.height - 1 - foot).max(1);
        let selected = self.selected.min(layers.len().saturating_sub(1));
        let first = first_line(selected, layers.len(), lines);
        for (i, layer) in layers.iter().enumerate().skip(first).take(lines) {
            let y = inner.y + 1 + (i - first) as u16;
            let chosen = i == selected;
            let style = if chosen {
                theme.selected()
            } else {
                theme.text()
            };
            if chosen {
                text(
                    buf,
                    inner,
                    inner.x,
                    y,
                    " ".repeat(inner.width.into()),
                    style,
                );
            }
            let indent = 2 * layer.depth as usize;
            let words = format!(" {:indent$}{}", "", layer.text);
            let width = usize::from(name);
            text(buf, inner, inner.x, y, fitted(&words, width), style);
            text_right(
                buf,
                inner,
                right_of(12),
                y,
                &layer.output.to_string(),
                style,
            );
            // Nothing to learn and nothing to multiply is said by nothing.
            if layer.parameters > 0 {
                text_right(
                    buf,
                    inner,
                    right_of(20),
                    y,
                    &grouped(layer.parameters),
                    style,
                );
            }
            if layer.multiply_adds > 0 {
                text_right(
                    buf,
                    inner,
                    right_of(30),
                    y,
                    &flops(layer.multiply_adds),
                    style,
                );
            }
            if wide && let Some(report) = report {
                let health = Health::of(report, layer);
                if let Some((weights, gradient)) = health.norms {
                    text_right(buf, inner, right_of(38), y, &norm(weights), style);
                    text_right(buf, inner, right_of(47), y, &norm(gradient), style);
                }
                if let Some(dead) = health.dead {
                    let style = if dead > 0.5 && !chosen {
                        theme.wrong()
                    } else {
                        style
                    };
                    text_right(
                        buf,
                        inner,
                        right_of(53),
                        y,
                        &format!("{:.1}%", 100.0 * dead),
                        style,
                    );
                }
            }
        }
        if foot > 0
            && let (Some(report), Some(layer)) = (report, layers.get(selected))
        {
            let health = Health::of(report, layer);
            let y = inner.bottom() - 1;
            let norms = health
                .norms
                .map(|(w, g)| format!("|w| {}  |grad| {}", norm(w), norm(g)));
            let dead = health.dead.map(|d| format!("dead {:.1}%", 100.0 * d));
            let words = [norms, dead]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("  ");
            let words = if words.is_empty() {
                "nothing to learn in this layer".into()
            } else {
                words
            };
            text(buf, inner, inner.x + 1, y, words, theme.dim());
        }
    }

    fn draw_activations(&self, told: &Told, theme: Theme, area: Rect, buf: &mut Buffer) {
        if area.is_empty() {
            return;
        }
        let layers = self.layers(told);
        let item = self.picture.predictions().and_then(|p| p.2.first());
        let found = self
            .report()
            .filter(|_| self.runs(told, &layers))
            .and_then(|r| activations_at(r, &layers, self.selected));
        let title = Line::from(vec![
            Span::styled("activations  ", theme.text()),
            Span::styled(
                found.map_or("", |a| a.name.as_str()).to_owned(),
                theme.accent(),
            ),
        ]);
        let of = match item {
            Some(item) => format!("{}, {}", self.image, told.class(item.truth.into())),
            None => format!("{} {}", split_name(told.shown), self.image),
        };
        let inner = panel(
            buf,
            area,
            theme.frame(),
            &title,
            &Line::from(Span::styled(of, theme.dim())),
        );
        let Some(found) = found else {
            return message(&self.no_activations(told, &layers), theme, inner, buf);
        };
        // The image stands before its maps, if that leaves them most of the room.
        let width = 16.min(inner.width / 3 / 2 * 2);
        let mut maps = inner;
        let aside = width >= 8;
        let note = |row: u16, words: &str, buf: &mut Buffer| {
            if aside {
                let y = inner.y + width / 2 + row;
                text(
                    buf,
                    inner,
                    inner.x,
                    y,
                    fitted(words, width.into()),
                    theme.dim(),
                );
            }
        };
        if aside {
            if let Some(item) = item {
                let image = Rect::new(inner.x, inner.y, width, width / 2);
                half_block::draw(&item.picture, Scale::Smooth, theme, image, buf);
            }
            maps.x += width + 1;
            maps.width -= width + 1;
        }
        note(0, &format!("white {:.2}", found.largest), buf);
        if found.height == 1 && found.width == 1 {
            // A vector: one square of all units.
            let units: Vec<u8> = found
                .maps
                .iter()
                .filter_map(|m| m.first().copied())
                .collect();
            let side = (units.len() as f64).sqrt().ceil() as u32;
            let mut levels = units;
            levels.resize((side * side) as usize, 0);
            let (w, h) = half_block::fit(maps.width.min(side as u16 * 2), maps.height);
            let place = Rect::new(maps.x, maps.y, w, h);
            half_block::draw(&grey(side, &levels), Scale::Pixels, theme, place, buf);
            return;
        }
        let pictures: Vec<Picture> = found
            .maps
            .iter()
            .filter(|_| found.height == found.width)
            .map(|map| grey(found.height, map))
            .collect();
        let side = found.height as u16;
        let grid = Grid::of(pictures.len(), side, Scale::Smooth, side.min(16), maps);
        grid.draw(&pictures, Scale::Smooth, theme, maps, buf);
        let words = format!("{} maps", count_words(grid.fits, pictures.len()));
        note(1, &words, buf);
    }

    fn no_activations(&self, told: &Told, layers: &[Summary]) -> Vec<String> {
        if let Some(why) = self.report.failure() {
            return vec![
                "The network could not be looked into:".into(),
                why.to_owned(),
            ];
        }
        if told.run.is_none() {
            return match &told.state {
                State::Failed { why } => vec!["No network runs.".into(), why.clone()],
                _ => vec!["The network is looked into once the run begins.".into()],
            };
        }
        if !self.runs(told, layers) {
            return vec![
                "This network does not run yet.".into(),
                format!(
                    "Applied, it waits for the next run; {} starts that.",
                    key_of(ProgramAction::Restart)
                ),
            ];
        }
        match self.report() {
            Some(_) => vec![
                "This layer keeps no activations of its own.".into(),
                format!(
                    "{} and {} choose another.",
                    key_of(ModelAction::Choose(Move::Up)),
                    key_of(ModelAction::Choose(Move::Down))
                ),
            ],
            None => vec!["Looking into the network.".into()],
        }
    }

    fn draw_filters(&self, told: &Told, theme: Theme, area: Rect, buf: &mut Buffer) {
        if area.is_empty() {
            return;
        }
        let filters = self.report().map_or(&[][..], |r| &r.filters);
        let side = filters.first().map_or(1, |f| f.side as u16);
        // What is within the frame.
        let within = Rect::new(
            area.x + 1,
            area.y + 1,
            area.width.saturating_sub(2),
            area.height.saturating_sub(2),
        );
        let grid = Grid::of(filters.len(), side, Scale::Pixels, 4 * side, within);
        let size = match filters.len() {
            0 => String::new(),
            n => format!("{side}x{side}, {}", count_words(grid.fits, n)),
        };
        let right = self
            .report()
            .map_or(String::new(), |r| format!("step {}", grouped(r.step)));
        let title = Line::from(vec![
            Span::styled("first-layer filters  ", theme.text()),
            Span::styled(size, theme.accent()),
        ]);
        let inner = panel(
            buf,
            area,
            theme.frame(),
            &title,
            &Line::from(Span::styled(right, theme.dim())),
        );
        if filters.is_empty() {
            let lines = match (self.report(), self.report.failure()) {
                (Some(_), _) => {
                    vec!["The first layer is no convolution: it has no filters to draw.".into()]
                }
                (None, Some(why)) => vec![
                    "The network could not be looked into:".into(),
                    why.to_owned(),
                ],
                (None, None) if told.run.is_some() => vec!["Looking into the network.".into()],
                (None, None) => vec!["They are drawn once the run begins.".into()],
            };
            return message(&lines, theme, inner, buf);
        }
        grid.draw(filters, Scale::Pixels, theme, inner, buf);
    }
}

/// How many images the shown split has.
fn images(told: &Told) -> u32 {
    use crate::domain::report::Split;
    told.run.as_ref().map_or(0, |r| match told.shown {
        Split::Train => r.train,
        Split::Validation => r.validation,
        Split::Test => r.test,
    })
}

/// Figures of a layer's parameters and units.
struct Health {
    /// Of the weights and of their last gradient.
    norms: Option<(f64, f64)>,
    dead: Option<f64>,
}

impl Health {
    fn of(report: &ModelReport, layer: &Summary) -> Self {
        if layer.name.is_empty() {
            return Health {
                norms: None,
                dead: None,
            };
        }
        // The layer's own parameters: `conv1.weight`, but not `residual1.conv1.weight` for `residual1`.
        let own = |name: &str| {
            name.strip_prefix(layer.name.as_str())
                .and_then(|rest| rest.strip_prefix('.'))
                .is_some_and(|rest| !rest.contains('.'))
        };
        let (mut weights, mut gradient, mut any) = (0.0, 0.0, false);
        for p in report.parameters.iter().filter(|p| own(&p.name)) {
            weights += p.weight_norm * p.weight_norm;
            gradient += p.grad_norm * p.grad_norm;
            any = true;
        }
        Health {
            norms: any.then(|| (weights.sqrt(), gradient.sqrt())),
            dead: report
                .units
                .iter()
                .find(|u| u.name == layer.name)
                .map(|u| u.dead),
        }
    }
}

/// The activations of a layer, or of the nearest one above that keeps some (a layer and its ReLU are one).
fn activations_at<'a>(
    report: &'a ModelReport,
    layers: &[Summary],
    selected: usize,
) -> Option<&'a Activations> {
    let selected = selected.min(layers.len().checked_sub(1)?);
    layers[..=selected]
        .iter()
        .rev()
        .filter(|l| !l.name.is_empty())
        .find_map(|l| report.activations.iter().find(|a| a.name == l.name))
        .or(report.activations.first())
}

/// One brightness a pixel, as a picture.
fn grey(side: u32, levels: &[u8]) -> Picture {
    Picture {
        side,
        rgb: levels.iter().flat_map(|v| [*v; 3]).collect(),
    }
}

/// Small pictures in a grid, as large as all of them fit, at most `largest` columns each.
struct Grid {
    width: u16,
    across: u16,
    /// How many there is room for.
    fits: usize,
}

impl Grid {
    fn of(count: usize, side: u16, scale: Scale, largest: u16, area: Rect) -> Self {
        let grid = |width: u16| {
            let across = (area.width + 1) / (width + 1);
            let down = (area.height + 1) / (width / 2 + 1);
            Grid {
                width,
                across,
                fits: usize::from(across) * usize::from(down),
            }
        };
        // Whole cells a pixel keep squares square.
        let whole = |width: &u16| scale == Scale::Smooth || width.is_multiple_of(side.max(1));
        let smallest = match scale {
            Scale::Pixels if side.is_multiple_of(2) => side,
            Scale::Pixels => 2 * side,
            Scale::Smooth => 6,
        };
        (4..=largest.max(4))
            .rev()
            .filter(|w| w.is_multiple_of(2))
            .filter(whole)
            .map(grid)
            .find(|g| g.fits >= count)
            .unwrap_or_else(|| grid(smallest.max(2)))
    }

    fn draw(&self, pictures: &[Picture], scale: Scale, theme: Theme, area: Rect, buf: &mut Buffer) {
        if self.across == 0 {
            return;
        }
        for (i, picture) in pictures.iter().take(self.fits).enumerate() {
            let place = Rect::new(
                area.x + (i as u16 % self.across) * (self.width + 1),
                area.y + (i as u16 / self.across) * (self.width / 2 + 1),
                self.width,
                self.width / 2,
            );
            half_block::draw(picture, scale, theme, place, buf);
        }
    }
}

/// `32`, or `12 of 32` when there is no room for all.
fn count_words(fits: usize, count: usize) -> String {
    if fits < count {
        format!("{fits} of {count}")
    } else {
        count.to_string()
    }
}

/// First line shown so that the selected one is in sight, near the middle when there is more above and below.
fn first_line(selected: usize, count: usize, lines: usize) -> usize {
    selected
        .saturating_sub(lines / 2)
        .min(count.saturating_sub(lines))
}

/// Multiply-adds: `864`, `55.3 k`, `9.48 M`.
fn flops(n: u64) -> String {
    let v = n as f64;
    match v {
        v if v < 1e3 => n.to_string(),
        v if v < 1e6 => format!("{:.1} k", v / 1e3),
        v if v < 1e9 => format!("{:.2} M", v / 1e6),
        v => format!("{:.2} G", v / 1e9),
    }
}

/// A norm in at most eight columns.
fn norm(v: f64) -> String {
    match v.abs() {
        a if !v.is_finite() => format!("{a}"),
        0.0 => "0".into(),
        a if a < 1e-3 => format!("{v:.1e}"),
        a if a < 100.0 => format!("{v:.3}"),
        _ => format!("{v:.1}"),
    }
}

fn columns(content: &str) -> u16 {
    unicode_width::UnicodeWidthStr::width(content) as u16
}

impl View for Model {
    fn draw(&self, told: &Told, theme: Theme, area: Rect, buf: &mut Buffer) {
        let area = area.intersection(buf.area);
        if area.is_empty() {
            return;
        }
        let layout = self.layout(told, area);
        self.draw_text(told, theme, layout.text, buf);
        self.draw_layers(told, theme, layout.layers, buf);
        self.draw_activations(told, theme, layout.activations, buf);
        self.draw_filters(told, theme, layout.filters, buf);
    }

    fn shown(&mut self, ctx: &mut Context) {
        self.refresh(ctx);
    }

    fn event(&mut self, event: &Event, ctx: &mut Context) {
        if matches!(event, Event::Started(_)) {
            self.report.clear();
            self.picture.clear();
        }
        let _ = self.report.take(event) || self.picture.take(event);
        self.refresh(ctx);
    }

    fn mouse(&mut self, mouse: MouseEvent, ctx: &mut Context) {
        let layout = self.layout(ctx.told, ctx.area);
        let here = (mouse.column, mouse.row).into();
        match mouse.kind {
            MouseEventKind::ScrollDown => self.select(1, ctx.told),
            MouseEventKind::ScrollUp => self.select(-1, ctx.told),
            MouseEventKind::Down(MouseButton::Left)
                if layout.text.contains(here) && self.draft.is_none() && !ctx.told.ended =>
            {
                self.draft = Some(Field::new(&self.text(ctx.told)));
            }
            MouseEventKind::Down(MouseButton::Left) if layout.layers.contains(here) => {
                let line = usize::from(mouse.row.saturating_sub(layout.layers.y + 2));
                let count = self.layers(ctx.told).len();
                let lines = usize::from(layout.layers.height.saturating_sub(3)).max(1);
                let selected = self.selected.min(count.saturating_sub(1));
                let first = first_line(selected, count, lines);
                self.selected = (first + line).min(count.saturating_sub(1));
            }
            _ => {}
        }
        self.refresh(ctx);
    }

    fn editing(&self) -> bool {
        self.draft.is_some()
    }

    fn typed(&mut self, key: KeyEvent, ctx: &mut Context) {
        use crossterm::event::KeyModifiers;
        let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Esc => self.draft = None,
            KeyCode::Enter => self.apply(ctx),
            KeyCode::Char('n') if ctrl => self.next_preset(ctx.told),
            _ => {
                if let Some(field) = &mut self.draft {
                    field.key(&key);
                }
            }
        }
    }

    fn paste(&mut self, text: &str, _ctx: &mut Context) {
        if let Some(field) = &mut self.draft {
            field.insert(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_few_columns() {
        assert_eq!(flops(864), "864");
        assert_eq!(flops(9_479_000), "9.48 M");
        assert_eq!(norm(0.0), "0");
        assert_eq!(norm(1.5e-5), "1.5e-5");
        assert_eq!(norm(3.21), "3.210");
        assert_eq!(norm(f64::NAN), "NaN");
    }
}
