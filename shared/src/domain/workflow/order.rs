//! The order of execution: every node after its dependencies, otherwise as declared.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::model::Node;
use super::problem::{Pointer, Report};
use super::reader::shorten;
use super::suggest::did_you_mean;

/// A node as declared. What was read of one with problems still takes part, so that its dependencies are checked too.
pub(super) struct Draft<'v> {
    pub(super) id: Option<&'v str>,
    /// Ids of other nodes, with their places in the document.
    pub(super) dependencies: Vec<(Pointer, &'v str)>,
    /// `None` where the node has a problem of its own.
    pub(super) node: Option<Node>,
}

/// Checks the dependencies and orders the nodes; `None` where a draft has no node or a dependency is wrong.
pub(super) fn ordered(
    drafts: Vec<Option<Draft<'_>>>,
    first_with_id: &HashMap<&str, usize>,
    at: &Pointer,
    elsewhere: (&str, &[&str]),
    report: &mut Report,
) -> Option<Vec<Node>> {
    let mut sound = true;
    let mut edges: Vec<Vec<usize>> = Vec::with_capacity(drafts.len());
    for (index, draft) in drafts.iter().enumerate() {
        let mut needed = Vec::new();
        for (place, id) in draft.iter().flat_map(|draft| &draft.dependencies) {
            match first_with_id.get(id) {
                Some(first) if *first == index => {
                    report.problem(
                        place,
                        "self_dependency",
                        format!("the node `{}` depends on itself", shorten(id)),
                    );
                    sound = false;
                }
                Some(first) => needed.push(*first),
                None => {
                    report.problem(place, "unknown_dependency", unknown(id, first_with_id, elsewhere));
                    sound = false;
                }
            }
        }
        needed.sort_unstable();
        needed.dedup();
        edges.push(needed);
    }
    let order = topological(&edges);
    if order.len() < drafts.len() {
        report_cycles(&drafts, &edges, &order, at, report);
        return None;
    }
    let mut new_index = vec![0; drafts.len()];
    for (new, old) in order.iter().enumerate() {
        new_index[*old] = new;
    }
    let mut nodes: Vec<Option<Node>> = drafts.into_iter().map(|draft| draft?.node).collect();
    let nodes: Option<Vec<Node>> = order
        .iter()
        .map(|old| {
            let mut node = nodes[*old].take()?;
            node.dependencies = edges[*old].iter().map(|old| new_index[*old]).collect();
            node.dependencies.sort_unstable();
            Some(node)
        })
        .collect();
    nodes.filter(|_| sound)
}

fn unknown(id: &str, known: &HashMap<&str, usize>, (other_list, ids_elsewhere): (&str, &[&str])) -> String {
    if ids_elsewhere.contains(&id) {
        return format!(
            "`{}` is a node of `{other_list}`; a node depends only on nodes of its own list",
            shorten(id)
        );
    }
    // By place, so that of two names equally near the first declared is suggested.
    let mut names: Vec<(&str, usize)> = known.iter().map(|(name, place)| (*name, *place)).collect();
    names.sort_unstable_by_key(|(_, place)| *place);
    let suggestion = did_you_mean(id, names.into_iter().map(|(name, _)| name));
    format!("there is no node `{}` in this list{suggestion}", shorten(id))
}

/// Indexes in order, of two that are ready the one declared first. Nodes on or behind a cycle are left out.
fn topological(edges: &[Vec<usize>]) -> Vec<usize> {
    let mut waiting: Vec<usize> = edges.iter().map(Vec::len).collect();
    let mut dependents = vec![Vec::new(); edges.len()];
    for (node, needed) in edges.iter().enumerate() {
        for other in needed {
            dependents[*other].push(node);
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        waiting.iter().enumerate().filter(|(_, count)| **count == 0).map(|(node, _)| Reverse(node)).collect();
    let mut order = Vec::with_capacity(edges.len());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node);
        for dependent in &dependents[node] {
            waiting[*dependent] -= 1;
            if waiting[*dependent] == 0 {
                ready.push(Reverse(*dependent));
            }
        }
    }
    order
}

/// Names the members of cycles, each node at most once.
fn report_cycles(
    drafts: &[Option<Draft<'_>>],
    edges: &[Vec<usize>],
    order: &[usize],
    at: &Pointer,
    report: &mut Report,
) {
    let mut settled: HashSet<usize> = order.iter().copied().collect();
    for start in 0..edges.len() {
        // Every unsettled node has an unsettled dependency, or led to one: following them ends in a circle.
        let mut path: Vec<usize> = Vec::new();
        let mut current = (!settled.contains(&start)).then_some(start);
        while let Some(node) = current {
            if let Some(begin) = path.iter().position(|other| *other == node) {
                let mut circle = path[begin..].to_vec();
                // From the member declared first, so that the message does not depend on where we entered.
                let first =
                    circle.iter().enumerate().min_by_key(|(_, node)| **node).map_or(0, |(place, _)| place);
                circle.rotate_left(first);
                circle.push(circle[0]);
                let names: Vec<String> = circle
                    .iter()
                    .map(|node| {
                        shorten(drafts[*node].as_ref().and_then(|draft| draft.id).unwrap_or_default())
                    })
                    .collect();
                let message = format!("these nodes wait for each other: {}", names.join(" -> "));
                report.problem(&at.index(circle[0]).key("dependencies"), "dependency_cycle", message);
                break;
            }
            path.push(node);
            current = edges[node].iter().copied().find(|needed| !settled.contains(needed));
        }
        settled.extend(path);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nodes_follow_their_dependencies_and_otherwise_the_declaration() {
        assert_eq!(topological(&[vec![], vec![], vec![]]), [0, 1, 2]);
        assert_eq!(topological(&[vec![2], vec![], vec![]]), [1, 2, 0]);
        assert_eq!(topological(&[vec![3], vec![], vec![0], vec![]]), [1, 3, 0, 2]);
        assert_eq!(topological(&[vec![1], vec![0], vec![]]), [2]);
    }

    proptest! {
        #[test]
        fn of_any_graph_without_cycles_every_node_comes_after_what_it_needs(
            pairs in prop::collection::vec((0_usize..30, 0_usize..30), 0..80), shuffle in any::<u64>(),
        ) {
            // Edges from higher to lower rank cannot form a cycle; ranks are a permutation.
            let rank = |node: usize| (node * 7 + usize::try_from(shuffle % 30).unwrap()) % 30;
            let mut edges = vec![Vec::new(); 30];
            for (a, b) in pairs {
                if rank(a) > rank(b) && !edges[a].contains(&b) {
                    edges[a].push(b);
                }
            }
            let order = topological(&edges);
            prop_assert_eq!(order.len(), 30);
            let place = |node: usize| order.iter().position(|other| *other == node).unwrap();
            for (node, needed) in edges.iter().enumerate() {
                prop_assert!(needed.iter().all(|other| place(*other) < place(node)));
            }
        }
    }
}
