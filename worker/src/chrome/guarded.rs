//! What a tab learns from the egress guard about a page that did not come, or did not come as a whole: the browser tells
//! only that it failed, or nothing at all.

use std::future::Future;
use std::pin::pin;

use chromiumoxide_cdp::cdp::browser_protocol::page::{Frame, GetFrameTreeParams};
use crawlify_shared::domain::outcome::Failure;
use crawlify_shared::domain::page_url::PageUrl;
use tokio::sync::watch;
use tokio::time::Instant;
use url::Url;

use super::driver::TabError;
use super::failure;
use super::tab::{BUSY, ChromeTab};
use crate::egress::Reason;

/// How many documents the guard has cut off; `None` where there is no guard.
pub(super) type Cuts = Option<watch::Receiver<u64>>;

impl ChromeTab {
    /// Why the address that the tab could not load was not reached, as far as the guard knows.
    pub(super) async fn why_unreachable(
        &self,
        requested: &PageUrl,
        deadline: Instant,
    ) -> Result<Option<Failure>, TabError> {
        if self.attached()?.gate.is_none() {
            return Ok(None);
        }
        let unreachable = self.unreachable_url(deadline).await?;
        let met = unreachable.as_ref().unwrap_or(requested.as_url());
        Ok(self.why_not(met).map(|failure| failure.met_at(met, requested.as_url())))
    }

    /// The address that the tab could not load, where it shows the browser's own page about that.
    pub(super) async fn unreachable_url(&self, deadline: Instant) -> Result<Option<Url>, TabError> {
        let unreachable = self.main_frame(deadline).await?.unreachable_url;
        Ok(unreachable.and_then(|url| Url::parse(&url).ok()))
    }

    /// Why an address was not reached, as far as the guard knows.
    pub(super) fn why_not(&self, url: &Url) -> Option<Failure> {
        self.attached().ok()?.gate.as_ref()?.why_not(url).map(Reason::failure)
    }

    /// Begins to watch for documents that are cut off; before the navigation, so that none is missed.
    pub(super) fn watch_cuts(&self) -> Result<Cuts, TabError> {
        Ok(self.attached()?.gate.as_ref().map(|gate| gate.watch_cuts()))
    }

    /// Waits for the page to load. The load of a document that was cut off never ends.
    pub(super) async fn unless_cut<T>(
        &self,
        cuts: &mut Cuts,
        loaded: impl Future<Output = Result<T, TabError>>,
        deadline: Instant,
    ) -> Result<T, TabError> {
        let mut loaded = pin!(loaded);
        let Some(cuts) = cuts else { return loaded.await };
        loop {
            tokio::select! {
                biased;
                loaded = &mut loaded => return loaded,
                Ok(()) = cuts.changed() => {}
            }
            // It may be another tab's.
            let frame = self.main_frame(deadline).await?;
            if let (Some(gate), Ok(url)) = (&self.attached()?.gate, Url::parse(&frame.url))
                && gate.was_too_large(&url)
            {
                let failure = failure::too_large(gate.document_bytes());
                return Err(TabError { failure, tab_usable: true });
            }
        }
    }

    async fn main_frame(&self, deadline: Instant) -> Result<Frame, TabError> {
        Ok(self.call(&GetFrameTreeParams {}, deadline, BUSY).await?.frame_tree.frame)
    }
}
