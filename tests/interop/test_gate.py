"""The gate before a real Postfix: the client handed over, messages judged, told and recorded."""

import json
import urllib.request

import pytest

from client import Smtp
from mail import CLIENT, STRANGER, as_stored, message, on_top
from mta import wait_for

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


def test_what_was_decided_is_recorded_and_counted(start_gate, postfix):
    gate = start_gate(postfix.xclient, "auto")
    with Smtp(gate.address, STRANGER) as smtp:
        for author in ("a@none.example", "a@quarantine.example", "a@reject.example"):
            smtp.deliver("x@elsewhere.example", "rcpt@example.net", message(author)[0])
    # One event a message, while the gate runs; it is written apart from the reply.
    wait_for(lambda: gate.log().count(" message session=") == 3 or None, "an event a message", gate.log, 10)
    scrape = gate.metrics()
    for outcome in ("accepted", "accepted_tagged", "refused"):
        assert scrape[f'dmarcgate_messages_total{{outcome="{outcome}"}}'] == 1, outcome
    # At most a second may lie between a message and its row.
    rows = wait_for(lambda: as_rows(gate.run("reports", "rows", "--json")), "three rows", gate.log, 10)
    assert {row["policy_domain"]: row["disposition"] for row in rows} == {
        "none.example": "none", "quarantine.example": "quarantine", "reject.example": "reject",
    }


def test_admin_listener_answers(gates):
    host, port = gates("auto").admin
    for path in ("/healthz", "/readyz", "/metrics"):
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=30) as response:
            assert response.status == 200
    assert gates("auto").run("healthcheck", "--ready") == (0, "ready\n")


def as_rows(output):
    code, text = output
    assert code == 0, text
    rows = [json.loads(line) for line in text.splitlines()]
    return rows if len(rows) == 3 else None
