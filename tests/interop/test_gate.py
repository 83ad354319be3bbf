"""The gate between real clients and a real Postfix."""

import urllib.request

import pytest

from client import Smtp, swaks
from mail import CLIENT, STRANGER, as_stored, message

HAND_OVERS = ["auto", "xclient", "proxy-v1", "proxy-v2"]


@pytest.mark.parametrize("identity", HAND_OVERS)
def test_signed_mail_arrives_whole_with_the_results_on_top(gates, postfix, keys, identity):
    content, message_id = message("a@reject.example")
    content = keys.sign(content, "reject.example")
    with Smtp(gates(identity).address, STRANGER) as smtp:
        code, text = smtp.deliver("a@elsewhere.example", "rcpt@example.net", content)
    assert code == 250 and "queued as" in text, text
    stored = postfix.wait_for_message(message_id)
    assert stored.endswith(as_stored(content))
    results = on_top(stored, content)
    assert "mx.example.net" in results
    assert results.count("dkim=pass") == 2 and "dmarc=pass" in results and "header.from=reject.example" in results


@pytest.mark.parametrize("identity", HAND_OVERS)
def test_postfix_sees_the_client_and_not_the_gate(gates, postfix, identity):
    client = f"198.51.100.{HAND_OVERS.index(identity) + 20}"
    content, message_id = message("a@none.example")
    with Smtp(gates(identity).address, client) as smtp:
        assert smtp.deliver("a@none.example", "rcpt@example.net", content)[0] == 250
    postfix.wait_for_message(message_id)
    line = postfix.wait_for_log(f"client=unknown[{client}]")
    assert "127.0.0.1" not in line


@pytest.mark.parametrize("identity", ["xclient"])
def test_postfix_gets_the_verified_name_and_the_helo_of_the_client(gates, postfix, identity):
    content, message_id = message("a@none.example")
    with Smtp(gates(identity).address, CLIENT, helo="helo.good.example") as smtp:
        assert smtp.deliver("a@none.example", "rcpt@example.net", content)[0] == 250
    stored = postfix.wait_for_message(message_id)
    assert b"from helo.good.example (mail.good.example [198.51.100.7])" in stored


@pytest.mark.parametrize("identity", HAND_OVERS)
def test_forged_mail_is_refused_and_the_session_goes_on(gates, postfix, identity):
    forged, forged_id = message("ceo@reject.example")
    honest, honest_id = message("a@none.example")
    with Smtp(gates(identity).address, STRANGER) as smtp:
        code, text = smtp.deliver("x@elsewhere.example", "rcpt@example.net", forged)
        assert (code, text.split()[0]) == (550, "5.7.1"), text
        assert "DMARC" in text and "reject.example" in text
        assert smtp.deliver("a@none.example", "rcpt@example.net", honest)[0] == 250
    postfix.wait_for_message(honest_id)
    assert postfix.find(forged_id) is None


def test_suspicious_mail_is_tagged(gates, postfix):
    content, message_id = message("ceo@quarantine.example")
    with Smtp(gates("auto").address, STRANGER) as smtp:
        assert smtp.deliver("x@elsewhere.example", "rcpt@example.net", content)[0] == 250
    tagged = on_top(postfix.wait_for_message(message_id), content)
    assert "X-DMARC-Fail-policy: quarantine" in tagged and "dmarc=fail" in tagged


def test_forged_results_and_tags_are_taken_away(gates, postfix):
    content, message_id = message("a@none.example")
    forged = b"Authentication-Results: mx.example.net; dmarc=pass\r\nX-DMARC-Fail-policy: none\r\n"
    with Smtp(gates("auto").address, STRANGER) as smtp:
        assert smtp.deliver("x@elsewhere.example", "rcpt@example.net", forged + content)[0] == 250
    stored = postfix.wait_for_message(message_id)
    assert stored.endswith(as_stored(content))
    added = on_top(stored, content)
    assert added.count("Authentication-Results:") == 1 and "X-DMARC-Fail-policy" not in added


@pytest.mark.parametrize("identity", HAND_OVERS)
def test_relaying_is_refused_by_postfix_itself(gates, identity):
    with Smtp(gates(identity).address, STRANGER) as smtp:
        smtp.ehlo()
        smtp.mail("x@elsewhere.example")
        code, text = smtp.rcpt("victim@foreign.example")
    assert code == 554 and b"Relay access denied" in text, text


def test_relaying_is_refused_by_the_gate_where_postfix_cannot_know(gates, postfix):
    gate = gates("received")
    content, message_id = message("a@none.example")
    with Smtp(gate.address, STRANGER) as smtp:
        code, text = smtp.deliver("x@elsewhere.example", "victim@foreign.example", content)
        assert (code, text.split()[0]) == (550, "5.7.1"), text
        assert smtp.deliver("x@elsewhere.example", "rcpt@example.net", content)[0] == 250
    added = on_top(postfix.wait_for_message(message_id), content)
    assert STRANGER in added, "a Received field of the gate names the client"


def test_replies_to_recipients_are_postfix_own(gates):
    with Smtp(gates("auto").address, STRANGER) as smtp:
        smtp.ehlo()
        smtp.mail("x@elsewhere.example")
        code, text = smtp.rcpt("nobody@example.net")
    assert code == 550 and b"User unknown in virtual mailbox table" in text, text


def test_swaks_gets_through_and_is_refused(gates, postfix):
    gate = gates("proxy-v2")
    content, message_id = message("a@none.example")
    arguments = ["--helo", "mail.good.example", "--from", "x@none.example", "--to", "rcpt@example.net"]
    said = swaks(gate.address, *arguments, client=CLIENT, content=content)
    assert "queued as" in said, said
    assert postfix.wait_for_message(message_id).endswith(as_stored(content))
    forged, _ = message("ceo@reject.example")
    arguments = ["--helo", "evil.example", "--from", "x@elsewhere.example", "--to", "rcpt@example.net"]
    said = swaks(gate.address, *arguments, client=STRANGER, content=forged)
    assert "<** 550 5.7.1" in said or "<** 550-5.7.1" in said, said


def test_swaks_pipelines(gates):
    arguments = ["--pipeline", "--from", "x@none.example", "--to", "rcpt@example.net,nobody@example.net"]
    content, _ = message("a@none.example")
    said = swaks(gates("auto").plain, *arguments, content=content)
    assert "550 5.1.1 <nobody@example.net>" in said and "queued as" in said, said


def test_admin_listener_answers(gates):
    host, port = gates("auto").admin
    for path in ("/healthz", "/readyz", "/metrics"):
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=30) as response:
            assert response.status == 200


def on_top(stored, content):
    """The fields above the message, unfolded."""
    own = as_stored(content)
    assert stored.endswith(own), stored
    return stored[:-len(own)].decode().replace("\n\t", " ").replace("\n ", " ")
