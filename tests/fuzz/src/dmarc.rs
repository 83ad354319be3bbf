//! What DMARC reads of strangers: who From says wrote a message, policy records, and lists of public suffixes.

use dmarcgate::dmarc::public_suffix::List;
use dmarcgate::dmarc::record::{Parsed, Place, Policy, RecordAt, Standing, parse, select};
use dmarcgate::domain::Domain;
use dmarcgate::message::author::Author;
use dmarcgate::message::header::HeaderSection;

use super::reader::{STRANGER, shows_stranger};

/// The value of From: whatever it is, it yields A-labels that are domains, or a reason; and neither fields around it
/// nor folding at white space in front of it changes who wrote the message; and another reader shows no stranger.
pub fn author(value: &[u8]) {
    // What would end the field is another target's business.
    let value: Vec<u8> = value.iter().copied().filter(|b| !b"\r\n".contains(b)).collect();
    let read = |before: &str, after: &str| {
        let section = [before.as_bytes(), &value, after.as_bytes()].concat();
        Author::read(&HeaderSection::parse(section))
    };
    let author = read("From:", "\r\n\r\n");
    if let Author::Usable { domains, address_in_display_name } = &author {
        let is_strangers = |domain: &Domain| domain.as_str().ends_with(STRANGER);
        if !address_in_display_name && !domains.iter().any(is_strangers) {
            assert!(!shows_stranger(&value), "a stranger is shown: {}", value.escape_ascii());
        }
        assert!((1..=10).contains(&domains.len()), "{domains:?}");
        for (i, domain) in domains.iter().enumerate() {
            let text = domain.as_str();
            assert!(text.is_ascii() && !text.bytes().any(|b| b.is_ascii_uppercase()), "{text}");
            assert_eq!(Domain::parse(text).as_ref(), Ok(domain), "an A-label is itself");
            assert!(!domains[..i].contains(domain), "{domains:?}");
        }
        assert!(value.contains(&b'@'), "no address without an at sign");
        assert!(!value.iter().any(|b| b.is_ascii_control() && *b != b'\t'), "no control characters");
        assert!(matches!(read("From:", "\r\nFrom: a@b.example\r\n\r\n"), Author::Unusable(_)), "one From alone");
    }
    assert_eq!(read("From:\r\n ", "\r\n\r\n"), author, "folded");
    assert_eq!(read("To: a@b.example\r\nFROM:", " \r\nSender: c@d.example\r\n\r\n"), author, "among others");
}

/// A text at `_dmarc`: it is read within bounds, and what is kept of it in printable characters reads the same.
pub fn dmarc_record(text: &[u8]) {
    let texts: [Box<[u8]>; 2] = [text.into(), text.into()];
    let Parsed::Record(record) = parse(text) else {
        assert_eq!(select(&texts), RecordAt::Absent);
        return;
    };
    assert_eq!(select(&texts), RecordAt::Several);
    assert!(record.rua.len() <= 20 && record.ruf.len() <= 20 && record.text.len() <= 4096);
    assert!(record.text.bytes().all(|b| (0x20..=0x7e).contains(&b)), "{}", record.text);
    let places = [Place::Here, Place::ExistingBelow, Place::MissingBelow];
    match record.standing {
        Standing::Sound => assert_eq!(Some(record.requested(Place::Here)), record.p),
        Standing::ReportsOnly => assert!(!record.rua.is_empty()),
        Standing::Unusable => assert!(record.rua.is_empty()),
    }
    if record.standing != Standing::Sound {
        assert!(places.iter().all(|place| record.requested(*place) == Policy::None));
    }
    if text.len() <= 4096 && text.iter().all(|b| (0x20..=0x7e).contains(b)) {
        assert_eq!(parse(record.text.as_bytes()), Parsed::Record(record.clone()), "the kept text is the record");
    }
    // What is added behind it as a tag of nobody's changes nothing but the text.
    let more = [text, b";zz=1"].concat();
    let Parsed::Record(more) = parse(&more) else { panic!("a record with one tag more is a record") };
    assert_eq!(
        (more.p, more.sp, more.np, more.standing, more.psd),
        (record.p, record.sp, record.np, record.standing, record.psd)
    );
}

/// Rules within a list that is sound otherwise: it is refused, or finds for every name the name or one above it, and
/// what is an organizational domain is its own.
pub fn suffix_list(rules: &[u8]) {
    let filler: String = (0..5000).map(|i| format!("a{i}.filler\n")).collect();
    let head = format!(
        "// ===BEGIN ICANN DOMAINS===\ncom\norg\nuk\nco.uk\n*.ck\n!www.ck\n{filler}// ===END ICANN DOMAINS===\n\
         // ===BEGIN PRIVATE DOMAINS===\n"
    );
    let text = [head.as_bytes(), rules, b"\n// ===END PRIVATE DOMAINS===\n"].concat();
    let Ok(list) = List::parse(&text) else { return };
    assert!(list.rules().is_some_and(|count| count >= 5000));
    let rules = String::from_utf8_lossy(rules);
    let of_rules = rules.lines().filter_map(|line| Domain::parse(line.trim().trim_start_matches(['!', '*', '.'])).ok());
    let below = |domain: Domain| [Domain::parse(&format!("x.y.{domain}")).ok(), Some(domain)];
    let known = ["a.example.com", "b.a7.filler"].into_iter().filter_map(|name| Domain::parse(name).ok());
    for name in of_rules.take(20).flat_map(below).flatten().chain(known) {
        let found = list.organizational_domain(&name);
        assert!(found == name || name.is_within(&found), "{name}: {found}");
        assert_eq!(list.organizational_domain(&found), found, "{name}");
    }
}
