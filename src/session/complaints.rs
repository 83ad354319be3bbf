//! Says in the log what a peer does that the operator has to know of, once a minute at most.
//!
//! A peer's fault is a matter for `debug` and for the metrics: it may come up thousands of times in a second. But a
//! balancer that is set up wrongly, or a network that reaches a limit, is looked for in the log, at the level that
//! everybody has. So each of these is a warning with the last address and the number of times that it has come up since
//! the one before.

use std::fmt::Display;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tracing::warn;

use crate::throttle::Throttle;

/// What is complained of; of all listeners together.
#[derive(Debug)]
pub struct Complaints {
    crowded: Throttle,
    full: Throttle,
    missing_header: Throttle,
    unlisted_header: Throttle,
    objection: Throttle,
    broken_off: Throttle,
}

impl Default for Complaints {
    fn default() -> Self {
        let [crowded, full, missing_header, unlisted_header] = [const { Throttle::new(PAUSE) }; 4];
        let [objection, broken_off] = [const { Throttle::new(BRIEF_PAUSE) }; 2];
        Self { crowded, full, missing_header, unlisted_header, objection, broken_off }
    }
}

impl Complaints {
    /// A client was refused, since its network has reached the bound that `reason` names.
    pub fn crowded(&self, ip: IpAddr, network: IpNet, reason: &dyn Display) {
        if let Some(times) = self.crowded.permits(Instant::now()) {
            warn!(client_ip = %ip, %network, %reason, times, "connections are refused: their network has reached a limit");
        }
    }

    /// A client was turned away, since there was no slot. `largest` finds the network that has the most.
    pub fn full(&self, ip: IpAddr, largest: impl FnOnce() -> Option<(IpNet, u32)>) {
        let Some(times) = self.full.permits(Instant::now()) else { return };
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
        if let Some(times) = self.missing_header.permits(Instant::now()) {
            warn!(
                client_ip = %ip, times,
                "connections are closed: proxy_protocol_from has their network, and no PROXY header came in time"
            );
        }
    }

    /// A command was refused. If that may be said now: how often it has come up since it was said last.
    pub fn objection(&self, now: Instant) -> Option<u64> {
        self.objection.permits(now)
    }

    /// A message did not come to its end. If that may be said now: how often it has come up since it was said last.
    pub fn broken_off(&self, now: Instant) -> Option<u64> {
        self.broken_off.permits(now)
    }

    /// Somebody sent a PROXY header who may not.
    pub fn unlisted_header(&self, ip: IpAddr) {
        if let Some(times) = self.unlisted_header.permits(Instant::now()) {
            warn!(
                client_ip = %ip, times,
                "connections are refused (554 5.7.0): they have a PROXY header, and proxy_protocol_from lacks their network"
            );
        }
    }
}

/// Between two warnings of one kind.
const PAUSE: Duration = Duration::from_mins(1);
/// Between two events of refused commands, or of messages broken off: each may be what a postmaster asks about.
const BRIEF_PAUSE: Duration = Duration::from_secs(1);
