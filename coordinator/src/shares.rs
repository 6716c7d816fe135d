//! How the fleet's window is shared between executions: by weight among those of one priority, higher priorities first,
//! and nothing left unused while somebody has pages. Nobody starves: neither for want of room in the window, nor on a host
//! whose turns somebody else would take every time. Knows nothing about stores.

use std::collections::VecDeque;

use crawlify_shared::store::dispatch::RunningExecution;

/// Every execution may have this many pages under way whatever its priority, or where the window has no room for so many of
/// each, fewer, and one at least. Where there are more executions than places in the window, those that have none take turns.
const MIN_SHARE: i64 = 4;
/// One step in so many asks executions in an order of luck alone, whatever their priorities. Whoever is asked first has the
/// turn of a host with a pace: of two executions that both want it, that of lower priority has every eighth, and however many
/// are lower, three quarters go by priority.
const BY_LUCK: u32 = 4;

/// A window that is being given out: first to everyone its share, then what is left to those that can use more.
#[derive(Debug)]
pub(crate) struct Shares {
    /// What may still be given.
    left: i64,
    /// Whether there are more executions with pages than places in the window: not even one for each.
    is_crowded: bool,
    /// Who is asked next, with how much it may have in all.
    turns: VecDeque<(RunningExecution, i64)>,
    /// Who took all that it was given, or has its share already: it may have more.
    hungry: Vec<RunningExecution>,
    /// Whether the first round is over.
    is_rest: bool,
}

impl Shares {
    /// Shares `window` between executions.
    pub(crate) fn of(window: i64, executions: Vec<RunningExecution>) -> Self {
        Self::ordered(window, executions, rand::random_ratio(1, BY_LUCK))
    }

    /// Shares `window` between executions that are asked by priority, or by luck alone.
    fn ordered(window: i64, executions: Vec<RunningExecution>, by_luck: bool) -> Self {
        let in_flight: i64 = executions.iter().map(|execution| execution.in_flight).sum();
        let with_pages = executions.iter().filter(|execution| execution.is_due || execution.in_flight > 0);
        let with_pages = i64::try_from(with_pages.count()).unwrap_or(i64::MAX);
        let least = (window / with_pages.max(1)).clamp(1, MIN_SHARE);
        let best = executions.iter().map(|execution| execution.priority).max().unwrap_or(0);
        let of_best = executions.iter().filter(|execution| execution.priority == best);
        let weights: i64 = of_best.map(weight).sum();
        // Who is asked first has the first choice among the hosts that they have in common: that changes.
        let mut keyed: Vec<_> = executions
            .into_iter()
            .map(|execution| {
                let luck = rand::random_range(0.0_f64..1.0).powf(1.0 / f64::from(execution.weight.max(1)));
                let rank = if by_luck { 0 } else { -i64::from(execution.priority) };
                (rank, -luck, execution)
            })
            .collect();
        keyed.sort_by(|one, other| {
            (one.0, one.1).partial_cmp(&(other.0, other.1)).unwrap_or(std::cmp::Ordering::Equal)
        });
        let turns = keyed
            .into_iter()
            .map(|(.., execution)| {
                let is_best = execution.priority == best;
                let share = if is_best { window * weight(&execution) / weights.max(1) } else { 0 };
                (execution, share.max(least))
            })
            .collect();
        let is_crowded = with_pages > window;
        Self { left: window - in_flight, is_crowded, turns, hungry: Vec::new(), is_rest: false }
    }

    /// Who is next, and how many pages it may have now.
    pub(crate) fn next(&mut self) -> Option<(RunningExecution, i64)> {
        loop {
            if let Some((execution, share)) = self.turns.pop_front() {
                let room = share - execution.in_flight;
                // Shares may be more than the window together, so that a low priority has its own while a high one has it all;
                // but not where there are so many of them.
                let given = if self.is_crowded { room.min(self.left) } else { room };
                if given > 0 {
                    return Some((execution, given));
                }
                if room <= 0 && execution.is_due && !self.is_rest {
                    self.hungry.push(execution);
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

    /// Steps again and again, while each execution has pages without end, and in each step a quarter of those that are under
    /// way end. Answers how many pages each has got, and the most that were under way at once.
    fn over_time(window: i64, executions: &mut [RunningExecution], steps: usize) -> (Vec<i64>, i64) {
        let (mut got, mut most) = (vec![0; executions.len()], 0);
        for _ in 0..steps {
            let mut shares = Shares::of(window, executions.to_vec());
            while let Some((execution, room)) = shares.next() {
                let place = executions.iter().position(|other| other.id == execution.id).unwrap();
                executions[place].in_flight += room;
                got[place] += room;
                shares.took(&execution, room, usize::try_from(room).unwrap());
            }
            most = most.max(executions.iter().map(|execution| execution.in_flight).sum());
            for execution in executions.iter_mut() {
                let ended = (0..execution.in_flight).filter(|_| rand::random_ratio(1, 4)).count();
                execution.in_flight -= i64::try_from(ended).unwrap();
            }
        }
        (got, most)
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

    #[test]
    fn an_execution_that_has_its_share_gets_what_others_leave() {
        let busy = RunningExecution { in_flight: 40, ..execution(1, 0) };
        assert_eq!(given(80, &[(busy, 1000), (execution(1, 0), 10)]), [30, 10]);
    }

    #[test]
    fn where_the_window_is_small_for_so_many_each_has_less_and_one_at_least() {
        let many = |count: usize| (0..count).map(|_| (execution(1, 0), 1000)).collect::<Vec<_>>();
        let mut some = many(30);
        some.push((execution(1, 9), 1000));
        let got = given(64, &some);
        assert!(got[..30].iter().all(|pages| *pages == 2) && got[30] == 64, "{got:?}");
        let got = given(64, &many(300));
        assert!(got.iter().all(|pages| (0..=1).contains(pages)) && got.iter().sum::<i64>() == 64, "{got:?}");
    }

    #[test]
    fn more_executions_than_places_stay_within_the_window_and_take_turns() {
        let mut executions: Vec<_> = (0..300).map(|_| execution(1, 0)).collect();
        let (got, most) = over_time(64, &mut executions, 500);
        assert_eq!(most, 64);
        assert!(got.iter().all(|pages| *pages > 0), "{got:?}");
        executions.iter_mut().for_each(|execution| execution.in_flight = 0);
        executions[0].priority = 10;
        let (got, most) = over_time(64, &mut executions, 2_000);
        assert_eq!(most, 64);
        assert!(got.iter().all(|pages| *pages > 0), "{got:?}");
        assert!(got[0] > got.iter().sum::<i64>() / 2, "{got:?}");
    }

    #[test]
    fn executions_of_which_nothing_is_due_make_nobodys_share_smaller() {
        let mut executions: Vec<_> =
            (0..300).map(|_| (RunningExecution { is_due: false, ..execution(1, 0) }, 0)).collect();
        executions.push((execution(1, -5), 1000));
        executions.push((execution(1, 5), 30));
        let got = given(64, &executions);
        assert_eq!(got[300..], [34, 30]);
    }

    #[test]
    fn the_first_choice_goes_by_priority_but_for_now_and_then() {
        let (low, high) = (execution(1, 0), execution(1, 5));
        let first = |_: &usize| Shares::of(80, vec![low, high]).next().unwrap().0.id == low.id;
        let of_low = (0..8_000).filter(first).count();
        assert!((800..1_200).contains(&of_low), "{of_low} of 8000 instead of 1000");
        let by_priority =
            |_: i32| Shares::ordered(80, vec![low, high], false).next().unwrap().0.id == high.id;
        assert!((0..100).all(by_priority));
    }
}
