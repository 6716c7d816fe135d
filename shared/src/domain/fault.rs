//! Whose fault a failure is, and how often each may hit a page before it is given up. A dead proxy or browser says nothing
//! about the page: its failures are counted apart, and never use up the attempts that the page itself has.

use std::time::Duration;

use super::outcome::{ErrorClass, Failure};

/// Where a failure comes from. That the store cannot be reached is no failure of a page: its worker waits, and nothing is
/// counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultDomain {
    /// The page itself, its nodes, or our handling of them.
    Page,
    /// The site: its name, its servers, its answers.
    Site,
    /// Our pace: the site wants to be asked more slowly.
    RateLimit,
    /// The site as a whole: it says that it can serve nobody for now.
    Unavailable,
    /// The way to the site: the workflow's own proxy, or the worker's network.
    Proxy,
    /// The browser that had the page.
    Browser,
    /// The worker that had the page.
    Worker,
}

/// How often a page is tried before it fails, by its own fault: the number that users of the old system know.
pub const MAX_ATTEMPTS: i16 = 4;
/// How often a page is tried whose site fails.
pub const SITE_TRIES: i16 = 4;
/// How often a page is tried whose site answers that it is asked too fast. It is well by that, and only wants to be asked more
/// slowly, which it is after each such answer.
pub const RATE_LIMIT_TRIES: i16 = 15;
/// How often a page is tried whose site answers with 503, whatever else its site did: that may mean the pace, or an outage of a minute or two, or this page
/// alone.
pub const UNAVAILABLE_TRIES: i16 = 8;
/// So often in a row a host refused pages, with 429 or 503, when its pages fail without being tried. It was left alone for a
/// quarter of an hour by then, or for as long as it wanted (where that is long: for six hours). The statements of the store say this number themselves;
/// `frontier::refusals` holds them to it.
pub const HOST_REFUSES_AFTER: i16 = 12;
/// So often in a row a host could not be reached when it is left alone for the first time. The statements of the store say
/// this number and the next one themselves; `frontier::unreachable` holds them to it.
pub const HOST_DOUBTED_AFTER: i16 = 3;
/// So often in a row a host could not be reached when its pages fail without being tried. It was left alone for some
/// two minutes by then.
pub const HOST_GIVEN_UP_AFTER: i16 = 10;
/// A page whose browser or worker was lost so often runs alone from then on: if it is to blame, it harms nobody else; if
/// not, it ends.
pub const SUSPECT_AFTER: i16 = 2;
/// A page whose browsers or workers were lost so often is quarantined: it failed, with [`ErrorClass::Poison`].
pub const POISON_AFTER: i16 = 3;
/// So many losses of workers that are heard again are taken back of one page. One that holds up whoever has it for longer than a
/// worker may be silent, and takes nobody down, must come to an end too.
pub const LOSSES_TAKEN_BACK: i16 = 3;
/// How often a page is tried while its proxy, or the worker's network, does not work: they may be away for some two thirds of an
/// hour.
pub const PROXY_TRIES: i16 = 15;

impl FaultDomain {
    /// The name in rows and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Site => "site",
            Self::RateLimit => "rate_limit",
            Self::Unavailable => "unavailable",
            Self::Proxy => "proxy",
            Self::Browser => "browser",
            Self::Worker => "worker",
        }
    }
}

/// How long a page waits after so many failures of one domain, of which the last is counted; the caller adds jitter.
fn pause(class: ErrorClass, failures: i16) -> Duration {
    let (first, longest) = match class.domain() {
        // A robots file that cannot be had is not asked for again at once.
        FaultDomain::Page | FaultDomain::Site if class == ErrorClass::RobotsUnreachable => (15, 60),
        // The egress guard believes a failure for half a minute: the last attempt must ask anew.
        FaultDomain::Page | FaultDomain::Site if class == ErrorClass::Dns => (10, 60),
        FaultDomain::Page | FaultDomain::Site | FaultDomain::RateLimit | FaultDomain::Unavailable => (1, 60),
        FaultDomain::Proxy => (5, 300),
        FaultDomain::Browser | FaultDomain::Worker => (1, 5),
    };
    let exponent = u32::try_from(failures - 1).unwrap_or(0).min(10);
    Duration::from_secs((first << exponent).min(longest))
}

/// How often a page was hit by each fault so far; in its row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Failures of its own.
    pub charged: i16,
    /// Failures of its site.
    pub site: i16,
    /// Answers of its site that it is asked too fast.
    pub rate_limit: i16,
    /// Answers of its site that it can serve nobody for now.
    pub unavailable: i16,
    /// Failures of the proxy.
    pub proxy: i16,
    /// Browsers lost.
    pub browser: i16,
    /// Workers lost.
    pub worker: i16,
}

/// What is to become of a page that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Another attempt, after this pause.
    Retry(Duration),
    /// No other attempt.
    GiveUp,
    /// No other attempt, because it took down what executed it.
    Quarantine,
}

impl Faults {
    /// These, and one more.
    #[must_use]
    pub fn and(mut self, domain: FaultDomain) -> Self {
        let counter = match domain {
            FaultDomain::Page => &mut self.charged,
            FaultDomain::Site => &mut self.site,
            FaultDomain::RateLimit => &mut self.rate_limit,
            FaultDomain::Unavailable => &mut self.unavailable,
            FaultDomain::Proxy => &mut self.proxy,
            FaultDomain::Browser => &mut self.browser,
            FaultDomain::Worker => &mut self.worker,
        };
        *counter = counter.saturating_add(1);
        self
    }

    /// Whether the page may have taken down what executed it, so that it must run alone.
    pub fn is_suspect(self) -> bool {
        self.browser >= SUSPECT_AFTER || self.worker >= SUSPECT_AFTER
    }

    /// Judges a failure, which is not counted yet.
    pub fn judge(self, failure: &Failure) -> Verdict {
        if !failure.class.is_transient() {
            return Verdict::GiveUp;
        }
        let domain = failure.domain();
        let faults = self.and(domain);
        let (failures, tries, end) = match domain {
            FaultDomain::Page => (faults.charged, MAX_ATTEMPTS, Verdict::GiveUp),
            FaultDomain::Site => (faults.site, SITE_TRIES, Verdict::GiveUp),
            FaultDomain::RateLimit => (faults.rate_limit, RATE_LIMIT_TRIES, Verdict::GiveUp),
            FaultDomain::Unavailable => (faults.unavailable, UNAVAILABLE_TRIES, Verdict::GiveUp),
            FaultDomain::Proxy => (faults.proxy, PROXY_TRIES, Verdict::GiveUp),
            FaultDomain::Browser => (faults.browser, POISON_AFTER, Verdict::Quarantine),
            FaultDomain::Worker => (faults.worker, POISON_AFTER, Verdict::Quarantine),
        };
        if failures >= tries { end } else { Verdict::Retry(pause(failure.class, failures)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a page that fails like this again and again.
    fn fails(class: ErrorClass, faults: Faults) -> (usize, Verdict, Duration) {
        fails_with(&Failure::new(class, ""), faults)
    }

    fn fails_with(failure: &Failure, mut faults: Faults) -> (usize, Verdict, Duration) {
        let mut waited = Duration::ZERO;
        for attempt in 1.. {
            match faults.judge(failure) {
                Verdict::Retry(pause) => waited += pause,
                end => return (attempt, end, waited),
            }
            faults = faults.and(failure.domain());
        }
        unreachable!()
    }

    #[test]
    fn each_fault_has_a_budget_of_its_own() {
        let none = Faults::default();
        assert_eq!(fails(ErrorClass::Http5xx, none), (4, Verdict::GiveUp, Duration::from_secs(7)));
        assert_eq!(fails(ErrorClass::Http4xx, none), (1, Verdict::GiveUp, Duration::ZERO));
        // Half of it, with jitter, is longer than a failure is believed.
        assert_eq!(fails(ErrorClass::Dns, none), (4, Verdict::GiveUp, Duration::from_secs(70)));
        assert_eq!(fails(ErrorClass::BrowserLost, none).1, Verdict::Quarantine);
        let worn =
            Faults { charged: 3, site: 0, rate_limit: 14, unavailable: 7, proxy: 14, browser: 2, worker: 2 };
        assert_eq!(fails(ErrorClass::Dns, worn).0, 4, "the other faults cost none of its attempts");
        assert_eq!(fails(ErrorClass::Http429, Faults { site: 3, ..none }).0, 15);
        assert_eq!(
            fails(ErrorClass::TabCrash, Faults { charged: 2, site: 3, ..none }).0,
            2,
            "its site's failures cost none of its own attempts"
        );
    }

    #[test]
    fn a_site_that_is_unavailable_is_waited_for_longer_than_one_that_fails() {
        let unavailable = Failure::of_status(503);
        let worn = Faults { charged: 3, site: 3, rate_limit: 14, ..Faults::default() };
        let (tries, end, waited) = fails_with(&unavailable, worn);
        assert_eq!((tries, end, waited), (8, Verdict::GiveUp, Duration::from_secs(123)));
        assert_eq!(fails_with(&Failure::of_status(500), Faults::default()).0, 4);
        let elsewhere = Failure { is_elsewhere: true, ..unavailable };
        assert_eq!(fails_with(&elsewhere, Faults::default()).0, 4, "nobody asks that one more slowly");
    }

    #[test]
    fn a_dead_proxy_and_a_dead_network_are_waited_for() {
        for class in [ErrorClass::Proxy, ErrorClass::NoNetwork] {
            let (attempts, end, waited) = fails(class, Faults::default());
            assert_eq!((attempts, end), (15, Verdict::GiveUp), "{class:?}");
            assert!((2_400..3_600).contains(&waited.as_secs()), "{waited:?}");
            assert_eq!(class.found_the_host(), None, "which says nothing of the host");
        }
    }

    #[test]
    fn a_page_is_a_suspect_before_it_is_poison() {
        let two = Faults::default().and(FaultDomain::Worker).and(FaultDomain::Worker);
        assert!(two.is_suspect() && !Faults::default().and(FaultDomain::Worker).is_suspect());
        assert_eq!(two.judge(&Failure::new(ErrorClass::WorkerLost, "")), Verdict::Quarantine);
        assert!(matches!(two.judge(&Failure::new(ErrorClass::BrowserLost, "")), Verdict::Retry(_)));
    }
}
