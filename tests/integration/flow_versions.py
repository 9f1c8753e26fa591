"""One flow in the version that VERSION names, for workers before and after a deploy."""

from __future__ import annotations

import os

from pocoflow import Flow
from tests.integration.flows import Step, line

PATHS = {
    "old": ("first", "second", "third"),
    "longer": ("first", "second", "third", "fourth"),
    "without_second": ("first", "third"),
}


def version(name: str) -> Flow:
    """Build the flow as it is in this version."""
    return Flow(line(*(Step(name=node) for node in PATHS[name])), flow_name="versions")


flow = version(os.environ.get("VERSION", "old"))
