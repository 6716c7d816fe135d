//! Who is whose child, as `/proc` tells: to see that a program leaves no process behind. Ends none.

use std::path::Path;
use std::time::Duration;

use crate::wait::wait_for;

/// One process; the start time tells it from a later one of the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its program's name, as the kernel has it.
    pub name: String,
    parent: i32,
    started: u64,
}

/// The children of a process, their children, and so on.
pub fn below(pid: i32) -> Vec<Process> {
    let all: Vec<Process> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| look_at(entry.file_name().to_str()?.parse().ok()?))
        .collect();
    let mut family = vec![pid];
    let mut found = Vec::new();
    while let Some(parent) = family.pop() {
        let children = all.iter().filter(|process| process.parent == parent);
        family.extend(children.clone().map(|child| child.pid));
        found.extend(children.cloned());
    }
    found
}

/// The children of a process.
pub fn children(pid: i32) -> Vec<Process> {
    below(pid).into_iter().filter(|process| process.parent == pid).collect()
}

/// Waits until every one of these processes has ended.
///
/// # Panics
/// One has not within `deadline`; the message names it.
pub async fn wait_until_gone(processes: &[Process], deadline: Duration) {
    let alive = || processes.iter().filter(|process| process.is_alive()).collect::<Vec<_>>();
    let started = std::time::Instant::now();
    while !alive().is_empty() && started.elapsed() < deadline {
        let one = alive().first().map(|process| (*process).clone());
        let Some(one) = one else { break };
        let left = deadline.saturating_sub(started.elapsed());
        wait_for(&format!("{} ({}) has ended", one.name, one.pid), left, async || !one.is_alive()).await;
    }
    assert_eq!(alive(), Vec::<&Process>::new(), "these processes stayed behind");
}

impl Process {
    /// Whether it still runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        look_at(self.pid).is_some_and(|now| now.started == self.started)
    }
}

/// Reads proc(5), `stat`, fields 2 to 4 and 22.
fn look_at(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The program's name may hold spaces and brackets.
    let (head, fields) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let (state, parent, started) =
        (*fields.first()?, fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?);
    (state != "Z" && state != "X").then_some(Process { pid, name, parent, started })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_grandchild_is_found_and_its_end_is_seen() {
        let mut child = std::process::Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let above = i32::try_from(child.id()).unwrap();
        let mut family = Vec::new();
        wait_for("the grandchild has started", Duration::from_secs(10), async || {
            family = below(above);
            family.iter().any(|process| process.name == "sleep")
        })
        .await;
        let sleep = family.iter().find(|process| process.name == "sleep").unwrap();
        assert!(sleep.is_alive());
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(sleep.pid).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        wait_until_gone(&family, Duration::from_secs(10)).await;
        child.wait().unwrap();
    }
}
