"""Statistics for comparing prompts: intervals, shrinkage, selection, and tests for races.

Pure functions over rewards; knows nothing of models or prompts. scipy.stats is loaded only when an interval is computed.
docs/statistics.md gives the source, the assumptions and simulations of each method.
"""

from promptopt._moved import renamed as _renamed
from promptopt.statistics.agreement import cohen_kappa as cohen_kappa
from promptopt.statistics.agreement import rank_correlation as rank_correlation
from promptopt.statistics.choosing import shortest_within_one_error as shortest_within_one_error
from promptopt.statistics.intervals import Interval as Interval
from promptopt.statistics.intervals import clustered_interval as clustered_interval
from promptopt.statistics.intervals import clustered_mean_interval as clustered_mean_interval
from promptopt.statistics.intervals import clustered_standard_error as clustered_standard_error
from promptopt.statistics.intervals import cross_fitted_interval as cross_fitted_interval
from promptopt.statistics.intervals import mean_interval as mean_interval
from promptopt.statistics.intervals import paired_interval as paired_interval
from promptopt.statistics.intervals import paired_score_interval as paired_score_interval
from promptopt.statistics.intervals import paired_t_interval as paired_t_interval
from promptopt.statistics.intervals import widen_by_jackknife as widen_by_jackknife
from promptopt.statistics.power import detectable_difference as detectable_difference
from promptopt.statistics.power import examples_to_detect as examples_to_detect
from promptopt.statistics.power import prob_shown as prob_shown
from promptopt.statistics.prediction_powered import PredictionPowered as PredictionPowered
from promptopt.statistics.prediction_powered import prediction_powered_interval as prediction_powered_interval
from promptopt.statistics.sequential import alpha_spending as alpha_spending
from promptopt.statistics.sequential import late_alpha_spending as late_alpha_spending
from promptopt.statistics.sequential import pairwise_p_values as pairwise_p_values
from promptopt.statistics.sequential import prob_in_top_k as prob_in_top_k
from promptopt.statistics.shrinkage import shrunken_means as shrunken_means

__getattr__ = _renamed(
    __name__,
    {
        "over_judges": "widen_by_jackknife",
        "behind": "pairwise_p_values",
        "chance_of_place": "prob_in_top_k",
        "spending": "alpha_spending",
        "shrunk": "shrunken_means",
    },
)
