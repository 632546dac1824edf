//! The table of actions, one per row.

use super::{Action, Do, Key, Move, ProgramAction, ch, ctrl, key, key_of};
use crate::domain::report::State;
use crate::tui::session_view::SessionView;
use crate::tui::views::ViewAction::{Confusion, Data, Model, Runs, Samples, Train};
use crate::tui::views::confusion::ConfusionAction;
use crate::tui::views::data::DataAction;
use crate::tui::views::model::ModelAction;
use crate::tui::views::runs::RunsAction;
use crate::tui::views::samples::SamplesAction;
use crate::tui::views::train::TrainAction;
use crate::tui::views::{Screen, ViewAction};
use crossterm::event::KeyCode;

fn always(_: &SessionView) -> Result<(), String> {
    Ok(())
}

fn alive(session: &SessionView) -> Result<(), String> {
    if session.ended {
        Err("the session is over".into())
    } else {
        Ok(())
    }
}

fn pausable(session: &SessionView) -> Result<(), String> {
    session.trainable()
}

fn testable(session: &SessionView) -> Result<(), String> {
    session.trainable()?;
    match session.state {
        _ if session.comparison.is_some() => Err("a comparison is under way".into()),
        State::Diverged { .. } => Err(format!(
            "the run has diverged; {} goes back to a state that can be tested",
            key_of(ProgramAction::GoBack)
        )),
        _ => Ok(()),
    }
}

fn paused(session: &SessionView) -> Result<(), String> {
    session.trainable()?;
    match session.state {
        State::Paused => Ok(()),
        State::Diverged { .. } => Err(format!(
            "the run has diverged; {} goes back, {} restarts it",
            key_of(ProgramAction::GoBack),
            key_of(ProgramAction::Restart)
        )),
        _ => Err(format!(
            "only while paused; {} pauses",
            key_of(ProgramAction::Pause)
        )),
    }
}

fn can_go_back(session: &SessionView) -> Result<(), String> {
    alive(session)?;
    match session.state {
        State::Diverged { .. } => Ok(()),
        _ => match &session.health.collapse {
            Some(collapse) if collapse.best.is_some() => Ok(()),
            Some(_) => Err("no epoch of the run was better".into()),
            None => Err("the run has neither diverged nor collapsed".into()),
        },
    }
}

fn saved(session: &SessionView) -> Result<(), String> {
    if session.run.as_ref().is_some_and(|r| r.name.is_empty()) {
        return Err("this run is not saved to a folder".into());
    }
    session.trainable()
}

fn detachable(session: &SessionView) -> Result<(), String> {
    alive(session)?;
    match &session.run {
        Some(run) if run.name.is_empty() => {
            Err("this run has no folder by which `attach` would find it".into())
        }
        Some(_) => Ok(()),
        None => Err("no run has begun".into()),
    }
}

fn begun(session: &SessionView) -> Result<(), String> {
    alive(session)?;
    if session.run.is_none() {
        return Err("no run has begun".into());
    }
    Ok(())
}

/// Whether this run, or another one of the session's runs folder, can be forked.
fn forkable(session: &SessionView) -> Result<(), String> {
    begun(session)?;
    match &session.run {
        Some(run) if run.name.is_empty() => Err("this run is not saved to a folder".into()),
        _ => Ok(()),
    }
}

fn downloadable(session: &SessionView) -> Result<(), String> {
    alive(session)?;
    if session.download.is_some() {
        return Err("a download is under way".into());
    }
    match &session.data {
        Some(data) if !data.is_sample => Err(format!("{} is loaded already", data.name)),
        _ => Ok(()),
    }
}

/// A row of a program action: its keys work on every screen.
const fn program(
    does: ProgramAction,
    keys: &'static [Key],
    rank: u8,
    name: &'static str,
    help: &'static str,
) -> Action {
    Action {
        does: Do::Program(does),
        keys,
        screen: None,
        name,
        help,
        rank,
        enabled: always,
    }
}

/// A row of a view's action: its keys work on its screen.
const fn view(
    does: ViewAction,
    keys: &'static [Key],
    rank: u8,
    name: &'static str,
    help: &'static str,
) -> Action {
    Action {
        does: Do::View(does),
        keys,
        screen: Some(does.screen()),
        name,
        help,
        rank,
        enabled: always,
    }
}

const fn when(mut action: Action, enabled: fn(&SessionView) -> Result<(), String>) -> Action {
    action.enabled = enabled;
    action
}

/// A program action whose keys work on one screen only.
const fn only(screen: Screen, mut action: Action) -> Action {
    action.screen = Some(screen);
    action
}

const UP: &[Key] = &[ch('k'), key(KeyCode::Up)];
const DOWN: &[Key] = &[ch('j'), key(KeyCode::Down)];
const LEFT: &[Key] = &[ch('h'), key(KeyCode::Left)];
const RIGHT: &[Key] = &[ch('l'), key(KeyCode::Right)];
const TOP: &[Key] = &[ch('g'), key(KeyCode::Home)];
const BOTTOM: &[Key] = &[ch('G'), key(KeyCode::End)];
const HALF_UP: &[Key] = &[ctrl('u'), key(KeyCode::PageUp)];
const HALF_DOWN: &[Key] = &[ctrl('d'), key(KeyCode::PageDown)];
const ENTER: &[Key] = &[key(KeyCode::Enter)];
const ESC: &[Key] = &[key(KeyCode::Esc)];

/// Every action. The rows of single screens precede those of all screens, which is the order in the help.
#[rustfmt::skip]
pub static ACTIONS: &[Action] = &[
    // Train
    view(Train(TrainAction::Choose(Move::Up)), UP, 0, "choose", "the hyperparameter above"),
    view(Train(TrainAction::Choose(Move::Down)), DOWN, 0, "choose", "the hyperparameter below"),
    view(Train(TrainAction::Lower), LEFT, 2, "nudge", "lower the chosen hyperparameter"),
    view(Train(TrainAction::Raise), RIGHT, 2, "nudge", "raise the chosen hyperparameter"),
    view(Train(TrainAction::LowerMuch), &[ch('H')], 0, "nudge more", "lower it by a large step"),
    view(Train(TrainAction::RaiseMuch), &[ch('L')], 0, "nudge more", "raise it by a large step"),
    view(Train(TrainAction::Type), ENTER, 3, "type", "type a value for the chosen hyperparameter; with the cursor on the curves: look back at its epoch; in a comparison: keep its change"),
    view(Train(TrainAction::TypeValue), &[ch('i')], 0, "type", "type a value, also with the cursor on the curves or in a comparison"),
    view(Train(TrainAction::LookBack), &[], 0, "look back", "Confusion, Samples and Model as they were at the end of the epoch at the cursor"),
    view(Train(TrainAction::Back), ESC, 0, "back", "leave the editor, the cursor, the zoom or the filter; in a comparison: drop its change"),
    view(Train(TrainAction::Choose(Move::Top)), TOP, 0, "first", "the first hyperparameter"),
    view(Train(TrainAction::Choose(Move::Bottom)), BOTTOM, 0, "last", "the last hyperparameter"),
    view(Train(TrainAction::Choose(Move::HalfUp)), HALF_UP, 0, "page up", "half a panel up"),
    view(Train(TrainAction::Choose(Move::HalfDown)), HALF_DOWN, 0, "page down", "half a panel down"),
    view(Train(TrainAction::Filter), &[ch('/')], 0, "filter", "show only hyperparameters that match"),
    view(Train(TrainAction::FlipChart), &[ch('f')], 0, "flip", "the other chart: loss or accuracy"),
    view(Train(TrainAction::Zoom), &[ch('z')], 0, "zoom", "one panel over the whole screen: loss, accuracy, log"),
    view(Train(TrainAction::LogScale), &[ch('o')], 0, "log y", "logarithmic loss axis"),
    view(Train(TrainAction::Smoother), &[ch(')')], 0, "smoother", "smooth the training curves more"),
    view(Train(TrainAction::Rougher), &[ch('(')], 0, "rougher", "smooth the training curves less"),
    view(Train(TrainAction::CursorLeft), &[ch('[')], 0, "read", "read the curves: cursor to the left"),
    view(Train(TrainAction::CursorRight), &[ch(']')], 0, "read", "read the curves: cursor to the right"),
    view(Train(TrainAction::CursorFarLeft), &[ch('{')], 0, "read", "cursor to the epoch before"),
    view(Train(TrainAction::CursorFarRight), &[ch('}')], 0, "read", "cursor to the epoch after"),
    view(Train(TrainAction::Closer), &[ch('+'), ch('=')], 0, "closer", "zoom into the x axis, around the cursor"),
    view(Train(TrainAction::Wider), &[ch('-')], 0, "wider", "zoom out of the x axis"),
    view(Train(TrainAction::PanLeft), &[ch('<')], 0, "pan", "move the zoomed x axis to the left"),
    view(Train(TrainAction::PanRight), &[ch('>')], 0, "pan", "move the zoomed x axis to the right"),
    view(Train(TrainAction::Copy), &[ch('y')], 0, "copy", "copy the chosen hyperparameter as `key = value`"),
    view(Train(TrainAction::Picture), &[ch('s')], 0, "save", "save the chart as a PNG picture in the run's folder"),
    when(view(Train(TrainAction::Fork), &[ch('F')], 11, "fork", "fork here, or from the epoch at the cursor: a new run with the pending changes, paused"), forkable),
    view(Train(TrainAction::Compare), &[ch('A')], 11, "compare", "A/B: train with and without the next change, or the pending one of the chosen row, side by side"),
    view(Train(TrainAction::KeepChange), &[], 0, "keep", "end the comparison: the run goes on with its change"),
    view(Train(TrainAction::DropChange), &[], 0, "drop", "end the comparison: the run goes on without its change"),
    when(view(Train(TrainAction::TestRates), &[ch('T')], 12, "test rates", "test learning rates on a copy of the network from here; training waits, and the run stays as it is"), testable),
    view(Train(TrainAction::Sweep), &[ch('S')], 0, "sweep", "end this run and train one for every combination of the typed ranges"),
    // Confusion
    view(Confusion(ConfusionAction::Choose(Move::Up)), UP, 0, "move", "the row above; the images before, when a cell is open"),
    view(Confusion(ConfusionAction::Choose(Move::Down)), DOWN, 0, "move", "the row below; the images after, when a cell is open"),
    view(Confusion(ConfusionAction::Left), LEFT, 0, "move", "the column to the left"),
    view(Confusion(ConfusionAction::Right), RIGHT, 0, "move", "the column to the right"),
    view(Confusion(ConfusionAction::Choose(Move::Top)), TOP, 0, "first", "the first cell"),
    view(Confusion(ConfusionAction::Choose(Move::Bottom)), BOTTOM, 0, "last", "the last cell"),
    view(Confusion(ConfusionAction::NextWorst), &[ch('m'), ch(']')], 2, "most confused", "the next of the most confused pairs"),
    view(Confusion(ConfusionAction::PreviousWorst), &[ch('M'), ch('[')], 0, "most confused", "the previous of the most confused pairs"),
    view(Confusion(ConfusionAction::OpenCell), ENTER, 2, "images", "the cell's images on the whole screen"),
    view(Confusion(ConfusionAction::Back), ESC, 0, "back", "back to the matrix"),
    view(Confusion(ConfusionAction::Values), &[ch('v')], 3, "values", "counts, % of the row, or the change since the last evaluation"),
    view(Confusion(ConfusionAction::OtherSplit), &[ch('t')], 3, "split", "turn between the validation and the test images"),
    view(Confusion(ConfusionAction::Choose(Move::HalfUp)), HALF_UP, 0, "page up", "the page of images before"),
    view(Confusion(ConfusionAction::Choose(Move::HalfDown)), HALF_DOWN, 0, "page down", "the page of images after"),
    view(Confusion(ConfusionAction::Copy), &[ch('y')], 0, "copy", "copy the matrix, tabs between its columns"),
    view(Confusion(ConfusionAction::Picture), &[ch('s')], 0, "save", "save the matrix as a PNG picture in the run's folder"),
    view(Confusion(ConfusionAction::Fork), &[ch('F')], 0, "fork", "fork from the earlier epoch that is shown: a new run with the pending changes, paused"),
    // Samples
    view(Samples(SamplesAction::Choose(Move::Up)), UP, 0, "choose", "the image above"),
    view(Samples(SamplesAction::Choose(Move::Down)), DOWN, 0, "choose", "the image below"),
    view(Samples(SamplesAction::Left), LEFT, 0, "choose", "the image before"),
    view(Samples(SamplesAction::Right), RIGHT, 0, "choose", "the image after"),
    view(Samples(SamplesAction::Choose(Move::Top)), TOP, 0, "first", "the first image"),
    view(Samples(SamplesAction::Choose(Move::Bottom)), BOTTOM, 0, "last", "the last image"),
    view(Samples(SamplesAction::Choose(Move::HalfUp)), HALF_UP, 0, "page up", "the page before"),
    view(Samples(SamplesAction::Choose(Move::HalfDown)), HALF_DOWN, 0, "page down", "the page after"),
    view(Samples(SamplesAction::Enlarge), ENTER, 2, "look", "one image large, its probabilities and earlier predictions"),
    view(Samples(SamplesAction::Back), ESC, 0, "back", "back to the grid"),
    view(Samples(SamplesAction::NextFilter), &[ch('f')], 2, "filter", "all, wrong, most confident wrong, least sure, one class, pinned"),
    view(Samples(SamplesAction::Class), &[ch('c')], 3, "class", "the images of one class; again: of the next"),
    view(Samples(SamplesAction::Pin), &[ch('p')], 3, "pin", "keep an eye on this image, or no longer"),
    view(Samples(SamplesAction::OtherSplit), &[ch('t')], 3, "split", "turn between the validation and the test images"),
    view(Samples(SamplesAction::LargerImages), &[ch('+'), ch('=')], 0, "larger", "larger images"),
    view(Samples(SamplesAction::SmallerImages), &[ch('-')], 0, "smaller", "smaller images"),
    view(Samples(SamplesAction::Fork), &[ch('F')], 0, "fork", "fork from the earlier epoch that is shown: a new run with the pending changes, paused"),
    // Model
    view(Model(ModelAction::Edit), &[key(KeyCode::Enter), ch('i')], 2, "edit", "edit the architecture; enter applies it to the next run"),
    view(Model(ModelAction::Presets), &[ch('a')], 3, "presets", "the next architecture that comes with the program"),
    view(Model(ModelAction::Recipe), &[ch('m')], 3, "recipe", "the next recipe, for the next run: its architecture and its hyperparameters"),
    view(Model(ModelAction::Back), ESC, 0, "back", "forget what was typed"),
    view(Model(ModelAction::Choose(Move::Up)), UP, 0, "choose", "the layer above"),
    view(Model(ModelAction::Choose(Move::Down)), DOWN, 0, "choose", "the layer below"),
    view(Model(ModelAction::Choose(Move::Top)), TOP, 0, "first", "the first layer"),
    view(Model(ModelAction::Choose(Move::Bottom)), BOTTOM, 0, "last", "the last layer"),
    view(Model(ModelAction::Choose(Move::HalfUp)), HALF_UP, 0, "page up", "half a page up"),
    view(Model(ModelAction::Choose(Move::HalfDown)), HALF_DOWN, 0, "page down", "half a page down"),
    view(Model(ModelAction::OtherPictures), &[ch('v')], 3, "filters", "turn between activations and first-layer filters"),
    view(Model(ModelAction::NextImage), &[ch(']'), ch('l'), key(KeyCode::Right)], 3, "image", "activations of the next image"),
    view(Model(ModelAction::PreviousImage), &[ch('['), ch('h'), key(KeyCode::Left)], 0, "image", "activations of the previous image"),
    view(Model(ModelAction::Freeze), &[ch('f')], 4, "freeze", "freeze the chosen layer or block, or let it learn again"),
    view(Model(ModelAction::Slower), &[ch('<')], 12, "rate", "halve the factor on the layer's learning rate"),
    view(Model(ModelAction::Faster), &[ch('>')], 12, "rate", "double the factor on the layer's learning rate"),
    view(Model(ModelAction::Reset), &[ch('r')], 12, "reset", "give the chosen layer or block fresh weights; undo takes it back"),
    view(Model(ModelAction::Fork), &[ch('F')], 0, "fork", "fork from the earlier epoch that is shown: a new run with the pending changes, paused"),
    // Runs
    view(Runs(RunsAction::Choose(Move::Up)), UP, 0, "choose", "the run above"),
    view(Runs(RunsAction::Choose(Move::Down)), DOWN, 0, "choose", "the run below"),
    view(Runs(RunsAction::Choose(Move::Top)), TOP, 0, "first", "the first run"),
    view(Runs(RunsAction::Choose(Move::Bottom)), BOTTOM, 0, "last", "the last run"),
    view(Runs(RunsAction::Choose(Move::HalfUp)), HALF_UP, 0, "page up", "half a page up"),
    view(Runs(RunsAction::Choose(Move::HalfDown)), HALF_DOWN, 0, "page down", "half a page down"),
    view(Runs(RunsAction::Mark), &[ch('m'), key(KeyCode::Enter)], 2, "mark", "lay this run's curve over the others, or no longer"),
    when(view(Runs(RunsAction::Fork), &[ch('F')], 2, "fork", "fork from the run's best epoch: a new run with the pending changes, paused"), forkable),
    view(Runs(RunsAction::Rename), &[ch('r')], 3, "rename", "give the run another name"),
    view(Runs(RunsAction::Note), &[ch('o')], 3, "note", "write a note about the run"),
    view(Runs(RunsAction::Delete), &[ch('d'), key(KeyCode::Delete)], 3, "delete", "delete the run's folder (asks first)"),
    view(Runs(RunsAction::Back), ESC, 0, "back", "unmark all"),
    view(Runs(RunsAction::Copy), &[ch('y')], 0, "copy", "copy the command that resumes the run"),
    // Data
    view(Data(DataAction::Choose(Move::Up)), UP, 0, "choose", "the image above"),
    view(Data(DataAction::Choose(Move::Down)), DOWN, 0, "choose", "the image below"),
    view(Data(DataAction::Left), LEFT, 0, "choose", "the image before"),
    view(Data(DataAction::Right), RIGHT, 0, "choose", "the image after"),
    view(Data(DataAction::Choose(Move::Top)), TOP, 0, "first", "the first image"),
    view(Data(DataAction::Choose(Move::Bottom)), BOTTOM, 0, "last", "the last image"),
    view(Data(DataAction::Choose(Move::HalfUp)), HALF_UP, 0, "page up", "the page before"),
    view(Data(DataAction::Choose(Move::HalfDown)), HALF_DOWN, 0, "page down", "the page after"),
    view(Data(DataAction::Class), &[ch('c')], 2, "class", "the images of one class; again: of the next"),
    view(Data(DataAction::OtherSplit), &[ch('t')], 2, "split", "turn between the training, validation and test images"),
    view(Data(DataAction::Augment), ENTER, 3, "augment", "show the chosen training image as augmentation shows it"),
    view(Data(DataAction::Back), ESC, 0, "back", "back to the grid"),
    // All screens
    when(program(ProgramAction::Pause, &[ch(' ')], 1, "pause", "pause or resume"), pausable),
    when(program(ProgramAction::Step, &[ch('n')], 0, "step", "one training step while paused"), paused),
    when(program(ProgramAction::Undo, &[ch('u')], 4, "undo", "take back the last change"), alive),
    when(program(ProgramAction::Evaluate, &[ch('e')], 5, "evaluate", "score the validation images now"), pausable),
    when(program(ProgramAction::Checkpoint, &[ch('w')], 6, "checkpoint", "write a checkpoint now"), saved),
    when(program(ProgramAction::Restart, &[ch('R')], 7, "restart", "start a new run with the pending changes"), begun),
    when(program(ProgramAction::GoBack, &[ch('b')], 0, "go back", "after a divergence or a collapse: to an earlier checkpoint, with a lower learning rate"), can_go_back),
    when(program(ProgramAction::Stop, &[ch('x')], 8, "stop", "end this run (asks first)"), pausable),
    only(Screen::Data, when(program(ProgramAction::Download, &[ch('d')], 3, "download", "fetch the real CIFAR-10 into the data folder"), downloadable)),
    program(ProgramAction::Show(Screen::Train), &[ch('1')], 0, "Train", "the Train screen"),
    program(ProgramAction::Show(Screen::Confusion), &[ch('2')], 0, "Confusion", "the Confusion screen"),
    program(ProgramAction::Show(Screen::Samples), &[ch('3')], 0, "Samples", "the Samples screen"),
    program(ProgramAction::Show(Screen::Model), &[ch('4')], 0, "Model", "the Model screen"),
    program(ProgramAction::Show(Screen::Runs), &[ch('5')], 0, "Runs", "the Runs screen"),
    program(ProgramAction::Show(Screen::Data), &[ch('6')], 0, "Data", "the Data screen"),
    program(ProgramAction::NextScreen, &[key(KeyCode::Tab)], 0, "next", "the next screen"),
    program(ProgramAction::PreviousScreen, &[key(KeyCode::BackTab)], 0, "previous", "the previous screen"),
    program(ProgramAction::Palette, &[ch(':')], 9, "palette", "every action by name"),
    program(ProgramAction::Help, &[ch('?')], 10, "help", "the keys of this screen"),
    program(ProgramAction::Mouse, &[], 0, "mouse", "turn the mouse on or off (off: the terminal selects text)"),
    program(ProgramAction::Redraw, &[ctrl('l')], 0, "redraw", "redraw the whole screen"),
    program(ProgramAction::Suspend, &[ctrl('z')], 0, "suspend", "back to the shell; `fg` returns"),
    when(program(ProgramAction::Detach, &[ch('D')], 0, "detach", "leave; training continues, and `cifar-tui attach` returns"), detachable),
    program(ProgramAction::Quit, &[ch('q'), ctrl('c')], 1, "quit", "save and quit"),
];

/// The actions in README's table of keys.
pub static README_ACTIONS: &[Do] = &[
    Do::Program(ProgramAction::Pause),
    Do::View(Train(TrainAction::Choose(Move::Down))),
    Do::View(Train(TrainAction::Lower)),
    Do::View(Train(TrainAction::Raise)),
    Do::View(Train(TrainAction::Type)),
    Do::View(Train(TrainAction::Zoom)),
    Do::Program(ProgramAction::Undo),
    Do::Program(ProgramAction::Evaluate),
    Do::View(Train(TrainAction::Fork)),
    Do::View(Train(TrainAction::Compare)),
    Do::Program(ProgramAction::Restart),
    Do::Program(ProgramAction::Stop),
    Do::View(Confusion(ConfusionAction::NextWorst)),
    Do::View(Samples(SamplesAction::NextFilter)),
    Do::View(Model(ModelAction::Edit)),
    Do::Program(ProgramAction::NextScreen),
    Do::Program(ProgramAction::Palette),
    Do::Program(ProgramAction::Help),
    Do::Program(ProgramAction::Detach),
    Do::Program(ProgramAction::Quit),
];
