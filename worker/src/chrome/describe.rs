//! What a document says of itself, and whether it is the page that was asked for or something of ours or the browser's in
//! its place. Asks the browser nothing.

use std::time::Duration;

use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use crawlify_shared::domain::page_url::PageUrl;
use serde::Deserialize;
use url::Url;

use super::driver::{Document, TabError};
use super::failure;
use crate::egress::{Gate, Reason};

/// Where the browser is when it shows an error of its own.
const ERROR_SCHEME: &str = "chrome-error";

/// A page with more elements than this fails: each selector would look at all of them. The largest pages that people read
/// have some tens of thousands. As in `static_page.js`, which leaves such pages to a tab.
const MAX_ELEMENTS: u64 = 500_000;

/// Reads what the document says of itself. The getters are taken from prototypes because a form or a picture with such
/// a name would hide those of `document`.
pub(super) const DESCRIBE: &str = r#"() => {
  const read = (prototype, name) => Object.getOwnPropertyDescriptor(prototype, name).get.call(document);
  const {
    responseStatus: status = 0, encodedBodySize: bytes = 0, transferSize: sent = 0, fetchStart = 0, responseStart = 0,
    redirectCount: redirects = 0, name: loaded = ""
  } = performance.getEntriesByType("navigation")[0] ?? {};
  return {
    status,
    bytes,
    // Nothing is sent where it comes from the cache.
    answered_in_ms: sent > 0 && responseStart > 0 ? responseStart - fetchStart : null,
    elements: Document.prototype.getElementsByTagName.call(document, "*").length,
    redirects,
    loaded: loaded.toWellFormed(),
    url: location.href.toWellFormed(),
    base: read(Node.prototype, "baseURI").toWellFormed(),
    kind: read(Document.prototype, "contentType"),
  };
}"#;

/// What [`DESCRIBE`] gives.
#[derive(Deserialize)]
pub(super) struct Description {
    status: u16,
    /// Of the body, as it was sent.
    pub(super) bytes: u64,
    /// From the request, the connection included, to the first byte of the response; `None` where nothing was requested.
    answered_in_ms: Option<f64>,
    /// How many elements it has by now.
    elements: u64,
    /// How many redirects led to it; 0 where one of them led to another origin.
    redirects: u32,
    /// Where it was loaded from, whatever its scripts have made of its address since.
    loaded: String,
    url: String,
    base: String,
    kind: String,
}

impl Description {
    /// The HTTP status, where there was one.
    pub(super) fn status(&self) -> Option<u16> {
        (self.status != 0).then_some(self.status)
    }

    /// How many redirects led to it from the address that was asked for, where that is known. Of those that led to another origin
    /// a page is told nothing: they count as one.
    pub(super) fn redirects(&self, asked: Option<&PageUrl>) -> u32 {
        let is_another = |asked: &PageUrl| PageUrl::parse(&self.loaded).is_ok_and(|loaded| loaded != *asked);
        self.redirects.max(asked.is_some_and(is_another).into())
    }

    /// Whether this is the browser's own page about an address that could not be loaded.
    pub(super) fn is_browsers_error(&self) -> bool {
        self.url.split(':').next() == Some(ERROR_SCHEME)
    }

    /// The document, if it is a page. It may have been asked for, or be where a click has led.
    pub(super) fn document(
        &self,
        requested: Option<&PageUrl>,
        gate: Option<&Gate>,
    ) -> Result<Document, TabError> {
        let bad = |failure| Err(TabError { failure, tab_usable: true });
        if self.kind == "application/pdf" {
            return bad(Failure::new(ErrorClass::NotAPage, "the response is a PDF, not a page"));
        }
        if self.elements > MAX_ELEMENTS {
            return bad(failure::too_many_elements(MAX_ELEMENTS));
        }
        let shown = Url::parse(&self.url).ok().or_else(|| Some(requested?.as_url().clone()));
        let Some(final_url) = shown else { return bad(Reason::NotAllowed.failure()) };
        if !matches!(final_url.scheme(), "http" | "https") {
            return bad(Reason::NotAllowed.failure());
        }
        if let Some(gate) = gate {
            if self.bytes > gate.document_bytes() || gate.was_too_large(&final_url) {
                return bad(failure::too_large(gate.document_bytes()));
            }
            // Whether it is the guard's answer only the guard can tell.
            let is_error = self.status().is_none_or(|status| status >= 400);
            let loaded = Url::parse(&self.loaded).ok().filter(|_| is_error);
            if let Some(reason) = loaded.and_then(|loaded| gate.why_no_document(&loaded)) {
                let asked = requested.map_or(&final_url, PageUrl::as_url);
                return bad(reason.failure().met_at(&final_url, asked));
            }
        }
        let base_url = Url::parse(&self.base).unwrap_or_else(|_| final_url.clone());
        Ok(Document {
            final_url,
            base_url,
            status: self.status(),
            retry_after: None,
            answered_in: self.answered_in_ms.and_then(milliseconds),
            bytes: self.bytes,
        })
    }
}

/// A span of time as pages measure it.
pub(super) fn milliseconds(span: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(span / 1000.0).ok()
}
