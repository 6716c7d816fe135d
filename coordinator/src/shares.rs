//! How the fleet's window is shared between executions: by weight among those of one priority, higher priorities first,
//! and nothing left unused while somebody has pages. Knows nothing about stores.

use std::collections::VecDeque;

use crawlify_shared::store::dispatch::RunningExecution;

/// Every execution may have this many pages under way, however many executions there are and whatever their priority:
/// nobody starves.
const MIN_SHARE: i64 = 4;

/// A window that is being given out: first to everyone its share, then what is left to those that can use more.
#[derive(Debug)]
pub(crate) struct Shares {
    /// What may still be given.
    left: i64,
    /// Who is asked next, with how much it may have in all.
    turns: VecDeque<(RunningExecution, i64)>,
    /// Who took all that it was given: it may have more.
    hungry: Vec<RunningExecution>,
    /// Whether the first round is over.
    is_rest: bool,
}

impl Shares {
    /// Shares `window` between executions.
    pub(crate) fn of(window: i64, mut executions: Vec<RunningExecution>) -> Self {
        let in_flight: i64 = executions.iter().map(|execution| execution.in_flight).sum();
        // Who is asked first has the first choice among the hosts that they have in common: that changes.
        let mut keyed: Vec<_> = executions
            .drain(..)
            .map(|execution| {
                let luck = rand::random_range(0.0_f64..1.0).powf(1.0 / f64::from(execution.weight.max(1)));
                (-i64::from(execution.priority), -luck, execution)
            })
            .collect();
        keyed.sort_by(|one, other| {
            (one.0, one.1).partial_cmp(&(other.0, other.1)).unwrap_or(std::cmp::Ordering::Equal)
        });
        let best = keyed.first().map_or(0, |(priority, ..)| *priority);
        let weights: i64 =
            keyed.iter().filter(|(priority, ..)| *priority == best).map(|(.., e)| weight(e)).sum();
        let turns = keyed
            .into_iter()
            .map(|(priority, _, execution)| {
                let share = if priority == best { window * weight(&execution) / weights.max(1) } else { 0 };
                (execution, share.max(MIN_SHARE))
            })
            .collect();
        Self { left: window - in_flight, turns, hungry: Vec::new(), is_rest: false }
    }

    /// Who is next, and how many pages it may have now.
    pub(crate) fn next(&mut self) -> Option<(RunningExecution, i64)> {
        loop {
            if let Some((execution, share)) = self.turns.pop_front() {
                let room = share - execution.in_flight;
                if room > 0 {
                    return Some((execution, room));
                }
                continue;
            }
            if self.is_rest || self.left <= 0 || self.hungry.is_empty() {
                return None;
            }
            self.is_rest = true;
            // In the order of the first round: higher priorities take what they can use.
            let mut left = self.left;
            let mut weights: i64 = self.hungry.iter().map(weight).sum();
            for execution in std::mem::take(&mut self.hungry) {
                let more = (left * weight(&execution) + weights - 1) / weights.max(1);
                left -= more;
                weights -= weight(&execution);
                self.turns.push_back((execution, execution.in_flight + more));
            }
        }
    }

    /// Notes what an execution made of its room.
    pub(crate) fn took(&mut self, execution: &RunningExecution, room: i64, pages: usize) {
        let pages = i64::try_from(pages).unwrap_or(i64::MAX);
        self.left -= pages;
        if pages >= room {
            self.hungry.push(RunningExecution { in_flight: execution.in_flight + pages, ..*execution });
        }
    }
}

fn weight(execution: &RunningExecution) -> i64 {
    i64::from(execution.weight.max(1))
}

#[cfg(test)]
mod tests {
    use crawlify_shared::domain::id::ExecutionId;

    use super::*;

    fn execution(weight: i32, priority: i32) -> RunningExecution {
        RunningExecution {
            id: ExecutionId::generate(),
            in_flight: 0,
            weight,
            priority,
            has_budgets: false,
            is_due: true,
        }
    }

    /// Gives a window out to executions with so many pages each; answers how many each got.
    fn given(window: i64, executions: &[(RunningExecution, i64)]) -> Vec<i64> {
        let mut shares = Shares::of(window, executions.iter().map(|(execution, _)| *execution).collect());
        let mut got = vec![0; executions.len()];
        while let Some((execution, room)) = shares.next() {
            let place = executions.iter().position(|(other, _)| other.id == execution.id).unwrap();
            let pages = room.min(executions[place].1 - got[place]);
            got[place] += pages;
            shares.took(&execution, room, usize::try_from(pages).unwrap());
        }
        got
    }

    #[test]
    fn weights_share_the_window() {
        assert_eq!(given(80, &[(execution(1, 0), 1000), (execution(3, 0), 1000)]), [20, 60]);
    }

    #[test]
    fn what_one_cannot_use_others_get() {
        assert_eq!(given(80, &[(execution(1, 0), 5), (execution(1, 0), 1000)]), [5, 75]);
    }

    #[test]
    fn a_higher_priority_goes_first_but_nobody_starves() {
        let got = given(80, &[(execution(1, 0), 1000), (execution(1, 5), 1000)]);
        assert_eq!(got[0], MIN_SHARE);
        assert!(got[1] >= 80 - MIN_SHARE, "{got:?}");
        let got = given(80, &[(execution(1, 0), 1000), (execution(1, 5), 10)]);
        assert_eq!(got, [70, 10], "the lower one has what the higher one leaves");
    }

    #[test]
    fn what_is_under_way_counts() {
        let busy = RunningExecution { in_flight: 40, ..execution(1, 0) };
        assert_eq!(given(80, &[(busy, 1000), (execution(1, 0), 1000)]), [0, 40]);
    }
}
