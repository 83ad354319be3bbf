"""A real Postfix as the mail server, that of the interop tests, with as much of `Process` as faults need."""

import asyncio
import hashlib
import os
import pathlib
import re
import signal
import sys

sys.path.append(str(pathlib.Path(__file__).parents[1] / "interop"))

from postfix import Postfix  # noqa: E402

# The client as Postfix sees it, and the name of the message in its queue.
RECEIVED = re.compile(
    rb"^Received: from client\.test \(\S+ \[([^]]+)\]\)\s+by mta\.example\.net \(Postfix\) with \w+\s+id (\w+)", re.M)


def is_complete(path):
    """Whether Postfix answers for it: it makes a file executable when it has all of it."""
    try:
        return path.is_file() and path.stat().st_mode & 0o100
    except FileNotFoundError:
        return False


class RealServer:
    """Postfix: `kill -9` and SIGSTOP are those of all its processes."""

    def __init__(self):
        self._postfix = Postfix()
        self.port = self._postfix.xclient[1]
        self.deaths = []
        # Set: it shall run.
        self.wanted = self
        self._seen = set()
        # Queue ids of what has been read: Postfix itself may deliver twice what it was killed over.
        self._ids = set()

    def start(self):
        """It runs already."""

    def signal(self, which):
        """Sends all its processes a signal."""
        main = int((self._postfix.base / "queue" / "pid" / "master.pid").read_text())
        family = [main]
        for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(entry.read_text().rpartition(")")[2].split()[1]) == main:
                    family.append(int(entry.parent.name))
            except OSError:
                continue
        for pid in family:
            try:
                os.kill(pid, which)
            except ProcessLookupError:
                continue

    def clear(self):
        """It is not started again until `set`; nobody does that for Postfix anyway."""

    def set(self):
        """Starts it after a kill."""
        self._postfix.start()

    async def end(self):
        """Ends it for good."""
        await asyncio.to_thread(self.stop)

    def stop(self):
        """The same. Safe to call twice."""
        if self._postfix.base.exists():
            self.signal(signal.SIGCONT)
        self._postfix.stop()

    async def settled(self):
        """Waits until all that it has taken is in the mailbox."""
        queue = self._postfix.base / "queue"
        for _ in range(1500):
            waits = [path for name in ("maildrop", "incoming", "active", "deferred")
                     for path in (queue / name).rglob("*") if is_complete(path)]
            if not waits:
                return
            await asyncio.sleep(0.02)
        raise RuntimeError(f"Postfix does not deliver {waits[:3]}\n{self._postfix.log()[-3000:]}")

    def entries(self):
        """What came into the mailbox since it was last asked, as the journal of the scripted server has it."""
        for path in self._postfix.mailbox():
            if path.name in self._seen:
                continue
            self._seen.add(path.name)
            head, _, body = path.read_bytes().partition(b"\n\n")
            client, queue_id = (part.decode() for part in RECEIVED.search(head).groups())
            if queue_id in self._ids:
                continue
            self._ids.add(queue_id)
            fields = {}
            for field in re.sub(rb"\n[ \t]+", b" ", head).split(b"\n"):
                name, _, value = field.decode("latin-1").partition(":")
                fields.setdefault(name.lower(), value.strip())
            yield {
                "message": fields.get("message-id"), "attempt": int(fields["x-attempt"]), "client": client,
                "results": fields.get("authentication-results", ""), "tag": fields.get("x-dmarc-fail-policy"),
                "body": hashlib.sha256(body.replace(b"\n", b"\r\n")).hexdigest(),
            }
