#!/usr/bin/env python3
"""Measures the gate beside other ways to have DMARC judged, on this machine: verdicts, messages/s, CPU, latency.

    benches/versus.py --rig DIR --corpus DIR [--install] [--only NAME+NAME] [--rounds 3] [--seconds 8] [BINARY]

RIG and CORPUS are those of load.py; stacks.py says what is compared, --install installs what is missing of it; needs root.
First each stack gets every message of the corpus once, and what came of it is held to what its class demands. Then the
stacks get the load in turn, and the figures are medians over the rounds; CPU and memory are those of all processes of a stack,
without the generator, the sink and the name server. Everything is on loopback and in a temporary directory. Exit code 1 if the
gate did otherwise than the corpus demands; what others do is only told.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from stacks import Arguments, Stage, handling, message_id, wait_for_delivery
from stage import raise_descriptors

STACKS = {
    "Postfix alone": lambda stage, name, sink, dns: stage.postfix(name, sink),
    "Postfix, policyd-spf, OpenDKIM, OpenDMARC": lambda stage, name, sink, dns: stage.opendmarc(name, sink, "policyd"),
    "Postfix, OpenDKIM, OpenDMARC (SPF itself)": lambda stage, name, sink, dns: stage.opendmarc(name, sink, "itself"),
    "Postfix, rspamd": lambda stage, name, sink, dns: stage.rspamd(name, sink, "alone"),
    "Haraka, mailauth": lambda stage, name, sink, dns: stage.haraka(name, sink, "strict"),
    "gate, Postfix": lambda stage, name, sink, dns: stage.gate_and_postfix(name, sink, dns, "always"),
    "gate": lambda stage, name, sink, dns: stage.gate_alone(name, sink, dns, "always"),
}

# What may come of a message of each class; who has no opinion at all (`no result`) is right where nothing is to be done.
DEMANDED = {
    "pass": {"pass", "no result"},
    "fail-none": {"fail", "no result"},
    "fail-quarantine": {"marked"},
    "fail-reject": {"refused"},
}


class Field:
    """Every stack of a run with a sink of its own, and the name server of all."""

    def __init__(self, arguments, keep):
        self.arguments, self.keep = arguments, keep
        self.temporary = tempfile.TemporaryDirectory(prefix="versus-", dir="/var/tmp")
        self.stage = Stage(pathlib.Path(self.temporary.name), arguments.binary, arguments.rig)

    def __enter__(self):
        """Starts them: {name: (stack, port of the sink's counts, directory of what it keeps)}."""
        try:
            dns = self.stage.dns(self.arguments.corpus.resolve() / "zone")
            started = {}
            for at, name in enumerate(self.arguments.only):
                sink, stats, kept = self.stage.keeper(f"sink{at}", self.keep)
                started[name] = STACKS[name](self.stage, f"stack{at}", sink, dns.port), stats, kept
            return started
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        self.stage.end()
        self.temporary.cleanup()


def generate(arguments, stack, *more):
    """Lines of replies, if they were asked for, and the generator's figures."""
    command = [arguments.rig / "loadgen", "--target", f"127.0.0.1:{stack.port}", "--manifest", arguments.manifest,
               "--proxy", stack.proxy, *more]
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    *replies, figures = done.stdout.splitlines()
    return replies, json.loads(figures)


def verdicts(arguments):
    """Prints what each stack made of each class; whether the gate did as demanded throughout."""
    classes = dict(line.split("\t")[0::3] for line in arguments.manifest.read_text().splitlines())
    names = {message_id((arguments.corpus / name).read_bytes()): name for name in classes}
    table = {kind: {} for kind in DEMANDED}
    clean = True
    with Field(arguments, len(classes)) as started:
        for stack_name, (stack, stats, kept) in started.items():
            replies, figures = generate(arguments, stack, "--once", "--replies", "--sessions", 10, "--duration", 300)
            wait_for_delivery(stats, figures["accepted"])
            outcome = {}
            for line in replies:
                _, name, reply = line.split("\t", 2)
                outcome[name] = {"4": "deferred", "5": "refused"}.get(reply[0], "lost")
            for stored in kept.glob("*.eml"):
                content = stored.read_bytes()
                outcome[names[message_id(content)]] = handling(content)
            for kind, demanded in DEMANDED.items():
                of_it = [outcome.get(name, "no reply") for name in classes if classes[name] == kind]
                wrong = {what: of_it.count(what) for what in sorted(set(of_it) - demanded)}
                clean = clean and not (wrong and stack_name.startswith("gate"))
                table[kind][stack_name] = f"{len(of_it) - sum(wrong.values())}/{len(of_it)}" + "".join(
                    f", {count} {what}" for what, count in wrong.items())
    print("Handled as the class of the message demands, of each message of the corpus once:\n")
    print("| through | " + " | ".join(f"{kind}: {' or '.join(sorted(DEMANDED[kind]))}" for kind in table) + " |")
    print("| --- " * (len(table) + 1) + "|")
    for stack_name in arguments.only:
        print(f"| {stack_name} | " + " | ".join(table[kind][stack_name] for kind in table) + " |")
    print(flush=True)
    return clean


def speed(arguments):
    """Prints the figures under load."""
    load = ("--sessions", arguments.sessions, "--per-session", arguments.per_session)
    rounds = {name: [] for name in arguments.only}
    with Field(arguments, 0) as started:
        accepted = dict.fromkeys(started, 0)
        # The first is not counted: processes start, caches fill.
        for at in range(arguments.rounds + 1):
            for name, (stack, stats, _) in started.items():
                before, began = stack.cpu(), time.monotonic()
                _, figures = generate(arguments, stack, *load, "--duration", arguments.seconds if at else 2, "--warmup", 1)
                accepted[name] += figures["accepted"]
                # A queue is work that is still to be done: it counts until the last message is at the sink.
                wait_for_delivery(stats, accepted[name])
                figures["memory"] = stack.memory()
                figures["rate"] = figures["total"] / (time.monotonic() - began)
                figures["cpu"] = (stack.cpu() - before) / max(figures["total"], 1) * 1000
                if at:
                    rounds[name].append(figures)
                for error, count in figures["errors"].items():
                    print(f"{name}: {count} of {error}", file=sys.stderr)
    print(f"{arguments.sessions} sessions at a time with {arguments.per_session} messages each, of {arguments.size}; medians "
          f"of {arguments.rounds} rounds of {arguments.seconds} s; until the last message is at the sink:\n")
    print("| through | messages/s | CPU s / 1000 messages | end-of-data p50 / p99 ms | memory MiB |")
    print("| --- | --- | --- | --- | --- |")
    for name in arguments.only:
        one = {key: statistics.median(figures[key] for figures in rounds[name])
               for key in ("rate", "cpu", "eod_p50_ms", "eod_p99_ms", "memory")}
        print(f"| {name} | {one['rate']:.0f} | {one['cpu']:.2f} | {one['eod_p50_ms']:.1f} / {one['eod_p99_ms']:.1f} | "
              f"{one['memory']:.0f} |")


def main():
    parser = Arguments(__doc__.splitlines()[0], STACKS)
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--size", default="4k", help="of the messages: 4k, 50k or 1m")
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--per-session", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8)
    arguments = parser.read()
    arguments.manifest = arguments.corpus / f"{arguments.size}.tsv"
    raise_descriptors()
    clean = verdicts(arguments)
    speed(arguments)
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
