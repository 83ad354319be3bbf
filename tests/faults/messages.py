"""Messages: honest ones, forgeries, and what has to become of each."""

import base64
import dataclasses
import enum
import functools
import hashlib
import subprocess

from .wire import UNWANTED


class Kind(enum.Enum):
    """Why a message passes DMARC or fails it; each has an author domain of its own below one of the name server's."""

    SPF = "spf"
    DKIM = "dkim"
    FORGED = "forged"
    MARKED = "marked"
    # Passes, and the mail server does not want it.
    UNWANTED = "unwanted"

    @property
    def honest(self):
        """Whether it passes DMARC."""
        return self not in (Kind.FORGED, Kind.MARKED)


# How often each is sent, and how large its body is.
KINDS = {Kind.SPF: 45, Kind.DKIM: 30, Kind.FORGED: 15, Kind.MARKED: 5, Kind.UNWANTED: 5}
SIZES = {1 << 10: 70, 12 << 10: 20, 120 << 10: 8, 1200 << 10: 2}


@dataclasses.dataclass(eq=False, slots=True)
class Message:
    """One message, which its client keeps until somebody has taken or refused it."""

    number: int
    kind: Kind
    size: int
    attempts: list = dataclasses.field(default_factory=list)

    @property
    def domain(self):
        """Its author domain."""
        zone = "spf" if self.kind is Kind.UNWANTED else self.kind.value
        return f"m{self.number}.{zone}.test"

    @property
    def message_id(self):
        return f"<{self.number}@{self.domain}>"

    @property
    def client(self):
        """The address it comes from; that of an SPF pass, or any."""
        network = "198.51.100" if self.kind in (Kind.SPF, Kind.UNWANTED) else "203.0.113"
        return f"{network}.{self.number % 250 + 1}"

    @property
    def digest(self):
        """Of its body, as the mail server must see it."""
        return body_digest(self.size).hex()


class Signer:
    """An RSA key and the signatures by it; made by openssl, used by this."""

    def __init__(self):
        pem = run("openssl", "genrsa", "-traditional", "2048")
        numbers = integers(run("openssl", "rsa", "-traditional", "-outform", "DER", given=pem))
        _, _, _, _, self._p, self._q, self._dp, self._dq, self._inverse = numbers
        self._length = 256
        self.public = base64.b64encode(run("openssl", "rsa", "-pubout", "-outform", "DER", given=pem)).decode()

    def sign(self, octets):
        """RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017 section 8.2)."""
        info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(octets).digest()
        padded = int.from_bytes(b"\0\1" + b"\xff" * (self._length - len(info) - 3) + b"\0" + info)
        first, second = pow(padded, self._dp, self._p), pow(padded, self._dq, self._q)
        whole = second + (first - second) * self._inverse % self._p * self._q
        return base64.b64encode(whole.to_bytes(self._length)).decode()


def content(message, attempt, signer):
    """The octets of one attempt."""
    subject = UNWANTED if message.kind is Kind.UNWANTED else "number"
    fields = [
        f"From: Author <a@{message.domain}>", "To: rcpt@example.net", f"Subject: {subject} {message.number}",
        "Date: Thu, 01 Jan 2026 00:00:00 +0000", f"Message-ID: {message.message_id}",
    ]
    signature = []
    if message.kind is Kind.DKIM:
        digest = base64.b64encode(body_digest(message.size)).decode()
        field = (
            f"v=1; a=rsa-sha256; c=relaxed/relaxed; d={message.domain}; s=s; "
            f"h=from:to:subject:date:message-id; bh={digest}; b="
        )
        canonical = [f"{name.lower()}:{value}" for name, value in (each.split(": ", 1) for each in fields)]
        signed = "\r\n".join([*canonical, "dkim-signature:" + field]).encode()
        signature = [f"DKIM-Signature: {field}{signer.sign(signed)}"]
    return "\r\n".join([*signature, f"X-Attempt: {attempt}", *fields, "", ""]).encode() + body(message.size)


@functools.cache
def body(size):
    """A body with dots and lines as they come, at least so large."""
    line = b".a line that begins with a dot\r\nand one that does not\r\n..\r\n"
    return line * (size // len(line) + 1)


@functools.cache
def body_digest(size):
    """Its SHA-256; the relaxed canonical form of DKIM is the same octets."""
    return hashlib.sha256(body(size)).digest()


def integers(der):
    """The numbers of an RSAPrivateKey (RFC 8017 appendix A.1.2)."""
    at, numbers = 0, []

    def length():
        nonlocal at
        first = der[at]
        at += 1
        if first < 128:
            return first
        value = int.from_bytes(der[at:at + first - 128])
        at += first - 128
        return value

    at += 1
    length()
    while at < len(der):
        at += 1
        size = length()
        numbers.append(int.from_bytes(der[at:at + size]))
        at += size
    return numbers


def run(*command, given=None):
    """What a command prints."""
    return subprocess.run(command, input=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
