#!/usr/bin/env python3
"""Measures the gate under load beside a plain TCP relay: messages/s, latency, CPU for each message, memory.

    benches/load.py --rig DIR --corpus DIR [--rounds N] [--only NAME,...] [target/release/dmarcgate]

RIG holds the programs loadgen, sink and dnsdelay; CORPUS is what its gen.py wrote: signed messages with a manifest for each
size, and the DNS zone of their domains. haproxy (the TCP relay, `mode tcp`) and nsd have to be installed. In one run each
load goes in turn to the sink directly, through the relay, through the gate with the client bypassed, and through the gate
with full evaluation; the figures are medians over the rounds. Everything is on loopback and in a temporary directory. Exit
code 1 if anything was answered otherwise than its class of message demands.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from stage import Stage, raise_descriptors

CLIENTS = "198.51.100.0/24"


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
    Load("25m-10x1", "25m", 10, 1),
]


def generate(arguments, load, port, proxied, *options):
    """Runs the generator; gives what it measured."""
    command = [arguments.rig / "loadgen", "--target", f"127.0.0.1:{port}",
               "--manifest", arguments.corpus / f"{load.size}.tsv", "--sessions", str(load.sessions),
               "--per-session", str(load.per_session), *map(str, options)]
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
    stage = Stage(directory, arguments.binary, arguments.rig)
    broken = False
    try:
        sink = stage.sink()
        dns = stage.dns(arguments.corpus / "zone", arguments.dns_delay)
        identity = {"upstream.identity": arguments.identity}
        bypassed = stage.gate("bypassed", sink.port, dns.port, identity | {"bypass.trusted_networks": [CLIENTS]})
        evaluating = stage.gate("evaluating", sink.port, dns.port, identity)
        targets = [("sink", sink), ("TCP relay", stage.relay(sink.port)), ("gate, bypassed", bypassed), ("gate", evaluating)]
        loads = [load for load in LOADS if not arguments.only or load.name in arguments.only.split(",")]
        # Its gen.py makes none of 25 MB.
        loads = [load for load in loads if (arguments.corpus / f"{load.size}.tsv").exists()]
        print(f"identity = {arguments.identity}, DNS answers after {arguments.dns_delay} ms; medians of {arguments.rounds} "
              f"rounds of {arguments.seconds} s\n")
        print("| load | through | messages/s | of the relay | CPU s / 1000 | of the relay | end-of-data p50 / p99 ms "
              "| peak RSS MiB |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for load in loads:
            rounds = {name: [] for name, _ in targets}
            for _ in range(arguments.rounds):
                for name, server in targets:
                    before = server.cpu()
                    figures = generate(arguments, load, server.port, name.startswith("gate"), "--duration", arguments.seconds)
                    spent = server.cpu() - before
                    figures["cpu_ms"] = spent / max(figures["total"], 1) * 1000
                    rounds[name].append(figures)
                    if wrong := surprises(figures, name == "gate"):
                        broken = True
                        print(f"{load.name} through {name}: {wrong}", file=sys.stderr)
            median = {name: {key: statistics.median(one[key] for one in all_of_them)
                             for key in ("rate", "cpu_ms", "eod_p50_ms", "eod_p99_ms")}
                      for name, all_of_them in rounds.items()}
            for name, server in targets:
                one, base = median[name], median["TCP relay"]
                relay_cpu = f"{one['cpu_ms'] / base['cpu_ms']:.1f}" if base["cpu_ms"] else ""
                print(f"| {load.name} | {name} | {one['rate']:.0f} | {one['rate'] / base['rate']:.2f} | "
                      f"{one['cpu_ms']:.3f} | {relay_cpu} | {one['eod_p50_ms']:.2f} / {one['eod_p99_ms']:.2f} | "
                      f"{server.memory():.0f} |", flush=True)
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
    raise_descriptors()
    with tempfile.TemporaryDirectory() as directory:
        return measure(arguments, pathlib.Path(directory))


if __name__ == "__main__":
    sys.exit(main())
