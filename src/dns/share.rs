//! Bounds the questions that one client network has under way, and the memory that its messages hold of answers.
//!
//! A network is an IPv4 /24 or an IPv6 /48: what one sender can be expected to hold. It has a number of places in each
//! lane, and may also take spare ones, which are there for all. A question that finds both taken waits outside the
//! lane, first come, first served. So a sender whose own zones are slow fills its own places and the spare ones, but
//! nobody else's own. The table has an entry only while a message or question of the network lasts.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lane::{PerLane, Purpose};
use crate::envelope::sender_network;

/// The shares of all networks.
pub(super) struct Shares {
    /// A network's own places in each lane.
    places: usize,
    /// Places beside them for whoever comes first.
    spare: PerLane<Arc<Semaphore>>,
    /// None: clients whose address is not known.
    networks: Mutex<HashMap<Option<IpNet>, Weak<Share>>>,
    /// Octets of answers that the messages of all networks hold.
    held: AtomicUsize,
}

/// What one network may have under way.
pub(super) struct Share {
    shares: Arc<Shares>,
    network: Option<IpNet>,
    places: PerLane<Arc<Semaphore>>,
    /// Octets of answers that the network's messages hold.
    held: AtomicUsize,
}

/// A place in a share, given back when it is dropped.
pub(super) struct SharePlace {
    _permit: OwnedSemaphorePermit,
    /// The share lasts as long as one of its places is taken.
    _share: Arc<Share>,
}

impl Shares {
    /// Shares with so many places in each lane (at least one), and so many spare ones for all together.
    pub fn new(places: usize, spare: usize) -> Arc<Self> {
        let spare = PerLane::new(|| Arc::new(Semaphore::new(spare)));
        Arc::new(Self { places: places.max(1), spare, networks: Mutex::default(), held: AtomicUsize::new(0) })
    }

    /// The share of a client's network.
    pub fn of(self: &Arc<Self>, client: Option<IpAddr>) -> Arc<Share> {
        let network = client.map(sender_network);
        let mut networks = self.networks();
        if let Some(share) = networks.get(&network).and_then(Weak::upgrade) {
            return share;
        }
        let places = PerLane::new(|| Arc::new(Semaphore::new(self.places)));
        let share = Arc::new(Share { shares: Arc::clone(self), network, places, held: AtomicUsize::new(0) });
        networks.insert(network, Arc::downgrade(&share));
        share
    }

    fn networks(&self) -> MutexGuard<'_, HashMap<Option<IpNet>, Weak<Share>>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Waits for a place in a lane.
    pub async fn place(self: &Arc<Self>, purpose: Purpose) -> Option<SharePlace> {
        let (own, spare) = (self.places.of(purpose), self.shares.spare.of(purpose));
        let permit = tokio::select! {
            biased;
            own = Arc::clone(own).acquire_owned() => own,
            spare = Arc::clone(spare).acquire_owned() => spare,
        };
        // Never closed.
        let permit = permit.ok()?;
        Some(SharePlace { _permit: permit, _share: Arc::clone(self) })
    }

    /// Takes memory for octets of answers, unless the network or all networks together hold too much; to be given back
    /// by [`Self::let_go`].
    pub fn hold(&self, octets: usize) -> bool {
        let take = |held: &AtomicUsize, most: usize| {
            let more = |held: usize| held.checked_add(octets).filter(|held| *held <= most);
            held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
        };
        if !take(&self.held, MAX_HELD_BY_NETWORK) {
            return false;
        }
        let is_held = take(&self.shares.held, MAX_HELD_BY_ALL);
        if !is_held {
            self.held.fetch_sub(octets, Ordering::Relaxed);
        }
        is_held
    }

    /// Gives back memory that was taken.
    pub fn let_go(&self, octets: usize) {
        self.held.fetch_sub(octets, Ordering::Relaxed);
        self.shares.held.fetch_sub(octets, Ordering::Relaxed);
    }
}

/// Octets of answers that the messages of one network hold beyond what is every message's own.
pub(super) const MAX_HELD_BY_NETWORK: usize = 16 << 20;
/// The same for all networks together: as many as eight that want all they may have.
const MAX_HELD_BY_ALL: usize = 128 << 20;

impl Drop for Share {
    fn drop(&mut self) {
        let mut networks = self.shares.networks();
        // A new one may have taken its place already.
        if networks.get(&self.network).is_some_and(|share| share.strong_count() == 0) {
            networks.remove(&self.network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[tokio::test]
    async fn clients_of_one_network_have_their_places_in_common() {
        let cases = [
            ("192.0.2.1", "192.0.2.200", true),
            ("192.0.2.1", "::ffff:192.0.2.7", true),
            ("192.0.2.1", "192.0.3.1", false),
            ("2001:db8:1::1", "2001:db8:1:ffff::2", true),
            ("2001:db8:1::1", "2001:db8:2::1", false),
            ("127.0.0.1", "127.0.0.2", true),
        ];
        for (one, two, is_same) in cases {
            let shares = Shares::new(1, 0);
            let (first, second) = (shares.of(ip(one)), shares.of(ip(two)));
            assert_eq!(Arc::ptr_eq(&first, &second), is_same, "{one} {two}");
        }
        let shares = Shares::new(1, 0);
        let share = shares.of(None);
        let taken = share.place(Purpose::Policy).await;
        assert_eq!(shares.of(None).places.of(Purpose::Policy).available_permits(), 0);
        assert_eq!(shares.of(None).places.of(Purpose::Identifier).available_permits(), 1, "each lane has its own");
        drop(taken);
        assert_eq!(share.places.of(Purpose::Policy).available_permits(), 1);
    }

    #[tokio::test]
    async fn a_network_goes_beyond_its_own_places_as_long_as_there_are_spare_ones() {
        let shares = Shares::new(2, 3);
        let (one, other) = (shares.of(ip("192.0.2.1")), shares.of(ip("198.51.100.1")));
        let mut taken = Vec::new();
        for _ in 0..5 {
            taken.push(one.place(Purpose::Policy).await);
        }
        let own = one.places.of(Purpose::Policy);
        assert_eq!((own.available_permits(), shares.spare.of(Purpose::Policy).available_permits()), (0, 0));
        assert_eq!(shares.spare.of(Purpose::Identifier).available_permits(), 3, "each lane has its own");
        let mut waiting = Box::pin(one.place(Purpose::Policy));
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("there is neither"),
            () = std::future::ready(()) => {}
        }
        let others = [other.place(Purpose::Policy).await, other.place(Purpose::Policy).await];
        assert!(others.iter().all(Option::is_some), "they are its own");
        // The last one is spare: it goes to whoever waits.
        drop(taken.pop());
        assert!(waiting.await.is_some());
    }

    #[test]
    fn memory_is_bounded_for_a_network_and_for_all() {
        let shares = Shares::new(1, 0);
        let of = |n: u32| shares.of(Some(IpAddr::V4((n << 8).into())));
        let first = of(0);
        assert!(first.hold(MAX_HELD_BY_NETWORK - 1));
        assert!(!first.hold(2));
        assert!(first.hold(1), "what did not fit has taken nothing");
        let others: Vec<_> = (1..8).map(of).collect();
        assert!(others.iter().all(|share| share.hold(MAX_HELD_BY_NETWORK)));
        let last = of(8);
        assert!(!last.hold(1), "all is taken");
        first.let_go(1);
        assert!(last.hold(1));
        assert!(!first.hold(1));
        last.let_go(1);
        assert!(first.hold(1));
    }

    #[tokio::test]
    async fn nothing_is_kept_of_networks_that_have_gone() {
        let shares = Shares::new(1, 0);
        let mut places = Vec::new();
        for n in 0..1000_u32 {
            let share = shares.of(Some(IpAddr::V4((n << 8).into())));
            places.extend(if n == 0 { share.place(Purpose::Identifier).await } else { None });
        }
        assert_eq!(shares.networks().len(), 1, "the one that has a place");
        assert_eq!(
            shares.of(ip("0.0.0.1")).places.of(Purpose::Identifier).available_permits(),
            0,
            "though its message has gone"
        );
        drop(places);
        assert_eq!(shares.networks().len(), 0);
    }
}
