"""Messages, their signatures, and the DNS records that speak for them."""

import base64
import itertools

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

CLIENT = "198.51.100.7"
STRANGER = "203.0.113.9"

_number = itertools.count(1)


class Keys:
    """A key of each kind, for every domain of the test."""

    def __init__(self):
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.rsa = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        self.rsa_public = base64.b64encode(key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )).decode()
        key = ed25519.Ed25519PrivateKey.generate()
        raw = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.ed25519 = base64.b64encode(key.private_bytes(
            serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
        ))
        self.ed25519_public = base64.b64encode(key.public_key().public_bytes(*raw)).decode()

    def sign(self, content, domain):
        """`content` with a signature by each key on top (dkimpy's, not ours)."""
        signed = content
        for selector, key, algorithm in (("r", self.rsa, b"rsa-sha256"), ("e", self.ed25519, b"ed25519-sha256")):
            field = dkim.sign(
                content, selector.encode(), domain.encode(), key, canonicalize=(b"relaxed", b"relaxed"),
                signature_algorithm=algorithm, include_headers=[b"from", b"to", b"subject", b"date", b"message-id"],
            )
            signed = field + signed
        return signed

    def records(self):
        """The zone: domains that publish each policy, one that signs and sends from CLIENT."""
        records = {
            ("7.100.51.198.in-addr.arpa", "PTR"): ["mail.good.example"],
            ("mail.good.example", "A"): [CLIENT],
            ("good.example", "A"): [CLIENT],
        }
        for policy in ("none", "quarantine", "reject"):
            name = f"{policy}.example"
            records |= {
                (f"_dmarc.{name}", "TXT"): [f"v=DMARC1; p={policy}"],
                (name, "TXT"): [f"v=spf1 ip4:{CLIENT} -all"],
                (f"r._domainkey.{name}", "TXT"): [f"v=DKIM1; k=rsa; p={self.rsa_public}"],
                (f"e._domainkey.{name}", "TXT"): [f"v=DKIM1; k=ed25519; p={self.ed25519_public}"],
            }
        return records


def message(author, subject="interop", body="Hello.\r\n\r\n.A line with a dot\r\n..and two\r\n  spaces  \r\n"):
    """A message that needs nothing from an MTA, and its Message-ID."""
    message_id = f"<{next(_number)}@interop.example>"
    content = (
        f"From: The Author <{author}>\r\nTo: rcpt@example.net\r\nSubject: {subject}\r\n"
        f"Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: {message_id}\r\n\r\n{body}"
    )
    return content.encode(), message_id


def as_stored(content):
    """Content as a mailbox holds it."""
    return content.replace(b"\r\n", b"\n")


def on_top(stored, content):
    """The fields above the message, unfolded."""
    own = as_stored(content)
    assert stored.endswith(own), stored[:4000]
    return stored[:-len(own)].decode().replace("\n\t", " ").replace("\n ", " ")
