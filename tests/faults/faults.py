"""What is broken. Each fault is there while its context is entered; it takes the world, and its random numbers."""

import asyncio
import contextlib
import dataclasses
import signal
import typing

from .world import fill


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault: its name in the table, how it is made, and how many seconds it lasts at most (0: it is over at once)."""

    name: str
    make: typing.Callable
    longest: float = 6.0
    # Whether it ends the gate's process.
    deadly: bool = False
    # What the world must have: "disks", "clock", "postgres".
    needs: str = ""
    # What is said of it where something does not hold; its name, but for pairs.
    title: str = ""


def together(first, second):
    """Both at once; None where they can't be: one would mend what the other has broken, or rows may wait in memory alone."""
    names = f"{first.name} + {second.name}"
    spoils = (
        first is second,
        any(names.count(what) > 1 for what in ("disk full", "certificate", "configuration", "PostgreSQL")),
        (first.deadly or second.deadly) and any(
            what in names for what in ("spool", "SIGSTOP", "descriptors", "configuration", "certificate")),
        first.deadly and second.deadly,
    )
    if any(spoils):
        return None

    @contextlib.asynccontextmanager
    async def make(world, random):
        # A gate that dies of one may not be able to start for the other.
        world.gate.expect_deaths = first.deadly or second.deadly
        async with first.make(world, random), second.make(world, random):
            yield

    longest = max(first.longest, second.longest)
    return Fault("two at once", make, longest, first.deadly or second.deadly, title=names)


def killed(name):
    """kill -9; the gate comes back at once, others when the fault is over."""

    @contextlib.asynccontextmanager
    async def make(world, _random):
        process = getattr(world, name)
        if name == "gate":
            world.killed()
            process.signal(signal.SIGKILL)
            yield
            return
        process.wanted.clear()
        process.signal(signal.SIGKILL)
        yield
        process.wanted.set()

    return make


@contextlib.asynccontextmanager
async def terminated(world, _random):
    """SIGTERM, as an upgrade sends it."""
    world.gate.signal(signal.SIGTERM)
    yield


def stopped(name):
    """SIGSTOP, and SIGCONT when it is over."""

    @contextlib.asynccontextmanager
    async def make(world, _random):
        process = getattr(world, name)
        process.signal(signal.SIGSTOP)
        yield
        process.signal(signal.SIGCONT)

    return make


def cut(name):
    """Nothing goes through; then it goes on, or all connections are torn."""

    @contextlib.asynccontextmanager
    async def make(world, random):
        for wire in world.wires[name]:
            wire.cut()
        yield
        for wire in world.wires[name]:
            if random.random() < 0.5:
                wire.tear()
            wire.mend()

    return make


def deaf(name):
    """What is sent arrives, the replies do not; then all connections are torn."""

    @contextlib.asynccontextmanager
    async def make(world, _random):
        for wire in world.wires[name]:
            wire.deafen()
        yield
        for wire in world.wires[name]:
            wire.tear()
            wire.mend()

    return make


def delayed(name):
    """Each octet takes up to 0.4 s longer."""

    @contextlib.asynccontextmanager
    async def make(world, random):
        for wire in world.wires[name]:
            wire.delay = random.uniform(0.05, 0.4)
        yield
        for wire in world.wires[name]:
            wire.mend()

    return make


def torn(name):
    """Connections are reset, again and again."""

    @contextlib.asynccontextmanager
    async def make(world, random):
        async def tear():
            while True:
                for wire in world.wires[name]:
                    wire.tear()
                await asyncio.sleep(random.uniform(0.01, 0.3))

        task = asyncio.create_task(tear())
        yield
        task.cancel()

    return make


def refused(name):
    """Nobody listens, and connections that were there are reset."""

    @contextlib.asynccontextmanager
    async def make(world, _random):
        for wire in world.wires[name]:
            await wire.close()
        yield
        for wire in world.wires[name]:
            await wire.open(world.ports.get(name))

    return make


def full(*names):
    """No room is left on the disks of the spool, of the store, or of both."""

    @contextlib.asynccontextmanager
    async def make(world, _random):
        ballast = [fill(world.base / name) for name in names]
        yield
        for path in ballast:
            path.unlink()

    return make


@contextlib.asynccontextmanager
async def full_and_killed(world, _random):
    """The store's disk is full, and the gate dies: it starts when there is room, with the rows of its spill file."""
    ballast = fill(world.base / "store")
    await asyncio.sleep(2)
    world.gate.expect_deaths = True
    world.killed()
    world.gate.signal(signal.SIGKILL)
    yield
    ballast.unlink()


@contextlib.asynccontextmanager
async def clock_jumps(world, random):
    """The wall clock jumps by up to two days, to and fro, and back at the end."""
    world.clock.jump(random.choice([-1, 1]) * random.choice([61, 3700, 90000, 172800]))
    yield
    world.clock.jump(0)


@contextlib.asynccontextmanager
async def no_descriptors(world, random):
    """The process may open hardly any descriptors more, or has more than it may."""
    world.limit_files(max(8, world.usage()["fds"] + random.randint(-10, 5)))
    yield
    world.limit_files(None)


def broken_file(name, and_killed=False):
    """The certificate or the configuration is broken and read anew; with `and_killed` the gate starts with it, in vain."""

    @contextlib.asynccontextmanager
    async def make(world, random):
        path = world.base / name
        whole = path.read_bytes()
        path.write_bytes(random.choice([b"", whole[:len(whole) // 2], b"\0garbage\n" + whole]))
        if and_killed:
            world.gate.expect_deaths = True
            world.killed()
            world.gate.signal(signal.SIGKILL)
        else:
            world.gate.signal(signal.SIGHUP)
        yield
        if name == "cert.pem" and not and_killed:
            world.write_certificate()
        else:
            path.write_bytes(whole)
        if not and_killed:
            world.gate.signal(signal.SIGHUP)

    return make


@contextlib.asynccontextmanager
async def reloaded(world, _random):
    """SIGHUP, again and again."""

    async def reload():
        while True:
            world.gate.signal(signal.SIGHUP)
            await asyncio.sleep(0.05)

    task = asyncio.create_task(reload())
    yield
    task.cancel()


def database(how):
    """PostgreSQL is restarted, stopped for a while, killed, or does not answer."""

    @contextlib.asynccontextmanager
    async def make(world, _random):
        await asyncio.to_thread(world.postgres.fail, how)
        yield
        await asyncio.to_thread(world.postgres.mend, how)

    return make


FAULTS = [
    Fault("gate: kill -9", killed("gate"), 0, deadly=True),
    Fault("upstream: kill -9", killed("mta")),
    Fault("DNS: kill -9", killed("dns")),
    Fault("gate: SIGSTOP", stopped("gate")),
    Fault("upstream: SIGSTOP", stopped("mta")),
    Fault("DNS: SIGSTOP", stopped("dns")),
    *(Fault(f"{wire} wire: {what}", make(wire))
      for wire in ("client", "upstream", "dns")
      for what, make in (("cut", cut), ("delay", delayed), ("reset", torn), ("refused", refused))),
    Fault("client wire: no replies", deaf("client")),
    Fault("upstream wire: no replies", deaf("upstream")),
    Fault("spool: disk full", full("spool"), needs="disks"),
    Fault("store: disk full", full("store"), needs="disks"),
    Fault("spool, store: disk full", full("spool", "store"), needs="disks"),
    Fault("store: disk full, kill -9", full_and_killed, 3, deadly=True, needs="disks"),
    Fault("gate: clock jumps", clock_jumps, needs="clock"),
    Fault("gate: no descriptors", no_descriptors),
    Fault("certificate broken, reload", broken_file("cert.pem")),
    Fault("certificate broken, kill -9", broken_file("cert.pem", and_killed=True), 3, deadly=True),
    Fault("configuration broken, reload", broken_file("dmarcgate.toml")),
    Fault("gate: SIGHUP storm", reloaded),
    Fault("gate: SIGTERM", terminated, 0, deadly=True),
    *(Fault(f"PostgreSQL: {how}", database(how), longest, needs="postgres")
      for how, longest in (("restart", 0), ("stopped", 6), ("kill -9", 6), ("SIGSTOP", 6))),
]

# Those of the smoke test, in their order, and how long they last.
QUICK = {
    "gate: kill -9": 0, "upstream: kill -9": 0.5, "DNS: kill -9": 0.5, "gate: SIGSTOP": 0.5, "upstream: SIGSTOP": 0.5,
    "upstream wire: reset": 0.7, "client wire: no replies": 0.5, "upstream wire: no replies": 0.5,
    "spool, store: disk full": 1, "gate: clock jumps": 0.5, "gate: no descriptors": 1, "certificate broken, reload": 0.5,
}
