"""A gate between clients of every kind, a name server that sometimes fails and a mail server that does, too."""

import base64
import gzip
import itertools
import os
import pathlib
import socketserver
import sqlite3
import ssl
import subprocess
import threading
import time
import urllib.request

import dnslib

from certificate import Certificate
from client import Smtp
from gate import binary, parse
from mail import CLIENT, STRANGER, Keys, message
from mta import free_ports, wait_for
from nameserver import DnsServer

CONFIG = """
hostname = "mx.example.net"

[[listener]]
address = "127.0.0.1:0"
tls = "starttls"
proxy_protocol_from = ["127.0.0.0/8"]

[tls]
certificate = "{certificate.certificate}"
key = "{certificate.key}"

# The first of them is nobody, the second one hangs up on every other connection.
[upstream]
servers = ["127.0.0.1:{nobody}", "127.0.0.1:{flaky}", "127.0.0.1:{upstream}"]
tls = "opportunistic"
hold = "1s"

[dns]
servers = ["{dns[0]}:{dns[1]}"]
timeout = "1s"
cache_entries = 1000

[policy]
mode = "enforce"

[policy.shadow]
mode = "tag"

[bypass]
trusted_networks = ["10.0.0.0/8"]

[limits]
recipients = 3
received_fields = 10

[smtp]
recipient_domains = ["example.net"]

[spool]
directory = "{base}/spool"

[store]
url = "sqlite://{database}"
keep = "3d"

[reports]
enabled = true
from = "reports@example.net"
organization = "Example Networks"
bounce_domain = "bounces.example.net"
relay = "127.0.0.1:{upstream}"
relay_tls = "off"
private_addresses = "keep"
window = "0s"

[reports.inbound]
addresses = ["dmarc@example.net"]

[reports.failure]
enabled = true

# Whose files the tests are.
[process]
user = "root"

[admin]
address = "127.0.0.1:{admin}"
"""

TRUSTED = "10.1.2.3"


class World:
    """Everything. `begin` puts a day of mail behind it, on which reports are due, and lets mail come from then on."""

    def __init__(self, base):
        self._base, self._keys = pathlib.Path(base), Keys()
        self._certificate = Certificate(self._base)
        self._dns = NameServer(zone(self._keys))
        self._upstream = Upstream(self._certificate)
        self._flaky = Upstream(self._certificate, flaky=True)
        self._database, self._config = self._base / "dmarcgate.db", self._base / "dmarcgate.toml"
        nobody, admin = free_ports(2)
        self._config.write_text(CONFIG.format(
            certificate=self._certificate, nobody=nobody, flaky=self._flaky.port, upstream=self._upstream.port,
            dns=self._dns.address, base=base, database=self._database, admin=admin,
        ))
        self._stop, self._threads, self._faults = threading.Event(), [], []
        self._gate = None
        self._start()

    def begin(self):
        """Restarts the gate on another day, and lets mail come, again and again."""
        self._forge("forged@reject.example", 550)
        self._forge("forged@quarantine.example", 250)
        self._send(CLIENT, "a@none.example", "a@none.example", 250)
        self._end()
        # What was the day before yesterday is told today (yesterday may not have settled yet), and what was ten days ago goes.
        with sqlite3.connect(self._database) as database:
            days = database.executemany(
                "UPDATE report_rows SET day = day - ?1, first_seen = first_seen - ?1 * 86400,"
                " last_seen = last_seen - ?1 * 86400 WHERE policy_domain = ?2",
                [(2, "reject.example"), (2, "quarantine.example"), (10, "none.example")],
            )
        database.close()
        assert days.rowcount == 3, days.rowcount
        self._start()
        # The next look at what is due comes only after a while: it is not to fall into an outage.
        idle = b"\ndmarcgate_reports_run_seconds 0\n"
        wait_for(lambda: idle not in self.scrape() or None, "a look at reports that are due", self.log, 30)
        for what in (self._mail, self._slow_mail, self._outages):
            thread = threading.Thread(target=self._again, args=(what,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def watch(self):
        """Fails if anything that should come out one way came out another."""
        assert not self._faults, f"{self._faults[0]}\n{self.log()[-4000:]}"

    def stop(self):
        """Ends all of it; the gate must end cleanly."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)
        self._end()
        self._dns.stop()
        self._upstream.stop()
        self._flaky.stop()
        self.watch()

    def scrape(self):
        """What /metrics shows."""
        with urllib.request.urlopen(f"http://{self.admin[0]}:{self.admin[1]}/metrics", timeout=30) as response:
            return response.read()

    def log(self):
        """What the gate has printed since its last start."""
        return (self._base / "gate.log").read_text(errors="replace")

    def _start(self):
        addresses = self._base / "addresses"
        addresses.unlink(missing_ok=True)
        with (self._base / "gate.log").open("wb") as output:
            self._gate = subprocess.Popen(
                [binary(), "serve", "--config", str(self._config)], stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, env=os.environ | {"DMARCGATE_ADDRESS_FILE": str(addresses)},
            )

        def look():
            if self._gate.poll() is not None:
                raise RuntimeError(f"the gate ended with {self._gate.returncode}\n{self.log()}")
            return addresses.read_text() if addresses.exists() else None

        lines = wait_for(look, "the gate's addresses", self.log, 30).splitlines()
        self.address = next(parse(line) for line in lines if line.startswith("listener "))
        self.admin = next(parse(line) for line in lines if line.startswith("admin "))

    def _end(self):
        if self._gate.poll() is None:
            self._gate.terminate()
        assert self._gate.wait(timeout=30) == 0, self.log()

    def _again(self, what):
        while not self._stop.is_set():
            try:
                what()
            except Exception as fault:  # noqa: BLE001 (told by `watch`, in the thread that has a test)
                self._faults.append(f"{what.__name__}: {fault!r}")
                return
            self._stop.wait(0.5)

    def _forge(self, author, code, **more):
        self._send(STRANGER, "x@elsewhere.example", author, code, **more)

    def _send(self, client, sender, author, code, *, recipient="rcpt@example.net", top=b"", body=None, sign=False):
        content = message(author)[0] if body is None else body
        if sign:
            content = self._keys.sign(content, author.partition("@")[2])
        with Smtp(self.address, client) as smtp:
            found, text = smtp.deliver(sender, recipient, top + content)
        assert found == code, (author, recipient, found, text)

    def _mail(self):
        """Mail of every kind, once."""
        honest = "a@none.example"
        self._send(CLIENT, honest, honest, 250)
        self._send(STRANGER, "a@list.example", "a@reject.example", 250, sign=True)
        self._send(CLIENT, honest, honest, 554, recipient="refused@example.net")
        self._send(CLIENT, honest, honest, 451, recipient="later@example.net")
        self._send(CLIENT, honest, honest, 451, recipient="lost@example.net")
        self._send(CLIENT, honest, honest, 550, recipient="unknown@example.net")
        self._send(CLIENT, honest, honest, 550, recipient="someone@elsewhere.example")
        self._send(CLIENT, honest, honest, 554, top=b"Received: by x\r\n" * 11)
        self._send(TRUSTED, honest, honest, 250)
        for author, code in (("reject", 550), ("quarantine", 250), ("none", 250), ("large", 250), ("nowhere", 250)):
            self._forge(f"ceo@{author}.example", code)
        self._send(STRANGER, "a@servfail.example", "a@servfail.example", 451)
        of_list = b"List-Id: <l.list.example>\r\nList-Post: <mailto:l@list.example>\r\n"
        self._forge("ceo@reject.example", 250, top=of_list)
        self._send(CLIENT, honest, honest, 250, recipient="dmarc@example.net", body=inbound_report())
        self._many_recipients()
        self._secured()
        for address in self._upstream.report_senders():
            self._send(STRANGER, "", "postmaster@elsewhere.example", 250, recipient=address)

    def _many_recipients(self):
        with Smtp(self.address, CLIENT) as smtp:
            smtp.ehlo()
            smtp.mail("a@none.example")
            codes = [smtp.rcpt(f"r{number}@example.net")[0] for number in range(4)]
        assert codes == [250, 250, 250, 452], codes

    def _secured(self):
        context = ssl.create_default_context(cafile=str(self._certificate.certificate))
        with Smtp(self.address, CLIENT) as smtp:
            smtp._host = "mx.example.net"  # noqa: SLF001 (whom the certificate is for; smtplib has no other way)
            smtp.starttls(context=context)
            smtp.login("user", "secret")
            assert smtp.deliver("a@none.example", "rcpt@example.net", message("a@none.example")[0])[0] == 250
        with Smtp(self.address, CLIENT) as smtp:
            smtp.docmd("STARTTLS")
            smtp.send(b"this is no handshake\r\n")
            smtp.sock.recv(1000)

    def _slow_mail(self):
        """A client that takes longer over its message than the mail server is held for."""
        with Smtp(self.address, CLIENT) as smtp:
            smtp.ehlo()
            smtp.mail("a@none.example")
            smtp.rcpt("rcpt@example.net")
            assert smtp.docmd("DATA")[0] == 354
            content = message("a@none.example")[0]
            smtp.send(content[:100])
            self._stop.wait(2)
            smtp.send(content[100:] + b"\r\n.\r\n")
            code, text = smtp.getreply()
        assert code == 250, (code, text)

    def _outages(self):
        """The database takes nothing for a while: longer than the gate waits for it at one time."""
        database = sqlite3.connect(self._database, isolation_level=None, timeout=10)
        try:
            database.execute("BEGIN IMMEDIATE")
            self._stop.wait(6)
            database.execute("ROLLBACK")
        finally:
            database.close()
        self._stop.wait(4)


def zone(keys):
    """The domains of the interop tests: one of them wants reports. Some are in trouble."""
    records = keys.records()
    records["_dmarc.reject.example", "TXT"] = [
        "v=DMARC1; p=reject; fo=1; rua=mailto:rua@reject.example; ruf=mailto:ruf@reject.example"
    ]
    # This one's address does not take it yet.
    records["_dmarc.quarantine.example", "TXT"] = ["v=DMARC1; p=quarantine; rua=mailto:later@quarantine.example"]
    records["list.example", "TXT"] = [f"v=spf1 ip4:{STRANGER} -all"]
    records["_dmarc.servfail.example", "TXT"] = ["v=DMARC1; p=reject"]
    records["_dmarc.large.example", "TXT"] = ["v=DMARC1; p=none; x=" + "x" * 1500]
    return records


def inbound_report():
    """A report of somebody else, new each time."""
    now = int(time.time())
    report = (
        f"<feedback><report_metadata><org_name>Reporter</org_name><report_id>{time.time_ns()}</report_id><date_range>"
        f"<begin>{now - 86400}</begin><end>{now}</end></date_range></report_metadata><policy_published><domain>"
        "example.net</domain><p>reject</p></policy_published><record><row><source_ip>203.0.113.5</source_ip><count>7"
        "</count><policy_evaluated><disposition>reject</disposition><dkim>fail</dkim><spf>fail</spf></policy_evaluated>"
        "</row><identifiers><header_from>example.net</header_from></identifiers></record></feedback>"
    )
    attachment = base64.encodebytes(gzip.compress(report.encode())).replace(b"\n", b"\r\n")
    return (
        b"From: a@none.example\r\nSubject: Report Domain: example.net\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: application/gzip\r\nContent-Transfer-Encoding: base64\r\n\r\n" + attachment
    )


class NameServer(DnsServer):
    """One that answers SERVFAIL for a domain, and cuts large answers off where they go by UDP."""

    def resolve(self, request, handler):
        """The answer to one question (dnslib calls it)."""
        reply = super().resolve(request, handler)
        name = str(request.q.qname).lower()
        if name == "servfail.example.":
            reply.header.rcode = dnslib.RCODE.SERVFAIL
        if handler.protocol == "udp" and len(reply.pack()) > 1232:
            reply.rr, reply.header.tc = [], 1
        return reply


class Upstream:
    """A mail server with XCLIENT, STARTTLS and AUTH; the recipient says what becomes of a message."""

    def __init__(self, certificate, *, flaky=False):
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session)
        self._server.daemon_threads = True
        self._server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.context.load_cert_chain(certificate.certificate, certificate.key)
        self._server.senders, self._server.connections = set(), itertools.count()
        self._server.flaky = flaky
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def report_senders(self):
        """The addresses for bounces of the reports that came; each is given once."""
        senders, self._server.senders = self._server.senders, set()
        return [sender for sender in senders if sender.endswith("@bounces.example.net")]

    def stop(self):
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


class Session(socketserver.StreamRequestHandler):
    """One connection of the gate's."""

    def handle(self):
        if next(self.server.connections) % 2 and self.server.flaky:
            return
        try:
            self.reply("220 upstream.example ESMTP")
            while self.answer(self.rfile.readline()):
                pass
        except OSError:
            # A gate that has no need of the connection any more need not say so.
            pass

    def answer(self, line):
        """Answers a command; false at the end."""
        verb, argument = line[:4].upper(), line.decode(errors="replace").lower()
        if verb in (b"EHLO", b"XCLI"):
            self.recipient = ""
            extensions = ["PIPELINING", "SIZE 10000000", "8BITMIME", "XCLIENT NAME ADDR PORT HELO LOGIN", "AUTH PLAIN"]
            if not isinstance(self.request, ssl.SSLSocket):
                extensions.append("STARTTLS")
            if verb == b"XCLI":
                self.reply("220 upstream.example ESMTP")
            else:
                self.reply("\r\n".join(f"250-{word}" for word in ["upstream.example", *extensions]) + "\r\n250 HELP")
        elif verb == b"STAR":
            self.reply("220 go on")
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
            self.setup_files()
        elif verb == b"AUTH":
            self.reply("235 2.7.0 welcome")
        elif verb == b"MAIL":
            self.sender = argument.partition("<")[2].partition(">")[0]
            self.reply("250 2.1.0 fine")
        elif verb == b"RCPT":
            self.recipient, _, domain = argument.partition("<")[2].partition(">")[0].partition("@")
            relays = domain == "example.net" or self.sender.endswith("@bounces.example.net")
            self.reply("250 2.1.5 fine" if relays and self.recipient != "unknown" else "550 5.1.1 not here")
        elif verb == b"DATA":
            self.reply("354 go on")
            for _ in iter(self.rfile.readline, b".\r\n"):
                pass
            self.server.senders.add(self.sender)
            if self.recipient == "lost":
                return False
            self.reply({"refused": "554 5.7.1 no", "later": "451 4.3.0 later"}.get(self.recipient, "250 2.0.0 taken"))
        elif verb == b"QUIT" or not line:
            return False
        else:
            self.reply("250 2.0.0 fine")
        return True

    def setup_files(self):
        """Reads and writes the connection as it is now."""
        self.connection = self.request
        self.rfile = self.connection.makefile("rb", self.rbufsize)
        self.wfile = socketserver._SocketWriter(self.connection)  # noqa: SLF001 (as StreamRequestHandler does)

    def reply(self, text):
        """Sends a reply."""
        self.wfile.write(text.encode() + b"\r\n")
