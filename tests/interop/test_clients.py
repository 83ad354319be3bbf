"""Real clients before the gate: swaks, pipelining, and Postfix's own SMTP client."""

import smtplib

import pytest

from client import swaks
from mail import CLIENT, STRANGER, as_stored, message, on_top


@pytest.fixture(scope="session")
def outgoing(start_gate, postfix):
    """A gate where Postfix's own client delivers what comes to `postfix.outgoing`."""
    return start_gate(postfix.xclient, "auto", ports=(postfix.gate_port, 0))


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


def test_postfix_delivers_through_the_gate(outgoing, postfix, keys):
    content, message_id = message("a@reject.example", body="Grüße\r\n.\r\n" + "x" * 990 + "\r\n")
    content = keys.sign(content, "reject.example")
    submit(postfix, "a@reject.example", content)
    # Postfix adds its own Received fields; what was signed is as it was.
    added = on_top(postfix.wait_for_message(message_id), content)
    assert added.count("dkim=pass") == 2 and "dmarc=pass" in added


def test_postfix_bounces_what_the_gate_refuses(outgoing, postfix):
    content, message_id = message("ceo@reject.example")
    submit(postfix, "x@elsewhere.example", content)
    queue_id = postfix.wait_for_log(f"message-id={message_id}").split(": ")[1]
    line = postfix.wait_for_log(f"{queue_id}: to=<rcpt@example.net>")
    assert "status=bounced" in line and "550 5.7.1" in line and "reject.example" in line, line
    assert postfix.find(message_id) is None


def submit(postfix, sender, content):
    with smtplib.SMTP(*postfix.outgoing, timeout=30) as smtp:
        smtp.sendmail(sender, ["rcpt@example.net"], content, mail_options=["BODY=8BITMIME"])
