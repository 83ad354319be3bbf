"""Clients before the gate: Python's smtplib with a PROXY header before it, swaks and curl."""

import ipaddress
import re
import smtplib
import struct
import subprocess

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


class Smtp(smtplib.SMTP):
    """smtplib's client, seen by the gate as one at `client`."""

    def __init__(self, address, client, helo="mail.good.example"):
        self._client = client
        super().__init__(address[0], address[1], local_hostname=helo, timeout=30)

    def _get_socket(self, host, port, timeout):
        socket = super()._get_socket(host, port, timeout)
        socket.sendall(proxy_v2(self._client))
        return socket

    def deliver(self, sender, recipient, content):
        """One transaction; the final reply as (code, text)."""
        self.ehlo_or_helo_if_needed()
        for code, text in (self.mail(sender), self.rcpt(recipient)):
            if code >= 300:
                self.rset()
                return code, text.decode()
        code, text = self.data(content)
        return code, text.decode()

    def deliver_chunks(self, sender, recipient, chunks):
        """One transaction by BDAT, all in one write (RFC 3030 with PIPELINING); the final reply as (code, text)."""
        out = f"MAIL FROM:<{sender}> BODY=8BITMIME\r\nRCPT TO:<{recipient}>\r\n".encode()
        for number, chunk in enumerate(chunks, 1):
            last = " LAST" if number == len(chunks) else ""
            out += f"BDAT {len(chunk)}{last}\r\n".encode() + chunk
        self.ehlo_or_helo_if_needed()
        self.send(out)
        replies = [self.getreply() for _ in range(2 + len(chunks))]
        assert all(code == 250 for code, _ in replies[:-1]), replies
        return replies[-1][0], replies[-1][1].decode()


def proxy_v2(client):
    """A PROXY v2 header that names `client`."""
    client = ipaddress.ip_address(client)
    server = ipaddress.ip_address("192.0.2.25" if client.version == 4 else "2001:db8::25")
    block = client.packed + server.packed + struct.pack("!HH", 40025, 25)
    return SIGNATURE + struct.pack("!BBH", 0x21, 0x11 if client.version == 4 else 0x21, len(block)) + block


def swaks(address, *arguments, client=None, content=None):
    """Runs swaks; its whole transcript."""
    command = ["swaks", "--server", f"{address[0]}:{address[1]}", "--timeout", "30", "--suppress-data"]
    if client:
        command += [
            "--proxy-version", "2", "--proxy-family", "AF_INET", "--proxy-protocol", "STREAM", "--proxy-command",
            "PROXY", "--proxy-source", client, "--proxy-source-port", "40025", "--proxy-dest", "192.0.2.25",
            "--proxy-dest-port", "25",
        ]
    if content is not None:
        # swaks ends what it reads with a line end of its own, always.
        content = content.removesuffix(b"\r\n")
        command += ["--data", "-"]
    done = subprocess.run(
        command + list(arguments), input=content, stdin=None if content is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False,
    )
    return done.stdout.decode(errors="replace")


def curl(address, certificate, *arguments, content, source, tls="off"):
    """Sends a message by curl from the address `source`; `tls` as the gate's configuration says it. What curl said."""
    host, port = "mx.example.net", address[1]
    scheme = "smtps" if tls == "implicit" else "smtp"
    command = [
        "curl", "--silent", "--show-error", "--verbose", "--max-time", "60", "--interface", source,
        "--resolve", f"{host}:{port}:{address[0]}", "--cacert", str(certificate.certificate),
        "--mail-from", "x@none.example", "--mail-rcpt", "rcpt@example.net", "--upload-file", "-",
    ]
    if tls == "starttls":
        command.append("--ssl-reqd")
    done = subprocess.run(
        command + list(arguments) + [f"{scheme}://{host}:{port}/mail.good.example"], input=content,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=90, check=False,
    )
    said = done.stdout.decode(errors="replace")
    # What was sent is of no interest, and large.
    return done.returncode, "\n".join(line for line in said.splitlines() if re.match(r"[*<>] |curl: ", line))
