//! Reads what a name server has answered: its records, or why there are none.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType as WireType};

use crate::dns::{Miss, Mx, RecordType, Records, TxtRecords};

/// An answer that a server stands by.
pub(super) struct Answered {
    answers: Vec<Record>,
    nx_domain: bool,
    /// Seconds, if there is an SOA: the answer is then a complete one.
    negative_ttl: Option<u32>,
}

/// What an answer says about one name.
pub(super) enum Reading {
    Found(Records, u32),
    /// A CNAME whose target the server says nothing about.
    Alias(Name, u32),
    Missing(Miss, Option<u32>),
}

impl Answered {
    /// What came back for `query`. An answer to another question does not count: over UDP the library checks that
    /// itself, but it trusts a stream to keep its answers apart.
    pub fn new(response: Result<DnsResponse, NetError>, query: &Query) -> Result<Self, NetError> {
        let answers_it = |echoed: &Query| {
            echoed.name() == query.name()
                && echoed.query_type() == query.query_type()
                && echoed.query_class() == query.query_class()
        };
        match response {
            Ok(response) => {
                let negative_ttl = response.negative_ttl();
                let message = response.into_message();
                if !matches!(message.queries.as_slice(), [echoed] if answers_it(echoed)) {
                    return Err(NetError::Message(OTHER_QUESTION));
                }
                let nx_domain = match message.metadata.response_code {
                    ResponseCode::NoError => false,
                    ResponseCode::NXDomain => true,
                    code => return Err(NetError::Dns(DnsError::ResponseCode(code))),
                };
                Ok(Self { answers: message.answers, nx_domain, negative_ttl: negative_ttl.map(sane) })
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) if answers_it(&none.query) => Ok(Self {
                answers: Vec::new(),
                nx_domain: none.response_code == ResponseCode::NXDomain,
                negative_ttl: none.negative_ttl.map(sane),
            }),
            Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Err(NetError::Message(OTHER_QUESTION)),
            Err(error) => Err(error),
        }
    }
}

/// The name on the wire; every octet is allowed in a label. None if a label or the whole is too long.
pub(super) fn to_wire(name: &str) -> Option<Name> {
    Name::from_labels(name.split('.').map(str::as_bytes)).ok()
}

/// A name from the wire: lower case, no trailing dot; the root is empty. Printable characters stand for themselves, so
/// that the name can be asked for by [`to_wire`]; other octets, dots within a label and backslashes are escaped as in a
/// zone file, and no such name is asked for again.
fn to_text(name: &Name) -> Box<str> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for octet in label {
            match octet {
                b'.' | b'\\' => text.push_str(&format!("\\{octet:03}")),
                _ if octet.is_ascii_graphic() => text.push(char::from(octet.to_ascii_lowercase())),
                _ => text.push_str(&format!("\\{octet:03}")),
            }
        }
    }
    text.into()
}

pub(super) fn wire_type(record_type: RecordType) -> WireType {
    match record_type {
        RecordType::A => WireType::A,
        RecordType::Aaaa => WireType::AAAA,
        RecordType::Mx => WireType::MX,
        RecordType::Ptr => WireType::PTR,
        RecordType::Txt => WireType::TXT,
    }
}

/// Reads what `answered` says about `name`: its records, or those at the end of its chain of CNAMEs. Records of other
/// names are not looked at.
pub(super) fn read(answered: &Answered, name: &Name, record_type: RecordType) -> Reading {
    let mut owner = name;
    let mut ttl = u32::MAX;
    for _ in 0..MAX_CHAIN {
        let own = || answered.answers.iter().filter(|record| record.name == *owner);
        if let Some((records, lowest)) = collect(own(), record_type) {
            return Reading::Found(records, ttl.min(lowest));
        }
        let alias = own().find_map(|record| match &record.data {
            RData::CNAME(target) => Some((&target.0, sane(record.ttl))),
            _ => None,
        });
        match alias {
            Some((target, own)) => {
                ttl = ttl.min(own);
                owner = target;
            }
            None => break,
        }
    }
    if std::ptr::eq(owner, name) {
        let miss = if answered.nx_domain { Miss::NxDomain } else { Miss::NoData };
        Reading::Missing(miss, answered.negative_ttl)
    } else if answered.nx_domain || answered.negative_ttl.is_some() {
        // NXDOMAIN is said of the target (RFC 6604 §3); the name itself exists.
        Reading::Missing(Miss::NoData, answered.negative_ttl.map(|own| own.min(ttl)))
    } else {
        Reading::Alias(owner.clone(), ttl)
    }
}

/// The records of one type among those of one name, with their lowest TTL; none if there are none.
fn collect<'a>(records: impl Iterator<Item = &'a Record>, record_type: RecordType) -> Option<(Records, u32)> {
    let mut ttl = u32::MAX;
    let records = records
        .filter(|record| record.record_type() == wire_type(record_type))
        .inspect(|record| ttl = ttl.min(sane(record.ttl)))
        .map(|record| &record.data);
    let found = match record_type {
        RecordType::A => Records::A(records.filter_map(ipv4).collect()),
        RecordType::Aaaa => Records::Aaaa(records.filter_map(ipv6).collect()),
        RecordType::Mx => {
            let mut exchangers = records.filter_map(exchanger).collect::<Vec<_>>();
            exchangers.sort_by_key(|mx| mx.preference);
            Records::Mx(exchangers)
        }
        RecordType::Ptr => Records::Ptr(records.filter_map(pointer).collect()),
        RecordType::Txt => Records::Txt(TxtRecords::new(records.filter_map(text).collect())),
    };
    (!found.is_empty()).then_some((found, ttl))
}

/// RFC 2181 §8: a TTL with the first bit set counts as zero.
fn sane(ttl: u32) -> u32 {
    if ttl > MAX_TTL { 0 } else { ttl }
}

fn ipv4(data: &RData) -> Option<Ipv4Addr> {
    if let RData::A(address) = data { Some(address.0) } else { None }
}

fn ipv6(data: &RData) -> Option<Ipv6Addr> {
    if let RData::AAAA(address) = data { Some(address.0) } else { None }
}

fn exchanger(data: &RData) -> Option<Mx> {
    let RData::MX(mx) = data else { return None };
    Some(Mx { preference: mx.preference, exchange: to_text(&mx.exchange) })
}

fn pointer(data: &RData) -> Option<Box<str>> {
    if let RData::PTR(name) = data { Some(to_text(&name.0)) } else { None }
}

fn text(data: &RData) -> Option<Box<[u8]>> {
    if let RData::TXT(txt) = data { Some(txt.txt_data.concat().into()) } else { None }
}

/// What the error says where a server has answered another question than ours.
pub(super) const OTHER_QUESTION: &str = "an answer to another question";
/// Seconds (RFC 2181 §8).
const MAX_TTL: u32 = 0x7fff_ffff;
/// CNAMEs followed within one answer.
const MAX_CHAIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_printable_characters_can_be_asked_for_again() {
        for name in ["mail.example", "foo:bar/baz.example", "a%b(c;\"d@_x.example"] {
            let wire = to_wire(name).unwrap();
            assert_eq!(&*to_text(&wire), name);
            assert_eq!(to_wire(&to_text(&wire)), Some(wire));
        }
        assert_eq!(&*to_text(&to_wire("MAIL.Example").unwrap()), "mail.example");
        let odd = Name::from_labels([&b"a.b\\ \x00\xff"[..], b"example"]).unwrap();
        assert_eq!(&*to_text(&odd), "a\\046b\\092\\032\\000\\255.example");
        assert_eq!(&*to_text(&Name::root()), "");
    }
}
