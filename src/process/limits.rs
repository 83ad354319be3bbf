//! Turns core dumps off and compares the process's limits with what the configuration asks for.
//!
//! The limit of open files has a module of its own (`app::open_files`), since sessions are fitted into it.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// What the limits have to hold. Octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// The largest file: a spooled message, or the store.
    pub file: u64,
    /// Memory that the configuration promises.
    pub memory: u64,
}

/// Keeps what stands in memory (keys, passwords, mail) from a file that a crash would write, and from debuggers of the
/// same user. Gives what is not as it should be.
pub fn core_dumps_off() -> Vec<String> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let limit = setrlimit(Resource::Core, none);
    let flag = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let results = [("RLIMIT_CORE", limit), ("PR_SET_DUMPABLE", flag)];
    let failed = |(name, result): (&str, Result<(), _>)| Some(format!("core dumps stay on: {name}: {}", result.err()?));
    results.into_iter().filter_map(failed).collect()
}

/// What the present limits are too low for.
pub fn doubts(demand: &Demand) -> Vec<String> {
    compared(demand, getrlimit(Resource::Fsize).current, getrlimit(Resource::As).current)
}

fn compared(demand: &Demand, file: Option<u64>, memory: Option<u64>) -> Vec<String> {
    let mut doubts = Vec::new();
    if let Some(limit) = file.filter(|limit| *limit < demand.file) {
        doubts.push(format!(
            "files may have {limit} octets, and the kernel ends a process that goes beyond: {} are needed at least \
             (LimitFSIZE= in the systemd unit, ulimit -f elsewhere)",
            demand.file
        ));
    }
    let needed = demand.memory.saturating_add(BASE);
    if let Some(limit) = memory.filter(|limit| *limit < needed) {
        doubts.push(format!(
            "the process may have {limit} octets of address space: {needed} are needed at least (LimitAS= in the systemd \
             unit, ulimit -v elsewhere), or spool.memory has to be less"
        ));
    }
    doubts
}

/// Address space beside the spool's memory: code, threads' stacks, caches. A gate with the defaults has been seen with
/// less than half of it.
const BASE: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_are_too_low_are_named_with_what_is_needed() {
        let demand = Demand { file: 1000, memory: 5000 };
        let cases = [
            (None, None, &[][..]),
            (Some(1000), Some(BASE + 5000), &[]),
            (Some(999), None, &["999"]),
            (None, Some(BASE), &["LimitAS"]),
            (Some(0), Some(0), &["LimitFSIZE", "LimitAS"]),
        ];
        for (file, memory, expected) in cases {
            let doubts = compared(&demand, file, memory);
            assert_eq!(doubts.len(), expected.len(), "{doubts:?}");
            assert!(doubts.iter().zip(expected).all(|(doubt, word)| doubt.contains(word)), "{doubts:?}");
        }
    }
}
