#!/usr/bin/env python3
"""Holds the gate and other ways to have DMARC judged to single messages on which the standards say what must come out.

    benches/versus_cases.py --rig DIR [--install] [--only NAME+NAME] [--show] [target/release/dmarcgate]

RIG is that of load.py, of which the sink is used; stacks.py says what is compared, --install installs what is missing of it;
needs root. Prints a table of what each stack answered, with what is otherwise than demanded in bold. The gate runs with its
default policy. Everything is on loopback and in a temporary directory. Exit code 1 if the gate did otherwise than demanded, but
for what it does on purpose.
"""

import pathlib
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import Callable

from signing import Keys
from stacks import HOSTNAME, Arguments, Stage, fields, handling, message_id

CLIENT, OTHER = "198.51.100.7", "203.0.113.9"
ELSEWHERE = f"v=spf1 ip4:{OTHER} -all"
HERE = f"v=spf1 ip4:{CLIENT} -all"

STACKS = {
    "policyd-spf, OpenDKIM, OpenDMARC": lambda stage, name, sink, dns: stage.opendmarc(name, sink, "policyd"),
    "OpenDKIM, OpenDMARC (SPF itself)": lambda stage, name, sink, dns: stage.opendmarc(name, sink, "itself"),
    "rspamd, DMARC alone": lambda stage, name, sink, dns: stage.rspamd(name, sink, "alone"),
    "rspamd, all rules": lambda stage, name, sink, dns: stage.rspamd(name, sink, "all"),
    "Haraka, mailauth lenient": lambda stage, name, sink, dns: stage.haraka(name, sink, "lenient"),
    "Haraka, mailauth strict": lambda stage, name, sink, dns: stage.haraka(name, sink, "strict"),
    "gate": lambda stage, name, sink, dns: stage.gate_and_postfix(name, sink, dns, "corroborated"),
}

# What may come of a message: in words, and as outcomes. What is delivered is called by the DMARC result that it says.
REFUSED = "refused", {"refused"}
HELD_OFF = "refused or marked", {"refused", "marked"}
MARKED = "marked", {"marked"}
NOT_REFUSED = "anything but refused", {"marked", "deferred", "pass", "fail", "temperror", "none", "no result"}
TOLD = "delivered, pass", {"pass"}
FREE = "pass, refused or marked", {"pass", "refused", "marked"}
PLAIN = "delivered, unmarked", {"pass", "fail", "none", "no result", "permerror"}

# A From field that a strict and a lenient reader read differently the gate refuses, well-formed or not: what matters is whom
# the recipient's program shows.
ON_PURPOSE = {"angle address in the local part, signed"}


# What every domain of the cases publishes: SPF, its DMARC record, and keys of both kinds where it signs.
DOMAINS = {
    "honest.example": (HERE, "v=DMARC1; p=reject"),
    "evil.example": (HERE, "v=DMARC1; p=none"),
    "lists.example": (HERE, None),
    "victim.example": (ELSEWHERE, "v=DMARC1; p=reject"),
    "none.example": (ELSEWHERE, "v=DMARC1; p=none"),
    "np.example": (ELSEWHERE, "v=DMARC1; p=none; np=reject"),
    "host.np.example": (ELSEWHERE, None),
    "sp.example": (ELSEWHERE, "v=DMARC1; p=reject; sp=none"),
    "www.sp.example": (ELSEWHERE, None),
    "big.example": (HERE, "v=DMARC1; p=none"),
    "corp.big.example": (ELSEWHERE, "v=DMARC1; p=reject; psd=n"),
    "a.corp.big.example": (ELSEWHERE, None),
    "psd.example": (ELSEWHERE, "v=DMARC1; p=reject; psd=y"),
    "bank.psd.example": (ELSEWHERE, None),
    "thief.psd.example": (HERE, None),
    "uk.com": (ELSEWHERE, "v=DMARC1; p=reject"),
    "shop.uk.com": (ELSEWHERE, None),
    "test.example": (ELSEWHERE, "v=DMARC1; p=reject; t=y"),
    "pct.example": (ELSEWHERE, "v=DMARC1; p=reject; pct=0"),
    "case.example": (ELSEWHERE, "v=dmarc1; p=reject"),
    "blank.example": (ELSEWHERE, "v = DMARC1 ;\tp = reject ;"),
    "strict.example": (ELSEWHERE, "v=DMARC1; p=reject; adkim=s; aspf=s"),
    "bounce.strict.example": (HERE, None),
    "spf-error.example": ("v=spf1 include:spf.broken.example -all", "v=DMARC1; p=reject"),
    "key-error.example": (ELSEWHERE, "v=DMARC1; p=reject"),
    "record-error.example": (ELSEWHERE, None),
    "xn--bcher-kva.example": (ELSEWHERE, "v=DMARC1; p=reject"),
    "macro.example": ("v=spf1 exists:%{ir}.%{l1r-}.ok.%{d2} -all", "v=DMARC1; p=reject"),
    "large.example": (HERE, "v=DMARC1; p=reject"),
    "alias.example": (ELSEWHERE, None),
    "under_score.example": (ELSEWHERE, "v=DMARC1; p=reject"),
}
# Zones whose names get SERVFAIL.
BROKEN = ("broken.example", "_domainkey.key-error.example", "_dmarc.record-error.example")


def zone(keys):
    """The names of all domains, in the form of a zone file."""
    lines = [
        "$ORIGIN .", "$TTL 3600", ". SOA ns.test. admin.test. 1 3600 600 86400 300", ". NS ns.test.", "ns.test. A 127.0.0.1",
        f"mx.client.example. A {CLIENT}", 'mx.client.example. TXT "v=spf1 a -all"', f"{reverse(CLIENT)} PTR mx.client.example.",
        f"mx.honest.example. A {CLIENT}", 'mx.honest.example. TXT "v=spf1 a -all"',
        'two.example. TXT "v=spf1 -all"', '_dmarc.two.example. TXT "v=DMARC1; p=reject"',
        '_dmarc.two.example. TXT "v=DMARC1; p=reject; rua=mailto:a@two.example"',
        'parts.example. TXT "v=spf1 -all"', '_dmarc.parts.example. TXT "v=DMARC1; p=rej" "ect"',
    ]
    # A record that stands elsewhere; SPF by macros; SPF in an answer that takes TCP.
    lines += ["_dmarc.alias.example. CNAME _dmarc.victim.example.",
              "7.100.51.198.news.ok.macro.example. A 127.0.0.2"]
    lines += [f'large.example. TXT "verification-of-service-{at}={"x" * 200}"' for at in range(40)]
    for domain, (spf, dmarc) in DOMAINS.items():
        lines += [f"{domain}. A {OTHER}", f'{domain}. TXT "{spf}"']
        if dmarc:
            lines.append(f'_dmarc.{domain}. TXT "{dmarc}"')
        if f"_domainkey.{domain}" not in BROKEN:
            lines += [f"{selector}._domainkey.{domain}. TXT {strings(text)}" for selector, text in keys.records.items()]
    return "\n".join(lines) + "\n"


def reverse(address):
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa."


def strings(text):
    return " ".join(f'"{text[at:at + 250]}"' for at in range(0, len(text), 250))


def folded(name, octets):
    """A field of about so many octets, in lines of a hundred."""
    return f"{name}: start\r\n" + (" " + "x" * 97 + "\r\n") * (octets // 100)


def kept_result(stored):
    """Whether a result that the sender wrote in our name is still there (RFC 8601 §5); spelled in any of its ways."""
    for name, value in fields(stored):
        if name == "authentication-results" and "x-forged" in value and HOSTNAME in value.split(";")[0].lower():
            return "forged result kept"
    return None


def as_sent(body):
    """A check that the body is as it was sent."""
    return lambda stored: None if stored.endswith(b"\r\n\r\n" + body) else "body changed"


@dataclass(frozen=True)
class Case:
    """A message, and what must come of it by which rule; `new` in that: RFC 7489 demanded something else, or nothing.

    Without more it is unsigned and has evil.example's envelope, and an author whose SPF record names another address.
    """

    name: str
    rule: str
    demanded: tuple
    author: str | tuple = ()  # what is in From, or in each From
    signer: str = None
    signing: dict = field(default_factory=dict)  # as for Keys.dkim
    mail_from: str = "a@evil.example"
    helo: str = "mx.client.example"
    top: str = ""  # fields above From
    body: str = "Hello.\r\n"
    altered: Callable = None  # what becomes of the message before it is sent, of it and keys
    arrived: Callable = None  # what is wrong with the message as it arrived, or nothing

    def content(self, keys):
        """Its octets."""
        authors = (self.author,) if isinstance(self.author, str) else self.author
        identifier = self.name.encode().hex()[:60]
        lines = [*(f"From: {author}" for author in authors), "To: user@rcpt.example", f"Subject: {self.name}",
                 "Date: Fri, 27 Nov 2026 00:00:00 +0000", f"Message-ID: <{identifier}@cases.test>", "", self.body]
        content = (self.top + "\r\n".join(lines)).encode()
        if self.signer:
            content = keys.dkim(content, self.signer, **self.signing)
        return self.altered(content, keys) if self.altered else content


FORGED_RESULT = f"Authentication-Results: {HOSTNAME}; x-forged=1; dmarc=pass header.from=victim.example; spf=pass" \
                " smtp.mailfrom=a@victim.example; dkim=pass header.d=victim.example\r\n"
ODD_RESULT = f"AUTHENTICATION-RESULTS : (x) {HOSTNAME.upper()} (y) 1; x-forged=1; dmarc=pass header.from=none.example\r\n"
FORGED_SPF = f"Received-SPF: Pass (mailfrom) identity=mailfrom; client-ip={CLIENT}; helo=mx.victim.example;" \
             " envelope-from=a@victim.example; receiver=rcpt.example\r\n"
EIGHT_BIT = "Grüße, in UTF-8, and without BODY=8BITMIME.\r\n"


def signed_eleven_times(content, keys):
    """By its author's domain, and then ten times by another."""
    signature, other = (keys.dkim(content, domain)[:-len(content)] for domain in ("honest.example", "evil.example"))
    return other * 10 + signature + content


def by_a_list(content, _):
    """As a mailing list sends it on."""
    return content.replace(b"From: ", b"List-Id: <all.lists.example>\r\nFrom: ", 1) + b"-- \r\nThe footer of the list\r\n"


def sealed(content, keys):
    """With an ARC set of somebody whom nobody trusts."""
    return keys.arc(content, "evil.example", "dmarc=pass header.from=victim.example")


CASES = [
    Case("signed and aligned", "9989 §4.4", TOLD, "a@victim.example", "victim.example"),
    Case("SPF alone, aligned", "9989 §4.4", TOLD, "a@honest.example", mail_from="b@honest.example"),
    Case("bounce, aligned by HELO", "7208 §2.4", TOLD, "a@honest.example", mail_from="", helo="mx.honest.example"),
    Case("plain forgery of p=reject", "9989 §5.4", REFUSED, "a@victim.example"),
    Case("HELO passes, MAIL FROM fails", "9989 §4.4.2", REFUSED, "a@victim.example", mail_from="a@victim.example"),
    Case("strict, envelope of a subdomain", "9989 §4.4", REFUSED, "a@strict.example",
         mail_from="a@bounce.strict.example"),
    Case("envelope with + and =", "9989 §4.4", TOLD, "a@honest.example", mail_from="b+user=rcpt.example@honest.example"),
    Case("envelope in quotes", "9989 §4.4", TOLD, "a@honest.example", mail_from='"a b"@honest.example'),
    Case("SPF by macros", "7208 §7", TOLD, "a@macro.example", mail_from="news@macro.example"),
    Case("SPF in an answer of 9 KiB", "7208 §3.4", TOLD, "a@large.example", mail_from="a@large.example"),
    # The author
    Case("two From fields, forged last", "9989 §11.5", HELD_OFF, ("a@evil.example", "a@victim.example")),
    Case("two From fields, forged first", "9989 §11.5", HELD_OFF, ("a@victim.example", "a@evil.example")),
    Case("two authors, one forged", "9989 §11.5", HELD_OFF, "a@evil.example, b@victim.example"),
    Case("two authors of one domain", "9989 §11.5", TOLD, "a@victim.example, b@victim.example", "victim.example",
         top="Sender: a@victim.example\r\n"),
    Case("no From", "9989 §11.5", HELD_OFF),
    Case("From without domain", "9989 §11.5", HELD_OFF, "root"),
    Case("From with one > too many", "9989 §11.5", HELD_OFF, "<a@victim.example>>"),
    Case("comma and quotes in the name", "5322 §3.4", REFUSED, r'"Doe, \"J\" x" <a@victim.example>'),
    Case("angle address in the local part", "5322 §3.4", REFUSED, '"x<a@evil.example>"@victim.example'),
    Case("other address in a comment", "5322 §3.4", REFUSED, "a@victim.example (b@evil.example)"),
    Case("other address as display name", "9989 §5.3.1", TOLD, '"ceo@victim.example" <a@evil.example>'),
    Case("From with a route", "5322 §4.4", HELD_OFF, "<@evil.example:a@victim.example>"),
    Case("From with a comment in the domain", "5322 §4.4", HELD_OFF, "a@victim(evil.example).example"),
    Case("From with a dot at the end", "9989 §11.5", HELD_OFF, "a@victim.example."),
    Case("From in a group", "9989 §11.5", HELD_OFF, "friends: a@victim.example;"),
    Case("From folded, in capitals", "5322 §2.2", REFUSED, "\r\n  Victim\r\n\t<A@VICTIM.EXAMPLE>"),
    Case("From with a space before its colon", "5322 §4.5", HELD_OFF, top="From : a@victim.example\r\n"),
    Case("From below a line that is no field", "9989 §11.5", HELD_OFF, "a@victim.example", top="no field\r\n"),
    Case("From domain with an underscore", "9989 §5.4", REFUSED, "a@under_score.example"),
    Case("U-label in From, forged", "9989 §5.3.1", REFUSED, "a@bücher.example"),
    Case("U-label in From, signed", "9989 §5.3.1", TOLD, "a@bücher.example", "xn--bcher-kva.example"),
    # The same forms in honest mail: who refuses what is only old or odd, refuses too much.
    Case("dot in an unquoted name, signed", "5322 §4.1", TOLD, "J. Doe <a@victim.example>", "victim.example"),
    Case("8-bit name, signed", "6532 §3.2", TOLD, "Jürgen <a@victim.example>", "victim.example"),
    Case("comment behind the address, signed", "5322 §3.4", TOLD, "a@victim.example (at work)", "victim.example"),
    Case("comment in the domain, signed", "5322 §4.4", TOLD, "a@victim(x).example", "victim.example"),
    Case("route, signed", "5322 §4.4", TOLD, "<@victim.example:a@victim.example>", "victim.example"),
    Case("group, signed", "6854 §2.1", TOLD, "friends: a@victim.example;", "victim.example"),
    Case("angle address in the local part, signed", "5322 §3.4", TOLD, '"x<a@evil.example>"@victim.example',
         "victim.example"),
    # What is malformed may be refused, and may be read by who knows how.
    Case("unbalanced quote in the name, signed", "9989 §11.5", FREE, 'Na"me <a@victim.example>', "victim.example"),
    Case("words behind the angle address, signed", "9989 §11.5", FREE, "Name <a@victim.example> Co", "victim.example"),
    Case("unquoted comma in the name, signed", "9989 §11.5", FREE, "Doe, John <a@victim.example>", "victim.example"),
    # Policy discovery
    Case("several records at one name", "9989 §4.10", PLAIN, "a@two.example"),
    Case("np, no such subdomain", "9989 §4.10.1, new", REFUSED, "a@nothing.np.example"),
    Case("np, the subdomain exists", "9989 §4.10.1", PLAIN, "a@host.np.example"),
    Case("sp=none under p=reject", "9989 §4.10.1", PLAIN, "a@www.sp.example"),
    Case("psd=n, signed from above it", "9989 §4.10.2, new", REFUSED, "a@a.corp.big.example", "big.example"),
    Case("psd=y, signed by a sibling", "9989 §4.10.2, new", REFUSED, "a@bank.psd.example", "thief.psd.example"),
    Case("record at a listed public suffix", "9989 §4.10.1, new", REFUSED, "a@shop.uk.com"),
    Case("t=y", "9989 §4.7, new", MARKED, "a@test.example"),
    Case("pct=0, which is historic", "9989 §9.3, new", REFUSED, "a@pct.example"),
    Case("v=dmarc1 in small letters", "9989 §4.7", PLAIN, "a@case.example"),
    Case("blanks around = and ;", "9989 §4.8", REFUSED, "a@blank.example"),
    Case("record in two strings", "9989 §4.5", REFUSED, "a@parts.example"),
    Case("record by CNAME", "9989 §4.10", REFUSED, "a@alias.example"),
    # DNS that fails
    Case("SPF temperror", "9989 §5.3.6, new", NOT_REFUSED, "a@spf-error.example", mail_from="a@spf-error.example"),
    Case("DKIM key temperror", "9989 §5.3.6, new", NOT_REFUSED, "a@key-error.example", "key-error.example"),
    Case("DMARC record temperror", "9989 §5.3.6, new", NOT_REFUSED, "a@record-error.example"),
    # Signatures and indirect mail flow
    Case("ed25519 alone", "8463", TOLD, "a@victim.example", "victim.example",
         signing={"selector": "e", "algorithm": "ed25519-sha256"}),
    Case("rsa-sha1 alone", "8301 §3.1", HELD_OFF, "a@victim.example", "victim.example", signing={"algorithm": "rsa-sha1"}),
    Case("weak key of 512 bits", "8301 §3.2", HELD_OFF, "a@victim.example", "victim.example", signing={"selector": "w"}),
    Case("signature that leaves out From", "6376 §5.4", HELD_OFF, "a@victim.example", "victim.example",
         signing={"signed": ("to", "subject", "date")}),
    Case("the author's below ten signatures", "9989 §4.4.1", TOLD, "a@honest.example", altered=signed_eleven_times),
    Case("mailing list with a footer", "9989 §7.4, new", MARKED, "a@victim.example", "victim.example",
         mail_from="bounce@lists.example", altered=by_a_list),
    Case("ARC of an untrusted sealer", "8617 §7.2", HELD_OFF, "a@victim.example", altered=sealed),
    # Results that the sender wrote, and odd forms
    Case("forged results of ours, p=reject", "8601 §5", REFUSED, "a@victim.example", top=FORGED_RESULT),
    Case("forged Received-SPF, p=reject", "8601 §5", REFUSED, "a@victim.example", top=FORGED_SPF),
    Case("forged results of ours, p=none", "8601 §5", PLAIN, "a@none.example", top=FORGED_RESULT, arrived=kept_result),
    Case("the same, oddly spelled", "8601 §5", PLAIN, "a@none.example", top=ODD_RESULT, arrived=kept_result),
    Case("8-bit body", "9989 §4.4.1", TOLD, "a@victim.example", "victim.example", body=EIGHT_BIT,
         arrived=as_sent(EIGHT_BIT.encode())),
    Case("field of 120 KiB below a good signature", "9989 §4.4.1", TOLD, "a@victim.example", "victim.example",
         top=folded("X-Large", 120 << 10)),
    Case("From below a field of 300 KiB", "9989 §5.4", REFUSED, "a@victim.example", top=folded("X-Large", 300 << 10)),
]


def send(port, case, content):
    """Sends a message in a session of its own; the final reply."""
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        replies = connection.makefile("rb")

        def command(octets):
            connection.sendall(octets)
            line = replies.readline()
            while line[3:4] == b"-":
                line = replies.readline()
            return line.decode(errors="replace").strip()

        command(f"PROXY TCP4 {CLIENT} 198.51.100.1 10000 25\r\n".encode())
        command(f"EHLO {case.helo}\r\n".encode())
        for line in (f"MAIL FROM:<{case.mail_from}>", "RCPT TO:<user@rcpt.example>", "DATA"):
            reply = command(f"{line}\r\n".encode())
            if reply[:1] not in "23":
                return reply
        # No line of any case begins with a dot.
        reply = command(content + b".\r\n")
        command(b"QUIT\r\n")
        return reply


def judge(stack, kept, case, content):
    """(what came of the message, what else is wrong with it as it arrived, the reply)"""
    reply = send(stack.port, case, content)
    if not reply.startswith("2"):
        return {"4": "deferred", "5": "refused"}.get(reply[:1], "cut off"), None, reply
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for path in kept.glob("*.eml"):
            stored = path.read_bytes()
            if message_id(stored) == message_id(content):
                return handling(stored), case.arrived and case.arrived(stored), reply
        time.sleep(0.05)
    return "lost", None, reply


def compare(arguments, directory):
    stage = Stage(directory, arguments.binary, arguments.rig)
    keys = Keys(directory)
    contents = {case.name: case.content(keys) for case in CASES}
    outcomes, right = {}, {name: set() for name in arguments.only}
    try:
        (directory / "root.zone").write_text(zone(keys))
        dns = stage.dns(directory, broken=BROKEN)
        for at, name in enumerate(arguments.only):
            sink, _, kept = stage.keeper(f"sink{at}", len(CASES))
            stack = STACKS[name](stage, f"stack{at}", sink, dns.port)
            for case in CASES:
                outcome, fault, reply = judge(stack, kept, case, contents[case.name])
                good = outcome in case.demanded[1] and not fault
                if good:
                    right[name].add(case.name)
                text = outcome if outcome in ("refused", "deferred", "marked", "lost", "cut off") else f"delivered, {outcome}"
                text += f", {fault}" if fault else ""
                outcomes[case.name, name] = text if good else f"**{text}**"
                if arguments.show:
                    print(f"{name}: {case.name}: {text}: {reply}", file=sys.stderr)
    finally:
        stage.end()
    print("| message | by RFC | may be | " + " | ".join(arguments.only) + " |")
    print("| --- " * (3 + len(arguments.only)) + "|")
    for case in CASES:
        answers = " | ".join(outcomes[case.name, name] for name in arguments.only)
        print(f"| {case.name} | {case.rule} | {case.demanded[0]} | {answers} |")
    older = {case.name for case in CASES if not case.rule.endswith(", new")}
    for title, names in (("as demanded", {case.name for case in CASES}), ("those that are not new", older)):
        print(f"| {title} | | | " + " | ".join(f"{len(right[name] & names)} of {len(names)}" for name in arguments.only) + " |")
    wrong = {case.name for case in CASES} - right.get("gate", {case.name for case in CASES})
    return 1 if wrong - ON_PURPOSE else 0


def main():
    parser = Arguments(__doc__.splitlines()[0], STACKS)
    parser.add_argument("--show", action="store_true", help="print each reply")
    arguments = parser.read()
    with tempfile.TemporaryDirectory(prefix="versus-", dir="/var/tmp") as directory:
        return compare(arguments, pathlib.Path(directory))


if __name__ == "__main__":
    sys.exit(main())
