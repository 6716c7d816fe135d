//! Calls of functions of ours in a tab's document. What they do is their own business.

use chromiumoxide_cdp::cdp::js_protocol::runtime::{
    CallArgument, CallFunctionOnParams, CallFunctionOnReturns, ExecutionContextId,
};
use serde_json::Value;
use tokio::time::Instant;

use super::driver::TabError;
use super::failure;
use super::pending::Pending;
use super::tab::{ChromeTab, internal};

impl ChromeTab {
    /// Begins a call in a world.
    pub(super) async fn begin_call(
        &self,
        world: ExecutionContextId,
        function: &str,
        arguments: Vec<CallArgument>,
        deadline: Instant,
        doing: &str,
    ) -> Result<Pending<CallFunctionOnReturns>, TabError> {
        let mut call = CallFunctionOnParams::new(function);
        call.execution_context_id = Some(world);
        call.await_promise = Some(true);
        call.return_by_value = Some(true);
        call.silent = Some(true);
        call.arguments = Some(arguments);
        let session = &self.attached()?.session;
        let begun = self.browser.launched.connection.begin(Some(session), &call, deadline);
        self.unless_broken(async { begun.await.map_err(|error| failure::of_call(error, doing)) }).await
    }

    /// What a function gave; a crash and a flood of dialogs or loads end the wait for it.
    pub(super) async fn returned(
        &self,
        call: Pending<CallFunctionOnReturns>,
        deadline: Instant,
        doing: &str,
    ) -> Result<Value, TabError> {
        let answer = async { call.answer(deadline).await.map_err(|error| failure::of_call(error, doing)) };
        let answer = self.unless_broken(answer).await?;
        if let Some(exception) = answer.exception_details {
            let thrown = exception.exception.and_then(|thrown| thrown.description).unwrap_or(exception.text);
            return Err(internal(format!("our function failed in the page: {thrown}")));
        }
        Ok(answer.result.value.unwrap_or_default())
    }
}
