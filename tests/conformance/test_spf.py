"""SPF by the public test suite of RFC 7208: by `dmarcgate check`, and through a running gate over sockets."""

import concurrent.futures
import contextlib
import ipaddress
import json

import authres
import pytest

import suite
from world import HOSTNAME, MESSAGE, Client, Gate
from zones import Nameserver

SCENARIOS = suite.load()

# Cases that a command of SMTP can't carry. The gate refuses it, so that there is nothing to evaluate; the evaluator is
# held to them in `cargo test` (src/spf). `check` reads its arguments as a session does. By name: the reply, and why.
SYNTAX, ARGUMENT = "501 5.1.7", "501 5.5.4"
NOT_SMTP = {
    "emptylabel": (SYNTAX, "RFC 5321 section 4.1.2: no Domain has an empty label"),
    "toolonglabel": (SYNTAX, "RFC 5321 section 4.5.3.1, RFC 1035 section 2.3.4: no label has 64 octets"),
    "nolocalpart": (SYNTAX, "RFC 5321 section 4.1.2: a Mailbox has a Local-part"),
    "dorky-sentinel": (SYNTAX, "RFC 5321 section 4.1.2: a Local-part with a space is quoted"),
    "invalid-hello-macro": (ARGUMENT, "RFC 5321 section 4.1.1.1: no Domain has a space or an apostrophe"),
}


def cases():
    """Every case, as a parameter with its name."""
    return [pytest.param(case, id=case.name) for scenario in SCENARIOS for case in scenario.cases]


@pytest.fixture(scope="module", params=range(len(SCENARIOS)), ids=lambda number: SCENARIOS[number].description)
def scenario(request):
    return SCENARIOS[request.param]


@pytest.fixture(scope="module")
def gate(scenario, upstream, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        nameserver = Nameserver(scenario.zone)
        stack.callback(nameserver.stop)
        running = Gate(tmp_path_factory.mktemp("gate"), nameserver.address, upstream.port)
        stack.callback(running.stop)
        yield running


def test_the_suite_is_whole():
    assert len(cases()) == 203


def test_check_finds_what_the_suite_demands(scenario, gate):
    def look(case):
        done = gate.check(case)
        if case.name in NOT_SMTP:
            return done.returncode, done.returncode == 2
        found = spf_of(done)
        return found, found in case.results

    hold(scenario, look)


def spf_of(done):
    """The SPF result among the facts, or what went wrong."""
    if not done.stdout:
        return done.stderr.decode()
    return json.loads(done.stdout)["evaluation"]["spf"]["result"]


def test_the_gate_writes_what_the_suite_demands(scenario, gate, upstream):
    address = gate.start()

    def look(case):
        reply = deliver(address, case)
        if case.name in NOT_SMTP:
            return reply, reply.startswith(NOT_SMTP[case.name][0])
        if not reply.startswith("250 "):
            return reply, False
        subject = f"Subject: {case.name}\r\n".encode()
        [message] = [message for message in upstream.messages if subject in message]
        found = list(faults(case, message.decode()))
        return found, not found

    hold(scenario, look)


def hold(scenario, look):
    """Holds every case to its `look`, several at a time: some wait for DNS in vain."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = zip(scenario.cases, pool.map(look, scenario.cases), strict=True)
        wrong = [f"{case.name}: {what}, not one of {case.results}" for case, (what, good) in found if not good]
    assert not wrong, "\n".join(wrong)


def deliver(address, case):
    """Sends a message; the last reply, that of the first refusal if there is one."""
    commands = [
        f"EHLO {case.helo}", f"MAIL FROM:<{case.mail_from}>", "RCPT TO:<you@rcpt.example>", "DATA",
        MESSAGE.format(case.name) + ".",
    ]
    with Client(address, case.host) as client:
        for command in commands:
            reply = client.command(command.encode())
            if reply[0] not in "23":
                break
        return reply


def faults(case, message):
    """What is wrong with the fields of a relayed message."""
    fields = message.split("From: ", 1)[0].replace("\r\n ", " ").splitlines()
    written = [field for field in fields if field.startswith("Authentication-Results: ")]
    # authres takes a folded field as one line.
    results = authres.AuthenticationResultsHeader.parse(written[0])
    if len(written) != 1 or results.authserv_id != HOSTNAME:
        yield written
    first, *more = [result for result in results.results if result.method == "spf"]
    if first.result not in case.results:
        yield written
    # Who takes the first result takes that of the reverse-path, unless it is null.
    if case.mail_from and (first.smtp_helo is not None or any(result.smtp_helo is None for result in more)):
        yield written
    if not case.mail_from and (first.smtp_mailfrom is not None or more):
        yield written
    received = [field for field in fields if field.startswith("Received-SPF: ")]
    if len(received) != 1 or received[0].split()[1] != first.result or f"client-ip={ip(case.host)};" not in received[0]:
        yield received


def ip(host):
    """An address as Received-SPF has it."""
    return f'"{canonical(host)}"' if ":" in canonical(host) else canonical(host)


def canonical(host):
    """An address in its canonical form, unmapped."""
    address = ipaddress.ip_address(host)
    return str(getattr(address, "ipv4_mapped", None) or address)
