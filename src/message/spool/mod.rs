//! Holds the body of a message between the client's dot and the upstream's: memory first, then an unlinked file.
//!
//! Bodies are kept in the wire form in which they go on, so that sending them is copying. All spools share one memory
//! budget. As long as most of it is free, a body of a few pieces stays in memory as a whole, since a file costs as much
//! again as receiving and sending it; else one that has filled its first piece moves to its file. One that can't
//! even start, or whose disk is full, is an error that ends in 452, never in a lost message.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use crate::metrics::Registry;

/// Where bodies are kept and how much memory they may take.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the unlinked files are made.
    pub directory: PathBuf,
    /// Octets of memory for all spools together.
    pub memory: u64,
}

/// Makes spools under one budget. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spooler {
    directory: Arc<Path>,
    budget: Arc<Semaphore>,
    units: usize,
}

/// The body of one message.
#[derive(Debug)]
pub struct Spool {
    spooler: Spooler,
    /// What came before `memory`, while there is memory to spare for it; empty once there is a file.
    pieces: Vec<Arc<Piece>>,
    /// The piece that is coming.
    memory: Vec<u8>,
    /// Octets of the message that are kept elsewhere.
    apart: usize,
    /// Covers `memory`, its unused room included, and `apart`, in units of [`UNIT`].
    permit: Option<OwnedSemaphorePermit>,
    file: Option<File>,
    /// Octets in the file.
    filed: u64,
}

/// A piece that is complete. It counts for the budget until its last reader is gone.
#[derive(Debug)]
struct Piece {
    octets: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

/// The share of the budget that [`Spool::keep_apart`] asked for.
#[derive(Debug)]
pub struct Apart {
    _permit: OwnedSemaphorePermit,
}

/// What a spool holds, for one more reader once it was sent on: pieces and what is in its file are shared and not
/// copied.
#[derive(Debug)]
pub struct Duplicate {
    pieces: Vec<Arc<Piece>>,
    memory: Vec<u8>,
    file: Option<File>,
    filed: u64,
}

/// Why a body can't be kept. Our fault: the client is told to try again later.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All spools together have used up their memory.
    #[error("the spool's memory is used up")]
    Exhausted,
    /// The directory can't be written.
    #[error("the spool directory can't be used: {0}")]
    Io(#[from] io::Error),
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
        let units =
            usize::try_from(settings.memory / UNIT as u64).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        Ok(Self { directory: settings.directory.as_path().into(), budget: Arc::new(Semaphore::new(units)), units })
    }

    /// An empty spool.
    pub fn spool(&self) -> Spool {
        Spool {
            spooler: self.clone(),
            pieces: Vec::new(),
            memory: Vec::new(),
            apart: 0,
            permit: None,
            file: None,
            filed: 0,
        }
    }

    /// Octets of memory in use, in whole units.
    pub fn memory_used(&self) -> u64 {
        (self.units.saturating_sub(self.budget.available_permits()) * UNIT) as u64
    }

    /// Octets of memory that may be in use.
    pub fn memory_limit(&self) -> u64 {
        (self.units * UNIT) as u64
    }

    /// Shows both in the metrics.
    pub fn register(&self, registry: &Registry) {
        let spooler = self.clone();
        let help = "Octets of memory that messages of all sessions take while they are evaluated.";
        registry.gauge_of("dmarcgate_spool_memory_bytes", help, move || spooler.memory_used());
        let limit = self.memory_limit();
        let help = "Octets of memory that they may take: spool.memory.";
        registry.gauge_of("dmarcgate_spool_memory_limit_bytes", help, move || limit);
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
        *self = self.spooler.spool();
    }

    /// Takes a piece into memory. Call [`Spool::settle`] after each piece that was read from the client, so that memory
    /// stays bounded.
    pub fn push(&mut self, piece: &[u8]) {
        let needed = self.memory.len() + piece.len();
        if needed > self.memory.capacity() {
            // More room than is needed only where the budget has it. What is needed is accounted when it settles.
            let room = self.room(needed);
            let room = if self.reserve(room) { room } else { needed };
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
        let is_kept = match self.memory.len() < FILE_PIECE {
            true => self.reserve(self.memory.capacity()),
            false => self.has_memory_to_spare() && self.reserve(self.memory.capacity()) && self.put_by(),
        };
        if is_kept {
            return Ok(());
        }
        // A file relieves the budget only of what is in memory here, and nobody goes without a permit.
        if self.permit.is_none() || (self.memory.is_empty() && self.pieces.is_empty()) {
            return Err(Error::Exhausted);
        }
        self.move_to_file().await
    }

    /// A second view of the body, for another reader. It takes memory beside the budget for what is no whole piece, a
    /// quarter of a megabyte at most, for the caller to bound.
    ///
    /// # Errors
    ///
    /// There is no descriptor left for the file.
    pub fn duplicate(&self) -> io::Result<Duplicate> {
        let file = self.file.as_ref().map(File::try_clone).transpose()?;
        Ok(Duplicate { pieces: self.pieces.clone(), memory: self.memory.clone(), file, filed: self.filed })
    }

    /// Up to so many octets from the beginning, as they go on.
    ///
    /// # Errors
    ///
    /// The file can't be read.
    pub async fn beginning(&self, octets: usize) -> io::Result<Vec<u8>> {
        let Some(file) = &self.file else {
            let pieces = self.pieces.iter().map(|piece| &piece.octets).chain([&self.memory]);
            return Ok(pieces.flatten().copied().take(octets).collect());
        };
        let file = file.try_clone()?;
        let filed = usize::try_from(self.filed).unwrap_or(usize::MAX).min(octets);
        let read = spawn_blocking(move || -> io::Result<Vec<u8>> {
            let mut piece = vec![0; filed];
            // By place: the reader that comes later has the file's cursor.
            file.read_exact_at(&mut piece, 0)?;
            Ok(piece)
        });
        let mut beginning = read.await.map_err(io::Error::other)??;
        beginning.extend(self.memory.iter().take(octets - filed));
        Ok(beginning)
    }

    /// What this spool has of the budget for octets that are kept elsewhere: who keeps them longer than the spool is
    /// there holds it as long.
    pub fn hand_over_apart(&mut self) -> Option<Apart> {
        let units = std::mem::take(&mut self.apart).div_ceil(UNIT).min(self.units());
        let permit = self.permit.as_mut()?.split(units)?;
        Some(Apart { _permit: permit })
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

    /// Units that the permit is for.
    fn units(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Octets of memory here that the permit covers.
    fn permitted(&self) -> usize {
        (self.units() * UNIT).saturating_sub(self.apart)
    }

    /// Gets permission for so many octets of memory here; false if the budget does not allow.
    fn reserve(&mut self, octets: usize) -> bool {
        let need = (octets + self.apart).div_ceil(UNIT).saturating_sub(self.units());
        if need == 0 {
            return true;
        }
        // Invariant: `need` is at most two pieces plus one read, in units.
        let need = u32::try_from(need).unwrap_or(u32::MAX);
        match Arc::clone(&self.spooler.budget).try_acquire_many_owned(need) {
            Ok(more) => {
                match &mut self.permit {
                    Some(permit) => permit.merge(more),
                    none => *none = Some(more),
                }
                true
            }
            Err(_) => false,
        }
    }

    /// Whether another piece may be begun in memory.
    fn has_memory_to_spare(&self) -> bool {
        let used = self.spooler.units.saturating_sub(self.spooler.budget.available_permits());
        self.file.is_none() && self.pieces.len() + 1 < PIECES && used <= self.spooler.units / AMPLE
    }

    /// Begins another piece in memory; false if the permit does not cover the one that is full.
    fn put_by(&mut self) -> bool {
        let units = self.memory.capacity().div_ceil(UNIT);
        let Some(permit) = self.permit.as_mut().and_then(|permit| permit.split(units)) else { return false };
        let octets = std::mem::take(&mut self.memory);
        self.pieces.push(Arc::new(Piece { octets, _permit: permit }));
        true
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
            true => FILE_PIECE,
            false => self.permitted().saturating_sub(kept).clamp(UNIT, FILE_PIECE),
        }
    }

    async fn move_to_file(&mut self) -> Result<(), Error> {
        let length = self.len();
        let (pieces, piece) = (std::mem::take(&mut self.pieces), std::mem::take(&mut self.memory));
        let (file, directory) = (self.file.take(), Arc::clone(&self.spooler.directory));
        let written = spawn_blocking(move || -> io::Result<(File, Vec<u8>)> {
            let mut file = match file {
                Some(file) => file,
                None => tempfile::tempfile_in(directory)?,
            };
            for kept in &pieces {
                file.write_all(&kept.octets)?;
            }
            file.write_all(&piece)?;
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
            file.read_exact_at(&mut whole, 0)?;
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
        let spooler = Spooler { directory: Path::new("").into(), budget: Arc::new(Semaphore::new(0)), units: 0 };
        spooler.spool().into_reader()
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
                    if let Some(file) = &mut self.spool.file {
                        file.seek(SeekFrom::Start(0))?;
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
        let Some(mut file) = self.spool.file.take() else { return Ok(false) };
        let (mut piece, octets) = (std::mem::take(&mut self.piece), self.at_a_time);
        let read = spawn_blocking(move || -> io::Result<(File, Vec<u8>)> {
            use std::io::Read;
            piece.clear();
            // Room for all of it, or it is read in steps that begin at 32 octets.
            piece.reserve_exact(octets);
            (&mut file).take(octets as u64).read_to_end(&mut piece)?;
            Ok((file, piece))
        });
        let (file, piece) = read.await.map_err(io::Error::other)??;
        (self.spool.file, self.piece) = (Some(file), piece);
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
        let duplicate = spool.duplicate().unwrap();
        assert!(read(spool).await == all, "{octets}");
        assert!(duplicate.read().unwrap() == all, "{octets}, once more");
        assert_eq!(spooler.memory_used(), 0);
    }

    #[tokio::test]
    async fn pieces_count_until_their_last_reader_is_gone() {
        let (spooler, _directory) = spooler((AMPLE * 4 * FILE_PIECE) as u64);
        let mut spool = spooler.spool();
        fill(&mut spool, 2 * FILE_PIECE).await.unwrap();
        assert!(spooler.memory_used() >= 2 * FILE_PIECE as u64);
        let duplicate = spool.duplicate().unwrap();
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
                    let rest = if is_pressed { spooler.budget.available_permits() as u32 } else { 0 };
                    let other = Arc::clone(&spooler.budget).try_acquire_many_owned(rest).unwrap();
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
            assert!(spool.hand_over_apart().is_none_or(|apart| apart._permit.num_permits() == 0));
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
        assert!(matches!(fill(&mut spooler.spool(), 45_000).await, Err(Error::Exhausted)));
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
        assert!(matches!(fill(&mut second, 1).await, Err(Error::Exhausted)));
        assert!(read(first).await == all);
        assert!(fill(&mut second, 1).await.is_ok(), "room again once the first is gone");
    }
}
