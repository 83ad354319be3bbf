//! Bounds the sessions of one client network: how many at a time, and how many new ones a minute.
//!
//! A network is the client's address cut to a prefix. Neither table grows with the number of clients that ever came:
//! that of open sessions has an entry only while there is one, that of rates has a fixed size and forgets first who is
//! closest to being forgiven. A connection costs one look-up in each, under the lock of one shard and never across a
//! wait.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::envelope::network;
use crate::label_enum;

/// What one network may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Sessions at a time; 0: any number.
    pub sessions: u32,
    /// New sessions a minute: this many at once, then one each time its share of a minute has passed. 0: any number.
    pub rate: u32,
    /// Leading bits of an IPv4 address that make a network.
    pub prefix_v4: u8,
    /// Leading bits of an IPv6 address that make a network.
    pub prefix_v6: u8,
}

label_enum! {
    /// Why a network gets no further session for now.
    pub enum Refusal {
        /// It has as many as it may have.
        Sessions = "network_sessions",
        /// It began too many a short while ago.
        Rate = "network_rate",
    }
}

/// The sessions of all networks.
#[derive(Debug)]
pub struct Networks {
    shards: Box<[Mutex<Shard>]>,
    /// Keyed afresh by each process, so that nobody can choose addresses that fall together.
    hasher: RandomState,
    start: Instant,
}

/// A session's place in its network, given back when it is dropped.
#[derive(Debug)]
pub struct NetworkPlace {
    networks: Arc<Networks>,
    network: IpNet,
}

#[derive(Debug, Default)]
struct Shard {
    open: HashMap<IpNet, u32>,
    /// Sets of [`WAYS`] slots; empty until the first rate is looked at.
    recent: Vec<Slot>,
}

/// When a network will have been forgiven all that it began.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    tag: u64,
    /// Microseconds since the start.
    forgiven: u64,
}

impl Networks {
    /// Without any session.
    pub fn new() -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Arc::new(Self { shards, hasher: RandomState::new(), start: Instant::now() })
    }

    /// A place for a session from `ip`.
    ///
    /// # Errors
    ///
    /// The bound that its network has reached.
    pub fn enter(self: &Arc<Self>, ip: IpAddr, bounds: &Bounds) -> Result<NetworkPlace, Refusal> {
        let (network, now) = (bounds.network(ip), self.start.elapsed());
        let tag = self.hasher.hash_one(network);
        if let Some(mut shard) = self.shard(tag) {
            shard.enter(network, tag, bounds, now)?;
        }
        Ok(NetworkPlace { networks: Arc::clone(self), network })
    }

    /// The network that has the most sessions, and how many. It looks at all of them.
    pub fn largest(&self) -> Option<(IpNet, u32)> {
        let shards = self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        let largest =
            |shard: MutexGuard<'_, Shard>| shard.open.iter().map(|(net, open)| (*net, *open)).max_by_key(|n| n.1);
        shards.filter_map(largest).max_by_key(|(_, open)| *open)
    }

    fn shard(&self, tag: u64) -> Option<MutexGuard<'_, Shard>> {
        let shard = self.shards.get(place(tag, SHARDS))?;
        // Counts are right after every statement, so a shard whose user panicked is as good as any.
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for NetworkPlace {
    fn drop(&mut self) {
        let tag = self.networks.hasher.hash_one(self.network);
        if let Some(mut shard) = self.networks.shard(tag) {
            shard.leave(self.network);
        }
    }
}

impl Bounds {
    /// The network that an address belongs to.
    pub fn network(&self, ip: IpAddr) -> IpNet {
        network(ip, self.prefix_v4, self.prefix_v6)
    }
}

impl Shard {
    /// Counts a session that begins at `now`, which is measured from the start, or says why it may not.
    fn enter(&mut self, network: IpNet, tag: u64, bounds: &Bounds, now: Duration) -> Result<(), Refusal> {
        let open = self.open.get(&network).copied().unwrap_or(0);
        if bounds.sessions != 0 && open >= bounds.sessions {
            return Err(Refusal::Sessions);
        }
        // Who is refused does not wait longer for it.
        if bounds.rate != 0 && !self.is_within_rate(tag, bounds.rate, now) {
            return Err(Refusal::Rate);
        }
        self.open.insert(network, open.saturating_add(1));
        Ok(())
    }

    fn leave(&mut self, network: IpNet) {
        match self.open.get_mut(&network) {
            Some(open) if *open > 1 => *open -= 1,
            _ => {
                self.open.remove(&network);
            }
        }
    }

    /// The generic cell rate algorithm: each session adds its share of the window to the time at which all is forgiven,
    /// and that time may be one window ahead at most.
    fn is_within_rate(&mut self, tag: u64, rate: u32, now: Duration) -> bool {
        if self.recent.is_empty() {
            self.recent = vec![Slot::default(); SETS * WAYS];
        }
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let share = WINDOW / u64::from(rate.max(1));
        let first = place(tag / SHARDS as u64, SETS) * WAYS;
        let Some(set) = self.recent.get_mut(first..first + WAYS) else { return true };
        let known = set.iter().position(|slot| slot.tag == tag);
        let oldest = || set.iter().enumerate().min_by_key(|(_, slot)| slot.forgiven).map(|(at, _)| at);
        let Some(slot) = known.or_else(oldest).and_then(|at| set.get_mut(at)) else { return true };
        let from = if known.is_some() { slot.forgiven.max(now) } else { now };
        let forgiven = from.saturating_add(share);
        if forgiven > now.saturating_add(WINDOW) {
            return false;
        }
        *slot = Slot { tag, forgiven };
        true
    }
}

/// Which of `count` places a hash belongs to.
fn place(hash: u64, count: usize) -> usize {
    usize::try_from(hash % count as u64).unwrap_or(0)
}

/// Locks, so that connections on many cores rarely meet.
const SHARDS: usize = 16;
/// Sets of slots in one shard; with [`WAYS`] and [`SHARDS`] 65,536 networks in one MiB.
const SETS: usize = 512;
/// Slots that are searched for one network.
const WAYS: usize = 8;
/// Microseconds in which a network may begin as many sessions as its rate says.
const WINDOW: u64 = 60_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { sessions: 0, rate: 0, prefix_v4: 32, prefix_v6: 64 };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn addresses_are_cut_to_their_network() {
        let cases = [
            ("198.51.100.7", (32, 64), "198.51.100.7/32"),
            ("198.51.100.7", (24, 64), "198.51.100.0/24"),
            ("2001:db8:1:2:3::4", (32, 64), "2001:db8:1:2::/64"),
            ("2001:db8:1:2:3::4", (32, 128), "2001:db8:1:2:3::4/128"),
            ("198.51.100.7", (99, 64), "198.51.100.7/32"),
        ];
        for (address, (prefix_v4, prefix_v6), network) in cases {
            let bounds = Bounds { prefix_v4, prefix_v6, ..BOUNDS };
            assert_eq!(bounds.network(ip(address)).to_string(), network, "{address}");
        }
    }

    #[test]
    fn sessions_of_one_network_are_bounded_while_they_last() {
        let networks = Networks::new();
        let bounds = Bounds { sessions: 2, ..BOUNDS };
        let enter = |address| networks.enter(ip(address), &bounds);
        assert_eq!(networks.largest(), None);
        let (first, _second) = (enter("2001:db8::1").unwrap(), enter("2001:db8::2").unwrap());
        let _small = enter("2001:db8:0:2::1").unwrap();
        assert_eq!(networks.largest(), Some(("2001:db8::/64".parse().unwrap(), 2)));
        assert_eq!(enter("2001:db8::3").unwrap_err(), Refusal::Sessions);
        let _other = enter("2001:db8:0:1::1").unwrap();
        drop(first);
        let _third = enter("2001:db8::3").unwrap();
        assert_eq!(enter("2001:db8::3").unwrap_err(), Refusal::Sessions);
    }

    #[test]
    fn nothing_is_kept_of_sessions_that_have_ended() {
        let networks = Networks::new();
        for n in 0..10_000_u32 {
            drop(networks.enter(IpAddr::V4(n.into()), &Bounds { sessions: 1, ..BOUNDS }).unwrap());
        }
        assert!(networks.shards.iter().all(|shard| shard.lock().unwrap().open.is_empty()));
        assert!(networks.shards.iter().all(|shard| shard.lock().unwrap().recent.is_empty()), "no rate, no table");
    }

    #[test]
    fn new_sessions_of_one_network_are_bounded_in_time() {
        let bounds = Bounds { rate: 6, ..BOUNDS };
        // (seconds since the start, how many try, how many come in)
        let rows = [(0, 10, 6), (0, 1, 0), (9, 1, 0), (10, 2, 1), (19, 1, 0), (40, 5, 3), (1000, 10, 6), (1060, 10, 6)];
        let mut shard = Shard::default();
        let network = bounds.network(ip("198.51.100.7"));
        for (at, tries, expected) in rows {
            let entered = (0..tries).filter(|_| shard.enter(network, 7, &bounds, seconds(at)).is_ok()).count();
            assert_eq!(entered, expected, "after {at} s");
        }
        let other = bounds.network(ip("198.51.100.8"));
        assert!(shard.enter(other, 8, &bounds, seconds(1060)).is_ok(), "each network has its own rate");
        assert_eq!(shard.enter(network, 7, &bounds, seconds(1060)), Err(Refusal::Rate));
    }

    #[test]
    fn a_network_that_has_its_sessions_open_does_not_use_up_its_rate() {
        let bounds = Bounds { sessions: 1, rate: 2, ..BOUNDS };
        let (mut shard, network) = (Shard::default(), bounds.network(ip("198.51.100.7")));
        let enter = |shard: &mut Shard| shard.enter(network, 7, &bounds, seconds(0));
        assert_eq!(enter(&mut shard), Ok(()));
        for _ in 0..10 {
            assert_eq!(enter(&mut shard), Err(Refusal::Sessions));
        }
        shard.leave(network);
        assert_eq!(enter(&mut shard), Ok(()));
        shard.leave(network);
        assert_eq!(enter(&mut shard), Err(Refusal::Rate));
    }

    #[test]
    fn a_flood_of_networks_grows_nothing_and_the_idle_are_forgotten_first() {
        let bounds = Bounds { rate: 1, ..BOUNDS };
        let mut shard = Shard::default();
        let network = |n: u64| bounds.network(IpAddr::V6((u128::from(n) << 64).into()));
        // All in one set. The first is the oldest, but comes again.
        let tag = |n: u64| (n + 1) * (SHARDS * SETS) as u64;
        for n in 0..WAYS as u64 {
            assert!(shard.enter(network(n), tag(n), &bounds, seconds(n)).is_ok());
        }
        assert_eq!(shard.enter(network(0), tag(0), &bounds, seconds(30)), Err(Refusal::Rate));
        assert!(shard.enter(network(0), tag(0), &bounds, seconds(60)).is_ok());
        assert!(shard.enter(network(99), tag(99), &bounds, seconds(60)).is_ok(), "in place of the second");
        assert_eq!(shard.enter(network(0), tag(0), &bounds, seconds(60)), Err(Refusal::Rate));
        for n in 100..100_000 {
            assert!(shard.enter(network(n), tag(n), &bounds, seconds(60)).is_ok());
            shard.leave(network(n));
        }
        assert_eq!(shard.recent.len(), SETS * WAYS);
        assert_eq!(shard.open.len(), WAYS + 1, "what is open, and no more");
    }
}
