"""The wires: proxies for TCP and UDP that can be cut, slowed down and torn."""

import asyncio
import contextlib
import socket
import struct


class Wire:
    """How one wire is: `flows` towards the server (`out`) and back (`back`), and what each octet takes in seconds."""

    def __init__(self):
        self.out, self.back = asyncio.Event(), asyncio.Event()
        self.delay = 0.0
        self.mend()

    def mend(self):
        """As new."""
        self.delay = 0.0
        self.out.set()
        self.back.set()

    def cut(self):
        """Nothing goes through, and nobody is told."""
        self.out.clear()
        self.back.clear()

    def deafen(self):
        """What is sent arrives; what is answered does not."""
        self.back.clear()


class TcpWire(Wire):
    """From a port of its own to `target`."""

    def __init__(self, target):
        super().__init__()
        self._target = target
        self._writers = set()
        self._server = None
        self.port = None

    async def open(self, port=None):
        """Listens, where it did before if it did."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port or port or 0, limit=1 << 18, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self):
        """Refuses connections and tears those that are there."""
        self._server.close()
        self.tear()

    def tear(self):
        """Ends each connection by RST, on both sides."""
        for writer in list(self._writers):
            reset(writer)

    async def _serve(self, reader, writer):
        self._writers.add(writer)
        try:
            await self.out.wait()
            try:
                far_reader, far = await asyncio.open_connection("127.0.0.1", self._target, limit=1 << 18)
            except OSError:
                reset(writer)
                return
            self._writers.add(far)
            try:
                await asyncio.gather(self._pump(reader, far, self.out), self._pump(far_reader, writer, self.back))
            finally:
                self._writers.discard(far)
                far.close()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _pump(self, reader, writer, flows):
        try:
            while chunk := await reader.read(1 << 16):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await flows.wait()
                writer.write(chunk)
                await writer.drain()
            await flows.wait()
            if writer.can_write_eof():
                writer.write_eof()
        except (OSError, RuntimeError):
            # Who is torn on one side is torn on the other, as by a router that is told.
            reset(writer)


class UdpWire(Wire, asyncio.DatagramProtocol):
    """The same for datagrams, which are lost where they don't flow."""

    def __init__(self, target):
        super().__init__()
        self._target = target
        self._far = {}
        self.port = None

    async def open(self, port):
        """Listens at the port."""
        self._loop = asyncio.get_running_loop()
        self._transport, _ = await self._loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", port))
        self.port = port

    async def close(self):
        """Refuses: who sends hears that the port is unreachable."""
        self._transport.close()
        self.tear()

    def tear(self):
        """Forgets who asked what."""
        for far in self._far.values():
            far.close()
        self._far.clear()

    def datagram_received(self, data, client):
        if self.out.is_set():
            self._loop.create_task(self._send(data, client))

    async def _send(self, data, client):
        await asyncio.sleep(self.delay)
        if client not in self._far:
            with contextlib.suppress(OSError):
                # A gate asks from a port of its own each time: an old one is forgotten, or descriptors run out.
                far, _ = await self._loop.create_datagram_endpoint(
                    lambda: Back(self, client), remote_addr=("127.0.0.1", self._target))
                self._far[client] = far
                self._loop.call_later(5, self._forget, client)
        if client in self._far:
            self._far[client].sendto(data)

    def _forget(self, client):
        if far := self._far.pop(client, None):
            far.close()

    async def answer(self, data, client):
        """Hands an answer back."""
        await asyncio.sleep(self.delay)
        if self.back.is_set() and not self._transport.is_closing():
            self._transport.sendto(data, client)

    def error_received(self, error):
        pass


class Back(asyncio.DatagramProtocol):
    """Answers on their way to who asked."""

    def __init__(self, wire, client):
        self._wire, self._client = wire, client

    def datagram_received(self, data, _server):
        asyncio.get_running_loop().create_task(self._wire.answer(data, self._client))

    def error_received(self, error):
        pass


def reset(writer):
    """Ends a connection by RST."""
    if (connection := writer.get_extra_info("socket")) is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
