//! The SPF record of a domain with all that it includes, term by term (RFC 7208).
//!
//! Where an evaluation ends at the first match, this goes on to the end: what is counted is what a client costs that
//! nothing matches, which is the most that any client can cost.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;

use serde::Serialize;

use super::facts::{Problem, is_failure, said};
use crate::dns::{Answer, Lookup, RecordType};
use crate::domain::Domain;
use crate::explain::escape::escaped;
use crate::label::Label;
use crate::spf::evaluate::{Request, check_host};
use crate::spf::macros::{DomainSpec, Values};
use crate::spf::record::{Directive, Mechanism, Published, Qualifier, Record};

#[derive(Debug, Serialize)]
pub struct Spf {
    pub record: Node,
    /// Terms that ask DNS, over all records.
    pub terms: usize,
    /// Those of them that find nothing for clients with IPv4.
    pub void_terms: usize,
    /// The same for IPv6.
    pub void_terms_ipv6: usize,
    /// What it comes to for the client given.
    pub client: Option<Client>,
    #[serde(skip)]
    problems: Vec<Problem>,
}

/// One record.
#[derive(Debug, Serialize)]
pub struct Node {
    pub name: String,
    /// `record`, `several_records`, `other_records`, `nodata`, `nxdomain`, the kind of failure, or `not_followed`.
    pub said: &'static str,
    pub ttl_seconds: u64,
    pub text: Option<String>,
    pub terms: Vec<Term>,
}

#[derive(Debug, Serialize)]
pub struct Term {
    pub text: String,
    /// Addresses, exchangers, or what DNS said.
    pub found: Vec<String>,
    /// The record of `include` and `redirect`.
    pub record: Option<Box<Node>>,
}

#[derive(Debug, Serialize)]
pub struct Client {
    pub ip: IpAddr,
    pub result: &'static str,
    pub term: Option<String>,
    pub reason: String,
}

/// Reads the record of `domain` and what it includes; for a client, evaluates it as for mail from postmaster there.
pub async fn find<L: Lookup>(lookup: &L, domain: &Domain, ip: Option<IpAddr>) -> Spf {
    let mut reader = Reader { lookup, sender_domain: domain.as_str(), terms: 0, voids: [0, 0], problems: Vec::new() };
    let record = reader.record(domain.to_string(), Whose::Own).await;
    reader.judge(&record);
    let Reader { terms, voids: [void_terms, void_terms_ipv6], problems, .. } = reader;
    let client = match ip {
        Some(ip) => Some(Client::find(lookup, domain, ip.to_canonical()).await),
        None => None,
    };
    Spf { record, terms, void_terms, void_terms_ipv6, client, problems }
}

impl Spf {
    /// What is wrong with it.
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.clone()
    }
}

impl Client {
    async fn find(lookup: &impl Lookup, domain: &Domain, ip: IpAddr) -> Self {
        let sender = format!("postmaster@{domain}");
        let output = check_host(lookup, &Request::mail_from(ip, domain.as_str(), &sender)).await;
        Self {
            ip,
            result: output.result.as_str(),
            term: output.term.map(|term| escaped(term.as_bytes())),
            reason: escaped(output.reason.as_bytes()),
        }
    }
}

/// Whose record is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The domain's.
    Own,
    /// One that it includes, where there must be one.
    Included,
}

struct Reader<'a, L> {
    lookup: &'a L,
    sender_domain: &'a str,
    terms: usize,
    /// For IPv4 and IPv6.
    voids: [usize; 2],
    problems: Vec<Problem>,
}

impl<L: Lookup> Reader<'_, L> {
    /// Boxed, since `include` and `redirect` come back here; at most [`MAX_FOLLOWED`] times.
    fn record(&mut self, name: String, whose: Whose) -> Pin<Box<dyn Future<Output = Node> + Send + '_>> {
        Box::pin(async move {
            let shown = escaped(name.as_bytes());
            let mut node = Node { name: shown, said: "not_followed", ttl_seconds: 0, text: None, terms: Vec::new() };
            if self.terms > MAX_FOLLOWED {
                return node;
            }
            let answer = self.lookup.ask(&name, RecordType::Txt).await;
            node.ttl_seconds = answer.ttl.as_secs();
            let published = match &answer.outcome {
                Ok(records) => records.as_txt().map(|txt| txt.parsed(Published::read)),
                Err(miss) => {
                    node.said = said(*miss);
                    self.missing(&node, whose);
                    return node;
                }
            };
            match published.as_deref() {
                None | Some(Published::Absent) => {
                    node.said = "other_records";
                    self.missing(&node, whose);
                }
                Some(Published::Several) => {
                    node.said = "several_records";
                    let what = format!("{} has several SPF records: permerror (RFC 7208 §4.5)", node.name);
                    self.wrong(what, "join them into one record that begins with v=spf1");
                }
                Some(Published::One { text, record }) => {
                    node.said = "record";
                    node.text = Some(escaped(text.as_bytes()));
                    match record {
                        Ok(record) => self.terms(record, &name, &mut node).await,
                        Err(error) => {
                            let what = format!("the record of {} can't be read: {error} (permerror)", node.name);
                            self.wrong(what, "mend the record: one error makes the whole of it void");
                        }
                    }
                }
            }
            node
        })
    }

    async fn terms(&mut self, record: &Record, name: &str, node: &mut Node) {
        let mut has_all = false;
        for Directive { qualifier, mechanism, text } in &record.directives {
            if has_all {
                let what = format!("{} stands behind \"all\" in the record of {} and has no effect", text, node.name);
                self.wrong(what, "move it before \"all\", or take it out");
                break;
            }
            if *mechanism == Mechanism::All {
                has_all = true;
                if *qualifier == Qualifier::Pass && name == self.sender_domain {
                    self.wrong(
                        "\"+all\" lets the whole world send for the domain",
                        "end the record in \"-all\" or \"~all\"",
                    );
                }
            }
            let term = self.term(mechanism, text, name).await;
            node.terms.push(term);
        }
        match &record.redirect {
            Some(redirect) if has_all => {
                let what = format!("{} has no effect beside \"all\" (RFC 7208 §6.1)", redirect.text);
                self.wrong(what, "take one of the two out");
            }
            Some(redirect) => {
                self.terms += 1;
                let term = self.followed(&redirect.domain, &redirect.text, name).await;
                node.terms.push(term);
            }
            None if !has_all && name == self.sender_domain => {
                self.wrong(
                    "the record has no end: for unknown clients it says nothing",
                    "end it in \"-all\" or \"~all\"",
                );
            }
            None => {}
        }
    }

    async fn term(&mut self, mechanism: &Mechanism, text: &str, name: &str) -> Term {
        let shown = || Term { text: escaped(text.as_bytes()), found: Vec::new(), record: None };
        let spec = match mechanism {
            Mechanism::All | Mechanism::Ip4(..) | Mechanism::Ip6(..) => return shown(),
            Mechanism::Include(spec) => {
                self.terms += 1;
                return self.followed(spec, text, name).await;
            }
            Mechanism::Ptr(_) => {
                self.terms += 1;
                self.wrong(
                    format!("{text} depends on the client's own zone and should not be used (RFC 7208 §5.5)"),
                    "name the networks or hosts instead",
                );
                return Term { found: vec!["the client's names".into()], ..shown() };
            }
            Mechanism::A(spec, _) | Mechanism::Mx(spec, _) => spec.as_ref(),
            Mechanism::Exists(spec) => Some(spec),
        };
        self.terms += 1;
        let Some(target) = self.target(spec, name) else { return Term { found: vec![DEPENDS.into()], ..shown() } };
        if self.terms > MAX_FOLLOWED {
            return shown();
        }
        let found = match mechanism {
            Mechanism::Mx(..) => self.exchangers(&target).await,
            Mechanism::Exists(_) => {
                let answer = self.lookup.ask(&target, RecordType::A).await;
                let is_void = self.is_void(&answer, &target);
                self.void([is_void, is_void], text);
                told(&answer)
            }
            _ => {
                let (found, voids) = self.addresses(&target).await;
                self.void(voids, text);
                found
            }
        };
        Term { found, ..shown() }
    }

    async fn followed(&mut self, spec: &DomainSpec, text: &str, name: &str) -> Term {
        let text = escaped(text.as_bytes());
        match self.target(Some(spec), name) {
            Some(target) => {
                let record = self.record(target, Whose::Included).await;
                Term { text, found: Vec::new(), record: Some(Box::new(record)) }
            }
            None => Term { text, found: vec![DEPENDS.into()], record: None },
        }
    }

    /// The addresses of both families, and for which there are none.
    async fn addresses(&mut self, name: &str) -> (Vec<String>, [bool; 2]) {
        let (four, six) = tokio::join!(self.lookup.ask(name, RecordType::A), self.lookup.ask(name, RecordType::Aaaa));
        let voids = [self.is_void(&four, name), self.is_void(&six, name)];
        let mut found: Vec<String> = Vec::new();
        found.extend(four.outcome.iter().flat_map(|records| records.as_a()).map(ToString::to_string));
        found.extend(six.outcome.iter().flat_map(|records| records.as_aaaa()).map(ToString::to_string));
        if found.is_empty() {
            found = told(&four);
        }
        (found, voids)
    }

    async fn exchangers(&mut self, target: &str) -> Vec<String> {
        let answer = self.lookup.ask(target, RecordType::Mx).await;
        let Ok(records) = &answer.outcome else {
            let is_void = self.is_void(&answer, target);
            self.void([is_void, is_void], &format!("mx of {}", escaped(target.as_bytes())));
            return told(&answer);
        };
        let exchangers = records.as_mx().iter().filter(|mx| !mx.exchange.is_empty()).collect::<Vec<_>>();
        if records.as_mx().len() > MAX_EXCHANGERS {
            let what =
                format!("{} has more than ten exchangers: permerror (RFC 7208 §4.6.4)", escaped(target.as_bytes()));
            self.wrong(what, "name the networks instead of \"mx\"");
        }
        let (mut found, mut voids) = (Vec::new(), [true, true]);
        for mx in exchangers.iter().take(MAX_EXCHANGERS) {
            let (addresses, none) = self.addresses(&mx.exchange).await;
            voids = [voids[0] && none[0], voids[1] && none[1]];
            found.push(format!("{} ({})", escaped(mx.exchange.as_bytes()), addresses.join(", ")));
        }
        if !exchangers.is_empty() {
            self.void(voids, &format!("mx of {}", escaped(target.as_bytes())));
        }
        found
    }

    /// The name that a term is about; none if that depends on the client or the sender.
    fn target(&self, spec: Option<&DomainSpec>, name: &str) -> Option<String> {
        let Some(spec) = spec else { return Some(name.to_owned()) };
        let expand = |ip, text| {
            spec.expand(&Values {
                ip,
                local_part: text,
                sender_domain: self.sender_domain,
                domain: name,
                helo: text,
                validated_name: text,
            })
        };
        let one = expand(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), "one.example");
        let other = expand(IpAddr::V6(Ipv6Addr::LOCALHOST), "other.test");
        (one == other).then_some(one)
    }

    /// Whether the answer is none; a failure is a problem of its own.
    fn is_void(&mut self, answer: &Answer, name: &str) -> bool {
        let said = answer.outcome.as_ref().err().map(|miss| said(*miss));
        if let Some(said) = said.filter(|said| is_failure(said)) {
            self.problems.push(Problem::failure(ABOUT, &escaped(name.as_bytes()), said));
            return false;
        }
        said.is_some()
    }

    fn void(&mut self, families: [bool; 2], text: &str) {
        for (count, is_void) in self.voids.iter_mut().zip(families) {
            *count += usize::from(is_void);
        }
        if families == [true, true] {
            self.wrong(
                format!("{} finds nothing", escaped(text.as_bytes())),
                "take the term out, or publish what it names",
            );
        }
    }

    fn missing(&mut self, node: &Node, whose: Whose) {
        if is_failure(node.said) {
            self.problems.push(Problem::failure(ABOUT, &node.name, node.said));
        } else if whose == Whose::Included {
            let what = format!("{} is included and has no SPF record: permerror (RFC 7208 §5.2)", node.name);
            self.wrong(what, "take it out of the record, or ask its owner to publish one");
        } else if node.said == "nxdomain" {
            self.wrong(format!("{} does not exist", node.name), "look for a slip of the pen");
        } else {
            let remedy = "publish one; for a domain that sends no mail: v=spf1 -all";
            self.wrong("there is no SPF record", remedy);
        }
    }

    /// What only the whole tells.
    fn judge(&mut self, record: &Node) {
        if record.said != "record" {
            return;
        }
        if self.terms > MAX_TERMS {
            let what = format!("{} terms ask DNS, ten are allowed: permerror (RFC 7208 §4.6.4)", self.terms);
            self.wrong(what, "take terms out, or put addresses in the place of includes");
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

    fn wrong(&mut self, what: impl Into<String>, remedy: &'static str) {
        let problem = Problem::new(ABOUT, what, remedy);
        // A record that is included twice is wrong once.
        if self.problems.len() < MAX_PROBLEMS && !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// Addresses, or what was said.
fn told(answer: &Answer) -> Vec<String> {
    match &answer.outcome {
        Ok(records) => records.as_a().iter().map(ToString::to_string).collect(),
        Err(miss) => vec![said(*miss).to_owned()],
    }
}

const ABOUT: &str = "SPF";
const DEPENDS: &str = "depends on the client or the sender";
/// RFC 7208 §4.6.4.
const MAX_TERMS: usize = 10;
/// RFC 7208 §4.6.4.
const MAX_VOIDS: usize = 2;
/// RFC 7208 §4.6.4.
const MAX_EXCHANGERS: usize = 10;
/// Terms that are followed, so that it can be told by how much a record is over the limit.
const MAX_FOLLOWED: usize = 40;
/// Things that are told to be wrong.
const MAX_PROBLEMS: usize = 50;
