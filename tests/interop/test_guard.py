"""The relay guard: a Postfix that trusts its neighbours is never made an open relay by the gate."""

import urllib.error
import urllib.request

import pytest

from client import Smtp
from mail import STRANGER, message, on_top
from mta import wait_for

FOREIGN = "victim@foreign.example"


@pytest.mark.parametrize("identity", ["auto", "xclient", "proxy-v1", "proxy-v2"])
@pytest.mark.parametrize("recipient", [FOREIGN, "victim%foreign.example@example.net", "foreign.example!victim"])
def test_postfix_itself_refuses_where_it_sees_the_client(gates, identity, recipient):
    with Smtp(gates(identity).address, STRANGER) as smtp:
        smtp.ehlo()
        smtp.mail("x@elsewhere.example")
        code, text = smtp.rcpt(recipient)
    assert 500 <= code < 600, text
    assert recipient != FOREIGN or (code == 554 and b"Relay access denied" in text), text


@pytest.mark.parametrize("recipient", [
    FOREIGN, "victim%foreign.example@example.net", "foreign.example!victim@example.net", "victim@sub.example.net",
    "victim@[192.0.2.1]", '"victim@foreign.example"@example.net',
])
def test_the_gate_refuses_where_postfix_cannot_know(gates, postfix, recipient):
    with Smtp(gates("received").address, STRANGER) as smtp:
        smtp.ehlo()
        smtp.mail("x@elsewhere.example")
        code, text = smtp.rcpt(recipient)
        assert (code, text.split()[0]) == (550, b"5.7.1"), text


def test_a_received_field_tells_postfix_what_it_cannot_see(gates, postfix):
    content, message_id = message("a@none.example")
    with Smtp(gates("received").address, STRANGER, helo="helo.stranger.example") as smtp:
        assert smtp.deliver("x@elsewhere.example", "rcpt@example.net", content)[0] == 250
    added = on_top(postfix.wait_for_message(message_id), content)
    ours = next(line for line in added.splitlines() if line.startswith("Received:") and "by mx.example.net" in line)
    assert "helo.stranger.example" in ours and STRANGER in ours and "with ESMTP" in ours


def test_without_xclient_and_without_domains_nothing_passes(start_gate, postfix):
    gate = start_gate(postfix.plain, "auto")
    with Smtp(gate.address, STRANGER) as smtp:
        code, text = smtp.deliver("x@elsewhere.example", "rcpt@example.net", message("a@none.example")[0])
    assert (code, text.split()[0]) == (451, "4.3.5"), text
    assert "smtp.recipient_domains" in not_ready(gate)
    assert gate.run("healthcheck", "--ready")[0] == 1


def test_an_open_relay_behind_the_gate_is_found_at_the_start(start_gate, postfix):
    gate = start_gate(postfix.relay, "proxy-v2")
    assert "relay_guard: the upstream relays for strangers" in not_ready(gate)
    # The log is written apart from what it tells.
    wait_for(lambda: "OPEN RELAY" in gate.log() or None, "a line in the log", gate.log, 10)


def not_ready(gate):
    """What /readyz says once the first probe has ended."""
    host, port = gate.admin

    def look():
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/readyz", timeout=30):
                return None
        except urllib.error.HTTPError as refused:
            text = refused.read().decode()
            return text if refused.code == 503 and "not checked yet" not in text else None

    return wait_for(look, "a gate that is not ready and knows why", gate.log, 10)
