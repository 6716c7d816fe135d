//! The care of child processes: Chrome and the private Postgres run under it.
//!
//! Each child leads its own process group, and is spawned, waited for and reaped by a thread of its own: the kernel
//! sends a parent-death signal when the *thread* that spawned the child ends, so that thread must live as long as the
//! child does. Whatever happens to us, `kill -9` included, the child gets its signal; whatever happens to the child,
//! its group is killed and no zombie stays.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::sync::watch;

/// A running child, or one that has exited. Dropping it kills its whole group.
#[derive(Debug)]
pub struct ChildProcess {
    pid: Pid,
    /// Written once, by the child's thread, when the child is gone and reaped.
    exit: watch::Receiver<Option<ExitStatus>>,
}

/// An account of `/etc/passwd` to run a child under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
    /// Its home directory.
    pub home: PathBuf,
}

impl ChildProcess {
    /// Starts a child that gets `on_our_death` when this process dies, under another account if one is given.
    ///
    /// # Errors
    /// The program could not be started.
    pub fn spawn(mut command: Command, account: Option<&Account>, on_our_death: Signal) -> io::Result<Self> {
        if let Some(account) = account {
            command.uid(account.uid).gid(account.gid);
            command.env("HOME", &account.home).env("USER", &account.name).env("LOGNAME", &account.name);
        }
        command.process_group(0);
        die_with_us(&mut command, on_our_death);
        let program = command.get_program().to_string_lossy().into_owned();
        let (exited, exit) = watch::channel(None);
        let (started, start) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name(format!("child {program}")).spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            // The child's descriptors (pipes above all) must not stay open on our side.
            drop(command);
            let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return };
            let _ = started.send(Ok(pid));
            drop(started);
            // Looking before reaping keeps the group's id ours while the rest of the group is killed.
            while let Err(rustix::io::Errno::INTR) =
                rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
            {
            }
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(-1));
            let _ = exited.send(Some(status));
        })?;
        let pid = start.recv().map_err(|_| io::Error::other("the child's thread ended"))??;
        Ok(Self { pid, exit })
    }

    /// The process id, which is the group's too.
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// The exit status, if the child has exited.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits until the child is gone and reaped.
    pub async fn exited(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or_default(),
            Err(_) => ExitStatus::default(),
        }
    }

    /// Sends a signal to the child alone, unless it has exited.
    pub fn signal(&self, signal: Signal) {
        if self.exit_status().is_none() {
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// Kills the child and its whole group at once, unless it has exited.
    pub fn kill(&self) {
        if self.exit_status().is_none() {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
    }

    /// Asks gently, waits for `patience`, then kills the group; returns when the child is reaped.
    pub async fn stop(&self, gentle: Signal, patience: Duration) -> ExitStatus {
        self.signal(gentle);
        match tokio::time::timeout(patience, self.exited()).await {
            Ok(status) => status,
            Err(_) => {
                self.kill();
                self.exited().await
            }
        }
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Account {
    /// Looks an account up by name.
    pub fn find(name: &str) -> Option<Self> {
        let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (found, _password) = (fields.next()?, fields.next()?);
            let (uid, gid, _gecos, home) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            (found == name).then_some(())?;
            Some(Self {
                name: found.to_owned(),
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
                home: PathBuf::from(home),
            })
        })
    }

    /// The first of `names` that exists and is not root.
    pub fn first_of(names: &[&str]) -> Option<Self> {
        names.iter().filter_map(|name| Self::find(name)).find(|account| account.uid != 0)
    }
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[allow(unsafe_code, reason = "the only way to run code between fork and exec")]
fn die_with_us(command: &mut Command, signal: Signal) {
    let parent = rustix::process::getpid();
    // SAFETY: the closure makes two system calls and allocates nothing, so it may run between fork and exec.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(signal))?;
            // We may have died before the line above.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::CANCELED.raw_os_error()));
            }
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_is_stopped_gently_and_reaped() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let child = ChildProcess::spawn(command, None, Signal::KILL).unwrap();
        let status = child.stop(Signal::TERM, Duration::from_secs(5)).await;
        assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
    }

    #[tokio::test]
    async fn the_whole_group_dies_when_its_leader_exits() {
        let folder = std::env::temp_dir().join(format!("crawlify-child-{}", uuid::Uuid::now_v7()));
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("sleep 60 & echo $! > {}", folder.display()));
        let child = ChildProcess::spawn(command, None, Signal::KILL).unwrap();
        assert!(child.exited().await.success());
        let grandchild: i32 = std::fs::read_to_string(&folder).unwrap().trim().parse().unwrap();
        std::fs::remove_file(&folder).unwrap();
        let gone = async {
            while std::fs::read_to_string(format!("/proc/{grandchild}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap();
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let error = ChildProcess::spawn(Command::new("/no/such/program"), None, Signal::KILL).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
