"""Language models: hosted models, local models, replicas of local models, and Python functions used as models."""

from promptopt.models.kinds import HOSTED as HOSTED
from promptopt.models.kinds import KINDS as KINDS
from promptopt.models.loading import batch_model as batch_model
from promptopt.models.loading import load_model as load_model
