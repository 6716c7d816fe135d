//! Which test run a process belongs to: that of its parent, which is nextest, cargo, or a person's shell.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// A test run, named by the process that runs it. The start time tells it from a later process of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TestRun {
    pid: i32,
    started: u64,
}

impl TestRun {
    /// The run that this test belongs to.
    pub(super) fn ours() -> Result<Self> {
        let pid = rustix::process::getppid().context("we have no parent")?.as_raw_nonzero().get();
        Ok(Self { pid, started: start_time(pid).context("our parent is gone")? })
    }

    /// Whether it still runs.
    pub(super) fn is_alive(self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// As an argument for the keeper, and a part of its folder's name.
    pub(super) fn to_argument(self) -> String {
        format!("{}-{}", self.pid, self.started)
    }

    /// Reads what `to_argument` wrote.
    pub(super) fn parse(argument: &str) -> Option<Self> {
        let (pid, started) = argument.split_once('-')?;
        Some(Self { pid: pid.parse().ok()?, started: started.parse().ok()? })
    }

    /// The folder of this run's keeper.
    pub(super) fn folder(self) -> PathBuf {
        std::env::temp_dir().join(format!("{}{}", prefix(), self.to_argument()))
    }

    /// Creates the folder, for us alone.
    pub(super) fn create_folder(self) -> Result<PathBuf> {
        let folder = self.folder();
        match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error)?,
            _ => {}
        }
        let owner = std::fs::symlink_metadata(&folder)?;
        ensure!(
            owner.is_dir() && owner.uid() == rustix::process::geteuid().as_raw(),
            "{} belongs to somebody else",
            folder.display()
        );
        Ok(folder)
    }

    /// Removes what the keepers of runs that are over have left, if they were killed.
    pub(super) fn sweep() {
        let entries = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let run = name.to_str().and_then(|name| name.strip_prefix(&prefix())).and_then(Self::parse);
            if run.is_some_and(|run| !run.is_alive() && !super::keeper::is_alive(&run.folder())) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn prefix() -> String {
    format!("crawlify-harness-{}-", rustix::process::geteuid().as_raw())
}

/// Clock ticks from the machine's start to the process's, or `None` if it is gone (proc(5), `stat`, field 22).
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The second field, the program's name, may hold spaces and brackets.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    if state == "Z" { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_run_is_alive_and_an_earlier_process_of_its_number_is_not() {
        let ours = TestRun::ours().unwrap();
        assert!(ours.is_alive());
        assert!(!TestRun { started: ours.started - 1, ..ours }.is_alive());
    }

    #[test]
    fn a_run_survives_being_an_argument() {
        let ours = TestRun::ours().unwrap();
        assert_eq!(TestRun::parse(&ours.to_argument()), Some(ours));
        assert_eq!(TestRun::parse("1"), None);
    }
}
