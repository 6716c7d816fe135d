//! What came of the storm, in one line.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::crawls::Calm;
use super::deck::Victim;
use crate::invariants::Violation;

/// A victim that is back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    victim: Victim,
    /// When it was started again; of a browser, which nobody but its worker starts again, when it was killed.
    ended: DateTime<Utc>,
}

/// What was measured.
pub(super) struct Figures {
    pub(super) calm: Calm,
    /// When the storm began, and how long it lasted.
    pub(super) begun: DateTime<Utc>,
    pub(super) storm: Duration,
    pub(super) executions: usize,
    /// When each page of the storm was completed, in order.
    pub(super) page_ends: Vec<DateTime<Utc>>,
}

/// What came of the storm.
#[derive(Debug)]
pub struct Report {
    seed: u64,
    storm: Duration,
    /// How many of each kind.
    faults: BTreeMap<&'static str, usize>,
    executions: usize,
    pages: usize,
    /// From the end of each fault to the next page that was completed, sorted.
    recoveries: Vec<Duration>,
    calm_pages_a_second: f64,
    pages_a_second: f64,
    /// Everything that breaks an invariant.
    pub broken: Vec<Violation>,
}

impl Fault {
    pub(super) fn ended_now(victim: Victim) -> Self {
        Self { victim, ended: Utc::now() }
    }
}

impl Report {
    pub(super) fn new(seed: u64, figures: &Figures, faults: &[Fault], broken: Vec<Violation>) -> Self {
        let mut kinds = BTreeMap::new();
        for fault in faults {
            *kinds.entry(fault.victim.kind()).or_default() += 1;
        }
        let ends = &figures.page_ends;
        // After the last page of all there is none to wait for.
        let next = |fault: &Fault| ends.get(ends.partition_point(|end| *end < fault.ended));
        let recovery = |fault: &Fault| (*next(fault)? - fault.ended).to_std().ok();
        let mut recoveries: Vec<_> = faults.iter().filter_map(recovery).collect();
        recoveries.sort();
        let storm_end = figures.begun + figures.storm;
        let during = ends.iter().filter(|end| **end <= storm_end).count();
        Self {
            seed,
            storm: figures.storm,
            faults: kinds,
            executions: figures.executions,
            pages: ends.len(),
            recoveries,
            calm_pages_a_second: figures.calm.pages as f64 / figures.calm.took.as_secs_f64(),
            pages_a_second: during as f64 / figures.storm.as_secs_f64(),
            broken,
        }
    }

    /// Whether everything is as if nothing had happened.
    pub fn is_sound(&self) -> bool {
        self.broken.is_empty()
    }

    /// From the end of a fault to the next completed page: what 95 of 100 do not exceed.
    pub fn recovery_p95(&self) -> Duration {
        let place = (self.recoveries.len() * 95).div_ceil(100);
        self.recoveries.get(place.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// How many faults of each kind there were.
    pub fn faults(&self) -> &BTreeMap<&'static str, usize> {
        &self.faults
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |id: fn(&Violation) -> bool| self.broken.iter().filter(|violation| id(violation)).count();
        let (lost, twice) = (count(Violation::is_loss), count(Violation::is_surplus));
        let kinds: Vec<_> = self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        write!(
            f,
            "chaos: seed {}, {:.0} s, {} faults ({}), {} executions, {} pages, {lost} lost, {twice} twice, {} other \
             violations, recovery p95 {:.1} s (longest {:.1} s), {:.0} % of the calm throughput ({:.1} of {:.1} pages/s)",
            self.seed,
            self.storm.as_secs_f64(),
            self.faults.values().sum::<usize>(),
            kinds.join(", "),
            self.executions,
            self.pages,
            self.broken.len() - lost - twice,
            self.recovery_p95().as_secs_f64(),
            self.recoveries.last().copied().unwrap_or_default().as_secs_f64(),
            100.0 * self.pages_a_second / self.calm_pages_a_second,
            self.pages_a_second,
            self.calm_pages_a_second,
        )
    }
}

#[cfg(test)]
mod tests {
    use crawlify_shared::domain::id::ExecutionId;

    use super::*;

    #[test]
    fn a_recovery_is_the_time_from_a_faults_end_to_the_next_page() {
        let begun = Utc::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let fault = |victim, seconds| Fault { victim, ended: at(seconds) };
        let took = Duration::from_secs(10);
        let figures = Figures {
            calm: Calm { execution: ExecutionId::generate(), pages: 100, took },
            begun,
            storm: Duration::from_secs(60),
            executions: 1,
            page_ends: [5, 14, 30, 61].map(at).to_vec(),
        };
        let faults = [fault(Victim::Broker, 10), fault(Victim::Worker(1), 29), fault(Victim::Worker(2), 70)];
        let lost = Violation { id: "I3", sentence: "", row: "lost: an item".to_owned() };
        let report = Report::new(7, &figures, &faults, vec![lost]);
        assert_eq!(report.recoveries, [1, 4].map(Duration::from_secs));
        assert_eq!(report.recovery_p95(), Duration::from_secs(4));
        assert!(!report.is_sound());
        let line = report.to_string();
        for part in [
            "seed 7, 60 s, 3 faults (broker 1, worker 2), 1 executions, 4 pages, 1 lost, 0 twice, 0 other",
            "recovery p95 4.0 s (longest 4.0 s), 0 % of the calm throughput (0.1 of 10.0 pages/s)",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }
}
