//! The look-ups of one message: its budget, its end, its evidence.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::lane::Purpose;
use super::metrics::Source;
use super::resolver::{Asking, Resolver};
use super::share::Share;
use super::{Answer, Asked, Evidence, Failure, Lookup, Miss, RecordType};
use crate::domain::fits_dns;

/// What one message asks of DNS, and what it was told.
///
/// A question that is repeated gets the answer that it got before, costs nothing and is recorded once, so that all
/// parts of an evaluation see one DNS. Beyond the budget answers are [`Failure::Budget`], and once it was expired
/// [`Failure::Deadline`]: temporary, for nothing is known of the name. What is held of answers is bounded, too, since a
/// message may last for half an hour: beyond [`MAX_OCTETS`] an answer to a metered question is `Failure::Budget`; one
/// to an unmetered question is given, but not kept as evidence, and would be asked for again. The same holds where the
/// messages of the client's network, or of all, hold too much together, but that this is [`Failure::Overload`];
/// [`OWN_OCTETS`] no other message can take away. Questions that were not put are kept as evidence, too, as far as
/// [`MAX_UNASKED`]: who looks for what was missing finds the bound and not a gap.
pub struct MessageLookup {
    resolver: Resolver,
    /// Of the client's network.
    share: Arc<Share>,
    expired: watch::Sender<bool>,
    budget: usize,
    /// Whether a bound kept something from being asked or held.
    exhausted: AtomicBool,
    spent: AtomicUsize,
    /// Octets of the answers to metered questions.
    octets: AtomicUsize,
    /// Octets of the answers to unmetered questions that are kept.
    unmetered_octets: AtomicUsize,
    /// Octets of all answers that are kept.
    held: AtomicUsize,
    evidence: Mutex<Evidence>,
}

/// The same handle, with its evidence and deadline, but without a budget: for questions whose number the caller bounds,
/// and which must be asked even if a sender's records have used up the budget.
pub struct Unmetered<'a>(&'a MessageLookup);

/// The same handle, with its evidence and deadline, but with a budget of its own: for questions that must not use up
/// the message's. A question that the message has asked already costs nothing.
pub struct Apart<'a> {
    lookup: &'a MessageLookup,
    left: AtomicUsize,
    octets: AtomicUsize,
}

impl MessageLookup {
    pub(super) fn new(resolver: Resolver, share: Arc<Share>, budget: usize) -> Self {
        Self {
            resolver,
            share,
            expired: watch::Sender::new(false),
            budget,
            spent: AtomicUsize::new(0),
            exhausted: AtomicBool::new(false),
            octets: AtomicUsize::new(0),
            unmetered_octets: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            evidence: Mutex::default(),
        }
    }

    /// Ends all open questions, and those to come, as temporary failures: the message waits no longer.
    pub fn expire(&self) {
        self.expired.send_replace(true);
    }

    /// Whether that has happened.
    pub fn is_expired(&self) -> bool {
        *self.expired.borrow()
    }

    /// Whether a question was not put, or an answer not held, because of a bound.
    pub fn is_exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Relaxed)
    }

    /// The handle without its budget.
    pub fn unmetered(&self) -> Unmetered<'_> {
        Unmetered(self)
    }

    /// The handle with a budget of its own: at most `questions`, and [`MAX_OCTETS`].
    pub fn apart(&self, questions: usize) -> Apart<'_> {
        Apart { lookup: self, left: AtomicUsize::new(questions), octets: AtomicUsize::new(0) }
    }

    /// The questions so far with their answers.
    pub fn evidence(&self) -> Evidence {
        self.kept().clone()
    }

    /// The same at the end of the message, without a copy: the handle forgets it.
    pub fn take_evidence(&self) -> Evidence {
        std::mem::take(&mut self.kept())
    }

    fn kept(&self) -> MutexGuard<'_, Evidence> {
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, name: &str, record_type: RecordType) -> Option<Answer> {
        let evidence = self.kept();
        let known = evidence.asked.iter().find(|a| a.record_type == record_type && &*a.name == name);
        // What one budget had nothing left for another may yet ask.
        known.filter(|known| !known.was_not_put()).map(|known| known.answer.clone())
    }

    fn spend(&self, budget: Budget<'_>) -> bool {
        let update = |count: &AtomicUsize, spend: &dyn Fn(usize) -> Option<usize>| {
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
        };
        match budget {
            Budget::Metered => update(&self.spent, &|spent| (spent < self.budget).then_some(spent + 1)),
            Budget::Apart(apart) => update(&apart.left, &|left| left.checked_sub(1)),
            Budget::Unmetered => true,
        }
    }

    /// Takes room for an answer. One that does not fit uses nothing up.
    ///
    /// # Errors
    ///
    /// The message holds too much, or others do.
    fn take_room(&self, budget: Budget<'_>, answer: &Answer) -> Result<(), Failure> {
        let octets = match budget {
            Budget::Metered => &self.octets,
            Budget::Apart(apart) => &apart.octets,
            Budget::Unmetered => &self.unmetered_octets,
        };
        let new = answer.outcome.as_ref().map_or(0, |records| records.octets());
        let add = |held: usize| held.checked_add(new).filter(|held| *held <= MAX_OCTETS);
        if octets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
            return Err(Failure::Budget);
        }
        let before = self.held.fetch_add(new, Ordering::Relaxed);
        if !self.share.hold(charged(before + new) - charged(before)) {
            self.held.fetch_sub(new, Ordering::Relaxed);
            octets.fetch_sub(new, Ordering::Relaxed);
            return Err(Failure::Overload);
        }
        Ok(())
    }

    async fn find(&self, name: &str, record_type: RecordType, budget: Budget<'_>) -> Answer {
        let Some(name) = normalize(name) else { return Answer::without_records(Miss::NxDomain) };
        if let Some(answer) = self.known(&name, record_type) {
            return answer;
        }
        if !self.spend(budget) {
            return self.record_unasked(name, record_type);
        }
        let start = Instant::now();
        let key = (name, record_type);
        let purpose = match budget {
            Budget::Metered | Budget::Apart(_) => Purpose::Identifier,
            Budget::Unmetered => Purpose::Policy,
        };
        let asking = Asking { purpose, share: &self.share, expired: self.expired.subscribe() };
        let (answer, source) = self.resolver.ask(&key, asking).await;
        let asked =
            Asked { name: key.0, record_type, answer, waited: start.elapsed(), cached: source == Source::Cache };
        self.record(asked, budget)
    }

    /// Keeps as evidence that a question was not put, each once.
    fn record_unasked(&self, name: Arc<str>, record_type: RecordType) -> Answer {
        self.exhausted.store(true, Ordering::Relaxed);
        let answer = self.resolver.give_up(Failure::Budget);
        let mut evidence = self.kept();
        let unasked = || evidence.asked.iter().filter(|asked| asked.was_not_put());
        if unasked().any(|asked| asked.record_type == record_type && asked.name == name) {
            return answer;
        }
        if unasked().count() < MAX_UNASKED {
            let waited = Duration::ZERO;
            evidence.asked.push(Asked { name, record_type, answer: answer.clone(), waited, cached: false });
        } else {
            evidence.left_out += 1;
        }
        answer
    }

    /// Keeps the answer as evidence. If two were under way at a time, the first is kept and counts for both.
    fn record(&self, new: Asked, budget: Budget<'_>) -> Answer {
        let mut evidence = self.kept();
        let is_same = |a: &Asked| a.record_type == new.record_type && a.name == new.name;
        if let Some(known) = evidence.asked.iter().find(|a| is_same(a) && !a.was_not_put()) {
            return known.answer.clone();
        }
        // It takes the place of what another budget had nothing left for.
        evidence.asked.retain(|a| !is_same(a));
        if let Err(failure) = self.take_room(budget, &new.answer) {
            evidence.left_out += 1;
            self.exhausted.store(true, Ordering::Relaxed);
            return match budget {
                Budget::Unmetered => new.answer,
                Budget::Metered | Budget::Apart(_) => self.resolver.give_up(failure),
            };
        }
        let answer = new.answer.clone();
        evidence.asked.push(new);
        answer
    }
}

impl Drop for MessageLookup {
    fn drop(&mut self) {
        self.share.let_go(charged(self.held.load(Ordering::Relaxed)));
    }
}

/// The part of what a message holds that counts for its network.
fn charged(held: usize) -> usize {
    held.saturating_sub(OWN_OCTETS)
}

impl Lookup for MessageLookup {
    async fn ask(&self, name: &str, record_type: RecordType) -> Answer {
        self.find(name, record_type, Budget::Metered).await
    }
}

impl Lookup for Unmetered<'_> {
    async fn ask(&self, name: &str, record_type: RecordType) -> Answer {
        self.0.find(name, record_type, Budget::Unmetered).await
    }
}

impl Lookup for Apart<'_> {
    async fn ask(&self, name: &str, record_type: RecordType) -> Answer {
        self.lookup.find(name, record_type, Budget::Apart(self)).await
    }
}

#[derive(Clone, Copy)]
enum Budget<'a> {
    Metered,
    Apart(&'a Apart<'a>),
    Unmetered,
}

/// The name in lower case without its trailing dot; none if DNS can't carry it.
fn normalize(name: &str) -> Option<Arc<str>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    // Nearly all are in lower case already.
    let is_lower = !name.bytes().any(|b| b.is_ascii_uppercase());
    fits_dns(name).then(|| if is_lower { name.into() } else { name.to_ascii_lowercase().into() })
}

/// Octets of answers that a message holds of its metered questions, and as many of the unmetered ones and of those
/// apart: the largest records of SPF and the keys of twenty signatures are some tens of kilobytes together.
pub const MAX_OCTETS: usize = 256 * 1024;
/// Octets of answers that a message holds whatever others hold: more than the records of most messages have.
pub const OWN_OCTETS: usize = 8 * 1024;
/// Questions that were not put and are kept as evidence: more than the keys of all signatures and sealers of a message.
pub const MAX_UNASKED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_dns_cannot_carry_are_not_asked_for() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        let cases = [
            ("Example.ORG", Some("example.org")),
            ("example.org.", Some("example.org")),
            ("strange name!.example", Some("strange name!.example")),
            ("grün.example", Some("grün.example")),
            (&longest, Some(&*longest)),
            ("", None),
            (".", None),
            ("a..example", None),
            (".example", None),
            ("example..", None),
            (&format!("{label}a.example"), None),
            (&format!("{longest}b"), None),
        ];
        for (name, expected) in cases {
            assert_eq!(normalize(name).as_deref(), expected, "{name}");
        }
    }
}
