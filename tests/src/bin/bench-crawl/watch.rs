//! The watching side: starts a working process, and notes what it and its children use while it works.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use crawlify_shared::config;
use harness::bench::processes::{
    Process, Snapshot, TreeTime, peak_resident_bytes, proportional_bytes, resident_bytes,
};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use url::Url;

use crate::job::{Job, Message, Outcome};

/// How often memory and processors are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After how many pages the browser's memory is noted, to compare it with the end's.
const EARLY_PAGES: u64 = 500;
const START_WITHIN: Duration = Duration::from_secs(60);
const RUN_WITHIN: Duration = Duration::from_secs(1800);
const END_WITHIN: Duration = Duration::from_secs(60);
/// Nothing but the machine itself is asked for a page, whatever a page says.
const LOOPBACK_ONLY: &str = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1";

/// A run's outcome, and what it used.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) outcome: Outcome,
    pub(crate) cpu_seconds: CpuSeconds,
    pub(crate) memory: Memory,
}

/// The processors' time from the first page to the last one, starts and ends of programs not included.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct CpuSeconds {
    /// The process that crawls: coordinator, worker and broker in one; or the one that navigates.
    pub(crate) ours: f64,
    pub(crate) chrome: f64,
    pub(crate) postgres: f64,
    pub(crate) site: f64,
}

/// In bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Memory {
    /// The most that the process that crawls ever had resident.
    pub(crate) ours_peak: u64,
    /// The resident memory of all processes of the browser, added up, so that what they share counts several times.
    pub(crate) chrome_peak: u64,
    /// The same after [`EARLY_PAGES`] pages, if there were so many.
    pub(crate) chrome_early: Option<u64>,
    /// The same after the last page.
    pub(crate) chrome_end: u64,
    /// After the last page, with what they share counted once.
    pub(crate) chrome_end_proportional: u64,
}

/// The site, served by a process of its own.
#[derive(Debug)]
pub(crate) struct Site {
    worker: WorkingProcess,
    url: Url,
}

/// A process that does a job. Dropping it kills it; its own children die with it.
#[derive(Debug)]
struct WorkingProcess {
    child: Child,
    pid: i32,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Site {
    /// Starts to serve the demo shop, or a folder.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) async fn start(folder: Option<std::path::PathBuf>) -> Result<Self> {
        let mut worker = WorkingProcess::start(&Job::Site(folder)).await?;
        let url = worker.ready().await?.context("the site does not say where it is")?;
        worker.begin().await?;
        Ok(Self { worker, url: url.parse()? })
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.worker.end().await
    }
}

/// Does a job in a process of its own, and watches it.
///
/// # Errors
/// It fails; what it has said is on standard error.
pub(crate) async fn run(job: Job, site: &Site) -> Result<Measured> {
    let mut worker = WorkingProcess::start(&job).await?;
    worker.ready().await?;
    let watching = watch(&mut worker, site.worker.pid);
    let measured = tokio::time::timeout(RUN_WITHIN, watching).await.context("the run takes too long")??;
    worker.end().await?;
    Ok(measured)
}

async fn watch(worker: &mut WorkingProcess, site: i32) -> Result<Measured> {
    let mut sampler = Sampler::new(worker.pid, site);
    worker.begin().await?;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let mut pages = 0;
    loop {
        tokio::select! {
            message = worker.message() => match message? {
                Message::Pages(ended) => pages = ended,
                Message::Done(outcome) => return sampler.finish(*outcome),
                Message::Ready(_) => bail!("the run is ready twice"),
            },
            _ = looks.tick() => drop(sampler.look(pages)),
        }
    }
}

/// What is known of a run's processes so far.
struct Sampler {
    ours: i32,
    site: i32,
    chrome: TreeTime,
    postgres: TreeTime,
    memory: Memory,
    /// At the beginning: what programs took to start is not the pages'.
    before: CpuSeconds,
}

impl Sampler {
    fn new(ours: i32, site: i32) -> Self {
        let nothing = CpuSeconds { ours: 0.0, chrome: 0.0, postgres: 0.0, site: 0.0 };
        let (chrome, postgres) = (TreeTime::default(), TreeTime::default());
        let mut sampler = Self { ours, site, chrome, postgres, memory: Memory::default(), before: nothing };
        let snapshot = sampler.look(0);
        sampler.before = sampler.cpu_seconds(&snapshot);
        sampler
    }

    /// Looks at every process once.
    fn look(&mut self, pages: u64) -> Snapshot {
        let snapshot = Snapshot::take();
        // A run starts no other program than these two.
        let (postgres, chrome): (Vec<&Process>, Vec<&Process>) =
            snapshot.children(self.ours).into_iter().partition(|child| child.name == "postgres");
        self.postgres.look(&snapshot, postgres);
        let browsers: Vec<i32> = chrome.iter().map(|process| process.pid).collect();
        self.chrome.look(&snapshot, chrome);
        let of_chrome = |bytes: fn(i32) -> u64| -> u64 {
            browsers.iter().flat_map(|pid| snapshot.tree(*pid)).map(|process| bytes(process.pid)).sum()
        };
        let resident = of_chrome(resident_bytes);
        self.memory.chrome_peak = self.memory.chrome_peak.max(resident);
        self.memory.chrome_end = resident;
        if pages >= EARLY_PAGES && self.memory.chrome_early.is_none() {
            self.memory.chrome_early = Some(resident);
        }
        snapshot
    }

    fn cpu_seconds(&self, snapshot: &Snapshot) -> CpuSeconds {
        let own = |pid| snapshot.own_time(pid).unwrap_or_default().as_secs_f64();
        CpuSeconds {
            ours: own(self.ours),
            chrome: self.chrome.total().as_secs_f64(),
            postgres: self.postgres.total().as_secs_f64(),
            site: own(self.site),
        }
    }

    fn finish(mut self, outcome: Outcome) -> Result<Measured> {
        let snapshot = self.look(outcome.pages);
        let (now, before) = (self.cpu_seconds(&snapshot), self.before);
        self.memory.ours_peak = peak_resident_bytes(self.ours);
        let browsers = snapshot.children(self.ours).into_iter().filter(|child| child.name != "postgres");
        let all = browsers.flat_map(|browser| snapshot.tree(browser.pid));
        self.memory.chrome_end_proportional = all.map(|process| proportional_bytes(process.pid)).sum();
        let cpu_seconds = CpuSeconds {
            ours: now.ours - before.ours,
            chrome: now.chrome - before.chrome,
            postgres: now.postgres - before.postgres,
            site: now.site - before.site,
        };
        Ok(Measured { outcome, cpu_seconds, memory: self.memory })
    }
}

impl WorkingProcess {
    async fn start(job: &Job) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.arg("--child").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        if config::variable(config::CHROME_FLAGS).is_none() {
            command.env(config::CHROME_FLAGS, LOOPBACK_ONLY);
        }
        let mut child = command.spawn().context("cannot start the process of a run")?;
        let pid = i32::try_from(child.id().context("the process has ended at once")?)?;
        let mut input = child.stdin.take().context("it has no input")?;
        let output = BufReader::new(child.stdout.take().context("it has no output")?).lines();
        input.write_all(format!("{}\n", serde_json::to_string(job)?).as_bytes()).await?;
        Ok(Self { child, pid, input, output })
    }

    async fn message(&mut self) -> Result<Message> {
        let line = self.output.next_line().await?.context("the run's process has ended early")?;
        serde_json::from_str(&line).with_context(|| format!("the run says {line:?}"))
    }

    /// Waits until everything has started.
    async fn ready(&mut self) -> Result<Option<String>> {
        let message = tokio::time::timeout(START_WITHIN, self.message());
        match message.await.context("the run does not start")?? {
            Message::Ready(address) => Ok(address),
            other => bail!("the run says {other:?} before it is ready"),
        }
    }

    async fn begin(&mut self) -> Result<()> {
        Ok(self.input.write_all(b"begin\n").await?)
    }

    /// Lets it close everything, and waits for that.
    async fn end(mut self) -> Result<()> {
        drop(self.input);
        let status =
            tokio::time::timeout(END_WITHIN, self.child.wait()).await.context("it does not end")??;
        if status.success() { Ok(()) } else { bail!("the run's process has failed: {status}") }
    }
}
