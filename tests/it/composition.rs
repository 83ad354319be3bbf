//! The attacks of Chen, Paxson and Jiang, 'Composition Kills: A Case Study of Email Sender Authentication' (USENIX
//! Security 2020), over sockets: none of those that a receiver can stop arrives as genuine or unmarked.
//!
//! 1 to 14 are numbered as in the paper and in its authors' tool; 15 to 18 are those in which a service signs for the
//! victim's domain, and letters that it has signed are sent once more.
//!
//! |  # | attack                                           | what stops it                                            |
//! | -- | ------------------------------------------------ | -------------------------------------------------------- |
//! |  1 | MAIL FROM in a subdomain that does not exist     | SPF of a name without a record is none                   |
//! |  2 | MAIL FROM that some take for empty               | one SPF identity; EHLO counts for `<>` alone (`spf`)     |
//! |  3 | NUL in s=, d= or the envelope cuts a DNS name    | names are parsed before they are asked for (`Domain`)    |
//! |  4 | d= that breaks out of Authentication-Results     | d= is a `Domain`; values are written by grammar          |
//! |  5 | MAIL FROM that does the same for SPF             | SPF is evaluated here, no text is read back (`verdict`)  |
//! |  6 | several From fields                              | From is unusable: repeated                               |
//! |  7 | white space around the name of From              | counted leniently: repeated, or a malformed line         |
//! |  8 | Sender, Resent-From or no From                   | From is unusable: missing, malformed or in disagreement  |
//! |  9 | several addresses in From                        | each domain is evaluated, the strictest failure rules    |
//! | 10 | encoded words that hold an address               | a lenient reader disagrees                               |
//! | 11 | a route in From                                  | a route through elsewhere is a disagreement              |
//! | 12 | quoted pairs                                     | syntax, or the address in quotes is a disagreement       |
//! | 13 | commas, semicolons, brackets, NUL, comments      | the strict grammar, or disagreement                      |
//! | 14 | display name and address run together            | the strict grammar                                       |
//! | 15 | an account at a service that signs for all       | only if From has more than one reading; else the service |
//! | 16 | From of another user of that service             | nobody but the service: the domain is the author's       |
//! | 17 | a signed letter with more header fields          | what stands again, unsigned, makes dkim=policy           |
//! | 18 | a signed letter with another body (l=)           | octets beyond l= make dkim=policy, no identifier         |
//!
//! What no receiver can stop by DMARC: a lookalike domain (U+0430 for a), a bare display name (RFC 9989 §11.4), a
//! letter replayed without a change, and what the victim's own service lets its users sign.

use crate::support::dns::Zone;
use crate::support::signer::{Signer, SigningKey};
use crate::support::world::{Letter, Outcome, World};

/// Where the attacker sends from; his own domains pass everything from there.
const ATTACKER: &str = "198.51.100.66";
const VICTIM: &str = "legit.example";

fn zone() -> Zone {
    let key = SigningKey::rsa().record();
    let own = "v=spf1 ip4:198.51.100.0/24 -all";
    Zone::new()
        .txt(VICTIM, "v=spf1 ip4:192.0.2.0/24 -all")
        .txt("_dmarc.legit.example", "v=DMARC1; p=reject")
        .txt("service._domainkey.legit.example", &key)
        .txt("attack.example", own)
        .txt("*.attack.example", own)
        .txt("_dmarc.attack.example", "v=DMARC1; p=reject")
        .txt("s._domainkey.attack.example", &key)
        .txt("any.example", own)
}

/// A gate that enforces and one that only says what it found.
struct Gates {
    enforce: World,
    monitor: World,
}

impl Gates {
    async fn start() -> Self {
        Self {
            enforce: World::start(zone(), |c| c).await,
            monitor: World::start(zone(), |c| c.set("policy.mode", "monitor")).await,
        }
    }

    /// The letter is refused or marked where the policy is enforced, and nowhere said to be the victim's.
    async fn stop(&self, case: &str, letter: &Letter) {
        let enforced = self.enforce.send(letter).await;
        let summary = enforced.summary();
        let is_stopped = (500..600).contains(&enforced.reply.code) || summary.starts_with("250 ");
        assert!(is_stopped, "{case}: {summary}: {}", enforced.reply);
        never_genuine(case, &enforced);
        never_genuine(case, &self.monitor.send(letter).await);
    }

    /// No name was asked for that the attacker has made up of octets that no host name has.
    fn asked_plain_names(&self) {
        for world in [&self.enforce, &self.monitor] {
            for asked in world.dns.asked() {
                let is_plain = asked.spelled.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
                assert!(is_plain, "{:?}", asked.spelled);
            }
        }
    }
}

/// What the gate wrote on top says of no victim that it is the author, or the signer, or the sender.
fn never_genuine(case: &str, outcome: &Outcome) {
    let Some(message) = &outcome.relayed else { return };
    let content = String::from_utf8_lossy(&message.content).into_owned();
    let results = content.split_inclusive("\r\n").scan(true, |first, line| {
        let belongs = std::mem::take(first) || line.starts_with([' ', '\t']);
        belongs.then_some(line)
    });
    let results: String = results.collect();
    assert!(results.starts_with("Authentication-Results: mx.gate.example"), "{case}: {content}");
    for result in results.split(';').skip(1) {
        let is_pass = result.trim_start().split_once('=').is_some_and(|(_, value)| value.starts_with("pass"));
        assert!(!(is_pass && result.contains(VICTIM)), "{case}: {results}");
    }
}

/// A letter of the attacker with this From, and whatever else, as the top of its header section.
fn top(fields: impl AsRef<[u8]>) -> Letter {
    let rest = b"\r\nTo: you@rcpt.example\r\nSubject: s\r\n\r\nHello.\r\n";
    let content = [fields.as_ref(), rest].concat();
    Letter::with_header(ATTACKER, "any@attack.example", "").helo("attack.example").content(content)
}

/// The plain forgery, whose envelope is to do the rest.
fn forgery() -> Letter {
    top("From: <admin@legit.example>")
}

fn signed(letter: Letter, signer: &Signer<'_>) -> Letter {
    let content = signer.sign(&letter.content);
    letter.content(content)
}

/// A letter that the victim's service has signed, sent by the attacker.
fn from_service(fields: impl AsRef<[u8]>) -> Letter {
    signed(top(fields), &Signer::new(SigningKey::rsa(), VICTIM, "service"))
}

#[tokio::test]
async fn attack_01_a_subdomain_that_does_not_exist() {
    let gates = Gates::start().await;
    for sender in ["any@mailfrom.notexist.legit.example", "any@notexist.legit.example", "any@_dmarc.legit.example"] {
        gates.stop(sender, &forgery().sender(sender)).await;
    }
}

#[tokio::test]
async fn attack_02_a_reverse_path_that_some_take_for_empty() {
    let gates = Gates::start().await;
    for sender in ["", "(any@legit.example", "(any@legit.example)", "\"\"@legit.example", "any", "legit.example"] {
        for helo in ["attack.example", VICTIM, "x.attack.example"] {
            gates.stop(&format!("<{sender}> as {helo}"), &forgery().sender(sender).helo(helo)).await;
        }
    }
}

#[tokio::test]
async fn attack_03_nul_ends_a_name_for_some() {
    let gates = Gates::start().await;
    let key = SigningKey::rsa();
    let selectors = [
        "s._domainkey.attack.example.\0.any",
        "s._domainkey.attack.example.\0",
        "s._domainkey.attack.example\0",
        "s._domainkey.attack.example.",
        "s._domainkey.attack.example.\\0",
        "s._domainkey.attack.example.\n",
        "s._domainkey.attack.example/",
        "s._domainkey.attack.example#",
    ];
    for selector in selectors {
        let signer = Signer::new(key, VICTIM, selector);
        gates.stop(&format!("s={}", selector.escape_debug()), &signed(forgery(), &signer)).await;
    }
    for domain in ["attack.example\0.legit.example", "legit.example\0.attack.example", "legit.example\0"] {
        gates.stop(&format!("d={}", domain.escape_debug()), &signed(forgery(), &Signer::new(key, domain, "s"))).await;
        let sender = format!("any@{domain}");
        gates.stop(&format!("<{}>", sender.escape_debug()), &forgery().sender(&sender)).await;
    }
    gates.asked_plain_names();
}

#[tokio::test]
async fn attack_04_d_breaks_out_of_the_results() {
    let gates = Gates::start().await;
    let domains = [
        "legit.example(.attack.example",
        "legit.example'a.attack.example",
        "legit.example\"a.attack.example",
        "legit.example(a).attack.example",
        "legit.example\\.attack.example",
        "legit.example\r\n .attack.example",
        "legit.example .attack.example",
        "legit.example,.attack.example",
        "legit.example=.attack.example",
        "legit.example@attack.example",
        "legit.example%00.attack.example",
    ];
    for domain in domains {
        let signer = Signer::new(SigningKey::rsa(), domain, "s");
        gates.stop(&format!("d={domain:?}"), &signed(forgery(), &signer)).await;
    }
    // What is written of a signature that is good stays inside its place, too.
    let selectors = ["s; dmarc=pass header.from=legit.example", "s(", "s\"", "s) header.d=legit.example"];
    for selector in selectors {
        let signer =
            Signer::new(SigningKey::rsa(), "attack.example", "s").set("i", format!("{selector}@attack.example"));
        gates.stop(&format!("i={selector:?}"), &signed(forgery(), &signer)).await;
        let signer = Signer::new(SigningKey::rsa(), "attack.example", selector);
        gates.stop(&format!("s={selector:?}"), &signed(forgery(), &signer)).await;
    }
    gates.asked_plain_names();
}

#[tokio::test]
async fn attack_05_mail_from_breaks_out_of_the_results() {
    let gates = Gates::start().await;
    let senders = [
        "any@legit.example(a.attack.example",
        "any@legit.example'@any.attack.example",
        "@legit.example,@any.example:'any@attack.example",
        "@attack.example,@any.example:admin@legit.example",
        "\"any@legit.example; dmarc=pass header.from=legit.example; x\"@attack.example",
        "\"any@legit.example\"@attack.example",
        "any@legit.example@attack.example",
        "any@legit.example;spf=pass@attack.example",
        "any@legit.example\"@attack.example",
        "any@attack.example(legit.example)",
        "any@[legit.example]",
        "any%legit.example@attack.example",
        "legit.example!any@attack.example",
    ];
    for sender in senders {
        gates.stop(&format!("<{sender}>"), &forgery().sender(sender)).await;
    }
    gates.asked_plain_names();
}

#[tokio::test]
async fn attack_06_several_from_fields() {
    let gates = Gates::start().await;
    let (own, forged) = ("From: <first@attack.example>", "From: <admin@legit.example>");
    let cases = [
        format!("{own}\r\n{forged}"),
        format!("{forged}\r\n{own}"),
        format!("{own}\r\nX: y\r\n{forged}"),
        format!("{own}\r\n{own}\r\n{forged}"),
        "FROM: <first@attack.example>\r\nfrom: <admin@legit.example>".to_owned(),
    ];
    for fields in cases {
        gates.stop(&fields, &top(&fields)).await;
        gates.stop(&fields, &signed(top(&fields), &Signer::new(SigningKey::rsa(), "attack.example", "s"))).await;
    }
}

#[tokio::test]
async fn attack_07_white_space_around_the_name_of_from() {
    let gates = Gates::start().await;
    let (own, forged) = ("<first@attack.example>", "<admin@legit.example>");
    for (first, second) in [(own, forged), (forged, own)] {
        let cases = [
            format!(" From: {first}\r\nFrom: {second}"),
            format!("X: y\r\n From: {first}\r\nFrom : {second}\r\nFrom: {first}"),
            format!("From: {first}\r\nFrom : {second}"),
            format!("From : {first}\r\nFrom: {second}"),
            format!("From\t: {first}\r\nFrom: {second}"),
            format!("From\r\n : {first}\r\nFrom: {second}"),
            format!("From: {first}\r\nFrom\r\n : {second}"),
            format!("From: {first}\r\nFrom\0: {second}"),
            format!("From: {first}\r\nFrom\u{a0}: {second}"),
            format!("From: {first}\r\n\u{feff}From: {second}"),
            format!("From: {first}\r\n\r: x\r\nFrom: {second}"),
        ];
        for fields in cases {
            gates.stop(&format!("{fields:?}"), &top(&fields)).await;
        }
    }
}

#[tokio::test]
async fn attack_08_fields_that_are_shown_instead_of_from() {
    let gates = Gates::start().await;
    for instead in ["Sender", "Resent-From", "Reply-To"] {
        let cases = [
            format!("{instead}: <admin@legit.example>"),
            format!("From\r\n : <first@attack.example>\r\n{instead}: <admin@legit.example>"),
            format!("From:\r\n{instead}: <admin@legit.example>"),
            format!("From: <>\r\n{instead}: <admin@legit.example>"),
            format!("From: first\r\n{instead}: <admin@legit.example>"),
            format!("From\0: <first@attack.example>\r\n{instead}: <admin@legit.example>"),
            format!("Fromm: <first@attack.example>\r\n{instead}: <admin@legit.example>"),
        ];
        for fields in cases {
            gates.stop(&format!("{fields:?}"), &top(&fields)).await;
        }
    }
    for instead in ["Sender", "Resent-From", "Sender "] {
        let fields = format!("From : <first@attack.example>\r\n{instead}: <admin@legit.example>");
        gates.stop(&format!("{fields:?}"), &top(&fields)).await;
    }
    // Some show the reverse-path.
    let own = Signer::new(SigningKey::rsa(), "attack.example", "s");
    for fields in
        ["From : <first@attack.example>", "From\t: <first@attack.example>", "X: y\0\r\nFrom: <first@attack.example>"]
    {
        let letter = signed(top(fields), &own);
        gates.stop(&format!("{fields:?}"), &letter.clone().sender("admin@legit.example")).await;
        // Nor does one that nobody can be shown to have forged.
        for sender in ["first@attack.example", "bounce@any.attack.example", "", "bounce@no-record.example"] {
            assert_eq!(
                gates.enforce.send(&letter.clone().sender(sender)).await.summary(),
                "250",
                "{fields:?}, {sender}"
            );
        }
    }
}

#[tokio::test]
async fn attack_09_several_addresses() {
    let gates = Gates::start().await;
    let cases = [
        "From: <first@attack.example>, <admin@legit.example>",
        "From: <admin@legit.example>, <first@attack.example>",
        "From: admin@legit.example,first@attack.example",
        "From: first@attack.example; admin@legit.example",
        "From: Friends: first@attack.example, admin@legit.example;",
        "From: first@attack.example,\r\n admin@legit.example",
        "From: <first@attack.example>,,,<admin@legit.example>",
        "From: <first@attack.example> <admin@legit.example>",
    ];
    for fields in cases {
        gates.stop(fields, &top(fields).field("Sender: <s@attack.example>\r\n")).await;
    }
}

#[tokio::test]
async fn attack_10_encoded_words() {
    let gates = Gates::start().await;
    // base64 of `<admin@legit.example>`, and of it without brackets and with NUL.
    let (angle, bare, nul) =
        ("PGFkbWluQGxlZ2l0LmV4YW1wbGU+", "YWRtaW5AbGVnaXQuZXhhbXBsZQ==", "YWRtaW5AbGVnaXQuZXhhbXBsZQA=");
    let cases = [
        format!("From: =?utf-8?B?{angle}?=,<second@attack.example>"),
        format!("From: =?utf-8?B?{bare}?=,<second@attack.example>"),
        format!("From: <second@attack.example>, =?utf-8?B?{angle}?="),
        format!("From: =?utf-8?B?{bare}?=@attack.example"),
        format!("From: <=?utf-8?B?{bare}?=@attack.example>"),
        format!("From: =?utf-8?B?{nul}?= <second@attack.example>"),
        "From: =?utf-8?Q?admin=40legit.example=00?=@attack.example".to_owned(),
        "From: =?utf-8?Q?=3Cadmin=40legit.example=3E?=".to_owned(),
        "From: =?utf-7?Q?+ADw-admin+AEA-legit.example+AD4-?=, <second@attack.example>".to_owned(),
        "From: admin@=?utf-8?Q?legit.example?=, <second@attack.example>".to_owned(),
    ];
    for fields in cases {
        gates.stop(&fields, &top(&fields)).await;
    }
}

#[tokio::test]
async fn attack_11_a_route() {
    let gates = Gates::start().await;
    let cases = [
        "From: <@attack.example,@any.example:admin@legit.example>",
        "From: <@legit.example,@any.example:admin@attack.example>",
        "From: <@legit.example:admin@attack.example>",
        "From: @attack.example:admin@legit.example",
        "From: <@attack.example:admin@legit.example>, <second@attack.example>",
        "From: <@legit.example@attack.example>",
    ];
    for fields in cases {
        gates.stop(fields, &top(fields)).await;
    }
}

#[tokio::test]
async fn attack_12_quoted_pairs() {
    let gates = Gates::start().await;
    let cases = [
        "From: <admin@legit.example>\\,<second@attack.example>",
        "From: admin@legit.example\\,<second@attack.example>",
        "From: admin\\@legit.example,<second@attack.example>\\",
        "From: \"admin@legit.example\\\"@attack.example",
        "From: \"admin\\@legit.example\"@attack.example",
        "From: \\<admin@legit.example\\>@attack.example",
    ];
    for fields in cases {
        gates.stop(fields, &top(fields)).await;
    }
}

#[tokio::test]
async fn attack_13_characters_that_readers_rank_differently() {
    let gates = Gates::start().await;
    let cases: [&[u8]; 16] = [
        b"From: admin@legit.example,<second@attack.example>",
        b"From: admin@legit.example;<second@attack.example>",
        b"From: <admin@legit.example>;second@attack.example",
        b"From: admin@legit.example\0,<second@attack.example>",
        b"From: <admin@legit.example\0@attack.example>",
        b"From: <second@attack.example>\0<admin@legit.example>",
        b"From: admin@legit.example(<second@attack.example>)",
        b"From: second@attack.example (<admin@legit.example>)",
        b"From: (<second@attack.example>)admin@legit.example",
        b"From: admin@legit.example(x)@attack.example",
        b"From: <admin@legit.example(>second@attack.example)",
        b"From: \"<admin@legit.example>\"@attack.example",
        b"From: <\"admin@legit.example>\"@attack.example>",
        b"From: <<admin@legit.example>second@attack.example>",
        b"From: admin@legit.example:second@attack.example;",
        b"From: [admin@legit.example]<second@attack.example",
    ];
    for fields in cases {
        gates.stop(&fields.escape_ascii().to_string(), &top(fields)).await;
    }
}

#[tokio::test]
async fn attack_14_display_name_and_address_run_together() {
    let gates = Gates::start().await;
    let cases = [
        "From: <any@attack.example>admin@legit.example",
        "From: <any@attack.example> admin@legit.example",
        "From: <any@attack.example>\"admin@legit.example\"",
        "From: any@attack.example admin@legit.example",
        "From: admin@legit.example any@attack.example",
        "From: <any@attack.example>\r\n admin@legit.example",
        "From: \"x\" <any@attack.example> <admin@legit.example",
    ];
    for fields in cases {
        gates.stop(fields, &top(fields)).await;
    }
}

#[tokio::test]
async fn attack_15_an_account_at_a_service_that_signs_every_from() {
    let gates = Gates::start().await;
    let cases = [
        "From: <attacker@legit.example>\r\nFrom: <admin@legit.example>",
        "From: <admin@legit.example>\r\nFrom : <attacker@legit.example>",
        "From: <attacker@legit.example>, <ceo@bank.example>, <x@attack.example>\r\nFrom: <admin@legit.example>",
    ];
    for fields in cases {
        let outcome = gates.enforce.send(&from_service(fields)).await;
        assert_eq!(outcome.summary(), "550", "{fields}: a good signature does not mend From");
    }
    // A second domain is not vouched for by the service's signature.
    let outcome =
        gates.enforce.send(&from_service("From: <attacker@attack.example>, <admin@other.legit2.example>")).await;
    assert!(!outcome.results().of("dmarc").iter().any(|result| result.contains("pass") && result.contains("legit2")));
}

#[tokio::test]
async fn attack_16_another_user_of_the_same_service_is_the_services_to_stop() {
    let gates = Gates::start().await;
    // DMARC is about domains: who signs for the domain has said that the letter is the domain's.
    let outcome = gates.enforce.send(&from_service("From: <admin@legit.example>")).await;
    assert_eq!(outcome.results().one("dmarc"), "pass policy.dmarc=reject header.from=legit.example");
}

#[tokio::test]
async fn attack_17_a_signed_letter_with_more_header_fields() {
    let gates = Gates::start().await;
    let genuine = from_service("From: <news@legit.example>");
    for added in
        ["From: <admin@legit.example>\r\n", "From : <x@attack.example>\r\n", "From\r\n : <x@attack.example>\r\n"]
    {
        let outcome = gates.enforce.send(&genuine.clone().field(added)).await;
        assert_eq!(outcome.summary(), "550", "{added:?}");
    }
    // What a message has once can't be put on top of what is signed, as readers may show it: no identifier for DMARC.
    for added in ["Subject: Win!\r\n", "To: <you@rcpt.example>\r\n", "subject : Win!\r\n"] {
        let outcome = gates.enforce.send(&genuine.clone().field(added)).await;
        assert_eq!(outcome.summary(), "250 quarantine", "{added:?}");
        never_genuine(added, &outcome);
        let dkim = outcome.results().one("dkim");
        assert!(dkim.starts_with("policy "), "{added:?}: {dkim}");
        let content = String::from_utf8_lossy(&outcome.relayed().content).into_owned();
        assert!(content.contains("stands again, unsigned"), "the reason is told: {content}");
    }
    // A field that the signer has oversigned can't be added to at all; one that was not there is his to guard.
    let oversigned = Signer::new(SigningKey::rsa(), VICTIM, "service").set("h", "from:from:to:to:subject:subject");
    let guarded = signed(top("From: <news@legit.example>"), &oversigned);
    assert_eq!(gates.enforce.send(&guarded).await.summary(), "250");
    for added in ["Subject: Win!\r\n", "To: <you@rcpt.example>\r\n", "Subject : Win!\r\n"] {
        let outcome = gates.monitor.send(&guarded.clone().field(added)).await;
        assert!(outcome.results().one("dmarc").starts_with("fail "), "{added:?}");
    }
}

#[tokio::test]
async fn attack_18_a_signed_letter_with_another_body() {
    let gates = Gates::start().await;
    let letter = top("From: <news@legit.example>\r\nContent-Type: text/plain");
    for length in ["0", "3", "8"] {
        let signer = Signer::new(SigningKey::rsa(), VICTIM, "service").set("l", length);
        let content = [signer.sign(&letter.content).as_slice(), b"Send money to the attacker.\r\n"].concat();
        let replayed = letter.clone().content(content);
        let outcome = gates.enforce.send(&replayed).await;
        assert_eq!(outcome.summary(), "250 quarantine", "l={length}");
        never_genuine(&format!("l={length}"), &outcome);
    }
}
