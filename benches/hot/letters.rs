//! The messages: as mail looks that gates see, and always the same but for keys and signatures.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use dmarcgate::domain::Domain;
use dmarcgate::envelope::Envelope;
use dmarcgate::evaluation::Sender;
use dmarcgate::smtp::address::{ForwardPath, ReversePath};
use dmarcgate::smtp::command::ClientName;
use dmarcgate::smtp::data::{Encoder, end_of_data};

use crate::support::dns::Zone;
use crate::support::signer::{Signer, SigningKey, base64};

/// A message and who brings it.
pub struct Letter {
    /// What it is called in the names of benches.
    pub name: &'static str,
    /// Header section and body, with CRLF.
    pub content: Vec<u8>,
    /// From whom it comes.
    pub sender: Sender,
}

/// What stands on top of a message.
#[derive(Clone, Copy)]
enum Signed {
    Rsa,
    RsaAndEd25519,
    Never,
}

impl Letter {
    /// An honest message of 4 KB: SPF and DKIM pass, aligned.
    pub fn small() -> Self {
        honest("4k", 4 << 10, Signed::Rsa)
    }

    /// The same of each size that is measured.
    pub fn of_all_sizes() -> [Self; 3] {
        [Self::small(), honest("50k", 50 << 10, Signed::Rsa), honest("1m", 1 << 20, Signed::Rsa)]
    }

    /// An honest message with a second signature.
    pub fn signed_twice() -> Self {
        honest("signed twice", 4 << 10, Signed::RsaAndEd25519)
    }

    /// A message of which nothing is true.
    pub fn forged() -> Self {
        let sender = sender("198.51.100.66", "cheap.attacker.example", "bounce@attacker.example");
        Self { name: "forged", content: message(4 << 10, Signed::Never), sender }
    }

    /// An honest message that went through a mailing list, which broke its signature, and through a forwarder: two ARC
    /// sets tell what it was.
    pub fn forwarded() -> Self {
        let original = String::from_utf8(message(4 << 10, Signed::Rsa)).expect("ASCII");
        let changed = original.replacen("Subject: ", "Subject: [club] ", 1) + "-- \r\nThe club's list\r\n";
        let fields = "List-Id: The club <club.list.example>\r\nList-Post: <mailto:club@list.example>\r\n";
        let mut content = [fields.as_bytes(), changed.as_bytes()].concat();
        let results = "spf=pass smtp.mailfrom=bank.example; dkim=pass header.d=bank.example;\r\n\tdmarc=pass \
                       header.from=bank.example";
        for (instance, domain, cv) in [(1, "list.example", "none"), (2, "forwarder.example", "pass")] {
            let set = signer(SigningKey::rsa(), domain, "s1").arc_set_saying(&content, instance, cv, results);
            content.splice(..0, set.into_bytes());
        }
        let sender = sender("203.0.113.5", "mail.forwarder.example", "club-bounces@list.example");
        Self { name: "forwarded", content, sender }
    }

    /// As it comes from a client that was told to go on, to the final dot.
    pub fn wire(&self) -> Vec<u8> {
        let mut wire = Vec::with_capacity(self.content.len() + 64);
        Encoder::default().encode(&self.content, &mut wire);
        wire.extend_from_slice(end_of_data(true));
        wire
    }

    /// Its header section with the empty line, and its body.
    pub fn parts(&self) -> (&[u8], &[u8]) {
        let end = self.content.windows(4).position(|four| four == b"\r\n\r\n").expect("an empty line") + 4;
        self.content.split_at(end)
    }

    /// What its client says before it.
    pub fn envelope(&self) -> Envelope {
        let reverse_path = ReversePath::of_text(&self.sender.mail_from).expect("an address");
        let recipients = vec![ForwardPath::of_text(RECIPIENT).expect("an address")];
        Envelope { recipients, ..Envelope::new(reverse_path, Default::default()) }
    }

    /// What its client calls itself.
    pub fn client_name(&self) -> ClientName {
        ClientName::own(&self.sender.helo)
    }
}

/// The domains of all letters. The bank's SPF record sends whoever checks it through an exchanger, its address and an
/// include to the network that its mail comes from.
pub fn zone() -> Zone {
    let rsa = SigningKey::rsa().record();
    let dmarc = "v=DMARC1; p=reject; rua=mailto:dmarc@bank.example";
    Zone::new()
        .txt(AUTHOR_DOMAIN, "v=spf1 mx include:_spf.provider.example -all")
        .mx(AUTHOR_DOMAIN, 10, "mx1.bank.example")
        .a("mx1.bank.example", "192.0.2.200")
        .txt("_spf.provider.example", "v=spf1 ip4:203.0.113.128/25 ip4:192.0.2.0/26 ip6:2001:db8:1::/48 ~all")
        .a("mail.bank.example", "192.0.2.10")
        .txt("mail.bank.example", "v=spf1 a -all")
        .txt("s1._domainkey.bank.example", &rsa)
        .txt("s2._domainkey.bank.example", &SigningKey::ed25519().record())
        .txt("_dmarc.bank.example", dmarc)
        .txt("list.example", "v=spf1 ip4:203.0.113.5 -all")
        .txt("s1._domainkey.list.example", &rsa)
        .txt("_dmarc.list.example", "v=DMARC1; p=none")
        .txt("s1._domainkey.forwarder.example", &rsa)
        .a("mail.forwarder.example", "203.0.113.5")
        .txt("attacker.example", "v=spf1 ip4:203.0.113.66 -all")
}

/// The author's domain of all of them.
pub fn author_domain() -> Domain {
    Domain::parse(AUTHOR_DOMAIN).expect("a domain")
}

/// The clock.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn honest(name: &'static str, size: usize, signed: Signed) -> Letter {
    let sender = sender("192.0.2.10", "mail.bank.example", "news@bank.example");
    Letter { name, content: message(size, signed), sender }
}

fn sender(ip: &str, helo: &str, mail_from: &str) -> Sender {
    Sender { ip: ip.parse().expect("an address"), helo: helo.into(), mail_from: mail_from.into() }
}

/// A message of about `size` octets without its signatures: some screens of text, and an attachment behind it if that
/// is not enough.
fn message(size: usize, signed: Signed) -> Vec<u8> {
    let mut content = HEADER.replace('\n', "\r\n");
    let mut words = Words(1);
    while content.len() < size.min(TEXT) {
        words.line(&mut content);
    }
    if content.len() < size {
        content.push_str(&ATTACHMENT.replace('\n', "\r\n"));
        while content.len() < size {
            let octets: Vec<u8> = (0..57).map(|_| words.octet()).collect();
            content.push_str(&base64(&octets));
            content.push_str("\r\n");
        }
    }
    content.push_str("--0000000000006b1d\r\n");
    let content = content.into_bytes();
    let rsa = || signer(SigningKey::rsa(), AUTHOR_DOMAIN, "s1").sign(&content);
    match signed {
        Signed::Never => content,
        Signed::Rsa => rsa(),
        Signed::RsaAndEd25519 => signer(SigningKey::ed25519(), AUTHOR_DOMAIN, "s2").sign(&rsa()),
    }
}

/// Signs what most signers sign.
fn signer(key: &'static SigningKey, domain: &str, selector: &str) -> Signer<'static> {
    Signer::new(key, domain, selector).set("t", now()).set("h", SIGNED)
}

/// Words without end, the same in each run: some lines begin with a dot, some have white space to be levelled.
struct Words(u32);

impl Words {
    /// Not random in any way that would matter; the high bits of a linear congruential generator.
    fn octet(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0.to_be_bytes()[0]
    }

    fn line(&mut self, text: &mut String) {
        let start = text.len();
        text.push_str(if self.octet() < 8 { "." } else { "" });
        while text.len() - start < 62 {
            let word = WORDS.split(' ').nth(usize::from(self.octet() % 16)).expect("one of sixteen");
            let space = if self.octet() < 2 { "  " } else { " " };
            write!(text, "{word}{space}").expect("a string takes everything");
        }
        text.truncate(text.trim_end().len());
        // As text that flows has it, here and there.
        text.push_str(if self.octet() < 24 { " \r\n" } else { "\r\n" });
    }
}

/// To whom all is sent.
pub const RECIPIENT: &str = "you@rcpt.example";
/// Octets of text in a message; what is longer has an attachment.
const TEXT: usize = 6 << 10;
const AUTHOR_DOMAIN: &str = "bank.example";
const SIGNED: &str = "from:to:subject:date:message-id:mime-version:content-type:list-unsubscribe";
/// Sixteen.
const WORDS: &str = "account balance the of statement your is ready for November and see our conditions a transfer";
const HEADER: &str = "\
Received: from app7.inner.bank.example (app7.inner.bank.example [10.20.30.40])
\tby mail.bank.example (Postfix) with ESMTPS id 4fWk2Q1Zr0z9vQ
\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits))
\tfor <you@rcpt.example>; Fri, 27 Nov 2026 08:15:01 +0000 (UTC)
Received: by app7.inner.bank.example with local id 5TZQ1Y8V3K; Fri, 27 Nov 2026 08:15:00 +0000
Date: Fri, 27 Nov 2026 08:15:00 +0000
From: \"Your Bank, Customer Service\" <news@bank.example>
Reply-To: <service@bank.example>
To: \"A. Customer\" <you@rcpt.example>
Subject: Your statement of account for November is ready
Message-ID: <20261127081500.5TZQ1Y8V3K@app7.inner.bank.example>
MIME-Version: 1.0
Content-Type: multipart/mixed; charset=\"utf-8\";
\tboundary=\"0000000000006b1d\"
List-Unsubscribe: <https://www.bank.example/unsubscribe?u=8d2c1f4b9a7e4410>,
\t<mailto:unsubscribe@bank.example?subject=8d2c1f4b9a7e4410>
List-Unsubscribe-Post: List-Unsubscribe=One-Click
X-Mailer: statements 3.41
X-Campaign: statement-2026-11
Authentication-Results: inner.bank.example; auth=pass

--0000000000006b1d
Content-Type: text/plain; charset=utf-8

";
const ATTACHMENT: &str = "\
--0000000000006b1d
Content-Type: application/pdf; name=\"statement.pdf\"
Content-Transfer-Encoding: base64

";
