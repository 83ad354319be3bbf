//! Says in the log what a peer does that the operator has to know of, once a minute at most.
//!
//! A peer's fault is a matter for `debug` and for the metrics: it may come up thousands of times in a second. But a
//! balancer that is set up wrongly, or a network that reaches a limit, is looked for in the log, at the level that
//! everybody has. So each of these is a warning with the last address and the number of times that it has come up since
//! the one before.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tracing::warn;

/// What is complained of; of all listeners together.
#[derive(Debug, Default)]
pub struct Complaints {
    crowded: Sparing,
    full: Sparing,
    missing_header: Sparing,
    unlisted_header: Sparing,
}

/// One thing that is said once a minute at most.
#[derive(Debug, Default)]
struct Sparing(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    since: u64,
}

impl Complaints {
    /// A client was refused, since its network has reached the bound that `reason` names.
    pub fn crowded(&self, ip: IpAddr, network: IpNet, reason: &dyn Display) {
        if let Some(times) = self.crowded.again(Instant::now()) {
            warn!(client_ip = %ip, %network, %reason, times, "connections are refused: their network has reached a limit");
        }
    }

    /// A client was turned away, since there was no slot. `largest` finds the network that has the most.
    pub fn full(&self, ip: IpAddr, largest: impl FnOnce() -> Option<(IpNet, u32)>) {
        let Some(times) = self.full.again(Instant::now()) else { return };
        match largest() {
            Some((network, sessions)) => warn!(
                client_ip = %ip, times, largest_network = %network, its_sessions = sessions,
                "connections are turned away: all sessions are in use (limits.sessions)"
            ),
            None => {
                warn!(client_ip = %ip, times, "connections are turned away: all sessions are in use (limits.sessions)")
            }
        }
    }

    /// Somebody who has to send a PROXY header did not.
    pub fn missing_header(&self, ip: IpAddr) {
        if let Some(times) = self.missing_header.again(Instant::now()) {
            warn!(
                client_ip = %ip, times,
                "connections are closed: proxy_protocol_from has their network, and no PROXY header came in time"
            );
        }
    }

    /// Somebody sent a PROXY header who may not.
    pub fn unlisted_header(&self, ip: IpAddr) {
        if let Some(times) = self.unlisted_header.again(Instant::now()) {
            warn!(
                client_ip = %ip, times,
                "connections are refused (554 5.7.0): they have a PROXY header, and proxy_protocol_from lacks their network"
            );
        }
    }
}

impl Sparing {
    /// It has come up again. How often it has since it was said last, with this time, if now is the time to say it.
    fn again(&self, now: Instant) -> Option<u64> {
        // The numbers are right after every statement.
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.since = said.since.saturating_add(1);
        if said.last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.since))
    }
}

/// Between two warnings of one kind.
const PAUSE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_minute_with_what_has_come_up_since() {
        let (sparing, start) = (Sparing::default(), Instant::now());
        let cases = [(0, Some(1)), (0, None), (1, None), (59, None), (60, Some(4)), (61, None), (500, Some(2))];
        for (second, expected) in cases {
            assert_eq!(sparing.again(start + Duration::from_secs(second)), expected, "{second}");
        }
    }
}
