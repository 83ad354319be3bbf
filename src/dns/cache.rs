//! Remembers answers for as long as DNS and the settings allow.
//!
//! Each entry expires on its own: records by their TTL, NXDOMAIN and NODATA by the SOA's (RFC 2308 §5), failures after
//! a few seconds, so that a dead zone costs its time-out once and not with every message. Failures of the gate itself
//! are not kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache as Moka;
use moka::notification::RemovalCause;

use super::resolver::Settings;
use super::transport::Resolution;
use super::{Answer, Miss, RecordType, Records};
use crate::metrics::IntCounter;

/// A question: a name in lower case without a trailing dot, and a type.
pub(super) type Key = (Arc<str>, RecordType);

/// The answers that are remembered; bounded by number, large ones counting for several.
pub(super) struct Cache {
    entries: Moka<Key, Entry>,
    bounds: Bounds,
}

#[derive(Clone)]
struct Entry {
    outcome: Result<Arc<Records>, Miss>,
    lifetime: Duration,
    until: Instant,
}

struct Bounds {
    min_ttl: Duration,
    max_ttl: Duration,
    max_negative_ttl: Duration,
    failure_ttl: Duration,
}

struct Lifetime;

impl Cache {
    /// An empty cache; `evictions` counts what leaves it for want of room.
    pub fn new(settings: &Settings, evictions: IntCounter) -> Self {
        let entries = Moka::builder()
            .max_capacity(settings.cache_entries)
            .weigher(weight)
            .expire_after(Lifetime)
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    evictions.inc();
                }
            })
            .build();
        let bounds = Bounds {
            min_ttl: settings.min_ttl,
            max_ttl: settings.max_ttl,
            max_negative_ttl: settings.max_negative_ttl,
            failure_ttl: settings.failure_ttl,
        };
        Self { entries, bounds }
    }

    /// The answer, if it is still good.
    pub async fn get(&self, key: &Key) -> Option<Answer> {
        let entry = self.entries.get(key).await?;
        let ttl = entry.until.checked_duration_since(Instant::now())?;
        Some(Answer { outcome: entry.outcome, ttl })
    }

    /// Remembers `resolution` and says how long.
    pub async fn fill(&self, key: Key, resolution: Resolution) -> Answer {
        let lifetime = self.bounds.lifetime(&resolution);
        let outcome = resolution.outcome.map(Arc::new);
        if !lifetime.is_zero() {
            let entry = Entry { outcome: outcome.clone(), lifetime, until: Instant::now() + lifetime };
            self.entries.insert(key, entry).await;
        }
        Answer { outcome, ttl: lifetime }
    }

    /// About how many entries there are.
    pub fn len(&self) -> u64 {
        self.entries.entry_count()
    }
}

impl Bounds {
    fn lifetime(&self, resolution: &Resolution) -> Duration {
        let within = |ttl: Duration, max: Duration| ttl.max(self.min_ttl).min(max);
        match (&resolution.outcome, resolution.ttl) {
            (Ok(_), ttl) => within(ttl.unwrap_or_default(), self.max_ttl),
            (Err(Miss::NoData | Miss::NxDomain), Some(ttl)) => within(ttl, self.max_negative_ttl),
            // Nobody was asked: that the gate had no socket left says nothing about the name, and may be over by now.
            (Err(Miss::Failed(failure)), _) if failure.is_ours() => Duration::ZERO,
            // Without an SOA nobody said for how long (RFC 2308 §5): as long as a failure.
            (Err(_), _) => self.failure_ttl,
        }
    }
}

impl Expiry<Key, Entry> for Lifetime {
    fn expire_after_create(&self, _: &Key, entry: &Entry, _: Instant) -> Option<Duration> {
        Some(entry.lifetime)
    }

    fn expire_after_update(&self, _: &Key, entry: &Entry, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(entry.lifetime)
    }
}

/// How many entries an answer counts for, with what will be made of it: that stays as long as the answer does.
fn weight(_: &Key, entry: &Entry) -> u32 {
    let octets = entry.outcome.as_ref().map_or(0, |records| records.footprint());
    u32::try_from(octets / OCTETS_PER_ENTRY).unwrap_or(u32::MAX).saturating_add(1)
}

/// What one entry may hold before it counts for more: most answers stay below.
const OCTETS_PER_ENTRY: usize = 1024;

#[cfg(test)]
mod tests {
    use super::super::{Failure, TxtRecords};
    use super::*;

    fn cache(settings: &Settings) -> Cache {
        Cache::new(settings, evictions())
    }

    fn evictions() -> IntCounter {
        crate::metrics::Registry::new().counter("dmarcgate_test_total", "Evictions.")
    }

    fn resolution(outcome: Result<Records, Miss>, ttl: Option<u64>) -> Resolution {
        Resolution { outcome, ttl: ttl.map(Duration::from_secs) }
    }

    fn address() -> Result<Records, Miss> {
        Ok(Records::A(vec!["192.0.2.1".parse().unwrap()]))
    }

    #[tokio::test]
    async fn answers_are_kept_within_the_bounds() {
        let settings = Settings {
            min_ttl: Duration::from_secs(5),
            max_ttl: Duration::from_secs(3600),
            max_negative_ttl: Duration::from_secs(300),
            failure_ttl: Duration::from_secs(3),
            ..Settings::default()
        };
        let cases = [
            ("records within the bounds", resolution(address(), Some(60)), 60),
            ("records of no duration", resolution(address(), Some(0)), 5),
            ("records for a week", resolution(address(), Some(604_800)), 3600),
            ("no data by the SOA", resolution(Err(Miss::NoData), Some(60)), 60),
            ("no name for a day", resolution(Err(Miss::NxDomain), Some(86_400)), 300),
            ("no name, no SOA", resolution(Err(Miss::NxDomain), None), 3),
            ("a failure", resolution(Err(Miss::Failed(Failure::ServFail)), None), 3),
        ];
        for (case, resolution, seconds) in cases {
            let cache = cache(&settings);
            let key: Key = ("a.example".into(), RecordType::A);
            let filled = cache.fill(key.clone(), resolution).await;
            assert_eq!(filled.ttl, Duration::from_secs(seconds), "{case}");
            let kept = cache.get(&key).await.expect(case);
            assert!(kept.ttl <= filled.ttl && kept.ttl > filled.ttl - Duration::from_secs(2), "{case}");
        }
    }

    #[tokio::test]
    async fn what_may_not_be_kept_is_not() {
        let brief = Settings { failure_ttl: Duration::ZERO, ..Settings::default() };
        for (case, settings, failure) in [
            ("failures are not to be kept", brief, Failure::Timeout),
            ("the gate's own want of sockets", Settings::default(), Failure::Overload),
        ] {
            let cache = cache(&settings);
            let key: Key = ("a.example".into(), RecordType::A);
            let filled = cache.fill(key.clone(), resolution(Err(Miss::Failed(failure)), None)).await;
            assert_eq!(filled.ttl, Duration::ZERO, "{case}");
            assert!(cache.get(&key).await.is_none(), "{case}");
        }
    }

    #[test]
    fn an_answer_counts_for_what_is_made_of_it() {
        let weight_of = |text: &str| {
            let records = Records::Txt(TxtRecords::new(vec![text.as_bytes().into()]));
            let outcome = Ok(Arc::new(records));
            let entry = Entry { outcome, lifetime: Duration::ZERO, until: Instant::now() };
            weight(&("a.example".into(), RecordType::Txt), &entry)
        };
        assert_eq!(weight_of("v=DMARC1; p=reject; rua=mailto:a@example.org"), 1);
        assert_eq!(weight_of(&format!("v=DKIM1; k=rsa; p={}", "A".repeat(392))), 2);
        // What is read in place of one octet takes far more.
        let many = weight_of(&format!("v=spf1 {}", "a ".repeat(400)));
        assert!((50..70).contains(&many), "{many}");
        // But no answer drives out a large part of the cache.
        assert!(weight_of(&"% ".repeat(32_000)) < 350);
    }

    #[tokio::test]
    async fn the_number_of_answers_is_bounded_and_large_ones_count_for_more() {
        let settings = Settings { cache_entries: 100, ..Settings::default() };
        let large = || Ok(Records::Txt(TxtRecords::new(vec![vec![b'x'; 20 * OCTETS_PER_ENTRY].into()])));
        for (case, outcome, most) in
            [("small", &address as &dyn Fn() -> Result<Records, Miss>, 100), ("large", &large, 5)]
        {
            let cache = cache(&settings);
            for n in 0..1000 {
                cache.fill((format!("n{n}.example").into(), RecordType::A), resolution(outcome(), Some(60))).await;
            }
            cache.entries.run_pending_tasks().await;
            assert!(cache.len() <= most, "{case}: {}", cache.len());
        }
    }
}
