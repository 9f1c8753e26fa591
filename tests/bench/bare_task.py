"""The baseline of the hop benchmark: a bare Celery task that enqueues itself again."""

from __future__ import annotations

import os

import redis
from celery import Celery

BROKER = os.environ.get("BARE_BROKER_URL", "redis://")

app = Celery("bare", broker=BROKER, set_as_current=False)
app.conf.update(task_acks_late=True, task_ignore_result=True, task_default_queue="bare")


@app.task(name="bare.hop")
def hop(chain: str, left: int) -> None:
    if left:
        hop.delay(chain, left - 1)
    else:
        redis.Redis.from_url(BROKER).lpush(f"bare-done:{chain}", 1)
