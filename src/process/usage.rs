//! Shows what the process takes of the machine, from /proc.

use std::fs;

use rustix::process::{Resource, getrlimit};

use crate::metrics::Registry;

/// Registers the metrics; /proc is read at each scrape. What can't be read is shown as 0.
pub fn register(registry: &Registry) {
    let help = "Octets of memory that the process takes.";
    registry.gauge_of("dmarcgate_process_resident_bytes", help, || {
        fs::read_to_string("/proc/self/status").ok().and_then(|status| resident(&status)).unwrap_or(0)
    });
    let help = "Files and sockets that the process has open.";
    registry.gauge_of("dmarcgate_process_open_files", help, || {
        fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
    });
    let help = "Files and sockets that it may have open; 0: any number.";
    registry.gauge_of("dmarcgate_process_open_files_limit", help, || getrlimit(Resource::Nofile).current.unwrap_or(0));
}

/// The octets in memory, of /proc/PID/status.
fn resident(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_status() {
        let cases = [
            ("Name:\tdmarcgate\nVmRSS:\t   41908 kB\nThreads:\t3\n", Some(41_908 * 1024)),
            ("Name:\tdmarcgate\n", None),
            ("VmRSS:\t 1 MB\n", None),
            ("VmRSS:\t x kB\n", None),
        ];
        for (status, expected) in cases {
            assert_eq!(resident(status), expected, "{status}");
        }
    }

    #[test]
    fn this_process_takes_something() {
        let registry = Registry::new();
        register(&registry);
        let text = registry.render();
        for name in ["resident_bytes", "open_files", "open_files_limit"] {
            let line = text.lines().find(|line| line.starts_with(&format!("dmarcgate_process_{name} "))).unwrap();
            assert_ne!(line.rsplit_once(' ').unwrap().1, "0", "{line}");
        }
    }
}
