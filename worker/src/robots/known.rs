//! What a worker knows of an origin: what its robots file allows, or that it cannot be had (RFC 9309, section 2.3.1).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crawlify_shared::domain::outcome::DiscoveredUrl;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::store::hot::StoredRobots;
use moka::Expiry;

use super::file::RobotsFile;

/// A file that could not be had for so long, asked for again and again, forbids nothing any more (section 2.3.1.4).
const FORBIDS_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What is known of an origin.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) standing: Standing,
    pub(super) fresh_for: Duration,
    /// An estimate of what it takes in memory.
    pub(super) bytes: u32,
    /// Whether this worker asked the site for it, and did not find it in the store.
    pub(super) was_fetched: bool,
}

/// What an origin allows.
#[derive(Debug)]
pub(super) enum Standing {
    /// What its file allows.
    Says(RobotsFile),
    /// Nothing, until its file can be had; why it cannot.
    Unreachable(String),
}

impl Known {
    pub(super) fn of(stored: StoredRobots, was_fetched: bool) -> Self {
        // Each line becomes a rule, whose parts are allocated one by one.
        let bytes = 1024 + stored.body.as_ref().map_or(0, |body| body.len().saturating_mul(12));
        Self {
            fresh_for: stored.fresh_for,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            was_fetched,
            standing: Standing::of(stored),
        }
    }

    /// The sitemaps that the file names, as links.
    pub(super) fn named_sitemaps(&self) -> Vec<DiscoveredUrl> {
        let Standing::Says(file) = &self.standing else { return Vec::new() };
        file.sitemaps()
            .iter()
            .filter_map(|url| PageUrl::parse(url).ok())
            .map(|url| DiscoveredUrl {
                url,
                discovered_by: "robots.txt".to_owned(),
                skipped: None,
                is_sitemap: true,
            })
            .collect()
    }
}

impl Standing {
    /// A file that was had once is gone by while it cannot be had again (section 2.4).
    fn of(stored: StoredRobots) -> Self {
        match (stored.body, stored.unreachable_for) {
            (Some(body), _) => Self::Says(RobotsFile::parse(&body)),
            (None, Some(unreachable_for)) if unreachable_for < FORBIDS_FOR => {
                Self::Unreachable(stored.error.unwrap_or_default())
            }
            (None, _) => Self::Says(RobotsFile::default()),
        }
    }
}

/// Each file is kept for as long as the store says.
pub(super) struct UntilStale;

impl Expiry<String, Arc<Known>> for UntilStale {
    fn expire_after_create(&self, _: &String, known: &Arc<Known>, _: Instant) -> Option<Duration> {
        Some(known.fresh_for)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(body: Option<&str>, unreachable_days: Option<u64>) -> StoredRobots {
        StoredRobots {
            body: body.map(|body| body.as_bytes().to_vec()),
            fresh_for: FORBIDS_FOR,
            unreachable_for: unreachable_days.map(|days| Duration::from_secs(days * 24 * 60 * 60)),
            error: Some("HTTP status 503".to_owned()),
        }
    }

    /// Whether `/private` and `/` may be loaded.
    fn allows(stored: StoredRobots) -> [bool; 2] {
        ["http://a.test/private", "http://a.test/"].map(|url| match Standing::of(stored.clone()) {
            Standing::Says(file) => file.check("bot", PageUrl::parse(url).unwrap().as_url()).is_ok(),
            Standing::Unreachable(_) => false,
        })
    }

    #[test]
    fn what_is_allowed_follows_from_what_could_be_had() {
        let file = "User-agent: *\nDisallow: /private";
        assert_eq!(allows(stored(Some(file), None)), [false, true]);
        assert_eq!(allows(stored(None, None)), [true, true], "there is none");
        assert_eq!(allows(stored(None, Some(0))), [false, false], "it cannot be had");
        assert_eq!(allows(stored(None, Some(29))), [false, false]);
        assert_eq!(allows(stored(None, Some(30))), [true, true], "and could not for a month");
        assert_eq!(allows(stored(Some(file), Some(3))), [false, true], "what was had before counts");
    }
}
