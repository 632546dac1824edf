//! The record of comparisons. While one is under way, viewers receive the events of both networks; when it is over, only
//! those of the network that was chosen are part of the run's past.

use super::Event;

/// The past of a run with its comparisons resolved: if a change was kept, the run's training since the comparison began
/// is left out and the variant's takes its place; otherwise the variant's is left out. Of a comparison that is not over,
/// everything stays.
pub fn resolve_comparisons(events: impl IntoIterator<Item = Event>) -> Vec<Event> {
    let mut resolved: Vec<Event> = Vec::new();
    let mut began = None;
    for event in events {
        match &event {
            Event::ComparisonBegan { .. } => began = Some(resolved.len()),
            // A new session has no comparison of an earlier one.
            Event::Started(_) => remove_unchosen(&mut resolved, began.take(), false),
            Event::ComparisonOver { kept, .. } => {
                remove_unchosen(&mut resolved, began.take(), *kept);
            }
            _ => {}
        }
        resolved.push(event);
    }
    resolved
}

/// The past of a run that is read from its files: resolved, and without a comparison that was under way when it was
/// written.
pub fn resolved_past(events: Vec<Event>) -> Vec<Event> {
    let mut resolved = resolve_comparisons(events);
    let is_edge = |e: &Event| {
        matches!(
            e,
            Event::ComparisonBegan { .. } | Event::ComparisonOver { .. }
        )
    };
    let last = resolved.iter().rposition(is_edge);
    let open = last.filter(|&at| matches!(resolved[at], Event::ComparisonBegan { .. }));
    remove_unchosen(&mut resolved, open, false);
    resolved
}

/// Leaves out, from the event `began` on, the training of the network that was not chosen.
fn remove_unchosen(events: &mut Vec<Event>, began: Option<usize>, kept: bool) {
    let Some(began) = began else { return };
    let since = events.split_off(began);
    events.extend(since.into_iter().filter_map(|event| match event {
        Event::ComparisonBegan { .. } | Event::Compared(_) => None,
        Event::Variant { of } => kept.then_some(*of),
        event if kept && (event.is_of_training() || matches!(event, Event::Checkpoint(_))) => None,
        event => Some(event),
    }));
}
