//! The worker as the trainer's host.

use super::{Exit, Woken, Worker, known_index};
use crate::domain::report::{EpochReport, State, StepReport};
use crate::session::protocol::Event;
use crate::train::checkpoint::Applied;
use crate::train::evaluate::Scores;
use crate::train::trainer::{Phase, Trainer, TrainingHost};
use crossbeam_channel::TryRecvError;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

impl TrainingHost for Worker<'_> {
    fn poll(&mut self, trainer: &mut Trainer, phase: Phase) -> ControlFlow<()> {
        #[cfg(test)]
        if let Some((step, which, with)) = self.settings.spoil
            && phase == Phase::Training
            && trainer.run_state().step == step
            && self.over.is_none()
            && trainer.run_state().changes.is_empty()
        {
            trainer.spoil(which, with);
        }
        self.keep_house(trainer);
        // Cleared before the commands are taken up: one that comes meanwhile sets it again.
        self.tell.interrupt().store(false, Ordering::SeqCst);
        loop {
            let blocked = phase == Phase::Training && self.paused;
            let woken = if blocked {
                self.tell_steps();
                self.tell_state(State::Paused);
                self.try_again(trainer);
                Some(self.wait())
            } else {
                let early = self.inbox.next_early();
                match early.map_or_else(|| self.tell.requests.try_recv(), Ok) {
                    Ok(request) => Some(Woken::Command(request)),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => Some(Woken::Gone),
                }
            };
            let idle = woken.is_none();
            match woken {
                Some(Woken::Command(request)) => self.handle(request, trainer, phase),
                Some(Woken::Gone) => self.exit = Some(Exit::Quit),
                Some(Woken::Other) | None => {}
            }
            if self.exit.is_some() {
                return ControlFlow::Break(());
            }
            if phase == Phase::Training && self.score_wanted(trainer).is_break() {
                return ControlFlow::Break(());
            }
            if idle {
                break;
            }
        }
        match phase {
            Phase::Training => self.tell_state(State::Running),
            Phase::Evaluating { split, done, total } => {
                let same =
                    matches!(self.reported_state, State::Evaluating { split: s, .. } if s == split);
                if !same || self.state_reported_at.elapsed() >= self.settings.report_interval {
                    self.tell_steps();
                    self.tell_state(State::Evaluating { split, done, total });
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn steps_to_submit(&self, fits: usize) -> usize {
        if self.one_step { 1 } else { fits }
    }

    fn change_refused(&mut self, why: String) {
        self.warn(why);
        self.paused = true;
    }

    fn applied(&mut self, applied: &Applied) {
        // The steps before the change are told before it.
        self.tell_steps();
        self.health.changed();
        self.record(Event::Applied {
            change: applied.change.clone(),
            step: applied.step,
            epoch: applied.epoch,
        });
    }

    fn epoch_begins(&mut self, trainer: &Trainer) {
        self.set_length(trainer);
    }

    fn stepped(&mut self, report: &StepReport) {
        match &mut self.steps {
            Some(steps) => steps.extend(report),
            None => self.steps = Some(report.clone()),
        }
        self.write(|run| run.step(report));
        if std::mem::take(&mut self.one_step) {
            self.paused = true;
        }
    }

    fn evaluated(&mut self, scores: Scores) {
        self.tell_steps();
        let event = Event::Evaluation(scores.evaluation.clone());
        let only_look = self.look_only.take_if(|split| *split == scores.split);
        let known = &mut self.known[known_index(scores.split)];
        known.history.add(&scores);
        known.scores = Some(scores);
        match only_look {
            Some(_) => self.tell.event(event),
            None => self.record(event),
        }
    }

    fn epoch_over(&mut self, trainer: &mut Trainer, report: &EpochReport) {
        self.record(Event::Epoch(report.clone()));
        self.check_health(trainer, report);
        self.save(trainer, report.best);
    }
}
