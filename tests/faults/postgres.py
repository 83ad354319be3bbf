"""A PostgreSQL of the harness's own, as Debian's package brings it, that can be broken."""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time


class Postgres:
    """A server on a local socket in a directory of its own; root runs it as the packaged user `postgres`."""

    def __init__(self):
        places = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))
        found = shutil.which("initdb") if not places else str(places[-1] / "initdb")
        if found is None:
            raise RuntimeError("no initdb: install postgresql")
        self._programs = pathlib.Path(found).parent
        # Short: a socket's path has a hundred octets at most.
        self._place = pathlib.Path(tempfile.mkdtemp(prefix="dgpg.", dir="/tmp"))
        self._as = []
        if os.geteuid() == 0:
            shutil.chown(self._place, "postgres")
            self._as = ["runuser", "-u", "postgres", "--"]
        self._place.chmod(0o755)
        self._stopped = []
        self.url = f"postgres://postgres@localhost/postgres?host={self._place}"
        self._run("initdb", "-D", self._place / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
        self._start()

    def end(self):
        """Ends it and removes its directory."""
        self.mend("SIGSTOP")
        self._control("stop", "-m", "immediate", check=False)
        shutil.rmtree(self._place, ignore_errors=True)

    def fail(self, how):
        """Breaks it."""
        match how:
            case "restart":
                self._control("restart", "-m", "fast")
            case "stopped":
                self._control("stop", "-m", "immediate")
            case "kill -9":
                for pid in self.processes():
                    os.kill(pid, signal.SIGKILL)
            case "SIGSTOP":
                self._stopped = self.processes()
                for pid in self._stopped:
                    os.kill(pid, signal.SIGSTOP)

    def mend(self, how):
        """Mends what `fail` has broken."""
        match how:
            case "stopped" | "kill -9":
                self._start()
            case "SIGSTOP":
                for pid in self._stopped:
                    os.kill(pid, signal.SIGCONT)
                self._stopped = []

    def rows(self):
        """As `World.rows`."""
        lines = self.query("SELECT header_from, SUM(n) FROM report_rows GROUP BY header_from")
        return {name: int(count) for name, count in (line.split(" ") for line in lines)}

    def query(self, statement):
        """The lines that come out, with a space between columns."""
        return self._run("psql", "-h", self._place, "-U", "postgres", "-At", "-F", " ", "-c", statement).splitlines()

    def processes(self):
        """The server's process and those that it has started."""
        main = int((self._place / "data" / "postmaster.pid").read_text().split()[0])
        found = [main]
        for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(entry.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == main:
                found.append(int(entry.parent.name))
        return found

    def _start(self):
        deadline = time.monotonic() + 30
        # What a killed one has left may have to go first.
        while not self._control("start", check=False):
            if time.monotonic() > deadline:
                raise RuntimeError((self._place / "data" / "log").read_text()[-2000:])
            time.sleep(0.1)

    def _control(self, *command, check=True):
        options = f"-c listen_addresses='' -k {self._place} -c max_connections=50"
        arguments = [self._programs / "pg_ctl", "-D", self._place / "data", "-l", self._place / "data" / "log", "-s",
                     "-w", *(["-o", options] if command[0] in ("start", "restart") else []), *command]
        done = subprocess.run([*self._as, *arguments], cwd=self._place, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=check)
        return done.returncode == 0

    def _run(self, program, *arguments):
        return subprocess.run([*self._as, self._programs / program, *arguments], cwd=self._place, check=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout.decode()
