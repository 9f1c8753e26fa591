"""The digest on Redis, Postgres and several worker processes, one of which is killed on the way.

    python examples/distributed.py                    private servers, three workers
    python examples/distributed.py --workers 4 PATH ...

With POCOFLOW_BROKER_URL and POCOFLOW_DATABASE_URL set, those servers are used instead. Each document is a
run of its own. While they are going, one worker gets kill -9; its step is executed again on another worker
when the lease has run out, and every run completes with each step committed once.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

if not __package__:  # run as a file, `python examples/distributed.py`: make `examples` importable
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples.digest import flow, initial_store
from examples.digest_files import default_documents
from pocoflow import RunHandle
from pocoflow.guard import GuardedProcess, guarded_popen
from pocoflow.services import start_postgres, start_redis

ROOT = Path(__file__).resolve().parent.parent
WORKER = [
    sys.executable,
    "-m",
    "celery",
    "--quiet",
    "-A",
    "pocoflow.workers",
    "worker",
    "-c",
    "1",
    "-l",
    "warning",
]
QUIET = ["--without-gossip", "--without-mingle", "--without-heartbeat"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0 when every run has completed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="documents; default: own docs")
    parser.add_argument("--workers", type=int, default=3, help="worker processes, at least 2")
    args = parser.parse_args(argv)
    if args.workers < 2:
        parser.error("--workers must be 2 or more: one of them is killed")
    paths = args.paths or [Path(document["path"]) for document in default_documents(ROOT)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="digests-")))
        configure(stack)
        workers = [start_worker(number, stack) for number in range(args.workers)]
        stores = [initial_store([path], output=folder / f"{number}.md") for number, path in enumerate(paths)]
        handles = [flow.run_background(store) for store in stores]
        kill_when_busy(workers[0], handles[0])
        for handle in handles:
            handle.wait(timeout=300)
        report(handles)
    return 0


def configure(stack: ExitStack) -> None:
    """Set what the workers and this process must agree on."""
    if "POCOFLOW_BROKER_URL" not in os.environ:
        os.environ["POCOFLOW_BROKER_URL"] = stack.enter_context(start_redis()).url
    if "POCOFLOW_DATABASE_URL" not in os.environ:
        os.environ["POCOFLOW_DATABASE_URL"] = stack.enter_context(start_postgres()).url
    os.environ["POCOFLOW_FLOWS"] = "examples.digest"
    os.environ.setdefault("POCOFLOW_LEASE_S", "5")  # so that the killed worker is missed soon


def start_worker(number: int, stack: ExitStack) -> GuardedProcess:
    """Start a Celery worker that ends with the stack, or with this process however that ends."""
    worker = guarded_popen(
        [*WORKER, *QUIET, "-n", f"worker-{number}@%h"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    stack.callback(worker.stop)
    return worker


def kill_when_busy(worker: GuardedProcess, handle: RunHandle) -> None:
    """Kill a worker, with its child processes, as soon as the run has got going."""
    for event in handle.events(follow=True):
        if event["event"] == "node_end":
            break
    os.killpg(worker.command_pid, signal.SIGKILL)
    print(f"killed worker 0 after step {event['step']} of {handle.run_id}")


def report(handles: Sequence[RunHandle]) -> None:
    """Print who executed what."""
    for handle in handles:
        steps = [event for event in handle.events() if event["event"] == "node_end"]
        shares = Counter(event["worker"] for event in steps)
        once = len(steps) == len({event["step"] for event in steps})
        by = ", ".join(f"{worker} {count}" for worker, count in sorted(shares.items()))
        print(f"{handle.run_id} {handle.status}: {len(steps)} steps, each committed once: {once} ({by})")


if __name__ == "__main__":
    sys.exit(main())
