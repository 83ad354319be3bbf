"""A gate as a process between scripted clients and a scripted upstream, for one zone."""

import os
import pathlib
import socket
import socketserver
import subprocess
import threading

from gate import binary, parse
from mta import free_ports, wait_for

CONFIG = """
hostname = "{hostname}"

[[listener]]
address = "127.0.0.1:0"
proxy_protocol_from = ["127.0.0.0/8"]

[upstream]
servers = ["127.0.0.1:{upstream}"]
identity = "none"

[dns]
servers = ["{dns[0]}:{dns[1]}"]
timeout = "1s"

[policy]
mode = "monitor"

[results]
received_spf = true

[smtp]
recipient_domains = ["rcpt.example"]

# Whose files the tests are.
[process]
user = "root"

[spool]
directory = "{base}/spool"

[store]
url = "sqlite://{base}/dmarcgate.db"

[admin]
address = "127.0.0.1:{admin}"
"""

HOSTNAME = "mx.gate.example"
MESSAGE = "From: <author@author.invalid>\r\nSubject: {}\r\n\r\ntext\r\n"


class Upstream:
    """An SMTP server that takes every message and keeps its header section."""

    def __init__(self):
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session)
        self._server.daemon_threads = True
        self._server.messages = []
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def messages(self):
        """The messages, as octets, in the order in which they came."""
        return self._server.messages

    def stop(self):
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


class Session(socketserver.StreamRequestHandler):
    """One connection of the gate's."""

    def handle(self):
        self.reply("220 upstream.example ESMTP")
        for line in self.rfile:
            verb = line[:4].upper()
            if verb == b"DATA":
                self.reply("354 go on")
                self.server.messages.append(b"".join(iter(self.rfile.readline, b".\r\n")))
                self.reply("250 2.0.0 taken")
            elif verb == b"QUIT":
                self.reply("221 2.0.0 bye")
                return
            else:
                self.reply("250 2.0.0 fine")

    def reply(self, text):
        """Sends a reply of one line."""
        self.wfile.write(text.encode() + b"\r\n")


class Gate:
    """A configuration for a name server's address, and the process that serves it once `start` is called."""

    def __init__(self, base, dns, upstream):
        self.base, self._process = pathlib.Path(base), None
        self.config = self.base / "dmarcgate.toml"
        self.config.write_text(CONFIG.format(
            hostname=HOSTNAME, base=self.base, upstream=upstream, dns=dns, admin=free_ports(1)[0],
        ))

    def start(self):
        """Starts it; its listener's address."""
        addresses, log = self.base / "addresses", self.base / "gate.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [binary(), "serve", "--config", str(self.config)], stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, env=os.environ | {"DMARCGATE_ADDRESS_FILE": str(addresses)},
            )

        def look():
            if self._process.poll() is not None:
                raise RuntimeError(f"the gate ended with {self._process.returncode}\n{log.read_text()}")
            return addresses.read_text() if addresses.exists() else None

        lines = wait_for(look, "the gate's addresses", log.read_text, 30).splitlines()
        return next(parse(line) for line in lines if line.startswith("listener "))

    def stop(self):
        """Ends it, and holds it to a clean end."""
        if self._process is not None:
            self._process.terminate()
            assert self._process.wait(timeout=30) == 0, (self.base / "gate.log").read_text()

    def check(self, case):
        """What `dmarcgate check` finds of a message of this case: the completed process."""
        command = [
            binary(), "check", "--json", "--config", str(self.config), "--ip", case.host, "--helo", case.helo,
            "--mail-from", f"<{case.mail_from}>",
        ]
        return subprocess.run(command, input=MESSAGE.format(case.name).encode(), capture_output=True, timeout=60, check=False)


class Client:
    """One SMTP connection of a client at `host`, whom a PROXY header (version 1) names."""

    def __init__(self, address, host):
        self._socket = socket.create_connection(address, timeout=60)
        self._lines = self._socket.makefile("rb")
        family, own = ("TCP6", "2001:db8:ffff::25") if ":" in host else ("TCP4", "198.51.100.25")
        self._socket.sendall(f"PROXY {family} {host} {own} 40000 25\r\n".encode())
        self.greeting = self.reply()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._lines.close()
        self._socket.close()

    def command(self, line):
        """Sends a command or a whole message; the last line of the reply."""
        self._socket.sendall(line + b"\r\n")
        return self.reply()

    def reply(self):
        """The last line of a reply."""
        while True:
            line = self._lines.readline()
            if line[3:4] != b"-":
                return line.decode().rstrip()
