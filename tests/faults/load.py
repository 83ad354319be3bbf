"""The clients: they send, keep what nobody has taken, and send it again."""

import asyncio
import collections
import dataclasses
import enum
import random
import ssl
import time

from .messages import KINDS, SIZES, Kind, Message, content
from .wire import read_reply, stuffed

# As long as a client waits for anything.
PATIENCE = 12.0
# Until a message that was put off comes again, and a client that was turned away.
PAUSE = 0.15


class Outcome(enum.Enum):
    """What a client knows of one attempt."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    DEFERRED = "deferred"
    # The connection or the client's patience ended before the final dot was sent.
    BROKEN = "broken"
    # The same after it: nobody knows who has the message.
    UNKNOWN = "unknown"


@dataclasses.dataclass(slots=True)
class Attempt:
    """One transaction of one message. Times are of the monotonic clock."""

    number: int
    began: float
    client: str
    dot: float | None = None
    ended: float | None = None
    outcome: Outcome | None = None
    reply: str = ""


class Load:
    """Clients that send for as long as `running` is set; all that they know stays in `messages`."""

    def __init__(self, signer, seed, workers):
        self._signer = signer
        self._random = random.Random(seed)
        self._tls = ssl.create_default_context()
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        self._workers = workers
        self._tasks = []
        self._busy = 0
        self._sending = 0
        self._waiting = collections.deque()
        self.messages = []
        self.running = asyncio.Event()
        # Called with each message and attempt that has ended.
        self.ended = lambda message, attempt: None
        # No new messages, only those that wait.
        self.draining = False

    def start(self, ports):
        """Starts the clients; `ports` are those for plain text and for STARTTLS."""
        self._ports = ports
        self._tasks = [asyncio.create_task(self._client(at)) for at in range(self._workers)]
        self.running.set()

    async def stop(self):
        """Ends them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def pause(self):
        """Lets no transaction begin, and waits for those that run."""
        self.running.clear()
        while self._busy:
            await asyncio.sleep(0.01)

    @property
    def open_messages(self):
        """How many nobody has taken or refused; those on their way count."""
        return len(self._waiting) + self._sending

    @property
    def honest_waiting(self):
        """Whether an honest message waits to be sent again."""
        return any(message.kind.honest for _, message in self._waiting)

    def failed_tasks(self):
        """What the harness itself has done wrong."""
        return [task.exception() for task in self._tasks if task.done() and not task.cancelled()]

    async def _client(self, at):
        while True:
            await self.running.wait()
            self._busy += 1
            try:
                content_with_it = await self._session(at)
            finally:
                self._busy -= 1
            # A client that got nowhere waits a little.
            await asyncio.sleep(PAUSE if not content_with_it else self._random.uniform(0, 0.1))

    async def _session(self, at):
        """One session of some messages from one client; whether all went well."""
        message = self._next()
        if message is None:
            return False
        tls = at % 3 == 0
        client = message.client
        attempt = self._attempt(message, client)
        writer = None
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._ports[tls], limit=1 << 16)
                writer.write(f"PROXY TCP4 {client} 192.0.2.25 40025 25\r\n".encode())
            await self._hello(reader, writer, tls)
            for left in reversed(range(self._random.randint(1, 4))):
                await self._transaction(reader, writer, message, attempt)
                if not left or not self.running.is_set() or attempt.outcome is Outcome.DEFERRED:
                    break
                # The next of this session has to come from the same network.
                following = self._next(message.kind)
                if following is None:
                    break
                message, attempt = following, self._attempt(following, client)
            writer.write(b"QUIT\r\n")
        except Turned as turned:
            self._end(message, attempt, turned.outcome, str(turned))
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError, ssl.SSLError) as error:
            outcome = Outcome.BROKEN if attempt.dot is None else Outcome.UNKNOWN
            self._end(message, attempt, outcome, type(error).__name__ + ": " + str(error))
        finally:
            if writer is not None:
                writer.transport.abort() if attempt.outcome in (Outcome.BROKEN, Outcome.UNKNOWN) else writer.close()
        return attempt.outcome in (Outcome.ACCEPTED, Outcome.REFUSED)

    async def _hello(self, reader, writer, tls):
        await expect(reader, 220)
        await command(reader, writer, b"EHLO client.test\r\n", 250)
        if tls:
            await command(reader, writer, b"STARTTLS\r\n", 220)
            async with asyncio.timeout(PATIENCE):
                await writer.start_tls(self._tls)
            await command(reader, writer, b"EHLO client.test\r\n", 250)

    async def _transaction(self, reader, writer, message, attempt):
        """Sends a message, by DATA or by BDAT; the attempt ends here unless this raises."""
        octets = content(message, attempt.number, self._signer)
        envelope = [f"MAIL FROM:<a@{message.domain}>\r\n".encode(), b"RCPT TO:<rcpt@example.net>\r\n"]
        chunked = message.number % 3 == 0
        # Half of them wait for each reply.
        if message.number % 2:
            for line in envelope:
                await command(reader, writer, line, 250)
        else:
            writer.write(b"".join(envelope))
            await expect(reader, 250)
            await expect(reader, 250)
        if chunked:
            half = len(octets) // 2
            await command(reader, writer, b"BDAT %d\r\n" % half + octets[:half], 250)
            data = b"BDAT %d LAST\r\n" % (len(octets) - half) + octets[half:]
        else:
            await command(reader, writer, b"DATA\r\n", 354)
            data = stuffed(octets)
        # All but the end, so that what breaks before is known to have broken before.
        writer.write(data[:-5])
        async with asyncio.timeout(PATIENCE):
            await writer.drain()
        attempt.dot = time.monotonic()
        writer.write(data[-5:])
        async with asyncio.timeout(PATIENCE):
            code, text = await read_reply(reader)
        outcome = {2: Outcome.ACCEPTED, 4: Outcome.DEFERRED}.get(code // 100, Outcome.REFUSED)
        self._end(message, attempt, outcome, f"{code} {text}")

    def _next(self, kind=None):
        """A message to be sent, of the network that `kind` comes from: one that waits or a new one."""
        now = time.monotonic()
        for _ in range(min(len(self._waiting), 5)):
            due, message = self._waiting[0]
            if due > now:
                break
            self._waiting.popleft()
            if kind in (None, message.kind):
                return message
            self._waiting.append((due, message))
        if self.draining:
            return None
        chosen = kind or self._random.choices(*zip(*KINDS.items()))[0]
        size = self._random.choices(*zip(*SIZES.items()))[0]
        self.messages.append(Message(len(self.messages) + 1, chosen, size))
        return self.messages[-1]

    def _attempt(self, message, client):
        self._sending += 1
        message.attempts.append(Attempt(len(message.attempts) + 1, time.monotonic(), client))
        return message.attempts[-1]

    def _end(self, message, attempt, outcome, reply):
        if attempt.outcome is not None:
            return
        self._sending -= 1
        attempt.ended, attempt.outcome, attempt.reply = time.monotonic(), outcome, reply
        if outcome not in (Outcome.ACCEPTED, Outcome.REFUSED):
            self._waiting.append((attempt.ended + PAUSE, message))
        self.ended(message, attempt)


class Turned(Exception):
    """A reply that ends the attempt before its data."""

    def __init__(self, code, text):
        super().__init__(f"{code} {text}")
        self.outcome = Outcome.REFUSED if code >= 500 else Outcome.DEFERRED


async def expect(reader, due):
    """Reads the reply that is due."""
    async with asyncio.timeout(PATIENCE):
        code, text = await read_reply(reader)
    if code != due:
        raise Turned(code, text)


async def command(reader, writer, line, due):
    """A command and the reply that is due."""
    writer.write(line)
    async with asyncio.timeout(PATIENCE):
        await writer.drain()
    await expect(reader, due)
