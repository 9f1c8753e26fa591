"""What the integration tests share: worker processes, and the files that their steps write."""

from tests.support.workers import cluster, make_cluster, shared_cluster, trace

__all__ = ["cluster", "make_cluster", "shared_cluster", "trace"]
