//! The columns of what pages showed of their hosts. Most have nothing to say.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::types::ToSql;

use crate::domain::outcome::PageOutcome;
use crate::domain::page::{FinishedPage, NextStatus};
use crate::domain::page_url::HostUnit;

/// One array a column.
#[derive(Default)]
pub(super) struct ContactColumns<'a> {
    host: Vec<&'a str>,
    started_at: Vec<Option<DateTime<Utc>>>,
    back_off_ms: Vec<Option<i64>>,
    answered_in_ms: Vec<Option<i32>>,
    was_reached: Vec<bool>,
    unreachable_origin: Vec<Option<String>>,
}

impl<'a> ContactColumns<'a> {
    /// Adds that of a page.
    pub(super) fn add(&mut self, finished: &'a FinishedPage) {
        let FinishedPage { page, outcome: PageOutcome { contact, .. }, next, .. } = finished;
        let started_in = contact.started_in.filter(|_| !page.host_delay.is_zero());
        let reached = was_reached(next);
        // That a host in no doubt was reached is no news.
        let is_reached_again = reached == Some(true) && page.host_is_doubted;
        // Of a domain, one server may be gone while the others are well.
        let is_unreachable = reached == Some(false) && page.host_unit == HostUnit::Host;
        if started_in.is_none()
            && contact.back_off.is_none()
            && contact.answered_in.is_none()
            && !is_reached_again
            && !is_unreachable
        {
            return;
        }
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        self.host.push(&page.host);
        self.started_at.push(started_in.map(|after| page.claimed_at + after));
        self.back_off_ms.push(contact.back_off.map(milliseconds));
        self.answered_in_ms
            .push(contact.answered_in.map(|time| i32::try_from(milliseconds(time)).unwrap_or(i32::MAX)));
        self.was_reached.push(reached == Some(true));
        self.unreachable_origin
            .push(is_unreachable.then(|| page.url.as_url().origin().ascii_serialization()));
    }

    /// In the order of the statement's numbers.
    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.host, &self.started_at, &self.back_off_ms, &self.answered_in_ms]
    }

    /// Those that stand at the statement's end.
    pub(super) fn more_parameters(&self) -> [&(dyn ToSql + Sync); 2] {
        [&self.was_reached, &self.unreachable_origin]
    }
}

/// Whether a page's host was reached, as far as its end tells.
fn was_reached(next: &NextStatus) -> Option<bool> {
    match next {
        NextStatus::Completed => Some(true),
        NextStatus::Failed(failure) | NextStatus::Retry(failure, _) => failure.class.reached_the_host(),
        NextStatus::Skipped(_) | NextStatus::Released => None,
    }
}
