#!/usr/bin/env python3
"""Measures what a message costs the gate as things grow: sessions, load, DNS delay, cache, store; and under TLS.

    benches/curves.py --rig DIR --corpus DIR [--quick] [--only PART,...] [target/release/dmarcgate]

RIG and CORPUS are those of load.py, and so is what has to be installed. Each part prints a table:

    sessions  a message's cost against the number of sessions, 1 to 10,000, all of them busy
    overload  twice the sessions that the gate has room for: throughput, the 421 of the surplus, latency of the others
    dns       every domain unseen against every answer remembered, at answers after 0, 50 and 500 ms
    tls       plain, STARTTLS and implicit TLS, with full handshakes and with resumed sessions
    cache     a message's cost against the answers remembered, to 1,000,000
    rows      a message's cost, the start and memory against the rows in the store, to 10,000,000
    postgres  the same with the rows in PostgreSQL, to 1,000,000, and its CPU; it has to be installed

Everything is on loopback and in a temporary directory; `rows` needs 10 GB of it. Exit code 1 if anything was answered
otherwise than its class of message demands, but for the surplus of `overload`. --quick is for whether it works, not for
figures.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import pathlib
import socket
import sqlite3
import statistics
import sys
import tempfile
import threading
import time

import tlsload
import unseen
from load import Load, generate, surprises
from stage import Stage, certificate, raise_descriptors, tree

# At the end: the benches have modules of the same names as the tests there.
sys.path.append(str(pathlib.Path(__file__).parents[1] / "tests" / "faults"))
from postgres import Postgres

# Fewer sessions than any gate here has room for.
WARM = Load("warm", "4k", 4, 10)
KNOCKING = 4  # threads
# How the generator says that a connection was closed instead of a greeting.
SILENT = ("banner-eof", "banner-read-ConnectionReset")
OPENED = 'dmarcgate_upstream_connections_total{result="open"}'


class Bench:
    """One run of a part: its servers, and whether anything went wrong."""

    def __init__(self, arguments, directory):
        self.arguments, self.directory, self.quick = arguments, directory, arguments.quick
        self.stage = Stage(directory, arguments.binary, arguments.rig)
        self.sink = self.stage.sink()
        self.broken = False
        self.gates = 0

    def gate(self, dns, settings=None):
        """A gate with a store of its own."""
        self.gates += 1
        return self.stage.gate(f"gate{self.gates}", self.sink.port, dns.port, settings)

    def warm_gate(self, dns, settings=None):
        """A gate that has seen each message of the corpus."""
        gate = self.gate(dns, settings)
        self.check("warming", generate(self.arguments, WARM, gate.port, True, "--once", "--duration", 600))
        return gate

    def load(self, what, gate, load, *options):
        """Puts a load on a gate; gives what the generator measured, with the gate's CPU seconds for 1000 messages."""
        before = gate.cpu()
        figures = generate(self.arguments, load, gate.port, True, *options)
        figures["cpu"] = (gate.cpu() - before) / max(figures["total"], 1) * 1000
        self.check(what, figures)
        return figures

    def check(self, what, figures):
        if wrong := surprises(figures, True):
            self.broken = True
            print(f"{what}: {wrong}", file=sys.stderr)


def print_row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def print_head(title, *cells):
    print(f"\n{title}\n")
    print_row(*cells)
    print_row(*("---" for _ in cells))


def latency(figures, what="eod"):
    return f"{figures[f'{what}_p50_ms']:.2f} / {figures[f'{what}_p99_ms']:.2f}"


def percentile(values, share):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else float("nan")


def sessions(bench):
    """All sessions are busy: each sends its next message when the last was answered, ten in a connection. Where there are
    more of them than connections to the upstream, these go from one to the other, and each message opens its own."""
    print_head("4 KB, 10 messages a session, DNS warm", "sessions", "messages/s", "CPU s / 1000", "dot to reply p50 / p99 ms",
               "transaction p50 / p99 ms", "upstream connections of at most", "opened a message", "peak RSS MiB", "errors")
    dns = bench.stage.dns(bench.arguments.corpus / "zone")
    # 4600 is what the gate takes of 20,000 descriptors for its connections to the upstream.
    for count, connections in ((1, 1000), (10, 1000), (100, 1000), (1000, 1000), (4000, 4600), (10000, 4600)):
        gate = bench.warm_gate(dns, {"upstream.connections": connections})
        # Thousands of sessions need some time to be open at all.
        seconds, settle = (2, 1) if bench.quick else (6, 2)
        if count > 1000:
            seconds, settle = seconds * 2, settle * 3
        before = gate.metrics()[OPENED]
        load = Load("", "4k", count, 10)
        figures = bench.load(f"{count} sessions", gate, load, "--duration", seconds, "--warmup", settle)
        print_row(f"{count:,}", f"{figures['rate']:.0f}", f"{figures['cpu']:.3f}", latency(figures), latency(figures, "txn"),
                  f"{connections:,}", f"{(gate.metrics()[OPENED] - before) / figures['total']:.2f}", f"{gate.memory():.0f}",
                  sum(figures["errors"].values()))
        gate.end()


class Knocks:
    """Clients that knock at the gate at so many a second, and what their first words were after how many ms."""

    def __init__(self, port, rate):
        self.port, self.pause, self.found, self.going = port, KNOCKING / rate, collections.defaultdict(list), True
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(KNOCKING)]
        for thread in self.threads:
            thread.start()

    def run(self):
        due = time.monotonic()
        while self.going:
            began = time.monotonic()
            word = self.knock()
            self.found[word].append((time.monotonic() - began) * 1000)
            due += self.pause
            time.sleep(max(due - time.monotonic(), 0))

    def knock(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 10) as client:
                client.sendall(b"PROXY TCP4 198.51.100.9 198.51.100.1 4000 25\r\n")
                word = client.recv(512)[:3].decode()
                if word == "220":
                    client.sendall(b"QUIT\r\n")
                    client.recv(512)
                return word or "closed"
        except OSError as error:
            return type(error).__name__

    def stop(self):
        self.going = False
        for thread in self.threads:
            thread.join()
        return self.found


def overload(bench):
    """A gate with room for the number of sessions that is most productive, under no surplus, under as many clients again,
    and under a storm of clients that come back 10 ms after each 421, which no mail server does."""
    dns = bench.stage.dns(bench.arguments.corpus / "zone")
    seconds = ("--duration", 2 if bench.quick else 6)
    gate = bench.warm_gate(dns)
    rates = {}
    for count in (10, 20, 50, 100, 200):
        rates[count] = bench.load(f"{count} sessions", gate, Load("", "4k", count, 10), *seconds)["rate"]
    gate.end()
    room = max(count for count, rate in rates.items() if rate > 0.9 * max(rates.values()))
    found = ", ".join(f"{count} sessions {rate:.0f}/s" for count, rate in rates.items())
    print_head(f"Peak: {found}; so there is room for {room}. 4 KB, 10 messages a session", "sessions offered",
               "messages/s", "CPU s / 1000", "dot to reply p50 / p99 ms", "turned away/s", "421 after p50 / p99 / max ms",
               "without a word", "CPUs busy with gate / generator")
    knocks = rates[room] / 10
    for name, limit, count, rate in ((f"{room}, no bound", 20000, room, 20), (f"{room}", room, room, 20),
                                     (f"{room}, and {knocks:.0f}/s that come anew", room, room, knocks),
                                     (f"{room * 2}, back at once", room, room * 2, 20),
                                     (f"{room * 4}, back at once", room, room * 4, 20)):
        gate = bench.warm_gate(dns, {"limits.sessions": limit})
        knocking, before = Knocks(gate.port, rate), gate.cpu()
        figures = generate(bench.arguments, Load("", "4k", count, 10), gate.port, True, *seconds)
        cpu, words = gate.cpu() - before, knocking.stop()
        expected = ("banner-421", *SILENT)
        bench.check(name, figures | {"errors": {what: n for what, n in figures["errors"].items() if what not in expected}})
        refused = words.pop("421", [])
        words.pop("220", None)
        silent = sum(map(len, words.values())) + sum(figures["errors"].get(what, 0) for what in SILENT)
        away = figures["errors"].get("banner-421", 0) + len(refused) + silent
        print_row(name, f"{figures['rate']:.0f}", f"{cpu / figures['total'] * 1000:.3f}", latency(figures),
                  f"{away / figures['wall']:.0f}",
                  f"{percentile(refused, 0.5):.1f} / {percentile(refused, 0.99):.1f} / {max(refused):.1f}" if refused else "",
                  f"{silent / max(away, 1):.1%}", f"{cpu / figures['wall']:.2f} / {figures['cpu_s'] / figures['wall']:.2f}")
        gate.end()


def unseen_messages(bench):
    """The directory with messages from domains of their own; those that are there already are taken."""
    directory = bench.arguments.unseen or bench.directory / "unseen"
    if not (directory / "unseen.tsv").exists():
        directory.mkdir(parents=True, exist_ok=True)
        unseen.write(bench.arguments.corpus, directory, 1000 if bench.quick else 10000)
    return directory


def from_networks(bench, gate, directory, count, networks, messages):
    """Sends `messages` of the unseen over `count` sessions, shared out among clients in the networks of these numbers."""
    lines = (directory / "unseen.tsv").read_text().splitlines()[:messages]

    def send(place):
        network = networks[place]
        manifest = bench.directory / f"network{network}.tsv"
        manifest.write_text("".join(f"{directory}/{line}\n" for line in lines[place::len(networks)]))
        load = Load("", str(manifest.with_suffix("")), count // len(networks), 10)
        return generate(bench.arguments, load, gate.port, True, "--once", "--duration", 600,
                        "--client-ip", f"198.18.{network}.7")

    before = gate.cpu()
    with concurrent.futures.ThreadPoolExecutor(len(networks)) as pool:
        found = list(pool.map(send, range(len(networks))))
    for figures in found:
        bench.check(f"unseen, {count} sessions, {len(networks)} networks", figures)
    return {
        "rate": messages / max(figures["wall"] for figures in found),
        "cpu": (gate.cpu() - before) / messages * 1000,
        "eod_p50_ms": statistics.median(figures["eod_p50_ms"] for figures in found),
        "eod_p99_ms": max(figures["eod_p99_ms"] for figures in found),
    }


def dns(bench):
    """The same messages twice: first no answer is remembered, then all are. Each session waits for its reply, so that
    with a delay there can't be more messages a second than sessions divided by the delay, however look-ups overlap."""
    directory = unseen_messages(bench)
    print_head("4 KB, every domain unseen, 10 messages a session", "DNS after ms", "sessions", "client networks",
               "messages/s unseen", "warm", "unseen / warm", "of the possible", "CPU s / 1000 unseen", "warm",
               "dot to reply p50 / p99 ms unseen", "warm", "DNS questions a message")
    server = bench.stage.dns(directory / "zone")
    for delay, count, networks, messages in ((0, 50, 1, 10000), (50, 50, 1, 5000), (50, 1000, 1, 10000),
                                             (50, 1000, 10, 10000), (500, 50, 1, 1000), (500, 1000, 10, 10000)):
        messages = min(messages, 1000) if bench.quick else messages
        gate = bench.gate(bench.stage.delay(server, delay, f"delay{bench.gates}") if delay else server)
        cold, warm = (from_networks(bench, gate, directory, count, range(networks), messages) for _ in range(2))
        bound = min(warm["rate"], count / (delay / 1000) if delay else warm["rate"])
        asked = sum(value for series, value in gate.metrics().items() if series.startswith("dmarcgate_dns_queries_total"))
        print_row(delay, f"{count:,}", networks, f"{cold['rate']:.0f}", f"{warm['rate']:.0f}",
                  f"{cold['rate'] / warm['rate']:.2f}", f"{cold['rate'] / bound:.2f}",
                  f"{cold['cpu']:.3f}", f"{warm['cpu']:.3f}", latency(cold), latency(warm), f"{asked / messages:.1f}")
        gate.end()


def tls(bench):
    """The same load in the clear and under TLS, by a generator of its own: each session with a full handshake, or each thread
    offering the ticket of its last session, once it has one."""
    print_head("4 KB, 20 sessions at a time, DNS warm, TLS 1.3 with a P-256 certificate; a slower generator than above",
               "TLS", "handshakes", "messages a session", "messages/s", "handshakes/s", "of them resumed", "CPU s / 1000",
               "dot to reply p50 / p99 ms", "peak RSS MiB")
    server = bench.stage.dns(bench.arguments.corpus / "zone")
    seconds = 2 if bench.quick else 6
    for kind in ("off", "starttls", "implicit"):
        listener = {"address": "127.0.0.1:0", "tls": kind, "proxy_protocol_from": ["127.0.0.0/8"]}
        gate = bench.gate(server, certificate(bench.directory) | {"listener": [listener]})
        manifest = bench.arguments.corpus / "4k.tsv"
        tlsload.run(gate.port, kind, "full", manifest, 4, 10, 2)
        for handshakes in ("none",) if kind == "off" else ("full", "resumed"):
            for per_session in (1, 10):
                before = gate.cpu()
                waits, wrong, resumed = tlsload.run(gate.port, kind, handshakes, manifest, 20, per_session, seconds)
                if any(resumed) != (handshakes == "resumed"):
                    wrong[f"{sum(resumed)} of {len(resumed)} resumed"] = 1
                if wrong:
                    bench.broken = True
                    print(f"{kind}, {handshakes}: {dict(wrong)}", file=sys.stderr)
                shaken = (f"{len(resumed) / seconds:.0f}", f"{sum(resumed) / len(resumed):.0%}") if kind != "off" else ("", "")
                print_row(kind, handshakes, per_session, f"{len(waits) / seconds:.0f}", *shaken,
                          f"{(gate.cpu() - before) / len(waits) * 1000:.3f}",
                          f"{percentile(waits, 0.5):.2f} / {percentile(waits, 0.99):.2f}", f"{gate.memory():.0f}")
        gate.end()


def filler_zone(bench):
    """A zone in which one domain's SPF record asks for ten names that hang on the sender's local part, and all exist."""
    directory = bench.directory / "filler"
    directory.mkdir()
    terms = [f"include:{letter}.%{{l}}.fill.example" for letter in "abcdefghij"]
    record = " ".join(f'"{part}"' for part in (f"v=spf1 {' '.join(terms[:5])} ", f"{' '.join(terms[5:])} -all"))
    zone = (bench.arguments.corpus / "zone" / "root.zone").read_text()
    (directory / "root.zone").write_text(f"""{zone}
many.example. TXT {record}
_dmarc.many.example. TXT "v=DMARC1; p=none"
*.fill.example. TXT "v=spf1 ip4:203.0.113.0/24 ip6:2001:db8::/32 ?all"
""")
    return directory


def fill(bench, gate, begin, end):
    """Has so many answers remembered, ten for each message; gives CPU seconds for 1000 of these."""
    text = bench.directory / "filler.eml"
    text.write_bytes(b"From: <a@many.example>\r\nSubject: asks for ten names\r\n\r\nx\r\n")
    manifest = bench.directory / "filler.tsv"
    numbers = range(begin // 10, end // 10)
    lines = (f"filler.eml\tn{number}@many.example\tuser@rcpt.example\tfail-none\n" for number in numbers)
    manifest.write_text("".join(lines))
    load = Load("", str(manifest.with_suffix("")), 50, 10)
    return bench.load("filling the cache", gate, load, "--once", "--duration", 600)["cpu"]


def cache(bench):
    """One gate whose cache is filled by mail: each message asks for ten names that nobody has asked for before. Then the
    same through a cache that has been full for long, so that each answer drives out another."""
    print_head("4 KB, 50 sessions x 10, all answers remembered", "answers in the cache", "of at most", "messages/s",
               "CPU s / 1000", "dot to reply p50 / p99 ms", "RSS MiB", "CPU s / 1000 that asked for ten new names each")
    server = bench.stage.dns(filler_zone(bench))
    seconds = 2 if bench.quick else 6
    steps = (0, 2_000, 10_000) if bench.quick else (0, 10_000, 100_000, 1_000_000)
    for most, steps in ((2 * steps[-1], steps), (steps[1], (0, steps[-1] // 2))):
        gate = bench.warm_gate(server, {"dns.cache_entries": most})
        for before, entries in zip((0, *steps), steps):
            filling = fill(bench, gate, before, entries) if entries else None
            figures = bench.load(f"{entries} answers", gate, Load("", "4k", 50, 10), "--duration", seconds)
            print_row(f"{gate.metrics()['dmarcgate_dns_cache_entries']:,.0f}", f"{most:,}", f"{figures['rate']:.0f}",
                      f"{figures['cpu']:.3f}", latency(figures), f"{gate.memory('VmRSS'):.0f}",
                      f"{filling:.3f}" if filling else "")
        gate.end()


class Watch(threading.Thread):
    """Looks at a metric of a gate again and again; gives the most that it was."""

    def __init__(self, gate, series):
        super().__init__(daemon=True)
        self.gate, self.series, self.most, self.going = gate, series, 0.0, True
        self.start()

    def run(self):
        while self.going:
            self.most = max(self.most, self.gate.metrics()[self.series])
            time.sleep(0.2)

    def stop(self):
        self.going = False
        self.join()
        return self.most


class SqliteStore:
    """The file of the first gate."""

    name = "SQLite"
    settings = {"store.size": "64GiB"}
    numbers = """WITH RECURSIVE numbers (i) AS (SELECT {begin} UNION ALL SELECT i + 1 FROM numbers WHERE i < {end} - 1)
        INSERT INTO report_rows SELECT {values} FROM numbers, (SELECT * FROM report_rows LIMIT 1) AS known"""
    key = "randomblob(32)"

    def __init__(self, directory):
        self.path = directory / "gate1" / "dmarcgate.db"

    def columns(self):
        with contextlib.closing(sqlite3.connect(self.path)) as store:
            return [name for _, name, *_ in store.execute("PRAGMA table_info(report_rows)")]

    def run(self, statements):
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as store:
            store.execute("PRAGMA synchronous = OFF")
            store.execute("PRAGMA cache_size = -4000000")
            for statement in statements:
                store.execute(statement)
            store.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def size(self):
        return self.path.stat().st_size / 2**20

    def count(self):
        with contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as store:
            began = time.monotonic()
            store.execute("SELECT COUNT(*) FROM report_rows").fetchone()
            return (time.monotonic() - began) * 1000

    def cpu(self):
        """It has no process of its own."""
        return None


class PostgresStore:
    """A PostgreSQL of our own, as its package sets it up."""

    name = "PostgreSQL"
    numbers = """INSERT INTO report_rows SELECT {values}
        FROM generate_series({begin}::bigint, {end} - 1) AS i, (SELECT * FROM report_rows LIMIT 1) AS known"""
    key = "sha256(convert_to(i::text, 'UTF8'))"

    def __init__(self):
        self.server = Postgres()
        self.settings = {"store.url": self.server.url}

    def columns(self):
        return self.server.query("SELECT attname FROM pg_attribute WHERE attrelid = 'report_rows'::regclass AND attnum > 0"
                                 " ORDER BY attnum")

    def run(self, statements):
        for statement in (*statements, "VACUUM ANALYZE report_rows", "CHECKPOINT"):
            self.server.query(statement)

    def size(self):
        return int(self.server.query("SELECT pg_database_size('postgres')")[0]) / 2**20

    def count(self):
        *_, took = self.server.query("EXPLAIN (ANALYZE, TIMING OFF) SELECT COUNT(*) FROM report_rows")
        return float(took.split()[2])

    def cpu(self):
        """Seconds that all its processes have used."""
        return sum(tree(self.server.processes()).values())

    def close(self):
        self.server.end()


def insert_rows(store, begin, end):
    """Copies a row of the store: other domains and addresses, thirty days, the keys at random as hashes are."""
    today = int(time.time()) // 86400
    changed = {
        "row_key": store.key, "day": f"{today} - i % 30", "n": "1",
        "source_ip": "(i >> 24 & 255) || '.' || (i >> 16 & 255) || '.' || (i >> 8 & 255) || '.' || (i & 255)",
        "policy_domain": "'o' || (i % 100000) || '.example'", "header_from": "'o' || (i % 100000) || '.example'",
    }
    values = ", ".join(changed.get(name, f"known.{name}") for name in store.columns())
    steps = range(begin, end, 500_000)
    store.run(store.numbers.format(values=values, begin=step, end=min(step + 500_000, end)) for step in steps)


def with_store(store, gate, load, messages=None):
    """What `load` gives, with the CPU seconds of the store for 1000 messages, until no row waits any more."""
    before = store.cpu()
    figures = load()
    if before is not None:
        deadline = time.monotonic() + 60
        while gate.metrics()["dmarcgate_store_rows_pending"] and time.monotonic() < deadline:
            time.sleep(0.05)
        figures["store_cpu"] = (store.cpu() - before) / (messages or figures["total"]) * 1000
    return figures


def grow(bench, store, steps):
    """One store that grows by SQL while its gate is down. Rows that come again are added to what is there; those of
    domains that are new each make a row, and an index entry at random."""
    directory = unseen_messages(bench)
    costs = ("CPU s / 1000", *((f"of {store.name}",) if store.cpu() is not None else ()), "dot to reply p50 / p99 ms")
    print_head(f"4 KB, 50 sessions x 10, {store.name}", "rows before", "MiB", "count ms", "start ms", "RSS after it MiB",
               "messages/s, rows known", *costs, "messages/s, each a new row", *costs,
               "peak RSS MiB", "rows waiting at most", "rows lost", "stop ms")
    server = bench.stage.dns(directory / "zone")
    bench.warm_gate(server, store.settings).end()
    seconds, count = (2, 1000) if bench.quick else (6, 10000)

    def cost(figures):
        return (f"{figures['cpu']:.3f}", *([f"{figures['store_cpu']:.3f}"] if "store_cpu" in figures else []), latency(figures))

    for step, (before, target) in enumerate(zip((0, *steps), steps)):
        insert_rows(store, before, target)
        size, counting = store.size(), store.count()
        gate = bench.stage.gate("gate1", bench.sink.port, server.port, store.settings)
        rested, watch = gate.memory("VmRSS"), Watch(gate, "dmarcgate_store_rows_pending")
        bench.check("warming", generate(bench.arguments, WARM, gate.port, True, "--once", "--duration", 600))
        known = with_store(store, gate, lambda: bench.load(f"{target} rows", gate, Load("", "4k", 50, 10), "--duration", seconds))
        # The first time for DNS; each network makes rows of its own.
        from_networks(bench, gate, directory, 50, [2 * step], count)
        new = with_store(store, gate, lambda: from_networks(bench, gate, directory, 50, [2 * step + 1], count), count)
        waiting, peak, began = watch.stop(), gate.memory(), time.monotonic()
        told = gate.metrics().items()
        lost = sum(value for series, value in told if series.startswith("dmarcgate_store_rows_lost_total"))
        gate.end()
        print_row(f"{target:,}", f"{size:.0f}", f"{counting:.0f}", f"{gate.started * 1000:.0f}", f"{rested:.0f}",
                  f"{known['rate']:.0f}", *cost(known), f"{new['rate']:.0f}", *cost(new), f"{peak:.0f}",
                  f"{waiting:.0f}", f"{lost:.0f}", f"{(time.monotonic() - began) * 1000:.0f}")


def rows(bench):
    """The store as it is without a database server."""
    grow(bench, SqliteStore(bench.directory), (0, 10_000, 100_000) if bench.quick else (0, 100_000, 1_000_000, 10_000_000))


def postgres(bench):
    """The store in a PostgreSQL on the same machine, whose CPU is told beside the gate's."""
    with contextlib.closing(PostgresStore()) as store:
        grow(bench, store, (0, 10_000, 100_000) if bench.quick else (0, 100_000, 1_000_000))


PARTS = {part.__name__: part for part in (sessions, overload, dns, tls, cache, rows, postgres)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rig", type=pathlib.Path, required=True)
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--unseen", type=pathlib.Path, metavar="DIR",
                        help="where messages from domains of their own are, or shall stay: making them takes a minute or two")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS), help="parts: " + ", ".join(PARTS))
    parser.add_argument("binary", nargs="?", default="target/release/dmarcgate")
    arguments = parser.parse_args()
    raise_descriptors()
    broken = False
    for part in arguments.only.split(","):
        with tempfile.TemporaryDirectory() as directory:
            bench = Bench(arguments, pathlib.Path(directory))
            try:
                PARTS[part](bench)
            finally:
                bench.stage.end()
            broken |= bench.broken
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
