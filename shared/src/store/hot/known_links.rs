//! Links that this worker has recorded before, and need not be sent again: on most sites, most links of most pages.
//!
//! A link is forgotten sooner or later, and then sent again: what is in here only spares the database work. Rows of the
//! frontier are not removed while their execution runs, so what was recorded stays recorded; but with another server, which may
//! lack the last of it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::domain::id::ExecutionId;

/// Links of each generation: some 24 MiB of memory for both together.
const GENERATION: usize = 200_000;

type Key = (ExecutionId, [u8; 16]);

/// How a link was recorded: a later find that says the same or less brings nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) depth: i32,
    pub(super) priority: i32,
}

/// The links, in two generations: the older one goes when the younger one is full. Read before a record is sent, written
/// after it was committed; locked for moments only, never across a wait.
#[derive(Debug, Default)]
pub(super) struct KnownLinks {
    generations: Mutex<[HashMap<Key, Recorded>; 2]>,
}

impl KnownLinks {
    /// Leaves those that bring something new.
    pub(super) fn retain_news<L>(&self, links: &mut Vec<L>, of: impl Fn(&L) -> (Key, Recorded)) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let [young, old] = &mut *generations;
        links.retain(|link| {
            let (key, found) = of(link);
            let known = young.get(&key).copied().or_else(|| {
                // One that is still of use is kept.
                let known = old.get(&key).copied()?;
                young.insert(key, known);
                Some(known)
            });
            known.is_none_or(|known| found.depth < known.depth || found.priority > known.priority)
        });
        rotate(&mut generations);
    }

    /// Knows nothing any more.
    pub(super) fn forget(&self) {
        *self.generations.lock().unwrap_or_else(PoisonError::into_inner) = Default::default();
    }

    /// Notes links that were committed.
    pub(super) fn remember(&self, links: impl Iterator<Item = (Key, Recorded)>) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, found) in links {
            let known = generations[0].entry(key).or_insert(found);
            known.depth = known.depth.min(found.depth);
            known.priority = known.priority.max(found.priority);
        }
        rotate(&mut generations);
    }
}

fn rotate(generations: &mut [HashMap<Key, Recorded>; 2]) {
    if generations[0].len() >= GENERATION {
        generations.swap(0, 1);
        generations[0].clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(known: &KnownLinks, execution: ExecutionId, depth: i32, priority: i32) -> bool {
        let mut links = vec![()];
        known.retain_news(&mut links, |()| ((execution, [7; 16]), Recorded { depth, priority }));
        !links.is_empty()
    }

    #[test]
    fn a_link_is_news_until_it_is_recorded_and_when_it_is_found_nearer() {
        let (known, one, other) = (KnownLinks::default(), ExecutionId::generate(), ExecutionId::generate());
        assert!(news(&known, one, 3, 70));
        assert!(news(&known, one, 3, 70), "it was found, but not recorded");
        known.remember([((one, [7; 16]), Recorded { depth: 3, priority: 70 })].into_iter());
        assert!(!news(&known, one, 3, 70));
        assert!(!news(&known, one, 4, 60));
        assert!(news(&known, one, 2, 80), "a shorter way");
        assert!(news(&known, other, 3, 70), "executions know nothing of each other");
        known.forget();
        assert!(news(&known, one, 3, 70));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (known, execution) = (KnownLinks::default(), ExecutionId::generate());
        for number in 0..3 * GENERATION as u128 {
            let key = (execution, number.to_be_bytes());
            known.remember([(key, Recorded { depth: 1, priority: 0 })].into_iter());
        }
        let generations = known.generations.lock().unwrap();
        assert!(generations.iter().map(HashMap::len).sum::<usize>() <= 2 * GENERATION);
    }
}
