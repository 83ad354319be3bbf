//! Says what is wrong with the records that `reader` reads, and what it means.

use super::reader::{LedBy, Reader, RecordOrigin, Role};
use super::{ABOUT, End, MAX_TERMS, MAX_VOIDS, Node};
use crate::cli::lookup::facts::{Problem, is_failure, quoted};
use crate::cli::lookup::near_miss;
use crate::dns::Lookup;
use crate::explain::escape::escaped;
use crate::spf::SpfResult;
use crate::spf::record::{Mechanism, Published, Qualifier, SyntaxError};

impl<L: Lookup> Reader<'_, L> {
    /// Notes terms that let everybody in, and what the record says of those that it does not name.
    pub fn breadth(&mut self, (qualifier, mechanism, text): (Qualifier, &Mechanism, &str), role: Role, node: &Node) {
        let whose = match role {
            Role::Speaks | Role::Other => format!("the record of {}", node.name),
            Role::Passes => format!("the record of {}, which is included,", node.name),
        };
        let is_open = match mechanism {
            Mechanism::All if role == Role::Speaks => {
                let term = Some(escaped(text.as_bytes()));
                self.end = Some(End { result: qualifier.result(), name: node.name.clone(), term });
                if qualifier == Qualifier::Neutral {
                    let what = format!("\"?all\" in {whose} says no more than no end would: {NEUTRAL}");
                    self.wrong(what, "once all your servers are in the record, end it in \"~all\" or \"-all\"");
                }
                true
            }
            Mechanism::All if role == Role::Passes && qualifier == Qualifier::Pass => {
                let term = Some(escaped(text.as_bytes()));
                self.decided.get_or_insert(End { result: SpfResult::Pass, name: node.name.clone(), term });
                true
            }
            Mechanism::All | Mechanism::Ip4(_, 0) | Mechanism::Ip6(_, 0) => true,
            _ => false,
        };
        if is_open && qualifier == Qualifier::Pass && role != Role::Other {
            let text = if *mechanism == Mechanism::All { "+all".into() } else { escaped(text.as_bytes()) };
            let what = format!("\"{text}\" in {whose} lets the whole world send for the domain");
            self.wrong(what, "name your own servers, and end the record in \"-all\" or \"~all\"");
        }
    }

    /// Notes words that are read as modifiers that nobody knows, and ignored (RFC 7208 §6).
    pub fn slips(&mut self, text: &str, node: &Node) {
        for term in text.split(' ') {
            let Some((name, _)) = term.split_once('=') else { continue };
            let is_mechanism = |word: &&str| name.trim_start_matches(['+', '-', '~', '?']).eq_ignore_ascii_case(word);
            if MECHANISMS.iter().any(is_mechanism) {
                let what = format!("{} in the record of {} is no mechanism", escaped(term.as_bytes()), node.name);
                self.wrong(what, "write a colon in place of the equals sign");
            }
        }
    }

    pub fn several(&mut self, node: &Node, texts: &[&[u8]]) {
        let is_record = |text: &&&[u8]| Published::read(&[(**text).into()]) != Published::Absent;
        let records = texts.iter().filter(is_record).map(|text| quoted(text)).collect::<Vec<_>>().join(" and ");
        let what = format!("{} has several SPF records: permerror (RFC 7208 §4.5): {records}", node.name);
        self.wrong(what, "join them into one record that begins with v=spf1 and has one \"all\", at its end");
    }

    pub fn circle(&mut self, node: &Node) {
        self.cut_short = true;
        let what = format!("the record of {} leads back to itself: permerror for whoever gets there", node.name);
        self.wrong(what, "take out the include or redirect that closes the circle");
    }

    pub fn endless(&mut self, node: &Node) {
        let what = format!("the record of {} has no end: {NEUTRAL}", node.name);
        self.wrong(what, "end it in \"-all\", or in \"~all\" until all your servers are in it");
        self.end = Some(End { result: SpfResult::Neutral, name: node.name.clone(), term: None });
    }

    pub fn unreadable(&mut self, text: &str, error: SyntaxError, node: &Node) {
        let term = faulty_term(text).map(|term| format!("{}: ", escaped(term.as_bytes())));
        let term = term.unwrap_or_default();
        let what = format!("the record of {} can't be read: {term}{error} (permerror)", node.name);
        self.wrong(what, "mend the record: one error makes the whole of it void");
    }

    pub fn missing(&mut self, node: &Node, place: RecordOrigin, texts: &[&[u8]]) {
        if is_failure(node.said) {
            self.problems.push(Problem::failure(ABOUT, &node.name, node.said));
            return;
        }
        for text in texts {
            if let Some(near) = near_miss::spf(text) {
                self.note(near.problem(ABOUT, &node.name, text));
            }
        }
        let gone = if node.said == "nxdomain" { "does not exist" } else { "has no SPF record" };
        match place.led_by {
            LedBy::Include => {
                let what = format!("{} is included and {gone}: permerror (RFC 7208 §5.2)", node.name);
                self.wrong(what, "take it out of the record, or ask its owner to publish one");
            }
            LedBy::Redirect => {
                let what = format!("redirect= leads to {}, which {gone}: permerror (RFC 7208 §6.1)", node.name);
                self.wrong(what, "take the redirect out and end the record in \"-all\" or \"~all\", or mend the name");
            }
            LedBy::Question if node.said == "nxdomain" => {
                self.wrong(format!("{} does not exist", node.name), "look for a typo");
            }
            LedBy::Question => {
                let remedy = "publish one: \"v=spf1 mx -all\" if its mail servers send its mail, \"v=spf1 -all\" if it sends none";
                self.wrong("there is no SPF record", remedy);
            }
        }
    }

    /// What only the whole tells.
    pub fn judge(&mut self, record: &Node) {
        if record.said != "record" {
            return;
        }
        if self.terms > MAX_TERMS {
            let least = if self.cut_short || self.depending[1] > 0 { "at least " } else { "" };
            let what = format!("{least}{} terms ask DNS, ten are allowed: permerror (RFC 7208 §4.6.4)", self.terms);
            self.wrong(what, "take out includes of services that you no longer use; name networks in place of hosts");
        }
        let [four, six] = self.voids;
        for (voids, family) in [(four, "IPv4"), (six, "IPv6")] {
            if voids > MAX_VOIDS {
                let what = format!(
                    "for clients with {family} {voids} terms find nothing, two are allowed: permerror (RFC 7208 §4.6.4)"
                );
                self.wrong(what, "take out the terms that find nothing");
            }
        }
    }

    pub fn wrong(&mut self, what: impl Into<String>, remedy: &'static str) {
        self.note(Problem::new(ABOUT, what, remedy));
    }

    pub fn note(&mut self, problem: Problem) {
        // A record that is included twice is wrong once.
        if self.problems.len() < MAX_PROBLEMS && !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// The first term that can't be read by itself.
fn faulty_term(text: &str) -> Option<&str> {
    let is_faulty = |term: &&str| {
        let alone = Published::read(&[format!("v=spf1 {term}").into_bytes().into()]);
        matches!(alone, Published::One { record: Err(_), .. })
    };
    text.split(' ').skip(1).find(is_faulty)
}

const NEUTRAL: &str =
    "of clients that it does not name it says nothing (neutral), so that SPF tells nobody which mail is forged";
/// RFC 7208 §5.
const MECHANISMS: [&str; 8] = ["all", "include", "a", "mx", "ptr", "ip4", "ip6", "exists"];
/// Things that are told to be wrong.
const MAX_PROBLEMS: usize = 50;
