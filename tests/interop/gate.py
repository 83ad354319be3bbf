"""The gate as a process: the binary that `DMARCGATE_BINARY` names, with a configuration file of its own."""

import os
import pathlib
import subprocess

from postfix import DOMAIN, wait_for

CONFIG = """
hostname = "mx.example.net"

# Clients named by a PROXY header, and clients as they are.
[[listener]]
address = "127.0.0.1:0"
proxy_protocol_from = ["127.0.0.0/8"]

[[listener]]
address = "127.0.0.1:0"

[upstream]
servers = ["{upstream[0]}:{upstream[1]}"]
identity = "{identity}"

[dns]
servers = ["{dns[0]}:{dns[1]}"]

[policy]
mode = "enforce"

[smtp]
recipient_domains = ["{domain}"]

[spool]
directory = "{base}/spool"

[store]
url = "sqlite://{base}/dmarcgate.db"

[admin]
address = "127.0.0.1:0"
"""


class Gate:
    """A running gate; `address` takes PROXY headers, `plain` does not."""

    def __init__(self, base, upstream, dns, identity):
        base = pathlib.Path(base)
        (base / "spool").mkdir()
        config, addresses = base / "dmarcgate.toml", base / "addresses"
        config.write_text(CONFIG.format(base=base, upstream=upstream, dns=dns, identity=identity, domain=DOMAIN))
        self._log = base / "gate.log"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [binary(), "serve", "--config", str(config)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=os.environ | {"DMARCGATE_ADDRESS_FILE": str(addresses)},
            )
        try:
            lines = wait_for(lambda: self._read(addresses), "the gate's addresses", self.log, 30).splitlines()
        except BaseException:
            self.stop()
            raise
        listeners = [parse(line) for line in lines if line.startswith("listener ")]
        self.address, self.plain = listeners
        self.admin = next(parse(line) for line in lines if line.startswith("admin "))

    def stop(self):
        """Ends it by SIGTERM and holds it to a clean end."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

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
