//! Runs the nodes of a page that is loaded in a tab: calls into the page, pauses, and what is done to it. Where that leads to
//! another document, the nodes after it run there. Knows nothing about how the page was loaded.

use std::time::Duration;

use chrono::Utc;
use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use crawlify_shared::domain::workflow::{Act, WaitUntil};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::chrome::driver::{Document, DomOp, DomProgram, Input, StepResult, Tab, TabError};
use crate::gather::Gathered;
use crate::program::{ActRun, Run};

/// How often a page may go elsewhere under one call.
const DEPARTURES: usize = 3;

/// A page whose nodes run.
#[derive(Debug)]
pub(crate) struct Nodes<'t> {
    pub(crate) tab: &'t mut dyn Tab,
    /// When another document counts as loaded.
    pub(crate) wait_until: WaitUntil,
    /// Of the page.
    pub(crate) deadline: Instant,
    /// Whether something was done to the page: it may be elsewhere since.
    pub(crate) has_acted: bool,
}

/// Why no further nodes of the page run.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) error: TabError,
    /// How long the host wants to be left alone.
    pub(crate) back_off: Option<Duration>,
}

impl From<TabError> for Stopped {
    fn from(error: TabError) -> Self {
        Self { error, back_off: None }
    }
}

impl Nodes<'_> {
    /// Runs a stretch of nodes. What is known of them is recorded, also of those that a failure stopped.
    ///
    /// # Errors
    /// The tab was lost, the page's time is over, or it led to a document that is none.
    pub(crate) async fn run(&mut self, run: &Run, gathered: &mut Gathered<'_>) -> Result<(), Stopped> {
        match run {
            Run::Page(page_run) => {
                let ended = gathered.ended_phases();
                let steps = page_run.dom.steps().iter().filter(|step| !ended.contains(&step.group));
                let (mut needs_page, mut has_links) = (false, false);
                for step in steps {
                    needs_page = true;
                    has_links |= matches!(step.op, DomOp::Links(_));
                }
                if !needs_page {
                    return Ok(gathered.take(page_run, Vec::new())?);
                }
                let results = self.call(&page_run.dom, &ended, gathered).await;
                let results = results.inspect_err(|stopped| gathered.lose(run.nodes(), &stopped.error))?;
                if has_links && self.has_acted {
                    // A script may have changed the address that links resolve against.
                    if let Ok(Some(document)) = self.tab.look_again(self.deadline).await {
                        gathered.moved_to(&document);
                    }
                }
                Ok(gathered.take(page_run, results)?)
            }
            Run::Act(act) if gathered.has_ended(act.at) => {
                gathered.skip(act.at);
                Ok(())
            }
            Run::Act(act) => {
                let began = Utc::now();
                match self.act(act, gathered).await {
                    Ok(results) => Ok(gathered.take(&act.find, results)?),
                    Err(stopped) => {
                        gathered.fail(act.at, began, &stopped.error.failure);
                        Err(stopped)
                    }
                }
            }
            Run::Wait { at, .. } if gathered.has_ended(*at) => {
                gathered.skip(*at);
                Ok(())
            }
            Run::Wait { at, pause } => {
                let started_at = Utc::now();
                if tokio::time::timeout_at(self.deadline, tokio::time::sleep(*pause)).await.is_err() {
                    let failure =
                        Failure::new(ErrorClass::NavTimeout, "the page's time was over before the wait");
                    let error = TabError { failure, tab_usable: true };
                    gathered.lose(run.nodes(), &error);
                    return Err(error.into());
                }
                gathered.add_pause(*at, started_at);
                Ok(())
            }
        }
    }

    /// One call into the page. Where the page goes elsewhere meanwhile, for what was done to it, the call is made again there, as it
    /// changes nothing.
    async fn call(
        &mut self,
        dom: &DomProgram,
        ended: &[usize],
        gathered: &mut Gathered<'_>,
    ) -> Result<Vec<Option<StepResult>>, Stopped> {
        for _ in 0..DEPARTURES {
            let error = match self.tab.run(dom, ended, self.deadline).await {
                Err(error) if self.has_acted && error.has_left() => error,
                done => return Ok(done?),
            };
            match self.tab.follow(self.wait_until, self.deadline).await? {
                Some(document) => arrive(&document, gathered)?,
                None => return Err(error.into()),
            }
        }
        Ok(self.tab.run(dom, ended, self.deadline).await?)
    }

    /// Finds where something is to be done, and does it. Answers the node's result, as a call into the page would.
    async fn act(
        &mut self,
        ActRun { find, act, .. }: &ActRun,
        gathered: &mut Gathered<'_>,
    ) -> Result<Vec<Option<StepResult>>, Stopped> {
        let mut results = self.call(&find.dom, &[], gathered).await?;
        let Some(Some(result)) = results.first_mut() else { return Ok(results) };
        let Ok(found) = &result.output else { return Ok(results) };
        self.has_acted = true;
        let inputs = inputs(act, found);
        let mut output = Ok(output(act, found));
        for (place, input) in inputs.iter().enumerate() {
            if let Some(document) = self.tab.input(input, self.wait_until, self.deadline).await? {
                arrive(&document, gathered)?;
                if place + 1 < inputs.len() {
                    let message = "the page was left before all of the text was typed";
                    output = Err(Failure::new(ErrorClass::Script, message));
                    break;
                }
            }
        }
        result.output = output;
        result.completed_at = Utc::now().max(result.completed_at);
        Ok(results)
    }
}

/// The page is this document now. One that came with an HTTP error is not what the nodes were written for.
fn arrive(document: &Document, gathered: &mut Gathered<'_>) -> Result<(), Stopped> {
    gathered.moved_to(document);
    match document.http_failure() {
        None => Ok(()),
        Some((failure, contact)) => {
            let message = format!("it led to {}: {}", document.final_url, failure.message);
            let failure = Failure::new(failure.class, message);
            Err(Stopped { error: TabError { failure, tab_usable: true }, back_off: contact.back_off })
        }
    }
}

/// What the page receives, piece by piece: after each Enter it may be another one.
fn inputs(act: &Act, found: &Value) -> Vec<Input> {
    let at = |axis: &str| found[axis].as_f64().unwrap_or_default();
    match act {
        Act::Click(_) => vec![Input::Click(at("x"), at("y"))],
        Act::Hover(_) => vec![Input::Hover(at("x"), at("y"))],
        Act::Type { text, delay, .. } => {
            let keys = |text: &str| Input::Keys { text: text.to_owned(), delay: *delay };
            text.split_inclusive('\n').map(keys).collect()
        }
        Act::Scroll(_) => Vec::new(),
    }
}

fn output(act: &Act, found: &Value) -> Value {
    match act {
        Act::Click(target) => json!({"clicked": target.selector.query()}),
        Act::Hover(target) => json!({"hovered": target.selector.query()}),
        Act::Type { into, .. } => json!({"typed": true, "selector": into.selector.query()}),
        Act::Scroll(_) => json!({"scrolled": true, "x": found["x"], "y": found["y"]}),
    }
}
