"""Contract tests for models, strategies, environments and rewards of your own.

Each function raises AssertionError at the first promise that is broken, and says which. They need neither pytest nor a network:

    >>> from promptopt import FakeModel
    >>> from promptopt.testing import check_model
    >>> check_model(FakeModel(lambda request: "yes"))
"""

from promptopt.testing.environments import check_environment as check_environment
from promptopt.testing.models import check_model as check_model
from promptopt.testing.rewards import check_reward as check_reward
from promptopt.testing.strategies import check_strategy as check_strategy
