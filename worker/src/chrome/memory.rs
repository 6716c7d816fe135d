//! How much memory a browser uses, with all its processes. Reads /proc alone.

use std::collections::HashMap;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// A process of a browser.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// The memory that it has for itself: not its program, and not what it maps of files.
    pub(super) bytes: u64,
}

/// A process and its descendants. None where the system does not say.
pub(super) fn processes(root: i32) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let status = pid.and_then(|_| fs::read_to_string(process.path().join("status")).ok());
        let (Some(pid), Some(status)) = (pid, status) else { continue };
        let process = Process { pid, bytes: field(&status, "RssAnon:").unwrap_or(0) << 10 };
        if pid == root {
            found.push(process);
        } else if let Some(parent) = field(&status, "PPid:").and_then(|parent| i32::try_from(parent).ok()) {
            children.entry(parent).or_default().push(process);
        }
    }
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        let children = children.remove(&pid).unwrap_or_default();
        open.extend(children.iter().map(|child| child.pid));
        found.extend(children);
    }
    found
}

impl Process {
    /// Whether pages live in it, their frames or their workers; pages may share one.
    pub(super) fn is_of_pages(self) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        // Chrome's helpers write their lines anew, with spaces.
        line.split(|byte| matches!(byte, 0 | b' ')).any(|argument| argument == b"--type=renderer")
    }

    /// Kills it.
    pub(super) fn kill(self) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// A number in the text of `status`.
fn field(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_takes_is_seen() {
        let own = i32::try_from(std::process::id()).unwrap();
        let bytes = || processes(own).iter().map(|process| process.bytes).sum::<u64>();
        let before = bytes();
        let taken = vec![1_u8; 64 << 20];
        assert!(bytes() >= before + (48 << 20), "{} bytes taken", taken.len());
        assert!(processes(i32::MAX).is_empty());
    }
}
