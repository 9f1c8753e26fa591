"""Each process of a prefork worker makes its own resources, once."""

from __future__ import annotations

from pathlib import Path

from tests.integration import resource_flows
from tests.support.workers import MakeCluster

WAIT_S = 60.0
STEPS = 20


def test_each_process_of_a_worker_makes_a_resource_once(
    make_cluster: MakeCluster, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    flows = {"FLOWS": "tests.integration.resource_flows"}
    make_cluster(BROKER_URL=redis_url, DATABASE_URL=database_url, **flows).start_worker("-c", "2")

    meeting = tmp_path / "meeting"
    meeting.mkdir()
    start = {"left": STEPS, "uses": [], "meet_in": str(meeting)}
    handles = [resource_flows.use.run_background(start) for _ in range(2)]
    uses = [use for handle in handles for use in handle.wait(WAIT_S)["uses"]]

    assert len(uses) == 2 * STEPS
    assert len({used_by for used_by, _, _ in uses}) == 2
    assert all(used_by == made_by and count == 1 for used_by, made_by, count in uses)
