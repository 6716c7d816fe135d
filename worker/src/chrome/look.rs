//! A tab asks its document what it is, in a world of ours. What it makes of the answer is in `describe`.

use chromiumoxide_cdp::cdp::browser_protocol::page::{CreateIsolatedWorldParams, FrameId};
use chromiumoxide_cdp::cdp::js_protocol::runtime::{CallFunctionOnReturns, ExecutionContextId};
use tokio::time::Instant;

use super::describe::{self, Description};
use super::driver::{Document, TabError};
use super::pending::Pending;
use super::tab::{BUSY, ChromeTab, not_understood};

/// The name of the world that our functions run in, as developer tools would show it.
const WORLD: &str = "crawlify";

impl ChromeTab {
    /// Makes an isolated world in the document that a frame has now.
    pub(super) async fn make_world(
        &self,
        frame: FrameId,
        deadline: Instant,
    ) -> Result<ExecutionContextId, TabError> {
        let mut create = CreateIsolatedWorldParams::new(frame);
        create.world_name = Some(WORLD.to_owned());
        Ok(self.call(&create, deadline, BUSY).await?.execution_context_id)
    }

    /// Makes a world, and asks there.
    pub(super) async fn describe_anew(
        &self,
        frame: FrameId,
        deadline: Instant,
    ) -> Result<(Description, ExecutionContextId), TabError> {
        let world = self.make_world(frame, deadline).await?;
        let description = self.begin_describing(world, deadline).await?;
        Ok((self.described(description, deadline).await?, world))
    }

    /// Asks the document in a world what it is.
    pub(super) async fn begin_describing(
        &self,
        world: ExecutionContextId,
        deadline: Instant,
    ) -> Result<Pending<CallFunctionOnReturns>, TabError> {
        self.begin_call(world, describe::DESCRIBE, Vec::new(), deadline, BUSY).await
    }

    /// What it said.
    pub(super) async fn described(
        &self,
        description: Pending<CallFunctionOnReturns>,
        deadline: Instant,
    ) -> Result<Description, TabError> {
        let value = self.returned(description, deadline, BUSY).await?;
        serde_json::from_value(value).map_err(not_understood)
    }

    /// Where the page is by now: a script may have changed its address.
    pub(super) async fn look_again(&self, deadline: Instant) -> Result<Option<Document>, TabError> {
        let Some(world) = self.world else { return Ok(None) };
        let description = self.begin_describing(world, deadline).await?;
        let description = self.described(description, deadline).await?;
        Ok(Some(description.document(None, self.attached()?.gate.as_deref())?))
    }
}
