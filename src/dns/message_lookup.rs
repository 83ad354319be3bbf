//! The look-ups of one message: its budget, its end, its evidence.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::metrics::Source;
use super::resolver::{Purpose, Resolver};
use super::{Answer, Asked, Failure, Lookup, Miss, RecordType};

/// What one message asks of DNS, and what it was told.
///
/// A question that is repeated gets the answer that it got before, costs nothing and is recorded once, so that all
/// parts of an evaluation see one DNS. Beyond the budget, and once it was expired, answers are
/// [`Failure::Budget`]: temporary, for nothing is known of the name.
pub struct MessageLookup {
    resolver: Resolver,
    expired: watch::Sender<bool>,
    budget: usize,
    spent: AtomicUsize,
    asked: Mutex<Vec<Asked>>,
}

/// The same handle, with evidence and end, but without a budget: for questions whose number the asker bounds itself, and
/// which must be asked even if a sender's records have used the budget up.
pub struct Unmetered<'a>(&'a MessageLookup);

/// The same handle, with evidence and end, but with a budget of its own: for questions that must not use up that of
/// the message. A question that the message has asked already costs it nothing.
pub struct Apart<'a> {
    lookup: &'a MessageLookup,
    left: AtomicUsize,
}

impl MessageLookup {
    pub(super) fn new(resolver: Resolver, budget: usize) -> Self {
        Self {
            resolver,
            expired: watch::Sender::new(false),
            budget,
            spent: AtomicUsize::new(0),
            asked: Mutex::default(),
        }
    }

    /// Ends all open questions, and those to come, as temporary failures: the message waits no longer.
    pub fn expire(&self) {
        self.expired.send_replace(true);
    }

    /// The handle without its budget.
    pub fn unmetered(&self) -> Unmetered<'_> {
        Unmetered(self)
    }

    /// The handle with a budget of its own: at most `questions`.
    pub fn apart(&self, questions: usize) -> Apart<'_> {
        Apart { lookup: self, left: AtomicUsize::new(questions) }
    }

    /// The questions so far with their answers, in the order of the answers.
    pub fn evidence(&self) -> Vec<Asked> {
        self.asked().clone()
    }

    fn asked(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, name: &str, record_type: RecordType) -> Option<Answer> {
        let asked = self.asked();
        asked.iter().find(|a| a.record_type == record_type && &*a.name == name).map(|a| a.answer.clone())
    }

    fn spend(&self, budget: Budget<'_>) -> bool {
        let update = |count: &AtomicUsize, spend: &dyn Fn(usize) -> Option<usize>| {
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
        };
        match budget {
            Budget::Metered => update(&self.spent, &|spent| (spent < self.budget).then_some(spent + 1)),
            Budget::Apart(left) => update(left, &|left| left.checked_sub(1)),
            Budget::Unmetered => true,
        }
    }

    async fn find(&self, name: &str, record_type: RecordType, budget: Budget<'_>) -> Answer {
        let Some(name) = normalize(name) else { return failed(Miss::NxDomain) };
        if let Some(answer) = self.known(&name, record_type) {
            return answer;
        }
        if !self.spend(budget) {
            return failed(Miss::Failed(Failure::Budget));
        }
        let start = Instant::now();
        let key = (name, record_type);
        let mut expired = self.expired.subscribe();
        let purpose = match budget {
            Budget::Metered | Budget::Apart(_) => Purpose::Identifier,
            Budget::Unmetered => Purpose::Policy,
        };
        let expired = async {
            // The sender is ours, so that this ends with the expiry alone.
            let _ = expired.wait_for(|expired| *expired).await;
        };
        let (answer, source) = self.resolver.ask(&key, purpose, expired).await;
        self.record(Asked {
            name: (&*key.0).into(),
            record_type,
            answer,
            waited: start.elapsed(),
            cached: source == Source::Cache,
        })
    }

    /// Keeps the answer as evidence. Of two that were under way at one time the first is kept and valid for both.
    fn record(&self, new: Asked) -> Answer {
        let mut asked = self.asked();
        if let Some(known) = asked.iter().find(|a| a.record_type == new.record_type && a.name == new.name) {
            return known.answer.clone();
        }
        let answer = new.answer.clone();
        asked.push(new);
        answer
    }
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
        self.lookup.find(name, record_type, Budget::Apart(&self.left)).await
    }
}

#[derive(Debug, Clone, Copy)]
enum Budget<'a> {
    Metered,
    Apart(&'a AtomicUsize),
    Unmetered,
}

fn failed(miss: Miss) -> Answer {
    Answer { outcome: Err(miss), ttl: Duration::ZERO }
}

/// The name in lower case without its trailing dot; none if DNS can't carry it (RFC 1035 §2.3.4). Octets of any kind
/// are fine: macros of SPF make names of local parts.
fn normalize(name: &str) -> Option<Arc<str>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = name.len() <= MAX_NAME && name.split('.').all(|label| (1..=MAX_LABEL).contains(&label.len()));
    fits.then(|| name.to_ascii_lowercase().into())
}

/// Octets of a name in text form (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;
/// Octets of a label (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

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
