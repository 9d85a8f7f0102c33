"""The statistics of comparing prompts: intervals, shrinkage, choosing, and tests for races.

Pure functions over rewards; knows nothing of models or prompts. scipy.stats is loaded when an interval is asked for.
docs/statistics.md says where each method comes from, when it holds, and what simulations showed.
"""

from promptopt.statistics.choosing import shortest_within_one_error as shortest_within_one_error
from promptopt.statistics.intervals import Interval as Interval
from promptopt.statistics.intervals import mean_interval as mean_interval
from promptopt.statistics.intervals import over_judges as over_judges
from promptopt.statistics.intervals import paired_interval as paired_interval
from promptopt.statistics.sequential import behind as behind
from promptopt.statistics.sequential import chance_of_place as chance_of_place
from promptopt.statistics.sequential import spending as spending
from promptopt.statistics.shrinkage import shrunk as shrunk
