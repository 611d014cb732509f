//! What the machine has left.

use std::collections::HashMap;
use std::fs::read_to_string;
use std::path::Path;

/// Bytes that this process may still take: what the system says is available, and no more than its control groups allow. `None` where
/// nobody tells.
pub fn available() -> Option<u64> {
    let free = kilobytes("/proc/meminfo", "MemAvailable")?;
    Some(groups_left().map_or(free, |left| left.min(free)))
}

/// Bytes that this process holds in memory; 0 where nobody tells.
pub fn held() -> u64 {
    kilobytes("/proc/self/status", "VmRSS").unwrap_or(0)
}

/// A line `name: 12 kB`, in bytes.
fn kilobytes(path: &str, name: &str) -> Option<u64> {
    let told = read_to_string(path).ok()?;
    let mut lines = told.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(found, _)| *found == name)?;
    Some(value.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What the control groups of this process have left, the least of all; `None` where none has a limit.
fn groups_left() -> Option<u64> {
    let told = read_to_string("/proc/self/cgroup").ok()?;
    let groups = told.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let first = match controllers {
            "" => "/sys/fs/cgroup",
            _ if controllers.split(',').any(|controller| controller == "memory") => "/sys/fs/cgroup/memory",
            _ => return None,
        };
        Some((Path::new(first), path.trim_start_matches('/').to_string()))
    });
    // A group's limits are those of all that it lies in; inside a container the path may lead nowhere, but its own group stands first.
    let folders = groups.flat_map(|(first, path)| {
        let ancestors: Vec<_> = Path::new(&path).ancestors().map(|part| first.join(part)).collect();
        ancestors
    });
    folders.filter_map(|folder| left_in(&folder)).min()
}

/// The limit of a group without what it has taken; pages of files go where they are not needed, so they are not taken.
fn left_in(folder: &Path) -> Option<u64> {
    let number = |name: &str| read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let taken = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let told = read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let stat: HashMap<&str, u64> = told
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, n)| Some((name, n.parse().ok()?)))
        .collect();
    let files: u64 = [["total_inactive_file", "inactive_file"], ["total_active_file", "active_file"]]
        .iter()
        .filter_map(|names| names.iter().find_map(|name| stat.get(name)))
        .sum();
    Some(limit.saturating_sub(taken.saturating_sub(files)))
}
