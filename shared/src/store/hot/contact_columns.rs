//! The columns of what pages showed of their hosts. Most have nothing to say.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::types::ToSql;

use crate::domain::outcome::{ErrorClass, PageEnd, PageOutcome};
use crate::domain::page::{FinishedPage, NextStatus};
use crate::domain::page_url::HostUnit;

/// How long a host is left alone at least, whoever has heard that it wants to be.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// One array a column. A row is a page that has something to say, or all that were claimed at the same time and have not.
#[derive(Default)]
pub(super) struct ContactColumns<'a> {
    host: Vec<&'a str>,
    started_at: Vec<Option<DateTime<Utc>>>,
    back_off_ms: Vec<Option<i64>>,
    answered_in_ms: Vec<Option<i32>>,
    was_found: Vec<bool>,
    /// The origin of a page that did not find its host.
    missing: Vec<Option<String>>,
    /// Whether there is more to it than that the host was found, or has served pages.
    is_news: Vec<bool>,
    /// Whether the host said that it is asked too fast.
    is_too_fast: Vec<bool>,
    /// How many pages the host did not refuse, whatever became of them.
    served: Vec<i32>,
    /// Whether the page was not refused before, and whatever it heard counts among what the host says in a row.
    is_first: Vec<bool>,
    claimed_at: Vec<DateTime<Utc>>,
    /// Whether the host answered with 503 and not a word of its pace.
    is_bare: Vec<bool>,
    /// The class of a page that the host refused.
    refused_with: Vec<Option<&'static str>>,
    /// Whether the host has answered with 503 to the page before.
    was_refused: Vec<bool>,
    /// The delay that the page's start had to keep.
    delay_ms: Vec<i32>,
    /// The rows of pages that have nothing to say, by host, time of the claim, and `was_refused`.
    quiet: HashMap<(&'a str, DateTime<Utc>, bool), usize>,
    /// The hosts that have refused a page without saying why.
    doubted: HashSet<&'a str>,
}

impl<'a> ContactColumns<'a> {
    /// Adds that of a page. Answers whether it is the one that shows, when it is tried again, what its host meant.
    pub(super) fn add(&mut self, finished: &'a FinishedPage) -> bool {
        let FinishedPage { page, outcome: PageOutcome { contact, end, .. }, next, .. } = finished;
        let started_in = contact.started_in.filter(|_| !page.host_delay.is_zero());
        // Of a domain, one server may be gone while the others are well.
        let is_served = found_the_host(next) == Some(true) && contact.back_off.is_none();
        let found = found_the_host(next).filter(|_| page.host_unit == HostUnit::Host);
        // Elsewhere the page is served by others.
        let is_elsewhere = matches!(next, NextStatus::Failed(failure) | NextStatus::Retry(failure, _) if failure.is_elsewhere);
        let was_refused = page.faults.unavailable > 0 && !is_elsewhere;
        let is_news = started_in.is_some()
            || contact.back_off.is_some()
            || contact.answered_in.is_some()
            || found == Some(false);
        if !is_news {
            if !is_served {
                return false;
            }
            let next_row = self.host.len();
            let row = *self.quiet.entry((&page.host, page.claimed_at, was_refused)).or_insert(next_row);
            if row < next_row {
                self.served[row] += 1;
                self.was_found[row] |= found == Some(true);
                return false;
            }
        }
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let few_milliseconds = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        self.host.push(&page.host);
        self.started_at.push(started_in.map(|after| page.claimed_at + after));
        self.delay_ms.push(few_milliseconds(page.host_delay));
        self.answered_in_ms.push(contact.answered_in.map(few_milliseconds));
        self.was_found.push(found == Some(true));
        self.missing.push((found == Some(false)).then(|| page.url.as_url().origin().ascii_serialization()));
        self.is_news.push(is_news);
        let says_too_fast = |said: Duration| !said.is_zero() || is_rate_limited(end);
        let is_told = contact.back_off.is_some_and(says_too_fast);
        let is_bare = contact.back_off.is_some() && !is_told;
        let refusals = page.faults.rate_limit.saturating_add(page.faults.unavailable);
        let is_first = refusals == 0 && page.faults.site == 0;
        // What a proxy heard may be the proxy's own answer, or meant for its address alone: the host is left alone for
        // it, which does not become longer in a row, and no page of anybody fails untried by it.
        let is_of_a_proxy = is_first && contact.through_own_proxy;
        let least = if is_of_a_proxy { LEAST_PAUSE } else { Duration::ZERO };
        self.back_off_ms.push(contact.back_off.map(|wanted| milliseconds(wanted.max(least))));
        // One that was refused again and again is refused for itself.
        self.is_too_fast.push(is_told && refusals < 3);
        self.served.push(is_served.into());
        self.is_first.push(is_first && !is_of_a_proxy);
        self.claimed_at.push(page.claimed_at);
        self.is_bare.push(is_bare);
        self.refused_with.push(contact.back_off.and_then(|_| class(end)));
        self.was_refused.push(was_refused);
        is_bare && is_first && self.doubted.insert(&page.host)
    }

    /// In the order of the statement's numbers.
    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.host, &self.started_at, &self.back_off_ms, &self.answered_in_ms]
    }

    /// Those that stand at the statement's end.
    pub(super) fn more_parameters(&self) -> [&(dyn ToSql + Sync); 11] {
        [
            &self.was_found,
            &self.missing,
            &self.is_news,
            &self.is_too_fast,
            &self.served,
            &self.is_first,
            &self.claimed_at,
            &self.is_bare,
            &self.refused_with,
            &self.was_refused,
            &self.delay_ms,
        ]
    }
}

fn is_rate_limited(end: &PageEnd) -> bool {
    matches!(end, PageEnd::Failed(failure) if failure.class == ErrorClass::Http429)
}

fn class(end: &PageEnd) -> Option<&'static str> {
    match end {
        PageEnd::Failed(failure) => Some(failure.class.as_str()),
        _ => None,
    }
}

/// Whether a page found its host, as far as its end tells.
fn found_the_host(next: &NextStatus) -> Option<bool> {
    match next {
        NextStatus::Completed => Some(true),
        NextStatus::Failed(failure) | NextStatus::Retry(failure, _) if failure.is_elsewhere => Some(true),
        NextStatus::Failed(failure) | NextStatus::Retry(failure, _) => failure.class.found_the_host(),
        NextStatus::Skipped(_) | NextStatus::Released | NextStatus::PutOff(..) => None,
    }
}
