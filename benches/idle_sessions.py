#!/usr/bin/env python3
"""Measures what sessions at rest cost: memory for each, and whether mail flows on beside them.

    cargo build --release && benches/idle_sessions.py [--idle 10000] [--dripping 1000] [target/release/dmarcgate]

Opens idle sessions (half of them under TLS, by STARTTLS, each has said EHLO), then others that drip a message octet by
octet, and sends mail beside them. Needs Python 3.11, openssl, and as many descriptors as sessions, twice. Everything is on
loopback and in a temporary directory; exit code 1 if a session was refused or a message not delivered.
"""

import argparse
import asyncio
import pathlib
import ssl
import sys
import tempfile
import time

from stage import Stage, certificate, raise_descriptors

SETTINGS = {
    "listener": [{"address": "127.0.0.1:0", "tls": "starttls"}],
    "upstream.hold": "1s",
    "policy.mode": "monitor",
    "limits.data_rate": "0B",
}
EHLO = b"EHLO client.example\r\n"
MESSAGE = b"From: <a@a.example>\r\nSubject: flows on\r\n\r\n" + b"x" * 70 + b"\r\n.\r\n"


async def upstream(reader, writer):
    """An MTA that takes everything."""
    writer.write(b"220 mta ESMTP\r\n")
    while line := await reader.readline():
        verb = line[:4].upper()
        if verb == b"EHLO":
            writer.write(b"250-mta\r\n250-PIPELINING\r\n250 XCLIENT NAME ADDR\r\n")
        elif verb == b"XCLI":
            writer.write(b"220 mta ESMTP\r\n")
        elif verb == b"DATA":
            writer.write(b"354 go\r\n")
            while (await reader.readline()) != b".\r\n":
                pass
            writer.write(b"250 2.0.0 queued\r\n")
        elif verb == b"QUIT":
            break
        else:
            writer.write(b"250 2.0.0 Ok\r\n")
    writer.close()


class Nowhere(asyncio.DatagramProtocol):
    """A name server in whose world no name exists."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, query, client):
        # The question ends behind its name, type and class; what follows (EDNS) is left out.
        end = query.index(b"\0", 12) + 5
        self.transport.sendto(query[:2] + b"\x81\x83\0\1\0\0\0\0\0\0" + query[12:end], client)


class Session:
    """One SMTP client."""

    def __init__(self, port, tls):
        self.port, self.tls = port, tls

    async def open(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=4096)
        await self.reply(220)
        await self.command(EHLO, 250)
        if self.tls:
            await self.command(b"STARTTLS\r\n", 220)
            await self.writer.start_tls(self.tls)
            await self.command(EHLO, 250)
        return self

    async def command(self, line, code):
        self.writer.write(line)
        return await self.reply(code)

    async def reply(self, code):
        line = await self.reader.readline()
        while line[3:4] == b"-":
            line = await self.reader.readline()
        if line[:3] != str(code).encode():
            raise ConnectionError(f"{code} was due, {line!r} came")

    async def envelope(self):
        await self.command(b"MAIL FROM:<a@a.example>\r\n", 250)
        await self.command(b"RCPT TO:<x@b.example>\r\n", 250)
        await self.command(b"DATA\r\n", 354)


async def drip(session, pause):
    """A byte each `pause` seconds, for ever."""
    try:
        while True:
            session.writer.write(b"x")
            await session.writer.drain()
            await asyncio.sleep(pause)
    except (ConnectionError, asyncio.CancelledError):
        pass


async def open_all(port, count, tls):
    """Opens sessions, some at a time."""
    room = asyncio.Semaphore(100)

    async def one():
        async with room:
            return await Session(port, tls).open()

    return await asyncio.gather(*(one() for _ in range(count)))


async def deliver(port, count):
    """Sends messages in sessions of their own; gives the seconds that each took from its dot to its reply."""
    times = []
    for _ in range(count):
        session = await Session(port, None).open()
        await session.envelope()
        began = time.monotonic()
        await session.command(MESSAGE, 250)
        times.append(time.monotonic() - began)
        session.writer.close()
    return sorted(times)


async def measure(arguments, directory):
    server = await asyncio.start_server(upstream, "127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    dns, _ = await loop.create_datagram_endpoint(Nowhere, local_addr=("127.0.0.1", 0))
    ports = server.sockets[0].getsockname()[1], dns.get_extra_info("sockname")[1]
    stage = Stage(directory, arguments.binary)
    gate = stage.gate("gate", *ports, certificate(directory) | SETTINGS)
    port = gate.port
    try:
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        await deliver(port, 3)
        before = gate.memory("VmRSS")
        print(f"at rest, no session:      {before:8.1f} MiB")
        half = arguments.idle // 2
        sessions = await open_all(port, half, None)
        plain = gate.memory("VmRSS")
        print(f"{half:6} idle, plain:       {plain:8.1f} MiB, {(plain - before) * 1024 / half:6.1f} KiB each")
        sessions += await open_all(port, half, tls)
        both = gate.memory("VmRSS")
        print(f"{half:6} idle under TLS:    {both:8.1f} MiB, {(both - plain) * 1024 / half:6.1f} KiB each")
        dripping = await open_all(port, arguments.dripping, None)
        for session in dripping:
            await session.envelope()
        drips = [asyncio.ensure_future(drip(session, 1)) for session in dripping]
        await asyncio.sleep(5)
        all_of_them = gate.memory("VmRSS")
        each = (all_of_them - both) * 1024 / max(arguments.dripping, 1)
        print(f"{arguments.dripping:6} dripping:          {all_of_them:8.1f} MiB, {each:6.1f} KiB each")
        times = await deliver(port, 200)
        p50, p99 = times[100] * 1000, times[197] * 1000
        print(f"mail beside them:         p50 {p50:.1f} ms, p99 {p99:.1f} ms to the reply, 200 of 200")
        for task in drips:
            task.cancel()
        for session in sessions[:: max(len(sessions) // 100, 1)]:
            await session.command(b"NOOP\r\n", 250)
        print("idle sessions:            alive")
    finally:
        gate.process.kill()
        gate.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--idle", type=int, default=10000)
    parser.add_argument("--dripping", type=int, default=1000)
    parser.add_argument("binary", nargs="?", default="target/release/dmarcgate")
    arguments = parser.parse_args()
    raise_descriptors()
    with tempfile.TemporaryDirectory() as directory:
        try:
            asyncio.run(measure(arguments, pathlib.Path(directory)))
        except ConnectionError as error:
            print(error, (pathlib.Path(directory) / "gate.log").read_text()[-2000:], sep="\n", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
