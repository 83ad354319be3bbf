//! Reads DMARC policy records (RFC 9989 §4.7 and §4.8) and settles which of the texts at one name counts.
//!
//! A record is never refused for a tag: what can't be read falls back to its default and is kept as a [`Problem`], and
//! [`PolicyRecord::standing`] says what RFC 9989 §4.10.1 makes of the whole. Everything that is kept is bounded.

use std::fmt;
use std::sync::Arc;

use crate::dmarc::report_uri::ReportUri;
use crate::label::Label;
use crate::label_enum;

label_enum! {
    /// A Domain Owner assessment policy, from the mildest to the strictest.
    pub enum Policy {
        /// No preference.
        None = "none",
        /// Failing mail is suspicious.
        Quarantine = "quarantine",
        /// Failing mail is not the domain's.
        Reject = "reject",
    }
}

label_enum! {
    /// What `psd` says of the name at which the record stands.
    pub enum Psd {
        /// A public suffix domain (`y`).
        PublicSuffix = "y",
        /// An organizational domain (`n`).
        Organizational = "n",
        /// Neither is said: the tree walk finds out (`u`, the default).
        Unstated = "u",
    }
}

label_enum! {
    /// How close an identifier must be to the author domain.
    pub enum AlignmentMode {
        /// The same organizational domain.
        Relaxed = "r",
        /// The same domain.
        Strict = "s",
    }
}

label_enum! {
    /// When a DMARC failure report is asked for.
    pub enum FailureScope {
        /// If no mechanism gave an aligned pass.
        AllFailed = "0",
        /// If any mechanism gave none.
        AnyFailed = "1",
    }
}

label_enum! {
    /// What RFC 9989 §4.10.1 makes of a record.
    pub enum Standing {
        /// `p` is valid, `sp` and `np` are valid or absent.
        Sound = "sound",
        /// They are not, but reports are asked for: every policy in it counts as `none`.
        ReportsOnly = "reports_only",
        /// They are not: DMARC does not apply to mail that this record covers.
        Unusable = "unusable",
    }
}

label_enum! {
    /// The registered tags (RFC 9989 §9.3).
    pub enum Tag {
        /// Version.
        V = "v",
        /// Policy.
        P = "p",
        /// Policy for subdomains.
        Sp = "sp",
        /// Policy for subdomains that do not exist.
        Np = "np",
        /// Test mode.
        T = "t",
        /// Public suffix domain.
        Psd = "psd",
        /// DKIM alignment.
        Adkim = "adkim",
        /// SPF alignment.
        Aspf = "aspf",
        /// Addresses for aggregate reports.
        Rua = "rua",
        /// Addresses for failure reports.
        Ruf = "ruf",
        /// Failure reporting options.
        Fo = "fo",
        /// Historic: share of messages.
        Pct = "pct",
        /// Historic: interval of reports.
        Ri = "ri",
        /// Historic: format of failure reports.
        Rf = "rf",
    }
}

label_enum! {
    /// What is wrong with a tag.
    pub enum Fault {
        /// It is not there, but ought to be.
        Missing = "is missing",
        /// Its value is none of those allowed.
        Invalid = "is invalid",
        /// It is there more than once: no value of it counts.
        Repeated = "is repeated",
        /// It lists something that is no URI.
        InvalidUri = "lists an invalid URI",
        /// It lists more URIs than are read.
        TooManyUris = "lists too many URIs",
        /// A part of the record is no tag at all.
        NotATag = "a part of the record is no tag",
    }
}

/// One thing that is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// The tag, if it is one.
    pub tag: Option<Tag>,
    /// What is wrong.
    pub fault: Fault,
}

/// The failure reporting options (`fo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureOptions {
    /// When a DMARC failure report is asked for, if at all.
    pub dmarc: Option<FailureScope>,
    /// Whether a report is asked for on any DKIM signature that failed.
    pub dkim: bool,
    /// Whether a report is asked for when SPF failed.
    pub spf: bool,
}

/// A DMARC policy record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRecord {
    /// `p`, as published.
    pub p: Option<Policy>,
    /// `sp`, as published.
    pub sp: Option<Policy>,
    /// `np`, as published.
    pub np: Option<Policy>,
    /// What §4.10.1 makes of `p`, `sp`, `np` and `rua`.
    pub standing: Standing,
    /// `t`: the owner wants the next milder policy applied.
    pub testing: bool,
    /// `psd`.
    pub psd: Psd,
    /// `adkim`.
    pub adkim: AlignmentMode,
    /// `aspf`.
    pub aspf: AlignmentMode,
    /// The valid URIs of `rua` in their order, at most 20.
    pub rua: Vec<ReportUri>,
    /// The valid URIs of `ruf` in their order, at most 20.
    pub ruf: Vec<ReportUri>,
    /// `fo`; the default without a `ruf` tag (RFC 9989 §4.7).
    pub fo: FailureOptions,
    /// `pct`, historic: acted on only where the operator wants it.
    pub pct: Option<u8>,
    /// `ri`, historic: seconds; acted on only where the operator wants it.
    pub ri: Option<u32>,
    /// `rf`, historic: never acted upon.
    pub rf: Option<Box<str>>,
    /// The text, in printable ASCII (a blank for a tab, `?` for anything else), at most 4096 characters of whole tags
    /// and URIs. Read again it is the same record, as reports need it, unless there is more of it or a `?` in it.
    pub text: Box<str>,
    /// What is wrong with it, each thing once.
    pub problems: Vec<Problem>,
}

/// What one text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// No DMARC record: `v=DMARC1` does not come first (RFC 9989 §4.7). It counts as not there.
    Foreign,
    /// A DMARC record, in whatever standing.
    Record(Box<PolicyRecord>),
}

/// What the TXT records of one name come to (RFC 9989 §4.10 steps 2 and 6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordAt {
    /// No DMARC record.
    Absent,
    /// More than one, which count as none.
    Several,
    /// Exactly one.
    One(Arc<PolicyRecord>),
}

/// How an author domain relates to the name where its policy record was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The record stands at the author domain itself.
    Here,
    /// The author domain is below, and exists.
    ExistingBelow,
    /// The author domain is below, and does not exist (RFC 9989 §3.2.13).
    MissingBelow,
}

/// Settles which of the texts at one name is the policy record.
pub fn select(texts: &[Box<[u8]>]) -> RecordAt {
    let mut records = texts.iter().filter_map(|text| match parse(text) {
        Parsed::Record(record) => Some(record),
        Parsed::Foreign => None,
    });
    match (records.next(), records.next()) {
        (None, _) => RecordAt::Absent,
        (Some(record), None) => RecordAt::One(Arc::from(record)),
        (Some(_), Some(_)) => RecordAt::Several,
    }
}

/// Reads one text.
pub fn parse(text: &[u8]) -> Parsed {
    let mut parts = text.split(|b| *b == b';');
    if !parts.next().is_some_and(is_version) {
        return Parsed::Foreign;
    }
    let mut tags = Tags::default();
    parts.for_each(|part| tags.take(part));
    Parsed::Record(Box::new(tags.into_record(text)))
}

impl PolicyRecord {
    /// What the record asks for an author domain, before `t` and `pct` (RFC 9989 §4.10.1): at its own name `p`, below
    /// it `sp` or `np`, of which a missing one falls to the former.
    pub fn requested(&self, place: Place) -> Policy {
        if self.standing != Standing::Sound {
            return Policy::None;
        }
        let p = self.p.unwrap_or(Policy::None);
        let sp = self.sp.unwrap_or(p);
        match place {
            Place::Here => p,
            Place::ExistingBelow => sp,
            Place::MissingBelow => self.np.unwrap_or(sp),
        }
    }

    /// Whether it makes a difference that an author domain below this record exists.
    pub fn depends_on_existence(&self) -> bool {
        self.requested(Place::ExistingBelow) != self.requested(Place::MissingBelow)
    }
}

impl Policy {
    /// The next milder policy: what `t=y` asks for (RFC 9989 §4.7).
    pub fn one_below(self) -> Self {
        match self {
            Self::Reject => Self::Quarantine,
            Self::Quarantine | Self::None => Self::None,
        }
    }
}

impl Default for FailureOptions {
    fn default() -> Self {
        Self { dmarc: Some(FailureScope::AllFailed), dkim: false, spf: false }
    }
}

/// As `fo` spells it (RFC 9989 §4.7), in one order whatever the owner wrote.
impl fmt::Display for FailureOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dmarc = self.dmarc.map(Label::as_str);
        let words = [dmarc, self.dkim.then_some("d"), self.spf.then_some("s")];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join(":"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tag {
            Some(tag) => write!(f, "{tag} {}", self.fault),
            None => write!(f, "{}", self.fault),
        }
    }
}

/// The tags of one record as they are collected.
#[derive(Default)]
struct Tags<'a> {
    values: [Slot<'a>; Tag::ALL.len()],
    problems: Vec<Problem>,
}

#[derive(Default, Clone, Copy)]
enum Slot<'a> {
    #[default]
    Absent,
    Given(&'a str),
    /// Empty, not in printable ASCII, or given twice.
    Unreadable,
}

enum Value<T> {
    Absent,
    Invalid,
    Valid(T),
}

impl<'a> Tags<'a> {
    /// Takes what stands between two semicolons.
    fn take(&mut self, part: &'a [u8]) {
        let part = trim(part);
        if part.is_empty() {
            return; // a trailing semicolon, or several in a row
        }
        let Some((name, value)) = name_and_value(part) else {
            return self.note(None, Fault::NotATag);
        };
        // RFC 9989 §4.7: unknown tags are ignored.
        let Some(tag) = Tag::parse_ignore_case(name) else {
            return;
        };
        // RFC 6376 §3.2 calls a list with a repeated tag invalid as a whole, RFC 9989 §4.8 discards what is wrong and
        // keeps the rest: so a repeated tag has no valid value, and neither the first nor the last one can be smuggled
        // past an owner who reads the other.
        let repeated = tag == Tag::V || !matches!(self.slot(tag), Slot::Absent);
        if repeated {
            self.note(Some(tag), Fault::Repeated);
        }
        // A tab may stand beside the commas of a list of URIs.
        let fits = |v: &&str| !v.is_empty() && v.bytes().all(|b| is_printable(b) || b == b'\t');
        let value = std::str::from_utf8(value).ok().filter(fits);
        let slot = value.filter(|_| !repeated).map_or(Slot::Unreadable, Slot::Given);
        if let Some(place) = self.values.get_mut(tag.index()) {
            *place = slot;
        }
    }

    fn into_record(mut self, text: &[u8]) -> PolicyRecord {
        let p = self.read(Tag::P, policy);
        if matches!(p, Value::Absent) {
            self.note(Some(Tag::P), Fault::Missing);
        }
        let (sp, np) = (self.read(Tag::Sp, policy), self.read(Tag::Np, policy));
        let rua = self.read_uris(Tag::Rua);
        let sound = matches!(p, Value::Valid(_)) && !matches!(sp, Value::Invalid) && !matches!(np, Value::Invalid);
        let standing = match (sound, rua.is_empty()) {
            (true, _) => Standing::Sound,
            (false, false) => Standing::ReportsOnly,
            (false, true) => Standing::Unusable,
        };
        let has_ruf = !matches!(self.slot(Tag::Ruf), Slot::Absent);
        let fo = self.read(Tag::Fo, failure_options).valid().filter(|_| has_ruf).unwrap_or_default();
        PolicyRecord {
            p: p.valid(),
            sp: sp.valid(),
            np: np.valid(),
            standing,
            testing: self.read(Tag::T, yes_or_no).valid().unwrap_or(false),
            psd: self.read(Tag::Psd, spelled::<Psd>).valid().unwrap_or(Psd::Unstated),
            adkim: self.read(Tag::Adkim, spelled::<AlignmentMode>).valid().unwrap_or(AlignmentMode::Relaxed),
            aspf: self.read(Tag::Aspf, spelled::<AlignmentMode>).valid().unwrap_or(AlignmentMode::Relaxed),
            rua,
            ruf: self.read_uris(Tag::Ruf),
            fo,
            pct: self.read(Tag::Pct, |v| number(v).filter(|n| *n <= 100).and_then(|n| u8::try_from(n).ok())).valid(),
            ri: self.read(Tag::Ri, number).valid(),
            rf: self.read(Tag::Rf, |v| (v.len() <= MAX_RF).then(|| v.into())).valid(),
            text: kept(text),
            problems: self.problems,
        }
    }

    fn read<T>(&mut self, tag: Tag, parse: impl Fn(&str) -> Option<T>) -> Value<T> {
        let value = match self.slot(tag) {
            Slot::Absent => return Value::Absent,
            Slot::Given(text) => parse(text),
            Slot::Unreadable => None,
        };
        match value {
            Some(value) => Value::Valid(value),
            None => {
                self.note(Some(tag), Fault::Invalid);
                Value::Invalid
            }
        }
    }

    fn read_uris(&mut self, tag: Tag) -> Vec<ReportUri> {
        let mut uris = Vec::new();
        let Value::Valid(list) = self.read_text(tag) else { return uris };
        for item in list.split(',').map(|item| item.trim_matches(WSP)).filter(|item| !item.is_empty()) {
            match ReportUri::parse(item) {
                Some(_) if uris.len() == MAX_URIS => {
                    self.note(Some(tag), Fault::TooManyUris);
                    break;
                }
                Some(uri) => uris.push(uri),
                None => self.note(Some(tag), Fault::InvalidUri),
            }
        }
        uris
    }

    fn read_text(&mut self, tag: Tag) -> Value<&'a str> {
        match self.slot(tag) {
            Slot::Given(text) => Value::Valid(text),
            Slot::Absent => Value::Absent,
            Slot::Unreadable => {
                self.note(Some(tag), Fault::Invalid);
                Value::Invalid
            }
        }
    }

    fn slot(&self, tag: Tag) -> Slot<'a> {
        self.values.get(tag.index()).copied().unwrap_or_default()
    }

    fn note(&mut self, tag: Option<Tag>, fault: Fault) {
        let problem = Problem { tag, fault };
        let repeats = |known: &Problem| known.tag == tag && tag.is_some() && known.fault == Fault::Repeated;
        // A repeated tag is invalid as well; once is enough.
        if !self.problems.contains(&problem) && !self.problems.iter().any(repeats) {
            self.problems.push(problem);
        }
    }
}

impl<T> Value<T> {
    fn valid(self) -> Option<T> {
        match self {
            Self::Valid(value) => Some(value),
            Self::Absent | Self::Invalid => None,
        }
    }
}

/// Whether the first part of a text is `v=DMARC1`: nothing before it, the value in this very spelling (RFC 9989 §4.8).
fn is_version(part: &[u8]) -> bool {
    !part.first().is_none_or(|b| is_wsp(*b))
        && name_and_value(part).is_some_and(|(name, value)| name.eq_ignore_ascii_case(b"v") && value == b"DMARC1")
}

/// `1*ALPHA *WSP "=" *WSP value *WSP`.
fn name_and_value(part: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = part.iter().position(|b| *b == b'=')?;
    let (name, value) = part.split_at_checked(equals)?;
    let name = trim(name);
    let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_alphabetic);
    is_name.then(|| (name, trim(value.get(1..).unwrap_or_default())))
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_wsp(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_wsp(*last)
    {
        text = rest;
    }
    text
}

/// What is kept of a text. It ends behind a tag or a URI: half an address is another one.
fn kept(text: &[u8]) -> Box<str> {
    let fits = text.len() <= MAX_TEXT;
    let whole = text.iter().take(MAX_TEXT).rposition(|b| matches!(b, b';' | b','));
    let length = whole.filter(|_| !fits).map_or(MAX_TEXT, |last| last + 1);
    let shown = |b: &u8| match *b {
        b'\t' => ' ',
        b if is_printable(b) => char::from(b),
        _ => '?',
    };
    text.iter().take(length).map(shown).collect()
}

fn is_wsp(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn is_printable(byte: u8) -> bool {
    (0x20..=0x7e).contains(&byte)
}

/// The variant of that spelling; ABNF strings have no case (RFC 5234 §2.3).
fn spelled<L: Label>(value: &str) -> Option<L> {
    L::parse_ignore_case(value)
}

fn policy(value: &str) -> Option<Policy> {
    spelled(value)
}

fn yes_or_no(value: &str) -> Option<bool> {
    match value {
        "y" | "Y" => Some(true),
        "n" | "N" => Some(false),
        _ => None,
    }
}

fn number(value: &str) -> Option<u32> {
    value.bytes().all(|b| b.is_ascii_digit()).then(|| value.parse().ok())?
}

/// `fo`: each option once, `0` and `1` not together (RFC 9989 §4.7 and §4.8).
fn failure_options(value: &str) -> Option<FailureOptions> {
    let mut options = FailureOptions { dmarc: None, dkim: false, spf: false };
    for option in value.split(':') {
        let repeated = match option {
            "0" => options.dmarc.replace(FailureScope::AllFailed).is_some(),
            "1" => options.dmarc.replace(FailureScope::AnyFailed).is_some(),
            "d" | "D" => std::mem::replace(&mut options.dkim, true),
            "s" | "S" => std::mem::replace(&mut options.spf, true),
            _ => return None,
        };
        if repeated {
            return None;
        }
    }
    Some(options)
}

const WSP: [char; 2] = [' ', '\t'];
/// URIs read from one list: reports go to each, so that the number must stay small.
const MAX_URIS: usize = 20;
/// Octets of `rf`.
const MAX_RF: usize = 64;
/// Characters of a record's text that are kept: as many as a row of the store takes, for reports are sent by what is
/// there.
const MAX_TEXT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> PolicyRecord {
        match parse(text.as_bytes()) {
            Parsed::Record(record) => *record,
            Parsed::Foreign => panic!("no record: {text}"),
        }
    }

    #[test]
    fn the_version_comes_first_in_its_own_spelling_or_the_text_is_no_record() {
        let cases = [
            ("v=DMARC1", true),
            ("v=DMARC1;", true),
            ("v=DMARC1 ", true),
            ("v = DMARC1 ; p=none", true),
            ("V=DMARC1;p=none", true),
            ("v=\tDMARC1\t;\tp=none", true),
            ("v=dmarc1; p=none", false),
            ("v=DMARC2; p=none", false),
            ("v=DMARC1 p=none", false),
            ("v=DMARC10; p=none", false),
            ("v=DMARC1,p=none", false),
            ("p=none; v=DMARC1", false),
            ("; v=DMARC1; p=none", false),
            (" v=DMARC1; p=none", false),
            ("\"v=DMARC1; p=none\"", false),
            ("v=spf1 -all", false),
            ("v", false),
            ("", false),
        ];
        for (text, expected) in cases {
            assert_eq!(matches!(parse(text.as_bytes()), Parsed::Record(_)), expected, "{text:?}");
        }
    }

    #[test]
    fn all_tags_of_a_record_are_read() {
        let r = record(
            "v=DMARC1; p=reject; sp=quarantine; np=none; t=y; psd=n; adkim=s; aspf=s; \
             rua=mailto:a@example.org, mailto:b@example.net!10m ,https://example.org/r; ruf=mailto:c@example.org; \
             fo=1:d:s; pct=42; ri=3600; rf=afrf; unknown=1",
        );
        assert_eq!((r.p, r.sp, r.np), (Some(Policy::Reject), Some(Policy::Quarantine), Some(Policy::None)));
        assert_eq!((r.standing, r.testing, r.psd), (Standing::Sound, true, Psd::Organizational));
        assert_eq!((r.adkim, r.aspf), (AlignmentMode::Strict, AlignmentMode::Strict));
        let uris: Vec<_> = r.rua.iter().map(ReportUri::as_str).collect();
        assert_eq!(uris, ["mailto:a@example.org", "mailto:b@example.net", "https://example.org/r"]);
        assert_eq!(r.ruf.len(), 1);
        assert_eq!(r.fo, FailureOptions { dmarc: Some(FailureScope::AnyFailed), dkim: true, spf: true });
        assert_eq!((r.pct, r.ri, r.rf.as_deref()), (Some(42), Some(3600), Some("afrf")));
        assert_eq!(r.problems, []);
        assert!(r.text.starts_with("v=DMARC1; p=reject"));
    }

    #[test]
    fn defaults_stand_where_a_tag_is_absent_or_wrong() {
        let absent = record("v=DMARC1; p=none");
        let wrong =
            record("v=DMARC1; p=none; t=1; psd=x; adkim=strict; aspf=; fo=0:1; ruf=mailto:a@b.example; pct=101; ri=-1");
        for r in [&absent, &wrong] {
            assert!(!r.testing);
            assert_eq!((r.psd, r.adkim, r.aspf), (Psd::Unstated, AlignmentMode::Relaxed, AlignmentMode::Relaxed));
            assert_eq!(r.fo, FailureOptions::default());
            assert_eq!((r.pct, r.ri, r.standing), (None, None, Standing::Sound));
        }
        assert_eq!(absent.problems, []);
        let faulty: Vec<_> = wrong.problems.iter().filter_map(|p| p.tag).collect();
        assert_eq!(faulty, [Tag::Fo, Tag::T, Tag::Psd, Tag::Adkim, Tag::Aspf, Tag::Pct, Tag::Ri]);
    }

    #[test]
    fn separators_blanks_and_case() {
        let cases = [
            "v=DMARC1;p=reject",
            "v=DMARC1 ; p = reject ;",
            "v=DMARC1;;; p=REJECT;;",
            "v=DMARC1;\tP\t=\tReject",
            "v=DMARC1; p=reject; garbage; =x; 1=2; p-x=none",
            "v=DMARC1; p=reject; x=\u{fc}",
        ];
        for text in cases {
            assert_eq!(record(text).p, Some(Policy::Reject), "{text}");
        }
        for part in ["garbage", "=x", "1=2", "p-x=none", "\u{fc}=x"] {
            let problems = record(&format!("v=DMARC1; p=reject; {part}")).problems;
            assert_eq!(problems, [Problem { tag: None, fault: Fault::NotATag }], "{part}");
        }
    }

    #[test]
    fn values_are_printable_and_not_empty() {
        let cases = [
            ("rf=afrf", Some("afrf")),
            ("rf=a b", Some("a b")),
            ("rf=", None),
            ("rf=a\u{1}b", None),
            ("rf=\u{fc}", None),
        ];
        for (tag, expected) in cases {
            let r = record(&format!("v=DMARC1; p=none; {tag}"));
            assert_eq!((r.rf.as_deref(), r.problems.is_empty()), (expected, expected.is_some()), "{tag:?}");
        }
        let r = record("v=DMARC1; p=none; rua=mailto:a@example.org\t,\tmailto:b@example.org");
        assert_eq!((r.rua.len(), r.problems.is_empty()), (2, true), "a tab beside a comma");
        for (value, testing) in [("y", true), ("Y", true), ("n", false), ("N", false)] {
            let r = record(&format!("v=DMARC1; p=none; t={value}"));
            assert_eq!((r.testing, r.problems.is_empty()), (testing, true), "t={value}");
        }
        for (length, kept) in [(MAX_RF, true), (MAX_RF + 1, false)] {
            assert_eq!(record(&format!("v=DMARC1; p=none; rf={}", "x".repeat(length))).rf.is_some(), kept, "{length}");
        }
        for (pct, expected) in [("0", Some(0)), ("100", Some(100)), ("101", None), ("256", None)] {
            assert_eq!(record(&format!("v=DMARC1; p=none; pct={pct}")).pct, expected, "{pct}");
        }
    }

    #[test]
    fn what_4_10_1_makes_of_policies_that_are_missing_or_wrong() {
        use Standing::{ReportsOnly, Sound, Unusable};
        let cases = [
            ("v=DMARC1; p=reject", Sound, Policy::Reject),
            ("v=DMARC1", Unusable, Policy::None),
            ("v=DMARC1; rua=mailto:a@example.org", ReportsOnly, Policy::None),
            ("v=DMARC1; p=bogus; rua=mailto:a@example.org", ReportsOnly, Policy::None),
            ("v=DMARC1; p=bogus", Unusable, Policy::None),
            ("v=DMARC1; p=reject; sp=bogus", Unusable, Policy::None),
            ("v=DMARC1; p=reject; np=bogus", Unusable, Policy::None),
            ("v=DMARC1; p=reject; np=; rua=mailto:a@example.org", ReportsOnly, Policy::None),
            ("v=DMARC1; p=reject; sp=bogus; rua=mailto:a@example.org", ReportsOnly, Policy::None),
            ("v=DMARC1; sp=reject; rua=mailto:a@example.org", ReportsOnly, Policy::None),
            ("v=DMARC1; p=bogus; rua=a@example.org", Unusable, Policy::None),
            ("v=DMARC1; p=bogus; rua=mailto:", Unusable, Policy::None),
            ("v=DMARC1; p=bogus; rua=https://example.org/", ReportsOnly, Policy::None),
            ("v=DMARC1; p=bogus; rua=nonsense, mailto:a@example.org", ReportsOnly, Policy::None),
            ("v=DMARC1; p=reject; p=none", Unusable, Policy::None),
            ("v=DMARC1; p=reject; p=reject; rua=mailto:a@example.org", ReportsOnly, Policy::None),
            ("v=DMARC1; p=reject; v=DMARC1", Sound, Policy::Reject),
            ("v=DMARC1; p=re\u{1}ject", Unusable, Policy::None),
            ("v=DMARC1; p=quarantine none", Unusable, Policy::None),
        ];
        for (text, standing, p) in cases {
            let r = record(text);
            assert_eq!((r.standing, r.requested(Place::Here)), (standing, p), "{text}");
            if standing != Sound {
                assert_eq!(r.requested(Place::ExistingBelow), Policy::None, "{text}");
                assert!(!r.depends_on_existence(), "{text}");
            }
        }
    }

    #[test]
    fn a_missing_np_falls_to_sp_and_a_missing_sp_to_p() {
        use Policy::{None, Quarantine, Reject};
        let cases = [
            ("v=DMARC1; p=reject", [Reject, Reject, Reject], false),
            ("v=DMARC1; p=reject; sp=none", [Reject, None, None], false),
            ("v=DMARC1; p=none; np=reject", [None, None, Reject], true),
            ("v=DMARC1; p=none; sp=quarantine; np=reject", [None, Quarantine, Reject], true),
            ("v=DMARC1; p=none; sp=reject; np=reject", [None, Reject, Reject], false),
        ];
        for (text, expected, depends) in cases {
            let r = record(text);
            let requested = [Place::Here, Place::ExistingBelow, Place::MissingBelow].map(|place| r.requested(place));
            assert_eq!((requested, r.depends_on_existence()), (expected, depends), "{text}");
        }
    }

    #[test]
    fn failure_options_follow_the_grammar() {
        let options = |dmarc, dkim, spf| Some(FailureOptions { dmarc, dkim, spf });
        let (all, any) = (Some(FailureScope::AllFailed), Some(FailureScope::AnyFailed));
        let cases = [
            ("0", options(all, false, false)),
            ("1:d", options(any, true, false)),
            ("d:1:s", options(any, true, true)),
            ("s:d:0", options(all, true, true)),
            ("d", options(None, true, false)),
            ("0:1", None),
            ("1:1", None),
            ("d:d", None),
            ("2", None),
            ("1:", None),
        ];
        for (text, expected) in cases {
            assert_eq!(failure_options(text), expected, "{text}");
            let shown = expected.map(|options| options.to_string());
            assert_eq!(shown.as_deref().map(failure_options), shown.is_some().then_some(expected), "{text}, as shown");
        }
        assert_eq!(options(any, true, true).unwrap().to_string(), "1:d:s", "in one order");
        let without_ruf = record("v=DMARC1; p=none; fo=1:d:s");
        assert_eq!(without_ruf.fo, FailureOptions::default());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let uris = vec!["mailto:a@example.org"; 100].join(",");
        let r = record(&format!("v=DMARC1; p=none; rua={uris}; x={}", "y".repeat(60_000)));
        assert_eq!(r.rua.len(), 20);
        assert!(r.text.ends_with(",mailto:a@example.org;"), "whole tags alone: {}", r.text);
        let r =
            record(&format!("v=DMARC1; p=none; rua=mailto:a@example.org,mailto:{}@example.net", "b".repeat(60_000)));
        assert_eq!(&*r.text, "v=DMARC1; p=none; rua=mailto:a@example.org,", "whole URIs alone");
        assert_eq!(record(&format!("v=DMARC1{}", " ".repeat(60_000))).text.len(), MAX_TEXT);
        let r = record(&format!("v=DMARC1; p=none; rua={uris}"));
        assert_eq!(r.problems, [Problem { tag: Some(Tag::Rua), fault: Fault::TooManyUris }]);
        assert_eq!(r.problems[0].to_string(), "rua lists too many URIs");
    }

    #[test]
    fn several_records_at_a_name_count_as_none_and_foreign_texts_do_not_count() {
        let at = |texts: &[&str]| select(&texts.iter().map(|t| t.as_bytes().into()).collect::<Vec<_>>());
        assert_eq!(at(&[]), RecordAt::Absent);
        assert_eq!(at(&["v=spf1 -all", "v=dmarc1; p=reject"]), RecordAt::Absent);
        assert!(matches!(at(&["v=spf1 -all", "v=DMARC1; p=reject"]), RecordAt::One(r) if r.p == Some(Policy::Reject)));
        assert_eq!(at(&["v=DMARC1; p=reject", "v=DMARC1; p=reject"]), RecordAt::Several);
        // A broken record is a record still.
        assert_eq!(at(&["v=DMARC1; p=reject", "v=DMARC1"]), RecordAt::Several);
    }

    #[test]
    fn the_records_of_appendix_b_2_are_sound() {
        let cases = [
            ("v=DMARC1; p=none; rua=mailto:dmarc-feedback@example.com", Policy::None, 1, 0, false),
            (
                "v=DMARC1; p=none; rua=mailto:dmarc-feedback@example.com; ruf=mailto:auth-reports@example.com",
                Policy::None,
                1,
                1,
                false,
            ),
            (
                "v=DMARC1; p=quarantine; rua=mailto:dmarc-feedback@example.com,mailto:tld-test@thirdparty.example.net; t=y",
                Policy::Quarantine,
                2,
                0,
                true,
            ),
        ];
        for (text, p, rua, ruf, testing) in cases {
            let r = record(text);
            assert_eq!((r.requested(Place::Here), r.rua.len(), r.ruf.len(), r.testing), (p, rua, ruf, testing));
            assert_eq!(r.problems, []);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_the_reader(text: Vec<u8>) {
            parse(&text);
            let mut with_version = b"v=DMARC1;".to_vec();
            with_version.extend(text);
            proptest::prop_assert!(matches!(parse(&with_version), Parsed::Record(_)));
        }

        #[test]
        fn the_text_that_is_kept_is_the_same_record(
            blanks in proptest::collection::vec("[ \t]{0,3}", 8),
            rua in proptest::collection::vec("(mailto:[a-z]{1,60}@[a-z]{1,60}\\.example|https://a\\.example|x)", 1..25),
            (pct, ri) in ("[0-9a]{1,3}", "[0-9]{1,10}"),
            filler in 0_usize..1000,
        ) {
            let blank = |at: usize| blanks[at % blanks.len()].as_str();
            let list = rua.iter().enumerate().fold(String::new(), |list, (n, uri)| {
                format!("{list}{}{uri}{},", blank(n), blank(n + 1))
            });
            let (a, b, c, d) = (blank(0), blank(1), blank(2), blank(3));
            let text = format!(
                "v{a}={b}DMARC1{c};{d}p=reject;x={};rua{a}={b}{list}{c};{d}pct{b}={a}{pct}{d};ri={c}{ri};\tnone",
                "y".repeat(filler)
            );
            let published = record(&text);
            let read_again = PolicyRecord { text: published.text.clone(), ..record(&published.text) };
            proptest::prop_assert_eq!(read_again, published);
        }
    }
}
