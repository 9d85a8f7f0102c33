"""Language models that can be called: hosted ones, local ones, replicas of those, and functions that stand in for them."""

from promptopt.models.loading import HOSTED as HOSTED
from promptopt.models.loading import KINDS as KINDS
from promptopt.models.loading import batch_model as batch_model
from promptopt.models.loading import load_model as load_model
