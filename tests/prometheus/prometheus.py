"""Debian's Prometheus, scraping one gate every second, with the rules of `grafana/`."""

import json
import os
import pathlib
import subprocess
import urllib.parse
import urllib.request

from mta import TOOLS, free_ports, wait_for

ROOT = pathlib.Path(__file__).parents[2]
RULES = [ROOT / "grafana" / "recording.yml", ROOT / "grafana" / "alerts.yml"]

CONFIG = """
global:
  scrape_interval: 1s
  evaluation_interval: 1s
rule_files: {rules}
scrape_configs:
  - job_name: dmarcgate
    static_configs:
      - targets: ["{gate[0]}:{gate[1]}"]
"""


class Prometheus:
    """A running server; `stop` ends it."""

    def __init__(self, base, gate):
        self._log = base / "prometheus.log"
        self._port = free_ports(1)[0]
        config = base / "prometheus.yml"
        config.write_text(CONFIG.format(rules=json.dumps([str(path) for path in RULES]), gate=gate))
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={base / 'data'}",
                 f"--web.listen-address=127.0.0.1:{self._port}"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )

    def stop(self):
        """Ends it."""
        self._process.terminate()
        self._process.wait(timeout=30)

    def wait_for_scrapes(self):
        """Until it has scraped the gate twice."""
        query = "count_over_time(up[1m]) >= 2 and up == 1"
        wait_for(lambda: self.answers(query) or None, "two scrapes of the gate", self.log, 30)

    def query(self, query):
        """What it answers now: [(labels, value)]; a query that it does not take is an error."""
        found = self.get("query", query=query)
        assert found["resultType"] == "vector", found
        return [(sample["metric"], float(sample["value"][1])) for sample in found["result"]]

    def answers(self, query):
        """As `query`; nothing as long as nobody listens."""
        try:
            return self.query(query)
        except OSError:
            if self._process.poll() is not None:
                raise RuntimeError(f"Prometheus ended with {self._process.returncode}\n{self.log()}") from None
            return []

    def get(self, what, **parameters):
        """The data of an answer of its API."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as response:
            return json.load(response)["data"]

    def log(self):
        """Everything it has printed."""
        return self._log.read_text(errors="replace")


def promtool(*arguments, stdin=None):
    """Runs promtool: its exit code, and what it said."""
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], input=stdin, stdin=None if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False,
    )
    return done.returncode, done.stdout.decode()


def program(name):
    """Of Debian's package, which is unpacked and not installed: it would start a service."""
    path = TOOLS / "prometheus" / "usr" / "bin" / name
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"{path} is missing: .ci/run unpacks it")
    return path
