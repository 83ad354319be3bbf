"""Signers with their keys, a name server that knows the public ones, and the two verifiers: dkimpy and the gate."""

import base64
import concurrent.futures
import json
import logging
import os
import subprocess

import dkim
import dnslib
import dnslib.server
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

DOMAIN = "signer.example"
# It logs each signature that does not verify, as most here don't.
logging.getLogger("dkimpy").disabled = True


class Key:
    """A private key as dkimpy takes it, and the record of the public one."""

    def __init__(self, selector, bits=None):
        self.selector, self.bits = selector, bits
        if bits:
            private = rsa.generate_private_key(public_exponent=65537, key_size=bits)
            self.private = private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
            public = private.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            self.kind, self.algorithm = "rsa", b"rsa-sha256"
        else:
            private = ed25519.Ed25519PrivateKey.generate()
            raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
            self.private = base64.b64encode(private.private_bytes(
                raw[0], serialization.PrivateFormat.Raw, serialization.NoEncryption()
            ))
            public = private.public_key().public_bytes(*raw)
            self.kind, self.algorithm = "ed25519", b"ed25519-sha256"
        self.record = f"v=DKIM1; k={self.kind}; p={base64.b64encode(public).decode()}"

    def name(self, domain=DOMAIN):
        """Where the public key is."""
        return f"{self.selector}._domainkey.{domain}"


class World:
    """A name server for `records`, {name: text}, which dkimpy reads without it."""

    def __init__(self, records):
        self.records = {name.lower(): text for name, text in records.items()}
        self._servers = self._listen()
        self._server = "%s:%d" % self._servers[0].server.server_address
        for server in self._servers:
            server.start_thread()

    def _listen(self):
        """UDP and TCP on one port, which is free in one of them and may be taken in the other."""
        quiet = dnslib.server.DNSLogger(log="-request,-reply,-truncated,-error", prefix=False)
        for _ in range(50):
            udp = dnslib.server.DNSServer(self, address="127.0.0.1", port=0, logger=quiet)
            port = udp.server.server_address[1]
            try:
                return udp, dnslib.server.DNSServer(self, address="127.0.0.1", port=port, tcp=True, logger=quiet)
            except OSError:
                udp.server.server_close()
        raise RuntimeError("no port is free in both")

    def stop(self):
        """Ends the name server."""
        for server in self._servers:
            server.stop()
            server.server.server_close()

    def resolve(self, request, _handler):
        """The answer to one question (dnslib calls it)."""
        reply = request.reply()
        text = self.records.get(str(request.q.qname).rstrip(".").lower())
        if text is None:
            reply.header.rcode = dnslib.RCODE.NXDOMAIN
        elif request.q.qtype == dnslib.QTYPE.TXT:
            octets = text.encode()
            data = dnslib.TXT([octets[at:at + 255] for at in range(0, len(octets), 255)])
            reply.add_answer(dnslib.RR(request.q.qname, dnslib.QTYPE.TXT, rdata=data, ttl=300))
        return reply

    def gate(self, messages):
        """What the gate finds of each message: the results of `check --json`, in their order."""
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return list(pool.map(self._check, messages))

    def dkimpy(self, message):
        """What dkimpy finds of each signature, from the top down: true, false, or the error that it raises."""
        def verify(index):
            try:
                return dkim.DKIM(message).verify(idx=index, dnsfunc=self._text)
            except Exception as error:  # Those of its libraries get through: binascii.Error, for one.
                return error
        try:
            fields = dkim.DKIM(message).headers
        except dkim.DKIMException as error:
            return [error]
        return [verify(index) for index in range(sum(name.lower() == b"dkim-signature" for name, _ in fields))]

    def dkimpy_arc(self, message):
        """What dkimpy finds of the chain: `pass`, `fail`, `none`, or the error that it raises."""
        try:
            status, _, _ = dkim.arc_verify(message, dnsfunc=self._text)
        except Exception as error:  # As above.
            return error
        return (status or b"fail").decode()

    def _text(self, name, timeout=5):
        name = name.decode() if isinstance(name, bytes) else name
        return self.records.get(name.rstrip(".").lower(), "").encode() or None

    def _check(self, message):
        done = subprocess.run(
            [binary(), "check", "--json", "--ip", "192.0.2.1", "--helo", "mail.signer.example",
             "--mail-from", f"a@{DOMAIN}", "--dns", self._server],
            input=message, capture_output=True, timeout=60, check=False,
        )
        assert done.stdout.startswith(b"{"), (done.returncode, done.stderr, message)
        return json.loads(done.stdout)["evaluation"]


def binary():
    """The gate's binary; never a guess, so that no stale build is tested by mistake."""
    path = os.environ.get("DMARCGATE_BINARY", "")
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"DMARCGATE_BINARY must name the built binary; it is {path!r}")
    return path
