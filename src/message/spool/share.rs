//! Counts what messages hold of the spool's memory and disk, all together and those of each client network.
//!
//! A network is cut as for DNS ([`sender_network`]). The bound on it is soft, so that it hardly limits a gate to which
//! all mail comes from one address: a network gets nothing of the last half once its other messages hold a quarter, be
//! it of the memory or of what the disk has room for. A message alone is never held back by it. The disk also keeps
//! some room for whoever else uses its file system, the store above all. The table has an entry only while a message or
//! a session that had one lasts; counting takes no lock.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ipnet::IpNet;
use rustix::fs::fstatvfs;

use super::Error;
use crate::envelope::sender_network;

/// The room for the bodies of all messages.
#[derive(Debug)]
pub(super) struct Room {
    /// Where the unlinked files are made.
    directory: PathBuf,
    /// Memory that may be used, in the units of the spool.
    units: usize,
    used: AtomicUsize,
    /// Octets in files.
    filed: AtomicU64,
    /// How the file system of a file is asked for its room.
    space_of: SpaceOf,
    networks: Mutex<HashMap<IpNet, Weak<Share>>>,
}

/// What the messages of one network hold of the room. Those of clients without a network count for none and are bounded
/// by the room alone.
#[derive(Debug)]
pub struct Share {
    pub(super) room: Arc<Room>,
    network: Option<IpNet>,
    used: AtomicUsize,
    filed: AtomicU64,
}

/// Units of memory, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    share: Arc<Share>,
    units: usize,
}

/// An unlinked file, whose octets count until its last user is gone.
#[derive(Debug)]
pub(super) struct Filed {
    file: File,
    octets: AtomicU64,
    share: Arc<Share>,
}

/// Octets of a file system.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    /// All that it could hold.
    pub size: u64,
    /// What is free for those who are not root.
    pub free: u64,
}

/// None: it can't be told, and only writing shows whether there is room.
pub(super) type SpaceOf = fn(&File) -> Option<Space>;

impl Room {
    /// Room with nothing in it.
    pub fn new(directory: PathBuf, units: usize, space_of: SpaceOf) -> Arc<Self> {
        let (used, filed, networks) = (AtomicUsize::new(0), AtomicU64::new(0), Mutex::default());
        Arc::new(Self { directory, units, used, filed, space_of, networks })
    }

    /// Units of memory that are used.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Units of memory that may be.
    pub fn units(&self) -> usize {
        self.units
    }

    /// Octets in files.
    pub fn filed(&self) -> u64 {
        self.filed.load(Ordering::Relaxed)
    }

    /// The share of a client's network.
    pub fn of(self: &Arc<Self>, client: IpAddr) -> Arc<Share> {
        let network = sender_network(client);
        let mut networks = self.networks();
        if let Some(share) = networks.get(&network).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(Share::new(self, Some(network)));
        networks.insert(network, Arc::downgrade(&share));
        share
    }

    /// Networks of which something is kept.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.networks().len()
    }

    fn networks(&self) -> MutexGuard<'_, HashMap<IpNet, Weak<Share>>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// With nothing in it.
    pub(super) fn new(room: &Arc<Room>, network: Option<IpNet>) -> Self {
        Self { room: Arc::clone(room), network, used: AtomicUsize::new(0), filed: AtomicU64::new(0) }
    }

    /// What the network's other messages hold, as far as that bounds it.
    fn others(&self, mine: u64, own: u64) -> u64 {
        if self.network.is_some() { mine.saturating_sub(own) } else { 0 }
    }
}

impl Hold {
    /// Holds nothing yet.
    pub fn new(share: &Arc<Share>) -> Self {
        Self { share: Arc::clone(share), units: 0 }
    }

    /// Whose it is.
    pub fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// Units that it has.
    pub fn units(&self) -> usize {
        self.units
    }

    /// Takes more units.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`], [`Error::NetworkMemory`].
    pub fn take(&mut self, units: usize) -> Result<(), Error> {
        let Share { room, used, .. } = &*self.share;
        let others = self.share.others(used.load(Ordering::Relaxed) as u64, self.units as u64);
        let most = most(room.units as u64, others);
        let more = |used: usize| used.checked_add(units).filter(|used| *used as u64 <= most);
        if let Err(used) = room.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            let is_there = used.checked_add(units).is_some_and(|used| used <= room.units);
            return Err(if is_there { Error::NetworkMemory } else { Error::Memory });
        }
        used.fetch_add(units, Ordering::Relaxed);
        self.units += units;
        Ok(())
    }

    /// Parts with some of its units; none if it has fewer.
    pub fn split(&mut self, units: usize) -> Option<Self> {
        self.units = self.units.checked_sub(units)?;
        Some(Self { share: Arc::clone(&self.share), units })
    }
}

impl Filed {
    /// An empty file.
    ///
    /// # Errors
    ///
    /// The directory can't be written.
    pub fn new(share: &Arc<Share>) -> io::Result<Self> {
        let file = tempfile::tempfile_in(&share.room.directory)?;
        Ok(Self { file, octets: AtomicU64::new(0), share: Arc::clone(share) })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes pieces behind what is there. Not on an I/O thread.
    ///
    /// # Errors
    ///
    /// [`Error::Disk`], [`Error::NetworkDisk`]; or writing fails, and the file is of no more use.
    pub fn append(&self, pieces: &[&[u8]]) -> Result<(), Error> {
        self.take(pieces.iter().map(|piece| piece.len() as u64).sum())?;
        pieces.iter().try_for_each(|piece| (&self.file).write_all(piece))?;
        Ok(())
    }

    fn take(&self, octets: u64) -> Result<(), Error> {
        let Share { room, filed, .. } = &*self.share;
        if let Some(space) = (room.space_of)(&self.file) {
            let own = self.octets.load(Ordering::Relaxed);
            let others = self.share.others(filed.load(Ordering::Relaxed), own);
            has_place(space, (room.filed(), others), octets)?;
        }
        for count in [&room.filed, filed, &self.octets] {
            count.fetch_add(octets, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Space {
    /// That of the file system on which a file is.
    pub fn of(file: &File) -> Option<Self> {
        let stat = fstatvfs(file).ok()?;
        let octets = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        // Some that are no disks say that they have no blocks.
        (stat.f_blocks > 0).then(|| Self { size: octets(stat.f_blocks), free: octets(stat.f_bavail) })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.units > 0 {
            self.share.room.used.fetch_sub(self.units, Ordering::Relaxed);
            self.share.used.fetch_sub(self.units, Ordering::Relaxed);
        }
    }
}

impl Drop for Filed {
    fn drop(&mut self) {
        let octets = *self.octets.get_mut();
        self.share.room.filed.fetch_sub(octets, Ordering::Relaxed);
        self.share.filed.fetch_sub(octets, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(network) = self.network else { return };
        let mut networks = self.room.networks();
        // A new one may have taken its place already.
        if networks.get(&network).is_some_and(|share| share.strong_count() == 0) {
            networks.remove(&network);
        }
    }
}

/// How much of `all` may be held by all together, for a network whose other messages hold so much: half of it, once
/// they hold a quarter.
fn most(all: u64, others: u64) -> u64 {
    if others > 0 && others.saturating_mul(4) >= all { all / 2 } else { all }
}

/// Whether a piece of so many octets may be written, where the gate's files hold `filed` octets, and the other messages
/// of the network `others` of them.
fn has_place(space: Space, (filed, others): (u64, u64), piece: u64) -> Result<(), Error> {
    let free = space.free.saturating_sub((space.size / RESERVE).min(MAX_RESERVE));
    if piece > free {
        return Err(Error::Disk);
    }
    if filed.saturating_add(piece) > most(filed.saturating_add(free), others) {
        return Err(Error::NetworkDisk);
    }
    Ok(())
}

/// The part of a file system that stays free: the store may be there, too.
const RESERVE: u64 = 64;
/// Octets that stay free at the most.
const MAX_RESERVE: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::spool::Cause;

    #[test]
    fn who_holds_a_quarter_gets_nothing_of_the_last_half() {
        let cases = [
            (0, 0, 0),
            (1, 0, 1),
            (2, 0, 2),
            (2, 1, 1),
            (100, 0, 100),
            (100, 24, 100),
            (100, 25, 50),
            (100, 100, 50),
            (101, 25, 101),
            (101, 26, 50),
            (u64::MAX, u64::MAX / 4, u64::MAX),
            (u64::MAX, u64::MAX / 4 + 1, u64::MAX / 2),
        ];
        for (all, others, expected) in cases {
            assert_eq!(most(all, others), expected, "{others} of {all}");
        }
    }

    #[test]
    fn a_piece_is_written_where_disk_and_network_have_room() {
        const M: u64 = 1 << 20;
        const G: u64 = 1 << 30;
        let cases = [
            ("an empty disk", 100 * G, 90 * G, 0, 0, M, None),
            ("a small one", 640 * M, 12 * M, 0, 0, 2 * M, None),
            ("a small one, and its 64th", 640 * M, 12 * M, 0, 0, 2 * M + 1, Some(Cause::Disk)),
            ("a large one, and what stays free of it", 100 * G, 65 * M, 0, 0, M + 1, Some(Cause::Disk)),
            ("a large one", 100 * G, 65 * M, 0, 0, M, None),
            ("full", 100 * G, 0, 0, 0, 1, Some(Cause::Disk)),
            ("full of ours", 100 * G, 64 * M, G, 0, 1, Some(Cause::Disk)),
            ("nothing known to be free, nothing to write", 100 * G, 0, 0, 0, 0, None),
            // 1 GiB may be used, 64 MiB is what stays free.
            ("half of it is another's", 100 * G, 576 * M, 512 * M, 0, 512 * M, None),
            ("half of it is the network's", 100 * G, 576 * M, 512 * M, 512 * M, 1, Some(Cause::NetworkDisk)),
            ("half of it, and nearly a quarter is", 100 * G, 576 * M, 512 * M, 256 * M - 1, M, None),
            ("half of it, and a quarter is", 100 * G, 576 * M, 512 * M, 256 * M, 1, Some(Cause::NetworkDisk)),
            ("less than half of it is the network's", 100 * G, 577 * M, 511 * M, 511 * M, M, None),
            ("the piece is what is too much", 100 * G, 577 * M, 511 * M, 511 * M, M + 1, Some(Cause::NetworkDisk)),
        ];
        for (case, size, free, filed, others, piece, expected) in cases {
            let refused = has_place(Space { size, free }, (filed, others), piece).err();
            assert_eq!(refused.map(|error| error.cause()), expected, "{case}");
        }
    }

    #[test]
    fn the_room_of_a_file_system_is_told() {
        let space = Space::of(&tempfile::tempfile().unwrap()).unwrap();
        assert!(space.free <= space.size && space.size > 0, "{space:?}");
        // What is no disk has none, and is asked for nothing.
        assert!(File::open("/proc/self/stat").is_ok_and(|file| Space::of(&file).is_none()));
    }
}
