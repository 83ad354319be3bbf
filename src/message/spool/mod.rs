//! Holds the body of a message between the client's dot and the upstream's: memory first, then an unlinked file.
//!
//! Bodies are kept in the wire form in which they go on, so that sending them is copying. All spools share one memory
//! budget. As long as most of it is free, a body of a few pieces stays in memory as a whole, since a file costs as much
//! again as receiving and sending it; else one that has filled its first piece moves to its file. One that can't
//! even start, or whose disk is full, is an error that ends in 452, never in a lost message. No client network can take
//! the room of all others, in memory or on the disk (`share`).

mod allowance;
mod share;

use std::io::{self, Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::spawn_blocking;

pub use self::allowance::{Allotment, Allowance};
pub use self::share::Share;
use self::share::{Filed, Hold, Room, Space, SpaceOf};
use crate::label_enum;
use crate::metrics::Registry;

/// Where bodies are kept and how much memory they may take.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the unlinked files are made.
    pub directory: PathBuf,
    /// Octets of memory for all spools together.
    pub memory: u64,
}

/// Makes spools in one room. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spooler {
    /// The share of clients that belong to no network.
    nobody: Arc<Share>,
}

/// The body of one message.
#[derive(Debug)]
pub struct Spool {
    /// What came before `memory`, while there is memory to spare for it; empty once there is a file.
    pieces: Vec<Arc<Piece>>,
    /// The piece that is coming.
    memory: Vec<u8>,
    /// Octets of the message that are kept elsewhere.
    apart: usize,
    /// Covers `memory`, its unused room included, and `apart`, in units of [`UNIT`].
    hold: Hold,
    file: Option<Arc<Filed>>,
    /// Octets in the file.
    filed: u64,
}

/// A piece that is complete. It counts for the budget until its last reader is gone.
#[derive(Debug)]
struct Piece {
    octets: Vec<u8>,
    _hold: Hold,
}

/// The share of the budget that [`Spool::keep_apart`] asked for.
#[derive(Debug)]
pub struct Apart {
    _hold: Hold,
}

/// What a spool holds, for one more reader once it was sent on: pieces and what is in its file are shared and not
/// copied.
#[derive(Debug)]
pub struct Duplicate {
    pieces: Vec<Arc<Piece>>,
    memory: Vec<u8>,
    file: Option<Arc<Filed>>,
    filed: u64,
}

/// Why a body can't be kept. The client is told to try again later.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All spools together have used up their memory.
    #[error("the spool's memory is used up")]
    Memory,
    /// The client's network has its share of the memory: the rest is for others.
    #[error("the client's network has its share of the spool's memory")]
    NetworkMemory,
    /// The file system of the directory has to keep what is free.
    #[error("the disk of the spool directory has no room to spare")]
    Disk,
    /// The client's network has its share of the disk: the rest is for others.
    #[error("the client's network has its share of the disk of the spool directory")]
    NetworkDisk,
    /// The directory can't be written. The operator's affair.
    #[error("the spool directory can't be used: {0}")]
    Io(#[from] io::Error),
}

label_enum! {
    /// What a body was not kept for.
    pub enum Cause {
        /// The memory of all.
        Memory = "memory",
        /// The share of the client's network in it.
        NetworkMemory = "network_memory",
        /// The disk, which is full or would be too full.
        Disk = "disk",
        /// The share of the client's network in it.
        NetworkDisk = "network_disk",
        /// The directory, which can't be used.
        Directory = "directory",
    }
}

impl Error {
    /// What has to be looked at.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Memory => Cause::Memory,
            Self::NetworkMemory => Cause::NetworkMemory,
            Self::NetworkDisk => Cause::NetworkDisk,
            Self::Disk => Cause::Disk,
            Self::Io(error) => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Cause::Disk,
                _ => Cause::Directory,
            },
        }
    }
}

impl Spooler {
    /// A budget with nothing in it yet; the directory is made if it is missing.
    ///
    /// # Errors
    ///
    /// The operator's: the directory can't be made or written.
    pub fn new(settings: &Settings) -> io::Result<Self> {
        std::fs::create_dir_all(&settings.directory)?;
        tempfile::tempfile_in(&settings.directory)?;
        let units = usize::try_from(settings.memory / UNIT as u64).unwrap_or(usize::MAX).max(1);
        Ok(Self::with(settings.directory.clone(), units, Space::of))
    }

    fn with(directory: PathBuf, units: usize, space_of: SpaceOf) -> Self {
        let room = Room::new(directory, units, space_of);
        Self { nobody: Arc::new(Share::new(&room, None)) }
    }

    /// An empty spool that counts for no network.
    pub fn spool(&self) -> Spool {
        self.nobody.spool()
    }

    /// Where the spools of a client are made: the share of its network. Takes a lock and looks it up: once a session.
    pub fn share(&self, client: IpAddr) -> Arc<Share> {
        self.nobody.room.of(client)
    }

    /// A new allowance, for one kind of report.
    pub fn allowance(&self) -> Allowance {
        Allowance::of(self.nobody.room.units())
    }

    /// Octets of memory in use, in whole units.
    pub fn memory_used(&self) -> u64 {
        (self.nobody.room.used() * UNIT) as u64
    }

    /// Octets of memory that may be in use.
    pub fn memory_limit(&self) -> u64 {
        (self.nobody.room.units() * UNIT) as u64
    }

    /// Octets in files, until the last reader is gone.
    pub fn filed(&self) -> u64 {
        self.nobody.room.filed()
    }

    /// Shows these in the metrics.
    pub fn register(&self, registry: &Registry) {
        let spooler = self.clone();
        let help = "Octets of memory that messages of all sessions take while they are evaluated.";
        registry.gauge_of("dmarcgate_spool_memory_bytes", help, move || spooler.memory_used());
        let limit = self.memory_limit();
        let help = "Octets of memory that they may take: spool.memory.";
        registry.gauge_of("dmarcgate_spool_memory_limit_bytes", help, move || limit);
        let spooler = self.clone();
        let help = "Octets in unlinked files of messages that are evaluated.";
        registry.gauge_of("dmarcgate_spool_file_bytes", help, move || spooler.filed());
    }
}

impl Share {
    /// An empty spool.
    pub fn spool(self: &Arc<Self>) -> Spool {
        let (pieces, memory, hold) = (Vec::new(), Vec::new(), Hold::new(self));
        Spool { pieces, memory, apart: 0, hold, file: None, filed: 0 }
    }
}

impl Spool {
    /// Octets kept.
    pub fn len(&self) -> u64 {
        let pieces = self.pieces.iter().map(|piece| piece.octets.len()).sum::<usize>();
        self.filed + (pieces + self.memory.len()) as u64
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops everything that is kept.
    pub fn clear(&mut self) {
        *self = self.hold.share().spool();
    }

    /// Takes a piece into memory. Call [`Spool::settle`] after each piece that was read from the client, so that memory
    /// stays bounded.
    pub fn push(&mut self, piece: &[u8]) {
        let needed = self.memory.len() + piece.len();
        if needed > self.memory.capacity() {
            // More room than is needed only where the budget has it. What is needed is accounted when it settles.
            let room = self.room(needed);
            let room = if self.reserve(room).is_ok() { room } else { needed };
            self.memory.reserve_exact(room - self.memory.len());
        }
        self.memory.extend_from_slice(piece);
    }

    /// Says that `octets` of the message (its header section) are kept elsewhere as long as this spool is: they count
    /// for the budget at the next [`Spool::settle`].
    pub fn keep_apart(&mut self, octets: usize) {
        self.apart = octets;
    }

    /// Accounts for the memory taken, and moves it to the file where it is too much.
    ///
    /// # Errors
    ///
    /// [`Error`]: the message can't be taken for now.
    pub async fn settle(&mut self) -> Result<(), Error> {
        // A full piece that goes to the file needs no more of the budget than it has.
        let kept = match self.memory.len() < FILE_PIECE {
            true => self.reserve(self.memory.capacity()),
            false if self.has_memory_to_spare() => self.reserve(self.memory.capacity()).and_then(|()| self.put_by()),
            false => Err(Error::Memory),
        };
        let Err(error) = kept else { return Ok(()) };
        // A file relieves the budget only of what is in memory here, and nobody goes without any of it.
        let has_begun = self.hold.units() > 0 || !self.pieces.is_empty() || self.file.is_some();
        if !has_begun || (self.memory.is_empty() && self.pieces.is_empty()) {
            return Err(error);
        }
        self.move_to_file().await
    }

    /// A second view of the body, for another reader. It takes memory beside the budget for what is no whole piece, a
    /// quarter of a megabyte at most, for the caller to bound.
    pub fn duplicate(&self) -> Duplicate {
        let (pieces, memory, file) = (self.pieces.clone(), self.memory.clone(), self.file.clone());
        Duplicate { pieces, memory, file, filed: self.filed }
    }

    /// Up to so many octets from the beginning, as they go on.
    ///
    /// # Errors
    ///
    /// The file can't be read.
    pub async fn beginning(&self, octets: usize) -> io::Result<Vec<u8>> {
        let Some(file) = self.file.clone() else {
            let pieces = self.pieces.iter().map(|piece| &piece.octets).chain([&self.memory]);
            return Ok(pieces.flatten().copied().take(octets).collect());
        };
        let filed = usize::try_from(self.filed).unwrap_or(usize::MAX).min(octets);
        let read = spawn_blocking(move || -> io::Result<Vec<u8>> {
            let mut piece = vec![0; filed];
            // By place: the reader that comes later has the file's cursor.
            file.file().read_exact_at(&mut piece, 0)?;
            Ok(piece)
        });
        let mut beginning = read.await.map_err(io::Error::other)??;
        beginning.extend(self.memory.iter().take(octets - filed));
        Ok(beginning)
    }

    /// What this spool has of the budget for octets that are kept elsewhere: who keeps them longer than the spool is
    /// there holds it as long.
    pub fn hand_over_apart(&mut self) -> Option<Apart> {
        let units = std::mem::take(&mut self.apart).div_ceil(UNIT).min(self.hold.units());
        Some(Apart { _hold: self.hold.split(units)? })
    }

    /// Gives the whole body back in pieces: `None` at the end.
    pub fn into_reader(self) -> Reader {
        Reader { spool: self, piece: Vec::new(), at_a_time: FILE_PIECE, state: ReaderState::Start }
    }

    /// The room to make for so many octets of a piece: doubling, so that a body is accounted with about what it takes;
    /// that of a whole piece for one that is much more.
    fn room(&self, needed: usize) -> usize {
        let is_large = !self.pieces.is_empty() || needed > FILE_PIECE / 2;
        if is_large { needed.max(ROOM) } else { needed.next_power_of_two() }
    }

    /// Octets of memory here that are accounted for.
    fn permitted(&self) -> usize {
        (self.hold.units() * UNIT).saturating_sub(self.apart)
    }

    /// Accounts for so many octets of memory here, if the budget allows.
    fn reserve(&mut self, octets: usize) -> Result<(), Error> {
        let need = (octets + self.apart).div_ceil(UNIT).saturating_sub(self.hold.units());
        if need == 0 { Ok(()) } else { self.hold.take(need) }
    }

    /// Whether another piece may be begun in memory.
    fn has_memory_to_spare(&self) -> bool {
        let room = &self.hold.share().room;
        self.file.is_none() && self.pieces.len() + 1 < PIECES && room.used() <= room.units() / AMPLE
    }

    /// Begins another piece in memory, if the one that is full is accounted for.
    fn put_by(&mut self) -> Result<(), Error> {
        let hold = self.hold.split(self.memory.capacity().div_ceil(UNIT)).ok_or(Error::Memory)?;
        let octets = std::mem::take(&mut self.memory);
        self.pieces.push(Arc::new(Piece { octets, _hold: hold }));
        Ok(())
    }

    /// Octets that may be read back from the file at a time: a piece, or what the budget has beside the end of the
    /// body, and one unit at least.
    fn room_to_read(&mut self) -> usize {
        // Beyond half of it the allocator gives nothing back.
        if self.memory.len() <= self.memory.capacity() / 2 {
            self.memory.shrink_to_fit();
        }
        let kept = self.memory.capacity();
        match self.reserve(kept + FILE_PIECE) {
            Ok(()) => FILE_PIECE,
            Err(_) => self.permitted().saturating_sub(kept).clamp(UNIT, FILE_PIECE),
        }
    }

    async fn move_to_file(&mut self) -> Result<(), Error> {
        let length = self.len();
        let (pieces, piece) = (std::mem::take(&mut self.pieces), std::mem::take(&mut self.memory));
        let (file, share) = (self.file.clone(), Arc::clone(self.hold.share()));
        // What is written counts for as long as the file is there, also where nobody waits for it any more.
        let written = spawn_blocking(move || -> Result<_, Error> {
            let file = match file {
                Some(file) => file,
                None => Arc::new(Filed::new(&share)?),
            };
            let kept: Vec<_> = pieces.iter().map(|piece| &*piece.octets).chain([&*piece]).collect();
            file.append(&kept)?;
            Ok((file, piece))
        });
        let (file, mut piece) = written.await.map_err(io::Error::other)??;
        self.filed = length;
        piece.clear();
        // Its room is used again if it is accounted for.
        if piece.capacity() <= self.permitted() {
            self.memory = piece;
        }
        self.file = Some(file);
        Ok(())
    }
}

impl Duplicate {
    /// The whole body, in the wire form. Reads the file: not on an I/O thread, and once the spool's own reader is done.
    ///
    /// # Errors
    ///
    /// The file can't be read back.
    pub fn read(self) -> io::Result<Vec<u8>> {
        let mut whole = vec![0; usize::try_from(self.filed).map_err(io::Error::other)?];
        if let Some(file) = self.file {
            // By place: the position is shared with the other reader.
            file.file().read_exact_at(&mut whole, 0)?;
        }
        self.pieces.iter().for_each(|piece| whole.extend_from_slice(&piece.octets));
        whole.extend_from_slice(&self.memory);
        Ok(whole)
    }
}

/// Reads a spool from its beginning, once.
#[derive(Debug)]
pub struct Reader {
    spool: Spool,
    piece: Vec<u8>,
    /// Octets that are read from the file at a time.
    at_a_time: usize,
    state: ReaderState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReaderState {
    Start,
    File,
    /// The next of the pieces.
    Piece(usize),
    Memory,
    End,
}

impl Reader {
    /// A reader of nothing, beside a message that is in memory as a whole.
    pub fn empty() -> Self {
        Spooler::with(PathBuf::new(), 0, Space::of).spool().into_reader()
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    ///
    /// The file can't be read back.
    pub async fn next(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            match self.state {
                ReaderState::Start => {
                    self.state = if self.spool.file.is_some() { ReaderState::File } else { ReaderState::Piece(0) };
                    if let Some(file) = &self.spool.file {
                        file.file().seek(SeekFrom::Start(0))?;
                        self.at_a_time = self.spool.room_to_read();
                    }
                }
                ReaderState::File => {
                    if self.read_file().await? {
                        return Ok(Some(&self.piece));
                    }
                    self.state = ReaderState::Memory;
                }
                ReaderState::Piece(next) if next < self.spool.pieces.len() => {
                    self.state = ReaderState::Piece(next + 1);
                    return Ok(self.spool.pieces.get(next).map(|piece| piece.octets.as_slice()));
                }
                ReaderState::Piece(_) => self.state = ReaderState::Memory,
                ReaderState::Memory => {
                    self.state = ReaderState::End;
                    return Ok(Some(&self.spool.memory).filter(|m| !m.is_empty()).map(Vec::as_slice));
                }
                ReaderState::End => return Ok(None),
            }
        }
    }

    async fn read_file(&mut self) -> io::Result<bool> {
        let Some(file) = self.spool.file.clone() else { return Ok(false) };
        let (mut piece, octets) = (std::mem::take(&mut self.piece), self.at_a_time);
        let read = spawn_blocking(move || -> io::Result<Vec<u8>> {
            piece.clear();
            // Room for all of it, or it is read in steps that begin at 32 octets.
            piece.reserve_exact(octets);
            file.file().take(octets as u64).read_to_end(&mut piece)?;
            Ok(piece)
        });
        self.piece = read.await.map_err(io::Error::other)??;
        Ok(!self.piece.is_empty())
    }
}

/// Octets of the steps in which memory is accounted.
const UNIT: usize = 16 * 1024;
/// Octets of a piece: what a spool holds in memory before it moves to its file, unless there is memory to spare; also
/// what is read back at a time. Larger pieces cost memory for each of many large messages at once, smaller ones more
/// hand-overs to the blocking threads.
const FILE_PIECE: usize = 256 * 1024;
/// A piece with what one read may add to it before it is settled: what a large body takes at a time.
const ROOM: usize = FILE_PIECE + 64 * 1024;
/// Pieces that a spool fills before it moves to its file at the latest.
const PIECES: usize = 8;
/// There is memory to spare as long as no more than this part of the budget is in use.
const AMPLE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn spooler(memory: u64) -> (Spooler, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        (Spooler::new(&Settings { directory: directory.path().into(), memory }).unwrap(), directory)
    }

    async fn fill(spool: &mut Spool, octets: usize) -> Result<Vec<u8>, Error> {
        let all: Vec<u8> = (0..octets).map(|i| (i / 7 % 251) as u8).collect();
        for piece in all.chunks(10_000) {
            spool.push(piece);
            spool.settle().await?;
        }
        Ok(all)
    }

    async fn read(spool: Spool) -> Vec<u8> {
        let (mut reader, mut all) = (spool.into_reader(), Vec::new());
        while let Some(piece) = reader.next().await.unwrap() {
            all.extend_from_slice(piece);
        }
        all
    }

    #[tokio::test]
    async fn bodies_of_any_size_come_back_whole() {
        let (spooler, directory) = spooler(1 << 20);
        for octets in [0, 1, UNIT, FILE_PIECE - 1, FILE_PIECE, FILE_PIECE + 1, 5 * FILE_PIECE + 17] {
            come_back_whole(&spooler, octets, FILE_PIECE).await;
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "files are unlinked");
    }

    #[tokio::test]
    async fn with_memory_to_spare_no_file_is_made_for_a_few_pieces() {
        // Pieces are a little larger than they are named, by what is read at a time.
        let (spooler, _directory) = spooler((AMPLE * (PIECES + 1) * FILE_PIECE) as u64);
        for octets in [FILE_PIECE, 3 * FILE_PIECE + 17, (PIECES - 1) * FILE_PIECE, 9 * FILE_PIECE, 30 * FILE_PIECE] {
            come_back_whole(&spooler, octets, PIECES * FILE_PIECE).await;
        }
    }

    /// A body of so many octets, which makes a file from `in_memory` on.
    async fn come_back_whole(spooler: &Spooler, octets: usize, in_memory: usize) {
        let mut spool = spooler.spool();
        let all = fill(&mut spool, octets).await.unwrap();
        assert_eq!(spool.len(), octets as u64);
        assert!(spool.file.is_some() == (octets >= in_memory), "{octets}");
        assert!(octets < in_memory || spooler.memory_used() <= ROOM as u64, "{octets}");
        for wanted in [0, 1, FILE_PIECE / 2 * 3, octets, octets + 1] {
            let beginning = spool.beginning(wanted).await.unwrap();
            assert!(beginning == all[..octets.min(wanted)], "{wanted} of {octets}");
        }
        let duplicate = spool.duplicate();
        let filed = if octets >= in_memory { (octets - spool.memory.len()) as u64 } else { 0 };
        assert_eq!(spooler.filed(), filed);
        assert!(read(spool).await == all, "{octets}");
        assert_eq!(spooler.filed(), filed, "until the last reader is gone");
        assert!(duplicate.read().unwrap() == all, "{octets}, once more");
        assert_eq!((spooler.memory_used(), spooler.filed()), (0, 0));
    }

    #[tokio::test]
    async fn pieces_count_until_their_last_reader_is_gone() {
        let (spooler, _directory) = spooler((AMPLE * 4 * FILE_PIECE) as u64);
        let mut spool = spooler.spool();
        fill(&mut spool, 2 * FILE_PIECE).await.unwrap();
        assert!(spooler.memory_used() >= 2 * FILE_PIECE as u64);
        let duplicate = spool.duplicate();
        drop(spool);
        assert!(spooler.memory_used() >= FILE_PIECE as u64);
        drop(duplicate);
        assert_eq!(spooler.memory_used(), 0);
    }

    #[tokio::test]
    async fn what_moves_to_its_file_gives_its_pieces_back() {
        let (spooler, _directory) = spooler((AMPLE * 4 * FILE_PIECE) as u64);
        let mut first = spooler.spool();
        fill(&mut first, 3 * FILE_PIECE).await.unwrap();
        assert!(first.file.is_none());
        let mut second = spooler.spool();
        let all = fill(&mut second, 3 * FILE_PIECE).await.unwrap();
        assert!(second.file.is_some(), "the first has used up what there was to spare");
        assert!(spooler.memory_used() <= 4 * ROOM as u64);
        assert!(read(second).await == all);
        fill(&mut first, 30 * FILE_PIECE).await.unwrap();
        assert!(first.file.is_some());
        assert!(spooler.memory_used() < 2 * FILE_PIECE as u64);
        assert_eq!(first.len(), 33 * FILE_PIECE as u64);
    }

    /// Octets that a spool takes, used or not.
    fn taken(spool: &Spool) -> u64 {
        (spool.pieces.iter().map(|piece| piece.octets.capacity()).sum::<usize>() + spool.memory.capacity()) as u64
    }

    #[tokio::test]
    async fn a_body_counts_for_all_the_room_that_is_made_for_it() {
        for budget in [1 << 18, 1 << 20, 1 << 28] {
            let (spooler, _directory) = spooler(budget);
            for octets in [1, 10_000, 45_000, 200_000, 9 * FILE_PIECE + 17] {
                let mut spool = spooler.spool();
                spool.keep_apart(3000);
                for piece in vec![b'a'; octets].chunks(4321) {
                    spool.push(piece);
                    spool.settle().await.unwrap();
                    assert!(taken(&spool) + 3000 <= spooler.memory_used(), "{octets} of {budget}");
                }
                // It can be read although others hold the rest of the budget.
                for is_pressed in [true, false] {
                    let room = &spooler.nobody.room;
                    let mut other = Hold::new(&spooler.nobody);
                    other.take(if is_pressed { room.units() - room.used() } else { 0 }).unwrap();
                    let (begun, mut reader) = (spool.len(), spool.into_reader());
                    let mut sum = 0;
                    while let Some(length) = reader.next().await.unwrap().map(<[u8]>::len) {
                        sum += length as u64;
                        let taken = reader.spool.memory.capacity() + reader.piece.capacity();
                        assert!(taken <= reader.spool.permitted() + UNIT, "{octets} of {budget}");
                    }
                    assert_eq!(sum, begun);
                    drop(other);
                    spool = reader.spool;
                }
            }
            assert_eq!(spooler.memory_used(), 0);
        }
    }

    #[tokio::test]
    async fn a_header_section_counts_as_long_as_it_is_kept() {
        for octets in [1, FILE_PIECE] {
            let (spooler, _directory) = spooler(1 << 20);
            let mut spool = spooler.spool();
            spool.keep_apart(100_000);
            let all = fill(&mut spool, octets).await.unwrap();
            let apart = spool.hand_over_apart().unwrap();
            assert!(spool.hand_over_apart().is_none_or(|apart| apart._hold.units() == 0));
            assert!(read(spool).await == all);
            assert!((100_000..120_000).contains(&spooler.memory_used()), "{}", spooler.memory_used());
            drop(apart);
            assert_eq!(spooler.memory_used(), 0);
        }
    }

    #[tokio::test]
    async fn a_small_budget_has_room_for_some_ordinary_bodies() {
        let (spooler, _directory) = spooler(1 << 20);
        let mut spools = Vec::new();
        for _ in 0..16 {
            let mut spool = spooler.spool();
            fill(&mut spool, 45_000).await.unwrap();
            assert!(spool.file.is_none());
            spools.push(spool);
        }
        assert!(matches!(fill(&mut spooler.spool(), 45_000).await, Err(Error::Memory)));
        // One that grows makes room for others.
        fill(&mut spools[0], 45_000).await.unwrap();
        assert!(spools[0].file.is_some());
    }

    #[tokio::test]
    async fn under_pressure_a_body_moves_to_its_file_and_a_new_one_is_refused() {
        let (spooler, _directory) = spooler(2 * UNIT as u64);
        let mut first = spooler.spool();
        let all = fill(&mut first, 100_000).await.unwrap();
        assert!(first.file.is_some());
        assert_eq!(spooler.memory_used(), 2 * UNIT as u64);
        let mut second = spooler.spool();
        assert!(matches!(fill(&mut second, 1).await, Err(Error::Memory)));
        assert!(read(first).await == all);
        assert!(fill(&mut second, 1).await.is_ok(), "room again once the first is gone");
    }
    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn one_network_does_not_take_the_memory_of_others() {
        // A hundred and twenty-eight units.
        let (spooler, _directory) = spooler(128 * UNIT as u64);
        let start = |client: &str, spools: &mut Vec<Spool>, octets: usize| {
            let mut spool = spooler.share(ip(client)).spool();
            // A header section that never ends, which can't go to a file.
            spool.keep_apart(octets);
            let kept = spool.reserve(0).map_err(|error| error.cause());
            kept.is_ok().then(|| spools.push(spool));
            kept
        };
        let mut spools = Vec::new();
        // One beyond a quarter takes half, in whatever pieces, by whichever of its addresses.
        let of_one = (0..200).map(|n| start(&format!("192.0.2.{n}"), &mut spools, UNIT)).filter(Result::is_ok).count();
        assert_eq!((of_one, spooler.memory_used()), (64, 64 * UNIT as u64));
        assert_eq!(start("192.0.2.7", &mut spools, 1), Err(Cause::NetworkMemory));
        // Another has its quarter all the same, and no more.
        let of_other = (0..200).map(|_| start("2001:db8::1", &mut spools, UNIT)).filter(Result::is_ok).count();
        assert_eq!(of_other, 32);
        assert_eq!(start("2001:db8:0:ffff::2", &mut spools, 1), Err(Cause::NetworkMemory));
        // So has a third. Then there is none left, for networks and for those who count for none.
        let of_third = (0..200).map(|_| start("198.51.100.1", &mut spools, UNIT)).filter(Result::is_ok).count();
        assert_eq!(of_third, 32);
        assert_eq!(start("203.0.113.1", &mut spools, 1), Err(Cause::Memory));
        assert!(matches!(fill(&mut spooler.spool(), 1).await, Err(Error::Memory)));
        // What the first gives back is for others.
        drop(spools.drain(..8));
        assert_eq!(start("192.0.2.7", &mut spools, 1), Err(Cause::NetworkMemory));
        assert_eq!(start("203.0.113.1", &mut spools, UNIT), Ok(()));
        assert!(fill(&mut spooler.spool(), 1).await.is_ok(), "whom the operator knows");
        spools.clear();
        assert_eq!(spooler.memory_used(), 0);
    }

    #[tokio::test]
    async fn beyond_its_share_of_memory_a_networks_bodies_go_to_their_files_and_others_do_not() {
        let (spooler, _directory) = spooler(128 * UNIT as u64);
        let (one, other) = (spooler.share(ip("192.0.2.1")), spooler.share(ip("198.51.100.1")));
        let mut held = Hold::new(&one);
        held.take(60).unwrap();
        let (mut first, mut second) = (one.spool(), other.spool());
        let all = [fill(&mut first, 200_000).await.unwrap(), fill(&mut second, 200_000).await.unwrap()];
        assert!(first.file.is_some() && second.file.is_none());
        assert!(read(first).await == all[0]);
        assert!(read(second).await == all[1]);
        drop(held);
        assert_eq!((spooler.memory_used(), spooler.filed()), (0, 0));
    }

    #[tokio::test]
    async fn a_message_alone_has_all_the_room_that_there_is() {
        for units in [1, 2, 3, 64] {
            let (spooler, _directory) = spooler(units * UNIT as u64);
            let mut spool = spooler.share(ip("192.0.2.1")).spool();
            for octets in 1..=units as usize {
                spool.keep_apart(octets * UNIT);
                assert!(spool.settle().await.is_ok(), "{octets} of {units}");
            }
            spool.keep_apart(units as usize * UNIT + 1);
            assert!(matches!(spool.settle().await, Err(Error::Memory)), "{units}");
        }
    }

    /// Room for two MiB in files beside those that are there, however many they are, before the disk has too little.
    fn two_mebibytes(_: &std::fs::File) -> Option<Space> {
        Some(Space { size: 64 << 20, free: 3 << 20 })
    }

    #[tokio::test]
    async fn one_network_does_not_take_the_disk_of_others() {
        let directory = tempfile::tempdir().unwrap();
        let spooler = Spooler::with(directory.path().into(), 300, two_mebibytes);
        let (one, other) = (spooler.share(ip("192.0.2.1")), spooler.share(ip("198.51.100.1")));
        let mut spools = Vec::new();
        let refused = loop {
            let mut spool = one.spool();
            match fill(&mut spool, FILE_PIECE).await {
                Ok(_) => spools.push(spool),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, Error::NetworkDisk), "{refused}");
        assert_eq!(spooler.filed(), spools.len() as u64 * spools[0].filed);
        assert!((1 << 20..3 << 20).contains(&spooler.filed()), "{}", spooler.filed());
        for mut spool in [other.spool(), spooler.spool()] {
            let all = fill(&mut spool, FILE_PIECE).await.unwrap();
            assert!(spool.file.is_some() && read(spool).await == all);
        }
        spools.clear();
        assert!(fill(&mut one.spool(), 5 << 20).await.is_ok(), "a message alone");
        assert_eq!((spooler.memory_used(), spooler.filed()), (0, 0));
    }

    #[tokio::test]
    async fn a_disk_that_is_nearly_full_takes_no_more_from_anybody() {
        let directory = tempfile::tempdir().unwrap();
        let spooler = Spooler::with(directory.path().into(), 64, |_| Some(Space { size: 64 << 20, free: 1 << 20 }));
        for mut spool in [spooler.spool(), spooler.share(ip("192.0.2.1")).spool()] {
            let error = fill(&mut spool, FILE_PIECE).await.unwrap_err();
            assert!(matches!(error, Error::Disk), "{error}");
            spool.clear();
            assert!(fill(&mut spool, FILE_PIECE - 1).await.is_ok(), "what fits into memory asks for no disk");
        }
        assert_eq!((spooler.memory_used(), spooler.filed()), (0, 0));
    }

    #[test]
    fn an_error_names_what_has_to_be_looked_at() {
        let io = |kind: io::ErrorKind| Error::Io(kind.into());
        let cases = [
            (Error::Memory, Cause::Memory),
            (Error::NetworkMemory, Cause::NetworkMemory),
            (Error::Disk, Cause::Disk),
            (Error::NetworkDisk, Cause::NetworkDisk),
            (io(io::ErrorKind::StorageFull), Cause::Disk),
            (io(io::ErrorKind::QuotaExceeded), Cause::Disk),
            (io(io::ErrorKind::PermissionDenied), Cause::Directory),
        ];
        for (error, expected) in cases {
            assert_eq!(error.cause(), expected, "{error}");
        }
    }

    #[test]
    fn whatever_becomes_of_messages_nothing_of_them_is_counted_at_the_end() {
        let (spooler, _directory) = spooler(40 * UNIT as u64);
        let room = Arc::clone(&spooler.nobody.room);
        for seed in 0..8 {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
            runtime.block_on(async {
                let live = (0..6).map(|n| tokio::spawn(live_and_die(spooler.clone(), seed * 6 + n)));
                for life in live.collect::<Vec<_>>() {
                    life.await.unwrap();
                }
            });
            // Waits for what writes and reads yet.
            drop(runtime);
            assert_eq!((room.used(), room.filed(), room.count()), (0, 0, 0), "{seed}");
        }
    }

    /// What may become of a few messages of one network, in an order that `seed` gives.
    async fn live_and_die(spooler: Spooler, seed: u32) {
        let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
        let mut next = move |below: u32| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state % below
        };
        let share = spooler.share(IpAddr::V4((next(3) << 8).into()));
        let (mut spools, mut readers) = (vec![spooler.spool()], Vec::new());
        let (mut duplicates, mut heads) = (Vec::new(), Vec::new());
        for _ in 0..80 {
            spools.push(share.spool());
            let which = next(spools.len() as u32) as usize;
            let spool = &mut spools[which];
            match next(9) {
                0 => spool.keep_apart(next(100_000) as usize),
                1 => duplicates.push(spool.duplicate()),
                2 => heads.extend(spool.hand_over_apart()),
                3 => spool.clear(),
                4 => readers.push(spools.swap_remove(which).into_reader()),
                5 => drop(spools.swap_remove(which)),
                6 => {
                    // A session that ends while its piece is written.
                    let mut spool = spools.swap_remove(which);
                    spool.push(&vec![1; FILE_PIECE]);
                    tokio::select! {
                        biased;
                        _ = spool.settle() => {}
                        () = std::future::ready(()) => {}
                    }
                }
                _ => {
                    let octets = next(2 * FILE_PIECE as u32) as usize;
                    for piece in vec![0; octets].chunks(40_000) {
                        spool.push(piece);
                        if spool.settle().await.is_err() {
                            spool.clear();
                        }
                    }
                }
            }
            for reader in &mut readers {
                _ = reader.next().await.unwrap();
            }
            readers.truncate(next(5) as usize);
            heads.truncate(next(3) as usize);
            spools.truncate(8);
            if next(4) == 0 {
                duplicates.drain(..).for_each(|duplicate| assert!(duplicate.read().is_ok()));
            }
        }
    }
}
