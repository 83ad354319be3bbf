//! A record as the table holds it: texts in the order of the columns, and a key over all of them.

use std::borrow::Cow;

use aws_lc_rs::digest::{self, SHA256};
use serde::{Deserialize, Serialize};

use crate::calendar::SECONDS_PER_DAY;
use crate::dmarc::record::{Parsed, parse};
use crate::domain::Domain;
use crate::label::Label;
use crate::label_enum;
use crate::record::{Counted, PolicyEvaluated, PolicyPublished, Record, SpfAuthResult};

/// The part of a UTC day that a report covers: a number of hours that divides the day, and never crosses its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The hour with which it begins, a multiple of `hours`.
    pub begin_hour: i64,
    /// How many hours it has; 24: the whole day.
    pub hours: i64,
}

label_enum! {
    /// Which part of a day the row of a message is of.
    pub enum Periods {
        /// The whole day, always.
        Days = "days",
        /// What the owner of the policy domain asks for (`ri`, RFC 7489 §6.3).
        AsRequested = "as_requested",
    }
}

/// Messages of one UTC day that a report would not tell apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Days since the epoch, UTC.
    pub day: i64,
    /// The part of it; in rows of earlier versions the whole.
    #[serde(default)]
    pub part: Part,
    /// How many messages.
    pub count: i64,
    /// The first one's arrival, in seconds since the epoch.
    pub first_seen: i64,
    /// The last one's.
    pub last_seen: i64,
    /// The text columns, in the order in which `statements` names them.
    pub texts: [Text; TEXT_COLUMNS],
}

/// What a column holds. Most are words of ours.
pub type Text = Cow<'static, str>;

/// SHA-256 over the day, its part and the texts: equal keys are equal rows, and no peer can find two rows with the same
/// key.
pub type Key = [u8; 32];

impl Row {
    /// The row of one message.
    pub fn new(record: Record, periods: Periods) -> Self {
        let record = record.bounded();
        let (day, arrived) = (record.day(), record.arrived);
        let part = match periods {
            Periods::Days => Part::default(),
            Periods::AsRequested => Part::at(arrived, hours(requested_interval(&record))),
        };
        Self { day, part, count: 1, first_seen: arrived, last_seen: arrived, texts: texts(record) }
    }

    /// The key. That of a row of a whole day says nothing of its part, as in earlier versions.
    pub fn key(&self) -> Key {
        match self.part == Part::default() {
            true => key(self.day, &self.texts),
            false => finished(hashed(self.day, &self.texts), &[self.part.begin_hour, self.part.hours]),
        }
    }

    /// Adds the messages of `other`, a row with the same key.
    pub fn add(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.first_seen = self.first_seen.min(other.first_seen);
        self.last_seen = self.last_seen.max(other.last_seen);
    }

    /// Whether the report of its period may have been made by `now`, in seconds since the epoch.
    pub fn is_late(&self, now: i64) -> bool {
        let end = self.day * SECONDS_PER_DAY + (self.part.begin_hour + self.part.hours) * SECONDS_PER_HOUR;
        end + SETTLING <= now
    }

    /// Octets of memory, roughly.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + size_of::<Key>() + octets(&self.texts)
    }
}

/// Octets that texts take beside themselves.
pub fn octets(texts: &[Text]) -> usize {
    let octets = |text: &Text| match text {
        Cow::Borrowed(_) => 0,
        Cow::Owned(text) => text.capacity(),
    };
    texts.iter().map(octets).sum()
}

impl Part {
    /// The part of so many hours in which a moment lies, in seconds since the epoch.
    fn at(moment: i64, hours: i64) -> Self {
        let hour = moment.rem_euclid(SECONDS_PER_DAY) / SECONDS_PER_HOUR;
        Self { begin_hour: hour - hour % hours, hours }
    }
}

impl Default for Part {
    fn default() -> Self {
        Self { begin_hour: 0, hours: 24 }
    }
}

/// What `ri` of a message's policy record says, in seconds.
fn requested_interval(record: &Record) -> Option<u32> {
    match parse(record.policy.as_ref()?.record.as_bytes()) {
        Parsed::Record(record) => record.ri,
        Parsed::Foreign => None,
    }
}

/// The hours of a period for an owner who asks for a report every so many seconds: never more often than that, nor than
/// every hour, and so that periods fill a UTC day.
fn hours(interval: Option<u32>) -> i64 {
    let wanted = i64::from(interval.unwrap_or(u32::MAX));
    HOURS.into_iter().find(|hours| hours * SECONDS_PER_HOUR >= wanted).unwrap_or(24)
}

/// The key of a day and texts; every part is preceded by its length, so that no text can pass for two.
pub fn key(day: i64, texts: &[Text]) -> Key {
    finished(hashed(day, texts), &[])
}

fn finished(mut hash: digest::Context, numbers: &[i64]) -> Key {
    numbers.iter().for_each(|number| hash.update(&number.to_be_bytes()));
    let mut key = Key::default();
    key.iter_mut().zip(hash.finish().as_ref()).for_each(|(to, from)| *to = *from);
    key
}

fn hashed(day: i64, texts: &[Text]) -> digest::Context {
    let mut hash = digest::Context::new(&SHA256);
    hash.update(&day.to_be_bytes());
    for text in texts {
        hash.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(text.as_bytes());
    }
    hash
}

fn texts(record: Record) -> [Text; TEXT_COLUMNS] {
    let [policy_domain, discovery, policy_record, adkim, aspf, p, sp, np, fo, testing, requested] =
        policy_texts(record.policy);
    let (spf_domain, spf_scope, spf_result) = record
        .spf
        .map_or_else(Default::default, |spf| (Text::Owned(spf.domain), word(spf.scope), Text::Owned(spf.result)));
    [
        record.source_ip.to_string().into(),
        policy_domain,
        discovery,
        policy_record,
        adkim,
        aspf,
        p,
        sp,
        np,
        fo,
        testing,
        requested,
        word(record.evaluated.disposition),
        word(record.evaluated.dkim),
        word(record.evaluated.spf),
        json(&record.evaluated.reasons),
        record.header_from.as_ref().map(name).unwrap_or_default(),
        record.envelope_from.into(),
        record.envelope_to.unwrap_or_default().into(),
        json(&record.dkim),
        spf_domain,
        spf_scope,
        spf_result,
        word(record.reply),
    ]
}

/// `policy_domain` to `requested`; empty where no policy applied.
fn policy_texts(policy: Option<PolicyPublished>) -> [Text; 11] {
    let Some(policy) = policy else { return Default::default() };
    [
        name(&policy.domain),
        word(policy.discovery),
        policy.record.into(),
        word(policy.adkim),
        word(policy.aspf),
        word(policy.p),
        policy.sp.map(word).unwrap_or_default(),
        policy.np.map(word).unwrap_or_default(),
        policy.fo.into(),
        word(policy.testing),
        word(policy.requested),
    ]
}

/// The record of a row that was read back, and how often it was met. It arrived when the first of its messages did.
///
/// # Errors
///
/// A text that this version doesn't know.
pub fn counted(count: i64, arrived: i64, texts: [String; TEXT_COLUMNS]) -> Result<Counted, sqlx::Error> {
    let [
        source_ip,
        policy_domain,
        discovery,
        policy_record,
        adkim,
        aspf,
        p,
        sp,
        np,
        fo,
        testing,
        requested,
        disposition,
        dkim_aligned,
        spf_aligned,
        reasons,
        header_from,
        envelope_from,
        envelope_to,
        dkim_results,
        spf_domain,
        spf_scope,
        spf_result,
        reply,
    ] = texts;
    let policy = [policy_domain, discovery, policy_record, adkim, aspf, p, sp, np, fo, testing, requested];
    let record = Record {
        arrived,
        source_ip: source_ip.parse().map_err(|_| unknown(&source_ip))?,
        policy: self::policy(policy)?,
        evaluated: PolicyEvaluated {
            disposition: label(&disposition)?,
            dkim: label(&dkim_aligned)?,
            spf: label(&spf_aligned)?,
            reasons: serde_json::from_str(&reasons).map_err(|_| unknown(&reasons))?,
        },
        header_from: (!header_from.is_empty()).then(|| domain(&header_from)).transpose()?,
        envelope_from,
        envelope_to: (!envelope_to.is_empty()).then_some(envelope_to),
        dkim: serde_json::from_str(&dkim_results).map_err(|_| unknown(&dkim_results))?,
        spf: match &*spf_scope {
            "" => None,
            scope => Some(SpfAuthResult { domain: spf_domain, scope: label(scope)?, result: spf_result }),
        },
        reply: label(&reply)?,
    };
    Ok(Counted { record, count: count.unsigned_abs() })
}

/// The policy in the texts from `policy_domain` to `requested`; none where none applied.
///
/// # Errors
///
/// A text that this version doesn't know.
pub fn policy(texts: [String; 11]) -> Result<Option<PolicyPublished>, sqlx::Error> {
    let [policy_domain, discovery, record, adkim, aspf, p, sp, np, fo, testing, requested] = texts;
    if policy_domain.is_empty() {
        return Ok(None);
    }
    let optional = |text: &str| if text.is_empty() { Ok(None) } else { label(text).map(Some) };
    Ok(Some(PolicyPublished {
        domain: domain(&policy_domain)?,
        discovery: label(&discovery)?,
        record,
        adkim: label(&adkim)?,
        aspf: label(&aspf)?,
        p: label(&p)?,
        sp: optional(&sp)?,
        np: optional(&np)?,
        fo,
        testing: label(&testing)?,
        requested: label(&requested)?,
    }))
}

fn domain(text: &str) -> Result<Domain, sqlx::Error> {
    Domain::parse(text).map_err(|_| unknown(text))
}

fn label<L: Label>(text: &str) -> Result<L, sqlx::Error> {
    L::parse(text).ok_or_else(|| unknown(text))
}

fn unknown(text: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("{text:?} is not known to this version").into())
}

/// The word of a label.
pub fn word<L: Label>(label: L) -> Text {
    Cow::Borrowed(label.as_str())
}

fn name(domain: &Domain) -> Text {
    domain.as_str().to_owned().into()
}

fn json<T: serde::Serialize>(values: &[T]) -> Text {
    match values {
        [] => Cow::Borrowed("[]"),
        // Fails only for maps with keys that are no strings; there are none.
        _ => serde_json::to_string(values).unwrap_or_default().into(),
    }
}

/// How many text columns there are.
pub const TEXT_COLUMNS: usize = 24;
/// What divides a UTC day.
const HOURS: [i64; 8] = [1, 2, 3, 4, 6, 8, 12, 24];
const SECONDS_PER_HOUR: i64 = 3600;
/// Seconds after a period's end until the last rows of all gates are in: they are written within a second of the
/// message's end while the store works, and a message may take half an hour only where its sender is very slow.
pub const SETTLING: i64 = 15 * 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{FinalReply, ReportDisposition, sample};

    fn row(record: Record) -> Row {
        Row::new(record, Periods::Days)
    }

    #[test]
    fn messages_of_one_day_that_differ_in_time_alone_have_one_key() {
        let (row, of) = (row(sample::record()), row);
        let later = of(Record { arrived: sample::record().arrived + 3600, ..sample::record() });
        assert_eq!(row.key(), later.key());
        let mut sum = later.clone();
        sum.add(&row);
        assert_eq!((sum.count, sum.first_seen, sum.last_seen), (2, row.first_seen, later.last_seen));
    }

    #[test]
    fn a_row_is_late_when_its_period_has_settled() {
        let row = row(sample::record());
        let hours = Row { part: Part { begin_hour: 6, hours: 2 }, ..row.clone() };
        for (row, end) in [(&row, (row.day + 1) * SECONDS_PER_DAY), (&hours, row.day * SECONDS_PER_DAY + 8 * 3600)] {
            assert!(!row.is_late(end) && !row.is_late(end + SETTLING - 1) && row.is_late(end + SETTLING));
        }
    }

    #[test]
    fn periods_are_what_the_owner_asks_for_within_bounds() {
        let cases = [
            (None, 24),
            (Some(0), 1),
            (Some(1), 1),
            (Some(3600), 1),
            (Some(3601), 2),
            (Some(5 * 3600), 6),
            (Some(43_200), 12),
            (Some(43_201), 24),
            (Some(86_400), 24),
            (Some(604_800), 24),
            (Some(u32::MAX), 24),
        ];
        for (interval, expected) in cases {
            assert_eq!(hours(interval), expected, "{interval:?}");
        }
        let moment = 20_454 * SECONDS_PER_DAY + 17 * 3600 + 5;
        for (hours, begin_hour) in [(1, 17), (2, 16), (4, 16), (6, 12), (12, 12), (24, 0)] {
            assert_eq!(Part::at(moment, hours), Part { begin_hour, hours });
        }
    }

    #[test]
    fn parts_of_a_day_have_rows_of_their_own_only_where_that_is_wanted() {
        let row = |second: i64, tag: &str, periods| {
            let mut record = Record { arrived: 20_454 * SECONDS_PER_DAY + second, ..sample::record() };
            record.policy.as_mut().unwrap().record = format!("v=DMARC1; p=reject; {tag}rua=mailto:d@example.org");
            Row::new(record, periods)
        };
        let (days, as_requested) = (Periods::Days, Periods::AsRequested);
        assert_eq!(row(0, "ri=3600; ", days).key(), row(7200, "ri=3600; ", days).key());
        assert_eq!(row(0, "", as_requested), row(0, "", days), "the same rows as ever, keys included");
        let (first, second) = (row(3599, "ri=3600; ", as_requested), row(3600, "ri=3600; ", as_requested));
        assert_eq!((first.part, second.part), (Part::at(0, 1), Part { begin_hour: 1, hours: 1 }));
        let keys = [first.key(), second.key(), row(3599, "ri=3600; ", days).key()];
        assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2]);
        assert_eq!(first.key(), row(0, "ri=3600; ", as_requested).key());
        // As a spill file of an earlier version has it.
        let mut old = serde_json::to_value(row(0, "", days)).unwrap();
        old.as_object_mut().unwrap().remove("part").unwrap();
        assert_eq!(serde_json::from_value::<Row>(old).unwrap(), row(0, "", days));
    }

    #[test]
    fn whatever_a_report_tells_apart_changes_the_key() {
        let base = sample::record;
        let with = |change: &dyn Fn(&mut Record)| {
            let mut record = base();
            change(&mut record);
            row(record).key()
        };
        type Change<'a> = &'a dyn Fn(&mut Record);
        let cases: &[(&str, Change<'_>)] = &[
            ("nothing", &|_| {}),
            ("day", &|r| r.arrived += 86_400),
            ("source ip", &|r| r.source_ip = "2001:db8::1".parse().unwrap()),
            ("no policy", &|r| r.policy = None),
            ("policy record", &|r| r.policy.as_mut().unwrap().record.push(' ')),
            ("sp", &|r| r.policy.as_mut().unwrap().sp = None),
            ("disposition", &|r| r.evaluated.disposition = ReportDisposition::Quarantine),
            ("envelope from", &|r| r.envelope_from.clear()),
            ("envelope to", &|r| r.envelope_to = Some("example.com".into())),
            ("selector", &|r| r.dkim[0].selector.push('x')),
            ("no signatures", &|r| r.dkim.clear()),
            ("spf result", &|r| r.spf.as_mut().unwrap().result = "fail".into()),
            ("no spf", &|r| r.spf = None),
            ("reply", &|r| r.reply = FinalReply::Accepted),
        ];
        for (i, (name, change)) in cases.iter().enumerate() {
            for (other, other_change) in &cases[..i] {
                assert_ne!(with(change), with(other_change), "{name} and {other}");
            }
        }
    }

    #[test]
    fn a_row_comes_back_as_the_record_that_it_was() {
        let changes: [fn(&mut Record); 4] = [
            |_| {},
            |r| (r.policy, r.header_from, r.spf) = (None, None, None),
            |r| r.envelope_to = Some("example.com".into()),
            |r| {
                r.evaluated.reasons = vec![crate::record::OverrideReason {
                    kind: crate::record::OverrideKind::LocalPolicy,
                    comment: "a note".into(),
                }];
            },
        ];
        for change in changes {
            let mut record = sample::record();
            change(&mut record);
            let row = row(record.clone());
            assert_eq!(
                counted(7, row.first_seen, row.texts.map(Text::into_owned)).unwrap(),
                Counted { record, count: 7 }
            );
        }
        let mut texts = row(sample::record()).texts.map(Text::into_owned);
        texts[12] = "softfail".into();
        assert!(counted(1, 0, texts).unwrap_err().to_string().contains("softfail"));
    }

    #[test]
    fn no_text_passes_for_two() {
        let (mut a, mut b) = (row(sample::record()), row(sample::record()));
        (a.texts[20], a.texts[21]) = ("ab".into(), "c".into());
        (b.texts[20], b.texts[21]) = ("a".into(), "bc".into());
        assert_ne!(a.key(), b.key());
    }
}
