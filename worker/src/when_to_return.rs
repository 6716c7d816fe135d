//! Asks a host that has refused a page for how long it wants to be left alone. It may say so in a header, which a navigation does
//! not show: the address that it refused is asked for once more, without a tab.

use std::time::Duration;

use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::{Isolation, Workflow};
use tokio::time::{Instant, timeout_at};

use crate::chrome::driver::{Document, DomProgram, Session, Static};
use crate::execute::{Means, READ_WITHIN, UNHURRIED};
use crate::http::{self, Sent};
use crate::page::host_turns::is_of_its_host;
use crate::page::redirects::Redirects;

/// The page that was refused, and the ways to ask.
pub(crate) struct Question<'a> {
    pub(crate) page: &'a ClaimedPage,
    pub(crate) workflow: &'a Workflow,
    pub(crate) session: &'a Session,
    pub(crate) means: Means<'a>,
}

impl Question<'_> {
    /// For how long the host wants to be left alone that has said so at this address: as long as was heard already, or longer. An
    /// answer that refuses nothing makes it no shorter: the host did refuse one page, and for that it is asked more slowly.
    pub(crate) async fn ask(&self, url: &PageUrl, heard: Duration, deadline: Instant) -> Duration {
        // Of a host that is asked rarely the question would take the turn of a page, and the pace itself keeps others from asking
        // before the refusal is recorded. A page that heard 503 before may be broken, and its host has no more to say if it
        // had not lately. And pages that hear it at the same time do not all ask.
        if self.page.host_delay >= UNHURRIED
            || self.page.faults.unavailable > 0 && self.means.turns.says_nothing(&self.page.host)
            || !self.means.turns.leave_alone(&self.page.host, heard)
            || self.means.turns.wait_to_ask(self.page).await.is_err()
        {
            return heard;
        }
        let deadline = deadline.min(Instant::now() + READ_WITHIN);
        let question = async {
            match self.session.isolation {
                Isolation::Execution => self.ask_through_the_browser(url, deadline).await,
                // Pages share no cookies, so none are sent. Others wait, however long the store takes to count redirects.
                Isolation::Page => {
                    timeout_at(deadline, self.ask_by_ourselves(url, deadline)).await.ok().flatten()
                }
            }
        };
        let said = self.means.turns.while_others_wait(self.page, question).await;
        self.means.turns.note_answer(&self.page.host, said);
        said.map_or(heard, |said| said.max(heard))
    }

    async fn ask_through_the_browser(&self, url: &PageUrl, deadline: Instant) -> Option<Duration> {
        let nothing = DomProgram::default();
        match self.means.driver.read_static(self.session, url, &nothing, true, deadline).await {
            Static::Read { document, .. } => self.said_by(&document),
            Static::NeedsFull(_) | Static::Lost(_) => None,
        }
    }

    fn said_by(&self, document: &Document) -> Option<Duration> {
        let (_, contact) = document.http_failure()?;
        contact.back_off.filter(|_| is_of_its_host(self.page, document.final_url.as_str()))
    }

    /// As it says to us and not to the browser.
    async fn ask_by_ourselves(&self, url: &PageUrl, deadline: Instant) -> Option<Duration> {
        let outlet =
            self.means.http.outlet(self.page.execution_id, self.workflow.proxy.as_ref()).await.ok()?;
        // They are only counted: the other pages of the host are held back as long as this takes.
        let redirects = Redirects::of(self.means.turns, self.page, Duration::ZERO);
        let sent = Sent::Workflow(self.workflow);
        let response = outlet.get(url.as_url(), sent, redirects, deadline).await.ok()?;
        http::back_off(&response).filter(|_| is_of_its_host(self.page, response.url().as_str()))
    }
}
