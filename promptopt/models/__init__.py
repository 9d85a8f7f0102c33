"""Language models: hosted, local, replicas on Ray, and fakes for tests."""

from promptopt.models.loading import HOSTED as HOSTED
from promptopt.models.loading import KINDS as KINDS
from promptopt.models.loading import batch_model as batch_model
from promptopt.models.loading import load_model as load_model
