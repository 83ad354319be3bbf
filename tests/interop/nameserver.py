"""A DNS server for the whole name space on a port of 127.0.0.1, from a table of names."""

import dnslib
import dnslib.server

from mta import free_ports


class DnsServer:
    """Answers from `records`: {(name, type): [text, ...]}; names above a known one exist without records."""

    def __init__(self, records):
        self.records = {(name.lower(), kind): values for (name, kind), values in records.items()}
        self.address = ("127.0.0.1", free_ports(1)[0])
        quiet = dnslib.server.DNSLogger(log="-request,-reply,-truncated,-error", prefix=False)
        self._servers = [
            dnslib.server.DNSServer(self, address=self.address[0], port=self.address[1], tcp=tcp, logger=quiet)
            for tcp in (False, True)
        ]
        for server in self._servers:
            server.start_thread()

    def stop(self):
        """Ends it."""
        for server in self._servers:
            server.stop()
            server.server.server_close()

    def resolve(self, request, _handler):
        """The answer to one question (dnslib calls it)."""
        reply = request.reply()
        name, kind = str(request.q.qname).rstrip(".").lower(), dnslib.QTYPE[request.q.qtype]
        for value in self.records.get((name, kind), ()):
            reply.add_answer(dnslib.RR(request.q.qname, request.q.qtype, rdata=data(kind, value), ttl=300))
        if not reply.rr:
            exists = any(known == name or known.endswith("." + name) for known, _ in self.records)
            reply.header.rcode = dnslib.RCODE.NOERROR if exists else dnslib.RCODE.NXDOMAIN
            soa = dnslib.SOA("ns.test", "ns.test", (1, 3600, 600, 86400, 300))
            reply.add_auth(dnslib.RR(".", dnslib.QTYPE.SOA, rdata=soa, ttl=300))
        return reply


def data(kind, value):
    """The record data of a text."""
    if kind == "TXT":
        octets = value.encode()
        return dnslib.TXT([octets[at:at + 255] for at in range(0, len(octets), 255)])
    return {"A": dnslib.A, "AAAA": dnslib.AAAA, "PTR": dnslib.PTR}[kind](value)
