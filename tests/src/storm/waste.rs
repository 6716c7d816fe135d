//! I10: attempts that completed no page. Each is charged for a death that had the page in its hands, of a worker or of a browser;
//! those of servers and coordinators may cost none. Knows nothing of the database.

use super::deck::Victim;
use crate::invariants::Violation;

/// Deliveries that a worker may hold beside two for each page that it executes at once: with them it has pages to execute next, and
/// some that wait to be recorded (`worker/src/consumer`).
const HELD_BESIDE: usize = 4;
/// Pages that a worker reads without a tab at once, for each slot (`worker/src/lanes.rs`).
const PLACES_PER_SLOT: usize = 8;

/// Attempts that completed no page, by what they were charged for; or the most that there may be of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waste {
    /// Those charged for the loss of a worker.
    pub(super) with_workers: u64,
    /// All others.
    pub(super) otherwise: u64,
    /// How often a worker was lost that had pages in hand.
    pub(super) losses: u64,
}

impl Waste {
    /// The most that these deaths explain, of workers with so many slots. Where `goes_static`, some pages need no tab.
    pub(super) fn explained(
        deaths: impl IntoIterator<Item = Victim>,
        slots: usize,
        goes_static: bool,
    ) -> Self {
        let mut most = Self::default();
        for victim in deaths {
            match victim {
                Victim::Worker(_) => {
                    most.losses += 1;
                    most.with_workers += in_hand(slots, goes_static) as u64;
                }
                // What has no tab of it goes back uncharged.
                Victim::Browser(_) => most.otherwise += slots as u64,
                Victim::Coordinator(_) | Victim::Broker | Victim::Database => {}
            }
        }
        most
    }

    /// All attempts that completed no page.
    pub(super) fn attempts(self) -> u64 {
        self.with_workers + self.otherwise
    }

    /// What there is more of than at most.
    pub(super) fn beyond(self, most: Self) -> Vec<Violation> {
        let sentence =
            "only deaths of workers and browsers cost attempts, and no more than these have pages in hand";
        let spent = self.beside(most);
        let row = |(_, _, row)| Violation { id: "I10", sentence, row };
        spent.into_iter().filter(|(spent, most, _)| spent > most).map(row).collect()
    }

    /// A line on each kind of waste, beside the most that there may be.
    pub(super) fn lines(self, most: Self) -> Vec<String> {
        self.beside(most).into_iter().map(|(_, _, line)| line).collect()
    }

    fn beside(self, most: Self) -> [(u64, u64, String); 3] {
        [
            (self.with_workers, most.with_workers, "attempts charged for lost workers"),
            (self.otherwise, most.otherwise, "attempts charged for anything else"),
            (self.losses, most.losses, "losses of workers with pages in hand"),
        ]
        .map(|(spent, most, what)| {
            (spent, most, format!("{spent} {what}, of {most} that the faults explain"))
        })
    }
}

/// How many pages a worker can have claimed at once: as many as it holds deliveries.
fn in_hand(slots: usize, goes_static: bool) -> usize {
    let at_once = if goes_static { slots * (1 + PLACES_PER_SLOT) } else { slots };
    2 * at_once + HELD_BESIDE
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORM: [Victim; 5] =
        [Victim::Worker(1), Victim::Browser(3), Victim::Coordinator(2), Victim::Broker, Victim::Database];

    fn told(spent: Waste) -> Vec<String> {
        let broken = spent.beyond(Waste::explained(STORM, 2, false));
        assert!(broken.iter().all(|violation| violation.id == "I10"), "{broken:?}");
        broken.into_iter().map(|violation| violation.row).collect()
    }

    #[test]
    fn a_worker_costs_what_it_holds_a_browser_its_tabs_and_nobody_else_anything() {
        let most = Waste { with_workers: 8, otherwise: 2, losses: 1 };
        assert_eq!((Waste::explained(STORM, 2, false), most.attempts()), (most, 10));
        assert_eq!(Waste::explained([Victim::Worker(1)], 2, true).with_workers, 40);
        let none = [Victim::Coordinator(1), Victim::Broker, Victim::Database];
        assert_eq!(Waste::explained(none, 2, true), Waste::default());
        assert_eq!(told(most), [""; 0]);
    }

    #[test]
    fn attempts_that_a_death_of_the_database_cost_are_told_however_few_they_are() {
        // Beside the worker that was killed, one that was not is taken for lost with the only page that it had.
        assert_eq!(
            told(Waste { with_workers: 2, otherwise: 0, losses: 2 }),
            ["2 losses of workers with pages in hand, of 1 that the faults explain"]
        );
        assert_eq!(
            told(Waste { with_workers: 9, otherwise: 3, losses: 1 }),
            [
                "9 attempts charged for lost workers, of 8 that the faults explain",
                "3 attempts charged for anything else, of 2 that the faults explain",
            ]
        );
    }
}
