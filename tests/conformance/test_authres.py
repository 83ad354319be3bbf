"""Authentication-Results as an independent reader, authres, sees it: both SPF identities, in the order that counts."""

import contextlib

import authres
import pytest

from world import MESSAGE, Client, Gate
from zones import Nameserver

ZONE = {
    "a.example": [("TXT", "v=spf1 ip4:192.0.2.0/24 -all")],
    "mail.example": [("TXT", "v=spf1 ?all")],
    "broken.example": [("TXT", "v=spf1 foo")],
    "author.invalid": [("A", "192.0.2.1")],
    "_dmarc.author.invalid": [("TXT", "v=DMARC1; p=none")],
}

# Address, EHLO name, reverse-path, what is to be read: method, result, and the properties of SPF.
CASES = [
    ("192.0.2.1", "mail.example", "x@a.example", [("pass", "a.example", None), ("neutral", None, "mail.example")]),
    ("192.0.2.1", "a.example", "x@a.example", [("pass", "a.example", None), ("pass", None, "a.example")]),
    ("198.51.100.1", "a.example", "x@a.example", [("fail", "a.example", None), ("fail", None, "a.example")]),
    ("192.0.2.1", "broken.example", "x@a.example", [("pass", "a.example", None), ("permerror", None, "broken.example")]),
    ("192.0.2.1", "[192.0.2.1]", "x@a.example", [("pass", "a.example", None)]),
    ("192.0.2.1", "a.example", "", [("pass", None, "a.example")]),
    ("192.0.2.1", "a.example", '"x; dmarc=pass ("@mail.example',
     [("neutral", "mail.example", None), ("pass", None, "a.example")]),
    ("2001:db8::1", "mail.example", "x@gone.example", [("none", "gone.example", None), ("neutral", None, "mail.example")]),
]


@pytest.fixture(scope="module")
def address(upstream, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        nameserver = Nameserver(ZONE)
        stack.callback(nameserver.stop)
        gate = Gate(tmp_path_factory.mktemp("gate"), nameserver.address, upstream.port)
        stack.callback(gate.stop)
        yield gate.start()


@pytest.mark.parametrize(("host", "helo", "mail_from", "expected"), CASES)
def test_authres_reads_what_is_meant(address, upstream, host, helo, mail_from, expected):
    # No message waits for its EHLO name: one with a null reverse-path does, after which the answer is at hand.
    deliver(address, host, helo, "")
    before = len(upstream.messages)
    deliver(address, host, helo, mail_from)
    [message] = upstream.messages[before:]
    field = message.decode().split("\r\nReceived-SPF: ")[0].replace("\r\n ", " ")
    results = authres.AuthenticationResultsHeader.parse(field).results
    found = [(result.result, result.smtp_mailfrom, result.smtp_helo) for result in results if result.method == "spf"]
    assert found == expected
    assert [result.method for result in results] == ["spf"] * len(expected) + ["dkim", "dmarc"]
    properties = [(each.type, each.name, each.value) for each in results[-1].properties]
    assert (results[-1].result, properties[-1]) == ("fail", ("header", "from", "author.invalid"))


def deliver(address, host, helo, mail_from):
    """Sends a message."""
    with Client(address, host) as client:
        for command in [f"EHLO {helo}", f"MAIL FROM:<{mail_from}>", "RCPT TO:<you@rcpt.example>", "DATA"]:
            assert client.command(command.encode())[0] in "23"
        assert client.command(MESSAGE.format("x").encode() + b".").startswith("250 ")
