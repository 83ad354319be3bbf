//! Rows and explanations on their way to the database: added up while they wait, stamped once they go.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};

use crate::store::Explanation;
use crate::store::comparison::ComparisonRow;
use crate::store::row::{Key, Row};

/// What waits, added up, with its number of messages and its octets.
#[derive(Default)]
pub struct Waiting {
    rows: BTreeMap<Key, Row>,
    /// Messages that the rows stand for.
    pub messages: u64,
    /// Octets of the rows.
    pub memory: usize,
    comparisons: BTreeMap<Key, ComparisonRow>,
    /// Their octets.
    compared: usize,
    /// Explanations, which are tried once more with each attempt and never spilled.
    pub explanations: Vec<Explanation>,
    /// Their octets.
    pub explained: usize,
    /// Octets of those that were taken and may come back.
    taken: usize,
}

/// Rows that go to the database together. They are never added to, so that a batch of which nobody knows whether the
/// database took it can be offered again under the same stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The stamp under which the database takes it once.
    pub stamp: Stamp,
    /// By key, which is the order in which they are written.
    pub rows: BTreeMap<Key, Row>,
    /// The same for comparisons.
    pub comparisons: BTreeMap<Key, ComparisonRow>,
    /// Messages that the rows stand for.
    pub messages: u64,
    /// Octets of the rows.
    pub memory: usize,
    /// Octets of the comparisons.
    pub compared: usize,
}

/// Says which batch it is: the database keeps the last sequence number of each writer, and takes none that is not
/// higher. Hence a writer's batches are offered in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// One run of one gate.
    pub writer: WriterId,
    /// Counts its batches, from 1.
    pub sequence: i64,
}

/// Random, made at the start of a gate.
pub type WriterId = [u8; 16];

impl Waiting {
    /// Adds a row, if its like waits or `room` is enough for all rows.
    pub fn add(&mut self, row: Row, room: usize) -> bool {
        let memory = row.memory();
        match self.rows.entry(row.key()) {
            Entry::Occupied(mut like) => like.get_mut().add(&row),
            Entry::Vacant(_) if self.memory + memory > room => return false,
            Entry::Vacant(place) => {
                place.insert(row);
                self.memory += memory;
            }
        }
        self.messages += 1;
        true
    }

    /// Adds an explanation, if those that wait, or were taken and may come back, leave room for it.
    pub fn explain(&mut self, explanation: Explanation, room: usize) -> bool {
        let octets = explanation.body.len();
        if self.explained + self.taken + octets > room {
            return false;
        }
        self.explained += octets;
        self.explanations.push(explanation);
        true
    }

    /// Adds a comparison, if its like waits or `room` is enough for all comparisons.
    pub fn compare(&mut self, row: ComparisonRow, room: usize) -> bool {
        let memory = row.memory();
        match self.comparisons.entry(row.key()) {
            Entry::Occupied(mut like) => like.get_mut().count = like.get().count.saturating_add(row.count),
            Entry::Vacant(_) if self.compared + memory > room => return false,
            Entry::Vacant(place) => {
                place.insert(row);
                self.compared += memory;
            }
        }
        true
    }

    /// Takes the explanations, with their octets, which count until they are put back or let go.
    pub fn take_explanations(&mut self) -> (Vec<Explanation>, usize) {
        self.taken = std::mem::take(&mut self.explained);
        (std::mem::take(&mut self.explanations), self.taken)
    }

    /// Takes explanations back that could not be written.
    pub fn put_back(&mut self, explanations: Vec<Explanation>) {
        self.explained += explanations.iter().map(|explanation| explanation.body.len()).sum::<usize>();
        self.explanations.extend(explanations);
        self.taken = 0;
    }

    /// Forgets those that were taken: they are written.
    pub fn let_go(&mut self) {
        self.taken = 0;
    }

    /// Whether rows or comparisons wait.
    pub fn has_rows(&self) -> bool {
        !self.rows.is_empty() || !self.comparisons.is_empty()
    }

    /// Rows, comparisons and explanations.
    pub fn len(&self) -> usize {
        self.rows.len() + self.comparisons.len() + self.explanations.len()
    }

    /// The first rows and comparisons, at most [`MAX_BATCH_ROWS`] of each; none if none wait.
    pub fn depart(&mut self, stamp: Stamp) -> Option<Batch> {
        if !self.has_rows() {
            return None;
        }
        let batch = Batch::new(stamp, first(&mut self.rows), first(&mut self.comparisons));
        self.compared = self.compared.saturating_sub(batch.compared);
        self.messages = self.messages.saturating_sub(batch.messages);
        self.memory = self.memory.saturating_sub(batch.memory);
        Some(batch)
    }
}

impl Batch {
    /// A batch of these rows.
    pub fn new(stamp: Stamp, rows: BTreeMap<Key, Row>, comparisons: BTreeMap<Key, ComparisonRow>) -> Self {
        let messages = rows.values().map(|row| row.count.unsigned_abs()).sum();
        let memory = rows.values().map(Row::memory).sum();
        let compared = comparisons.values().map(ComparisonRow::memory).sum();
        Self { stamp, rows, comparisons, messages, memory, compared }
    }
}

/// Takes the first out, at most [`MAX_BATCH_ROWS`].
fn first<R>(all: &mut BTreeMap<Key, R>) -> BTreeMap<Key, R> {
    let mut taken = BTreeMap::new();
    while taken.len() < MAX_BATCH_ROWS
        && let Some((key, row)) = all.pop_first()
    {
        taken.insert(key, row);
    }
    taken
}

/// Rows of one batch at most, so that a transaction stays below some hundred milliseconds, over a network too.
pub const MAX_BATCH_ROWS: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Record, sample};
    use crate::store::Periods;

    #[test]
    fn what_departs_is_no_longer_counted_as_waiting() {
        let mut waiting = Waiting::default();
        for n in 0..MAX_BATCH_ROWS as u32 + 10 {
            for _ in 0..2 {
                let record = Record { source_ip: std::net::Ipv4Addr::from_bits(n).into(), ..sample::record() };
                assert!(waiting.add(Row::new(record, Periods::Days), usize::MAX));
            }
        }
        let stamp = Stamp { writer: [7; 16], sequence: 1 };
        let first = waiting.depart(stamp).unwrap();
        assert_eq!((first.rows.len(), first.messages), (MAX_BATCH_ROWS, 2 * MAX_BATCH_ROWS as u64));
        let second = waiting.depart(stamp).unwrap();
        assert_eq!((second.rows.len(), second.messages), (10, 20));
        assert_eq!((waiting.messages, waiting.memory, waiting.len()), (0, 0, 0));
        assert_eq!(waiting.depart(stamp), None);
    }

    #[test]
    fn explanations_that_come_back_find_their_room() {
        let explanation = || Explanation { id: "ID".into(), arrived: 0, body: [0; 1000].into() };
        let fill = |waiting: &mut Waiting| (0..10).filter(|_| waiting.explain(explanation(), 5000)).count();
        let mut waiting = Waiting::default();
        assert_eq!(fill(&mut waiting), 5);
        for _ in 0..3 {
            let (taken, octets) = waiting.take_explanations();
            assert_eq!((taken.len(), octets, fill(&mut waiting)), (5, 5000, 0));
            waiting.put_back(taken);
            assert_eq!((waiting.explained, fill(&mut waiting)), (5000, 0));
        }
        waiting.take_explanations();
        waiting.let_go();
        assert_eq!(fill(&mut waiting), 5);
    }
}
