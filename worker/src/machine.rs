//! What the machine, or the container that we are in, has to offer.

use std::path::Path;

/// What a slot needs, with its share of the browser, on pages of middling weight.
const BYTES_PER_SLOT: u64 = 512 << 20;
/// What the browser and we need beside the slots.
const BYTES_BESIDES: u64 = 512 << 20;

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
pub fn default_slots() -> usize {
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
    fn this_machine_says_how_much_memory_it_has() {
        assert!(memory_bytes().unwrap() > 64 << 20);
    }
}
