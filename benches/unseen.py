"""Makes messages of 4 KB that are each signed by a domain of their own, and the zone of these domains.

They are made from the corpus of the rig: its bodies and one of its rsa-2048 keys, which all the domains share under names
of their own, so that each has records of its own to look up and a key of its own to read.
"""

import base64
import hashlib
import multiprocessing
import re

SIGNED = ("from", "to", "subject", "date", "message-id")
# SHA-256 as PKCS #1 v1.5 writes it before the hash (RFC 8017 section 9.2).
DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
NETWORKS = "ip4:198.51.100.0/24 ip4:198.18.0.0/15"


class Key:
    """An RSA key, read from PKCS #1."""

    def __init__(self, pem):
        der = base64.b64decode("".join(line for line in pem.splitlines() if not line.startswith("--")))
        _, at, _ = self.element(der, 0)
        numbers = []
        while at < len(der):
            _, begin, end = self.element(der, at)
            numbers.append(int.from_bytes(der[begin:end], "big"))
            at = end
        _, self.modulus, _, _, self.p, self.q, self.dp, self.dq, self.inverse = numbers

    @staticmethod
    def element(der, at):
        """Tag, begin and end of what the element at this place holds."""
        length, begin = der[at + 1], at + 2
        if length & 0x80:
            begin += length & 0x7f
            length = int.from_bytes(der[at + 2:begin], "big")
        return der[at], begin, begin + length

    def sign(self, text):
        octets = (self.modulus.bit_length() + 7) // 8
        info = DIGEST_INFO + hashlib.sha256(text).digest()
        number = int.from_bytes(b"\0\1" + b"\xff" * (octets - len(info) - 3) + b"\0" + info, "big")
        by_p, by_q = pow(number, self.dp, self.p), pow(number, self.dq, self.q)
        return (by_q + (by_p - by_q) * self.inverse % self.p * self.q).to_bytes(octets, "big")


def domain(number):
    return f"u{number:06d}.example"


def relaxed(name, value):
    """A header field in relaxed form (RFC 6376 section 3.4.2)."""
    return f"{name.lower()}:{' '.join(value.split())}"


def message(number, body, key):
    """Message NUMBER: signed in relaxed/simple form."""
    own = domain(number)
    fields = {
        "From": f"Sender {number} <sender{number}@{own}>", "To": "User <user@rcpt.example>",
        "Subject": f"Message number {number} of a domain of its own", "Date": "Sat, 21 Nov 2026 10:00:00 +0000",
        "Message-ID": f"<{number}@{own}>", "MIME-Version": "1.0", "Content-Type": "text/plain; charset=utf-8",
    }
    body_hash = base64.b64encode(hashlib.sha256(body).digest()).decode()
    signature = (f"v=1; a=rsa-sha256; c=relaxed/simple; d={own}; s=s1; h={':'.join(SIGNED)};"
                 f" bh={body_hash}; b=")
    found = {name.lower(): value for name, value in fields.items()}
    text = "".join(relaxed(name, found[name]) + "\r\n" for name in SIGNED) + relaxed("DKIM-Signature", signature)
    signature += base64.b64encode(key.sign(text.encode())).decode()
    head = f"DKIM-Signature: {signature}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return head.encode() + b"\r\n" + body


def records(number, key_record):
    own = domain(number)
    return (f'{own}. TXT "v=spf1 {NETWORKS} -all"\n_dmarc.{own}. TXT "v=DMARC1; p=reject; rua=mailto:agg@reports.example"\n'
            f"s1._domainkey.{own}. TXT {key_record}\n")


def write_some(job):
    """Writes the messages of some numbers."""
    directory, numbers, bodies, pem = job
    key = Key(pem)
    for number in numbers:
        (directory / f"{number}.eml").write_bytes(message(number, bodies[number % len(bodies)], key))


def write(corpus, directory, count):
    """Writes `count` messages with unseen.tsv, their manifest, and zone/root.zone, which has the corpus's records, too."""
    (directory / "zone").mkdir()
    zone = (corpus / "zone" / "root.zone").read_text()
    key_record = re.search(r"^s1\._domainkey\.d000\.example\. TXT (.*)$", zone, re.MULTILINE)[1]
    pem = (corpus / "keys" / "d000.example.s1.pem").read_text()
    bodies = [path.read_bytes().split(b"\r\n\r\n", 1)[1] for path in sorted((corpus / "4k").iterdir())[:100]]
    chunk = 500
    jobs = [(directory, range(begin, min(begin + chunk, count)), bodies, pem) for begin in range(0, count, chunk)]
    with multiprocessing.Pool() as pool:
        pool.map(write_some, jobs, chunksize=1)
    with open(directory / "zone" / "root.zone", "w") as file:
        file.write(zone)
        file.writelines(records(number, key_record) for number in range(count))
    with open(directory / "unseen.tsv", "w") as file:
        file.writelines(f"{number}.eml\tsender{number}@{domain(number)}\tuser@rcpt.example\tpass\n" for number in range(count))
