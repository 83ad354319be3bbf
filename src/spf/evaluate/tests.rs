use super::*;
use crate::dns::zone::Zone;

const IP: &str = "192.0.2.3";
const IP6: &str = "2001:db8::3";

async fn check_from(zone: &Zone, ip: &str, reverse_path: &str) -> SpfOutput {
    check_host(zone, &Request::mail_from(ip.parse().unwrap(), "helo.example.net", reverse_path)).await
}

/// The result for joe@a.example, whose record is `text`.
async fn check(zone: Zone, text: &str) -> SpfOutput {
    check_from(&zone.txt("a.example", &[text]), IP, "joe@a.example").await
}

#[tokio::test]
async fn identities() {
    let zone = Zone::new()
        .txt("a.example", &["v=spf1 exists:%{l}.%{o}.probe.example -all"])
        .txt("helo.example.net", &["v=spf1 exists:%{l}.%{o}.probe.example -all"])
        .a("joe.a.example.probe.example", &["127.0.0.2"])
        .a("postmaster.a.example.probe.example", &["127.0.0.2"])
        .a("postmaster.helo.example.net.probe.example", &["127.0.0.2"])
        .a("xn--bcher-kva.example", &["127.0.0.2"]);
    let pass = SpfResult::Pass;
    let cases = [
        ("joe@a.example", pass, Identity::MailFrom, Some("a.example")),
        ("joe@A.Example.", pass, Identity::MailFrom, Some("a.example")),
        ("@a.example", pass, Identity::MailFrom, Some("a.example")),
        ("", pass, Identity::Helo, Some("helo.example.net")),
        ("\"a@b\"@a.example", SpfResult::Fail, Identity::MailFrom, Some("a.example")),
        ("joe@bücher.example", SpfResult::None, Identity::MailFrom, Some("xn--bcher-kva.example")),
        ("joe@com", SpfResult::None, Identity::MailFrom, Some("com")),
        ("joe", SpfResult::None, Identity::MailFrom, None),
        ("joe@", SpfResult::None, Identity::MailFrom, None),
        ("joe@[192.0.2.3]", SpfResult::None, Identity::MailFrom, None),
        ("joe@[IPv6:2001:db8::1]", SpfResult::None, Identity::MailFrom, None),
        ("joe@a..example", SpfResult::None, Identity::MailFrom, None),
        (&format!("joe@{}.example", "a".repeat(64)), SpfResult::None, Identity::MailFrom, None),
        ("joe@192.0.2.3", SpfResult::None, Identity::MailFrom, Some("192.0.2.3")),
    ];
    for (reverse_path, result, identity, domain) in cases {
        let output = check_from(&zone, IP, reverse_path).await;
        assert_eq!((output.result, output.identity), (result, identity), "{reverse_path}: {output:?}");
        assert_eq!(output.domain.as_ref().map(Domain::as_str), domain, "{reverse_path}");
    }
    let literal = Request::mail_from(IP.parse().unwrap(), "[192.0.2.3]", "");
    assert_eq!(check_host(&zone, &literal).await.result, SpfResult::None);
}

#[tokio::test]
async fn terms_with_a_local_part_beyond_ascii_do_not_match() {
    use SpfResult::{Fail, Neutral, Pass, PermError};
    let zone = || {
        Zone::new()
            .a("example.probe.example", &[IP])
            .a("tail.probe.example", &[IP])
            .mx("tail.probe.example", &[(10, "tail.probe.example")])
            .txt("tail.probe.example", &["v=spf1 +all"])
            .ptr("3.2.0.192.in-addr.arpa", &["tail.probe.example"])
    };
    // `tail` is the last part of either local part, and plain ASCII.
    let cases = [
        ("exists:%{l1}.probe.example", Pass, Fail),
        ("exists:%{L1}.probe.example", Pass, Fail),
        ("a:%{l1}.probe.example", Pass, Fail),
        ("mx:%{l1}.probe.example", Pass, Fail),
        ("ptr:%{l1}.probe.example", Pass, Fail),
        ("include:%{l1}.probe.example", Pass, Fail),
        ("exists:%{s1}.probe.example", Pass, Fail),
        ("include:%{l}.gone.example", PermError, Fail),
        ("exists:%{o1}.probe.example", Pass, Pass),
    ];
    for (terms, ascii, beyond) in cases {
        let zone = zone().txt("a.example", &[&format!("v=spf1 {terms} -all")]);
        for (local_part, expected) in [("joe.tail", ascii), ("j\u{f6}.tail", beyond)] {
            let output = check_from(&zone, IP, &format!("{local_part}@a.example")).await;
            assert_eq!(output.result, expected, "{terms} {local_part}: {output:?}");
        }
    }
    let zone = zone().txt("a.example", &["v=spf1 redirect=%{l1}.probe.example"]);
    assert_eq!(check_from(&zone, IP, "joe.tail@a.example").await.result, Pass);
    let output = check_from(&zone, IP, "j\u{f6}.tail@a.example").await;
    assert_eq!((output.result, &*output.reason), (Neutral, "no mechanism matched"));
    assert_eq!(zone.asked().iter().filter(|(name, _)| name.contains("probe")).count(), 1, "of the first");
}

#[tokio::test]
async fn record_look_up() {
    use SpfResult::{None, Pass, PermError, TempError};
    let cases = [
        ("no such name", Zone::new(), None),
        ("no TXT record", Zone::new().a("a.example", &[IP]), None),
        ("other texts", Zone::new().txt("a.example", &["hello", "v=spf10"]), None),
        ("one among others", Zone::new().txt("a.example", &["hello", "v=spf1 +all"]), Pass),
        ("two", Zone::new().txt("a.example", &["v=spf1 +all", "v=spf1 +all"]), PermError),
        ("time-out", Zone::new().fail("a.example", RecordType::Txt, Failure::Timeout), TempError),
        ("refused", Zone::new().fail("a.example", RecordType::Txt, Failure::Refused), TempError),
        ("budget", Zone::new().fail("a.example", RecordType::Txt, Failure::Budget), TempError),
        ("syntax", Zone::new().txt("a.example", &["v=spf1 +all foo"]), PermError),
    ];
    for (case, zone, expected) in cases {
        assert_eq!(check_from(&zone, IP, "joe@a.example").await.result, expected, "{case}");
    }
}

#[tokio::test]
async fn mechanisms() {
    use SpfResult::{Fail, Neutral, Pass, PermError, SoftFail, TempError};
    let zone = || {
        Zone::new()
            .a("a.example", &["192.0.2.3"])
            .a("near.example", &["198.51.100.9", "192.0.2.77"])
            .aaaa("six.example", &["2001:db8::3"])
            .mx("mx.example", &[(10, "gone.example"), (20, "near.example"), (30, "a.example")])
            .mx("null.example", &[(0, "")])
            .txt("pass.example", &["v=spf1 ip4:192.0.2.3 -all"])
            .txt("fail.example", &["v=spf1 -all"])
            .txt("soft.example", &["v=spf1 ~all"])
            .txt("neutral.example", &["v=spf1"])
            .txt("broken.example", &["v=spf1 x"])
            .txt("own.example", &["v=spf1 a:%{d} a:near.example/24 -all"])
            .fail("slow.example", RecordType::Txt, Failure::Timeout)
            .fail("slow.example", RecordType::A, Failure::Timeout)
            .fail("slow.example", RecordType::Mx, Failure::ServFail)
            .mx("halfslow.example", &[(10, "near.example"), (20, "slow.example")])
    };
    let cases = [
        ("-all", Fail),
        ("~all", SoftFail),
        ("?all", Neutral),
        ("+all", Pass),
        ("", Neutral),
        ("ip4:192.0.2.0/30 -all", Pass),
        ("ip4:192.0.2.0/31 -all", Fail),
        ("ip6:::ffff:192.0.2.3 -all", Fail),
        ("a -all", Pass),
        ("-a +all", Fail),
        ("a:near.example -all", Fail),
        ("a:near.example/24 -all", Pass),
        ("a:six.example -all", Fail),
        ("a:slow.example +all", TempError),
        ("mx:mx.example -all", Pass),
        ("mx:mx.example/24 -all", Pass),
        ("mx:null.example -all", Fail),
        ("mx -all", Fail),
        ("mx:slow.example -all", TempError),
        ("mx:halfslow.example -all", TempError),
        ("mx:halfslow.example/24 -all", Pass),
        ("exists:a.example -all", Pass),
        ("exists:six.example -all", Fail),
        ("exists:slow.example -all", TempError),
        ("include:pass.example -all", Pass),
        ("-include:pass.example +all", Fail),
        ("include:fail.example ?all", Neutral),
        ("include:soft.example -all", Fail),
        ("include:neutral.example ~all", SoftFail),
        ("include:broken.example +all", PermError),
        ("include:slow.example +all", TempError),
        ("include:gone.example +all", PermError),
        ("include:near.example +all", PermError),
        ("include:%{d1r}.x..y.example +all", PermError),
        ("include:own.example -all", Pass),
        ("redirect=pass.example", Pass),
        ("redirect=fail.example", Fail),
        ("redirect=neutral.example", Neutral),
        ("redirect=broken.example", PermError),
        ("redirect=slow.example", TempError),
        ("redirect=gone.example", PermError),
        ("redirect=near.example", PermError),
        ("redirect=pass.example -all", Fail),
        ("redirect=pass.example ip4:198.51.100.1", Pass),
    ];
    for (terms, expected) in cases {
        let output = check(zone(), &format!("v=spf1 {terms}")).await;
        assert_eq!(output.result, expected, "{terms}: {output:?}");
    }
}

#[tokio::test]
async fn clients_of_either_family() {
    let zone = Zone::new()
        .txt("a.example", &["v=spf1 a/24//64 -all"])
        .a("a.example", &["192.0.2.77"])
        .aaaa("a.example", &["2001:db8::77"])
        .txt("b.example", &["v=spf1 ip4:192.0.2.3 ip6:2001:db8::/32 -all"])
        .txt("e.example", &["v=spf1 exists:b4.example -all"])
        .a("b4.example", &["127.0.0.2"]);
    let cases = [
        (IP, "a.example", SpfResult::Pass),
        (IP6, "a.example", SpfResult::Pass),
        ("2001:db8:1::3", "a.example", SpfResult::Fail),
        ("::ffff:192.0.2.3", "a.example", SpfResult::Pass),
        ("::ffff:192.0.2.3", "b.example", SpfResult::Pass),
        (IP6, "b.example", SpfResult::Pass),
        (IP6, "e.example", SpfResult::Pass),
    ];
    for (ip, domain, expected) in cases {
        assert_eq!(check_from(&zone, ip, &format!("joe@{domain}")).await.result, expected, "{ip} {domain}");
    }
}

#[tokio::test]
async fn names_of_the_client() {
    use SpfResult::{Fail, Pass, TempError};
    let reverse = reverse_name(IP.parse().unwrap());
    let named = |names: &[&str]| Zone::new().ptr(&reverse, names);
    let eleven = (0..10).map(|n| format!("n{n}.b.example")).chain(["mail.a.example".to_owned()]).collect::<Vec<_>>();
    let eleven = eleven.iter().map(String::as_str).collect::<Vec<_>>();
    let cases = [
        ("the domain", named(&["a.example"]).a("a.example", &[IP]), "ptr", Pass),
        ("below it", named(&["x.y.A.Example"]).a("x.y.a.example", &[IP]), "ptr", Pass),
        ("not validated", named(&["mail.a.example"]).a("mail.a.example", &["192.0.2.9"]), "ptr", Fail),
        ("looks alike", named(&["xa.example"]).a("xa.example", &[IP]), "ptr", Fail),
        ("of another domain", named(&["m.b.example"]).a("m.b.example", &[IP]), "ptr:b.example", Pass),
        ("the eleventh", named(&eleven).a("mail.a.example", &[IP]), "ptr", Fail),
        ("the tenth", named(&eleven[1..]).a("mail.a.example", &[IP]), "ptr", Pass),
        ("no name", Zone::new(), "ptr", Fail),
        ("reverse fails", Zone::new().fail(&reverse, RecordType::Ptr, Failure::Timeout), "ptr", Fail),
        ("our budget ends", Zone::new().fail(&reverse, RecordType::Ptr, Failure::Budget), "ptr", TempError),
        ("our time ends", Zone::new().fail(&reverse, RecordType::Ptr, Failure::Deadline), "ptr", TempError),
        ("we are overloaded", Zone::new().fail(&reverse, RecordType::Ptr, Failure::Overload), "ptr", TempError),
        (
            "one forward fails",
            named(&["m.a.example", "n.a.example"])
                .fail("m.a.example", RecordType::A, Failure::Timeout)
                .a("n.a.example", &[IP]),
            "ptr",
            Pass,
        ),
        (
            "in a macro, the domain first",
            named(&["c.example", "m.a.example", "a.example"])
                .a("c.example", &[IP])
                .a("m.a.example", &[IP])
                .a("a.example", &[IP])
                .a("a.example.probe.example", &["127.0.0.2"]),
            "exists:%{p}.probe.example",
            Pass,
        ),
        (
            "in a macro, then one below",
            named(&["c.example", "m.a.example"])
                .a("c.example", &[IP])
                .a("m.a.example", &[IP])
                .a("m.a.example.probe.example", &["127.0.0.2"]),
            "exists:%{p}.probe.example",
            Pass,
        ),
        (
            "in a macro, then any",
            named(&["b.example", "c.example"]).a("c.example", &[IP]).a("c.example.probe.example", &["127.0.0.2"]),
            "exists:%{p}.probe.example",
            Pass,
        ),
        ("in a macro, none", Zone::new().a("unknown.probe.example", &["127.0.0.2"]), "exists:%{p}.probe.example", Pass),
    ];
    for (case, zone, term, expected) in cases {
        let output = check(zone, &format!("v=spf1 {term} -all")).await;
        assert_eq!(output.result, expected, "{case}: {output:?}");
        let unsettled = ["reverse fails", "our budget ends", "our time ends", "we are overloaded", "one forward fails"];
        let unsettled = unsettled.contains(&case);
        assert_eq!(output.unsettled, unsettled, "{case}: {output:?}");
    }
}

#[tokio::test]
async fn ten_terms_may_ask_dns() {
    let zone = || {
        Zone::new()
            .a("h.example", &["198.51.100.1"])
            .mx("h.example", &[(10, "h.example")])
            .txt("chain.example", &["v=spf1 a:h.example a:h.example ?all"])
            .txt("loop.example", &["v=spf1 include:loop.example -all"])
            .txt("turn.example", &["v=spf1 redirect=turn.example"])
    };
    let ip4 = "ip4:198.51.100.0/24 ".repeat(100);
    let cases = [
        ("ten", "a:h.example ".repeat(10) + "-all", SpfResult::Fail),
        ("eleven", "a:h.example ".repeat(11) + "-all", SpfResult::PermError),
        (
            "of every kind",
            "a:h.example mx:h.example -exists:g.example ".repeat(2)
                + "a:h.example mx:h.example include:chain.example -all",
            SpfResult::PermError,
        ),
        ("a match before the eleventh", "a:h.example ".repeat(9) + "a:me.example a:h.example -all", SpfResult::Pass),
        ("addresses are free", ip4 + "-all", SpfResult::Fail),
        ("an include and its terms", "include:chain.example ".repeat(3) + "a:h.example -all", SpfResult::Fail),
        ("an include too many", "include:chain.example ".repeat(4) + "-all", SpfResult::PermError),
        ("redirect is one", "a:h.example ".repeat(8) + "redirect=chain.example", SpfResult::PermError),
        ("include of itself", "include:loop.example -all".to_owned(), SpfResult::PermError),
        ("redirect to itself", "redirect=turn.example".to_owned(), SpfResult::PermError),
    ];
    for (case, terms, expected) in cases {
        let output = check(zone().a("me.example", &[IP]), &format!("v=spf1 {terms}")).await;
        assert_eq!(output.result, expected, "{case}: {output:?}");
    }
}

#[tokio::test]
async fn two_terms_may_find_nothing() {
    let zone = || {
        Zone::new()
            .a("h.example", &["198.51.100.1"])
            .mx("lost.example", &[(1, "g1.example"), (2, "g2.example"), (3, "g3.example")])
            .mx("half.example", &[(1, "g1.example"), (2, "h.example"), (3, "g3.example")])
            .mx("null.example", &[(0, "")])
    };
    let cases = [
        ("two", "a:g1.example exists:g2.example -all", SpfResult::Fail),
        ("three", "a:g1.example exists:g2.example a:g3.example -all", SpfResult::PermError),
        ("NODATA counts", "mx:h.example mx:h.example mx:h.example -all", SpfResult::PermError),
        ("exchangers count as one term", "mx:lost.example a:g1.example -all", SpfResult::Fail),
        ("three of them", "mx:lost.example mx:lost.example mx:lost.example -all", SpfResult::PermError),
        ("one address is enough", "mx:half.example mx:half.example mx:half.example -all", SpfResult::Fail),
        ("no exchanger, none in vain", "mx:null.example mx:null.example mx:null.example -all", SpfResult::Fail),
        ("a match before the third", "a:g1.example a:g2.example +all", SpfResult::Pass),
        ("names of the client", "ptr a:g1.example a:g2.example -all", SpfResult::PermError),
    ];
    for (case, terms, expected) in cases {
        let output = check(zone(), &format!("v=spf1 {terms}")).await;
        assert_eq!(output.result, expected, "{case}: {output:?}");
    }
}

#[tokio::test]
async fn an_mx_may_have_ten_exchangers() {
    let hosts = (0..11).map(|n| format!("h{n}.example")).collect::<Vec<_>>();
    let exchangers = hosts.iter().map(|h| (10, h.as_str())).collect::<Vec<_>>();
    let zone = || hosts.iter().fold(Zone::new(), |zone, host| zone.a(host, &["198.51.100.1"]));
    let ten = zone().mx("m.example", &exchangers[..10]);
    assert_eq!(check(ten, "v=spf1 mx:m.example -all").await.result, SpfResult::Fail);
    let eleven = zone().mx("m.example", &exchangers);
    assert_eq!(check(eleven, "v=spf1 mx:m.example -all").await.result, SpfResult::PermError);
}

#[tokio::test]
async fn names_that_dns_cannot_carry_do_not_match() {
    let zone = Zone::new().txt("a.example", &["v=spf1 exists:%{h}.x.example a:%{l}.x.example -all"]);
    let request = Request {
        ip: IP.parse().unwrap(),
        helo: "a..b",
        local_part: &"l".repeat(64),
        domain: "a.example",
        identity: Identity::MailFrom,
    };
    assert_eq!(check_host(&zone, &request).await.result, SpfResult::Fail);
}

#[tokio::test]
async fn the_output_says_what_decided_and_what_was_read() {
    let zone = Zone::new()
        .txt("a.example", &["other", "v=spf1 include:b.example redirect=c.example"])
        .txt("b.example", &["v=spf1 ip4:198.51.100.1 -all"])
        .txt("c.example", &["v=spf1 ~All"]);
    let output = check_from(&zone, IP, "joe@a.example").await;
    assert_eq!(output.result, SpfResult::SoftFail);
    assert_eq!(output.term.as_deref(), Some("~All"));
    assert_eq!(&*output.reason, "matched");
    let records = output.records.iter().map(|(name, text)| (&**name, &**text)).collect::<Vec<_>>();
    let expected = [
        ("a.example", "v=spf1 include:b.example redirect=c.example"),
        ("b.example", "v=spf1 ip4:198.51.100.1 -all"),
        ("c.example", "v=spf1 ~All"),
    ];
    assert_eq!(records, expected);
    let slow = Zone::new()
        .txt("a.example", &["v=spf1 include:b.example -all"])
        .txt("b.example", &["v=spf1 a -all"])
        .fail("b.example", RecordType::A, Failure::ServFail);
    let output = check_from(&slow, IP, "joe@a.example").await;
    assert_eq!(output.term.as_deref(), Some("include:b.example"));
    assert_eq!(&*output.reason, "DNS look-up failed: servfail");
    let broken = check(Zone::new(), "v=spf1 a:x -all").await;
    assert_eq!(&*broken.reason, "syntax error: bad domain or macro: domain does not end in a top label or a macro");
    assert_eq!(broken.records.len(), 1);
}

#[tokio::test]
async fn text_of_others_is_never_fetched_for_explanations() {
    let zone = Zone::new().txt("a.example", &["v=spf1 -all exp=e.example"]).txt("e.example", &["go away"]);
    assert_eq!(check_from(&zone, IP, "joe@a.example").await.result, SpfResult::Fail);
    assert_eq!(zone.asked(), [("a.example".to_owned(), RecordType::Txt)]);
}
