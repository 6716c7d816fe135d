//! What came of the storm, in one line.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::crawls::Calm;
use super::deck::Victim;
use super::members::Unasked;
use super::waste::Waste;
use crate::invariants::Violation;

/// So soon after a fault a page must be completed, after 95 of 100 of them.
const RECOVERED_WITHIN: Duration = Duration::from_secs(20);
/// How long a worker that says nothing is taken for alive.
const LEASE: Duration = Duration::from_secs(15);

/// A victim that is back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    victim: Victim,
    struck: DateTime<Utc>,
    /// When it was started again; of a browser, which nobody but its worker starts again, when it was killed.
    ended: DateTime<Utc>,
}

/// What the faults of one kind did.
#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    faults: usize,
    /// How long the victims were away, added up.
    away: Duration,
    /// How many pages were completed until the next fault, added up.
    pages_until_next: usize,
}

/// What was measured.
pub(super) struct Figures {
    pub(super) calm: Calm,
    /// When the storm began, and how long it lasted.
    pub(super) begun: DateTime<Utc>,
    pub(super) storm: Duration,
    /// From one fault to the next one.
    pub(super) every: Duration,
    pub(super) executions: usize,
    /// When each page of the storm was completed, in order.
    pub(super) page_ends: Vec<DateTime<Utc>>,
    /// The attempts that completed no page, and the most that the faults explain.
    pub(super) wasted: Waste,
    pub(super) explained: Waste,
    /// What processes of the fleet did that the storm had not made them do.
    pub(super) unasked: Unasked,
}

/// What came of the storm.
#[derive(Debug)]
pub struct Report {
    seed: u64,
    storm: Duration,
    every: Duration,
    kinds: BTreeMap<&'static str, Kind>,
    executions: usize,
    pages: usize,
    /// From the end of each fault to the next page that was completed, sorted.
    recoveries: Vec<Duration>,
    calm_pages_a_second: f64,
    pages_a_second: f64,
    /// Attempts that completed no page, and the most that the faults explain.
    attempts_wasted: u64,
    attempts_explained: u64,
    /// Processes of the fleet that ended by themselves, or did not start again.
    unasked: Unasked,
    /// Everything that breaks an invariant.
    pub broken: Vec<Violation>,
}

impl Fault {
    pub(super) fn ended_now(victim: Victim, struck: DateTime<Utc>) -> Self {
        Self { victim, struck, ended: Utc::now() }
    }

    pub(super) fn victim(&self) -> Victim {
        self.victim
    }
}

impl Report {
    pub(super) fn new(seed: u64, figures: &Figures, faults: &[Fault], broken: Vec<Violation>) -> Self {
        let ends = &figures.page_ends;
        let before = |moment: DateTime<Utc>| ends.partition_point(|end| *end < moment);
        let mut kinds: BTreeMap<_, Kind> = BTreeMap::new();
        for fault in faults {
            let kind = kinds.entry(fault.victim.kind()).or_default();
            kind.faults += 1;
            kind.away += (fault.ended - fault.struck).to_std().unwrap_or_default();
            kind.pages_until_next += before(fault.struck + figures.every) - before(fault.struck);
        }
        // After the last page of all there is none to wait for.
        let next = |fault: &Fault| ends.get(before(fault.ended));
        let recovery = |fault: &Fault| {
            let next = *next(fault)?;
            // While the database is away nobody can say that he lives, so that all get a whole lease again when it is back:
            // a recovery that another death of the database meets begins anew.
            let is_anew = |other: &&Fault| {
                let waited = (other.struck - fault.ended).to_std();
                other.victim == Victim::Database
                    && other.ended < next
                    && waited.is_ok_and(|waited| waited < LEASE)
            };
            let begun = faults.iter().filter(is_anew).map(|other| other.ended).max().unwrap_or(fault.ended);
            (next - begun).to_std().ok()
        };
        let mut recoveries: Vec<_> = faults.iter().filter_map(recovery).collect();
        recoveries.sort();
        let storm_end = figures.begun + figures.storm;
        let during = ends.iter().filter(|end| **end <= storm_end).count();
        Self {
            seed,
            storm: figures.storm,
            every: figures.every,
            kinds,
            executions: figures.executions,
            pages: ends.len(),
            recoveries,
            calm_pages_a_second: figures.calm.pages as f64 / figures.calm.took.as_secs_f64(),
            pages_a_second: during as f64 / figures.storm.as_secs_f64(),
            attempts_wasted: figures.wasted.attempts(),
            attempts_explained: figures.explained.attempts(),
            unasked: figures.unasked.clone(),
            broken,
        }
    }

    /// Whether everything is as if nothing had happened, the fleet was soon at work again after its faults, and
    /// nothing of it ended but what was killed.
    pub fn is_sound(&self) -> bool {
        self.failures().is_empty()
    }

    /// Why it is not sound, a sentence for each cause.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if !self.broken.is_empty() {
            failures.push(format!("invariants are broken, {} times", self.broken.len()));
        }
        match self.recovery_p95() {
            None => failures.push("no page was completed after the end of any fault".to_owned()),
            Some(p95) if p95 > RECOVERED_WITHIN => failures.push(format!(
                "recovery p95 is {:.1} s, more than {} s",
                p95.as_secs_f64(),
                RECOVERED_WITHIN.as_secs()
            )),
            Some(_) => {}
        }
        failures.extend(self.unasked.lines());
        failures
    }

    /// Whether half of the pages were completed that a calm fleet would have, or more. Says little of a short storm: its
    /// executions begin with one page each.
    pub fn keeps_its_pace(&self) -> bool {
        2.0 * self.pages_a_second >= self.calm_pages_a_second
    }

    /// From the end of a fault to the next completed page: what 95 of 100 do not exceed; `None` where no fault was followed by
    /// one.
    pub fn recovery_p95(&self) -> Option<Duration> {
        let place = (self.recoveries.len() * 95).div_ceil(100);
        self.recoveries.get(place.checked_sub(1)?).copied()
    }

    /// The kinds of faults that there were.
    pub fn kinds(&self) -> Vec<&'static str> {
        self.kinds.keys().copied().collect()
    }

    /// A line on each kind of fault: how long its victims were away, and what the fleet did until the next fault.
    pub fn costs(&self) -> Vec<String> {
        let line = |(name, kind): (&&str, &Kind)| {
            let faults = kind.faults as f64;
            let away = kind.away.as_secs_f64() / faults;
            let rate = kind.pages_until_next as f64 / (faults * self.every.as_secs_f64());
            let share = 100.0 * rate / self.calm_pages_a_second;
            format!(
                "{name}: back after {away:.1} s on average; {rate:.1} pages/s until the next fault, {share:.0} % of calm"
            )
        };
        self.kinds.iter().map(line).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |id: fn(&Violation) -> bool| self.broken.iter().filter(|violation| id(violation)).count();
        let (lost, twice) = (count(Violation::is_loss), count(Violation::is_surplus));
        let kinds: Vec<_> = self.kinds.iter().map(|(name, kind)| format!("{name} {}", kind.faults)).collect();
        let recovery = match (self.recovery_p95(), self.recoveries.last()) {
            (Some(p95), Some(longest)) => {
                format!("recovery p95 {:.1} s (longest {:.1} s)", p95.as_secs_f64(), longest.as_secs_f64())
            }
            _ => "no recovery".to_owned(),
        };
        write!(
            f,
            "chaos: seed {}, {:.0} s, {} faults ({}), {} executions, {} pages, {lost} lost, {twice} twice, {} other \
             violations, {} attempts wasted (at most {}), {} ended by themselves, {recovery}, {:.0} % of the calm \
             throughput ({:.1} of {:.1} pages/s)",
            self.seed,
            self.storm.as_secs_f64(),
            self.kinds.values().map(|kind| kind.faults).sum::<usize>(),
            kinds.join(", "),
            self.executions,
            self.pages,
            self.broken.len() - lost - twice,
            self.attempts_wasted,
            self.attempts_explained,
            self.unasked.ended.len(),
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

    /// A storm of a minute whose pages were completed in these seconds.
    fn figures(begun: DateTime<Utc>, page_ends: &[u64]) -> Figures {
        let took = Duration::from_secs(10);
        Figures {
            calm: Calm { execution: ExecutionId::generate(), pages: 100, took },
            begun,
            storm: Duration::from_secs(60),
            every: Duration::from_secs(10),
            executions: 1,
            page_ends: page_ends.iter().map(|second| begun + Duration::from_secs(*second)).collect(),
            wasted: Waste { with_workers: 5, otherwise: 1, losses: 2 },
            explained: Waste { with_workers: 8, otherwise: 2, losses: 1 },
            unasked: Unasked::default(),
        }
    }

    #[test]
    fn each_cause_of_a_failure_is_told() {
        let begun = Utc::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let fault = Fault { victim: Victim::Broker, struck: at(4), ended: at(10) };
        let failures = |page_ends: &[u64], broken| {
            let report = Report::new(7, &figures(begun, page_ends), &[fault], broken);
            assert_eq!(report.is_sound(), report.failures().is_empty());
            report.failures()
        };
        assert_eq!(failures(&[5, 30], Vec::new()), [""; 0]);
        assert_eq!(failures(&[5, 31], Vec::new()), ["recovery p95 is 21.0 s, more than 20 s"]);
        let twice = Violation { id: "I3", sentence: "", row: "twice: an item".to_owned() };
        assert_eq!(
            failures(&[5], vec![twice]),
            ["invariants are broken, 1 times", "no page was completed after the end of any fault"]
        );
    }

    #[test]
    fn a_process_that_ended_by_itself_or_does_not_start_again_is_a_failure() {
        let begun = Utc::now();
        let fault = Fault { victim: Victim::Broker, struck: begun, ended: begun };
        let mut figures = figures(begun, &[5, 30]);
        let report = Report::new(7, &figures, &[fault], Vec::new());
        assert!(
            report.is_sound() && report.to_string().contains("(at most 10), 0 ended by themselves, recovery")
        );
        let (ended, not_started) =
            ("worker-1 had ended by itself".to_owned(), "worker-2 does not start".to_owned());
        figures.unasked.ended.push(ended.clone());
        figures.unasked.not_started.insert("worker-2".to_owned(), not_started.clone());
        let report = Report::new(7, &figures, &[fault], Vec::new());
        assert_eq!((report.failures(), report.is_sound()), (vec![ended, not_started], false));
        assert!(report.to_string().contains("(at most 10), 1 ended by themselves, recovery"), "{report}");
    }

    #[test]
    fn a_recovery_is_the_time_from_a_faults_end_to_the_next_page() {
        let begun = Utc::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let fault = |victim, struck, ended| Fault { victim, struck: at(struck), ended: at(ended) };
        let faults = [
            fault(Victim::Broker, 4, 10),
            fault(Victim::Worker(1), 29, 29),
            fault(Victim::Worker(1), 35, 36),
            fault(Victim::Worker(1), 50, 50),
            fault(Victim::Database, 56, 59),
            fault(Victim::Worker(2), 69, 70),
        ];
        let lost = Violation { id: "I3", sentence: "", row: "lost: an item".to_owned() };
        let report = Report::new(7, &figures(begun, &[5, 14, 30, 61]), &faults, vec![lost]);
        assert_eq!(report.recoveries, [1, 2, 2, 4, 25].map(Duration::from_secs));
        assert_eq!(report.recovery_p95(), Some(Duration::from_secs(25)));
        assert!(!report.is_sound() && !report.keeps_its_pace());
        assert_eq!(
            report.costs(),
            [
                "broker: back after 6.0 s on average; 0.1 pages/s until the next fault, 1 % of calm",
                "database: back after 3.0 s on average; 0.1 pages/s until the next fault, 1 % of calm",
                "worker: back after 0.5 s on average; 0.0 pages/s until the next fault, 0 % of calm",
            ]
        );
        let line = report.to_string();
        for part in [
            "seed 7, 60 s, 6 faults (broker 1, database 1, worker 4), 1 executions, 4 pages, 1 lost, 0 twice, 0 other",
            "violations, 6 attempts wasted (at most 10), 0 ended by themselves, recovery p95 25.0 s (longest 25.0 s), 0 % of the calm throughput (0.1 of 10.0 pages/s)",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }
}
