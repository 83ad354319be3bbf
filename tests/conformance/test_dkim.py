"""DKIM and ARC against dkimpy, both ways: what it signs we verify, what we sign it verifies, and of changed messages
both say the same. Where they differ, the difference stands in a table with its reason, and is shown to exist."""

import base64
import itertools
import json
import os
import pathlib
import random

import dkim
import pytest

import dkim_messages as messages
from dkim_world import DOMAIN, Key, World

CANONICALIZATIONS = list(itertools.product([b"simple", b"relaxed"], repeat=2))
MESSAGES = 320
MUTATIONS = 3
CHAINS = 25
# Where they differ though both are right, by how the reason ends that the gate gives for the signature.
EXPLAINED = {
    "the end of the body is not signed (l=)":
        "RFC 6376 §8.2: a verifier may take what l= leaves unsigned for unacceptable (dkim=policy); dkimpy passes it",
    " stands again, unsigned":
        "RFC 6376 §8.15: a field that a message has once stands on top of the signed one; dkimpy passes it",
}
# The same by the reason why From names nobody, which makes the signature one of a message that never passes.
UNUSABLE = {
    "malformed_header":
        "RFC 6376 §3.8 asks for a message of sound form: dkimpy reads none of it, the gate leaves the line out",
    "repeated":
        "RFC 6376 §8.15: dkimpy takes each further From for signed, the gate takes none (§5.4.2), calls the signature "
        "policy and refuses the message",
}


@pytest.fixture(scope="module")
def keys():
    """By selector."""
    rsa = {f"r{bits}": Key(f"r{bits}", bits) for bits in (1024, 1536, 2048, 4096)}
    return rsa | {"ed": Key("ed")}


@pytest.fixture(scope="module")
def world(keys):
    names = [DOMAIN, *(f"sealer{number}.example" for number in range(1, 6))]
    running = World({key.name(domain): key.record for key in keys.values() for domain in names})
    yield running
    running.stop()


@pytest.fixture(scope="module")
def signed(keys):
    """Messages signed by dkimpy, each with what it was made of."""
    return [sign(seed, keys) for seed in range(MESSAGES)]


def sign(seed, keys):
    """A message signed by dkimpy: each canonicalization pair as often, the rest as the seed has it."""
    choice = random.Random(f"sign {seed}")
    text = messages.message(seed)
    key = keys[choice.choices(list(keys), weights=[3, 3, 6, 1, 6])[0]]
    names = [field.partition(b":")[0].lower() for field in messages.split(text)[0]]
    included = [b"from", *choice.sample(names, choice.randrange(len(names)))]
    # Oversigned: none may be added.
    included += choice.choice([[], [], [b"from"], [b"from", b"subject", b"cc"], [b"x-none", b"received"] * 5])
    pair = CANONICALIZATIONS[seed % 4]
    signer = dkim.DKIM(text, signature_algorithm=key.algorithm)
    signer.should_not_sign = set()
    field = signer.sign(
        key.selector.encode(), DOMAIN.encode(), key.private, canonicalize=pair, include_headers=included,
        length=choice.random() < 0.2,
        identity=choice.choice([None, b"@" + DOMAIN.encode(), b"x@sub." + DOMAIN.encode()]),
    )
    return f"{seed}: {key.selector} {b'/'.join(pair).decode()} {b':'.join(included).decode()}", field + text


def is_explained(signature):
    return signature["result"] == "policy" and signature["reason"].endswith(tuple(EXPLAINED))


def agree(name, ours, theirs):
    """Whether both verifiers say the same of each signature; else what they say."""
    found = [signature["result"] == "pass" for signature in ours["dkim"]]
    expected = [result is True for result in theirs]
    explained = any(is_explained(s) for s in ours["dkim"]) and not any(found)
    if found == expected or explained or ours["from"]["unusable"] in UNUSABLE and not any(expected):
        return None
    reasons = [f"{s['result']}: {s['reason']}" for s in ours["dkim"]]
    return f"{name}: the gate says {reasons}, dkimpy {theirs!r}"


def test_what_dkimpy_signs_passes(world, signed):
    found = world.gate([text for _, text in signed])
    wrong = [(name, ours["dkim"]) for (name, _), ours in zip(signed, found) if
             [s["result"] for s in ours["dkim"]] != ["pass"]]
    assert not wrong
    assert all(world.dkimpy(text) == [True] for _, text in signed)


def test_both_say_the_same_of_changed_messages(world, signed):
    changed = [(f"{name}, {change}", text) for seed, (name, original) in enumerate(signed)
               for change, text in messages.mutations(original, f"change {seed}", MUTATIONS)]
    found = world.gate([text for _, text in changed])
    theirs = [world.dkimpy(text) for _, text in changed]
    wrong = [agree(name, ours, expected) for (name, _), ours, expected in zip(changed, found, theirs)]
    assert not list(filter(None, wrong))
    passing = sum(expected == [True] for expected in theirs)
    assert 0.1 < passing / len(changed) < 0.9, "the changes tell good from bad"


def test_several_signatures_are_told_in_the_order_of_the_fields(world, keys):
    text = messages.message(7)
    for selector, pair in zip(keys, CANONICALIZATIONS):
        key = keys[selector]
        text = dkim.sign(text, selector.encode(), DOMAIN.encode(), key.private, signature_algorithm=key.algorithm,
                         canonicalize=pair, include_headers=[b"from", b"to"]) + text
    broken = text.replace(b"s=r1536;", b"s=none;", 1)
    assert world.dkimpy(text) == [True] * 4
    ours, changed = world.gate([text, broken])
    assert [s["result"] for s in ours["dkim"]] == ["pass"] * 4
    assert [s["result"] for s in changed["dkim"]] == ["pass", "pass", "permerror", "pass"]


def test_two_ways_to_end_a_body_differ_only_in_storage(world, keys):
    """dkimpy hashes white space before an end of data without a line end; over SMTP a line end is there."""
    key = keys["ed"]
    head = b"From: a@signer.example\r\n\r\n"
    options = dict(signature_algorithm=key.algorithm, canonicalize=(b"relaxed", b"relaxed"), include_headers=[b"from"])
    field = dkim.sign(head + b"x \t", b"ed", DOMAIN.encode(), key.private, **options)
    sent = field + head + b"x \t\r\n"
    assert world.dkimpy(field + head + b"x \t") == [True]
    assert world.dkimpy(sent) != [True]
    assert world.gate([sent])[0]["dkim"][0]["reason"] == "body hash does not match"


def test_what_l_leaves_unsigned_is_policy(world, keys):
    key = keys["ed"]
    text = b"From: a@signer.example\r\n\r\nx\r\n"
    field = dkim.sign(text, b"ed", DOMAIN.encode(), key.private, signature_algorithm=key.algorithm,
                      include_headers=[b"from"], length=True)
    for more, expected in ((b"", "pass"), (b"\r\n", "pass"), (b"more\r\n", "policy")):
        assert world.dkimpy(field + text + more) == [True]
        ours = world.gate([field + text + more])[0]["dkim"][0]
        assert ours["result"] == expected
        assert expected == "pass" or is_explained(ours)


def test_what_is_put_on_top_of_a_signed_field_is_policy(world, keys):
    key = keys["ed"]
    text = b"From: a@signer.example\r\nSubject: s\r\nX: x\r\n\r\nx\r\n"
    field = dkim.sign(text, b"ed", DOMAIN.encode(), key.private, signature_algorithm=key.algorithm,
                      include_headers=[b"from", b"subject", b"x"])
    for more, expected in ((b"", "pass"), (b"X: y\r\n", "pass"), (b"Subject: t\r\n", "policy")):
        assert world.dkimpy(more + field + text) == [True]
        ours = world.gate([more + field + text])[0]["dkim"][0]
        assert ours["result"] == expected
        assert expected == "pass" or is_explained(ours)


def test_a_message_whose_from_is_unusable_never_passes(world, keys):
    key = keys["ed"]
    text = b"From: a@signer.example\r\nSubject: s\r\n\r\nx\r\n"
    field = dkim.sign(text, b"ed", DOMAIN.encode(), key.private, signature_algorithm=key.algorithm,
                      include_headers=[b"from"])
    for reason, more in (("repeated", b"From: b@evil.example\r\n"), ("malformed_header", b"no field\r\n")):
        assert world.dkimpy(more + field + text) != [True], reason
        ours = world.gate([more + field + text])[0]
        assert ours["dkim"][0]["result"] == ("policy" if reason == "repeated" else "pass")
        assert (ours["from"]["unusable"], ours["dmarc"]) == (reason, [])
        assert reason in UNUSABLE


def seal(text, keys, count, choice):
    """A message with `count` ARC sets by dkimpy, with changes between that break no chain."""
    for number in range(1, count + 1):
        status = b"none" if number == 1 else b"pass"
        results = b"Authentication-Results: relay%d.example; arc=%s; dmarc=pass header.from=%s\r\n" % (
            number, status, DOMAIN.encode())
        key = keys[choice.choice([name for name in keys if name != "ed"])]
        sets = dkim.arc_sign(results + text, key.selector.encode(), b"sealer%d.example" % number, key.private,
                             b"relay%d.example" % number, include_headers=[b"from", b"to", b"subject"])
        assert len(sets) == 3, (number, text)
        text = b"".join(sets) + results + text
    return text


@pytest.fixture(scope="module")
def chains(keys):
    """Messages with 1 to 5 sets each."""
    made = []
    for seed in range(CHAINS):
        choice = random.Random(f"seal {seed}")
        made.append((seed % 5 + 1, seal(messages.message(1000 + seed), keys, seed % 5 + 1, choice)))
    return made


def test_what_dkimpy_seals_validates(world, chains):
    found = world.gate([text for _, text in chains])
    for (count, text), ours in zip(chains, found):
        assert world.dkimpy_arc(text) == "pass"
        assert ours["arc"]["result"] == "pass", (count, ours["arc"])
        assert [s["sealer"] for s in ours["arc"]["sets"]] == [f"sealer{n}.example" for n in range(1, count + 1)]
        assert {(s["dmarc"], s["author_domain"]) for s in ours["arc"]["sets"]} == {("pass", DOMAIN)}


def test_both_say_the_same_of_changed_chains(world, chains):
    changed = [(f"{seed}, {change}", text) for seed, (_, original) in enumerate(chains)
               for change, text in messages.mutations(original, f"chain {seed}", 8)]
    found = world.gate([text for _, text in changed])
    wrong = []
    for (name, text), ours in zip(changed, found):
        theirs = world.dkimpy_arc(text)
        if ours["from"]["unusable"] in UNUSABLE and theirs != "pass":
            continue
        if ours["arc"]["result"] == "fail" and (ours["arc"]["reason"] or "").endswith(tuple(EXPLAINED)):
            continue
        if (ours["arc"]["result"] == "pass") != (theirs == "pass"):
            wrong.append(f"{name}: the gate says {ours['arc']}, dkimpy {theirs!r}")
    assert not wrong


def test_what_our_signer_signs_passes_with_dkimpy(keys):
    path = os.environ.get("DMARCGATE_SIGNED", "")
    if not path:
        pytest.skip("DMARCGATE_SIGNED names no file: `cargo test --test it -- --ignored signed::` writes one")
    cases = json.loads(pathlib.Path(path).read_text())
    assert len(cases["messages"]) >= 100
    there = World(cases["records"])
    try:
        for case in cases["messages"]:
            text = base64.b64decode(case["content"])
            expected = case["result"] == "pass"
            if case["method"] == "arc":
                assert (there.dkimpy_arc(text) == "pass") == expected, case["name"]
            else:
                assert (there.dkimpy(text) == [True]) == expected, case["name"]
    finally:
        there.stop()


def test_a_report_of_ours_passes_with_dkimpy():
    path = os.environ.get("DMARCGATE_SENT", "")
    if not path:
        pytest.skip("DMARCGATE_SENT names no file: `cargo test --test it -- --ignored sent::` writes one")
    sent = json.loads(pathlib.Path(path).read_text())
    text = base64.b64decode(sent["content"])
    there = World(sent["records"])
    try:
        assert there.dkimpy(text) == [True, True]
        assert True not in there.dkimpy(text.replace(b"Report Domain: a.example", b"Report Domain: b.example"))
    finally:
        there.stop()
