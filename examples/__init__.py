"""Flows to read, run and copy from; each also works in a Celery worker (`POCOFLOW_FLOWS=examples.digest`)."""
