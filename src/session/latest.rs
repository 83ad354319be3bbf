//! Remembers the last messages that did not go through, for the status page.
//!
//! It lives in memory alone and is lost with the process; log and store have the whole story. One short lock a message
//! that fails: what a reader takes is a copy.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::metrics::Outcome;

/// One message that was refused or deferred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The id of its transaction, which log, reply and explanation carry.
    pub id: Box<str>,
    /// When its end of data came, in seconds since the epoch.
    pub arrived: u64,
    /// The client's address.
    pub ip: IpAddr,
    /// The author domain, the first if there are several; none if From names none or nobody looked.
    pub author_domain: Option<Box<str>>,
    /// What became of it.
    pub outcome: Outcome,
    /// The reply to the client, its first line; the upstream's words may be in it.
    pub reply: Box<str>,
    /// Whether an explanation was handed in.
    pub is_explained: bool,
}

/// The last refusals. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Latest(Arc<Mutex<VecDeque<Refusal>>>);

impl Latest {
    /// Remembers one, and forgets the oldest beyond [`MOST`].
    pub fn put(&self, mut refusal: Refusal) {
        if refusal.reply.len() > MAX_REPLY {
            let end = refusal.reply.floor_char_boundary(MAX_REPLY);
            refusal.reply = refusal.reply.get(..end).unwrap_or_default().into();
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.pop_front();
        }
        all.push_back(refusal);
    }

    /// The last ones, the newest first; at most `most`.
    pub fn list(&self, most: usize) -> Vec<Refusal> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().rev().take(most).cloned().collect()
    }
}

/// How many are remembered: some hundred kilobytes at most.
pub const MOST: usize = 200;
/// Octets of a reply that are remembered.
const MAX_REPLY: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_the_oldest_are_forgotten() {
        let latest = Latest::default();
        for n in 0..MOST as u64 + 5 {
            latest.clone().put(Refusal {
                id: n.to_string().into(),
                arrived: n,
                ip: [192, 0, 2, 1].into(),
                author_domain: None,
                outcome: Outcome::Refused,
                reply: "\u{e9}".repeat(1000).into(),
                is_explained: true,
            });
        }
        let all = latest.list(usize::MAX);
        assert_eq!((all.len(), all[0].arrived, all[MOST - 1].arrived), (MOST, MOST as u64 + 4, 5));
        assert_eq!(all[0].reply.len(), MAX_REPLY);
        assert_eq!(latest.list(2).len(), 2);
    }
}
