"""What a client sends is what Postfix stores, one for one, whatever it holds and whatever happens on the way."""

import email
import random
import smtplib

import pytest

from client import Smtp
from mail import CLIENT, STRANGER, as_stored, message, on_top


def test_a_large_message_passes_whole_and_verified(gates, postfix, keys):
    # 20 MB of lines of every length up to some thousand octets, dots in front, octets beyond ASCII.
    rng = random.Random(9989)
    line = bytes(octet for octet in range(1, 256) if octet not in b"\r\n") * 20
    lines, size = [], 0
    while size < 20_000_000:
        start = rng.randrange(len(line) - 1)
        lines.append(rng.choice([b"", b".", b".."]) + line[start:start + rng.randrange(5000)])
        size += len(lines[-1])
    head, message_id = message("a@reject.example", body="")
    content = keys.sign(head + b"\r\n".join(lines) + b"\r\n", "reject.example")
    with Smtp(gates("auto").address, STRANGER) as smtp:
        code, text = smtp.deliver("a@elsewhere.example", "rcpt@example.net", content)
        assert code == 250, text
    added = on_top(postfix.wait_for_message(message_id, patience=60), content)
    assert added.count("dkim=pass") == 2 and "dmarc=pass" in added


def test_a_message_larger_than_the_limit_is_refused_and_the_session_goes_on(gates, postfix):
    large, large_id = message("a@none.example", body=("x" * 998 + "\r\n") * 26_000)
    small, small_id = message("a@none.example")
    with Smtp(gates("auto").address, STRANGER) as smtp:
        code, text = smtp.deliver("x@elsewhere.example", "rcpt@example.net", large)
        assert (code, text.split()[0]) == (552, "5.3.4"), text
        assert smtp.deliver("x@elsewhere.example", "rcpt@example.net", small)[0] == 250
    postfix.wait_for_message(small_id)
    assert postfix.find(large_id) is None


def test_one_session_serves_many_messages(gates, postfix):
    sent = [message("a@none.example", body=f"number {number}\r\n") for number in range(50)]
    with Smtp(gates("auto").address, CLIENT) as smtp:
        for content, _ in sent:
            assert smtp.deliver("a@none.example", "rcpt@example.net", content)[0] == 250
    for content, message_id in sent:
        assert "spf=pass" in on_top(postfix.wait_for_message(message_id), content)


@pytest.mark.parametrize("author", [
    # Beyond header_size_limit Postfix drops the rest of a field.
    b"From: ceo@reject.example" + 115 * (b"\r\n (" + 900 * b"a" + b")") + b"\r\n <x@none.example>\r\n",
    # In the first line_length_limit octets of this there is no colon, so that it takes it and all behind it for the body.
    2100 * b"A" + b": x\r\nFrom: x@none.example\r\n",
    b"From" + 2100 * b" " + b": x@none.example\r\n",
], ids=["cut", "name", "white space"])
def test_an_author_whom_postfix_would_hide_is_refused(gates, postfix, author):
    content, message_id = message("x@none.example")
    head, rest = content.split(b"\r\nTo: ", 1)
    hiding = f"Message-ID: {message_id}\r\n".encode() + author + b"To: " + rest
    assert head == b"From: The Author <x@none.example>"
    with Smtp(gates("auto").address, CLIENT) as smtp:
        code, text = smtp.deliver("x@none.example", "rcpt@example.net", hiding)
        assert (code, text.split()[0]) == (550, "5.7.1") and "From" in text, text
    assert postfix.find(message_id) is None
    # This is why.
    with smtplib.SMTP(*postfix.plain, timeout=30) as smtp:
        smtp.sendmail("ceo@reject.example", ["rcpt@example.net"], hiding)
    shown = email.message_from_bytes(postfix.wait_for_message(message_id))["From"] or "nobody"
    assert "x@none.example" not in shown


@pytest.mark.parametrize("end", [
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\n.\r", b"\r.\r\n", b"\r\n\0.\r\n",
])
def test_nothing_is_smuggled_behind_a_false_end(gates, postfix, end):
    content, message_id = message("a@none.example", body="first")
    inner, inner_id = message("ceo@reject.example", body="second\r\n")
    smuggled = end + b"MAIL FROM:<x@reject.example>\r\nRCPT TO:<rcpt@example.net>\r\nDATA\r\n" + inner
    before = len(postfix.mailbox())
    with Smtp(gates("auto").address, STRANGER) as smtp:
        smtp.ehlo()
        smtp.mail("x@elsewhere.example")
        smtp.rcpt("rcpt@example.net")
        assert smtp.docmd("DATA")[0] == 354
        smtp.send(content + smuggled + b"\r\n.\r\n")
        code, text = smtp.getreply()
        # The next reply is the one to the next command: nothing inside was read as one.
        assert smtp.docmd("NOOP", "x") == (250, b"2.0.0 OK")
    if b"\0" in end:
        assert code == 550, text
        return
    assert code == 250, text
    stored = postfix.wait_for_message(message_id)
    assert inner_id.encode() in stored and len(postfix.mailbox()) == before + 1
    # What looked like commands and a second message is content, behind a line that happens to be a dot.
    assert b"DATA\n" + as_stored(inner) in stored


def test_a_postfix_that_restarts_inside_a_transaction_is_told_it_again(gates, postfix):
    gate = gates("auto")
    content, message_id = message("a@none.example")
    with Smtp(gate.address, STRANGER) as smtp:
        smtp.ehlo()
        assert smtp.mail("x@elsewhere.example")[0] == 250
        assert smtp.rcpt("rcpt@example.net")[0] == 250
        assert smtp.rcpt("nobody@example.net")[0] == 550
        postfix.restart()
        code, text = smtp.data(content)
        assert code == 250, text
        assert smtp.deliver("x@elsewhere.example", "rcpt@example.net", message("a@none.example")[0])[0] == 250
    postfix.wait_for_message(message_id)
    assert gate.metrics()['dmarcgate_upstream_lost_total{at="replayed"}'] >= 1
