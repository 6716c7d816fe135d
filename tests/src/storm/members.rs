//! The processes of the fleet: started, killed, started again. Each writes one log over all its lives.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, PoisonError};
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
    /// What belonged to members and browsers when they were killed, and must have ended with them. Written by each
    /// kill, read at the end; locked for moments only.
    orphans: std::sync::Mutex<Vec<Process>>,
}

/// What members did that nobody made them do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unasked {
    /// A sentence on each end that was not the storm's.
    pub(super) ended: Vec<String>,
    /// Those that did not start again, each with a sentence. They are left alone from then on.
    pub(super) not_started: BTreeMap<String, String>,
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
        Ok(Self { members: members.collect::<Result<_>>()?, orphans: std::sync::Mutex::default() })
    }

    /// Kills a member and starts it again; `None` while that happens to it already, and of one that has ended by
    /// itself, which must not be taken for killed.
    pub(super) fn kill(&self, name: &str) -> Option<ComesBack> {
        let member = self.member(name)?;
        let mut process = Arc::clone(&member.process).try_lock_owned().ok()?;
        if process.exit_status().is_some() {
            return None;
        }
        self.note_orphans(processes::below(process.id()));
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
        self.note_orphans(processes::below(browser.pid));
        self.note_orphans(vec![browser.clone()]);
        rustix::process::kill_process(Pid::from_raw(browser.pid)?, Signal::KILL).ok()?;
        Some(async { Ok(()) }.boxed())
    }

    /// Starts those again that have ended by themselves, and notes them. One that is being killed is locked, and
    /// never seen here. Answers a line on each.
    pub(super) fn revive(&self, unasked: &mut Unasked) -> Vec<String> {
        let mut lines = Vec::new();
        for member in &self.members {
            let Ok(mut process) = member.process.try_lock() else { continue };
            let Some(status) = process.exit_status() else { continue };
            if unasked.not_started.contains_key(&member.name) {
                continue;
            }
            lines.push(unasked.note_end(&member.name, status));
            match member.start.spawn() {
                Ok(started) => *process = started,
                Err(error) => lines.push(unasked.note_not_started(&member.name, &error)),
            }
        }
        lines
    }

    /// Stops all of them gently, and notes those that have ended by themselves. Answers what belonged to them, and
    /// to whatever was killed before, and should have ended with them.
    pub(super) async fn stop(self, unasked: &mut Unasked) -> Result<Vec<Process>> {
        let mut all = self.orphans.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Coordinators first: workers then get nothing more.
        for member in &self.members {
            let process = member.process.lock().await;
            if let Some(status) = process.exit_status() {
                if !unasked.not_started.contains_key(&member.name) {
                    unasked.note_end(&member.name, status);
                }
                continue;
            }
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

    fn note_orphans(&self, processes: Vec<Process>) {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner).extend(processes);
    }

    fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }
}

impl Unasked {
    /// All sentences.
    pub(super) fn lines(&self) -> Vec<String> {
        self.ended.iter().chain(self.not_started.values()).cloned().collect()
    }

    fn note_end(&mut self, name: &str, status: ExitStatus) -> String {
        let line = format!("{name} had ended by itself ({status})");
        self.ended.push(line.clone());
        line
    }

    fn note_not_started(&mut self, name: &str, error: &anyhow::Error) -> String {
        let line = format!("{name} does not start: {error:#}");
        self.not_started.insert(name.to_owned(), line.clone());
        line
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::{wait_for, wait_for_value};

    const WITHIN: Duration = Duration::from_secs(10);

    /// One member, which is a shell with this script.
    fn one(scratch: &Arc<Scratch>, script: &str) -> Members {
        let start = Start {
            program: PathBuf::from("/bin/sh"),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            scratch: Arc::clone(scratch),
            log: scratch.path("log"),
        };
        let process = Arc::new(Mutex::new(start.spawn().unwrap()));
        let member = Member { name: "worker-1".to_owned(), start: Arc::new(start), process };
        Members { members: vec![member], orphans: std::sync::Mutex::default() }
    }

    impl Members {
        async fn has_ended(&self) {
            wait_for("it has ended", WITHIN, async || {
                self.members[0].process.lock().await.exit_status().is_some()
            })
            .await;
        }

        /// Processes below the member whose program has this name.
        async fn below(&self, name: &str) -> Vec<Process> {
            let pid = self.members[0].process.lock().await.id();
            wait_for_value(&format!("{name} runs"), WITHIN, async || {
                let mut found = processes::below(pid);
                found.retain(|process| process.name == name);
                (!found.is_empty()).then_some(found)
            })
            .await
        }
    }

    #[tokio::test]
    async fn an_end_that_is_not_the_storms_is_noted_whenever_it_is_seen() {
        let scratch = Arc::new(Scratch::create());
        let members = one(&scratch, "exit 3");
        let mut unasked = Unasked::default();
        members.has_ended().await;
        assert!(members.kill("worker-1").is_none(), "it is not taken for killed");
        let line = "worker-1 had ended by itself (exit status: 3)";
        assert_eq!(members.revive(&mut unasked), [line]);
        members.has_ended().await;
        members.stop(&mut unasked).await.unwrap();
        assert_eq!(unasked.lines(), [line, line]);
    }

    #[tokio::test]
    async fn a_member_that_does_not_start_again_is_noted_once() {
        let scratch = Arc::new(Scratch::create());
        let mut members = one(&scratch, "exit 3");
        members.has_ended().await;
        let start = Start {
            program: PathBuf::from("/no/such/program"),
            arguments: Vec::new(),
            scratch: Arc::clone(&scratch),
            log: scratch.path("log"),
        };
        members.members[0].start = Arc::new(start);
        let mut unasked = Unasked::default();
        assert_eq!(members.revive(&mut unasked).len(), 2);
        assert_eq!(members.revive(&mut unasked), [""; 0]);
        members.stop(&mut unasked).await.unwrap();
        assert_eq!((unasked.ended.len(), unasked.not_started.len()), (1, 1), "{unasked:?}");
        assert!(unasked.lines()[1].starts_with("worker-1 does not start: cannot start /no/such/program"));
    }

    #[tokio::test]
    async fn what_belonged_to_a_member_or_a_browser_that_was_killed_is_answered_at_the_end() {
        let scratch = Arc::new(Scratch::create());
        // Its name makes it the browser.
        let browser = scratch.path("headless");
        std::os::unix::fs::symlink("/bin/sh", &browser).unwrap();
        let browser = browser.display();
        let script =
            format!("trap 'exit 0' TERM; {browser} -c 'sleep 60 & wait' & while :; do sleep 60 & wait; done");
        let members = one(&scratch, &script);
        let mut noted = Vec::new();
        for _ in 0..2 {
            wait_for("both are asleep", WITHIN, async || members.below("sleep").await.len() == 2).await;
            let family = [members.below("headless").await, members.below("sleep").await].concat();
            noted.push(family);
            if noted.len() == 1 {
                members.kill("worker-1").unwrap().await.unwrap();
            }
        }
        members.kill_browser("worker-1").unwrap().await.unwrap();
        let mut unasked = Unasked::default();
        let answered = members.stop(&mut unasked).await.unwrap();
        let noted = noted.concat();
        assert_eq!(noted.len(), 6, "{noted:?}");
        assert!(noted.iter().all(|process| answered.iter().any(|other| other.pid == process.pid)));
        assert_eq!((unasked, answered.iter().any(Process::is_alive)), (Unasked::default(), false));
    }
}
