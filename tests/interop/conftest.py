"""The world of the interop tests: Postfix and DNS once, a gate for each way of handing the client over."""

import re
import signal

import pytest

from certificate import Certificate
from exim import Exim
from gate import Gate
from mail import Keys
from nameserver import DnsServer
from opensmtpd import OpenSmtpd
from postfix import Postfix


# A run that is told to end takes its servers with it.
signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def postfix():
    running = Postfix()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def postfix_is_content(postfix):
    """Postfix complains of nothing in any test: neither of the gate's SMTP nor of its own configuration."""
    before = len(postfix.log())
    yield
    complaints = [line for line in postfix.log()[before:].splitlines() if COMPLAINT.search(line)]
    assert not complaints, complaints


@pytest.fixture(scope="session")
def keys():
    return Keys()


@pytest.fixture(scope="session")
def dns(keys):
    running = DnsServer(keys.records())
    yield running
    running.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    return Certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def start_gate(dns, certificate, tmp_path_factory):
    """Starts gates and stops them at the end; each must end cleanly."""
    running = []

    def start(upstream, identity, **more):
        running.append(Gate(tmp_path_factory.mktemp("gate"), (dns.address, certificate), upstream, identity, **more))
        return running[-1]

    yield start
    assert [gate.stop() for gate in running] == [(0, False)] * len(running)


@pytest.fixture(scope="session")
def gates(start_gate, postfix):
    """A gate for each hand-over that Postfix understands, started when first asked for."""
    upstreams = {"auto": postfix.xclient, "xclient": postfix.xclient, "proxy-v1": postfix.proxy,
                 "proxy-v2": postfix.proxy, "received": postfix.plain}
    started = {}

    def gate(identity):
        if identity not in started:
            started[identity] = start_gate(upstreams[identity], identity)
        return started[identity]

    return gate


@pytest.fixture(scope="session")
def exim():
    running = Exim()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def opensmtpd():
    running = OpenSmtpd()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def behind(request, start_gate, gates):
    """For the name of a way to a server: the server and a gate before it, both started when first asked for."""
    started = {}

    def find(way):
        name, _, identity = way.partition("-")
        server = request.getfixturevalue(name)
        if name == "postfix":
            return server, gates(identity)
        if way not in started:
            started[way] = start_gate(server.proxy, identity)
        return server, started[way]

    return find


# Words of Postfix about its own trouble, or about a client that breaks the protocol; a wrong password is neither.
COMPLAINT = re.compile(
    r" (fatal|panic|error|warning): (?!unknown\[[0-9.]+\]: SASL \S+ authentication failed)"
    r"|improper command pipelining|non-SMTP command"
)
