"""Everything that runs: name server, mail server, database, the gate under a supervisor, and the wires between them."""

import asyncio
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request

from .chaos import TcpWire, UdpWire
from .upstream import Journal

CONFIG = """
hostname = "mx.example.net"

[[listener]]
address = "127.0.0.1:{plain}"
proxy_protocol_from = ["127.0.0.0/8"]

[[listener]]
address = "127.0.0.1:{tls}"
tls = "starttls"
proxy_protocol_from = ["127.0.0.0/8"]

[tls]
certificate = "{base}/cert.pem"
key = "{base}/key.pem"

[upstream]
servers = ["127.0.0.1:{upstream}"]
identity = "xclient"

[dns]
servers = ["127.0.0.1:{dns}"]
timeout = "500ms"
# So little that it is full before memory is compared.
cache_entries = 1000

[policy]
mode = "enforce"
# Every forgery is one: the harness counts them.
reject = "always"

[limits]
message_size = "24MiB"

# Such that faults of some seconds are longer than some of them and shorter than others.
[timeouts]
evaluation = "4s"
upstream_open = "3s"
upstream_connect = "1s"
upstream_command = "4s"
upstream_final = "5s"
data_block = "10s"
command = "10s"
shutdown = "5s"

[spool]
directory = "{base}/spool"
# So little that large messages go to the file.
memory = "1MiB"

[store]
url = "{store}"

[process]
user = "root"

[admin]
address = "127.0.0.1:{admin}"

[log]
level = "warn"
"""

# Where Python finds this package.
ROOT = pathlib.Path(__file__).parents[2]


class Process:
    """A process that is started again when it dies, as a supervisor would, 0.1 s later."""

    def __init__(self, command, log):
        self._command, self._log = list(map(str, command)), log
        # Added to that of this process.
        self.environment = {}
        self._task = None
        self.process = None
        self.starts = 0
        # How it ended when nobody had asked for it.
        self.deaths = []
        self._expected = False
        # Whether it may end by itself for now.
        self.expect_deaths = False
        # Not before it is set is it started again.
        self.wanted = asyncio.Event()
        self.wanted.set()

    @property
    def pid(self):
        return self.process.pid

    def start(self):
        """Starts it and its supervisor."""
        self._spawn()
        self._task = asyncio.create_task(self._supervise())

    def signal(self, which):
        """Sends it a signal."""
        if which in (signal.SIGKILL, signal.SIGTERM):
            self._expected = True
        if self.process.poll() is None:
            self.process.send_signal(which)

    async def end(self):
        """Ends it for good; its exit code, None if it had to be killed or never ran."""
        if self._task is None:
            return None
        self._task.cancel()
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        for _ in range(1500):
            if self.process.poll() is not None:
                return self.process.returncode
            await asyncio.sleep(0.01)
        self.process.kill()
        self.process.wait()
        return None

    def _spawn(self):
        self._expected = False
        with open(self._log, "ab") as output:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT,
                env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | self.environment)
        self.starts += 1

    async def _supervise(self):
        while True:
            while self.process.poll() is None:
                await asyncio.sleep(0.01)
            if not self._expected and not self.expect_deaths:
                self.deaths.append(self.process.returncode)
            await asyncio.sleep(0.1)
            await self.wanted.wait()
            self._spawn()


class World:
    """All of it in the directory `base`."""

    def __init__(self, base, binary, key, disk, postgres=None, postfix=None):
        self.base, self.disk = pathlib.Path(base), disk
        self.postgres = postgres
        # Ports stay what they are over all deaths.
        names = ("plain", "tls", "upstream", "dns", "admin", "mta", "zone")
        self.ports = dict(zip(names, free_ports(len(names))))
        ports = self.ports
        python = [sys.executable, "-m"]
        self.dns = Process([*python, "tests.faults.nameserver", ports["zone"], key], self.base / "dns.log")
        if postfix:
            self.mta, self.mail, self.settled = postfix, postfix.entries, postfix.settled
            ports["mta"] = postfix.port
        else:
            journal = self.base / "journal"
            self.mta = Process([*python, "tests.faults.upstream", ports["mta"], journal], self.base / "mta.log")
            self.mail, self.settled = Journal(journal).entries, at_once
        self.config = self.base / "dmarcgate.toml"
        self.gate = Process([binary, "serve", "--config", self.config], self.base / "gate.log")
        self.clock = None
        self.wires = {
            "client": [TcpWire(ports["plain"]), TcpWire(ports["tls"])],
            "upstream": [TcpWire(ports["mta"])],
            "dns": [TcpWire(ports["zone"]), UdpWire(ports["zone"])],
        }

    async def start(self):
        """Starts it and waits until the gate is ready."""
        for name in ("spool", "store"):
            (self.base / name).mkdir()
        self.small_disks = all(small_disk(self.base / name, self.disk) for name in ("spool", "store"))
        self.write_certificate()
        store = self.postgres.url if self.postgres else f"sqlite://{self.base}/store/dmarcgate.db"
        self.config.write_text(CONFIG.format(base=self.base, store=store, **self.ports))
        self.clock = Clock.built(self.base)
        self.gate.environment = self.clock.environment if self.clock else {}
        self.dns.start()
        self.mta.start()
        await self.wires["upstream"][0].open(self.ports["upstream"])
        for wire in self.wires["dns"]:
            await wire.open(self.ports["dns"])
        for wire in self.wires["client"]:
            await wire.open()
        for port in (self.ports["mta"], self.ports["zone"]):
            await listening(port)
        self.gate.start()
        await self.ready(30)
        if self.clock and not await self._sees_the_clock():
            self.clock = None

    async def _sees_the_clock(self):
        """Whether the gate sees the clock jump; a static binary would not."""
        self.clock.jump(3600)
        self.gate.signal(signal.SIGHUP)
        seen = False
        for _ in range(100):
            await asyncio.sleep(0.05)
            seen = (await self.metrics()).get("dmarcgate_config_loaded_seconds", 0) > time.time() + 1800
            if seen:
                break
        self.clock.jump(0)
        return seen

    async def stop(self):
        """Ends everything; the gate's exit code."""
        code = await self.gate.end()
        await self.mta.end()
        await self.dns.end()
        for name in ("spool", "store"):
            subprocess.run(["umount", "-l", self.base / name], stderr=subprocess.DEVNULL, check=False)
        return code

    async def ready(self, patience):
        """Waits for the gate to say that it can take mail."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if await self.fetch("/readyz") is not None:
                return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"the gate is not ready\n{self.log()}")

    async def fetch(self, path):
        """What the admin listener says; None unless that is 200."""

        def get():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['admin']}{path}", timeout=5) as response:
                    return response.read().decode()
            except OSError:
                return None

        return await asyncio.to_thread(get)

    async def metrics(self):
        """A scrape: {series: value}; empty if the gate does not answer."""
        lines = (await self.fetch("/metrics") or "").splitlines()
        return {series: float(value) for series, _, value in
                (line.rpartition(" ") for line in lines if line and not line.startswith("#"))}

    def log(self):
        """The last of what the gate has printed."""
        return (self.base / "gate.log").read_text(errors="replace")[-4000:]

    def write_certificate(self):
        """A new certificate and key."""
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", self.base / "key.pem", "-out", self.base / "cert.pem", "-days", "30",
             "-subj", "/CN=mx.example.net", "-addext", "subjectAltName=DNS:mx.example.net"],
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def rows(self):
        """The rows of the store: {author domain: messages}. None while it can't be read."""
        if self.postgres:
            return self.postgres.rows()
        try:
            with sqlite3.connect(f"file:{self.base}/store/dmarcgate.db?mode=ro", uri=True, timeout=5) as database:
                found = dict(database.execute("SELECT header_from, SUM(n) FROM report_rows GROUP BY header_from"))
            database.close()
            return found
        except sqlite3.OperationalError:
            return None

    def usage(self):
        """What the gate's process has: descriptors, threads, resident memory in KiB."""
        place = pathlib.Path(f"/proc/{self.gate.pid}")
        status = (place / "status").read_text()
        number = {key: int(re.search(rf"^{key}:\s+(\d+)", status, re.M)[1]) for key in ("Threads", "VmRSS")}
        return {"fds": len(list((place / "fd").iterdir())), "threads": number["Threads"], "rss": number["VmRSS"]}

    def limit_files(self, count):
        """Sets the soft limit of open files of the running gate; None: as it was."""
        soft, hard = resource.prlimit(self.gate.pid, resource.RLIMIT_NOFILE)
        if count is None:
            count, self._files = self._files, None
        else:
            self._files = soft
        resource.prlimit(self.gate.pid, resource.RLIMIT_NOFILE, (min(count, hard), hard))


class Clock:
    """The wall clock that the gate sees: a library, preloaded, that adds what stands in a file."""

    def __init__(self, base):
        self._file = base / "clock"
        self.jump(0)
        self.environment = {"LD_PRELOAD": str(base / "clock.so"), "FAULTS_CLOCK": str(self._file)}

    @classmethod
    def built(cls, base):
        """Builds the library; None without a C compiler."""
        if shutil.which("cc") is None:
            return None
        source = pathlib.Path(__file__).with_name("clock.c")
        done = subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", base / "clock.so", source, "-ldl"], check=False)
        return cls(base) if done.returncode == 0 else None

    def jump(self, seconds):
        """Sets the clock so many seconds off the true time."""
        with open(self._file, "r+b" if self._file.exists() else "w+b") as file:
            file.write(int(seconds).to_bytes(8, "little", signed=True))


async def at_once():
    """The scripted server has delivered what it has taken."""


def small_disk(directory, megabytes):
    """Makes the directory a file system of its own that is soon full; whether that could be done."""
    if os.geteuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", directory]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def fill(directory):
    """Takes what room there is; the file that has it."""
    path = directory / "ballast"
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return path


async def listening(port, patience=20):
    """Waits for a listener."""
    deadline = time.monotonic() + patience
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)


def free_ports(count):
    """Ports that are free for TCP and UDP, below those that the kernel gives to clients: what is dead for a while finds its
    port free."""
    found = set()
    while len(found) < count:
        port = random.randint(15000, 32000)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.add(port)
    return list(found)
