//! The system under test: `crawlify up` as a person starts it, with nothing kept, asked over REST.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use crawlify_cli::demo_site::WORKFLOW;
use harness::processes::{self, Process};
use harness::program::{Program, crawlify};
use harness::scratch::Scratch;
use reqwest::Client;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

const START_WITHIN: Duration = Duration::from_secs(90);
const WAVE_WITHIN: Duration = Duration::from_secs(600);
const STOP_WITHIN: Duration = Duration::from_secs(40);
/// How long its processes may outlive it.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What the folder of a worker's profiles, and a profile in it, begin with.
const PROFILES: &str = "crawlify-chrome-";
const PROFILE: &str = "launch-";

/// A running `crawlify up`.
pub(crate) struct SystemUnderTest {
    program: Program,
    scratch: Scratch,
    api: String,
    client: Client,
}

/// What was there when it had ended.
#[derive(Debug, Default)]
pub(crate) struct LeftBehind {
    pub(crate) processes: Vec<Process>,
    pub(crate) files: Vec<String>,
}

impl SystemUnderTest {
    /// Starts it, with the program that cargo built beside this one.
    ///
    /// # Errors
    /// There is no such program.
    pub(crate) async fn start(slots: u16) -> Result<Self> {
        let beside = std::env::current_exe()?.with_file_name("crawlify-under-test");
        ensure!(beside.is_file(), "there is no {}: build it too", beside.display());
        let scratch = Scratch::create();
        let mut command = crawlify(&beside.to_string_lossy(), &scratch);
        command.args(["up", "--ephemeral", "--port", "0", "--slots", &slots.to_string()]);
        let mut program = Program::start(command);
        let line = program.says("REST API", START_WITHIN).await;
        let api = line.split_whitespace().last().context("it says where it is")?.to_owned();
        program.says("Ctrl-C to stop", START_WITHIN).await;
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
        Ok(Self { program, scratch, api, client })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.program.pid()
    }

    /// How many browser profiles there are now.
    pub(crate) fn profiles(&self) -> usize {
        let folders = self.scratch.leftovers().into_iter().filter(|name| name.starts_with(PROFILES));
        let entries = folders.flat_map(|folder| std::fs::read_dir(self.scratch.temporary().join(folder)));
        entries
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(PROFILE))
            .count()
    }

    /// Crawls so many pages of the shop; answers how long that took.
    ///
    /// # Errors
    /// It does not end well, or in time.
    pub(crate) async fn crawl(&self, start_url: &str, pages: u64) -> Result<Duration> {
        let mut workflow: Value = serde_json::from_str(WORKFLOW)?;
        workflow["status"] = json!("active");
        workflow["config"]["start_urls"] = json!([start_url]);
        workflow["config"]["max_pages"] = json!(pages);
        let made = self.client.post(format!("{}/workflows", self.api)).json(&workflow).send().await?;
        let made: Value = made.error_for_status()?.json().await?;
        let id = made["id"].as_str().context("the workflow has an id")?;
        let begun = Instant::now();
        let started = self.client.post(format!("{}/workflows/{id}/execute", self.api)).send().await?;
        let started: Value = started.error_for_status()?.json().await?;
        let id = started["execution_id"].as_str().context("the execution has an id")?;
        let execution = format!("{}/executions/{id}", self.api);
        while begun.elapsed() < WAVE_WITHIN {
            let execution: Value =
                self.client.get(&execution).send().await?.error_for_status()?.json().await?;
            match execution["status"].as_str() {
                Some("running") => tokio::time::sleep(LOOK_EVERY).await,
                Some("completed") => return Ok(begun.elapsed()),
                _ => bail!("the wave did not end well: {execution}"),
            }
        }
        bail!("the wave takes too long")
    }

    /// Stops it as Ctrl-C does, and looks what it has left.
    ///
    /// # Errors
    /// It does not end well.
    pub(crate) async fn stop(self) -> Result<LeftBehind> {
        let children = processes::below(self.pid());
        self.program.signal(Signal::INT);
        let (ended, _) = self.program.end_with_family(STOP_WITHIN).await;
        ensure!(ended.code == 0, "it ended with {}:\n{}", ended.code, ended.stderr);
        let stopped = Instant::now();
        let left = || children.iter().filter(|child| child.is_alive()).cloned().collect::<Vec<_>>();
        while !left().is_empty() && stopped.elapsed() < GONE_WITHIN {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(LeftBehind { processes: left(), files: self.scratch.leftovers() })
    }
}
