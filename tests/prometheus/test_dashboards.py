"""Every query of every panel, asked of a Prometheus while a gate has mail of every kind: each has an answer."""

import json
import math

import pytest

from mta import wait_for
from prometheus import ROOT

DASHBOARDS = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))

# Panels in which nothing moves, for a reason that no client, mail server or name server can be: the queries have
# answers here, too, all of them 0. In the others something other than 0 is seen, now or before.
STILL = {
    "Cache: no room": "a cache of a thousand answers is full only after minutes",
    "Faults": "a gate that panics or loses log lines is broken",
    "Public suffix list": "nothing is fetched with policy.discovery = tree-walk",
    "Lost": "rows are lost where memory and file are full",
    "Rows lost": "the same",
}


def panels():
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            if panel["type"] != "row":
                yield pytest.param(panel, id=f"{path.stem}: {panel['title']}")


@pytest.mark.parametrize("panel", panels())
def test_every_query_of_a_panel_has_an_answer_and_one_of_them_moves(prometheus, world, panel):
    queries = [as_grafana_asks(target["expr"]) for target in panel["targets"]]
    assert queries

    def look():
        world.watch()
        answers = [[value for _, value in prometheus.query(query) if not math.isnan(value)] for query in queries]
        moves = panel["title"] in STILL or any(
            value not in (0, math.inf) and not math.isnan(value)
            for query in queries for _, value in prometheus.query(f"max_over_time(({query})[5m:1s])")
        )
        return answers if all(answers) and moves else None

    def explain():
        return "\n".join(f"{query}\n  {prometheus.query(query)}" for query in queries)

    wait_for(look, "answers", explain, 40)


def test_dashboards_are_there():
    assert len(DASHBOARDS) == 4
    titles = {panel.values[0]["title"] for panel in panels()}
    assert set(STILL) <= titles, set(STILL) - titles


def as_grafana_asks(query):
    """A query with the variables that Grafana would fill in."""
    query = query.replace("$__rate_interval", "30s").replace('"$instance"', '".*"')
    assert "$" not in query, query
    return query
