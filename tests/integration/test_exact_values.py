"""Values and their types cross real Celery workers unchanged."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pocoflow import StepFailedError, Store, StoreTypeError
from tests.integration import exact_flows
from tests.support.kinds import EVERYTHING, Colour, Edge, exact
from tests.support.workers import Cluster, MakeCluster, events_of

WAIT_S = 60.0
STEPS = 100


@pytest.fixture
def typed_cluster(make_cluster: MakeCluster, redis_url: str, database_url: str) -> Cluster:
    """Two workers that know the classes."""
    flows = {"FLOWS": "tests.integration.exact_flows", "UNROUTABLE_S": "1"}
    made = make_cluster(BROKER_URL=redis_url, DATABASE_URL=database_url, **flows)
    made.start_workers(2)
    return made


def test_values_of_every_type_cross_two_workers_unchanged_and_typed(typed_cluster: Cluster) -> None:
    data = {**EVERYTHING, "mark": Colour.RED, "edges": {"a": Edge(start={"b": (1,)})}}

    handle = exact_flows.carry.run_background(Store({**data, "left": STEPS}, schema=exact_flows.SCHEMA))
    result = handle.wait(WAIT_S)

    assert len({event["worker"] for event in events_of(handle, "node_end")}) == 2
    assert exact(result.as_dict()) == exact({**data, "left": 0})
    for store in (result, handle.store, typed_cluster.database.load_checkpoint(handle.run_id, STEPS // 2)):
        with pytest.raises(StoreTypeError, match=r"store\['models'\]\[1\] takes Page or Open, got int"):
            store["models"] = [store["models"][0], 5]


def test_a_wrong_write_on_a_worker_is_refused_there_and_fails_the_run(typed_cluster: Cluster) -> None:
    handle = exact_flows.mistype.run_background(Store({"texts": []}, schema=exact_flows.SCHEMA))

    with pytest.raises(StepFailedError) as caught:
        handle.wait(WAIT_S)

    assert (caught.value.error_type, caught.value.attempts) == ("StoreTypeError", 1)
    assert "store['texts'][1] takes str, got int" in caught.value.error_text
    assert handle.store == {"texts": []}


@dataclass
class OnlyHere:
    """A class that no worker has registered."""

    x: int


@pytest.mark.parametrize(
    "data", [{"texts": []}, {"texts": [], "value": OnlyHere(1)}], ids=["schema", "value"]
)
def test_a_run_with_a_class_that_no_worker_has_registered_fails_and_names_it(
    typed_cluster: Cluster, data: dict[str, object]
) -> None:
    handle = exact_flows.carry.run_background(Store({**data, "left": 1}, schema={"value": OnlyHere}))

    with pytest.raises(StepFailedError, match=r"OnlyHere, which is not registered in this process") as caught:
        handle.wait(WAIT_S)

    assert caught.value.error_type == "UnregisteredTypeError"
    assert "call pocoflow.register_type(OnlyHere) in the module that defines the flow" in str(caught.value)
    assert events_of(handle, "node_start") == []
