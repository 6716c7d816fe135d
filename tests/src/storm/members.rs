//! The processes of the fleet: started, killed, started again. Each writes one log over all its lives.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crawlify_shared::child::ChildProcess;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustix::process::{Pid, Signal};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Options;
use super::servers::Servers;
use crate::processes::{self, Process};
use crate::program::crawlify;
use crate::scratch::Scratch;

/// How long a process may take to end its pages and itself.
const STOP_WITHIN: Duration = Duration::from_secs(60);
/// How long what belongs to a process may outlive it.
const CHILDREN_WITHIN: Duration = Duration::from_secs(10);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// What brings a victim back; done when it is there again.
pub(super) type ComesBack = BoxFuture<'static, Result<()>>;

/// The fleet.
#[derive(Debug)]
pub(super) struct Members {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: String,
    start: Arc<Start>,
    /// Locked while it is killed and started.
    process: Arc<Mutex<ChildProcess>>,
}

/// How a member is started.
#[derive(Debug)]
struct Start {
    program: PathBuf,
    arguments: Vec<String>,
    scratch: Arc<Scratch>,
    log: PathBuf,
}

impl Members {
    /// Starts all processes; the database is migrated.
    pub(super) fn start(
        options: &Options,
        scratch: &Arc<Scratch>,
        logs: &Path,
        servers: &Servers,
    ) -> Result<Self> {
        let slots = options.slots.to_string();
        let coordinator = ["coordinator", "--port", "0"].as_slice();
        let worker = ["worker", "--admin-port", "0", "--slots", &slots];
        let urls =
            ["--database-url", servers.database_url.expose(), "--amqp-url", servers.broker_url.expose()];
        let names = (1..=options.coordinators).map(|number| (format!("coordinator-{number}"), coordinator));
        let names =
            names.chain((1..=options.workers).map(|number| (format!("worker-{number}"), worker.as_slice())));
        let members = names.map(|(name, arguments)| {
            let arguments = arguments.iter().chain(&urls).map(|argument| (*argument).to_owned()).collect();
            let (program, scratch) = (options.program.clone(), Arc::clone(scratch));
            let start = Start { program, arguments, scratch, log: logs.join(format!("{name}.log")) };
            let process = Arc::new(Mutex::new(start.spawn()?));
            Ok(Member { name, start: Arc::new(start), process })
        });
        Ok(Self { members: members.collect::<Result<_>>()? })
    }

    /// Kills a member and starts it again; `None` while that happens to it already.
    pub(super) fn kill(&self, name: &str) -> Option<ComesBack> {
        let member = self.member(name)?;
        let mut process = Arc::clone(&member.process).try_lock_owned().ok()?;
        process.signal(Signal::KILL);
        let start = Arc::clone(&member.start);
        Some(
            async move {
                process.exited().await;
                *process = start.spawn()?;
                Ok(())
            }
            .boxed(),
        )
    }

    /// Kills a member's browser, which the member then replaces; `None` where there is none.
    pub(super) fn kill_browser(&self, name: &str) -> Option<ComesBack> {
        let process = self.member(name)?.process.try_lock().ok()?;
        let browser = processes::children(process.id())
            .into_iter()
            .find(|child| ["chrom", "headless"].iter().any(|part| child.name.contains(part)))?;
        rustix::process::kill_process(Pid::from_raw(browser.pid)?, Signal::KILL).ok()?;
        Some(async { Ok(()) }.boxed())
    }

    /// Starts those again that have ended by themselves; answers a line on each.
    pub(super) fn revive(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for member in &self.members {
            let Ok(mut process) = member.process.try_lock() else { continue };
            let Some(status) = process.exit_status() else { continue };
            match member.start.spawn() {
                Ok(started) => *process = started,
                Err(error) => lines.push(format!("{} does not start: {error:#}", member.name)),
            }
            lines.push(format!("{} had ended by itself ({status})", member.name));
        }
        lines
    }

    /// Stops all of them gently. Answers what belonged to them and should have ended with them.
    pub(super) async fn stop(self) -> Result<Vec<Process>> {
        let mut all = Vec::new();
        // Coordinators first: workers then get nothing more.
        for member in &self.members {
            let process = member.process.lock().await;
            all.extend(processes::below(process.id()));
            let status = process.stop(Signal::TERM, STOP_WITHIN).await;
            ensure!(status.success(), "{} ended with {status}", member.name);
        }
        let begun = Instant::now();
        while all.iter().any(Process::is_alive) && begun.elapsed() < CHILDREN_WITHIN {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        Ok(all)
    }

    fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }
}

impl Start {
    fn spawn(&self) -> Result<ChildProcess> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = crawlify(&self.program.to_string_lossy(), &self.scratch);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        ChildProcess::spawn(command, None, Signal::KILL)
            .with_context(|| format!("cannot start {}", self.program.display()))
    }
}
