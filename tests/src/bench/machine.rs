//! The machine that a benchmark ran on, for the reports: figures mean little without it.

use std::fmt;

use serde::Serialize;

/// What is written down of a machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// How many threads it runs at once.
    pub cores: usize,
    /// The processor, as it calls itself.
    pub cpu: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The system and its kernel.
    pub kernel: String,
}

impl Machine {
    /// Looks at this one. What it does not tell is `unknown`, or 0.
    pub fn look() -> Self {
        let cpu_info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory_info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let system = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        Self {
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            cpu: named(&cpu_info, "model name").unwrap_or("unknown").to_owned(),
            memory_bytes: kilobytes(&memory_info, "MemTotal").unwrap_or(0),
            kernel: format!(
                "{} {} {}",
                text(system.sysname()),
                text(system.release()),
                text(system.machine())
            ),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = self.memory_bytes as f64 / f64::from(1 << 30);
        write!(f, "{} cores ({}), {memory:.1} GiB of memory, {}", self.cores, self.cpu, self.kernel)
    }
}

/// The text of a line `name : text`.
fn named<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (found, text) = line.split_once(':')?;
        (found.trim() == name).then_some(text.trim())
    })
}

/// The bytes of a line `name: 123 kB`, as files in `/proc` have them.
pub(super) fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let kilobytes: u64 = named(text, name)?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_read_by_their_whole_name() {
        let text = "MemTotalish:  7 kB\nMemTotal:       16384 kB\nmodel name\t: A Processor: Fast\n";
        assert_eq!(kilobytes(text, "MemTotal"), Some(16384 * 1024));
        assert_eq!(kilobytes(text, "Mem"), None);
        assert_eq!(named(text, "model name"), Some("A Processor: Fast"));
    }

    #[test]
    fn this_machine_has_cores_and_memory() {
        let machine = Machine::look();
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 20, "{machine}");
    }
}
