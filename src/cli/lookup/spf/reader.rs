//! Reads a record and all that it leads to, counts what it asks, and notes what is wrong.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;

use super::{ABOUT, End, Node, Spf, Term};
use crate::cli::lookup::facts::{Problem, addresses_of, is_failure, said};
use crate::dns::{Answer, Lookup, RecordType};
use crate::domain::{Domain, fits_dns};
use crate::explain::escape::escaped;
use crate::spf::SpfResult;
use crate::spf::macros::{DomainSpec, Values};
use crate::spf::record::{Directive, Mechanism, Published, Qualifier, Record};

/// Reads the record of `domain` and what it leads to.
pub async fn read<L: Lookup>(lookup: &L, domain: &Domain) -> Spf {
    let mut reader = Reader {
        lookup,
        sender_domain: domain.as_str(),
        path: Vec::new(),
        terms: 0,
        voids: [0, 0],
        depending: [0, 0],
        cut_short: false,
        end: None,
        decided: None,
        problems: Vec::new(),
    };
    let record = reader.record(domain.to_string(), RecordOrigin { role: Role::Speaks, led_by: LedBy::Question }).await;
    reader.judge(&record);
    // Whoever gets that far is told before anything else is read.
    let end = reader.decided.or(reader.end);
    let Reader { terms, voids: [void_terms, void_terms_ipv6], depending, cut_short, problems, .. } = reader;
    let [depending_terms, depending_records] = depending;
    Spf {
        record,
        terms,
        void_terms,
        void_terms_ipv6,
        depending_terms,
        depending_records,
        cut_short,
        end,
        client: None,
        problems,
    }
}

/// How a record came to be read.
#[derive(Clone, Copy)]
pub struct RecordOrigin {
    pub role: Role,
    pub led_by: LedBy,
}

/// What a record's result is for the domain. A redirect keeps the role of the record that it stands in for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is the domain's.
    Speaks,
    /// Its pass is the domain's pass: it is included, without a sign but `+`.
    Passes,
    /// Neither.
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LedBy {
    Question,
    Include,
    Redirect,
}

pub struct Reader<'a, L> {
    lookup: &'a L,
    sender_domain: &'a str,
    /// The records that led to the one that is read.
    path: Vec<String>,
    pub terms: usize,
    /// For IPv4 and IPv6.
    pub voids: [usize; 2],
    /// Terms that depend on the client or the sender, and those of them that lead to a record.
    pub depending: [usize; 2],
    /// Whether there is more than was followed.
    pub cut_short: bool,
    pub end: Option<End>,
    /// The first term behind which nothing is read, whoever the client is: one that closes a circle, so that the
    /// evaluation goes round until it has asked too often, or that lets everybody in through an included record.
    pub decided: Option<End>,
    pub problems: Vec<Problem>,
}

impl<L: Lookup> Reader<'_, L> {
    /// Boxed, since `include` and `redirect` come back here; at most [`MAX_FOLLOWED`] times.
    fn record(&mut self, name: String, place: RecordOrigin) -> Pin<Box<dyn Future<Output = Node> + Send + '_>> {
        Box::pin(async move {
            let shown = escaped(name.as_bytes());
            let mut node = Node { name: shown, said: "not_followed", ttl_seconds: 0, text: None, terms: Vec::new() };
            if self.path.contains(&name) {
                self.circle(&node);
                return node;
            }
            if self.terms > MAX_FOLLOWED {
                self.cut_short = true;
                return node;
            }
            let answer = self.lookup.ask(&name, RecordType::Txt).await;
            node.ttl_seconds = answer.ttl.as_secs();
            let texts = match &answer.outcome {
                Ok(records) => records.as_txt(),
                Err(miss) => {
                    node.said = said(*miss);
                    self.missing(&node, place, &[]);
                    return node;
                }
            };
            let all: Vec<&[u8]> = texts.iter().flat_map(|txt| txt.texts()).collect();
            let published = texts.map(|txt| txt.parsed(Published::read));
            match published.as_deref() {
                None | Some(Published::Absent) => {
                    node.said = "other_records";
                    self.missing(&node, place, &all);
                }
                Some(Published::Several) => {
                    node.said = "several_records";
                    self.several(&node, &all);
                }
                Some(Published::One { text, record }) => {
                    node.said = "record";
                    node.text = Some(escaped(text.as_bytes()));
                    self.slips(text, &node);
                    match record {
                        Ok(record) => {
                            self.path.push(name.clone());
                            self.terms(record, (&name, place.role), &mut node).await;
                            self.path.pop();
                        }
                        Err(error) => {
                            self.unreadable(text, *error, &node);
                        }
                    }
                }
            }
            node
        })
    }

    async fn terms(&mut self, record: &Record, (name, role): (&str, Role), node: &mut Node) {
        let mut has_all = false;
        for Directive { qualifier, mechanism, text } in &record.directives {
            if has_all {
                let what = format!("{} stands behind \"all\" in the record of {} and has no effect", text, node.name);
                self.wrong(what, "move it before \"all\", or take it out");
                break;
            }
            has_all = *mechanism == Mechanism::All;
            self.breadth((*qualifier, mechanism, text), role, node);
            let inner = if *qualifier == Qualifier::Pass && role != Role::Other { Role::Passes } else { Role::Other };
            let term = self.term((mechanism, text), name, inner).await;
            node.terms.push(term);
        }
        match &record.redirect {
            Some(redirect) if has_all => {
                let what = format!("{} has no effect beside \"all\" (RFC 7208 §6.1)", redirect.text);
                self.wrong(what, "take one of the two out");
            }
            Some(redirect) => {
                self.terms += 1;
                let place = RecordOrigin { role, led_by: LedBy::Redirect };
                let term = self.followed(&redirect.domain, (&redirect.text, name), place).await;
                node.terms.push(term);
            }
            None if !has_all && role == Role::Speaks => {
                self.endless(node);
            }
            None => {}
        }
    }

    async fn term(&mut self, (mechanism, text): (&Mechanism, &str), name: &str, inner: Role) -> Term {
        let shown = || Term { text: escaped(text.as_bytes()), found: Vec::new(), record: None };
        let spec = match mechanism {
            Mechanism::All | Mechanism::Ip4(..) | Mechanism::Ip6(..) => return shown(),
            Mechanism::Include(spec) => {
                self.terms += 1;
                return self.followed(spec, (text, name), RecordOrigin { role: inner, led_by: LedBy::Include }).await;
            }
            Mechanism::Ptr(_) => {
                self.terms += 1;
                self.depending[0] += 1;
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
        let Some(target) = self.target(spec, name) else {
            self.depending[0] += 1;
            return Term { found: vec![DEPENDS.into()], ..shown() };
        };
        if self.terms > MAX_FOLLOWED {
            self.cut_short = true;
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

    async fn followed(&mut self, spec: &DomainSpec, (text, name): (&str, &str), place: RecordOrigin) -> Term {
        let text = escaped(text.as_bytes());
        match self.target(Some(spec), name) {
            Some(target) => {
                if self.path.contains(&target) && self.decided.is_none() {
                    let (name, term) = (escaped(name.as_bytes()), Some(text.clone()));
                    self.decided = Some(End { result: SpfResult::PermError, name, term });
                }
                let record = self.record(target, place).await;
                Term { text, found: Vec::new(), record: Some(Box::new(record)) }
            }
            None => {
                self.depending = self.depending.map(|count| count + 1);
                Term { text, found: vec![DEPENDS.into()], record: None }
            }
        }
    }

    /// The addresses of both families, and for which there are none.
    async fn addresses(&mut self, name: &str) -> (Vec<String>, [bool; 2]) {
        let (four, six) = tokio::join!(self.lookup.ask(name, RecordType::A), self.lookup.ask(name, RecordType::Aaaa));
        let voids = [self.is_void(&four, name), self.is_void(&six, name)];
        let found = addresses_of(&four, &six);
        (if found.is_empty() { told(&four) } else { found }, voids)
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
        if exchangers.is_empty() {
            found.push("null MX: there is no mail server".into());
        } else {
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
        if !fits_dns(name) {
            return false;
        }
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
}

/// Addresses, or what was said.
fn told(answer: &Answer) -> Vec<String> {
    match &answer.outcome {
        Ok(records) => records.as_a().iter().map(ToString::to_string).collect(),
        Err(miss) => vec![said(*miss).to_owned()],
    }
}

const DEPENDS: &str = "depends on the client or the sender";
/// RFC 7208 §4.6.4.
const MAX_EXCHANGERS: usize = 10;
/// Terms that are followed, so that it can be told by how much a record is over the limit.
const MAX_FOLLOWED: usize = 40;
