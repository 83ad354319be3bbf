"""Each client through the gate to each server, in the clear and under TLS: what arrives, and from whom."""

import random
import smtplib
import ssl
import time

import pytest

from client import Smtp, curl, swaks
from exim import EximClient
from mail import as_stored, message, on_top
from mta import LOGIN, wait_for

SERVERS = ["postfix-auto", "postfix-proxy-v1", "postfix-proxy-v2", "exim-proxy-v1", "exim-proxy-v2",
           "opensmtpd-proxy-v2"]
WITH_LOGIN = ["postfix-auto", "postfix-proxy-v2", "exim-proxy-v2"]
TLS = ["off", "starttls"]
ADDRESSES = iter(f"127.77.{number // 250}.{number % 250 + 1}" for number in range(10_000))


def odd():
    """A message of two megabytes with what goes wrong on the way, and its Message-ID."""
    rng = random.Random(5321)
    octets = bytes(octet for octet in range(1, 256) if octet not in b"\r\n") * 20
    lines = [b".", b"..", b".dot", b"", b" spaces  ", b"\t", b"From x", "Grüße, 世界".encode(), b"\xff\xfe\x80"]
    size = 0
    while size < 2_000_000:
        # Lines of every length up to some thousand octets.
        start = rng.randrange(len(octets) // 2)
        lines.append(rng.choice([b"", b".", b".."]) + octets[start:start + rng.randrange(5000)])
        size += len(lines[-1])
    head, message_id = message("a@none.example", body="")
    return head + b"\r\n".join(lines) + b"\r\n", message_id


@pytest.fixture(params=SERVERS)
def server(request, behind):
    """Each server with the gate before it."""
    return behind(request.param)


def arrived(mta, message_id, content, client, patience=30):
    """The message is there, whole and once, and came from `client`."""
    added = on_top(mta.wait_for_message(message_id, patience), content)
    assert "Authentication-Results: mx.example.net" in added and len(mta.find_all(message_id)) == 1
    line = mta.wait_for_log(client)
    assert "127.0.0.1]" not in line.replace("I=[127.0.0.1]", ""), line
    return added


def connect(gate, tls, certificate, client):
    """smtplib's client, under TLS where that is wanted."""
    smtp = Smtp(gate.starttls if tls == "starttls" else gate.address, client)
    if tls == "starttls":
        smtp.ehlo()
        context = ssl.create_default_context(cafile=certificate.certificate)
        smtp._host = "mx.example.net"
        assert smtp.starttls(context=context)[0] == 220
    return smtp


def test_the_gate_says_that_all_is_well(server):
    _, gate = server
    code, said = gate.run("check-upstream")
    assert code == 0, said


@pytest.mark.parametrize("tls", TLS)
def test_smtplib_delivers(server, certificate, tls):
    (mta, gate), client = server, next(ADDRESSES)
    content, message_id = odd()
    with connect(gate, tls, certificate, client) as smtp:
        code, text = smtp.deliver("x@none.example", "rcpt@example.net", content)
        assert code == 250, text
    arrived(mta, message_id, content, client)


@pytest.mark.parametrize("tls", TLS)
def test_chunks_arrive_as_one_message(server, certificate, tls):
    (mta, gate), client = server, next(ADDRESSES)
    content, message_id = odd()
    cuts = [0, 1, content.index(b"\r\n") + 1, 100_000, 100_000, len(content)]
    chunks = [content[start:end] for start, end in zip(cuts, cuts[1:])]
    with connect(gate, tls, certificate, client) as smtp:
        code, text = smtp.deliver_chunks("x@none.example", "rcpt@example.net", chunks)
        assert code == 250, text
    arrived(mta, message_id, content, client)


def test_a_chunk_without_a_line_end_gets_one(server):
    (mta, gate), client = server, next(ADDRESSES)
    content, message_id = message("a@none.example", body="the last line ends with nothing")
    with Smtp(gate.address, client) as smtp:
        code, text = smtp.deliver_chunks("x@none.example", "rcpt@example.net", [content])
        assert code == 250, text
        # The next one is a message of its own.
        after, after_id = message("a@none.example")
        assert smtp.deliver("x@none.example", "rcpt@example.net", after)[0] == 250
    arrived(mta, message_id, content + b"\r\n", client)
    arrived(mta, after_id, after, client)


@pytest.mark.parametrize("tls", TLS)
def test_swaks_delivers(server, tls):
    (mta, gate), client = server, next(ADDRESSES)
    content, message_id = odd()
    arguments = ["--helo", "mail.good.example", "--from", "x@none.example", "--to", "rcpt@example.net"]
    if tls == "starttls":
        arguments += ["--tls"]
    address = gate.starttls if tls == "starttls" else gate.address
    said = swaks(address, *arguments, client=client, content=content)
    assert "<~* 250" in said or "<-  250" in said, said[-2000:]
    assert ("TLS started" in said) == (tls == "starttls"), said[-2000:]
    arrived(mta, message_id, content, client)


@pytest.mark.parametrize("tls", [*TLS, "implicit"])
def test_curl_delivers(server, certificate, tls):
    (mta, gate), client = server, next(ADDRESSES)
    content, message_id = odd()
    address = {"off": gate.plain, "starttls": gate.plain_starttls, "implicit": gate.smtps}[tls]
    code, said = curl(address, certificate, content=content, source=client, tls=tls)
    assert code == 0, said
    arrived(mta, message_id, content, client)


@pytest.mark.parametrize("tls", TLS)
def test_exim_delivers_by_chunks(server, tls):
    (mta, gate), client = server, next(ADDRESSES)
    content, message_id = odd()
    port = (gate.plain_starttls if tls == "starttls" else gate.plain)[1]
    sender = EximClient(port, client, tls == "starttls")
    try:
        said = sender.send("x@none.example", "rcpt@example.net", content)
    finally:
        sender.stop()
    # "K": by CHUNKING; "X=": under TLS.
    line = next(line for line in said.splitlines() if " => rcpt@example.net " in line)
    assert " K " in line and (" X=TLS" in line) == (tls == "starttls"), said
    arrived(mta, message_id, content, client)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("server", WITH_LOGIN, indirect=True)
def test_clients_log_in_at_the_server(server, certificate, mechanism):
    (mta, gate), client = server, next(ADDRESSES)
    user, password = LOGIN
    content, message_id = message("a@reject.example")
    with connect(gate, "starttls", certificate, client) as smtp:
        smtp.ehlo()
        assert mechanism in smtp.esmtp_features["auth"].split()
        smtp.user, smtp.password = user, password
        code, text = smtp.auth(mechanism, getattr(smtp, "auth_" + mechanism.lower().replace("-", "_")),
                               initial_response_ok=mechanism == "PLAIN")
        assert code == 235, text
        # Who has logged in may send anywhere, and is not held against DMARC.
        assert smtp.mail("x@elsewhere.example")[0] == 250
        assert smtp.rcpt("anyone@foreign.example")[0] == 250
        smtp.rset()
        assert smtp.deliver("x@elsewhere.example", "rcpt@example.net", content)[0] == 250
    on_top(mta.wait_for_message(message_id), content)
    mta.wait_for_log(client)


@pytest.mark.parametrize("server", WITH_LOGIN, indirect=True)
def test_a_wrong_password_is_refused_and_the_session_goes_on(server, certificate):
    (mta, gate), client = server, "203.0.113.77"
    content, message_id = message("a@none.example")
    with connect(gate, "starttls", certificate, client) as smtp:
        smtp.ehlo()
        code, text = smtp.docmd("AUTH", "PLAIN AHVzZXIAd3Jvbmc=")
        assert code == 535, text
        assert smtp.mail("x@none.example")[0] == 250
        assert 500 <= smtp.rcpt("anyone@foreign.example")[0] < 600
        smtp.rset()
        assert smtp.deliver("x@none.example", "rcpt@example.net", content)[0] == 250
    on_top(mta.wait_for_message(message_id), content)


def test_no_password_is_asked_for_in_the_clear(server):
    (_, gate), client = server, next(ADDRESSES)
    with Smtp(gate.starttls, client) as smtp:
        smtp.ehlo()
        assert smtp.has_extn("starttls") and not smtp.has_extn("auth")
        assert 500 <= smtp.docmd("AUTH", "PLAIN AHVzZXIAd3Jvbmc=")[0] < 600


@pytest.mark.parametrize("server", WITH_LOGIN, indirect=True)
def test_swaks_and_curl_log_in(server, certificate):
    mta, gate = server
    user, password = LOGIN
    arguments = ["--helo", "mail.good.example", "--from", "x@none.example", "--to", "rcpt@example.net", "--tls",
                 "--auth-user", user, "--auth-password"]
    content, message_id = message("a@none.example")
    said = swaks(gate.starttls, *arguments, password, "--auth", "LOGIN", client=next(ADDRESSES), content=content)
    assert "<~  235" in said, said
    on_top(mta.wait_for_message(message_id), content)
    said = swaks(gate.starttls, *arguments, "wrong", "--auth", "LOGIN", client=next(ADDRESSES), content=content)
    assert "<~* 535" in said, said
    content, message_id = message("a@none.example")
    client = next(ADDRESSES)
    code, said = curl(gate.smtps, certificate, "--user", f"{user}:{password}", content=content, source=client,
                      tls="implicit")
    assert code == 0 and "< 235" in said, said
    arrived(mta, message_id, content, client)


@pytest.fixture(scope="session")
def outgoing_tls(start_gate, postfix):
    """A gate where Postfix's own client delivers what comes to `postfix.outgoing_tls`."""
    return start_gate(postfix.xclient, "auto", ports=(0, postfix.gate_tls_port))


def test_postfix_delivers_under_tls(outgoing_tls, postfix):
    content, message_id = odd()
    with smtplib.SMTP(*postfix.outgoing_tls, timeout=30) as smtp:
        smtp.sendmail("x@none.example", ["rcpt@example.net"], content, mail_options=["BODY=8BITMIME"])
    arrived(postfix, message_id, content, "client=unknown[127.0.0.53]")
    postfix.wait_for_log(f"TLS connection established to 127.0.0.1[127.0.0.1]:{postfix.gate_tls_port}: TLSv1.3")


def test_postfix_gets_the_parameters_of_dsn(gates, postfix):
    content, message_id = message("a@none.example", body="not to be returned\r\n")
    with Smtp(gates("auto").address, next(ADDRESSES)) as smtp:
        smtp.ehlo()
        smtp.sendmail(
            "postmaster@example.net", ["rcpt@example.net"], content, mail_options=["RET=HDRS", "ENVID=interop+2B77"],
            rcpt_options=["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;first@place.example"],
        )
    on_top(postfix.wait_for_message(message_id), content)

    def look():
        found = (path.read_bytes() for path in postfix.mailbox())
        return next((each for each in found if b"Original-Envelope-Id: interop+" in each[:65536]), None)

    # The success is told to the sender, a mailbox here.
    told = wait_for(look, "a notification", postfix.log, 20)
    assert b"\nOriginal-Recipient: rfc822;first@place.example\n" in told and b"\nAction: delivered\n" in told, told
    assert message_id.encode() in told and b"not to be returned" not in told, told


@pytest.mark.parametrize("way", ["postfix-auto", "exim-proxy-v2"])
def test_addresses_in_utf8_reach_the_server(behind, way):
    mta, gate = behind(way)
    content, message_id = message("a@none.example", subject="Grüße")
    with Smtp(gate.address, next(ADDRESSES)) as smtp:
        smtp.ehlo()
        refused = smtp.sendmail(
            "jörg@none.example", ["rcpt@example.net"], content, mail_options=["SMTPUTF8", "BODY=8BITMIME"]
        )
        assert not refused
    on_top(mta.wait_for_message(message_id), content)
    line = mta.wait_for_log("jörg@none.example")
    assert "j\\" not in line


@pytest.mark.parametrize("hold", ["300ms", "30s"])
@pytest.mark.parametrize("by", ["DATA", "BDAT"])
def test_a_client_far_slower_than_postfix_waits_is_served_once(start_gate, postfix, by, hold):
    """Postfix's `smtpd_timeout` (two seconds) passes while the message comes; before it `upstream.hold`, or never."""
    gate = start_gate(postfix.impatient, "xclient", more=f'hold = "{hold}"')
    before = len(postfix.log())
    client = next(ADDRESSES)
    content, message_id = message("a@none.example", body="".join(f"line {number}\r\n" for number in range(12)))
    with Smtp(gate.address, client) as smtp:
        smtp.ehlo()
        assert smtp.mail("x@none.example")[0] == 250
        assert smtp.rcpt("rcpt@example.net")[0] == 250
        lines = content.splitlines(keepends=True)
        if by == "DATA":
            assert smtp.docmd("DATA")[0] == 354
            pieces = [*lines, b".\r\n"]
        else:
            pieces = [b"BDAT %d LAST\r\n" % len(content), *lines]
        for piece in pieces:
            # What is tested: Postfix would have given up more than once.
            time.sleep(0.4)
            smtp.send(piece)
        code, text = smtp.getreply()
        assert code == 250 and b"queued as" in text, text
        # Nor did it hold the session up for what comes after.
        after, after_id = message("a@none.example")
        assert smtp.deliver("x@none.example", "rcpt@example.net", after)[0] == 250
    arrived(postfix, message_id, content, client)
    arrived(postfix, after_id, after, client)
    # Postfix itself is left to wait only if the gate is told to.
    assert ("timeout after RCPT" in postfix.log()[before:]) == (hold == "30s")
