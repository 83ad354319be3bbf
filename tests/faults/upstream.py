"""The mail server behind the gate: a process that writes down each message before it says 250.

    python3 -m tests.faults.upstream PORT JOURNAL

A line of the journal is a JSON object for one message; it is written by one system call before the reply, so that it
outlives the process. The server sees clients by XCLIENT, takes mail for example.net alone, and refuses a message by
its Subject in its own words.
"""

import asyncio
import hashlib
import json
import os
import random
import sys

from .wire import REFUSAL, UNWANTED, read_data

EXTENSIONS = (
    b"250-mta.example.net\r\n250-PIPELINING\r\n250-SIZE 33554432\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n"
    b"250 XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n"
)


class Server:
    """Serves, and keeps the journal."""

    def __init__(self, path):
        self._journal = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    async def serve(self, reader, writer):
        """One connection."""
        try:
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def _converse(self, reader, writer):
        client = None
        writer.write(b"220 mta.example.net ESMTP\r\n")
        while line := await reader.readline():
            verb, _, rest = line.decode("latin-1").strip().partition(" ")
            match verb.upper():
                case "EHLO":
                    writer.write(EXTENSIONS)
                case "XCLIENT":
                    named = dict(pair.split("=", 1) for pair in rest.split())
                    client = named.get("ADDR", client)
                    writer.write(b"220 mta.example.net ESMTP\r\n")
                case "RCPT":
                    mine = rest.lower().rstrip(">").endswith("@example.net")
                    writer.write(b"250 2.1.5 Ok\r\n" if mine else b"550 5.7.1 Relaying denied\r\n")
                case "DATA":
                    writer.write(b"354 Go\r\n")
                    reply = self._take(client, await read_data(reader))
                    # Time for what breaks between the message and the reply to it.
                    await asyncio.sleep(random.choice((0, 0.01, 0.02, 0.3)))
                    writer.write(reply)
                case "QUIT":
                    writer.write(b"221 2.0.0 Bye\r\n")
                    return
                case _:
                    writer.write(b"250 2.0.0 Ok\r\n")

    def _take(self, client, content):
        """Writes the message down; the reply."""
        head, _, body = content.partition(b"\r\n\r\n")
        fields = {}
        for field in head.replace(b"\r\n\t", b" ").replace(b"\r\n ", b" ").split(b"\r\n"):
            name, _, value = field.decode("latin-1").partition(":")
            # The first counts: what the gate writes stands on top.
            fields.setdefault(name.lower(), value.strip())
        if fields.get("subject", "").startswith(UNWANTED):
            return REFUSAL.encode() + b"\r\n"
        entry = {
            "message": fields.get("message-id"), "attempt": int(fields.get("x-attempt", 0)), "client": client,
            "results": fields.get("authentication-results", ""), "tag": fields.get("x-dmarc-fail-policy"),
            "body": hashlib.sha256(body).hexdigest(),
        }
        os.write(self._journal, json.dumps(entry).encode() + b"\n")
        return b"250 2.0.0 Stored\r\n"


class Journal:
    """Reads on in the journal as it grows."""

    def __init__(self, path):
        self._path, self._at = path, 0

    def entries(self):
        """What has come since it was last asked."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        whole = data[:data.rfind(b"\n") + 1]
        self._at += len(whole)
        yield from map(json.loads, whole.splitlines())


async def main(port, journal):
    server = await asyncio.start_server(Server(journal).serve, "127.0.0.1", port, limit=1 << 20, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
