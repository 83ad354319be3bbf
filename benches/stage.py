"""Starts and ends the servers of a bench, all on loopback, and reads what they use."""

import json
import os
import pathlib
import resource
import socket
import subprocess
import time
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")  # a second, in /proc
DEFAULTS = {
    "hostname": "gate.rcpt.example",
    "listener": [{"address": "127.0.0.1:0", "proxy_protocol_from": ["127.0.0.0/8"]}],
    "smtp.recipient_domains": ["*"],
    "policy.reject": "always",
    "limits.sessions": 20000,
    "limits.sessions_per_network": 0,
    "process.user": "root",
    "admin.address": "127.0.0.1:0",
}


def raise_descriptors():
    """Raises the bound of open files, which the servers inherit, as far as it goes; gives it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process):
    """Waits until a process listens."""
    for _ in range(3000):
        if process.poll() is not None:
            raise SystemExit(f"{process.args[0]} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"{process.args[0]} does not listen")


def toml(value):
    """A value as TOML writes it."""
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


def certificate(directory):
    """Makes a self-signed certificate for gate.example and its key; gives the settings that name them."""
    settings = {"tls.certificate": str(directory / "cert.pem"), "tls.key": str(directory / "key.pem")}
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", settings["tls.key"], "-out", settings["tls.certificate"], "-days", "30", "-subj", "/CN=gate.example",
         "-addext", "subjectAltName=DNS:gate.example"],
        check=True, capture_output=True)
    return settings


def tree(roots):
    """The processes `roots` with all below them: {pid: seconds that it and those it has seen end have used}."""
    children, used = {}, {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue  # ended meanwhile: it is in its parent's figure
        fields = text.rsplit(") ", 1)[1].split()
        pid = int(stat.parent.name)
        children.setdefault(int(fields[1]), []).append(pid)
        used[pid] = sum(int(ticks) for ticks in fields[11:15]) / TICKS
    found, left = {}, list(roots)
    while left:
        pid = left.pop()
        found[pid] = used.get(pid, 0)
        left += children.get(pid, [])
    return found


class Server:
    """A process, and where it listens."""

    def __init__(self, process, port, admin=None, started=0.0):
        self.process, self.port, self.admin, self.started = process, port, admin, started

    def cpu(self):
        """Seconds that it and all that it has started have used."""
        return sum(tree([self.process.pid]).values())

    def memory(self, field="VmHWM"):
        """The most that it ever had in memory, or with VmRSS what it has, in MiB."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024

    def metrics(self):
        """What a gate tells of itself: series with their labels as they are written, and values."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=60) as answer:
            lines = [line for line in answer.read().decode().splitlines() if line and not line.startswith("#")]
        return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines)}

    def end(self):
        self.process.terminate()
        self.process.wait()


class Stage:
    """The servers of one run; whoever makes one ends it."""

    def __init__(self, directory, binary, rig=None):
        self.directory, self.binary, self.rig, self.servers = directory, binary, rig, []

    def start(self, name, *command, port=None, **options):
        """Starts a process that writes its log into NAME.log, and waits until it listens at `port`, if that is given."""
        with open(self.directory / f"{name}.log", "w") as log:
            process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, **options)
        server = Server(process, port)
        self.servers.append(server)
        if port:
            try:
                wait_for(port, process)
            except SystemExit as fault:
                raise SystemExit(f"{fault}: {self.log(name)}") from None
        return server

    def log(self, name):
        return (self.directory / f"{name}.log").read_text()[-2000:]

    def end(self):
        for server in reversed(self.servers):
            server.process.terminate()
        for server in reversed(self.servers):
            server.process.wait()

    def sink(self, *options, name="sink"):
        """The upstream of the rig, which takes everything."""
        port = free_port()
        return self.start(name, self.rig / "sink", "--listen", f"127.0.0.1:{port}", *options, port=port)

    def relay(self, target, name="relay", options=""):
        """HAProxy as a plain TCP relay; `options` go to its server line."""
        port, config = free_port(), self.directory / f"{name}.cfg"
        config.write_text(f"""
global
    maxconn 9000
defaults
    mode tcp
    timeout connect 10s
    timeout client 1m
    timeout server 1m
listen relay
    bind 127.0.0.1:{port}
    server target 127.0.0.1:{target} {options}
""")
        return self.start(name, "haproxy", "-db", "-f", config, port=port)

    def dns(self, zones, delay=0, name="nsd", addresses=(), broken=()):
        """A name server with root.zone of the directory `zones` as its root, whose answers come after `delay` ms. It listens
        at each of `addresses`, too, and fails for each zone of `broken`."""
        port, config = free_port(), self.directory / f"{name}.conf"
        listens = "".join(f"\n    ip-address: {address}" for address in (f"127.0.0.1@{port}", *addresses))
        missing = "".join(f'zone:\n    name: "{zone}"\n    zonefile: missing.zone\n' for zone in broken)
        config.write_text(f"""
server:{listens}
    username: ""
    chroot: ""
    zonesdir: "{zones}"
    database: ""
    pidfile: "{self.directory}/{name}.pid"
    xfrdfile: "{self.directory}/{name}.state"
    zonelistfile: "{self.directory}/{name}.list"
    server-count: 1
    rrl-ratelimit: 0
remote-control:
    control-enable: no
zone:
    name: "."
    zonefile: root.zone
{missing}""")
        server = self.start(name, "nsd", "-d", "-c", config, port=port)
        return self.delay(server, delay, f"{name}-delay") if delay else server

    def delay(self, dns, delay, name):
        """A forwarder before a name server that holds its answers back for `delay` ms; UDP, so there is no port to try."""
        port = free_port()
        server = self.start(name, self.rig / "dnsdelay", "--listen", f"127.0.0.1:{port}", "--upstream", f"127.0.0.1:{dns.port}",
                            "--delay-ms", delay)
        server.port = port
        return server

    def gate(self, name, upstream, dns, settings=None):
        """A gate before the upstream and the name server at these ports. `settings` are keys with their tables, and their
        values. A name that was used before goes on with the store that is there."""
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        addresses = directory / "addresses"
        addresses.unlink(missing_ok=True)
        paths = {"spool.directory": f"{directory}/spool", "store.url": f"sqlite://{directory}/dmarcgate.db"}
        servers = {"upstream.servers": [f"127.0.0.1:{upstream}"], "dns.servers": [f"127.0.0.1:{dns}"]}
        config = directory / "dmarcgate.toml"
        keys = DEFAULTS | paths | servers | (settings or {})
        config.write_text("".join(f"{key} = {toml(value)}\n" for key, value in keys.items()))
        began = time.monotonic()
        server = self.start(name, self.binary, "serve", "--config", config, env={"DMARCGATE_ADDRESS_FILE": str(addresses)})
        while not addresses.exists():
            if server.process.poll() is not None or time.monotonic() - began > 600:
                raise SystemExit(f"the gate does not serve: {self.log(name)}")
            time.sleep(0.005)
        server.started = time.monotonic() - began
        listener, admin = (int(line.rsplit(":", 1)[1]) for line in addresses.read_text().splitlines())
        server.port, server.admin = listener, admin
        return server
