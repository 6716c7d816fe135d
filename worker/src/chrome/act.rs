//! A page that something is done to: input, and the documents that it leads to. Decides nothing about them.

use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::page::FrameId;
use crawlify_shared::domain::outcome::Failure;
use crawlify_shared::domain::workflow::WaitUntil;
use tokio::time::Instant;

use super::driver::{Document, Input, TabError};
use super::failure;
use super::guarded::Cuts;
use super::input;
use super::page_state::MAX_DOCUMENTS;
use super::tab::ChromeTab;

/// How soon after a click a page is left, if it is left for that.
const LEAVES_WITHIN: Duration = Duration::from_millis(100);

impl ChromeTab {
    /// Sends input, and waits for the document that it leads to, if it does at once.
    pub(super) async fn act(
        &mut self,
        input: &Input,
        wait_until: WaitUntil,
        deadline: Instant,
    ) -> Result<Option<Document>, TabError> {
        let cuts = self.watch_cuts()?;
        self.attached()?.events.begin_act();
        input::send(self, input, deadline).await?;
        if !input.may_lead_on() {
            return Ok(None);
        }
        self.arrive(cuts, wait_until, deadline).await
    }

    /// Waits for the document that comes in the place of the one that there was when something was done to it; `None` where that
    /// stays.
    pub(super) async fn arrive(
        &mut self,
        mut cuts: Cuts,
        wait_until: WaitUntil,
        deadline: Instant,
    ) -> Result<Option<Document>, TabError> {
        let mut state = self.attached()?.events.watch();
        let left = state.wait_for(|state| state.gone || state.is_leaving() || state.documents.len() > 1);
        if tokio::time::timeout(LEAVES_WITHIN, left).await.is_err() {
            return Ok(None);
        }
        loop {
            let is_there = state.wait_for(|state| {
                let last = state.documents.last().map(String::as_str).unwrap_or_default();
                let has_stayed = state.documents.len() == 1 && !state.is_leaving();
                has_stayed || state.documents.len() > MAX_DOCUMENTS || state.has_reached(wait_until, last)
            });
            let documents = self.unless_cut(&mut cuts, self.counted(is_there, deadline), deadline).await?;
            if documents == 1 {
                // A download, or an empty answer.
                return Ok(None);
            }
            let frame = FrameId::new(self.attached()?.target.as_str());
            let (description, world) = match self.describe_anew(frame, deadline).await {
                Ok(described) => described,
                // It went while it was looked at; the next document is waited for. The deadline ends this.
                Err(error) if error.tab_usable => continue,
                Err(error) => return Err(error),
            };
            let has_stayed = {
                let state = state.borrow();
                state.documents.len() == documents && !state.is_leaving()
            };
            if !has_stayed {
                continue;
            }
            (self.world, self.ahead) = (Some(world), None);
            self.redirects += description.redirects(None);
            self.attached()?.events.begin_act();
            if !description.is_browsers_error() {
                return Ok(Some(description.document(None, self.attached()?.gate.as_deref())?));
            }
            let asked_for = self.unreachable_url(deadline).await?;
            return match (asked_for, description.status()) {
                // A response with an error status and without a body.
                (Some(url), Some(status)) => Ok(Some(Document {
                    base_url: url.clone(),
                    final_url: url,
                    status: Some(status),
                    retry_after: None,
                    answered_in: None,
                    bytes: description.bytes,
                })),
                (url, _) => {
                    let failure = url.and_then(|url| self.why_not(&url)).unwrap_or_else(failure::sent_astray);
                    // The page's own host has answered.
                    Err(TabError { failure: Failure { is_elsewhere: true, ..failure }, tab_usable: true })
                }
            };
        }
    }
}
