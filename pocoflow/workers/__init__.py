"""Celery's side of the executor: `celery -A pocoflow.workers worker`."""

from pocoflow.workers.celery_app import app

__all__ = ["app"]
