//! The family tree of runs: which runs are forks of which.

use super::RunSummary;

/// Maximum difference in seconds between two times of the start of one run, which JSON may round.
const SAME_START: f64 = 1e-5;

/// The index of the parent of run `child`, if it is among `runs`. A parent is known by its start, since it may have been
/// renamed; of copies, the one with its name is taken.
fn parent(runs: &[RunSummary], child: usize) -> Option<usize> {
    let origin = runs[child].origin.as_ref()?;
    let is = |run: &RunSummary| (run.started - origin.run_started).abs() < SAME_START;
    let others = || (0..runs.len()).filter(|i| *i != child && is(&runs[*i]));
    others()
        .find(|i| runs[*i].name == origin.run)
        .or_else(|| others().next())
}

/// Orders runs so that each follows its parent, and sets their parent and depth. Families keep the order of their first
/// members, and so do the children of a run.
pub fn into_families(mut runs: Vec<RunSummary>) -> Vec<RunSummary> {
    let parents: Vec<_> = (0..runs.len()).map(|i| parent(&runs, i)).collect();
    let mut placed = vec![false; runs.len()];
    let mut order = Vec::with_capacity(runs.len());
    for first in 0..runs.len() {
        // Files that were edited may name parents in a circle.
        let mut root = first;
        for _ in 0..runs.len() {
            root = parents[root].unwrap_or(root);
        }
        let mut next = vec![(root, 0)];
        while let Some((run, depth)) = next.pop() {
            if std::mem::replace(&mut placed[run], true) {
                continue;
            }
            order.push((run, depth));
            let children = (0..runs.len()).filter(|i| parents[*i] == Some(run));
            next.extend(children.rev().map(|child| (child, depth + 1)));
        }
    }
    for (run, depth) in &order {
        runs[*run].parent = parents[*run].map(|parent| runs[parent].name.clone());
        runs[*run].depth = *depth;
    }
    let mut runs: Vec<_> = runs.into_iter().map(Some).collect();
    let take = |(run, _): (usize, u32)| runs[run].take();
    order.into_iter().filter_map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fork::ForkOrigin;
    use crate::domain::params::Hyperparameters;

    /// A run that began at this time, and a parent by name and start.
    fn run(name: &str, started: f64, parent: Option<(&str, f64)>) -> RunSummary {
        let origin = parent.map(|(run, run_started)| ForkOrigin {
            run: run.into(),
            run_started,
            step: 10,
            epoch: 1,
            epoch_over: true,
            changes: Vec::new(),
            taken: 1,
            fresh: Vec::new(),
        });
        RunSummary {
            name: name.into(),
            started,
            origin,
            ..RunSummary::unread(name.into(), String::new())
        }
    }

    /// The names in order with their branches.
    fn tree(runs: Vec<RunSummary>) -> Vec<String> {
        let names = into_families(runs).into_iter();
        names.map(|run| run.branch() + &run.name).collect()
    }

    #[test]
    fn forks_follow_their_parent_and_families_their_newest_member() {
        let runs = vec![
            run("e", 9.0, Some(("a", 1.0))),
            run("d", 8.0, None),
            run("c", 7.0, Some(("old name", 3.0))),
            run("x", 6.5, Some(("deleted", 2.5))),
            run("copy", 3.0, None),
            run("b", 3.0 + 1e-7, Some(("a", 1.0))),
            run("a", 1.0, None),
        ];
        let expected = ["a", "└ e", "└ b", "d", "copy", "└ c", "x"];
        assert_eq!(tree(runs.clone()), expected);
        let families = into_families(runs);
        let parent = |name: &str| {
            let found = families.iter().find(|run| run.name == name);
            found.and_then(|run| run.parent.as_deref())
        };
        assert_eq!(
            (parent("e"), parent("x"), parent("a")),
            (Some("a"), None, None)
        );
        assert_eq!(families[0].params, Hyperparameters::default());
    }

    #[test]
    fn every_run_is_listed_once_whatever_its_origin_says() {
        let circle = vec![
            run("a", 1.0, Some(("b", 2.0))),
            run("b", 2.0, Some(("c", 3.0))),
            run("c", 3.0, Some(("a", 1.0))),
            run("self", 4.0, Some(("self", 4.0))),
            run("nan", f64::NAN, Some(("nan", f64::NAN))),
        ];
        let mut names: Vec<_> = into_families(circle).into_iter().map(|r| r.name).collect();
        names.sort();
        assert_eq!(names, ["a", "b", "c", "nan", "self"]);
        let line =
            (0..30).map(|i| run(&i.to_string(), f64::from(i), Some(("", f64::from(i) - 1.0))));
        let tree = tree(line.collect());
        assert_eq!(tree[29], format!("{}└ 29", "  ".repeat(7)));
    }
}
