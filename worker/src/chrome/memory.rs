//! How much memory a browser uses, with all its processes. Reads /proc alone.

use std::collections::HashMap;
use std::fs;

/// The memory that a process and its descendants have for themselves, in bytes: not their programs, and not what they map
/// of files. Zero where the system does not say.
pub(super) fn own_bytes(root: i32) -> u64 {
    let mut children: HashMap<i32, Vec<(i32, u64)>> = HashMap::new();
    let mut bytes = 0;
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let status = pid.and_then(|_| fs::read_to_string(process.path().join("status")).ok());
        let (Some(pid), Some(status)) = (pid, status) else { continue };
        let own = field(&status, "RssAnon:").unwrap_or(0) << 10;
        if pid == root {
            bytes += own;
        } else if let Some(parent) = field(&status, "PPid:").and_then(|parent| i32::try_from(parent).ok()) {
            children.entry(parent).or_default().push((pid, own));
        }
    }
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        for (child, own) in children.remove(&pid).unwrap_or_default() {
            bytes += own;
            open.push(child);
        }
    }
    bytes
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
        let before = own_bytes(own);
        let taken = vec![1_u8; 64 << 20];
        assert!(own_bytes(own) >= before + (48 << 20), "{} bytes taken", taken.len());
        assert_eq!(own_bytes(i32::MAX), 0);
    }
}
