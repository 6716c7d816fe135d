//! What a tab does not load. By kind, the end of a name tells in most cases, and the page's own process then refuses it:
//! that costs next to nothing. Only once something comes whose name does not tell, or where URL patterns are given, the
//! browser holds up each request of these kinds and asks us, which is slower and misses nothing.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use chromiumoxide_cdp::cdp::browser_protocol::fetch::{self, RequestPattern};
use chromiumoxide_cdp::cdp::browser_protocol::network::{BlockPattern, ResourceType, SetBlockedUrLsParams};
use crawlify_shared::domain::workflow::{Block, Isolation, ResourceKind};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::connection::{CallError, Connection};
use super::driver::Session;
use super::page_load::network_events;

/// Waits for a request whose name does not tell that it is blocked, and has them all held up from then on.
#[derive(Debug)]
pub(super) struct Names {
    kinds: Vec<ResourceKind>,
    hold_up: fetch::EnableParams,
    is_held_up: AtomicBool,
}

/// What is read of `Network.requestWillBeSent`.
#[derive(Deserialize)]
pub(super) struct Sent<'a> {
    #[serde(borrow, rename = "type", default)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) request: SentRequest<'a>,
}

#[derive(Deserialize)]
pub(super) struct SentRequest<'a> {
    #[serde(borrow)]
    pub(super) url: Cow<'a, str>,
}

/// Has a tab load nothing that its session blocks; what is answered must see the tab's `Network.requestWillBeSent`. The
/// requests that are held up are for [`PageEvents`](super::page_state::PageEvents) to refuse.
///
/// # Errors
/// The browser or the tab is lost, or refuses.
pub(super) async fn block(
    connection: &Connection,
    on: &str,
    session: &Session,
    deadline: Instant,
) -> Result<Option<Names>, CallError> {
    let Session { block, isolation, .. } = session;
    if block.is_empty() {
        return Ok(None);
    }
    let on = Some(on);
    // What one page teaches a tab must help its next one.
    if block.patterns.is_empty() && *isolation == Isolation::Execution {
        connection.call(on, &network_events(), deadline).await?;
        let names = SetBlockedUrLsParams::builder().url_patterns(names_of(&block.kinds)).build();
        match connection.call(on, &names, deadline).await {
            Ok(_) => return Ok(Some(Names::new(block))),
            // A browser that is older than these patterns.
            Err(CallError::Refused(reason)) => tracing::debug!(reason, "requests are held up to be blocked"),
            Err(error) => return Err(error),
        }
    }
    connection.call(on, &hold_up(block), deadline).await?;
    Ok(None)
}

impl Names {
    fn new(block: &Block) -> Self {
        Self { kinds: block.kinds.clone(), hold_up: hold_up(block), is_held_up: AtomicBool::new(false) }
    }

    /// Looks at a request that is being sent.
    pub(super) fn see(&self, connection: &Connection, session: &str, sent: &RawValue) {
        if self.is_held_up.load(Ordering::Relaxed) {
            return;
        }
        let Ok(Sent { kind, request }) = serde_json::from_str(sent.get()) else { return };
        let Some(kind) = self.kinds.iter().find(|known| resource_type(**known).as_ref() == kind) else {
            return;
        };
        if !tells(*kind, &request.url) && !self.is_held_up.swap(true, Ordering::Relaxed) {
            connection.send(Some(session), &self.hold_up);
        }
    }
}

fn hold_up(block: &Block) -> fetch::EnableParams {
    let by_kind = block
        .kinds
        .iter()
        .map(|kind| RequestPattern::builder().url_pattern("*").resource_type(resource_type(*kind)).build());
    // In Chrome's patterns `?` and `\\` mean something too.
    let escaped = |pattern: &str| pattern.replace('\\', r"\\").replace('?', r"\?");
    let by_url =
        block.patterns.iter().map(|pattern| RequestPattern::builder().url_pattern(escaped(pattern)).build());
    fetch::EnableParams::builder().patterns(by_kind.chain(by_url)).build()
}

fn resource_type(kind: ResourceKind) -> ResourceType {
    match kind {
        ResourceKind::Image => ResourceType::Image,
        ResourceKind::Stylesheet => ResourceType::Stylesheet,
        ResourceKind::Font => ResourceType::Font,
        ResourceKind::Media => ResourceType::Media,
        ResourceKind::Script => ResourceType::Script,
    }
}

/// How the names of a kind end. SVG is not among the pictures' names, for scripts fetch it too.
const fn endings(kind: ResourceKind) -> &'static [&'static str] {
    match kind {
        ResourceKind::Image => &["jpg", "jpeg", "png", "gif", "webp", "avif", "ico", "bmp"],
        ResourceKind::Stylesheet => &["css"],
        ResourceKind::Font => &["woff2", "woff", "ttf", "otf", "eot"],
        ResourceKind::Media => &["mp4", "webm", "ogv", "mov", "mp3", "m4a", "ogg", "wav"],
        ResourceKind::Script => &["js", "mjs"],
    }
}

/// In the syntax of the URL Pattern standard; what is not named of a URL may be anything.
fn names_of(kinds: &[ResourceKind]) -> Vec<BlockPattern> {
    let pattern = |ending: &str| BlockPattern::new(format!("*://*:*/*.{ending}"), true);
    kinds
        .iter()
        .flat_map(|kind| endings(*kind))
        .flat_map(|ending| [pattern(ending), pattern(&ending.to_ascii_uppercase())])
        .collect()
}

/// Whether a URL has an ending of this kind, as [`names_of`] means it, or is no request.
fn tells(kind: ResourceKind, url: &str) -> bool {
    if !url.starts_with("http") {
        return true;
    }
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let ending = path.rsplit_once('.').map(|(_, ending)| ending).unwrap_or_default();
    endings(kind).iter().any(|known| *known == ending || known.to_ascii_uppercase() == ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_they_are() {
        for url in
            ["http://a.test/b.jpg", "https://a.test/b.c.JPG?d=e.css#f", "data:image/gif;base64,R0", "blob:x"]
        {
            assert!(tells(ResourceKind::Image, url), "{url}");
        }
        for url in ["http://a.test/b", "http://a.test/b.jpg/c", "http://a.test/?b.jpg", "http://a.test/b.svg"]
        {
            assert!(!tells(ResourceKind::Image, url), "{url}");
        }
        assert!(!tells(ResourceKind::Stylesheet, "http://a.test/b.jpg"));
    }
}
