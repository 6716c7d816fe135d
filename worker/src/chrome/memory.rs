//! How much memory a browser uses, with all its processes, and which of several has to go. Reads /proc alone.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

/// A process of a browser.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// The memory that it has for itself: not its program, and not what it maps of files.
    pub(super) bytes: u64,
}

/// What the browsers of one driver weigh. They share what there is: one that is being replaced ends its last pages
/// beside the next one, and the machine does not grow meanwhile.
#[derive(Clone, Debug, Default)]
pub(super) struct Weights(Arc<Mutex<HashMap<i32, Weight>>>);

#[derive(Clone, Copy, Debug)]
struct Weight {
    bytes: u64,
    is_retired: bool,
}

/// A browser among [`Weights`], until this is dropped. Written by who watches over it, read by who watches over others.
#[derive(Debug)]
pub(super) struct Place {
    weights: Weights,
    pid: i32,
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

impl Weights {
    /// A place for a browser.
    pub(super) fn place(&self, pid: i32) -> Place {
        Place { weights: self.clone(), pid }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Weight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Notes what the browser weighs, and tells whether it has to go: it has more than a quarter over `memory`, or all of them together
    /// have more than half over it. First goes one that has too much alone, then the heaviest of those that are retired. One
    /// at a time, as each costs pages.
    pub(super) fn has_to_go(&self, bytes: u64, memory: u64, is_retired: bool) -> bool {
        let mut weights = self.weights.lock();
        weights.insert(self.pid, Weight { bytes, is_retired });
        let (alone, together) = (memory.saturating_add(memory / 4), memory.saturating_add(memory / 2));
        let all: u64 = weights.values().map(|weight| weight.bytes).sum();
        let first =
            weights.iter().max_by_key(|(_, weight)| (weight.bytes > alone, weight.is_retired, weight.bytes));
        (bytes > alone || all > together) && first.is_some_and(|(pid, _)| *pid == self.pid)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.weights.lock().remove(&self.pid);
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

    #[test]
    fn of_browsers_that_have_too_much_together_retired_ones_go_first_and_one_at_a_time() {
        let weights = Weights::default();
        let [light, heavy, current] = [1, 2, 3].map(|pid| weights.place(pid));
        // 100 alone, 120 together.
        let retired = |place: &Place, bytes| place.has_to_go(bytes, 80, true);
        let now = |bytes| current.has_to_go(bytes, 80, false);
        assert!(!retired(&light, 30) && !retired(&heavy, 40) && !now(50));
        assert!(!now(60) && !retired(&light, 30));
        assert!(retired(&heavy, 40));
        drop(heavy);
        assert!(!retired(&light, 30), "what is gone weighs nothing");
        assert!(!now(95));
        assert!(retired(&light, 30));
        drop(light);
        assert!(!now(95) && now(101));
    }

    #[test]
    fn a_browser_that_has_too_much_alone_goes_before_a_retired_one() {
        let weights = Weights::default();
        let (retired, current) = (weights.place(1), weights.place(2));
        assert!(!retired.has_to_go(30, 80, true));
        assert!(current.has_to_go(101, 80, false));
        assert!(!retired.has_to_go(30, 80, true));
    }
}
