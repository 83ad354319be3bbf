//! The verdict table as client and upstream see it: each row in every mode.

use crate::support::config::ConfigText;
use crate::support::dns::Zone;
use crate::support::signer::{Signer, SigningKey};
use crate::support::world::{Letter, World};

/// Clients whose mail passes SPF for each domain below, and does not.
const GOOD: &str = "192.0.2.10";
const BAD: &str = "198.51.100.66";

/// Modes in the order of the tables' columns.
const MODES: [(&str, &str, &str); 5] = [
    ("enforce", "enforce", "corroborated"),
    ("always", "enforce", "always"),
    ("never", "enforce", "never"),
    ("tag", "tag", "corroborated"),
    ("monitor", "monitor", "corroborated"),
];

/// A case: its name, the letter, what the dmarc= result is, and client's reply with mark in each mode.
type Case = (&'static str, Letter, &'static str, [&'static str; 5]);

const ACCEPTED: [&str; 5] = ["250"; 5];
const QUARANTINED: [&str; 5] = ["250 quarantine", "250 quarantine", "250 quarantine", "250 quarantine", "250"];
const REJECTED: [&str; 5] = ["550", "550", "250 reject", "250 reject", "250"];
const INDIRECT: [&str; 5] = ["250 quarantine", "550", "250 reject", "250 reject", "250"];

/// A domain with SPF for [`GOOD`] and a policy record.
fn domain(zone: Zone, name: &str, policy: &str) -> Zone {
    zone.txt(name, "v=spf1 ip4:192.0.2.0/24 -all").txt(&format!("_dmarc.{name}"), policy)
}

fn forged(author: &str) -> Letter {
    Letter::new(BAD, author)
}

fn honest(author: &str) -> Letter {
    Letter::new(GOOD, author)
}

/// Sends each case's letter in each mode.
async fn run(zone: Zone, change: fn(ConfigText) -> ConfigText, cases: &[Case]) {
    for (column, (name, mode, reject)) in MODES.into_iter().enumerate() {
        let configure = |c: ConfigText| change(c).set("policy.mode", mode).set("policy.reject", reject);
        let world = World::start(zone.clone(), configure).await;
        for (case, letter, dmarc, expected) in cases {
            let outcome = world.send(letter).await;
            assert_eq!(outcome.summary(), expected[column], "{case} in {name}: {}", outcome.reply);
            match &outcome.relayed {
                Some(_) => assert_eq!(outcome.results().one("dmarc"), *dmarc, "{case} in {name}"),
                None => {
                    let reply = outcome.reply.text();
                    let codes = if outcome.reply.code == 550 { &["5.7.1 ", "5.7.26 "][..] } else { &["4.7.0 "] };
                    assert!(codes.iter().any(|code| reply.starts_with(code)), "{reply}");
                    assert!(reply.contains("DMARC") && reply.contains("(id "), "{case} in {name}: {reply}");
                }
            }
        }
        world.upstream.assert_clean();
    }
}

#[tokio::test]
async fn each_published_policy_has_its_effect_in_each_mode() {
    let zone = Zone::new().txt("bare.example", "v=spf1 ip4:192.0.2.0/24 -all");
    let zone = domain(zone, "reject.example", "v=DMARC1; p=reject");
    let zone = domain(zone, "quarantine.example", "v=DMARC1; p=quarantine");
    let zone = domain(zone, "none.example", "v=DMARC1; p=none");
    let zone = domain(zone, "test-reject.example", "v=DMARC1; p=reject; t=y");
    let zone = domain(zone, "test-quarantine.example", "v=DMARC1; p=quarantine; t=y");
    let zone = domain(zone, "pct.example", "v=DMARC1; p=reject; pct=0; ri=1; rf=afrf");
    let zone = domain(zone, "spaced.example", "v = DMARC1 ;  P = Reject ;; x=y; ");
    let zone = domain(zone, "split.example", "").remove("_dmarc.split.example");
    let zone = zone.txt_strings("_dmarc.split.example", &["v=DMA", "RC1; p=rej", "ect"]);
    let zone = domain(zone, "alias.example", "").remove("_dmarc.alias.example");
    let zone = zone.cname("_dmarc.alias.example", "_dmarc.reject.example");
    let zone = domain(zone, "broken.example", "v=DMARC1; p=bogus");
    let zone = domain(zone, "broken-rua.example", "v=DMARC1; p=bogus; rua=mailto:r@rcpt.example");
    let zone = domain(zone, "broken-sp.example", "v=DMARC1; p=reject; sp=bogus; rua=mailto:r@rcpt.example");
    let zone = domain(zone, "no-p.example", "v=DMARC1; rua=mailto:r@rcpt.example");
    let zone = domain(zone, "no-p-rua.example", "v=DMARC1; adkim=s");
    let zone = domain(zone, "two.example", "v=DMARC1; p=reject").txt("_dmarc.two.example", "v=DMARC1; p=none");
    let zone = domain(zone, "one-of-two.example", "v=DMARC1; p=reject").txt("_dmarc.one-of-two.example", "v=spf1 -all");
    let zone = domain(zone, "case.example", "v=dmarc1; p=reject");
    let zone = domain(zone, "order.example", "p=reject; v=DMARC1");
    let zone = domain(zone, "xn--bcher-kva.example", "v=DMARC1; p=reject");
    let pass = |d: &str, p: &str| -> &'static str { format!("pass policy.dmarc={p} header.from={d}").leak() };
    let fail = |d: &str, p: &str| -> &'static str { format!("fail policy.dmarc={p} header.from={d}").leak() };
    let none = |d: &str| -> &'static str { format!("none header.from={d}").leak() };
    let permerror = |d: &str| -> &'static str { format!("permerror header.from={d}").leak() };
    let cases = [
        ("pass", honest("a@reject.example"), pass("reject.example", "reject"), ACCEPTED),
        ("no record", forged("a@bare.example"), none("bare.example"), ACCEPTED),
        ("no such domain", forged("a@nowhere.example"), none("nowhere.example"), ACCEPTED),
        ("none", forged("a@none.example"), fail("none.example", "none"), ACCEPTED),
        ("quarantine", forged("a@quarantine.example"), fail("quarantine.example", "quarantine"), QUARANTINED),
        ("reject", forged("a@reject.example"), fail("reject.example", "reject"), REJECTED),
        ("case of the domain", forged("a@REJECT.Example"), fail("reject.example", "reject"), REJECTED),
        ("t=y", forged("a@test-reject.example"), fail("test-reject.example", "quarantine"), QUARANTINED),
        ("t=y, quarantine", forged("a@test-quarantine.example"), fail("test-quarantine.example", "none"), ACCEPTED),
        ("pct has no effect", forged("a@pct.example"), fail("pct.example", "reject"), REJECTED),
        ("spaces, case, unknown tags", forged("a@spaced.example"), fail("spaced.example", "reject"), REJECTED),
        ("several strings", forged("a@split.example"), fail("split.example", "reject"), REJECTED),
        ("an alias", forged("a@alias.example"), fail("alias.example", "reject"), REJECTED),
        ("broken", forged("a@broken.example"), permerror("broken.example"), ACCEPTED),
        ("broken with rua", forged("a@broken-rua.example"), fail("broken-rua.example", "none"), ACCEPTED),
        ("broken sp with rua", forged("a@broken-sp.example"), fail("broken-sp.example", "none"), ACCEPTED),
        ("no p with rua", forged("a@no-p.example"), fail("no-p.example", "none"), ACCEPTED),
        ("no p without rua", forged("a@no-p-rua.example"), permerror("no-p-rua.example"), ACCEPTED),
        ("below a broken one", forged("a@x.broken.example"), permerror("x.broken.example"), ACCEPTED),
        ("several records", forged("a@two.example"), none("two.example"), ACCEPTED),
        ("one among others", forged("a@one-of-two.example"), fail("one-of-two.example", "reject"), REJECTED),
        ("wrong case of the version", forged("a@case.example"), none("case.example"), ACCEPTED),
        ("version not first", forged("a@order.example"), none("order.example"), ACCEPTED),
        (
            "a U-label",
            Letter::with_header(BAD, "a@x.example", "From: a@b\u{fc}cher.example\r\n"),
            fail("xn--bcher-kva.example", "reject"),
            REJECTED,
        ),
    ];
    run(zone, |c| c, &cases).await;
}

#[tokio::test]
async fn the_policy_is_discovered_by_the_tree_walk() {
    let zone = domain(Zone::new(), "org.example", "v=DMARC1; p=reject; sp=quarantine");
    let zone = zone.a("www.org.example", "192.0.2.80").txt("_dmarc.own.org.example", "v=DMARC1; p=none");
    let zone = zone.txt("_dmarc.between.org.example", "v=DMARC1; p=none").a("a.between.org.example", "192.0.2.80");
    let zone = domain(zone, "np.example", "v=DMARC1; p=none; sp=quarantine; np=reject");
    let zone = zone.a("real.np.example", "192.0.2.80").a("below.empty.np.example", "192.0.2.80");
    let zone = zone.cname("dangling.np.example", "nothing.nowhere.example");
    // A public suffix domain, with and without a record below.
    let zone =
        zone.txt("_dmarc.suffix.example", "v=DMARC1; p=quarantine; psd=y; np=reject").a("corp.suffix.example", GOOD);
    let zone = domain(zone, "own.suffix.example", "v=DMARC1; p=none");
    // psd=n makes an organization of its own.
    let zone = domain(zone, "uni.example", "v=DMARC1; p=none");
    let zone = domain(zone, "dept.uni.example", "v=DMARC1; p=reject; psd=n").a("a.dept.uni.example", GOOD);
    let deep = "a.b.c.d.e.f.g.h.i.j.org.example"; // twelve labels
    let unseen = "m.a.b.c.d.e.f.g.deep.example"; // its cut at b.c.d.e.f.g.deep.example is never asked (§5.1.8)
    let zone = zone.txt("_dmarc.b.c.d.e.f.g.deep.example", "v=DMARC1; p=reject").a(unseen, GOOD).a(deep, GOOD);
    let fail = |d: &str, p: &str| -> &'static str { format!("fail policy.dmarc={p} header.from={d}").leak() };
    let author = |domain: &str| forged(&format!("a@{domain}"));
    let cases = [
        ("sp", author("www.org.example"), fail("www.org.example", "quarantine"), QUARANTINED),
        ("sp without np, name missing", author("no.org.example"), fail("no.org.example", "quarantine"), QUARANTINED),
        ("own record", author("own.org.example"), fail("own.org.example", "none"), ACCEPTED),
        ("a record between", author("a.between.org.example"), fail("a.between.org.example", "quarantine"), QUARANTINED),
        ("twelve labels", author(deep), fail(deep, "quarantine"), QUARANTINED),
        ("an unseen cut", author(unseen), "none header.from=m.a.b.c.d.e.f.g.deep.example", ACCEPTED),
        ("np, existing", author("real.np.example"), fail("real.np.example", "quarantine"), QUARANTINED),
        ("np, missing", author("no.np.example"), fail("no.np.example", "reject"), REJECTED),
        ("np, empty non-terminal", author("empty.np.example"), fail("empty.np.example", "quarantine"), QUARANTINED),
        ("np, dangling alias", author("dangling.np.example"), fail("dangling.np.example", "quarantine"), QUARANTINED),
        ("np, at the record's own name", author("np.example"), fail("np.example", "none"), ACCEPTED),
        ("psd=y", author("corp.suffix.example"), fail("corp.suffix.example", "quarantine"), QUARANTINED),
        ("psd=y, name missing", author("no.suffix.example"), fail("no.suffix.example", "reject"), REJECTED),
        ("psd=y, own record", author("own.suffix.example"), fail("own.suffix.example", "none"), ACCEPTED),
        ("psd=n", author("a.dept.uni.example"), fail("a.dept.uni.example", "reject"), REJECTED),
    ];
    run(zone, |c| c, &cases).await;
}

#[tokio::test]
async fn identifiers_count_by_their_alignment() {
    let (rsa, ed25519) = (SigningKey::rsa(), SigningKey::ed25519());
    let zone = domain(Zone::new(), "relaxed.example", "v=DMARC1; p=reject");
    let zone = domain(zone, "strict.example", "v=DMARC1; p=reject; adkim=s; aspf=s");
    let zone = domain(zone, "other.example", "v=DMARC1; p=none");
    let spf = "v=spf1 ip4:192.0.2.0/24 -all";
    let zone = zone.txt("m.relaxed.example", spf).txt("m.strict.example", spf).txt("mta.relaxed.example", spf);
    // One public suffix domain, two organizations: nothing is aligned across them.
    let zone = zone.txt("_dmarc.psd.example", "v=DMARC1; p=reject; psd=y").txt("evil.psd.example", spf);
    let zone = zone.a("bank.psd.example", GOOD);
    let zone = ["relaxed", "m.relaxed", "strict", "m.strict", "other"].into_iter().fold(zone, |zone, name| {
        zone.txt(&format!("r._domainkey.{name}.example"), &rsa.record())
            .txt(&format!("e._domainkey.{name}.example"), &ed25519.record())
    });
    let signed = |letter: Letter, key: &'static SigningKey, domain: &str| {
        let selector = if std::ptr::eq(key, rsa) { "r" } else { "e" };
        let content = Signer::new(key, domain, selector).sign(&letter.content);
        letter.content(content)
    };
    let pass = |d: &str| -> &'static str { format!("pass policy.dmarc=reject header.from={d}").leak() };
    let fail = |d: &str| -> &'static str { format!("fail policy.dmarc=reject header.from={d}").leak() };
    let (relaxed, strict) = ("relaxed.example", "strict.example");
    let r = |ip: &str| Letter::new(ip, "a@relaxed.example");
    let s = |ip: &str| Letter::new(ip, "a@strict.example");
    let cases = [
        ("SPF, same domain", r(GOOD), pass(relaxed), ACCEPTED),
        ("SPF, below, relaxed", r(GOOD).sender("b@m.relaxed.example"), pass(relaxed), ACCEPTED),
        ("SPF, below, strict", s(GOOD).sender("b@m.strict.example"), fail(strict), REJECTED),
        ("SPF, other domain", r(GOOD).sender("b@other.example"), fail(relaxed), REJECTED),
        ("null reverse-path, aligned EHLO", r(GOOD).sender("").helo("mta.relaxed.example"), pass(relaxed), ACCEPTED),
        ("null reverse-path, other EHLO", r(GOOD).sender("").helo("other.example"), fail(relaxed), REJECTED),
        (
            "aligned EHLO beside a reverse-path",
            r(GOOD).sender("b@other.example").helo("relaxed.example"),
            fail(relaxed),
            REJECTED,
        ),
        ("DKIM, rsa", signed(r(BAD), rsa, relaxed), pass(relaxed), ACCEPTED),
        ("DKIM, ed25519", signed(r(BAD), ed25519, relaxed), pass(relaxed), ACCEPTED),
        ("DKIM, below, relaxed", signed(r(BAD), rsa, "m.relaxed.example"), pass(relaxed), ACCEPTED),
        ("DKIM, below, strict", signed(s(BAD), rsa, "m.strict.example"), fail(strict), REJECTED),
        ("DKIM, same, strict", signed(s(BAD), rsa, strict), pass(strict), ACCEPTED),
        ("DKIM, other domain", signed(r(BAD), rsa, "other.example"), fail(relaxed), REJECTED),
        (
            "DKIM, author below",
            signed(Letter::new(BAD, "a@m.relaxed.example"), rsa, relaxed),
            pass("m.relaxed.example"),
            ACCEPTED,
        ),
        (
            "neighbours below a public suffix",
            Letter::new(GOOD, "a@bank.psd.example").sender("b@evil.psd.example"),
            fail("bank.psd.example"),
            REJECTED,
        ),
    ];
    run(zone, |c| c, &cases).await;
}

#[tokio::test]
async fn signs_of_indirect_flow_lower_a_refusal_to_quarantine() {
    let key = SigningKey::rsa();
    let zone = domain(Zone::new(), "v.example", "v=DMARC1; p=reject").txt("s._domainkey.v.example", &key.record());
    let zone = domain(zone, "strict.example", "v=DMARC1; p=reject; adkim=s");
    let zone = zone.txt("s._domainkey.m.strict.example", &key.record());
    let zone = domain(zone, "other.example", "v=DMARC1; p=none").txt("s._domainkey.other.example", &key.record());
    let letter = || forged("a@v.example");
    let signed = |domain: &str, selector: &str| Signer::new(key, domain, selector).sign(&letter().content);
    let broken = |content: Vec<u8>| [content.as_slice(), b"-- \r\nThe list\r\n"].concat();
    let on_top = |content: &[u8]| [b"Subject: another\r\n", content].concat();
    let with_length = Signer::new(key, "v.example", "s").set("l", letter().content.len() - letter_header().len());
    let with_length = with_length.sign(&letter().content);
    let too_long = Signer::new(key, "v.example", "s").set("l", 4000).sign(&letter().content);
    let arc = |cv: &str, instance| {
        let set = Signer::new(key, "other.example", "s").arc_set(&letter().content, instance, cv);
        letter().field(&set)
    };
    let d = "fail policy.dmarc=reject header.from=v.example";
    let cases = [
        ("nothing", letter(), d, REJECTED),
        ("a broken signature", letter().content(broken(signed("v.example", "s"))), d, INDIRECT),
        ("a broken signature without a key", letter().content(broken(signed("v.example", "none"))), d, REJECTED),
        ("a broken signature of another", letter().content(broken(signed("other.example", "s"))), d, REJECTED),
        (
            "a broken signature of a subdomain under adkim=s",
            forged("a@strict.example")
                .content(broken(Signer::new(key, "m.strict.example", "s").sign(&forged("a@strict.example").content))),
            "fail policy.dmarc=reject header.from=strict.example",
            REJECTED,
        ),
        ("text beyond l=", letter().content(broken(with_length.clone())), d, QUARANTINED_BUT_NEVER),
        ("a Subject on top", letter().content(on_top(&signed("v.example", "s"))), d, QUARANTINED_BUT_NEVER),
        ("a Subject on top, of another", letter().content(on_top(&signed("other.example", "s"))), d, REJECTED),
        ("text taken away from l=", letter().content(too_long), d, INDIRECT),
        ("List-Id", letter().field("List-Id: <l.lists.example>\r\n"), d, INDIRECT),
        ("List-Post", letter().field("List-Post: <mailto:l@lists.example>\r\n"), d, INDIRECT),
        ("List-Unsubscribe alone", letter().field("List-Unsubscribe: <mailto:l@lists.example>\r\n"), d, REJECTED),
        (
            "List-Unsubscribe and Precedence",
            letter().field("List-Unsubscribe: <mailto:l@lists.example>\r\nPrecedence: list\r\n"),
            d,
            INDIRECT,
        ),
        ("an ARC chain", arc("none", 1), d, INDIRECT),
        ("an ARC chain that is broken", arc("pass", 1), d, REJECTED),
    ];
    run(zone, |c| c, &cases).await;

    // The unbroken l= is a pass.
    let zone = domain(Zone::new(), "v.example", "v=DMARC1; p=reject").txt("s._domainkey.v.example", &key.record());
    let world = World::start(zone, |c| c).await;
    let outcome = world.send(&letter().content(broken(with_length.clone()))).await;
    assert!(outcome.results().one("dkim").starts_with("policy header.d=v.example "), "{:?}", outcome.results());
    let outcome = world.send(&letter().content(with_length)).await;
    assert_eq!(outcome.results().one("dmarc"), "pass policy.dmarc=reject header.from=v.example");
}

#[tokio::test]
async fn a_trusted_sealer_speaks_for_a_message_that_fails() {
    let key = SigningKey::rsa();
    let zone = ["list.example", "second.example", "evil.example"]
        .into_iter()
        .fold(domain(Zone::new(), "v.example", "v=DMARC1; p=reject"), |zone, sealer| {
            zone.txt(&format!("s._domainkey.{sealer}"), &key.record())
        });
    let configure = |c: ConfigText| c.set("policy.trusted_sealers", vec!["List.example", "second.example"]);
    let world = World::start(zone, configure).await;
    let letter = forged("a@v.example");
    // Each set as it stands on the message that its sealer sends on.
    let chain = |sets: &[(&str, &str)]| {
        sets.iter().enumerate().fold(letter.content.clone(), |message, (index, (sealer, results))| {
            let cv = if index == 0 { "none" } else { "pass" };
            let set = Signer::new(key, sealer, "s").arc_set_saying(&message, index + 1, cv, results);
            [set.as_bytes(), &message].concat()
        })
    };
    let pass = "dmarc=pass header.from=v.example";
    let forgery = "dmarc=pass header.from=other.example";
    let cases: [(&str, &[(&str, &str)], &str); 8] = [
        ("trusted", &[("list.example", pass)], "250"),
        ("both trusted", &[("list.example", pass), ("second.example", "dmarc=fail header.from=v.example")], "250"),
        ("untrusted", &[("evil.example", pass)], "250 quarantine"),
        ("untrusted on top", &[("list.example", pass), ("evil.example", pass)], "250 quarantine"),
        (
            "untrusted between",
            &[("list.example", pass), ("evil.example", ""), ("second.example", "")],
            "250 quarantine",
        ),
        ("another domain", &[("list.example", forgery)], "250 quarantine"),
        ("two results", &[("list.example", &format!("{pass}; {forgery}"))], "250 quarantine"),
        ("no author", &[("list.example", "dmarc=pass")], "250 quarantine"),
    ];
    for (name, sets, expected) in cases {
        let outcome = world.send(&letter.clone().content(chain(sets))).await;
        assert_eq!(outcome.summary(), expected, "{name}");
        let results = outcome.results();
        assert_eq!(results.one("arc"), "pass", "{name}");
        assert_eq!(
            results.one("dmarc"),
            "fail policy.dmarc=reject header.from=v.example",
            "{name}: A-R stays truthful"
        );
    }
    // What was changed after the seal is nobody's word.
    let changed = [chain(&[("list.example", pass)]), b"more\r\n".to_vec()].concat();
    assert_eq!(world.send(&letter.clone().content(changed)).await.summary(), "550");
}

/// `reject = "always"` makes no exception but for a signature that fits and leaves the end of the body or a field on top open.
const QUARANTINED_BUT_NEVER: [&str; 5] = ["250 quarantine", "250 quarantine", "250 reject", "250 reject", "250"];

/// What [`Letter::new`] puts before the body of a letter from v.example.
fn letter_header() -> Vec<u8> {
    let content = forged("a@v.example").content;
    let end = content.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    content[..end].to_vec()
}
