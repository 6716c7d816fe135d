//! What the machine, or the container that we are in, has to offer.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// What a slot needs, with its share of the browser, on pages of middling weight.
const BYTES_PER_SLOT: u64 = 512 << 20;
/// What the browser and we need beside the slots.
const BYTES_BESIDES: u64 = 512 << 20;

/// How many pages are executed at once, as a command line says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slots {
    /// As many as suit the machine.
    #[default]
    Auto,
    /// So many, from 1 to 64.
    Number(u16),
}

impl Slots {
    /// The number.
    pub fn number(self) -> usize {
        match self {
            Self::Auto => default_slots(),
            Self::Number(number) => usize::from(number),
        }
    }
}

impl FromStr for Slots {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let number = text.parse().ok().filter(|number| (1..=64).contains(number));
        number.map(Self::Number).ok_or("give a number from 1 to 64, or `auto`")
    }
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Number(number) => number.fmt(f),
        }
    }
}

/// The memory that we may use, in bytes: that of the machine, or of the container where that is less. `None`: the system
/// does not say.
pub fn memory_bytes() -> Option<u64> {
    let of_container = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
        .min();
    let of_machine = total_of(Path::new("/proc/meminfo"));
    of_container.into_iter().chain(of_machine).min()
}

/// As many slots as there are cores, since a page keeps one busy while it loads, but no more than there is memory for.
fn default_slots() -> usize {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    slots_for(cores, memory_bytes())
}

fn slots_for(cores: usize, memory: Option<u64>) -> usize {
    let by_memory = memory.map(|bytes| bytes.saturating_sub(BYTES_BESIDES) / BYTES_PER_SLOT);
    let by_memory = by_memory.and_then(|slots| usize::try_from(slots).ok()).unwrap_or(cores);
    cores.min(by_memory).max(1)
}

fn total_of(meminfo: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(meminfo).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_the_cores_as_far_as_the_memory_goes() {
        const GIB: u64 = 1 << 30;
        assert_eq!(slots_for(8, Some(64 * GIB)), 8);
        assert_eq!(slots_for(8, Some(2 * GIB)), 3);
        assert_eq!(slots_for(8, Some(GIB / 4)), 1);
        assert_eq!(slots_for(2, None), 2);
    }

    #[test]
    fn slots_are_a_number_or_left_to_the_machine() {
        for text in ["auto", "1", "64"] {
            assert_eq!(text.parse::<Slots>().unwrap().to_string(), text);
        }
        for text in ["0", "65", "many", ""] {
            assert!(text.parse::<Slots>().is_err(), "{text}");
        }
        assert!(Slots::Auto.number() > 0);
    }

    #[test]
    fn this_machine_says_how_much_memory_it_has() {
        assert!(memory_bytes().unwrap() > 64 << 20);
    }
}
