#!/usr/bin/env python3
"""Measures the gate under load beside a plain TCP relay: messages/s, latency, CPU for each message, memory.

    benches/load.py --rig DIR --corpus DIR [--quick] [--only NAME,...] [target/release/dmarcgate]

RIG holds the programs loadgen, sink and dnsdelay; CORPUS is what its gen.py wrote: signed messages with a manifest for each
size, and the DNS zone of their domains. haproxy (the TCP relay, `mode tcp`) and nsd have to be installed. In one run each
load goes in turn to the sink directly, through the relay, through the gate with the client bypassed, and through the gate
with full evaluation; the figures are medians over the rounds. Everything is on loopback and in a temporary directory. Exit
code 1 if anything was answered otherwise than its class of message demands.
"""

import argparse
import json
import pathlib
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

CLIENTS = "198.51.100.0/24"
TICKS = 100  # a second, in /proc


@dataclass(frozen=True)
class Load:
    """What the generator does."""

    name: str
    size: str
    sessions: int
    per_session: int


LOADS = [
    Load("4k-50x10", "4k", 50, 10),
    Load("4k-200x1", "4k", 200, 1),
    Load("4k-10x10", "4k", 10, 10),
    Load("4k-1x10", "4k", 1, 10),
    Load("4k-1000x10", "4k", 1000, 10),
    Load("50k-10x10", "50k", 10, 10),
    Load("1m-10x10", "1m", 10, 10),
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process):
    for _ in range(1000):
        if process.poll() is not None:
            raise SystemExit(f"{process.args[0]} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"{process.args[0]} does not listen")


class Stage:
    """The servers of one run, and how they are started and ended."""

    def __init__(self, arguments, directory):
        self.arguments, self.directory, self.processes = arguments, directory, []

    def start(self, name, *command, **options):
        log = open(self.directory / f"{name}.log", "w")
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, **options)
        self.processes.append(process)
        return process

    def end(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            process.wait()

    def sink(self):
        port = free_port()
        wait_for(port, self.start("sink", self.arguments.rig / "sink", "--listen", f"127.0.0.1:{port}"))
        return port

    def relay(self, sink):
        port, config = free_port(), self.directory / "haproxy.cfg"
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
    server sink 127.0.0.1:{sink}
""")
        process = self.start("haproxy", "haproxy", "-db", "-f", config)
        wait_for(port, process)
        return port, process

    def dns(self, delay):
        port, config = free_port(), self.directory / "nsd.conf"
        config.write_text(f"""
server:
    ip-address: 127.0.0.1@{port}
    username: ""
    chroot: ""
    zonesdir: "{self.arguments.corpus}/zone"
    database: ""
    pidfile: "{self.directory}/nsd.pid"
    xfrdfile: "{self.directory}/xfrd.state"
    zonelistfile: "{self.directory}/zone.list"
    server-count: 1
    rrl-ratelimit: 0
remote-control:
    control-enable: no
zone:
    name: "."
    zonefile: root.zone
""")
        wait_for(port, self.start("nsd", "nsd", "-d", "-c", config))
        if not delay:
            return port
        forwarder = free_port()
        self.start("dnsdelay", self.arguments.rig / "dnsdelay", "--listen", f"127.0.0.1:{forwarder}",
                   "--upstream", f"127.0.0.1:{port}", "--delay-ms", delay)
        return forwarder

    def gate(self, name, sink, dns, bypass):
        directory = self.directory / name
        directory.mkdir()
        config = directory / "dmarcgate.toml"
        config.write_text(f"""
hostname = "gate.rcpt.example"
[[listener]]
address = "127.0.0.1:0"
proxy_protocol_from = ["127.0.0.0/8"]
[upstream]
servers = ["127.0.0.1:{sink}"]
identity = "{self.arguments.identity}"
[smtp]
recipient_domains = ["*"]
[dns]
servers = ["127.0.0.1:{dns}"]
[policy]
reject = "always"
[bypass]
trusted_networks = {[CLIENTS] if bypass else []}
[limits]
sessions = 20000
sessions_per_network = 0
[process]
user = "root"
[spool]
directory = "{directory}/spool"
[store]
url = "sqlite://{directory}/dmarcgate.db"
[admin]
address = "127.0.0.1:0"
""")
        addresses = directory / "addresses"
        command = (self.arguments.binary, "serve", "--config", config)
        process = self.start(name, *command, env={"DMARCGATE_ADDRESS_FILE": str(addresses)})
        for _ in range(3000):
            if addresses.exists():
                return int(addresses.read_text().split()[1].rsplit(":", 1)[1]), process
            time.sleep(0.02)
        raise SystemExit((self.directory / f"{name}.log").read_text())


def cpu(process):
    """Seconds that a process has used."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(process):
    """The most that it ever had in memory, in MiB."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def generate(arguments, load, port, proxied, seconds):
    command = [arguments.rig / "loadgen", "--target", f"127.0.0.1:{port}",
               "--manifest", arguments.corpus / f"{load.size}.tsv", "--sessions", str(load.sessions),
               "--per-session", str(load.per_session), "--duration", str(seconds), "--warmup", "1"]
    if proxied:
        command += ["--proxy", "v2"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def surprises(figures, evaluated):
    """Replies that the class of a message does not explain, and errors."""
    wrong = dict(figures["errors"])
    for kind, count in figures["classes"].items():
        refused = kind.startswith("fail-reject:") and evaluated
        if kind.rsplit(":", 1)[1] != ("5xx" if refused else "2xx"):
            wrong[kind] = count
    return wrong


def measure(arguments, directory):
    stage = Stage(arguments, directory)
    broken = False
    try:
        sink = stage.sink()
        relay, haproxy = stage.relay(sink)
        dns = stage.dns(arguments.dns_delay)
        targets = [("sink", sink, None), ("TCP relay", relay, haproxy)]
        for name, bypass in (("gate, bypassed", True), ("gate", False)):
            port, process = stage.gate("bypassed" if bypass else "evaluating", sink, dns, bypass)
            targets.append((name, port, process))
        loads = [load for load in LOADS if not arguments.only or load.name in arguments.only.split(",")]
        print(f"identity = {arguments.identity}, DNS answers after {arguments.dns_delay} ms; medians of {arguments.rounds} rounds "
              f"of {arguments.seconds} s\n")
        print("| load | through | messages/s | of the relay | CPU s / 1000 | of the relay | end-of-data p50 / p99 ms | peak RSS MiB |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for load in loads:
            rounds = {name: [] for name, _, _ in targets}
            for _ in range(arguments.rounds):
                for name, port, process in targets:
                    before = cpu(process) if process else 0
                    figures = generate(arguments, load, port, name.startswith("gate"), arguments.seconds)
                    spent = cpu(process) - before if process else 0
                    figures["cpu_ms"] = spent / max(figures["total"], 1) * 1000
                    rounds[name].append(figures)
                    if wrong := surprises(figures, name == "gate"):
                        broken = True
                        print(f"{load.name} through {name}: {wrong}", file=sys.stderr)
            median = {name: {key: statistics.median(one[key] for one in all_of_them)
                             for key in ("rate", "cpu_ms", "eod_p50_ms", "eod_p99_ms")}
                      for name, all_of_them in rounds.items()}
            for name, _, process in targets:
                one, base = median[name], median["TCP relay"]
                relay_cpu = f"{one['cpu_ms'] / base['cpu_ms']:.1f}" if process and base["cpu_ms"] else ""
                print(f"| {load.name} | {name} | {one['rate']:.0f} | {one['rate'] / base['rate']:.2f} | "
                      f"{one['cpu_ms']:.3f} | {relay_cpu} | {one['eod_p50_ms']:.2f} / {one['eod_p99_ms']:.2f} | "
                      f"{memory(process) if process else 0:.0f} |", flush=True)
    finally:
        stage.end()
    return 1 if broken else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rig", type=pathlib.Path, required=True)
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--only", help="names of loads: " + ", ".join(load.name for load in LOADS))
    parser.add_argument("--identity", default="xclient")
    parser.add_argument("--dns-delay", type=int, default=0, metavar="MS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("binary", nargs="?", default="target/release/dmarcgate")
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as directory:
        return measure(arguments, pathlib.Path(directory))


if __name__ == "__main__":
    sys.exit(main())
