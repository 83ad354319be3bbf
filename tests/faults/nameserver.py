"""The name server: a process that answers by the form of the name, so that every message can have a domain of its own.

    python3 -m tests.faults.nameserver PORT PUBLIC_KEY

`*.spf.test` sends from 198.51.100.0/24 and signs nothing, `*.dkim.test` signs with the key and sends from nowhere; both ask
for p=reject, and so does `*.forged.test`, which sends nothing at all. `*.marked.test` is the same with p=quarantine.
"""

import asyncio
import struct
import sys

TXT, SOA, PTR, A, AAAA = 16, 6, 12, 1, 28


class Zone:
    """What there is."""

    def __init__(self, key):
        self._key = key

    def texts(self, name):
        """TXT records of a name; None where it does not exist."""
        labels = name.split(".")
        if labels[-1] != "test" or len(labels) < 3:
            return [] if labels[-1] == "test" else None
        kind, leaf = labels[-2], labels[-3]
        below = labels[:-3]
        if not below:
            return ["v=spf1 ip4:198.51.100.0/24 -all" if kind == "spf" else "v=spf1 -all"] if leaf[0] != "_" else None
        if below == ["_dmarc"]:
            return ["v=DMARC1; p=" + ("quarantine" if kind == "marked" else "reject")]
        if below == ["s", "_domainkey"] and kind == "dkim":
            return ["v=DKIM1; k=rsa; p=" + self._key]
        return [] if below == ["_domainkey"] else None


def answer(zone, query):
    """The reply to one query."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode("latin-1").lower())
        at += 1 + query[at]
    (kind,) = struct.unpack_from("!H", query, at + 1)
    question = query[12:at + 5]
    texts = zone.texts(".".join(labels))
    found = texts if kind == TXT and texts else []
    records = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", TXT, 1, 300, len(data)) + data for data in map(packed, found))
    authority = b""
    if not found:
        soa = b"\0\0" + struct.pack("!5I", 1, 3600, 600, 86400, 60)
        authority = b"\0" + struct.pack("!HHIH", SOA, 1, 60, len(soa)) + soa
    flags = 0x8180 | (3 if texts is None else 0)
    return query[:2] + struct.pack("!5H", flags, 1, len(found), 0 if found else 1, 0) + question + records + authority


def packed(text):
    """The data of a TXT record."""
    octets = text.encode()
    return b"".join(bytes([len(part)]) + part for part in (octets[at:at + 255] for at in range(0, len(octets), 255)))


class Udp(asyncio.DatagramProtocol):
    def __init__(self, zone):
        self._zone = zone

    def connection_made(self, transport):
        self._transport = transport

    def datagram_received(self, query, client):
        self._transport.sendto(answer(self._zone, query), client)


async def main(port, key):
    zone = Zone(key)

    async def tcp(reader, writer):
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                reply = answer(zone, await reader.readexactly(length))
                writer.write(struct.pack("!H", len(reply)) + reply)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: Udp(zone), local_addr=("127.0.0.1", port))
    server = await asyncio.start_server(tcp, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
