"""One run: the load, the faults one after another, what each has cost, and the verdict."""

import asyncio
import collections
import dataclasses
import random
import re
import statistics
import time

from .faults import FAULTS, QUICK, together
from .ledger import Ledger
from .load import Load, Outcome
from .messages import Kind

# Seconds from the end of a fault within which mail has to flow again, and within which all that was put off for it has
# gone. Most of them are for slow machines.
FLOWS, SETTLES = 15.0, 30.0
# How often a fault is followed by a pair of faults.
PAIRS = 0.3
# What a gate at rest may have more than at its first rest: descriptors, threads (those for blocking work end after ten
# seconds), KiB.
MORE = {"fds": 8, "threads": 24, "rss": 48 << 10}
# What is 0 in a gate at rest.
AT_REST = ("dmarcgate_sessions_active", "dmarcgate_upstream_connections_open", "dmarcgate_spool_memory_bytes")


@dataclasses.dataclass
class Tally:
    """What one kind of fault has cost, over all times it was injected."""

    injected: int = 0
    outcomes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    duplicates: int = 0
    flows: list = dataclasses.field(default_factory=list)
    settles: list = dataclasses.field(default_factory=list)
    problems: int = 0
    # What clients heard that had to keep their messages.
    replies: collections.Counter = dataclasses.field(default_factory=collections.Counter)


class Run:
    """A run by the command line's `arguments`, in a world that has yet to start."""

    def __init__(self, arguments, world, signer):
        self._arguments, self._world = arguments, world
        self._random = random.Random(arguments.seed)
        self._ledger = Ledger(world.mail)
        world.killed = lambda: self._ledger.kills.append(time.monotonic())
        self._load = Load(signer, arguments.seed, arguments.clients)
        self._load.ended = lambda message, attempt: self._ended.append((message, attempt))
        self._tallies = collections.defaultdict(Tally)
        self._problems = []
        # What ended while the fault of now was there or settled: (message, attempt).
        self._ended = []
        # What the gate had at each rest: (start of the process, usage).
        self._rests = []

    async def run(self):
        """Does it all and prints it; whether everything held."""
        self._began = self._ledger.began = time.monotonic()
        try:
            await self._world.start()
            self._load.start([wire.port for wire in self._world.wires["client"]])
            await asyncio.sleep(1)
            await self._examine(self._tallies["(none)"], "no fault")
            for fault, hold in self._plan():
                await self._inject(fault, hold)
            await self._drain()
        finally:
            await self._load.stop()
            code = await self._world.stop()
        if code != 0:
            self._problem(None, f"the gate's exit code is {code}")
        self._usage_is_flat()
        self._print(time.monotonic() - self._began)
        return not self._problems

    def _plan(self):
        """The faults, each with how long it lasts."""
        world = self._world
        has = {"": True, "disks": world.small_disks, "clock": world.clock is not None,
               "postgres": world.postgres is not None}
        possible = [fault for fault in FAULTS if has[fault.needs]]
        missing = [fault.name for fault in FAULTS if not has[fault.needs]]
        if missing:
            print("can't be injected here: " + ", ".join(missing), flush=True)
        if self._arguments.only:
            possible = [fault for fault in possible if self._arguments.only in fault.name]
        if self._arguments.quick:
            by_name = {fault.name: fault for fault in possible}
            yield from ((by_name[name], hold) for name, hold in QUICK.items() if name in by_name)
            return
        began, length = time.monotonic(), self._arguments.minutes * 60
        while (elapsed := time.monotonic() - began) < length:
            # The last third is one life of the gate's process, to see whether it grows.
            alive = [fault for fault in possible if elapsed < length * 2 / 3 or not fault.deadly]
            for fault in self._random.sample(alive, len(alive)) or [None]:
                if fault is None or time.monotonic() - began > length:
                    return
                yield fault, self._random.uniform(min(0.3, fault.longest), fault.longest)
                pair = self._random.random() < PAIRS and together(fault, self._random.choice(alive))
                if pair:
                    yield pair, self._random.uniform(0.3, pair.longest)

    async def _inject(self, fault, hold):
        """Breaks it, mends it, waits until all is well, and looks."""
        tally = self._tallies[fault.name]
        tally.injected += 1
        title = fault.title or fault.name
        # Until clients are at every point of a transaction.
        await asyncio.sleep(self._random.uniform(0.5, 1.0))
        async with fault.make(self._world, self._random):
            await asyncio.sleep(hold)
        over = time.monotonic()
        rest = 0.5 if self._arguments.quick else 1.0
        flows = None
        while True:
            await asyncio.sleep(0.02)
            since = time.monotonic() - over
            trouble = over
            for message, attempt in self._ended:
                if attempt.ended < over:
                    continue
                if attempt.outcome is Outcome.ACCEPTED and attempt.began >= over and flows is None:
                    flows = attempt.ended - over
                if message.kind.honest and attempt.outcome not in (Outcome.ACCEPTED, Outcome.REFUSED):
                    trouble = attempt.ended
            if flows is not None and time.monotonic() - trouble > rest and not self._load.honest_waiting:
                break
            if since > SETTLES:
                break
        if flows is None or flows > FLOWS:
            self._problem(tally, f"{title}: no mail for {since if flows is None else flows:.1f} s after it")
        if since > SETTLES:
            self._problem(tally, f"{title}: mail is put off for more than {since:.1f} s after it")
        tally.flows.append(flows if flows is not None else since)
        tally.settles.append(trouble - over)
        if self._arguments.verbose:
            print(f"{over - self._began:7.1f} s  end of {title}, {hold:.1f} s: mail flows after "
                  f"{tally.flows[-1]:.1f} s, all is well after {tally.settles[-1]:.1f} s", flush=True)
        await self._examine(tally, title)

    async def _examine(self, tally, name):
        """Lets the load rest and looks at everything."""
        await self._load.pause()
        await self._world.settled()
        self._ledger.read()
        ended, self._ended = self._ended, []
        tally.outcomes.update(attempt.outcome for _, attempt in ended)
        tally.replies.update(anonymous(attempt.reply) for _, attempt in ended
                             if attempt.outcome not in (Outcome.ACCEPTED, Outcome.REFUSED))
        touched = {message.number: message for message, _ in ended}.values()
        tally.duplicates += sum(map(self._ledger.duplicates, touched))
        for problem in self._ledger.broken(touched):
            self._problem(tally, f"{name}: {problem}")
        for error in self._load.failed_tasks():
            raise error
        for process in ("gate", "mta", "dns"):
            for code in getattr(self._world, process).deaths:
                self._problem(tally, f"{name}: {process} ended by itself with {code}\n{self._world.log()}")
            getattr(self._world, process).deaths.clear()
        self._world.gate.expect_deaths = False
        await self._rest(tally, name)
        self._load.running.set()

    async def _rest(self, tally, name):
        """Holds the gate to having nothing under way while nobody talks to it."""
        deadline = time.monotonic() + 15
        while True:
            metrics = await self._world.metrics()
            busy = {name: metrics.get(name) for name in AT_REST if metrics.get(name) != 0}
            if not busy:
                break
            if time.monotonic() > deadline:
                self._problem(tally, f"{name}: at rest the gate still has {busy}")
                break
            await asyncio.sleep(0.05)
        if any(value for series, value in metrics.items() if series.startswith("dmarcgate_store_rows_lost_total")):
            self._problem(tally, f"{name}: the gate has lost rows by its own count")
        if metrics.get("dmarcgate_panics_total"):
            self._problem(tally, f"{name}: panics\n{self._world.log()}")
        self._rests.append((self._world.gate.starts, self._world.usage()))

    async def _drain(self):
        """Every client gets rid of what it has; then rows are counted."""
        self._load.draining = True
        deadline = time.monotonic() + 60
        while self._load.open_messages and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        tally = self._tallies["(at the end)"]
        await self._examine(tally, "at the end")
        messages = self._load.messages
        stuck = [m for m in messages if m.attempts[-1].outcome not in (Outcome.ACCEPTED, Outcome.REFUSED)]
        for message in stuck:
            self._problem(tally, f"still with its client: {message.message_id} {message.attempts[-1]}")
        for problem in self._ledger.broken(messages) + self._ledger.strangers(messages):
            if problem not in self._problems:
                self._problem(tally, problem)
        await self._rows(tally, messages)

    async def _rows(self, tally, messages):
        """Waits for the store to have all rows, and compares."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            metrics = await self._world.metrics()
            if metrics.get("dmarcgate_store_rows_pending") == 0 and metrics.get("dmarcgate_store_spill_rows") == 0:
                break
            await asyncio.sleep(0.1)
        else:
            self._problem(tally, "the store has not taken all rows within a minute")
        for problem in self._ledger.rows(messages, await asyncio.to_thread(self._world.rows) or {}):
            self._problem(tally, problem)

    def _usage_is_flat(self):
        """Compares the first and the last rests of each life of the gate that had some."""
        lives = collections.defaultdict(list)
        for life, usage in self._rests:
            lives[life].append(usage)
        self._longest = max(lives.values(), key=len)
        for samples in lives.values():
            if len(samples) < 6:
                continue
            for what, more in MORE.items():
                # What grew while caches filled is no leak: the second third is compared with the last.
                third = len(samples) // 3
                before, after = (statistics.median(s[what] for s in part) for part in
                                 (samples[third:2 * third], samples[-third:]))
                if after > before + more:
                    self._problem(None, f"{what} of the gate at rest grew from {before} to {after}")

    def _problem(self, tally, text):
        if tally is not None:
            tally.problems += 1
        self._problems.append(text)
        if len(self._problems) <= 50:
            print(f"BROKEN: {text}", flush=True)

    def _print(self, took):
        """The table, and the sum of it all."""
        columns = ("injected", "attempts", *(each.value for each in Outcome), "copies", "flows", "settled", "verdict")
        print(f"{'fault':32}" + "".join(f"{each:>10}" for each in columns))
        for name, tally in self._tallies.items():
            most = [f"{max(times):.1f} s" if times else "-" for times in (tally.flows, tally.settles)]
            cells = [tally.injected, tally.outcomes.total(), *(tally.outcomes[each] for each in Outcome),
                     tally.duplicates, *most, "broken" if tally.problems else "holds"]
            print(f"{name:32}" + "".join(f"{each:>10}" for each in cells))
        if self._arguments.verbose:
            for name, tally in self._tallies.items():
                for reply, count in tally.replies.most_common():
                    print(f"{name:32}{count:>10} {reply}")
        messages = self._load.messages
        known = collections.Counter(m.attempts[-1].outcome for m in messages)
        print(f"seed {self._arguments.seed}, {took:.0f} s, {len(messages)} messages in "
              f"{sum(len(m.attempts) for m in messages)} attempts: {known[Outcome.ACCEPTED]} accepted, "
              f"{known[Outcome.REFUSED]} refused; copies beyond the first: "
              f"{sum(map(self._ledger.duplicates, messages))}; starts of the gate: {self._world.gate.starts}")
        doubts = sum(m.kind is Kind.FORGED and m.attempts[-1].outcome is Outcome.ACCEPTED for m in messages)
        print(f"forgeries under p=reject that came through marked dmarc=temperror, since DNS was broken: {doubts}")
        print(f"rows lost to kill -9: {self._ledger.lost_rows} of {len(self._ledger.kills)} kills, the oldest "
              f"{self._ledger.oldest_lost:.2f} s before")
        rests = [self._longest[at * (len(self._longest) - 1) // 4] for at in range(5)]
        print(f"longest life of the gate, {len(self._longest)} rests, at its beginning, quarters and end: " + "; ".join(
            f"{what} {', '.join(str(rest[what]) for rest in rests)}" for what in MORE))
        print("everything holds" if not self._problems else f"{len(self._problems)} things are broken")


def anonymous(reply):
    """A reply without what is in it of one message."""
    return re.sub(r"\bm\d+\.|\bid \S+", "", reply)
