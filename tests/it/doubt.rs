//! DNS that fails: never a refusal and never dmarc=fail while an aligned identifier might have passed.

use std::time::{Duration, Instant};

use crate::support::config::ConfigText;
use crate::support::dns::{RecordType, Zone};
use crate::support::signer::{Signer, SigningKey};
use crate::support::world::{Letter, World};

const GOOD: &str = "192.0.2.10";
const BAD: &str = "198.51.100.66";

/// A way to fail: its name, and how a question gets it.
type Fault = (&'static str, fn(Zone, &str, RecordType) -> Zone);

const FAULTS: [Fault; 9] = [
    ("servfail", |zone, name, record_type| zone.serv_fail(name, record_type)),
    ("refused", |zone, name, record_type| zone.refuse(name, record_type)),
    ("silence", |zone, name, record_type| zone.time_out(name, record_type)),
    ("garbage", |zone, name, record_type| zone.garbage(name, record_type)),
    ("cut", |zone, name, record_type| zone.truncate_and_drop(name, record_type)),
    ("closed", |zone, name, record_type| zone.truncate_and_close(name, record_type)),
    ("another", |zone, name, record_type| zone.other_question(name, record_type)),
    ("formerr", |zone, name, record_type| zone.code(name, record_type, 1)),
    ("unknown", |zone, name, record_type| zone.code(name, record_type, 15)),
];

/// What is in doubt, with the question that fails below the domain of each fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    SpfRecord,
    Include,
    Redirect,
    Address,
    Exchanger,
    ExchangerAddress,
    Exists,
    Key,
    WalkOfSigner,
    Policy,
    PolicyAbove,
    Suffix,
    Existence,
    /// The name below a policy, as a forger chooses it.
    Lame,
}

impl Case {
    const ALL: [Self; 14] = [
        Self::SpfRecord,
        Self::Include,
        Self::Redirect,
        Self::Address,
        Self::Exchanger,
        Self::ExchangerAddress,
        Self::Exists,
        Self::Key,
        Self::WalkOfSigner,
        Self::Policy,
        Self::PolicyAbove,
        Self::Suffix,
        Self::Existence,
        Self::Lame,
    ];

    /// Labels of its own: a failure is remembered for some seconds.
    fn domain(self, fault: &str) -> String {
        let name = match self {
            Self::SpfRecord => "record",
            Self::Include => "include",
            Self::Redirect => "redirect",
            Self::Address => "address",
            Self::Exchanger => "exchanger",
            Self::ExchangerAddress => "host",
            Self::Exists => "exists",
            Self::Key => "key",
            Self::WalkOfSigner => "walk",
            Self::Policy => "policy",
            Self::PolicyAbove => "above",
            Self::Suffix => "suffix",
            Self::Existence => "existence",
            Self::Lame => "lame",
        };
        format!("{name}-{fault}.tld-{name}-{fault}")
    }

    fn zone(self, zone: Zone, (name, fault): Fault) -> Zone {
        let domain = self.domain(name);
        let include = format!("v=spf1 include:spf.{domain} -all");
        let redirect = format!("v=spf1 redirect=spf.{domain}");
        let exists = format!("v=spf1 exists:spf.{domain} -all");
        let spf = match self {
            Self::Include => include.as_str(),
            Self::Redirect => redirect.as_str(),
            Self::Address => "v=spf1 a -all",
            Self::Exchanger | Self::ExchangerAddress => "v=spf1 mx -all",
            Self::Exists => exists.as_str(),
            _ => "v=spf1 ip4:192.0.2.0/24 -all",
        };
        let policy = if self == Self::Existence { "v=DMARC1; p=reject; np=quarantine" } else { "v=DMARC1; p=reject" };
        let zone = zone
            .txt(&domain, spf)
            .mx(&domain, 10, &format!("mx.{domain}"))
            .a(&format!("www.{domain}"), GOOD)
            .txt(&format!("_dmarc.{domain}"), policy)
            .txt(&format!("s._domainkey.{domain}"), &SigningKey::rsa().record())
            .txt(&format!("s._domainkey.m.{domain}"), &SigningKey::rsa().record());
        let (question, record_type) = match self {
            Self::SpfRecord => (domain, RecordType::TXT),
            Self::Include | Self::Redirect => (format!("spf.{domain}"), RecordType::TXT),
            Self::Address => (domain, RecordType::A),
            Self::Exchanger => (domain, RecordType::MX),
            Self::ExchangerAddress => (format!("mx.{domain}"), RecordType::A),
            Self::Exists => (format!("spf.{domain}"), RecordType::A),
            Self::Key => (format!("none._domainkey.{domain}"), RecordType::TXT),
            Self::WalkOfSigner => (format!("_dmarc.m.{domain}"), RecordType::TXT),
            Self::Policy | Self::PolicyAbove => (format!("_dmarc.{domain}"), RecordType::TXT),
            Self::Suffix => (format!("_dmarc.tld-{domain_tail}", domain_tail = tail(&domain)), RecordType::TXT),
            Self::Existence => (format!("www.{domain}"), RecordType::A),
            Self::Lame => (format!("_dmarc.www.{domain}"), RecordType::TXT),
        };
        fault(zone, &question, record_type)
    }

    /// A letter that nothing speaks for, but for what is in doubt.
    fn forged(self, fault: &str) -> Letter {
        let domain = self.domain(fault);
        let author = match self {
            Self::PolicyAbove | Self::Suffix | Self::Existence | Self::Lame => format!("a@www.{domain}"),
            _ => format!("a@{domain}"),
        };
        let letter = Letter::new(BAD, &author);
        let signed = |domain: &str, selector: &str| {
            let content = Signer::new(SigningKey::rsa(), domain, selector).sign(&letter.content);
            letter.clone().content(content)
        };
        match self {
            Self::Key => signed(&domain, "none"),
            Self::WalkOfSigner => signed(&format!("m.{domain}"), "s"),
            _ => letter,
        }
    }

    /// Whether the doubt is about an identifier, not the policy.
    fn is_about_identifier(self) -> bool {
        !matches!(self, Self::Policy | Self::PolicyAbove | Self::Suffix | Self::Existence | Self::Lame)
    }

    /// Whether the answer could make a difference: to an identifier, or between policies that ask for something.
    fn matters(self) -> bool {
        self.is_about_identifier() || matches!(self, Self::Suffix | Self::Existence | Self::Lame)
    }
}

/// What follows `tld-` in a domain of [`Case::domain`].
fn tail(domain: &str) -> &str {
    domain.rsplit_once(".tld-").expect("a domain of a case").1
}

fn zone(faults: &[Fault]) -> Zone {
    faults.iter().fold(Zone::new(), |zone, fault| Case::ALL.iter().fold(zone, |zone, case| case.zone(zone, *fault)))
}

fn quick(config: ConfigText) -> ConfigText {
    config.set("dns.timeout", "40ms")
}

#[tokio::test]
async fn a_failing_look_up_defers_where_it_matters_and_else_changes_nothing() {
    let world = World::start(zone(&FAULTS), quick).await;
    for (fault, _) in FAULTS {
        for case in Case::ALL {
            let name = case.domain(fault);
            let outcome = world.send(&case.forged(fault)).await;
            if case.matters() {
                assert_eq!(outcome.summary(), "451", "{name}: {}", outcome.reply);
                assert!(outcome.reply.text().starts_with("4.7.0 DMARC for "), "{name}: {}", outcome.reply);
            } else {
                assert_eq!(outcome.summary(), "250", "{name}: {}", outcome.reply);
                assert!(outcome.results().one("dmarc").starts_with("temperror header.from="), "{name}");
            }
        }
    }
    world.upstream.assert_clean();
}

#[tokio::test]
async fn an_identifier_that_passed_makes_every_other_doubt_idle() {
    let world = World::start(zone(&FAULTS), quick).await;
    for (fault, _) in FAULTS {
        for case in Case::ALL.into_iter().filter(|case| case.is_about_identifier()) {
            let domain = case.domain(fault);
            let letter = case.forged(fault);
            let letter = match case {
                Case::Key | Case::WalkOfSigner => Letter { ip: GOOD.to_owned(), ..letter },
                _ => {
                    let content = Signer::new(SigningKey::rsa(), &domain, "s").sign(&letter.content);
                    letter.content(content)
                }
            };
            let outcome = world.send(&letter).await;
            let expected = format!("pass policy.dmarc=reject header.from={domain}");
            assert_eq!((outcome.summary(), outcome.results().one("dmarc")), ("250".into(), expected), "{domain}");
        }
    }
}

#[tokio::test]
async fn doubt_is_treated_by_mode_and_configuration() {
    let servfail = FAULTS[0];
    // Doubt that matters, doubt about a policy of which nothing is known.
    let settings = [
        ("enforce", "defer-if-it-matters", "451", "250"),
        ("enforce", "defer", "451", "451"),
        ("enforce", "pass", "250", "250"),
        ("tag", "defer", "250", "250"),
        ("monitor", "defer", "250", "250"),
    ];
    for (mode, on_temperror, matters, policy) in settings {
        let configure = |c: ConfigText| quick(c).set("policy.mode", mode).set("policy.on_temperror", on_temperror);
        let world = World::start(zone(&[servfail]), configure).await;
        for case in Case::ALL {
            let outcome = world.send(&case.forged(servfail.0)).await;
            let name = format!("{} in {mode} with {on_temperror}", case.domain(servfail.0));
            let expected = if case.matters() { matters } else { policy };
            assert_eq!(outcome.summary(), expected, "{name}");
            if outcome.relayed.is_some() {
                assert!(outcome.results().one("dmarc").starts_with("temperror "), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn doubt_that_cannot_hide_a_pass_under_an_enforcing_policy_defers_nothing() {
    let spf = "v=spf1 ip4:192.0.2.0/24 -all";
    let zone = Zone::new()
        .txt("_dmarc.none.example", "v=DMARC1; p=none")
        .serv_fail("none.example", RecordType::TXT)
        .txt("_dmarc.testing.example", "v=DMARC1; p=quarantine; t=y")
        .serv_fail("testing.example", RecordType::TXT)
        .txt("bank.example", spf)
        .txt("_dmarc.bank.example", "v=DMARC1; p=reject")
        .txt("_dmarc.strict.example", "v=DMARC1; p=reject; adkim=s; aspf=s")
        .serv_fail("m.strict.example", RecordType::TXT)
        .txt("_dmarc.evil.example", "v=DMARC1; p=none")
        .serv_fail("evil.example", RecordType::TXT)
        .serv_fail("_dmarc.lost.example", RecordType::TXT)
        .serv_fail("s._domainkey.evil.example", RecordType::TXT)
        .serv_fail("s._domainkey.lost.example", RecordType::TXT)
        .txt("lost.example", spf);
    let world = World::start(zone, quick).await;
    let from = |author: &str| Letter::new(BAD, author);
    let signed = |domain: &str| {
        let letter = from("a@bank.example");
        let content = Signer::new(SigningKey::rsa(), domain, "s").sign(&letter.content);
        letter.content(content)
    };
    let cases = [
        ("p=none", from("a@none.example"), "250"),
        ("quarantine in test mode", from("a@testing.example"), "250"),
        ("the attacker's own SPF fails", from("a@bank.example").sender("x@evil.example"), "550"),
        ("the attacker's own key fails", signed("evil.example"), "550"),
        ("the attacker's own key and walk fail", signed("lost.example"), "550"),
        ("a subdomain under strict alignment", from("a@strict.example").sender("x@m.strict.example"), "550"),
        ("a client without names", from("a@bank.example").helo("evil.example"), "550"),
    ];
    for (case, letter, expected) in cases {
        assert_eq!(world.send(&letter).await.summary(), expected, "{case}");
    }
}

#[tokio::test]
async fn a_name_of_the_client_that_cannot_be_asked_for_is_doubt_where_spf_asks_for_it() {
    let zone = Zone::new()
        .txt("names.example", "v=spf1 ptr -all")
        .txt("_dmarc.names.example", "v=DMARC1; p=reject")
        .txt("plain.example", "v=spf1 ip4:192.0.2.0/24 -all")
        .txt("_dmarc.plain.example", "v=DMARC1; p=reject")
        .serv_fail("66.100.51.198.in-addr.arpa", RecordType::PTR);
    let world = World::start(zone, quick).await;
    for (author, expected) in [("a@names.example", "451"), ("a@plain.example", "550")] {
        assert_eq!(world.send(&Letter::new(BAD, author)).await.summary(), expected, "{author}");
    }
}

#[tokio::test]
async fn a_name_of_the_client_that_cannot_be_asked_for_is_doubt_though_spf_ends_in_permerror() {
    let zone = Zone::new()
        .txt("names.example", "v=spf1 ptr include:gone.example -all")
        .txt("_dmarc.names.example", "v=DMARC1; p=reject")
        .txt("plain.example", "v=spf1 include:gone.example -all")
        .txt("_dmarc.plain.example", "v=DMARC1; p=reject")
        .serv_fail("66.100.51.198.in-addr.arpa", RecordType::PTR);
    let world = World::start(zone, quick).await;
    for (author, expected) in [("a@names.example", "451"), ("a@plain.example", "550")] {
        assert_eq!(world.send(&Letter::new(BAD, author)).await.summary(), expected, "{author}");
    }
}

#[tokio::test]
async fn a_trusted_sealer_whose_key_cannot_be_had_is_doubt_however_strict_the_operator() {
    let zone = Zone::new()
        .txt("bank.example", "v=spf1 -all")
        .txt("_dmarc.bank.example", "v=DMARC1; p=reject")
        .serv_fail("s._domainkey.list.example", RecordType::TXT)
        .serv_fail("s._domainkey.other.example", RecordType::TXT);
    let configure =
        |c: ConfigText| quick(c).set("policy.reject", "always").set("policy.trusted_sealers", vec!["list.example"]);
    let world = World::start(zone, configure).await;
    let letter = Letter::new(BAD, "a@bank.example");
    let said = "dmarc=pass header.from=bank.example";
    for (sealer, expected) in [("list.example", "451"), ("other.example", "550")] {
        let set = Signer::new(SigningKey::rsa(), sealer, "s").arc_set_saying(&letter.content, 1, "none", said);
        assert_eq!(world.send(&letter.clone().field(&set)).await.summary(), expected, "{sealer}");
    }
}

#[tokio::test]
async fn an_arc_chain_that_cannot_be_checked_is_a_sign_of_indirect_flow() {
    let zone = Zone::new()
        .txt("bank.example", "v=spf1 -all")
        .txt("_dmarc.bank.example", "v=DMARC1; p=reject")
        .serv_fail("s._domainkey.list.example", RecordType::TXT);
    let world = World::start(zone, quick).await;
    let letter = Letter::new(BAD, "a@bank.example");
    let set = Signer::new(SigningKey::rsa(), "list.example", "s").arc_set(&letter.content, 1, "none");
    let outcome = world.send(&letter.field(&set)).await;
    assert_eq!(outcome.summary(), "250 quarantine");
    assert_eq!(outcome.results().one("arc"), "fail");
    assert_eq!(outcome.results().reason("arc"), "key look-up failed: servfail");
}

#[tokio::test]
async fn an_answer_that_goes_on_by_tcp_is_as_good_as_any() {
    let long = format!("v=DMARC1; p=reject; rua={}", vec!["mailto:reports@a-long-name.rcpt.example"; 60].join(","));
    let zone = Zone::new()
        .txt("a.example", "v=spf1 ip4:192.0.2.0/24 -all")
        .truncate("a.example", RecordType::TXT)
        .txt("_dmarc.a.example", &long);
    let world = World::start(zone, |c| c).await;
    assert_eq!(world.send(&Letter::new(GOOD, "a@a.example")).await.summary(), "250");
    assert_eq!(world.send(&Letter::new(BAD, "a@a.example")).await.summary(), "550");
}

#[tokio::test]
async fn a_policy_that_dns_had_no_time_to_tell_is_our_own_limit() {
    let zone = Zone::new().txt("b.example", "v=spf1 -all").delay("_dmarc.b.example", RecordType::TXT);
    let configure = |c: ConfigText| c.set("timeouts.evaluation", "300ms").set("dns.timeout", "20s");
    let world = World::start(zone, configure).await;
    assert_eq!(world.send(&Letter::new(BAD, "a@b.example")).await.summary(), "451");
    assert_eq!(world.gate.metrics().await.value("dmarcgate_limits_reached_total{limit=\"evaluation\"}"), 1.0);
}

#[tokio::test]
async fn at_the_deadline_what_is_known_counts_and_the_rest_is_in_doubt() {
    let zone = Zone::new()
        .txt("a.example", "v=spf1 include:slow.example -all")
        .delay("slow.example", RecordType::TXT)
        .txt("_dmarc.a.example", "v=DMARC1; p=reject")
        .txt("s._domainkey.a.example", &SigningKey::rsa().record())
        .txt("b.example", "v=spf1 -all")
        .delay("_dmarc.b.example", RecordType::TXT)
        .delay("_dmarc.slow.example", RecordType::TXT);
    let configure = |c: ConfigText| c.set("timeouts.evaluation", "400ms").set("dns.timeout", "200ms");
    let world = World::start(zone, configure).await;
    let begun = Instant::now();

    let letter = Letter::new(BAD, "a@a.example");
    let signed = letter.clone().content(Signer::new(SigningKey::rsa(), "a.example", "s").sign(&letter.content));
    let outcome = world.send(&signed).await;
    assert_eq!(outcome.results().one("dmarc"), "pass policy.dmarc=reject header.from=a.example");
    assert_eq!(outcome.results().one("spf"), "temperror smtp.mailfrom=a.example");

    assert_eq!(world.send(&letter).await.summary(), "451");

    let outcome = world.send(&Letter::new(BAD, "a@b.example")).await;
    assert_eq!(outcome.summary(), "250");
    assert_eq!(outcome.results().one("dmarc"), "temperror header.from=b.example");

    // A slow domain of the attacker's own beside the victim's: what is known of the victim's decides.
    let both = Letter::with_header(BAD, "x@slow.example", "From: x@slow.example, a@c.example, a@b.example\r\n");
    world.dns.change(|zone| zone.txt("_dmarc.c.example", "v=DMARC1; p=reject").txt("c.example", "v=spf1 -all"));
    assert_eq!(world.send(&both).await.summary(), "550");
    assert!(begun.elapsed() < Duration::from_secs(15), "the answers were waited for");
}

#[tokio::test]
async fn a_domain_that_stays_broken_is_not_cut_off_for_ever() {
    let zone = Zone::new()
        .txt("_dmarc.broken.example", "v=DMARC1; p=reject")
        .serv_fail("broken.example", RecordType::TXT)
        .txt("_dmarc.sound.example", "v=DMARC1; p=reject")
        .txt("sound.example", "v=spf1 -all");
    let world = World::start(zone, |config| config.set("policy.defer_at_most", "50ms")).await;
    let broken = Letter::new(GOOD, "a@broken.example");
    let started = Instant::now();
    assert_eq!(world.send(&broken).await.summary(), "451", "at first it is deferred");
    // As a sender would: again and again.
    let mut last = world.send(&broken).await;
    while last.reply.code == 451 {
        assert!(started.elapsed() < Duration::from_secs(30), "it is deferred for ever");
        last = world.send(&broken).await;
    }
    assert!(started.elapsed() >= Duration::from_millis(50));
    assert_eq!(last.summary(), "250 quarantine");
    world.wait_for_count("dmarcgate_decisions_total{rule=\"lasting_doubt\"}", 1.0).await;
    // Others have a time of their own, and what is sure is not softened.
    assert_eq!(world.send(&Letter::new(BAD, "a@broken.example")).await.summary(), "451");
    assert_eq!(world.send(&Letter::new(GOOD, "a@sound.example")).await.summary(), "550");
}
