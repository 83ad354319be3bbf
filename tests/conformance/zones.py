"""An authoritative DNS server for a zone of the suite, over UDP and TCP: it answers, says NXDOMAIN, or is silent."""

import dnslib
import dnslib.server

from mta import free_ports


class Nameserver:
    """Serves `zone`, as `suite` reads it, on a port of 127.0.0.1."""

    def __init__(self, zone):
        self.zone = zone
        self.address = ("127.0.0.1", free_ports(1)[0])
        quiet = dnslib.server.DNSLogger(log="-request,-reply,-truncated,-error", prefix=False)
        self._servers = [
            dnslib.server.DNSServer(self, address=self.address[0], port=self.address[1], tcp=tcp, logger=quiet,
                                    handler=Handler)
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
        # Not as text, in which dnslib escapes some octets.
        name, kind = b".".join(request.q.qname.label).decode("latin-1").lower(), dnslib.QTYPE[request.q.qtype]
        found = self.answers(name, kind)
        if found is None:
            raise Silence
        for owner, owner_kind, value in found:
            owner = request.q.qname if owner == name else owner
            code = getattr(dnslib.QTYPE, owner_kind)
            reply.add_answer(dnslib.RR(owner, code, rdata=data(owner_kind, value), ttl=300))
        if not reply.rr:
            exists = any(other == name or other.endswith("." + name) for other in self.zone)
            reply.header.rcode = dnslib.RCODE.NOERROR if exists else dnslib.RCODE.NXDOMAIN
            soa = dnslib.SOA("ns.test", "ns.test", (1, 3600, 600, 86400, 300))
            reply.add_auth(dnslib.RR(".", dnslib.QTYPE.SOA, rdata=soa, ttl=300))
        return reply

    def answers(self, name, kind, depth=0):
        """Records as (owner, type, value), a CNAME with those of its target; None where the server is silent.

        "TIMEOUT" among the records of a name stands for all types that have none before it.
        """
        found = []
        for entry in self.zone.get(name, ()):
            if entry == "TIMEOUT":
                return found or None
            owner_kind, value = entry
            if owner_kind == kind and value == "TIMEOUT":
                return None
            if owner_kind == kind:
                found.append((name, kind, value))
            elif owner_kind == "CNAME" and depth < CNAMES:
                target = self.answers(value.rstrip(".").lower(), kind, depth + 1)
                if target is None:
                    return None
                found += [(name, "CNAME", value), *target]
        return found


class Silence(Exception):
    """No answer to this question."""


class Handler(dnslib.server.DNSHandler):
    """As dnslib's, but it can leave a question without an answer, and cuts large ones so that TCP is used."""

    udplen = 1232

    def handle(self):
        try:
            super().handle()
        except (Silence, OSError):
            pass  # OSError: the gate has given up waiting.


def data(kind, value):
    """The record data of a value of the suite."""
    if kind == "TXT":
        texts = [value] if isinstance(value, str) else value
        octets = [text.encode() for text in texts]
        # The suite's own splits stay; what is longer than a string can be is split further. A TXT record without any
        # string, as one case has it, can't be sent (RFC 1035 section 3.3.14): it is one empty string.
        octets = octets or [b""]
        return dnslib.TXT([part[at:at + 255] for part in octets for at in range(0, max(len(part), 1), 255)])
    if kind == "MX":
        return dnslib.MX(value[1], value[0])
    return {"A": dnslib.A, "AAAA": dnslib.AAAA, "PTR": dnslib.PTR, "CNAME": dnslib.CNAME}[kind](value)


# CNAMEs of one answer: beyond it a chain is a loop.
CNAMES = 8
