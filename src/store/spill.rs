//! The file in which rows wait that the database does not take: batches one after the other, taken out in that order.
//!
//! What was appended survives the death of the process and, since it is synchronized, that of the machine. A record
//! that was being written then is cut off at the next start. The file is emptied when its last batch has been taken
//! out; until then a start begins at the first again, and the stamps keep what the database has from being counted
//! twice. All calls may block.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{self, SHA256};
use serde::{Deserialize, Serialize};

use crate::store::batch::{Batch, Stamp};
use crate::store::comparison::ComparisonRow;
use crate::store::row::Row;

/// Where the file is and how long it may become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The file; its directory exists.
    pub path: PathBuf,
    /// Octets.
    pub octets: u64,
}

/// The open file. No other process has it.
pub struct Spill {
    file: File,
    octets: u64,
    /// The place of the first batch that has not been taken out.
    head: u64,
    /// The end of the last one.
    tail: u64,
    /// Messages between both.
    messages: u64,
}

/// Why a batch was not appended.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file would become longer than it may.
    #[error("the file is full")]
    Full,
    /// The file system's.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What stands before a batch: its octets, its messages, and a digest over the messages and the octets.
struct Head {
    octets: u32,
    messages: u64,
    digest: [u8; 8],
}

/// A batch as it stands in the file.
#[derive(Serialize, Deserialize)]
struct Stored<R, C> {
    stamp: Stamp,
    rows: R,
    comparisons: C,
}

impl Spill {
    /// Opens the file, or makes it; cuts off what is torn. A file of another form is put aside.
    ///
    /// # Errors
    ///
    /// The file system's; another process has the file.
    pub fn open(settings: &Settings) -> io::Result<Self> {
        let mut file = open(&settings.path)?;
        let mut length = file.metadata()?.len();
        let mut magic = [0; MAGIC.len()];
        if length >= MAGIC.len() as u64 {
            file.read_exact_at(&mut magic, 0)?;
            if magic != *MAGIC {
                std::fs::rename(&settings.path, settings.path.with_extension("unreadable"))?;
                file = open(&settings.path)?;
                length = 0;
            }
        }
        if length < MAGIC.len() as u64 {
            file.set_len(0)?;
            file.write_all_at(MAGIC, 0)?;
        }
        let start = MAGIC.len() as u64;
        let mut spill = Self { file, octets: settings.octets, head: start, tail: start, messages: 0 };
        // Anything that can't be read as a batch was being written when the power went.
        while let Ok((head, _)) = spill.record(spill.tail, length) {
            spill.tail += HEAD + u64::from(head.octets);
            spill.messages += head.messages;
        }
        spill.file.set_len(spill.tail)?;
        Ok(spill)
    }

    /// Whether every batch was taken out.
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Octets that the file may have.
    pub fn limit(&self) -> u64 {
        self.octets
    }

    /// Octets of the file.
    pub fn length(&self) -> u64 {
        self.tail
    }

    /// Messages of the batches that are in it.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Puts a batch at the end.
    ///
    /// # Errors
    ///
    /// See [`Fault`]; the batch is then not in the file.
    pub fn append(&mut self, batch: &Batch) -> Result<(), Fault> {
        let stored = Stored {
            stamp: batch.stamp,
            rows: batch.rows.values().collect::<Vec<_>>(),
            comparisons: batch.comparisons.values().collect::<Vec<_>>(),
        };
        let body = serde_json::to_vec(&stored).map_err(io::Error::from)?;
        let octets = u32::try_from(body.len()).map_err(|_| Fault::Full)?;
        let end = self.tail + HEAD + u64::from(octets);
        if end > self.octets {
            return Err(Fault::Full);
        }
        let mut record = Vec::with_capacity(HEAD as usize + body.len());
        record.extend_from_slice(&octets.to_be_bytes());
        record.extend_from_slice(&batch.messages.to_be_bytes());
        record.extend_from_slice(&digest(batch.messages, &body));
        record.extend_from_slice(&body);
        let written = self.file.write_all_at(&record, self.tail).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // A part of it would be cut off at the next start; whether that fails too makes no difference.
            let _ = self.file.set_len(self.tail);
            return Err(error.into());
        }
        self.tail = end;
        self.messages += batch.messages;
        Ok(())
    }

    /// The first batch, which stays until [`Spill::remove_first`]; none if there is none.
    ///
    /// # Errors
    ///
    /// The file system's, or what was written is no longer what is read.
    pub fn first(&self) -> io::Result<Option<Batch>> {
        if self.is_empty() {
            return Ok(None);
        }
        let (_, body) = self.record(self.head, self.tail)?;
        let Stored { stamp, rows, comparisons } =
            serde_json::from_slice::<Stored<Vec<Row>, Vec<ComparisonRow>>>(&body)?;
        let rows = rows.into_iter().map(|row| (row.key(), row)).collect::<BTreeMap<_, _>>();
        let comparisons = comparisons.into_iter().map(|row| (row.key(), row)).collect();
        Ok(Some(Batch::new(stamp, rows, comparisons)))
    }

    /// Takes the first batch out; the last one empties the file.
    ///
    /// # Errors
    ///
    /// As [`Spill::first`].
    pub fn remove_first(&mut self) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let (head, _) = self.record(self.head, self.tail)?;
        self.head += HEAD + u64::from(head.octets);
        self.messages = self.messages.saturating_sub(head.messages);
        if self.is_empty() {
            self.clear()?;
        }
        Ok(())
    }

    /// Gives all up and says how many messages that were.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn clear(&mut self) -> io::Result<u64> {
        let start = MAGIC.len() as u64;
        (self.head, self.tail) = (start, start);
        let messages = std::mem::take(&mut self.messages);
        self.file.set_len(start)?;
        Ok(messages)
    }

    /// The record at `place`, which ends before `end`.
    fn record(&self, place: u64, end: u64) -> io::Result<(Head, Vec<u8>)> {
        let mut octets = [0; HEAD as usize];
        self.file.read_exact_at(&mut octets, place)?;
        let head = Head::read(&octets);
        if place + HEAD + u64::from(head.octets) > end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut body = vec![0; head.octets as usize];
        self.file.read_exact_at(&mut body, place + HEAD)?;
        if digest(head.messages, &body) != head.digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a batch is not as it was written"));
        }
        Ok((head, body))
    }
}

impl Head {
    fn read(octets: &[u8; HEAD as usize]) -> Self {
        let [a, b, c, d, rest @ ..] = *octets;
        let [e, f, g, h, i, j, k, l, digest @ ..] = rest;
        Self {
            octets: u32::from_be_bytes([a, b, c, d]),
            messages: u64::from_be_bytes([e, f, g, h, i, j, k, l]),
            digest,
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let text = format!("another process has {}: another gate uses this spool.directory", path.display());
            Err(io::Error::new(io::ErrorKind::WouldBlock, text))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn digest(messages: u64, body: &[u8]) -> [u8; 8] {
    let mut hash = digest::Context::new(&SHA256);
    hash.update(&messages.to_be_bytes());
    hash.update(body);
    let mut digest = [0; 8];
    digest.iter_mut().zip(hash.finish().as_ref()).for_each(|(to, from)| *to = *from);
    digest
}

/// What the file begins with: its form. One with other columns gets another number.
const MAGIC: &[u8; 16] = b"dmarcgate rows1\n";
/// Octets of a [`Head`].
const HEAD: u64 = 4 + 8 + 8;

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::record::{Record, sample};
    use crate::store::Periods;
    use crate::store::batch::Waiting;

    fn batch(sequence: i64) -> Batch {
        let mut waiting = Waiting::default();
        for n in 0..3 {
            waiting.add(
                Row::new(Record { source_ip: [192, 0, 2, n].into(), ..sample::record() }, Periods::Days),
                usize::MAX,
            );
        }
        waiting.add(Row::new(sample::record(), Periods::Days), usize::MAX);
        waiting.depart(Stamp { writer: [1; 16], sequence }).unwrap()
    }

    /// All but the memory, which depends on how the texts were made.
    type Content = (Stamp, BTreeMap<crate::store::row::Key, Row>, u64);

    fn content(batch: Batch) -> Content {
        (batch.stamp, batch.rows, batch.messages)
    }

    fn first(spill: &Spill) -> Option<Content> {
        spill.first().unwrap().map(content)
    }

    fn settings(directory: &TempDir) -> Settings {
        Settings { path: directory.path().join("rows.spill"), octets: 1 << 20 }
    }

    #[test]
    fn batches_come_out_as_they_went_in_also_after_a_restart() {
        let directory = TempDir::new().unwrap();
        let settings = settings(&directory);
        let mut spill = Spill::open(&settings).unwrap();
        assert!(spill.is_empty());
        (1..=3).for_each(|n| spill.append(&batch(n)).unwrap());
        assert_eq!(first(&spill), Some(content(batch(1))));
        spill.remove_first().unwrap();
        assert_eq!(first(&spill), Some(content(batch(2))));
        assert_eq!(spill.messages(), 8);
        drop(spill);

        let mut spill = Spill::open(&settings).unwrap();
        assert_eq!(spill.messages(), 12, "what was taken out of a file that is not empty comes again");
        for n in 1..=3 {
            assert_eq!(first(&spill), Some(content(batch(n))));
            spill.remove_first().unwrap();
        }
        assert!(spill.is_empty());
        assert_eq!(spill.first().unwrap(), None);
        assert_eq!(std::fs::metadata(&settings.path).unwrap().len(), MAGIC.len() as u64);
    }

    #[test]
    fn wherever_the_last_record_was_torn_those_before_it_are_kept() {
        let directory = TempDir::new().unwrap();
        let settings = settings(&directory);
        let mut spill = Spill::open(&settings).unwrap();
        spill.append(&batch(1)).unwrap();
        let whole = spill.length();
        spill.append(&batch(2)).unwrap();
        drop(spill);
        let text = std::fs::read(&settings.path).unwrap();
        for cut in 0..text.len() {
            std::fs::write(&settings.path, &text[..cut]).unwrap();
            let mut spill = Spill::open(&settings).unwrap();
            let expected = (cut as u64 >= whole).then(|| content(batch(1)));
            assert_eq!(first(&spill), expected, "cut at {cut}");
            spill.append(&batch(3)).unwrap();
            if expected.is_some() {
                spill.remove_first().unwrap();
            }
            assert_eq!(first(&spill), Some(content(batch(3))), "cut at {cut}");
        }
        // Octets that were never written, as after a power failure.
        let mut zeros = text.clone();
        zeros[whole as usize..].fill(0);
        std::fs::write(&settings.path, &zeros).unwrap();
        assert_eq!(Spill::open(&settings).unwrap().messages(), 4);
    }

    #[test]
    fn it_is_bounded_and_of_one_process() {
        let directory = TempDir::new().unwrap();
        let settings = Settings { octets: 5000, ..settings(&directory) };
        let mut spill = Spill::open(&settings).unwrap();
        let taken = (1..100).take_while(|n| spill.append(&batch(*n)).is_ok()).count();
        assert!((1..10).contains(&taken), "{taken}");
        assert!(matches!(spill.append(&batch(100)), Err(Fault::Full)));
        assert!(spill.length() <= 5000);
        let taken_already = Spill::open(&settings).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(taken_already.contains(&settings.path.display().to_string()), "{taken_already}");
        assert!(taken_already.ends_with("another gate uses this spool.directory"), "{taken_already}");
        assert_eq!(spill.clear().unwrap(), 4 * taken as u64);
        spill.append(&batch(1)).unwrap();
    }

    #[test]
    fn a_file_of_another_form_is_put_aside() {
        let directory = TempDir::new().unwrap();
        let settings = settings(&directory);
        std::fs::write(&settings.path, "dmarcgate rows9\nsomething").unwrap();
        assert!(Spill::open(&settings).unwrap().is_empty());
        assert!(directory.path().join("rows.unreadable").exists());
    }
}
