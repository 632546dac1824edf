//! The session as it was at the end of an earlier epoch.

use super::SessionView;
use crate::domain::report::Evaluation;
use crate::session::run_view::RunView;
use crate::tui::actions::key_of;
use crate::tui::views::train::TrainAction;

impl SessionView {
    /// This session as Confusion, Samples and Model show it at the end of the epoch of `evaluation`, which is of the
    /// images that are scored after each epoch.
    pub fn as_of(&self, evaluation: Evaluation) -> SessionView {
        let split = evaluation.split;
        let mut view = RunView::default();
        view.state = self.state.clone();
        view.run = self.run.clone();
        view.params = self.params.clone();
        SessionView {
            view,
            data: self.data.clone(),
            as_of: Some(evaluation.epoch),
            shown: split,
            evaluations: [(split.name(), (evaluation, None))].into(),
            ..self.fresh()
        }
    }

    /// Whether this is the session of an earlier epoch.
    ///
    /// # Errors
    /// Returns how to look back if it is that of now.
    pub fn is_past(&self) -> Result<(), String> {
        match self.as_of {
            Some(_) => Ok(()),
            None => Err(format!(
                "only when an earlier epoch is shown; {} on Train looks back at that of the curves' cursor",
                key_of(TrainAction::Type)
            )),
        }
    }
}
