"""DKIM signatures and ARC sets for made-up messages, by the openssl program: no code is shared with what they test."""

import base64
import hashlib
import re
import subprocess
import tempfile

SIGNED = ("from", "to", "subject", "date", "message-id")


class Keys:
    """An RSA and an Ed25519 key in a directory, for every domain of a test."""

    def __init__(self, directory):
        self.rsa, self.weak, self.ed25519 = (directory / f"{name}.pem" for name in ("rsa", "weak", "ed25519"))
        for key, bits in ((self.rsa, 2048), (self.weak, 512)):
            openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{bits}", "-out", key)
        openssl("genpkey", "-algorithm", "ED25519", "-out", self.ed25519)
        public = {key: openssl("pkey", "-in", key, "-pubout", "-outform", "DER") for key in (self.rsa, self.weak, self.ed25519)}
        # RFC 8463 §4: the 32 octets of the key alone, which are the last of the structure.
        public[self.ed25519] = public[self.ed25519][-32:]
        self.selectors = {"r": self.rsa, "w": self.weak, "e": self.ed25519}
        self.records = {selector: f"v=DKIM1; k={'ed25519' if selector == 'e' else 'rsa'};"
                                  f" p={base64.b64encode(public[key]).decode()}" for selector, key in self.selectors.items()}

    def signature(self, selector, algorithm, content):
        """Of the octets, as base64; RFC 8463 §3 signs the hash of them."""
        if selector == "e":
            with tempfile.NamedTemporaryFile() as digest:
                digest.write(hashlib.sha256(content).digest())
                digest.flush()
                raw = openssl("pkeyutl", "-sign", "-rawin", "-inkey", self.ed25519, "-in", digest.name)
        else:
            raw = openssl("dgst", "-" + algorithm.split("-")[1], "-sign", self.selectors[selector], content=content)
        return base64.b64encode(raw).decode()

    def dkim(self, content, domain, *, selector="r", algorithm="rsa-sha256", signed=SIGNED):
        """`content` with a signature on top; the selector `r` is an RSA key, `w` a weak one, `e` an Ed25519 one."""
        return self._signature_field("DKIM-Signature: v=1;", content, domain, selector, algorithm, signed) + content

    def arc(self, content, domain, results):
        """`content` with a first ARC set on top, sealed by `domain` (RFC 8617 §5.1)."""
        said = f"ARC-Authentication-Results: i=1; {domain}; {results}\r\n".encode()
        signature = self._signature_field("ARC-Message-Signature: i=1;", content, domain, "r", "rsa-sha256", SIGNED)
        seal = f"ARC-Seal: i=1; a=rsa-sha256; cv=none; d={domain}; s=r; t=1795737600; b=".encode()
        signed = relaxed(said) + b"\r\n" + relaxed(signature) + b"\r\n" + relaxed(seal)
        return seal + self.signature("r", "rsa-sha256", signed).encode() + b"\r\n" + signature + said + content

    def _signature_field(self, start, content, domain, selector, algorithm, signed):
        header, body = split(content)
        body = body.rstrip(b"\r\n") + b"\r\n"
        hashed = base64.b64encode(hashlib.new(algorithm.split("-")[1], body).digest()).decode()
        lines = {field.partition(b":")[0].strip().lower().decode(): field for field in header}
        field = (f"{start} a={algorithm}; c=relaxed/simple; d={domain}; s={selector}; h={':'.join(signed)};\r\n"
                 f" bh={hashed};\r\n b=").encode()
        octets = b"".join(relaxed(lines[each]) + b"\r\n" for each in signed if each in lines) + relaxed(field)
        return field + self.signature(selector, algorithm, octets).encode() + b"\r\n"


def split(content):
    """The fields of the header section, each with its folds and without its line end, and the body."""
    header, _, body = content.partition(b"\r\n\r\n")
    return re.split(rb"\r\n(?![ \t])", header), body


def relaxed(field):
    """A field in the relaxed form of RFC 6376 §3.4.2, without its line end."""
    name, _, value = field.partition(b":")
    return name.strip().lower() + b":" + re.sub(rb"[ \t]+", b" ", value.replace(b"\r\n", b"")).strip()


def openssl(*arguments, content=b""):
    """What the program writes."""
    command = ["openssl", *(str(argument) for argument in arguments)]
    return subprocess.run(command, input=content, capture_output=True, check=True).stdout
