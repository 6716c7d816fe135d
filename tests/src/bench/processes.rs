//! What processes use, as proc(5) tells: time of the processor and memory of a process and all below it. Ends none.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use super::machine::kilobytes;

/// The unit of times in `/proc`; Linux fixed it for all architectures that we build for, whatever its own clock does.
const TICKS_A_SECOND: u64 = 100;

/// Every process at one moment.
#[derive(Debug)]
pub struct Snapshot {
    processes: Vec<Process>,
}

/// One process at one moment.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its program's name, as the kernel has it.
    pub name: String,
    /// Whether it has ended, and its parent has not looked.
    pub is_zombie: bool,
    /// Tells it from a later one of the same number.
    started: u64,
    parent: i32,
    /// Its own time.
    own: Duration,
    /// The time of its children that have ended, and of theirs.
    ended_children: Duration,
}

/// The time that some processes and all below them have used, even when they have ended since.
#[derive(Debug, Default)]
pub struct TreeTime {
    /// Written at each look, by process number and start.
    by_root: HashMap<(i32, u64), Duration>,
}

impl Snapshot {
    /// Looks at every process.
    pub fn take() -> Self {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let processes =
            entries.filter_map(|entry| look_at(entry.file_name().to_str()?.parse().ok()?)).collect();
        Self { processes }
    }

    /// The children of a process.
    pub fn children(&self, pid: i32) -> Vec<&Process> {
        self.processes.iter().filter(|process| process.parent == pid).collect()
    }

    /// The process and all below it; empty when it has ended.
    pub fn tree(&self, pid: i32) -> Vec<&Process> {
        let mut found: Vec<&Process> = self.processes.iter().filter(|process| process.pid == pid).collect();
        let mut looked_at = 0;
        while let Some(parent) = found.get(looked_at).map(|process| process.pid) {
            found.extend(self.children(parent));
            looked_at += 1;
        }
        found
    }

    /// The time that one process has used by itself, without its children.
    pub fn own_time(&self, pid: i32) -> Option<Duration> {
        self.processes.iter().find(|process| process.pid == pid).map(|process| process.own)
    }
}

impl TreeTime {
    /// Looks at these roots and all below them.
    pub fn look<'s>(&mut self, snapshot: &'s Snapshot, roots: impl IntoIterator<Item = &'s Process>) {
        for root in roots {
            let tree = snapshot.tree(root.pid);
            let used: Duration = tree.iter().map(|process| process.own + process.ended_children).sum();
            let last = self.by_root.entry((root.pid, root.started)).or_default();
            // While a process is being reaped its time is in neither place.
            *last = used.max(*last);
        }
    }

    /// The time of every root that was ever looked at.
    pub fn total(&self) -> Duration {
        self.by_root.values().sum()
    }
}

/// The memory of a process that is in use now (`VmRSS`), in bytes; what it shares counts in full. 0 when it has ended.
pub fn resident_bytes(pid: i32) -> u64 {
    field(pid, "status", "VmRSS")
}

/// The most that it ever was (`VmHWM`), in bytes.
pub fn peak_resident_bytes(pid: i32) -> u64 {
    field(pid, "status", "VmHWM")
}

/// The memory of a process with its share of what it shares (`Pss`), in bytes. Reading it takes the kernel a while.
pub fn proportional_bytes(pid: i32) -> u64 {
    field(pid, "smaps_rollup", "Pss")
}

fn field(pid: i32, file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(file));
    text.ok().and_then(|text| kilobytes(&text, name)).unwrap_or(0)
}

/// Reads proc(5), `stat`, fields 2 to 4, 14 to 17 and 22.
fn look_at(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The program's name may hold spaces and brackets.
    let (head, fields) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let time = |first: usize| {
        let ticks = number(first)? + number(first + 1)?;
        Some(Duration::from_millis(ticks * 1000 / TICKS_A_SECOND))
    };
    Some(Process {
        pid,
        name,
        is_zombie: fields.first() == Some(&"Z"),
        started: number(19)?,
        parent: fields.get(1)?.parse().ok()?,
        own: time(11)?,
        ended_children: time(13)?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::wait::wait_for;

    #[tokio::test]
    async fn the_time_of_children_that_have_ended_counts_and_stays_when_the_root_has_ended_too() {
        // A grandchild works and ends; its parent has waited for it when the line is there.
        let script = "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; echo done; exec sleep 60";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (pid, ours) = (i32::try_from(child.id()).unwrap(), i32::try_from(std::process::id()).unwrap());
        let mut time = TreeTime::default();
        let begun = Instant::now();
        wait_for("the grandchild's work is seen", Duration::from_secs(60), async || {
            let snapshot = Snapshot::take();
            time.look(&snapshot, snapshot.children(ours).into_iter().filter(|process| process.pid == pid));
            let sleeps = snapshot.tree(pid).iter().any(|process| process.name == "sleep");
            sleeps && time.total() > Duration::ZERO
        })
        .await;
        assert!(time.total() <= begun.elapsed() + Duration::from_millis(20), "more than one thread can do");
        assert!(resident_bytes(pid) > 0 && peak_resident_bytes(pid) >= resident_bytes(pid));
        assert!(proportional_bytes(pid) > 0);
        let used = time.total();
        child.kill().unwrap();
        child.wait().unwrap();
        let snapshot = Snapshot::take();
        assert!(snapshot.tree(pid).is_empty());
        time.look(&snapshot, snapshot.children(ours).into_iter().filter(|process| process.pid == pid));
        assert_eq!(time.total(), used);
    }
}
