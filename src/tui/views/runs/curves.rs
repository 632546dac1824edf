//! Draws the validation curves of the marked runs.

use super::super::query::message;
use super::{LETTERS, MAX_MARKED, RunsView};
use crate::domain::report::Split;
use crate::tui::session_view::SessionView;
use crate::tui::theme::Theme;
use crate::tui::widgets::plot::{self, PlotCurve};
use crate::tui::widgets::{fitted, panel};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

impl RunsView {
    pub(super) fn draw_curves(
        &self,
        session: &SessionView,
        theme: Theme,
        area: Rect,
        buf: &mut Buffer,
    ) {
        if area.is_empty() {
            return;
        }
        let drawn = self.drawn();
        let all = |split| {
            let mut runs = drawn.iter();
            runs.all(|(_, run)| run.params.scored_split() == split)
        };
        let scored = match (all(Split::Validation), all(Split::Test)) {
            (true, _) => "validation accuracy",
            (_, true) => "test accuracy",
            _ => "validation or test accuracy",
        };
        let title = Line::from(Span::styled(scored, theme.text()));
        let mut names: Vec<Span> = Vec::new();
        for (i, run) in &drawn {
            if !names.is_empty() {
                names.push(Span::raw("  "));
            }
            let words = if self.marked.is_empty() {
                run.name.clone()
            } else {
                format!("{} {}", LETTERS[*i], fitted(&run.name, 14))
            };
            names.push(Span::styled(words, curve_style(*i, theme)));
        }
        let inner = panel(buf, area, theme.frame(), &title, &Line::from(names));
        let _ = session;
        let letters = !self.marked.is_empty();
        let curves: Vec<PlotCurve> = drawn
            .iter()
            .map(|(i, run)| PlotCurve {
                style: curve_style(*i, theme),
                letter: if letters { LETTERS[*i] } else { "" },
                points: run
                    .epochs
                    .iter()
                    .filter(|e| e.accuracy.is_finite())
                    .map(|e| (e.position, e.accuracy))
                    .collect(),
            })
            .collect();
        if curves.iter().all(|curve| curve.points.is_empty()) {
            let lines = match drawn.len() {
                0 => vec!["Curves come with the first run.".into()],
                1 => vec!["This run has not finished an epoch: no curve yet.".into()],
                _ => vec!["These runs have not finished an epoch: no curves yet.".into()],
            };
            return message(&lines, theme, inner, buf);
        }
        plot::curves(&curves, theme, inner, buf);
    }
}

/// The colour of a marked run. Without colours, its letter identifies it.
pub(super) fn curve_style(i: usize, theme: Theme) -> Style {
    const INKS: [([u8; 3], Color); MAX_MARKED] = [
        ([229, 181, 103], Color::Yellow),
        ([97, 175, 239], Color::Cyan),
        ([136, 200, 110], Color::Green),
        ([240, 101, 101], Color::LightRed),
        ([187, 154, 247], Color::Magenta),
        ([86, 212, 200], Color::LightBlue),
    ];
    use crate::tui::theme::Colors;
    let (rgb, sixteen) = INKS[i % MAX_MARKED];
    match theme.colors {
        Colors::None => Style::new().add_modifier(Modifier::BOLD),
        Colors::Ansi16 => Style::new().fg(sixteen),
        colors => Style::new().fg(colors.rgb(rgb)),
    }
}
