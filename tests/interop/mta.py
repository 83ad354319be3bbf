"""What the servers behind the gate have in common: a directory of their own with a log and a mailbox, on loopback."""

import os
import pathlib
import shutil
import signal
import socket
import tempfile
import time

DOMAIN = "example.net"
# Who may log in at each of them.
LOGIN = ("user", "s3cret/pass")

TOOLS = pathlib.Path(os.environ.get("DMARCGATE_TOOLS") or pathlib.Path(__file__).parents[2] / "target" / "tools")


class Mta:
    """The directory, log (`NAME.log`, or as `log_name` says) and mailbox (`mail/box/new`) of a server; `stop` removes
    them."""

    def __init__(self, name, log_name=None):
        if os.geteuid() != 0:
            raise RuntimeError("mail servers start as root only")
        self.name = name
        # Its own users must reach the directory, which pytest's private ones forbid.
        self._log_name = log_name or f"{name}.log"
        self.base = pathlib.Path(tempfile.mkdtemp(prefix=f"dmarcgate-{name}-", dir="/var/tmp"))
        self.base.chmod(0o755)

    def stop(self):
        """Removes what it has left."""
        if self.base.exists():
            shutil.rmtree(self.base)

    def log(self):
        """Its whole log."""
        path = self.base / self._log_name
        return path.read_text(errors="replace") if path.exists() else "(no log)"

    def wait_for_log(self, text, patience=20):
        """The first line of the log that holds `text`."""
        return wait_for(
            lambda: next((line for line in self.log().splitlines() if text in line), None),
            f"{text!r} in the log of {self.name}",
            self.log,
            patience,
        )

    def wait_for_message(self, message_id, patience=20):
        """The delivered message with this Message-ID, as the octets in the mailbox (line ends are LF there)."""
        return wait_for(lambda: self.find(message_id), f"message {message_id}", self.log, patience)

    def find(self, message_id):
        """As `wait_for_message`, without waiting; None if it is not there."""
        return next(iter(self.find_all(message_id)), None)

    def find_all(self, message_id):
        """Every delivered message with this Message-ID."""
        field = f"\nMessage-ID: {message_id}\n".encode()
        found = []
        for path in self.mailbox():
            # The header section is enough to tell: some messages are large, and this is asked often.
            with path.open("rb") as stored:
                if field in stored.read(65536).partition(b"\n\n")[0] + b"\n":
                    found.append(path.read_bytes())
        return found

    def mailbox(self):
        """The files of all delivered messages."""
        new = self.base / "mail" / "box" / "new"
        return list(new.iterdir()) if new.exists() else []


def isolated(command, binds):
    """`command` in a mount namespace of its own where each (file or directory, place) of `binds` is in its place.

    So servers with places and users compiled into them run beside those of the machine, and change nothing there.
    """
    script = "".join(f"mount --bind '{source}' '{place}'\n" for source, place in binds) + 'exec "$@"\n'
    return ["unshare", "--mount", "sh", "-ec", script, "sh", *map(str, command)]


def accounts(base, names):
    """Binds that add system users, each with a group, to those of the machine unless they are there."""
    binds = []
    user, group = "{0}:x:{1}:{1}::/nonexistent:/usr/sbin/nologin\n", "{0}:x:{1}:\n"
    for place, line in (("/etc/passwd", user), ("/etc/group", group)):
        known = pathlib.Path(place).read_text()
        if known and not known.endswith("\n"):
            known += "\n"
        have = {entry.split(":")[0] for entry in known.splitlines()}
        added = [line.format(name, 64890 + at) for at, name in enumerate(names) if name not in have]
        copy = base / place.rpartition("/")[2]
        copy.write_text(known + "".join(added))
        binds.append((copy, place))
    return binds


def end(process):
    """Ends a server, and what it has started and left; it leads a session of its own. Safe to call twice."""
    if process.poll() is None:
        process.terminate()
        process.wait(timeout=30)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def free_ports(count):
    """Ports of 127.0.0.1 that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def wait_for(look, what, explain, patience):
    """The first value of `look` that is not None."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(0.02)
    raise TimeoutError(f"waited {patience} s in vain for {what}\n{explain()}")


def wait_for_port(address, process, explain, patience=30):
    """Until something listens at `address`; `process` is who should."""

    def look():
        if process.poll() is not None:
            raise RuntimeError(f"ended with {process.returncode}\n{explain()}")
        try:
            socket.create_connection(address, timeout=5).close()
        except ConnectionRefusedError:
            return None
        return True

    wait_for(look, f"a listener at {address}", explain, patience)
