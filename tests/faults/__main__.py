"""Breaks everything around a running gate, under load, and looks whether mail is ever lost.

    DMARCGATE_BINARY=target/release/dmarcgate python3 -m tests.faults [--quick | --minutes N] [--seed N]

docs/faults.md tells what is injected and what must hold. Needs Python 3.11 and openssl; root for full disks (in a mount
namespace of its own), a C compiler for jumps of the clock, PostgreSQL for `--store postgres`. What can't be injected is
said. Exit code 1 if anything did not hold.
"""

import argparse
import asyncio
import contextlib
import os
import pathlib
import shutil
import signal
import sys
import tempfile

from .messages import Signer
from .postgres import Postgres
from .run import Run
from .world import World

# Tells the process that it is in a mount namespace of its own.
APART = "FAULTS_APART"


def main():
    parser = argparse.ArgumentParser(prog="python3 -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a dozen faults in a fixed order, within a minute")
    parser.add_argument("--minutes", type=float, default=10, help="how long faults are injected at random")
    parser.add_argument("--seed", type=int, default=1, help="of faults and load")
    parser.add_argument("--clients", type=int, default=16, help="clients at a time")
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--postfix", action="store_true", help="a real Postfix as the mail server")
    parser.add_argument("--only", help="faults whose name has this in it")
    parser.add_argument("--verbose", action="store_true", help="what clients heard that had to keep their messages")
    parser.add_argument("--keep", action="store_true", help="leave the directory with all logs")
    arguments = parser.parse_args()
    binary = os.environ.get("DMARCGATE_BINARY", "")
    if not os.access(binary, os.X_OK):
        parser.error(f"DMARCGATE_BINARY must name the built binary; it is {binary!r}")
    if os.geteuid() == 0 and APART not in os.environ:
        # Small disks are mounted where nobody else sees them, and are gone with the process.
        os.environ[APART] = "yes"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, "-m", "tests.faults", *sys.argv[1:]])
    # A run that is told to end takes its processes with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    base = pathlib.Path(tempfile.mkdtemp(prefix="dmarcgate-faults-", dir="/var/tmp"))
    base.chmod(0o755)
    with contextlib.ExitStack() as stack:
        stack.callback(print, f"logs: {base}") if arguments.keep else stack.callback(shutil.rmtree, base, True)
        postgres = postfix = None
        if arguments.store == "postgres":
            postgres = Postgres()
            stack.callback(postgres.end)
        if arguments.postfix:
            # It needs what the interop tests have.
            from .real import RealServer

            postfix = RealServer()
            stack.callback(postfix.stop)
        signer = Signer()
        # The rows of a minute take two at most.
        disk = 96 + int(4 * arguments.minutes)
        world = World(base, os.path.abspath(binary), signer.public, disk, postgres, postfix)
        sound = asyncio.run(Run(arguments, world, signer).run())
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
