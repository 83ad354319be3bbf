//! Reads the limit of open files, raises it as far as it goes, and says what fits into it.
//!
//! A gate that runs out of descriptors fails in the middle of transactions; one that knows their number beforehand
//! turns clients away with a 421 instead.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// The descriptors that the process may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    limit: u64,
}

impl OpenFiles {
    /// Raises the soft limit to the hard one, and tells it. Most systems have a low one for programs that can't count
    /// beyond 1024 (`select`); this one can.
    pub fn raise() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        let limit = if raised.is_ok() { maximum } else { current };
        Self { limit: limit.unwrap_or(u64::MAX) }
    }

    /// How many of `wanted` sessions fit beside `connections` to the upstream; warns if it is not all.
    pub fn sessions(self, wanted: u32, connections: u32) -> u32 {
        let upstream = u64::from(connections).min(self.room() / 4);
        let fit = (self.room() - upstream) / PER_FOUR_SESSIONS * 4;
        let fit = u32::try_from(fit).unwrap_or(u32::MAX).max(1);
        if fit < wanted {
            warn!(
                limits_sessions = wanted,
                sessions = fit,
                open_files = self.limit,
                needed = FIXED + QUESTIONS + REFUSALS + u64::from(connections) + needed(wanted),
                "limits.sessions is lowered to what the limit of open files has room for: set LimitNOFILE= in the \
                 systemd unit (ulimit -n elsewhere) to what is needed, or limits.sessions to less"
            );
        }
        fit.min(wanted)
    }

    /// How many questions to name servers may be under way for one purpose; there are two.
    pub fn questions(self) -> usize {
        usize::try_from(self.share(QUESTIONS) / 2).unwrap_or(usize::MAX).max(1)
    }

    /// What is left for sessions.
    fn room(self) -> u64 {
        self.limit.saturating_sub(FIXED + self.share(QUESTIONS) + self.share(REFUSALS))
    }

    /// An eighth at most goes to each of those that can do with less.
    fn share(self, wanted: u64) -> u64 {
        wanted.min(self.limit.saturating_sub(FIXED) / 8)
    }
}

/// Descriptors for so many sessions.
fn needed(sessions: u32) -> u64 {
    u64::from(sessions).div_ceil(4) * PER_FOUR_SESSIONS
}

/// Four clients, and one spool file: most sessions wait or have small messages. Where more large ones come at a time
/// than there are descriptors, those are put off with 452.
const PER_FOUR_SESSIONS: u64 = 5;
/// Listeners, the log, the store, the admin listener with its 32 connections, probes, the runtime's own.
const FIXED: u64 = 64;
/// Sockets for DNS: one for each question under way, for either purpose (`dns::Settings::outstanding` and `spare`).
const QUESTIONS: u64 = 2048;
/// Clients that are being told that there is no room, on two listeners.
const REFUSALS: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_and_questions_fit_into_the_limit() {
        let cases = [
            (0, 10_000, 1, 1),
            (64, 10_000, 1, 1),
            (100, 10_000, 16, 2),
            (1024, 10_000, 496, 60),
            (1024, 100, 100, 60),
            (15_050, 10_000, 10_000, 936),
            (15_048, 10_000, 9_996, 936),
            (65_536, 1_000_000, 50_248, 1024),
            (u64::MAX, 1_000_000, 1_000_000, 1024),
        ];
        for (limit, wanted, sessions, questions) in cases {
            let files = OpenFiles { limit };
            assert_eq!((files.sessions(wanted, 100), files.questions()), (sessions, questions), "{limit} {wanted}");
        }
    }
}
