"""Replicas of a local model as Ray actors, on one machine or a cluster."""

import os

from promptopt.errors import MissingExtraError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # must be set before Ray is imported

try:
    import ray  # noqa: F401
except ImportError as error:
    raise MissingExtraError("a model with replicas", "scale") from error

from promptopt.models.replicas.model import RayModel

__all__ = ["RayModel"]
