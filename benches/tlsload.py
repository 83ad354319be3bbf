"""A load generator that speaks TLS, which the rig's does not: a closed loop of sessions over two processes.

It is a good deal slower than the rig's, so that its figures compare with each other alone.
"""

import collections
import multiprocessing
import socket
import ssl
import threading
import time

PROXY = b"PROXY TCP4 198.51.100.7 198.51.100.1 4000 25\r\n"
EHLO = b"EHLO mx.client.example\r\n"
PROCESSES = 2


class Session:
    """One SMTP session; `tls` is "off", "starttls" or "implicit", `earlier` a TLS session that it offers to resume."""

    def __init__(self, port, tls, context, earlier=None):
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(PROXY)
        if tls == "implicit":
            self.socket = context.wrap_socket(self.socket, session=earlier)
        self.replies = self.socket.makefile("rb")
        self.expect(b"220")
        self.say(EHLO, b"250")
        if tls == "starttls":
            self.say(b"STARTTLS\r\n", b"220")
            self.socket = context.wrap_socket(self.socket, session=earlier)
            self.replies = self.socket.makefile("rb")
            self.say(EHLO, b"250")

    def say(self, line, code):
        self.socket.sendall(line)
        self.expect(code)

    def reply(self):
        line = self.replies.readline()
        while line[3:4] == b"-":
            line = self.replies.readline()
        return line[:3]

    def expect(self, code):
        if (found := self.reply()) != code:
            raise ConnectionError(f"{code!r} was due, {found!r} came")

    def deliver(self, envelope, text):
        """Sends a message; gives the code of its reply and the seconds from its dot to that."""
        self.socket.sendall(envelope)
        for code in (b"250", b"250", b"354"):
            self.expect(code)
        self.socket.sendall(text)
        began = time.monotonic()
        return self.reply(), time.monotonic() - began

    def resumed(self):
        return isinstance(self.socket, ssl.SSLSocket) and self.socket.session_reused

    def end(self):
        """Ends it; gives its TLS session: in TLS 1.3 the ticket that came with the replies."""
        self.say(b"QUIT\r\n", b"221")
        tls = self.socket.session if isinstance(self.socket, ssl.SSLSocket) else None
        self.socket.close()
        return tls


def read(manifest):
    """The messages of a manifest: what is said before each, its octets on the wire, its class."""
    messages = []
    for line in manifest.read_text().splitlines():
        path, sender, recipient, kind = line.split("\t")
        text = (manifest.parent / path).read_bytes().replace(b"\r\n.", b"\r\n..")
        envelope = f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode()
        messages.append((envelope, text + b".\r\n", kind))
    return messages


def work(job):
    """One process: so many sessions at a time, until the time is over."""
    port, tls, handshakes, manifest, sessions, per_session, seconds = job
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    messages = read(manifest)
    waits, wrong, resumed = [], collections.Counter(), []
    end = time.monotonic() + seconds

    def send(place):
        earlier = None
        while time.monotonic() < end:
            try:
                session = Session(port, tls, context, earlier)
                resumed.append(session.resumed())
                for _ in range(per_session):
                    envelope, text, kind = messages[place % len(messages)]
                    place += 7
                    code, wait = session.deliver(envelope, text)
                    waits.append(wait * 1000)
                    if code != (b"550" if kind == "fail-reject" else b"250"):
                        wrong[f"{kind}:{code.decode()}"] += 1
                    elif code == b"550":
                        session.say(b"RSET\r\n", b"250")
                ended = session.end()
                earlier = ended if handshakes == "resumed" else None
            except OSError as error:
                wrong[f"{type(error).__name__}: {error}"] += 1

    threads = [threading.Thread(target=send, args=(number * 31,)) for number in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waits, wrong, resumed


def run(port, tls, handshakes, manifest, sessions, per_session, seconds):
    """Puts the load on a port; `handshakes` are "full" or "resumed". Gives the milliseconds from dot to reply of each message,
    what went wrong, and for each session whether it resumed another."""
    job = (port, tls, handshakes, manifest, sessions // PROCESSES, per_session, seconds)
    with multiprocessing.Pool(PROCESSES) as pool:
        found = pool.map(work, [job] * PROCESSES, chunksize=1)
    waits = [wait for one, _, _ in found for wait in one]
    resumed = [one for _, _, some in found for one in some]
    return waits, sum((wrong for _, wrong, _ in found), collections.Counter()), resumed
