//! Memory of this machine, from which the default budgets follow.

use crate::net::free_bytes;
use rustix::process::{Resource, getrlimit};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Memory that is assumed if the system does not tell, bytes.
const UNKNOWN: u64 = 1024 * 1024 * 1024;

/// Environment variable with the number of memory areas of the allocator of the system (`mallopt(3)`).
const AREAS: &str = "MALLOC_ARENA_MAX";

/// Under a limit on the address space (`ulimit -v`), executes this program again with one memory area for all threads. The
/// allocator of the system (glibc) reserves 64 MiB for each area; without space for that, a thread takes a page for each of its
/// allocations. To be called before anything else.
pub fn share_memory_area() {
    if getrlimit(Resource::As).current.is_none() || std::env::var_os(AREAS).is_some() {
        return;
    }
    let mut args = std::env::args_os();
    if let (Ok(program), Some(name)) = (std::env::current_exe(), args.next()) {
        // After an error this process continues with separate areas.
        let _ = Command::new(program).arg0(name).args(args).env(AREAS, "1").exec();
    }
}

/// The memory that this process may use, bytes: the smaller of the memory of the machine and the limits of its control
/// groups (`cgroups(7)`, versions 1 and 2). Of a limit on the address space (`ulimit -v`), half of what is free: the rest is
/// for threads.
pub fn usable_memory() -> u64 {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let machine = machine_memory(&read(Path::new("/proc/meminfo")));
    let groups = limit_files(&read(Path::new("/proc/self/cgroup")));
    let limits = groups.iter().filter_map(|file| read(file).trim().parse().ok());
    let address_space = free_bytes().map(|free| free / 2);
    machine.into_iter().chain(limits).chain(address_space).min().unwrap_or(UNKNOWN)
}

/// The memory of the machine in the text of `/proc/meminfo`.
fn machine_memory(table: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The files with the memory limits of the control groups in the text of `/proc/self/cgroup`, and of their parents. A limit
/// also counts inside of a container, where the path may be that of the host and the limit is in the root.
fn limit_files(table: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in table.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            some if some.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let group = Path::new(path.trim_start_matches('/'));
        files.extend(group.ancestors().map(|group| Path::new(root).join(group).join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_machine_and_the_limits_of_its_groups_are_found() {
        assert_eq!(machine_memory("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 * 1024 * 1024));
        assert_eq!(machine_memory("MemTotal: many\n"), None);
        let shown =
            |table| limit_files(table).into_iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            shown("0::/user.slice/a.service\n"),
            [
                "/sys/fs/cgroup/user.slice/a.service/memory.max",
                "/sys/fs/cgroup/user.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        assert_eq!(
            shown("5:cpu,cpuacct:/x\n4:memory:/x\n\nnoise"),
            ["/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
        assert!(usable_memory() > 0);
    }
}
