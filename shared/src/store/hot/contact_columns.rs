//! The columns of what pages showed of their hosts. Most have nothing to say.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::types::ToSql;

use crate::domain::outcome::{ErrorClass, PageEnd, PageOutcome};
use crate::domain::page::{FinishedPage, NextStatus};
use crate::domain::page_url::HostUnit;

/// One array a column.
#[derive(Default)]
pub(super) struct ContactColumns<'a> {
    host: Vec<&'a str>,
    started_at: Vec<Option<DateTime<Utc>>>,
    back_off_ms: Vec<Option<i64>>,
    answered_in_ms: Vec<Option<i32>>,
    was_found: Vec<bool>,
    /// The origin of a page that did not find its host.
    missing: Vec<Option<String>>,
    /// Whether there is more to it than that the host was found, or has served a page.
    is_news: Vec<bool>,
    /// Whether the host said that it is asked too fast.
    is_too_fast: Vec<bool>,
    /// Whether the host did not refuse the page, whatever became of it.
    is_served: Vec<bool>,
    /// Whether the page was not refused before.
    is_first: Vec<bool>,
    claimed_at: Vec<DateTime<Utc>>,
    /// Whether the host answered with 503 and not a word of its pace, to a page that it had not refused before.
    is_bare: Vec<bool>,
    /// The class of a page that the host refused.
    refused_with: Vec<Option<&'static str>>,
    /// The hosts that were found, or have served a page.
    well: HashSet<&'a str>,
}

impl<'a> ContactColumns<'a> {
    /// Adds that of a page.
    pub(super) fn add(&mut self, finished: &'a FinishedPage) {
        let FinishedPage { page, outcome: PageOutcome { contact, end, .. }, next, .. } = finished;
        let started_in = contact.started_in.filter(|_| !page.host_delay.is_zero());
        // Of a domain, one server may be gone while the others are well.
        let is_served = found_the_host(next) == Some(true) && contact.back_off.is_none();
        let found = found_the_host(next).filter(|_| page.host_unit == HostUnit::Host);
        let is_news = started_in.is_some()
            || contact.back_off.is_some()
            || contact.answered_in.is_some()
            || found == Some(false);
        let is_well_first = (is_served || found == Some(true)) && self.well.insert(&page.host);
        if !is_news && !is_well_first {
            return;
        }
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        self.host.push(&page.host);
        self.started_at.push(started_in.map(|after| page.claimed_at + after));
        self.back_off_ms.push(contact.back_off.map(milliseconds));
        self.answered_in_ms
            .push(contact.answered_in.map(|time| i32::try_from(milliseconds(time)).unwrap_or(i32::MAX)));
        self.was_found.push(found == Some(true));
        self.missing.push((found == Some(false)).then(|| page.url.as_url().origin().ascii_serialization()));
        self.is_news.push(is_news);
        // One that was refused again and again is refused for itself.
        let says_too_fast = |said: Duration| !said.is_zero() || is_rate_limited(end);
        let is_first = page.faults.rate_limit == 0 && page.faults.site == 0;
        self.is_too_fast.push(page.faults.rate_limit < 3 && contact.back_off.is_some_and(says_too_fast));
        self.is_served.push(is_served);
        self.is_first.push(is_first);
        self.claimed_at.push(page.claimed_at);
        self.is_bare.push(is_first && contact.back_off.is_some_and(|said| !says_too_fast(said)));
        self.refused_with.push(contact.back_off.and_then(|_| class(end)));
    }

    /// In the order of the statement's numbers.
    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.host, &self.started_at, &self.back_off_ms, &self.answered_in_ms]
    }

    /// Those that stand at the statement's end.
    pub(super) fn more_parameters(&self) -> [&(dyn ToSql + Sync); 9] {
        [
            &self.was_found,
            &self.missing,
            &self.is_news,
            &self.is_too_fast,
            &self.is_served,
            &self.is_first,
            &self.claimed_at,
            &self.is_bare,
            &self.refused_with,
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
        NextStatus::Skipped(_) | NextStatus::Released => None,
    }
}
