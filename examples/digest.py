"""A digest of documents: what matters most in them, in as many words as you ask for.

One document after the other goes through read, clean, detect, split, score and pick, each a step of its own;
then the digest shrinks until it fits, and the report is written. A run takes bounded time and space: up to
100 documents, the first 400,000 characters of each, ranked in blocks of 250 sentences whose best meet again.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file, `python examples/digest.py`: make `examples` and `pocoflow` importable
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples import digest_nodes as nodes
from examples.digest_chat import ChatError
from examples.digest_files import Document, default_documents
from examples.digest_report import count_words
from pocoflow import Flow, Store
from pocoflow.errors import PocoFlowError

__all__ = ["build_flow", "flow", "initial_store", "main"]

TARGET_WORDS = 600
_SCHEMA = {
    "requested": list, "target_words": int, "output": str, "author": str, "queue": list, "documents": int,
    "current": dict, "sources": list, "skipped": list, "report": str,
}  # fmt: skip


def build_flow() -> Flow:
    """Return the flow `digest`; what it expects in the store is what `initial_store` returns."""
    collect, read, clean = nodes.Collect(name="collect"), nodes.Read(name="read"), nodes.Clean(name="clean")
    detect, notice, keep = nodes.Detect(name="detect"), nodes.Notice(name="notice"), nodes.Keep(name="keep")
    split, score, pick = nodes.Split(name="split"), nodes.Score(name="score"), nodes.Choose(name="pick")
    summarise, fit = nodes.Summarise(name="summarise"), nodes.Fit(name="fit")
    shrink, report = nodes.Shrink(name="shrink"), nodes.Report(name="report")

    collect.then("default", read)
    read.then("text", clean).then("skipped", read).then("all_read", fit)
    clean.then("prose", detect).then("no_prose", read)
    detect.then("long", split).then("small", keep).then("other_language", notice)
    notice.then("default", read)
    keep.then("default", read)
    split.then("default", score)
    score.then("default", pick)
    pick.then("picked", read).then("chat", summarise)
    summarise.then("default", read)
    fit.then("too_long", shrink).then("fits", report)
    shrink.then("default", fit)
    return Flow(start=collect, flow_name="digest", max_steps=2_000)


flow = build_flow()


def initial_store(
    paths: Sequence[str | Path] = (), *, target_words: int = TARGET_WORDS, output: str | Path = "digest.md"
) -> Store:
    """Return the store to run the flow with.

    Args:
        paths: Files and folders; none at all stands for the documents of this project and Python's licence.
        target_words: What the digest is cut down to; one sentence is left, however long.
        output: The report; a file there is replaced.
    """
    requested = [Document(title=Path(path).as_posix(), path=str(Path(path).resolve())) for path in paths]
    data = {
        "requested": requested or default_documents(Path(__file__).resolve().parent.parent),
        "target_words": target_words,
        "output": str(Path(output).resolve()),
        "author": "",
        "queue": [],
        "documents": 0,
        "current": {},
        "sources": [],
        "skipped": [],
        "report": "",
    }
    return Store(data, schema=_SCHEMA, name="digest")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 1 when it failed or found nothing to digest."""
    parser = _parser()
    args = parser.parse_args(argv)
    for path in args.paths:
        if not os.path.exists(path):  # unlike Path.exists, not raising where it may not look
            parser.error(f"no such file or folder: {str(path)!r}")
    if args.output.is_dir():
        parser.error(f"--output {str(args.output)!r} is a folder: name a file")
    store = initial_store(args.paths, target_words=args.words, output=args.output)
    try:
        done = _run_with_progress(store) if args.background else flow.run(store)
    except (PocoFlowError, ChatError, OSError) as exc:
        print(f"digest: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    sources, skipped = done["sources"], done["skipped"]
    words = count_words(sources)
    print(f"{args.output}: {words:,} words, documents read: {len(sources)}, left out: {len(skipped)}")
    if not words:
        print("digest: nothing could be digested: the report tells why", file=sys.stderr)
    return 0 if words else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="digest",
        description="Write a digest of documents: Markdown, reStructuredText, HTML, plain text, docstrings.",
        epilog="With OPENAI_API_KEY set, a chat model writes the summaries (OPENAI_BASE_URL, OPENAI_MODEL).",
    )
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="files and folders; default: own docs"
    )
    parser.add_argument("--words", type=_positive, default=TARGET_WORDS, help="length (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("digest.md"), help="report (default: %(default)s)"
    )
    parser.add_argument(
        "--background", action="store_true", help="run in the background and show its progress"
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not above zero")
    return number


def _run_with_progress(store: Store) -> Store:
    handle = flow.run_background(store)
    end = "\r" if sys.stderr.isatty() else "\n"
    for event in handle.events(follow=True):
        if event["event"] == "node_end":
            print(f"step {event['step']} {event['node_name']:<10}", end=end, file=sys.stderr, flush=True)
    return handle.wait()


if __name__ == "__main__":
    sys.exit(main())
