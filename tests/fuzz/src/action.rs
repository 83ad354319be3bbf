//! The fields that are written on top of a message.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use dmarcgate::action::authentication_results::{Names, evaluated};
use dmarcgate::action::received_spf::field;
use dmarcgate::domain::Domain;
use dmarcgate::evaluation::{ArcOutput, ArcResult, DkimOutput, DkimResult, Evaluation, Sender};
use dmarcgate::label::Label;
use dmarcgate::message::author::{Author, UnusableFrom};
use dmarcgate::policy::{
    Circumstances, LocalPolicy, Mode, OnTempError, OnUnusableFrom, Pct, Recipients, Reject, ReversePathKind, decide,
};
use dmarcgate::spf::{Identity, SpfOutput, SpfResult};

use results::{MethodResult, ReceivedSpf, Results};

#[path = "../../it/support/results.rs"]
// The socket tests have it, too, in the same crate.
#[allow(dead_code, clippy::duplicate_mod)]
mod results;

/// Eight octets that choose results, then texts, each ended by an octet 0: whatever a peer puts in, the fields read
/// back as what was meant.
pub fn authentication_results(input: &[u8]) {
    let (choices, rest) = input.split_at(input.len().min(CHOICES));
    let choice = |at: usize| usize::from(choices.get(at).copied().unwrap_or(0));
    let texts: Vec<String> = rest.split(|b| *b == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    let text = |at: usize| texts.get(at).map_or("", String::as_str);
    let facts = evaluation(choice, text);
    let names = Names { authserv_id: "mx.example.net", explain_id: text(0), receiver: None };
    let local = LocalPolicy {
        mode: if choice(7).is_multiple_of(2) { Mode::Tag } else { Mode::Monitor },
        reject: Reject::Never,
        on_temperror: OnTempError::Pass,
        defer_at_most: Duration::from_secs(4 * 3600),
        unusable_from: OnUnusableFrom::Tag,
        pct: Pct::Ignored,
        ignored_signs: Vec::new(),
        trusted_sealers: Vec::new(),
        overrides: Vec::new(),
    };
    let circumstances = Circumstances {
        reverse_path: ReversePathKind::Mailbox,
        recipients: Recipients::Ordinary,
        recipient_domains: Vec::new(),
        host: None,
        in_doubt_for: Vec::new(),
        now: 0,
        sample: 0,
    };
    let written = evaluated(&facts, &decide(&facts, &circumstances, &local), &names);

    let found = Results::read(value(&written, "Authentication-Results"));
    assert_eq!(found.id, "mx.example.net");
    let mut expected: Vec<MethodResult> =
        [Some(&facts.spf), facts.spf_helo.as_ref()].into_iter().flatten().map(of_spf).collect();
    let known: Vec<_> = facts.dkim.iter().map(|d| (d.result == DkimResult::Pass, &*d.signature_start)).collect();
    let told = results::told_apart(&known);
    expected.extend(told.iter().map(|(place, start)| of_dkim(&facts.dkim[*place], start)));
    if facts.dkim.is_empty() {
        expected.push(method("dkim", "none", []));
    }
    if facts.arc.result != ArcResult::None {
        expected.push(method(
            "arc",
            // RFC 8617 §4.4 has no temperror.
            if facts.arc.result == ArcResult::Pass { "pass" } else { "fail" },
            [("reason", reason(facts.arc.reason, facts.arc.result == ArcResult::Pass))],
        ));
    }
    let unusable = "From names no usable author domain: no domain";
    expected.push(method("dmarc", "permerror", [("reason", Some(unusable.to_owned()))]));
    assert_eq!(found.results, expected, "{written}");
    let id = |comment: &String| comment.strip_prefix("id=").is_some_and(|id| id.bytes().all(is_id));
    let is_left_out = |comment: &String| *comment == format!("more={}", known.len() - told.len());
    assert!(found.comments.len() <= 2 && found.comments.iter().all(|c| id(c) || is_left_out(c)), "{written}");

    received_spf(&facts);
}

fn received_spf(facts: &Evaluation) {
    let written = field(facts, "mx1.example.net");
    let found = ReceivedSpf::read(value(&written, "Received-SPF"));
    let Evaluation { sender, spf, .. } = facts;
    assert_eq!(found.result, spf.result.as_str());
    let keys: Vec<&str> = found.pairs.iter().map(|(key, _)| key.as_str()).collect();
    let known = ["identity", "client-ip", "envelope-from", "helo", "receiver", "mechanism", "problem"];
    let places = keys.iter().map(|key| known.iter().position(|name| name == key).expect("a key of ours"));
    assert!(places.is_sorted_by(|one, next| one < next), "{written}");
    let as_it_is = |text: &str| (!text.is_empty() && text.len() <= 320 && is_printable(text)).then(|| text.to_owned());
    let is_mail_from = spf.identity == Identity::MailFrom;
    let envelope_from = as_it_is(&sender.mail_from).filter(|_| is_mail_from);
    assert_eq!(found.get("envelope-from").map(str::to_owned), envelope_from, "{written}");
    assert_eq!(found.get("helo").map(str::to_owned), as_it_is(&sender.helo), "{written}");
    assert_eq!(found.get("client-ip"), Some(&*sender.ip.to_canonical().to_string()));
    assert_eq!(found.get("receiver"), Some("mx1.example.net"));
    let is_error = matches!(spf.result, SpfResult::TempError | SpfResult::PermError);
    assert_eq!(found.get("problem").map(str::to_owned), as_it_is(&spf.reason).filter(|_| is_error), "{written}");
}

/// An evaluation whose From is unusable: what DMARC says then is ours alone.
fn evaluation<'a>(choice: impl Fn(usize) -> usize, text: impl Fn(usize) -> &'a str) -> Evaluation {
    let arcs = ArcResult::ALL;
    let spf = |at: usize, identity, texts: [&str; 3]| SpfOutput {
        result: SpfResult::ALL[choice(at) % SpfResult::ALL.len()],
        identity,
        domain: Domain::parse(texts[0]).ok(),
        term: (!texts[1].is_empty()).then(|| texts[1].into()),
        reason: texts[2].into(),
        unsettled: false,
        records: Vec::new(),
        failure: None,
    };
    let dkim = |at: usize| DkimOutput {
        place: at,
        result: DkimResult::ALL[(choice(4) + at) % DkimResult::ALL.len()],
        domain: Domain::parse(text(7 + 4 * at)).ok(),
        selector: text(8 + 4 * at).into(),
        // What of an identity is written has a table of its own.
        identity: None,
        algorithm: choice(5).is_multiple_of(2).then_some("rsa-sha256"),
        signature_start: text(9 + 4 * at).into(),
        key: dmarcgate::evaluation::KeySearch::Missing,
        reason: "a reason of ours",
        failure: None,
    };
    let is_null = choice(1) % 2 == 1;
    let identity = if is_null { Identity::Helo } else { Identity::MailFrom };
    let ip = match choice(6) % 3 {
        0 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        1 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        _ => IpAddr::V6(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped()),
    };
    Evaluation {
        author: Author::Unusable(UnusableFrom::NoDomain),
        sender: Sender { ip, helo: text(1).into(), mail_from: text(2).into() },
        spf: spf(0, identity, [text(3), text(4), text(5)]),
        spf_helo: (choice(2) % 2 == 1).then(|| spf(2, Identity::Helo, [text(1), "", text(6)])),
        dkim: (0..choice(3) % 4).map(dkim).collect(),
        dkim_skipped: 0,
        arc: ArcOutput {
            result: arcs[choice(3) / 4 % arcs.len()],
            sets: Vec::new(),
            unverified: Vec::new(),
            reason: "a chain",
            failure: None,
        },
        dmarc: Vec::new(),
        list_fields: false,
        list_id: None,
        evidence: Default::default(),
        elapsed: Duration::ZERO,
    }
}

/// The value of the one field, folded as it is, whose lines no reader can take for anything else.
fn value<'a>(written: &'a str, name: &str) -> &'a str {
    let field = written.strip_suffix("\r\n").expect("it is ended");
    for (at, line) in field.split("\r\n").enumerate() {
        assert!(is_printable(line) && !line.trim().is_empty() && line.len() <= 998, "{line:?}");
        assert_eq!(line.starts_with(' '), at > 0, "one field: {written}");
    }
    field.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).expect("its name")
}

fn of_spf(output: &SpfOutput) -> MethodResult {
    let name = if output.identity == Identity::Helo { "smtp.helo" } else { "smtp.mailfrom" };
    let reason = reason(&output.reason, output.result == SpfResult::Pass);
    let domain = output.domain.as_ref().map(ToString::to_string);
    method("spf", output.result.as_str(), [("reason", reason), (name, domain)])
}

fn of_dkim(output: &DkimOutput, start: &str) -> MethodResult {
    let properties = [
        ("reason", reason(output.reason, output.result == DkimResult::Pass)),
        ("header.d", output.domain.as_ref().map(ToString::to_string)),
        ("header.s", meant(&output.selector)),
        ("header.a", output.algorithm.map(str::to_owned)),
        ("header.b", meant(start)),
    ];
    method("dkim", output.result.as_str(), properties)
}

fn method<const N: usize>(name: &str, result: &str, properties: [(&str, Option<String>); N]) -> MethodResult {
    let there = properties.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    MethodResult { method: name.to_owned(), result: result.to_owned(), properties: there.collect() }
}

/// What a reason says: nothing of a pass; blanks are one space.
fn reason(text: &str, passed: bool) -> Option<String> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    meant(&words.join(" ")).filter(|_| !passed)
}

/// What a value may say of a text: all of it or nothing.
fn meant(text: &str) -> Option<String> {
    (!text.is_empty() && text.len() <= 253 && is_printable(text)).then(|| text.to_owned())
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|b| (0x20..=0x7e).contains(&b))
}

fn is_id(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || octet == b'-'
}

/// Octets of an input that choose results.
const CHOICES: usize = 8;
