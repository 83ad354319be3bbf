//! The rules of RFC 7208, section by section: each row a named case with the result that the RFC demands. What the
//! tables of `tests`, `record` and `macros` have already is not here again.

use super::*;
use crate::dns::zone::Zone;
use crate::label::Label;
use SpfResult::{Fail, Neutral, None as NoResult, Pass, PermError, SoftFail, TempError};

const IP: &str = "192.0.2.3";
const IP6: &str = "2001:db8::cb01";

/// A zone with a host that is not the client and a few records to include.
fn zone() -> Zone {
    Zone::new()
        .a("h.example", &["198.51.100.1"])
        .aaaa("h.example", &["2001:db8:ffff::1"])
        .mx("h.example", &[(10, "h.example")])
        .a("me.example", &[IP])
        .aaaa("me.example", &[IP6])
        .txt("pass.example", &["v=spf1 a:me.example -all"])
        .txt("fail.example", &["v=spf1 -all"])
}

async fn run(zone: &Zone, ip: &str, reverse_path: &str) -> SpfOutput {
    check_host(zone, &Request::mail_from(ip.parse().unwrap(), "helo.example.net", reverse_path)).await
}

/// Runs rows of name, terms of a.example's record, and result for joe@a.example, each in a zone of its own.
async fn table(section: &str, zone: impl Fn() -> Zone, rows: &[(&str, &str, SpfResult)]) {
    for (name, terms, expected) in rows {
        let output = run(&zone().txt("a.example", &[&format!("v=spf1 {terms}")]), IP, "joe@a.example").await;
        assert_eq!(output.result, *expected, "{section}, {name}: {terms}: {output:?}");
    }
}

/// RFC 7208 §3.1, §4.4: records are TXT records and nothing else is asked for them; §3.4: they may be long.
#[tokio::test]
async fn section_3_records() {
    let zone = Zone::new().txt("a.example", &["v=spf1 ip4:192.0.2.3 -all"]);
    assert_eq!(run(&zone, IP, "joe@a.example").await.result, Pass);
    assert_eq!(zone.asked(), [("a.example".to_owned(), RecordType::Txt)]);
    let long = format!("v=spf1 {}ip4:192.0.2.3 -all", "ip4:198.51.100.0/24 ".repeat(400));
    assert_eq!(run(&Zone::new().txt("a.example", &[&long]), IP, "joe@a.example").await.result, Pass);
}

/// RFC 7208 §4.3: what is no domain of several labels has no result, and DNS is not asked.
#[tokio::test]
async fn section_4_3_initial_processing() {
    let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
    let labels = ["", ".", "com", "com.", "a..example", ".a.example", "a.example..", "[192.0.2.3]"];
    let long = [format!("{}.example", "a".repeat(64)), format!("c{longest}")];
    for domain in labels.into_iter().chain(long.iter().map(String::as_str)) {
        let zone = Zone::new();
        let output = run(&zone, IP, &format!("joe@{domain}")).await;
        assert_eq!((output.result, zone.asked().len()), (NoResult, 0), "{domain}: {output:?}");
    }
    for domain in [longest.as_str(), "a.example."] {
        let zone = Zone::new().txt(domain.trim_end_matches('.'), &["v=spf1 +all"]);
        assert_eq!(run(&zone, IP, &format!("joe@{domain}")).await.result, Pass, "{domain}");
    }
}

/// RFC 7208 §2.3: the HELO identity is checked where it can be.
#[tokio::test]
async fn section_2_3_the_helo_identity() {
    let zone = Zone::new().txt("mail.a.example", &["v=spf1 exists:%{l}.%{o}.%{h}.p.example -all"]);
    let zone = zone.a("postmaster.mail.a.example.mail.a.example.p.example", &["127.0.0.2"]);
    let request = Request::helo(IP.parse().unwrap(), "mail.a.example").unwrap();
    let output = check_host(&zone, &request).await;
    assert_eq!((output.result, output.identity), (Pass, Identity::Helo), "{output:?}");
    for name in ["[192.0.2.3]", "[IPv6:2001:db8::1]", "localhost", "", "a..example", "a b.example"] {
        assert!(Request::helo(IP.parse().unwrap(), name).is_none(), "{name}");
    }
}

/// RFC 7208 §4.4, §5: a look-up that fails is temperror, whatever the kind of failure and whoever asks; never a failure
/// of the sender. §5.5 and §7.3 alone pass over it.
#[tokio::test]
async fn section_4_4_look_ups_that_fail() {
    for failure in Failure::ALL {
        let zone = || {
            zone()
                .fail("slow.example", RecordType::Txt, *failure)
                .fail("slow.example", RecordType::A, *failure)
                .fail("slow.example", RecordType::Mx, *failure)
                .mx("mx.example", &[(1, "h.example"), (2, "slow.example")])
                .txt("deep.example", &["v=spf1 include:deeper.example -all"])
                .txt("deeper.example", &["v=spf1 redirect=slow.example"])
        };
        let own = Zone::new().fail("a.example", RecordType::Txt, *failure);
        assert_eq!(run(&own, IP, "joe@a.example").await.result, TempError, "{failure}");
        let rows = [
            ("a", "a:slow.example -all", TempError),
            ("a that would fail", "-a:slow.example +all", TempError),
            ("mx", "mx:slow.example -all", TempError),
            ("an exchanger", "mx:mx.example -all", TempError),
            ("exists", "exists:slow.example -all", TempError),
            ("include", "include:slow.example -all", TempError),
            ("include, excluded", "-include:slow.example -all", TempError),
            ("redirect", "redirect=slow.example", TempError),
            ("far below", "include:deep.example -all", TempError),
            ("a match before", "a:me.example a:slow.example -all", Pass),
            ("a fail before", "-a:me.example include:slow.example +all", Fail),
            ("an error before", "a:slow.example foo", PermError),
        ];
        table("4.4", zone, &rows).await;
        let output = run(&zone().txt("a.example", &["v=spf1 a:slow.example -all"]), IP, "joe@a.example").await;
        assert_eq!(&*output.reason, format!("DNS look-up failed: {failure}"));
    }
}

/// RFC 7208 §4.5: a record is told by its version; §4.6.1: spaces alone part terms, and all must be well-formed.
#[tokio::test]
async fn section_4_5_and_4_6_selection_and_syntax() {
    let texts = [
        ("no terms", "v=spf1", Neutral),
        ("a space", "v=spf1 ", Neutral),
        ("spaces at the end", "v=spf1 +all   ", Pass),
        ("several between", "v=spf1   +all", Pass),
        ("capitals", "V=SPF1 +ALL", Pass),
        ("a longer version", "v=spf10 +all", NoResult),
        ("an older one", "v=spf2.0/mfrom +all", NoResult),
        ("no space behind", "v=spf1+all", NoResult),
        ("a space before", " v=spf1 +all", NoResult),
        ("quotes", "\"v=spf1 +all\"", NoResult),
        ("beyond ASCII", "v=spf1 +all x=\u{fc}", PermError),
        ("a tab", "v=spf1\t+all", NoResult),
        ("a tab further on", "v=spf1 a\t+all", PermError),
        ("an error behind a match", "v=spf1 +all ip4:192.0.2.300", PermError),
        ("an error in a modifier", "v=spf1 +all x=%", PermError),
    ];
    for (name, text, expected) in texts {
        let output = run(&Zone::new().txt("a.example", &[text]), IP, "joe@a.example").await;
        assert_eq!(output.result, expected, "4.5, {name}: {output:?}");
    }
}

/// RFC 7208 §4.6.2, §4.6.3, §4.7, §5.1, §6: order, qualifiers, modifiers, default.
#[tokio::test]
async fn section_4_6_and_4_7_evaluation() {
    let rows = [
        ("the first match counts", "?ip4:192.0.2.3 -ip4:192.0.2.3 +all", Neutral),
        ("left to right", "~ip4:192.0.2.0/24 -all", SoftFail),
        ("behind all nothing counts", "-all ip4:192.0.2.3", Fail),
        ("modifiers anywhere", "redirect=fail.example ip4:192.0.2.3", Pass),
        ("redirect is last", "redirect=pass.example -ip4:192.0.2.3", Fail),
        ("redirect is nothing beside all", "redirect=pass.example ?all", Neutral),
        ("unknown modifiers", "x=y moo.cow-far_out=man:dog/cat ip4:192.0.2.3 -all", Pass),
        ("unknown modifiers twice", "x=1 x=2 -all", Fail),
        ("no match", "ip4:198.51.100.1", Neutral),
        ("exp is no term", "exp=e.example -all", Fail),
        ("redirect twice", "redirect=pass.example redirect=pass.example", PermError),
        ("exp twice", "exp=e.example exp=f.example -all", PermError),
        ("a mechanism that is none", "foo -all", PermError),
    ];
    table("4.6", zone, &rows).await;
}

/// RFC 7208 §4.6.4: each kind of term counts, ten of them are allowed, wherever they stand.
#[tokio::test]
async fn section_4_6_4_ten_terms() {
    let hosts = ["a:h.example", "mx:h.example", "exists:h.example", "include:none.example", "ptr:h.example"];
    let zone = || {
        zone()
            .txt("none.example", &["v=spf1 ?ip4:198.51.100.9"])
            .ptr("3.2.0.192.in-addr.arpa", &["h.example"])
            .txt("nine.example", &[&format!("v=spf1 {}", "a:h.example ".repeat(9))])
            .txt("ten.example", &[&format!("v=spf1 {}", "a:h.example ".repeat(10))])
    };
    for host in hosts {
        // Exists matches, and must not.
        let term = if host.starts_with("exists") { "exists:%{i}.h.example" } else { host };
        let at = |n: usize| format!("v=spf1 {}-all", format!("{term} ").repeat(n));
        let zone = || zone().a("192.0.2.3.h.example.other", &[IP]);
        let own = |n: usize| zone().txt("a.example", &[&at(n)]);
        let voids = term.starts_with("exists");
        let ten = run(&own(10), IP, "joe@a.example").await;
        // Those that find nothing end at the third.
        assert_eq!(ten.result, if voids { PermError } else { Fail }, "ten {term}: {ten:?}");
        let eleven = run(&own(11), IP, "joe@a.example").await;
        assert_eq!(eleven.result, PermError, "eleven {term}: {eleven:?}");
    }
    let ten = "a:h.example ".repeat(10);
    let (free, eleven) =
        ("ip4:198.51.100.0/24 ip6:2001:db8::/32 exp=e.example x=y ".to_owned(), "a:h.example ".repeat(11));
    let rows = [
        ("what asks nothing is free", format!("{}{ten}-all", free), Fail),
        ("exists that is found", "exists:h.example -all".to_owned(), Pass),
        ("a match at the tenth", format!("{}a:me.example -all", "a:h.example ".repeat(9)), Pass),
        ("a match at the eleventh", format!("{ten}a:me.example -all"), PermError),
        ("eleven, the last never come to", format!("a:me.example {eleven}-all"), Pass),
        ("include and nine of its own", "include:nine.example -all".to_owned(), Fail),
        ("include and ten of its own", "include:ten.example -all".to_owned(), PermError),
        ("redirect and nine of its own", "redirect=nine.example".to_owned(), Neutral),
        ("redirect and ten of its own", "redirect=ten.example".to_owned(), PermError),
        ("redirect as the eleventh", format!("{ten}redirect=fail.example"), PermError),
        ("redirect as the tenth", format!("{}redirect=fail.example", "a:h.example ".repeat(9)), Fail),
    ];
    for (name, terms, expected) in &rows {
        table("4.6.4", zone, &[(name, terms, *expected)]).await;
    }
}

/// RFC 7208 §4.6.4: nested to the bound and one beyond it.
#[tokio::test]
async fn section_4_6_4_chains() {
    for (mechanism, last) in [("include:", " -all"), ("redirect=", "")] {
        for (length, expected) in [(10, if last.is_empty() { Fail } else { Pass }), (11, PermError)] {
            let zone = (0..length).fold(Zone::new(), |zone, n| {
                zone.txt(&format!("d{n}.example"), &[&format!("v=spf1 {mechanism}d{}.example{last}", n + 1)])
            });
            let end = if last.is_empty() { "v=spf1 -all" } else { "v=spf1 +all" };
            let zone = zone.txt(&format!("d{length}.example"), &[end]);
            let output = run(&zone, IP, "joe@d0.example").await;
            assert_eq!(output.result, expected, "{length} of {mechanism}: {output:?}");
            // Evidence is complete up to where it ended, and bounded.
            assert_eq!(output.records.len(), 11, "{output:?}");
        }
    }
}

/// RFC 7208 §4.6.4: what counts as a look-up in vain, and that two are allowed.
#[tokio::test]
async fn section_4_6_4_void_look_ups() {
    let zone = || {
        zone()
            .txt("void.example", &["v=spf1 a:g8.example a:g9.example -all"])
            .txt("x.example", &["no SPF"])
            .fail("slow.example", RecordType::A, Failure::Timeout)
            .a("unknown.p.example", &["127.0.0.2"])
    };
    let rows = [
        ("two NXDOMAIN", "a:g1.example a:g2.example -all", Fail),
        ("three NXDOMAIN", "a:g1.example a:g2.example a:g3.example -all", PermError),
        ("NODATA is the same", "a:x.example mx:x.example exists:x.example -all", PermError),
        ("two NODATA", "a:x.example mx:x.example -all", Fail),
        ("the same name again is another", "a:g1.example a:g1.example a:g1.example -all", PermError),
        ("over all records", "a:g1.example include:void.example -all", PermError),
        ("over all records, two", "include:void.example -all", Fail),
        ("the record's own look-up is none", "include:void.example redirect=fail.example", Fail),
        ("a failure is none", "a:g1.example a:g2.example a:slow.example -all", TempError),
        ("ptr without a name", "ptr a:g1.example -all", Fail),
        ("ptr is one of three", "ptr a:g1.example a:g2.example -all", PermError),
        ("%{p} is none of its own", "exists:%{p}.p.example -all", Pass),
        ("%{p} and two", "-exists:%{p}.q.example a:g1.example ?all", Neutral),
        ("%{p}, and three", "-exists:%{p}.q.example a:g1.example a:g2.example ?all", PermError),
        ("a name that can't be asked is none", "a:%{d}..example a:.%{d} exists:x..%{d} -all", Fail),
    ];
    table("4.6.4, voids", zone, &rows).await;
    // A client of IPv6 finds nothing at names without AAAA: that is NODATA as any other.
    let zone = Zone::new().a("b.example", &[IP]).txt("a.example", &["v=spf1 a:b.example a:b.example a:b.example -all"]);
    assert_eq!(run(&zone, IP6, "joe@a.example").await.result, PermError);
}

/// RFC 7208 §4.6.4: `mx` may lead to ten hosts, `ptr` and `%{p}` look at the first ten names.
#[tokio::test]
async fn section_4_6_4_hosts_and_names() {
    let names: Vec<String> = (0..11).map(|n| format!("h{n}.a.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let exchangers: Vec<(u16, &str)> = names.iter().map(|name| (10, *name)).collect();
    let hosts = |client: &str| {
        let address = |name: &str| if name == client { IP } else { "198.51.100.1" };
        let zone = names.iter().fold(Zone::new(), |zone, name| zone.a(name, &[address(name)]));
        zone.a("h9.a.example.p.example", &["127.0.0.2"]).a("h10.a.example.p.example", &["127.0.0.2"])
    };
    let cases = [
        ("mx, the tenth of ten", hosts("h9.a.example").mx("a.example", &exchangers[..10]), "mx -all", Pass),
        ("mx, eleven", hosts("h10.a.example").mx("a.example", &exchangers), "mx -all", PermError),
        ("mx, eleven, whichever matches", hosts("h0.a.example").mx("a.example", &exchangers), "mx -all", PermError),
        ("ptr, the tenth", hosts("h9.a.example").ptr("3.2.0.192.in-addr.arpa", &names), "ptr -all", Pass),
        ("ptr, the eleventh", hosts("h10.a.example").ptr("3.2.0.192.in-addr.arpa", &names), "ptr -all", Fail),
        (
            "%{p}, the tenth",
            hosts("h9.a.example").ptr("3.2.0.192.in-addr.arpa", &names),
            "exists:%{p}.p.example -all",
            Pass,
        ),
        (
            "%{p}, the eleventh",
            hosts("h10.a.example").ptr("3.2.0.192.in-addr.arpa", &names),
            "exists:%{p}.p.example -all",
            Fail,
        ),
    ];
    for (name, zone, terms, expected) in cases {
        let output = run(&zone.txt("a.example", &[&format!("v=spf1 {terms}")]), IP, "joe@a.example").await;
        assert_eq!(output.result, expected, "{name}: {output:?}");
    }
}

/// RFC 7208 §4.8: without a domain, a term is about the domain of the record that it stands in.
#[tokio::test]
async fn section_4_8_the_domain_of_a_term() {
    let zone = || {
        zone()
            .txt("own.example", &["v=spf1 a -all"])
            .a("own.example", &[IP])
            .txt("other.example", &["v=spf1 mx ptr -all"])
            .mx("other.example", &[(1, "me.example")])
            .txt("macro.example", &["v=spf1 exists:%{d}.%{o}.p.example -all"])
            .a("macro.example.a.example.p.example", &["127.0.0.2"])
    };
    let rows = [
        ("a in an include", "include:own.example -all", Pass),
        ("a in a redirect", "redirect=own.example", Pass),
        ("mx in an include", "include:other.example -all", Pass),
        ("%{d} is the record's, %{o} the sender's", "include:macro.example -all", Pass),
        ("the same in a redirect", "redirect=macro.example", Pass),
        ("own a", "a -all", Fail),
        ("a trailing dot", "a:me.example. -all", Pass),
        ("include of a single label by macro", "include:%{d1} -all", PermError),
        ("redirect to an empty label", "redirect=x..%{d}", PermError),
        ("a of a name too long", &format!("a:{}.%{{d}} -all", "l".repeat(64)), Fail),
    ];
    table("4.8", zone, &rows).await;
}

/// RFC 7208 §5.2: the table of results of an include, under each qualifier.
#[tokio::test]
async fn section_5_2_include() {
    let zone = || {
        zone()
            .txt("soft.example", &["v=spf1 ~all"])
            .txt("neutral.example", &["v=spf1 ?all"])
            .txt("default.example", &["v=spf1"])
            .txt("syntax.example", &["v=spf1 foo"])
            .txt("two.example", &["v=spf1 +all", "v=spf1 +all"])
            .txt("text.example", &["hello"])
            .fail("slow.example", RecordType::Txt, Failure::ServFail)
    };
    let included = [
        ("pass", true, Pass),
        ("fail", false, Pass),
        ("soft", false, Pass),
        ("neutral", false, Pass),
        ("default", false, Pass),
        ("slow", false, TempError),
        ("syntax", false, PermError),
        ("two", false, PermError),
        ("text", false, PermError),
        ("h", false, PermError),
        ("gone", false, PermError),
    ];
    for (name, matches, otherwise) in included {
        for (qualifier, result) in [("", Pass), ("+", Pass), ("-", Fail), ("~", SoftFail), ("?", Neutral)] {
            // What does not match goes on to the second term.
            let (last, expected) = match (matches, otherwise) {
                (true, _) => ("-all", result),
                (false, Pass) => ("+all", Pass),
                (false, error) => ("+all", error),
            };
            let terms = format!("{qualifier}include:{name}.example {last}");
            table("5.2", zone, &[(name, &terms, expected)]).await;
        }
    }
    // §4.3 holds for what is included, too, whatever DNS would answer.
    let zone = || zone().txt("example", &["v=spf1 +all"]).txt(".a.example", &["v=spf1 +all"]);
    let rows = [
        ("single label", "include:%{d1} -all", PermError),
        ("single label, redirected to", "redirect=%{d1}", PermError),
        ("empty label", "include:.%{d} -all", PermError),
        ("empty label, redirected to", "redirect=.%{d}", PermError),
    ];
    table("5.2", zone, &rows).await;
}

/// RFC 7208 §5.3 to §5.7: addresses of the client's family, prefixes, and what an exchanger or a name is not.
#[tokio::test]
async fn section_5_mechanisms() {
    let zone = |ip: &str, terms: &str| {
        let reverse = reverse_name(ip.parse().unwrap());
        zone()
            .txt("a.example", &[&format!("v=spf1 {terms}")])
            .a("both.example", &["198.51.100.7", "192.0.2.77"])
            .aaaa("both.example", &["2001:db8:1::1", "2001:db8::77"])
            .mx("mx.example", &[(20, "both.example"), (10, "gone.example")])
            .a("a.example", &[IP])
            .ptr(&reverse, &["me.example", "both.example"])
    };
    let cases = [
        (IP, "a:both.example/24 -all", Pass),
        (IP, "a:both.example/25 -all", Pass),
        (IP, "a:both.example/26 -all", Fail),
        (IP, "a:both.example//1 -all", Fail),
        (IP, "a:both.example/0 -all", Pass),
        (IP6, "a:both.example//64 -all", Pass),
        (IP6, "a:both.example//112 -all", Pass),
        (IP6, "a:both.example//113 -all", Fail),
        (IP6, "a:both.example/1 -all", Fail),
        (IP6, "a:both.example//0 -all", Pass),
        (IP, "mx:mx.example/24 -all", Pass),
        (IP6, "mx:mx.example/24//64 -all", Pass),
        // No implicit MX: the domain's own address is no exchanger.
        (IP, "mx -all", Fail),
        (IP, "ptr:me.example -all", Pass),
        (IP6, "ptr:me.example -all", Pass),
        // A name that has not the address is nobody's.
        (IP, "ptr:both.example -all", Fail),
        (IP, "ptr -all", Fail),
        (IP, "ip4:192.0.2.3 -all", Pass),
        (IP, "ip4:192.0.2.2/31 -all", Pass),
        (IP, "ip4:192.0.2.2 -all", Fail),
        (IP, "ip4:0.0.0.0/0 -all", Pass),
        (IP6, "ip4:0.0.0.0/0 -all", Fail),
        (IP6, "ip6:2001:db8::cb01 -all", Pass),
        (IP6, "ip6:2001:db8::cb00/127 -all", Pass),
        (IP6, "ip6:2001:DB8:0:0::/64 -all", Pass),
        (IP6, "ip6:::/0 -all", Pass),
        (IP, "ip6:::/0 -all", Fail),
        ("::ffff:192.0.2.3", "ip4:192.0.2.3 -all", Pass),
        ("::ffff:192.0.2.3", "ip6:::ffff:192.0.2.3 -all", Fail),
        ("::ffff:192.0.2.3", "a:me.example -all", Pass),
        // Any address will do for exists, and it is always an A record.
        (IP6, "exists:both.example -all", Pass),
        (IP, "exists:gone.example -all", Fail),
    ];
    for (ip, terms, expected) in cases {
        let output = run(&zone(ip, terms), ip, "joe@a.example").await;
        assert_eq!(output.result, expected, "5, {ip}: {terms}: {output:?}");
    }
}

/// RFC 7208 §6.1: the result is that of the other record, and no record there is an error.
#[tokio::test]
async fn section_6_1_redirect() {
    let zone = || {
        zone()
            .txt("soft.example", &["v=spf1 ~all"])
            .txt("next.example", &["v=spf1 redirect=soft.example"])
            .txt("two.example", &["v=spf1", "v=spf1"])
            .txt("joe.r.example", &["v=spf1 +all"])
            .txt("include.example", &["v=spf1 include:pass.example redirect=soft.example"])
    };
    let rows = [
        ("pass", "redirect=pass.example", Pass),
        ("fail", "redirect=fail.example", Fail),
        ("twice", "redirect=next.example", SoftFail),
        ("within an include it is its result", "include:next.example -all", Fail),
        ("in an include, a match before it", "include:include.example -all", Pass),
        ("macros", "redirect=%{l}.r.example", Pass),
        ("several records", "redirect=two.example", PermError),
        ("no record", "redirect=h.example", PermError),
        ("no domain", "redirect=gone.example", PermError),
        ("no domain, but a match before", "ip4:192.0.2.3 redirect=gone.example", Pass),
    ];
    table("6.1", zone, &rows).await;
}

/// RFC 7208 §7: what each letter stands for where it is used.
#[tokio::test]
async fn section_7_macros() {
    let probe = |name: &str| Zone::new().a(&format!("{name}.p.example"), &["127.0.0.2"]);
    let nibbles = "2.0.0.1.0.d.b.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.c.b.0.1";
    let cases = [
        ("%{s}", IP, "Joe@a.example", "joe@a.example"),
        ("%{s}", IP, "@a.example", "postmaster@a.example"),
        ("%{l}", IP, "joe.b+x@a.example", "joe.b+x"),
        ("%{l1r+}", IP, "joe.b+x@a.example", "joe.b"),
        ("%{lr-+}", IP, "joe-b+x@a.example", "x.b.joe"),
        ("%{L}", IP, "a/b=c@a.example", "a%2fb%3dc"),
        ("%{o}", IP, "joe@A.Example", "a.example"),
        ("%{o1}", IP, "joe@a.example", "example"),
        ("%{dr}", IP, "joe@a.example", "example.a"),
        ("%{h}", IP, "joe@a.example", "helo.example.net"),
        ("%{h2}", IP, "joe@a.example", "example.net"),
        ("%{i}", IP, "joe@a.example", IP),
        ("%{ir}.%{v}", IP, "joe@a.example", "3.2.0.192.in-addr"),
        ("%{i}.%{v}", "::ffff:192.0.2.3", "joe@a.example", "192.0.2.3.in-addr"),
        ("%{i}.%{v}", IP6, "joe@a.example", &format!("{nibbles}.ip6")),
        ("%{i1r}", IP6, "joe@a.example", "2"),
        ("%{p}", IP, "joe@a.example", "unknown"),
        ("%{d2}.%{d1r}", IP, "joe@x.a.example", "a.example.x"),
        ("a%%b%_c%-d", IP, "joe@a.example", "a%b c%20d"),
    ];
    for (text, ip, sender, expected) in cases {
        let domain = sender.rsplit_once('@').unwrap().1;
        let zone = probe(expected).txt(domain, &[&format!("v=spf1 exists:{text}.p.example -all")]);
        let output = run(&zone, ip, sender).await;
        assert_eq!(output.result, Pass, "7, {text} for {sender}: {output:?}, {:?}", zone.asked());
    }
    // c, r and t are for explanations, and so is nothing else.
    let rows = [
        ("c", "exists:%{c}.example -all", PermError),
        ("r", "redirect=%{R}.example", PermError),
        ("t", "include:%{t}.example -all", PermError),
        ("c in the domain of exp", "exp=%{c}.example -all", PermError),
        ("c in an unknown modifier", "x=%{c}%{r}%{t} -all", Fail),
    ];
    table("7.2", zone, &rows).await;
}

/// RFC 7208 §7.3: a name of 253 octets is asked for as it is, a longer one is cut from the left.
#[tokio::test]
async fn section_7_3_names_at_the_bound() {
    for (length, octets) in [(60, 253), (61, 254)] {
        let labels = format!("{}.{1}.{1}.{1}", "f".repeat(length), "l".repeat(60));
        let whole = format!("{labels}.p.example");
        assert_eq!(whole.len(), octets);
        let zone = Zone::new().txt("a.example", &["v=spf1 exists:%{l}.p.example -all"]);
        run(&zone, IP, &format!("{labels}@a.example")).await;
        let asked = zone.asked().pop().unwrap().0;
        let expected = if octets == 253 { whole.as_str() } else { whole.split_once('.').unwrap().1 };
        assert_eq!(asked, expected, "{octets} octets");
    }
}

/// The records that led to a result are all kept, each once, and their text is bounded.
#[tokio::test]
async fn evidence_is_complete_and_bounded() {
    let long = format!("v=spf1 {} -all", "ip4:198.51.100.0/24 ".repeat(400));
    let zone = Zone::new()
        .txt("a.example", &["v=spf1 include:b.example include:b.example include:c.example redirect=d.example"])
        .txt("b.example", &["v=spf1 -all"])
        .txt("c.example", &["v=spf1 include:b.example -all"])
        .txt("d.example", &[&long]);
    let output = run(&zone, IP, "joe@a.example").await;
    let names: Vec<_> = output.records.iter().map(|(name, _)| &**name).collect();
    assert_eq!((output.result, names.as_slice()), (Fail, &["a.example", "b.example", "c.example", "d.example"][..]));
    assert!(output.records.iter().all(|(_, text)| text.len() < 5000));
    // A record that can't be read is what led to the error.
    let broken = Zone::new().txt("a.example", &["v=spf1 include:b.example"]).txt("b.example", &["v=spf1 foo"]);
    let output = run(&broken, IP, "joe@a.example").await;
    assert_eq!((output.result, output.records.len()), (PermError, 2));
}
