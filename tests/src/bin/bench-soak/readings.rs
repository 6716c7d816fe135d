//! What a process and its browser hold at one moment, as proc(5) tells.

use std::fmt;
use std::path::Path;

use harness::bench::processes::{Process, Snapshot, proportional_bytes, resident_bytes};

/// What is looked at, in the order of [`Reading::values`].
pub(crate) const NAMES: [&str; 8] = [
    "our RSS, MiB",
    "our file descriptors",
    "our threads",
    "Chrome processes",
    "Chrome RSS, MiB",
    "Chrome PSS, MiB",
    "profile folders",
    "zombies",
];

/// One look.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) values: [f64; NAMES.len()],
}

impl Reading {
    /// Looks at the process and all below it; its Postgres is not counted.
    pub(crate) fn take(pid: i32, profiles: usize) -> Self {
        let snapshot = Snapshot::take();
        let tree = snapshot.tree(pid);
        let browsers = snapshot.children(pid).into_iter().filter(|child| child.name != "postgres");
        let chrome: Vec<&Process> = browsers.flat_map(|browser| snapshot.tree(browser.pid)).collect();
        let alive: Vec<i32> =
            chrome.iter().filter(|process| !process.is_zombie).map(|process| process.pid).collect();
        let sum = |bytes: fn(i32) -> u64| mebibytes(alive.iter().map(|pid| bytes(*pid)).sum());
        Self {
            values: [
                mebibytes(resident_bytes(pid)),
                entries(pid, "fd") as f64,
                entries(pid, "task") as f64,
                alive.len() as f64,
                sum(resident_bytes),
                sum(proportional_bytes),
                profiles as f64,
                tree.iter().filter(|process| process.is_zombie).count() as f64,
            ],
        }
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said: Vec<_> =
            NAMES.iter().zip(self.values).map(|(name, value)| format!("{name} {value:.0}")).collect();
        f.write_str(&said.join(", "))
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// How many entries a folder of the process has in `/proc`.
fn entries(pid: i32, folder: &str) -> usize {
    std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join(folder)).into_iter().flatten().count()
}
