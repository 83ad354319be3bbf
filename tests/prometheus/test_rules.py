"""The rules: promtool takes them, each alert fires once, and a Prometheus that scrapes a gate evaluates all of them."""

import pathlib

from mta import wait_for
from prometheus import RULES, promtool


def test_promtool_takes_the_rules():
    code, said = promtool("check", "rules", *RULES)
    assert code == 0 and "SUCCESS" in said, said


def test_each_alert_fires_once_and_alone():
    code, said = promtool("test", "rules", pathlib.Path(__file__).parent / "alerts_test.yml")
    assert code == 0 and "SUCCESS" in said, said


def test_a_running_prometheus_evaluates_every_rule(prometheus):
    def look():
        rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        assert not [rule for rule in rules if rule["health"] == "err"], rules
        return rules if rules and all(rule["health"] == "ok" for rule in rules) else None

    rules = wait_for(look, "an evaluation of every rule", prometheus.log, 30)
    kinds = [rule["type"] for rule in rules]
    assert (kinds.count("alerting"), kinds.count("recording")) == (27, 5)
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    for name in recorded:
        wait_for(lambda: prometheus.query(name) or None, name, prometheus.log, 30)


def test_what_a_gate_shows_is_as_prometheus_wants_it(world):
    code, said = promtool("check", "metrics", stdin=world.scrape())
    assert code == 0, said
