//! The whole verdict table: DMARC result × policy × `t` × `on_temperror` × mode × `reject` × sign × override, beside
//! switched off signs, doubt that lasts, exempt recipients and bypass.
//!
//! It stands here twice: as a table to be read line by line, and as [`expected`], the words of the README's table as a
//! function. Every combination is held against both.

use std::collections::HashSet;

use super::*;
use crate::policy::bypass::{Bypass, Login};
use crate::policy::treatment::{Words, possible_words, words};
use crate::tls::ClientFingerprint;

/// How to read it. `-` passed on, `q` marked quarantine, `r` marked reject, `4` deferred, `X` refused. Each cell has
/// four of them: without an override that fits, then with one whose action is pass, tag, reject. `*` stands for every
/// value.
///
/// A section is about a message with one sign. A row that it does not have is as in the first section. From these
/// follow, for every row:
/// - a sign that is switched off is none, but for one that no switch is for (`skipped_signature`, a trusted sealer);
/// - where every recipient is exempt, `X` becomes `q`;
/// - where the sender has been put off for too long, `4` becomes `q`;
/// - a message of a client that is bypassed is passed on unmarked.
const TABLE: &str = "
    result               p          t on_temperror        | monitor tag  | corroborated always never

    # none
    pass                 *          * *                   | ----    ---- | ----         ----   ----
    none                 *          * *                   | ----    ---- | ----         ----   ----
    permerror            *          * *                   | ----    ---- | ----         ----   ----
    fail                 none       * *                   | ----    --qr | --qX         --qX   --qX
    fail                 quarantine n *                   | ----    q-qr | q-qX         q-qX   q-qX
    fail                 quarantine y *                   | ----    --qr | --qX         --qX   --qX
    fail                 reject     n *                   | ----    r-qr | X-qX         X-qX   r-qX
    fail                 reject     y *                   | ----    q-qr | q-qX         q-qX   q-qX
    temperror/identifier none       * *                   | ----    ---- | ----         ----   ----
    temperror/identifier quarantine n defer-if-it-matters | ----    ---- | 4-q4         4-q4   4-q4
    temperror/identifier quarantine n defer               | ----    ---- | 4-q4         4-q4   4-q4
    temperror/identifier quarantine n pass                | ----    ---- | ----         ----   ----
    temperror/identifier quarantine y *                   | ----    ---- | ----         ----   ----
    temperror/identifier reject     * defer-if-it-matters | ----    ---- | 4-q4         4-q4   4-q4
    temperror/identifier reject     * defer               | ----    ---- | 4-q4         4-q4   4-q4
    temperror/identifier reject     * pass                | ----    ---- | ----         ----   ----
    temperror/policy     *          * defer-if-it-matters | ----    ---- | ----         ----   ----
    temperror/policy     *          * defer               | ----    ---- | 4-q4         4-q4   4-q4
    temperror/policy     *          * pass                | ----    ---- | ----         ----   ----
    temperror/above      *          * defer-if-it-matters | ----    ---- | 4-q4         4-q4   4-q4
    temperror/above      *          * defer               | ----    ---- | 4-q4         4-q4   4-q4
    temperror/above      *          * pass                | ----    ---- | ----         ----   ----
    temperror/own        *          * defer-if-it-matters | ----    ---- | 4-q4         4-q4   4-q4
    temperror/own        *          * defer               | ----    ---- | 4-q4         4-q4   4-q4
    temperror/own        *          * pass                | ----    ---- | ----         ----   ----

    # broken_signature list_fields arc_chain arc_undecided
    fail                 reject     n *                   | ----    r-qr | q-qX         X-qX   r-qX

    # unsigned_end skipped_signature
    fail                 none       * *                   | ----    --qr | --qq         --qq   --qq
    fail                 quarantine n *                   | ----    q-qr | q-qq         q-qq   q-qq
    fail                 quarantine y *                   | ----    --qr | --qq         --qq   --qq
    fail                 reject     n *                   | ----    r-qr | q-qq         q-qq   r-qq
    fail                 reject     y *                   | ----    q-qr | q-qq         q-qq   q-qq

    # trusted_sealer
    fail                 quarantine n *                   | ----    --qr | --qX         --qX   --qX
    fail                 reject     n *                   | ----    --qr | --qX         --qX   --qX
    fail                 reject     y *                   | ----    --qr | --qX         --qX   --qX

    # trusted_sealer_in_doubt
    fail                 none       * *                   | ----    --qr | --qq         --qq   --qq
    fail                 quarantine n defer-if-it-matters | ----    q-qr | 4-qq         4-qq   4-qq
    fail                 quarantine n defer               | ----    q-qr | 4-qq         4-qq   4-qq
    fail                 quarantine n pass                | ----    q-qr | q-qq         q-qq   q-qq
    fail                 quarantine y *                   | ----    --qr | --qq         --qq   --qq
    fail                 reject     n defer-if-it-matters | ----    r-qr | 4-qq         4-qq   4-qq
    fail                 reject     n defer               | ----    r-qr | 4-qq         4-qq   4-qq
    fail                 reject     n pass                | ----    r-qr | q-qq         q-qq   r-qq
    fail                 reject     y defer-if-it-matters | ----    q-qr | 4-qq         4-qq   4-qq
    fail                 reject     y defer               | ----    q-qr | 4-qq         4-qq   4-qq
    fail                 reject     y pass                | ----    q-qr | q-qq         q-qq   q-qq
";

const RESULTS: [&str; 8] = [
    "pass",
    "none",
    "permerror",
    "fail",
    "temperror/identifier",
    "temperror/policy",
    "temperror/above",
    "temperror/own",
];
/// The signs, one of them in two more kinds: the chain of a trusted sealer that vouches, or would if DNS gave its key.
const SIGNS: [&str; 9] = [
    "none",
    "broken_signature",
    "unsigned_end",
    "skipped_signature",
    "list_fields",
    "arc_chain",
    "arc_undecided",
    "trusted_sealer",
    "trusted_sealer_in_doubt",
];
/// Of the mark that each policy of the operator's makes, in the order of the columns.
const COLUMNS: [(Mode, Option<Reject>); 5] = [
    (Mode::Monitor, None),
    (Mode::Tag, None),
    (Mode::Enforce, Some(Reject::Corroborated)),
    (Mode::Enforce, Some(Reject::Always)),
    (Mode::Enforce, Some(Reject::Never)),
];
/// What an override of the list does, in the order of a cell.
const ACTIONS: [Option<OverrideAction>; 4] =
    [None, Some(OverrideAction::Pass), Some(OverrideAction::Tag), Some(OverrideAction::Reject)];

/// One combination of all that a decision depends on.
#[derive(Debug, Clone, Copy)]
struct Combination {
    result: &'static str,
    p: Policy,
    testing: bool,
    sign: &'static str,
    sign_is_on: bool,
    on_temperror: OnTempError,
    mode: Mode,
    reject: Reject,
    action: Option<OverrideAction>,
    lasting: bool,
    recipients: Recipients,
    client: Client,
}

label_enum! {
    /// Who sends it.
    enum Client {
        /// Nobody known.
        Stranger = "stranger",
        /// A client in `bypass.trusted_networks`.
        Trusted = "trusted",
        /// One with a certificate in `bypass.client_certificates`.
        Certified = "certified",
        /// One who has logged in.
        LoggedIn = "logged_in",
    }
}

#[test]
fn every_combination_is_as_the_table_and_the_words_have_it() {
    let table = Table::read();
    let bypass = Bypass {
        trusted_networks: vec!["192.0.2.0/24".parse().unwrap()],
        client_certificates: [certificate()].into(),
        authenticated: true,
    };
    let mut seen = 0_usize;
    let mut used = vec![false; table.0.len()];
    for (result, p, testing, sign) in messages() {
        let facts = message(result, p, testing, sign);
        for (sign_is_on, on_temperror, (mode, reject)) in operators() {
            let row = table
                .row([result, p.as_str(), if testing { "y" } else { "n" }, on_temperror.as_str()], (sign, sign_is_on));
            used[row] = true;
            let cell = table.0[row].cell(mode, reject);
            for (action, letter) in ACTIONS.into_iter().zip(cell.chars()) {
                let local = local(sign, sign_is_on, on_temperror, (mode, reject), action);
                for (client, lasting, recipients) in circumstances() {
                    let combination = Combination {
                        result,
                        p,
                        testing,
                        sign,
                        sign_is_on,
                        on_temperror,
                        mode,
                        reject,
                        action,
                        lasting,
                        recipients,
                        client,
                    };
                    let found = done(&combination, &bypass, (&facts, &local));
                    assert_eq!(found, expected(&combination), "{combination:?}");
                    assert_eq!(found.0, by_rules(letter, &combination), "{combination:?}");
                    seen += 1;
                }
            }
        }
    }
    let product = RESULTS.len() * Policy::ALL.len() * 2 * SIGNS.len() // messages
        * 2 * OnTempError::ALL.len() * Mode::ALL.len() * Reject::ALL.len() * ACTIONS.len() // the operator's will
        * Client::ALL.len() * 2 * Recipients::ALL.len(); // circumstances
    assert_eq!((seen, product), (1_492_992, 1_492_992));
    let idle: Vec<_> = table.0.iter().zip(used).filter(|(_, used)| !used).map(|(row, _)| row).collect();
    assert!(idle.is_empty(), "rows that nothing is held against: {idle:#?}");
}

/// What becomes of the message, and by which rule it was judged; none where it is not, which is settled before anything
/// is known of it.
fn done(c: &Combination, bypass: &Bypass, (facts, local): (&Evaluation, &LocalPolicy)) -> (char, Option<Rule>) {
    let (ip, certificate, login) = match c.client {
        Client::Stranger => ("198.51.100.1", None, Login::Anonymous),
        Client::Trusted => ("192.0.2.1", None, Login::Anonymous),
        Client::Certified => ("198.51.100.1", Some(certificate()), Login::Anonymous),
        Client::LoggedIn => ("198.51.100.1", None, Login::Authenticated),
    };
    if bypass.reason(ip.parse().unwrap(), certificate, login).is_some() {
        return ('-', None);
    }
    let in_doubt_for = vec![c.lasting.then_some(local.defer_at_most)];
    let decision = decide(facts, &Circumstances { recipients: c.recipients, in_doubt_for, ..ORDINARY }, local);
    let is_overridden = decision.rule == Rule::Override;
    assert_possible(c, facts, &decision);
    let by = decision.deciding_assessment().and_then(|assessment| assessment.overridden_by);
    let told = decision.overrides().iter().any(|o| o.comment == "our partner");
    assert_eq!((by, told), (is_overridden.then_some(0), is_overridden), "{c:?}");
    (letter(decision.disposition), Some(decision.rule))
}

/// Holds the words of the metric to those that it announces. The table also has what evaluation never yields: no policy
/// record, or none of use, and yet a policy.
fn assert_possible(c: &Combination, facts: &Evaluation, decision: &Decision) {
    thread_local! {
        static POSSIBLE: HashSet<Words> = possible_words().collect();
    }
    let words = words(facts, decision);
    let is_real = !matches!(words.0, DmarcResult::None | DmarcResult::PermError);
    assert!(!is_real || POSSIBLE.with(|possible| possible.contains(&words)), "{words:?} {c:?}");
}

fn certificate() -> ClientFingerprint {
    ClientFingerprint::parse(&"ab".repeat(32)).unwrap()
}

/// The words of README's table, and of what stands below it.
fn expected(c: &Combination) -> (char, Option<Rule>) {
    if c.client != Client::Stranger {
        return ('-', None);
    }
    let (letter, rule) = expected_of_strangers(c);
    (letter, Some(rule))
}

fn expected_of_strangers(c: &Combination) -> (char, Rule) {
    // D: t=y asks for one step less.
    let d = if c.testing { c.p.one_below() } else { c.p };
    let put_off = |rule| match c.action {
        Some(OverrideAction::Pass) => ('-', Rule::Override),
        Some(OverrideAction::Tag) => ('q', Rule::Override),
        _ if c.lasting => ('q', Rule::LastingDoubt),
        Some(OverrideAction::Reject) | None => ('4', rule),
    };
    let may_put_off = c.mode == Mode::Enforce && c.on_temperror != OnTempError::Pass;
    match c.result {
        "pass" => ('-', Rule::Pass),
        "none" => ('-', Rule::NoRecord),
        "permerror" => ('-', Rule::BrokenRecord),
        "temperror/identifier" if may_put_off && d != Policy::None => put_off(Rule::IdentifierDoubt),
        "temperror/identifier" => ('-', Rule::IdentifierDoubt),
        "temperror/policy" if may_put_off && c.on_temperror == OnTempError::Defer => put_off(Rule::PolicyDoubt),
        "temperror/above" if may_put_off => put_off(Rule::PolicyDoubt),
        "temperror/policy" | "temperror/above" => ('-', Rule::PolicyDoubt),
        "temperror/own" if may_put_off => put_off(Rule::OwnLimits),
        "temperror/own" => ('-', Rule::OwnLimits),
        _ => expected_of_failure(c, d, may_put_off.then_some(put_off)),
    }
}

fn expected_of_failure(c: &Combination, d: Policy, put_off: Option<impl Fn(Rule) -> (char, Rule)>) -> (char, Rule) {
    let by_policy = match d {
        Policy::None => Rule::FailNone,
        Policy::Quarantine => Rule::FailQuarantine,
        Policy::Reject => Rule::FailReject,
    };
    let doubt_is_ours = matches!(c.sign, "skipped_signature" | "trusted_sealer_in_doubt");
    let always_counts = doubt_is_ours || (c.sign == "unsigned_end" && c.sign_is_on);
    let corroborates = c.sign != "none" && c.sign_is_on && c.reject == Reject::Corroborated;
    let is_exempt = c.recipients == Recipients::AllExempt;
    match (c.mode, c.action) {
        (Mode::Monitor, _) => return ('-', by_policy),
        (_, Some(OverrideAction::Pass)) if d != Policy::None => return ('-', Rule::Override),
        (_, Some(OverrideAction::Tag)) => return ('q', Rule::Override),
        (Mode::Tag, Some(OverrideAction::Reject)) => return ('r', Rule::Override),
        (Mode::Enforce, Some(OverrideAction::Reject)) if always_counts => return ('q', Rule::IndirectFlow),
        (Mode::Enforce, Some(OverrideAction::Reject)) if is_exempt => return ('q', Rule::ExemptRecipients),
        (Mode::Enforce, Some(OverrideAction::Reject)) => return ('X', Rule::Override),
        (_, Some(OverrideAction::Pass) | None) => {}
    }
    match (d, c.mode, c.sign, put_off) {
        (Policy::None, ..) => ('-', by_policy),
        (_, _, "trusted_sealer", _) => ('-', Rule::TrustedSealer),
        (_, _, "trusted_sealer_in_doubt", Some(put_off)) => put_off(Rule::IdentifierDoubt),
        (Policy::Quarantine, ..) => ('q', by_policy),
        (Policy::Reject, Mode::Tag, ..) => ('r', by_policy),
        (Policy::Reject, ..) if c.reject == Reject::Never => ('r', Rule::NeverReject),
        (Policy::Reject, ..) if always_counts || corroborates => ('q', Rule::IndirectFlow),
        (Policy::Reject, ..) if is_exempt => ('q', Rule::ExemptRecipients),
        (Policy::Reject, ..) => ('X', by_policy),
    }
}

/// The rows, in their order.
struct Table(Vec<Row>);

#[derive(Debug)]
struct Row {
    signs: Vec<&'static str>,
    /// result, p, t, on_temperror.
    left: [&'static str; 4],
    cells: [&'static str; 5],
}

impl Table {
    fn read() -> Self {
        let (mut rows, mut signs) = (Vec::new(), Vec::new());
        for line in TABLE.lines().map(str::trim).filter(|line| !line.is_empty()).skip(1) {
            if let Some(heading) = line.strip_prefix('#') {
                signs = heading.split_whitespace().collect();
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "|").collect();
            let (left, cells) = words.split_at(4);
            let row = Row { signs: signs.clone(), left: left.try_into().unwrap(), cells: cells.try_into().unwrap() };
            assert!(row.cells.iter().all(|cell| cell.len() == ACTIONS.len()), "{line}");
            rows.push(row);
        }
        Self(rows)
    }

    /// The row of a message with this sign, which the operator may have switched off, as the rules above the table have
    /// it.
    fn row(&self, left: [&str; 4], (sign, is_on): (&str, bool)) -> usize {
        let has_switch = !matches!(sign, "skipped_signature" | "trusted_sealer" | "trusted_sealer_in_doubt");
        let of = |sign: &str| {
            let fits = |row: &Row| row.left.iter().zip(left).all(|(has, wanted)| *has == "*" || *has == wanted);
            let mut rows = self
                .0
                .iter()
                .enumerate()
                .filter(|(_, row)| row.signs.contains(&sign) && fits(row))
                .map(|(place, _)| place);
            let (first, second) = (rows.next(), rows.next());
            assert_eq!(second, None, "{sign} {left:?} has several rows");
            first
        };
        let sign = if is_on || !has_switch { sign } else { "none" };
        of(sign).or_else(|| of("none")).unwrap_or_else(|| panic!("{left:?} has no row"))
    }
}

impl Row {
    fn cell(&self, mode: Mode, reject: Reject) -> &'static str {
        let is_column = |(of_mode, of_reject): &(Mode, Option<Reject>)| {
            *of_mode == mode && of_reject.is_none_or(|of_reject| of_reject == reject)
        };
        self.cells[COLUMNS.iter().position(is_column).unwrap()]
    }
}

/// What becomes of a letter of the table by the rules above it.
fn by_rules(letter: char, c: &Combination) -> char {
    match letter {
        _ if c.client != Client::Stranger => '-',
        'X' if c.recipients == Recipients::AllExempt => 'q',
        '4' if c.lasting => 'q',
        letter => letter,
    }
}

/// result, p, t, sign.
fn messages() -> impl Iterator<Item = (&'static str, Policy, bool, &'static str)> {
    let policies = Policy::ALL.iter().flat_map(|p| [(*p, false), (*p, true)]);
    let facts = RESULTS.into_iter().flat_map(move |result| policies.clone().map(move |(p, t)| (result, p, t)));
    facts.flat_map(|(result, p, t)| SIGNS.into_iter().map(move |sign| (result, p, t, sign)))
}

/// Who sends it, whether the sender has been put off for too long, who gets it.
fn circumstances() -> impl Iterator<Item = (Client, bool, Recipients)> {
    let recipients = Recipients::ALL.iter().flat_map(|recipients| [(false, *recipients), (true, *recipients)]);
    Client::ALL.iter().flat_map(move |client| recipients.clone().map(move |(l, r)| (*client, l, r)))
}

/// Whether the sign counts, `on_temperror`, mode and `reject`.
fn operators() -> impl Iterator<Item = (bool, OnTempError, (Mode, Reject))> {
    let modes = Mode::ALL.iter().flat_map(|mode| Reject::ALL.iter().map(|reject| (*mode, *reject)));
    let doubts = OnTempError::ALL.iter().flat_map(move |on| modes.clone().map(|mode| (*on, mode)));
    [true, false].into_iter().flat_map(move |sign_is_on| doubts.clone().map(move |(on, mode)| (sign_is_on, on, mode)))
}

/// A message of `example.org`; only a DMARC result that depends on a record has one.
fn message(result: &str, p: Policy, testing: bool, sign: &str) -> Evaluation {
    let has_record = matches!(result, "pass" | "fail" | "temperror/identifier");
    let tags = format!("p={p}; t={}", if testing { "y" } else { "n" });
    let found = dmarc("example.org", result, if has_record { &tags } else { "" });
    let signed = |result| {
        let dmarc = DmarcOutput { dkim_alignment: vec![Alignment::Strict], ..found.clone() };
        Evaluation { dkim: vec![signature(result, "example.org")], ..evaluation(vec![dmarc]) }
    };
    let plain = evaluation(vec![found.clone()]);
    let in_doubt = |sealer| {
        let unverified = chain(sealer, "example.org").sets;
        ArcOutput { result: ArcResult::TempError, sets: Vec::new(), unverified, reason: "", failure: None }
    };
    match sign {
        "broken_signature" => signed(DkimResult::Fail),
        "unsigned_end" => signed(DkimResult::Policy),
        "skipped_signature" => evaluation(vec![DmarcOutput { dkim_skipped_may_be_aligned: true, ..found }]),
        "list_fields" => Evaluation { list_fields: true, ..plain },
        "arc_chain" => Evaluation { arc: chain("stranger.example", "example.org"), ..plain },
        "arc_undecided" => Evaluation { arc: in_doubt("stranger.example"), ..plain },
        "trusted_sealer" => Evaluation { arc: chain("list.example", "example.org"), ..plain },
        "trusted_sealer_in_doubt" => Evaluation { arc: in_doubt("list.example"), ..plain },
        _ => plain,
    }
}

/// The operator's will, with the trusted sealer `list.example`.
fn local(
    sign: &str,
    sign_is_on: bool,
    on_temperror: OnTempError,
    (mode, reject): (Mode, Reject),
    action: Option<OverrideAction>,
) -> LocalPolicy {
    let switch = match sign {
        "broken_signature" => Some(Sign::BrokenSignature),
        "unsigned_end" => Some(Sign::UnsignedEnd),
        "list_fields" => Some(Sign::ListFields),
        "arc_chain" | "arc_undecided" | "trusted_sealer" | "trusted_sealer_in_doubt" => Some(Sign::ArcChain),
        _ => None,
    };
    LocalPolicy {
        mode,
        reject,
        on_temperror,
        ignored_signs: switch.filter(|_| !sign_is_on).into_iter().collect(),
        trusted_sealers: vec![domain("list.example")],
        overrides: action.map(one_override).into_iter().collect(),
        ..DEFAULT
    }
}
