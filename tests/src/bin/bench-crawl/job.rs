//! What the watching process and a working one say to each other: one JSON value a line, over standard input and
//! output. The job comes first; the work begins with the next line, and ends with the end of the input.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use crawlify_shared::domain::workflow::WaitUntil;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{bare, crawl, site};

/// What a process is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Serve the demo shop, or a folder.
    Site(Option<std::path::PathBuf>),
    /// Crawl with the whole system.
    Crawl(CrawlJob),
    /// Only navigate.
    Bare(BareJob),
}

/// A crawl.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CrawlJob {
    /// The workflow with name and configuration.
    pub(crate) document: Value,
    pub(crate) slots: u16,
    /// The mode that the document asks for.
    pub(crate) render: String,
}

/// Navigations.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BareJob {
    pub(crate) urls: Vec<String>,
    pub(crate) tabs: usize,
    /// Sent with every request, as the crawl does.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) wait_until: Until,
}

/// When a navigation counts as done.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Until {
    Parsed,
    Load,
    NetworkIdle,
}

/// What a working process says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// Everything has started; the site says where it is.
    Ready(Option<String>),
    /// So many pages have ended so far.
    Pages(u64),
    /// The work is done; nothing is closed yet.
    Done(Box<Outcome>),
}

/// What a run came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Pages that were loaded.
    pub(crate) pages: u64,
    /// Pages that were given up.
    pub(crate) failed: u64,
    /// From the first claim to the last page's end; of a bare run, from the first navigation to the last one's end.
    pub(crate) seconds: f64,
    /// The loaded pages, in the order of their ends.
    #[serde(default)]
    pub(crate) urls: Vec<String>,
    /// What only a crawl has.
    pub(crate) crawl: Option<CrawlFigures>,
    /// What the reader of the figures must know.
    pub(crate) notes: Vec<String>,
}

/// What a crawl's rows and metrics say.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CrawlFigures {
    /// The steps of a page and what each takes on average, in milliseconds.
    pub(crate) steps_ms: Vec<(String, f64)>,
    /// Rows of `node_executions`.
    pub(crate) node_rows: u64,
    /// What such a row takes, with its indexes.
    pub(crate) record_bytes: u64,
    /// Nodes that ran on a page, on average.
    pub(crate) nodes_a_page: f64,
    /// The times of a page's nodes by their rows, added up; on average, in milliseconds.
    pub(crate) node_times_ms: f64,
    pub(crate) items: u64,
    /// Whether pages were loaded as the workflow asks; this build may not know the mode yet.
    pub(crate) is_as_asked: bool,
    /// Attempts of pages that were read without a tab of their own.
    pub(crate) read_statically: Option<u64>,
    /// Which Postgres and which browser.
    pub(crate) parts: Vec<String>,
}

/// A working process's ends of the line.
#[derive(Debug)]
pub(crate) struct Line {
    /// Written by a thread that reads until the end.
    input: mpsc::Receiver<String>,
}

impl Line {
    /// Says something.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub(crate) fn say(&self, message: &Message) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        serde_json::to_writer(&mut stdout, message)?;
        stdout.write_all(b"\n")?;
        Ok(stdout.flush()?)
    }

    /// Says that everything has started, and waits for the word to begin.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub(crate) async fn ready(&mut self, address: Option<String>) -> Result<()> {
        self.say(&Message::Ready(address))?;
        ensure!(self.input.recv().await.is_some(), "nobody waits for this run any more");
        Ok(())
    }

    /// Waits until everything may be closed.
    pub(crate) async fn end(&mut self) {
        while self.input.recv().await.is_some() {}
    }
}

/// Reads the job and does it.
///
/// # Errors
/// Whatever keeps it from being done.
pub(crate) async fn work() -> Result<()> {
    let (lines, mut input) = mpsc::channel(1);
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    })?;
    let job = input.recv().await.context("there is no job on standard input")?;
    let line = Line { input };
    match serde_json::from_str(&job)? {
        Job::Site(folder) => site::serve(folder, line).await,
        Job::Crawl(job) => crawl::crawl(job, line).await,
        Job::Bare(job) => bare::navigate(job, line).await,
    }
}

impl Outcome {
    pub(crate) fn pages_a_second(&self) -> f64 {
        if self.seconds > 0.0 { self.pages as f64 / self.seconds } else { 0.0 }
    }
}

impl From<WaitUntil> for Until {
    fn from(wait_until: WaitUntil) -> Self {
        match wait_until {
            WaitUntil::DomContentLoaded => Self::Parsed,
            WaitUntil::Load => Self::Load,
            WaitUntil::NetworkIdle => Self::NetworkIdle,
        }
    }
}

impl From<Until> for WaitUntil {
    fn from(until: Until) -> Self {
        match until {
            Until::Parsed => Self::DomContentLoaded,
            Until::Load => Self::Load,
            Until::NetworkIdle => Self::NetworkIdle,
        }
    }
}
