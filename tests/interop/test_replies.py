"""Postfix's replies reach the client word for word, and what the gate offers is what Postfix can do."""

import smtplib

import pytest

from client import Smtp
from mail import STRANGER, message

# The gate's own limit, and that of the Postfix which has a smaller one, less what the gate's fields may take.
SIZES = {"auto": 24 << 20, "proxy-v2": (10 << 20) - (16 << 10)}


@pytest.mark.parametrize("identity", SIZES)
def test_the_gate_offers_what_it_can_carry_through(gates, identity):
    with Smtp(gates(identity).address, STRANGER) as smtp:
        smtp.ehlo()
        offered = set(smtp.esmtp_features)
        assert offered == {
            "pipelining", "size", "8bitmime", "enhancedstatuscodes", "chunking", "dsn", "smtputf8",
        }
        assert smtp.esmtp_features["size"] == str(SIZES[identity])


@pytest.mark.parametrize(("sender", "recipient"), [
    ("x@elsewhere.example", "nobody@example.net"),
    ("x@elsewhere.example", "victim@foreign.example"),
    ("refused@sender.example", "rcpt@example.net"),
    ("deferred@sender.example", "rcpt@example.net"),
    ("x@elsewhere.example", "rcpt@example.net"),
])
def test_replies_to_recipients_are_postfix_own(gates, postfix, sender, recipient):
    replies = []
    for address in (postfix.proxy, gates("proxy-v2").address):
        with Smtp(address, STRANGER) as smtp:
            smtp.ehlo()
            assert smtp.mail(sender)[0] == 250
            replies.append(smtp.rcpt(recipient))
    assert replies[0] == replies[1]


def test_the_reply_to_the_message_is_postfix_own(gates, postfix):
    content, _ = message("a@none.example", subject="refuse me")
    replies = []
    for address in (postfix.proxy, gates("proxy-v2").address):
        with Smtp(address, STRANGER) as smtp:
            replies.append(smtp.deliver("x@elsewhere.example", "rcpt@example.net", content))
            assert smtp.noop()[0] == 250
    assert replies[0] == replies[1] == (550, "5.7.1 This subject is refused")


def test_of_several_recipients_those_that_postfix_takes_get_the_message(gates, postfix):
    content, message_id = message("a@none.example")
    recipients = ["rcpt@example.net", "nobody@example.net", "victim@foreign.example", "postmaster@example.net"]
    with Smtp(gates("auto").address, STRANGER) as smtp:
        smtp.ehlo()
        refused = smtp.sendmail("x@elsewhere.example", recipients, content)
    assert {recipient: code for recipient, (code, _) in refused.items()} == {
        "nobody@example.net": 550, "victim@foreign.example": 554,
    }
    postfix.wait_for_message(message_id)
    line = postfix.wait_for_log(f"message-id={message_id}")
    queue_id = line.split(": ")[1]
    postfix.wait_for_log(f"{queue_id}: from=<x@elsewhere.example>")
    assert "nrcpt=2" in postfix.wait_for_log(f"{queue_id}: from=<x@elsewhere.example>")


def test_a_message_without_a_recipient_that_postfix_takes_is_refused_at_data(gates):
    with Smtp(gates("auto").address, STRANGER) as smtp:
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            smtp.sendmail("x@elsewhere.example", ["nobody@example.net"], message("a@none.example")[0])
        smtp.mail("x@elsewhere.example")
        assert smtp.rcpt("nobody@example.net")[0] == 550
        assert smtp.docmd("DATA")[0] == 554


@pytest.mark.parametrize("identity", SIZES)
def test_too_large_a_size_is_refused_at_mail(gates, identity):
    with Smtp(gates(identity).address, STRANGER) as smtp:
        smtp.ehlo()
        assert smtp.docmd(f"MAIL FROM:<x@elsewhere.example> SIZE={SIZES[identity]}")[0] == 250
        smtp.rset()
        code, text = smtp.docmd(f"MAIL FROM:<x@elsewhere.example> SIZE={SIZES[identity] + 1}")
        assert (code, text.split()[0]) == (552, b"5.3.4"), text
