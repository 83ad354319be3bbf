"""The public test suite of RFC 7208 (openspf.org, release 2014.04), out of the source package that `suite.txt` names."""

import dataclasses
import os
import pathlib
import tarfile

import yaml

TOOLS = pathlib.Path(os.environ.get("DMARCGATE_TOOLS") or pathlib.Path(__file__).parents[2] / "target" / "tools")
ARCHIVE = TOOLS / "spf-suite" / "pyspf-2.0.14.tar.gz"
MEMBER = "pyspf-2.0.14/test/rfc7208-tests.yml"


@dataclasses.dataclass(frozen=True)
class Case:
    """One case: who sends from where, and the results that the suite allows, the preferred one first."""

    name: str
    scenario: int
    host: str
    helo: str
    mail_from: str
    results: tuple


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Cases that share a zone: {name: [(type, value), ...]}, "TIMEOUT" among them where DNS is silent."""

    description: str
    cases: tuple
    zone: dict


def load():
    """All scenarios."""
    if not ARCHIVE.exists():
        raise RuntimeError(f"{ARCHIVE} is missing; .ci/run fetches it (pip download -r tests/conformance/suite.txt)")
    with tarfile.open(ARCHIVE) as archive:
        documents = list(yaml.safe_load_all(archive.extractfile(MEMBER).read()))
    return [scenario(number, document) for number, document in enumerate(documents)]


def scenario(number, document):
    """A scenario of the file."""
    cases = tuple(
        Case(name, number, str(case["host"]), str(case["helo"]), str(case["mailfrom"]), results(case["result"]))
        for name, case in document["tests"].items()
    )
    zone = {name.lower(): records(entries) for name, entries in document["zonedata"].items()}
    return Scenario(document["description"], cases, zone)


def results(given):
    """The allowed results, whether there is one or several."""
    return (given,) if isinstance(given, str) else tuple(given)


def records(entries):
    """The records of a name. By the suite's rule, records of type SPF stand for TXT records too unless there are any."""
    flat = [entry if entry == "TIMEOUT" else next(iter(entry.items())) for entry in entries]
    has_txt = any(entry != "TIMEOUT" and entry[0] == "TXT" for entry in flat)
    found = []
    for entry in flat:
        if entry == "TIMEOUT":
            found.append(entry)
        elif entry[1] == "NONE":
            continue
        elif entry[0] == "SPF":
            found.extend([entry] if has_txt else [entry, ("TXT", entry[1])])
        else:
            found.append(entry)
    return found
