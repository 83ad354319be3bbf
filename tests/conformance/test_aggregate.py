"""Aggregate reports as others read them: held to a schema, read by parsedmarc and lxml, and counted once more.

A test of the gate's writes mixed days, hostile names among them: what went in, and the reports that came out."""

import collections
import ipaddress
import json
import logging
import os
import pathlib
import unicodedata

import parsedmarc
import pytest
from lxml import etree

HERE = pathlib.Path(__file__).parent
NAMESPACE = "urn:ietf:params:xml:ns:dmarc-2.0"
SCHEMA = etree.XMLSchema(etree.parse(HERE / "dmarc-2.0.xsd"))


def worlds():
    path = os.environ.get("DMARCGATE_REPORTS")
    if not path:
        raise RuntimeError("DMARCGATE_REPORTS names the file; .ci/run has a test write it")
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


WORLDS = worlds()


def test_there_are_worlds_of_both_formats():
    assert collections.Counter(world["format"] for world in WORLDS) == {"rfc9990": 300, "rfc7489": 300}
    assert all(world["reports"] for world in WORLDS[:50])


def test_every_report_is_valid():
    for xml in reports("rfc9990"):
        document = etree.fromstring(xml.encode())
        assert SCHEMA.validate(document), SCHEMA.error_log


@pytest.mark.parametrize(("good", "bad"), [
    ("<p>none</p>", "<p>pass</p>"),
    ("<scope>mfrom</scope>", "<scope>helo</scope>"),
    ("<testing>", "<pct>100</pct><testing>"),
    ("</identifiers>", "</identifiers><auth_results/>"),
])
def test_the_schema_refuses_what_is_wrong(good, bad):
    xml = next(xml for xml in reports("rfc9990") if good in xml)
    assert not SCHEMA.validate(etree.fromstring(xml.replace(good, bad, 1).encode()))


@pytest.mark.parametrize("form", ["rfc9990", "rfc7489"])
def test_each_record_counts_what_an_independent_count_finds(form):
    for world in WORLDS:
        if world["format"] != form:
            continue
        expected = count(world["rows"], form)
        found = {report["record"]: read(report["xml"], form) for report in world["reports"]}
        assert found == expected


@pytest.mark.parametrize("form", ["rfc9990", "rfc7489"])
def test_parsedmarc_reads_all_of_it_without_a_warning(form, caplog):
    caplog.set_level(logging.WARNING)
    for world in [world for world in WORLDS if world["format"] == form][:100]:
        expected = count(world["rows"], form)
        for report in world["reports"]:
            parsed = parsedmarc.parse_aggregate_report_xml(report["xml"], offline=True, always_use_local_files=True)
            assert parsed["report_metadata"]["report_id"] == report["id"]
            assert parsed["report_metadata"]["errors"] == ["sp is invalid"]
            assert parsed["policy_published"]["domain"] == "reject.example"
            assert parsed["xml_namespace"] == (NAMESPACE if form == "rfc9990" else None)
            found = collections.Counter()
            for record in parsed["records"]:
                found[record_of_parsedmarc(record)] += record["count"]
            wanted = collections.Counter()
            for key, messages in expected[report["record"]].items():
                wanted[as_parsedmarc_has_it(key)] += messages
            assert found == wanted
    assert [entry.getMessage() for entry in caplog.records] == []


def test_file_names_are_those_of_the_rfc():
    for world in WORLDS:
        for report in world["reports"]:
            receiver, domain, begin, end, rest = report["file_name"].split("!")
            assert (receiver, domain, int(end) - int(begin)) == ("rcpt.example", "reject.example", 86399)
            assert rest == report["id"] + ".xml.gz" and report["id"].isalnum()
        names = [report["file_name"] for report in world["reports"]]
        assert len(names) == len(set(names))


def reports(form):
    """The XML of all reports of a format."""
    return [report["xml"] for world in WORLDS if world["format"] == form for report in world["reports"]]


def count(rows, form):
    """Messages by policy record and by what a report tells apart; private addresses are not reported."""
    counts = collections.defaultdict(collections.Counter)
    for row in rows:
        if ipaddress.ip_address(row["source_ip"]) in ipaddress.ip_network("10.0.0.0/8"):
            continue
        counts[row["record"]][key(row, form)] += row["count"]
    return dict(counts)


def key(row, form):
    """What a report tells apart, as it should stand there."""
    older = form == "rfc7489"
    disposition = "none" if older and row["disposition"] == "pass" else row["disposition"]
    reasons = tuple(reason(each, older) for each in row["reasons"])
    signatures = tuple(
        (clean(each["domain"]), clean(each["selector"]), each["result"])
        for each in row["dkim"]
        if each["domain"].strip() and each["selector"].strip()
    )
    spf = None
    if row["spf"] and row["spf"]["domain"].strip():
        spf = (clean(row["spf"]["domain"]), row["spf"]["result"])
    elif older:
        spf = (row["header_from"], "none")
    recipient = None if row["envelope_to"] is None else clean(row["envelope_to"])
    return (row["source_ip"], disposition, row["dkim_aligned"], row["spf_aligned"], reasons, row["header_from"],
            clean(row["envelope_from"]), recipient, signatures, spf)


def reason(given, older):
    """Type and comment."""
    kind, comment = given["type"], clean(given.get("comment", ""))
    if older and kind == "policy_test_mode":
        return "other", f"{kind}: {comment}" if comment else kind
    return kind, comment


def clean(text):
    """Without what XML 1.0 has no character for, and other control characters."""
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" or c in "\ufffe\uffff" else c for c in text)


def read(xml, form):
    """A report's counts as lxml sees them."""
    prefix = f"{{{NAMESPACE}}}" if form == "rfc9990" else ""
    counts = collections.Counter()
    for record in etree.fromstring(xml.encode()).findall(f"{prefix}record"):
        def text(*path, of=record):
            found = of.find("/".join(prefix + name for name in path))
            return None if found is None else found.text or ""

        evaluated = ("row", "policy_evaluated")
        reasons = record.findall("/".join(prefix + name for name in [*evaluated, "reason"]))
        signatures = record.findall(f"{prefix}auth_results/{prefix}dkim")
        spf = (text("auth_results", "spf", "domain"), text("auth_results", "spf", "result"))
        found = (
            text("row", "source_ip"), text(*evaluated, "disposition"), text(*evaluated, "dkim"), text(*evaluated, "spf"),
            tuple((text("type", of=each), text("comment", of=each) or "") for each in reasons),
            text("identifiers", "header_from"), text("identifiers", "envelope_from"), text("identifiers", "envelope_to"),
            tuple(tuple(text(name, of=each) for name in ["domain", "selector", "result"]) for each in signatures),
            None if spf[0] is None else spf,
        )
        # In the older format the scope tells two records apart.
        assert found not in counts or form == "rfc7489"
        counts[found] += int(text("row", "count"))
    return counts


def record_of_parsedmarc(record):
    """The same of what parsedmarc has made of a record."""
    evaluated, identifiers, results = record["policy_evaluated"], record["identifiers"], record["auth_results"]
    assert len(results["spf"]) <= 1
    return (
        record["source"]["ip_address"], evaluated["disposition"], evaluated["dkim"], evaluated["spf"],
        tuple((each["type"], each["comment"]) for each in evaluated["policy_override_reasons"]),
        identifiers["header_from"], identifiers["envelope_from"], identifiers["envelope_to"],
        tuple((each["domain"], each["selector"], each["result"]) for each in results["dkim"]),
        next(((each["domain"], each["result"]) for each in results["spf"]), None),
    )


def as_parsedmarc_has_it(wanted):
    """It takes white space off, has None for an empty text, and SPF's domain for an empty reverse-path."""
    *first, reasons, header_from, envelope_from, envelope_to, signatures, spf = wanted
    bare = [text and (text.strip() or None) for text in (envelope_from, envelope_to)]
    if not bare[0]:
        bare[0] = spf[0].strip().lower() if spf else None
    return (
        *first, tuple((kind, comment.strip() or None) for kind, comment in reasons), header_from, *bare,
        tuple(tuple(text.strip() for text in signature) for signature in signatures),
        spf and (spf[0].strip(), spf[1]),
    )
