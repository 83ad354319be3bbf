"""The gate as a process: the binary that `DMARCGATE_BINARY` names, with a configuration file of its own."""

import os
import pathlib
import subprocess
import urllib.request

from mta import DOMAIN, free_ports, wait_for

CONFIG = """
hostname = "mx.example.net"

# Clients named by a PROXY header, and clients as they are.
[[listener]]
address = "127.0.0.1:0"
proxy_protocol_from = ["127.0.0.0/8"]

[[listener]]
address = "127.0.0.1:{port}"

# The same under TLS, and TLS from the first octet.
[[listener]]
address = "127.0.0.1:0"
tls = "starttls"
proxy_protocol_from = ["127.0.0.0/8"]

[[listener]]
address = "127.0.0.1:{port_tls}"
tls = "starttls"

[[listener]]
address = "127.0.0.1:0"
tls = "implicit"

[tls]
certificate = "{certificate.certificate}"
key = "{certificate.key}"

[upstream]
servers = ["{upstream[0]}:{upstream[1]}"]
identity = "{identity}"
{more}

[dns]
servers = ["{dns[0]}:{dns[1]}"]

[policy]
mode = "enforce"

[smtp]
recipient_domains = {recipient_domains}

[spool]
directory = "{base}/spool"
# So little that large messages go to the file.
memory = "1MiB"

[store]
url = "sqlite://{base}/dmarcgate.db"

[limits]
message_size = "24MiB"

# Whose files the tests are.
[process]
user = "root"

[admin]
address = "127.0.0.1:{admin}"
"""


class Gate:
    """A running gate; `address` takes PROXY headers, `plain` does not; `starttls` and `plain_starttls` are the same
    with STARTTLS, and `smtps` is implicit TLS without PROXY. `ports` are those of `plain` and `plain_starttls`, 0 for
    any; `more` stands in the section of the upstream.

    Only where Postfix can't see the client (`received`) does the gate guard the recipients: everywhere else the tests
    want to see that Postfix does.
    """

    def __init__(self, base, world, upstream, identity, *, ports=(0, 0), more=""):
        dns, certificate = world
        base = pathlib.Path(base)
        self.config, addresses = base / "dmarcgate.toml", base / "addresses"
        self.config.write_text(CONFIG.format(
            base=base, upstream=upstream, dns=dns, identity=identity, port=ports[0], port_tls=ports[1],
            certificate=certificate, more=more, admin=free_ports(1)[0],
            recipient_domains=f'["{DOMAIN}"]' if identity == "received" else "[]",
        ))
        self._log = base / "gate.log"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [binary(), "serve", "--config", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=os.environ | {"DMARCGATE_ADDRESS_FILE": str(addresses)},
            )
        try:
            lines = wait_for(lambda: self._read(addresses), "the gate's addresses", self.log, 30).splitlines()
        except BaseException:
            self.stop()
            raise
        listeners = [parse(line) for line in lines if line.startswith("listener ")]
        self.address, self.plain, self.starttls, self.plain_starttls, self.smtps = listeners
        self.admin = next(parse(line) for line in lines if line.startswith("admin "))

    def stop(self):
        """Ends it by SIGTERM and holds it to a clean end; its exit code, and whether anything panicked."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            code = self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        return code, "panicked" in self.log()

    def run(self, *arguments):
        """Runs another command of the binary with this gate's configuration; exit code and what it printed."""
        done = subprocess.run(
            [binary(), *arguments, "--config", str(self.config)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False,
        )
        return done.returncode, done.stdout.decode()

    def metrics(self):
        """A scrape: {series: value}."""
        host, port = self.admin
        with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=30) as response:
            lines = response.read().decode().splitlines()
        return {series: float(value) for series, _, value in
                (line.rpartition(" ") for line in lines if line and not line.startswith("#"))}

    def log(self):
        """Everything it has printed."""
        return self._log.read_text(errors="replace")

    def _read(self, addresses):
        if self._process.poll() is not None:
            raise RuntimeError(f"the gate ended with {self._process.returncode}\n{self.log()}")
        return addresses.read_text() if addresses.exists() else None


def binary():
    """The gate's binary; never a guess, so that no stale build is tested by mistake."""
    path = os.environ.get("DMARCGATE_BINARY", "")
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"DMARCGATE_BINARY must name the built binary; it is {path!r}")
    return path


def parse(line):
    """`listener 127.0.0.1:2525` as an address."""
    host, _, port = line.split(" ", 1)[1].rpartition(":")
    return host, int(port)
