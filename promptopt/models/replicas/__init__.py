"""Replicas of a model that computes on its own machine, as actors on Ray: one machine's cores and GPUs, or a cluster's."""

import os

from promptopt.errors import MissingExtraError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports to its makers unless told before it is imported

try:
    import ray  # noqa: F401
except ImportError as error:
    raise MissingExtraError("a model with replicas", "scale") from error

from promptopt.models.replicas.model import RayModel

__all__ = ["RayModel"]
