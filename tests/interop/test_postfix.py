"""Postfix and the clients by themselves: what the tests of the gate take for granted."""

import smtplib

import dkim
import pytest

from client import Smtp, swaks
from mail import CLIENT, as_stored, message


def test_postfix_stores_a_message_octet_by_octet(postfix):
    content, message_id = message("a@none.example")
    with smtplib.SMTP(*postfix.plain, timeout=30) as smtp:
        smtp.sendmail("a@none.example", ["rcpt@example.net"], content)
    assert postfix.wait_for_message(message_id).endswith(as_stored(content))


def test_postfix_takes_the_client_from_a_proxy_header(postfix):
    content, message_id = message("a@none.example")
    with Smtp(postfix.proxy, CLIENT) as smtp:
        assert smtp.deliver("a@none.example", "rcpt@example.net", content)[0] == 250
        code, text = smtp.deliver("a@none.example", "rcpt@foreign.example", content)
        assert (code, text.split()[0]) == (554, "5.7.1"), text
    assert f"[{CLIENT}]".encode() in postfix.wait_for_message(message_id).split(b"\nFrom:")[0]
    postfix.wait_for_log(f"client=unknown[{CLIENT}]")


def test_postfix_takes_the_client_from_xclient(postfix):
    content, message_id = message("a@none.example")
    with smtplib.SMTP(*postfix.xclient, timeout=30) as smtp:
        smtp.ehlo("gate.example")
        assert smtp.has_extn("xclient")
        assert smtp.docmd("XCLIENT", f"ADDR={CLIENT} NAME=mail.good.example HELO=mail.good.example")[0] == 220
        smtp.ehlo("mail.good.example")
        smtp.sendmail("a@none.example", ["rcpt@example.net"], content)
    stored = postfix.wait_for_message(message_id)
    assert b"from mail.good.example (mail.good.example [198.51.100.7])" in stored


def test_postfix_that_sees_the_gate_alone_relays_for_everyone(postfix):
    # What the relay guard is for; nothing leaves, the transport discards.
    with smtplib.SMTP(*postfix.plain, timeout=30) as smtp:
        smtp.ehlo("gate.example")
        assert smtp.mail("a@none.example")[0] == 250
        assert smtp.rcpt("anybody@foreign.example")[0] == 250


def test_swaks_speaks_the_proxy_protocol(postfix):
    said = swaks(postfix.proxy, "--from", "a@none.example", "--to", "rcpt@example.net", client="192.0.2.77")
    assert "queued as" in said, said
    postfix.wait_for_log("client=unknown[192.0.2.77]")


@pytest.mark.parametrize("selector", ["r", "e"])
def test_signatures_and_records_fit_each_other(keys, selector):
    content, _ = message("a@none.example")
    records = keys.records()
    lookup = lambda name, timeout=5: records[(name.decode().rstrip("."), "TXT")][0].encode()  # noqa: E731
    verifier = dkim.DKIM(keys.sign(content, "none.example"))
    index = {"e": 0, "r": 1}[selector]
    assert verifier.verify(idx=index, dnsfunc=lookup)
