"""The peers' methods: which library and script runs each, and its settings, with the reason and the source of each.

A setting that is not named here is the library's default. What ends a run is the budget of tokens, or the method's own end
where it has one: MIPROv2, BootstrapFewShotWithRandomSearch and SIMBA stop after so many candidates.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]

REQUIREMENTS = {
    "gepa": ("gepa==0.1.4",),
    "dspy": ("dspy[optuna]>=3.4,<3.5", "numpy"),  # numpy for SIMBA
    "promptolution": ("promptolution>=2.3,<2.4",),
    "opik": ("opik-optimizer>=3.2,<3.3",),
}
"""Library -> what pip installs into its environment."""


class Setting(NamedTuple):
    """A setting of a method.

    Args:
        what: the setting and its value.
        why: the reason.
        source: the page or docstring of the library that it follows; "ours" where the library says nothing.
    """

    what: str
    why: str
    source: str


class Peer(NamedTuple):
    """A method of a peer.

    Args:
        package: name of its environment.
        script: module of its side, beside this one.
        version: of the library.
        settings: the ones that need an explanation.
        hook: how its best prompt so far becomes known.
    """

    package: str
    script: str
    version: str
    settings: tuple[Setting, ...]
    hook: str


_GREEDY = Setting("task model at temperature 0", "the test is greedy; the gate's default is 1", "ours")
_WRITER = Setting("writer at its default temperature, replies cut by the gate", "as every contestant", "ours")
_PARSED = Setting(
    "a reply of the task model that cannot be read is wrong: no second request in JSON, no limit of errors",
    "the test makes one request for an item; with the default, the tenth unreadable reply cancels an evaluation",
    "dspy.ChatAdapter(use_json_adapter_fallback), dspy.settings.max_errors",
)
_UNREAD = Setting(
    "a reply of the writer that DSPy cannot read in either form is the field itself, where there is but one",
    "else the first such reply ends MIPROv2 with an error, and small writers make many",
    "ours, in its favour",
)
_CACHE = Setting(
    "cache in memory, none on disk",
    "both are defaults; the one on disk would answer the next run's requests",
    "dspy.configure_cache; dspy.ai/tutorials/cache",
)
_SIGNATURE = Setting(
    "one dspy.Predict, input -> answer, with the seed prompt as instructions and a Literal of the labels",
    "how DSPy declares a classification",
    "dspy.ai/learn/programming/signatures",
)
_GEPA_END = Setting(
    "no max_metric_calls; stop_callbacks asks the gate",
    "the budget is in tokens; 300,000 are about 15 to 30 validations of 50 items",
    "gepa.optimize, stop_callbacks",
)
_DSPY = (_SIGNATURE, _GREEDY, _WRITER, _PARSED, _UNREAD, _CACHE)

_ENTRY = "promptolution.optimize (utils/optimize.py)"
_PROMPTOLUTION = (
    Setting(
        "MarkerBasedPredictor, eval_strategy='sequential_block' with blocks of 30 items, all of train and validation as its data",
        "what its one-call entry builds; CAPO keeps a tenth for demonstrations",
        _ENTRY,
    ),
    Setting(
        "RewardTask, targets in lower case",
        "the gate's metric; ClassificationTask has them in lower case",
        "reward_task_tutorial",
    ),
    Setting("n_steps without limit", "the default, 10, might end before the budget", "ours"),
    _GREEDY,
    _WRITER,
)
_STEPS = "callback on_step_end, and the state of the optimizer at the end: the first of its prompts, with its score"
_EVALUATED = "callback on_evaluate_end: a program that is better on all validation items than those before"


def _population(count: int, why: str) -> Setting:
    return Setting(
        f"{count} first prompts: the seed prompt and the library's create_prompt_variation of it", why, "ours"
    )


PEERS_BY_METHOD = {
    "gepa": Peer(
        "gepa",
        "gepa_side",
        "0.1.4",
        (
            _GEPA_END,
            Setting(
                "DefaultAdapter: instruction as the system turn, item as the user turn",
                "its adapter for single-turn tasks",
                "gepa-ai.github.io/gepa/guides/quickstart",
            ),
            Setting(
                "feedback names the right answer",
                "in the words of its default evaluator, which looks for the answer in the reply instead of asking a metric",
                "gepa.adapters.default_adapter.ContainsAnswerEvaluator",
            ),
            _GREEDY,
            _WRITER,
        ),
        "callback on_valset_evaluated with is_best_program",
    ),
    "gepa_anything": Peer(
        "gepa",
        "gepa_side",
        "0.1.4",
        (
            Setting(
                "the description as its objective, the same turns and feedback as gepa",
                "what differs from gepa: its message shows the objective, and its front counts items and objectives",
                "gepa.optimize_anything; gepa-ai.github.io/gepa/api/optimize_anything",
            ),
            Setting("max_workers=8", "the default is the number of processors, and the models are elsewhere", "ours"),
            _GEPA_END,
            _GREEDY,
            _WRITER,
        ),
        "callback on_valset_evaluated with is_best_program",
    ),
    "miprov2": Peer(
        "dspy",
        "dspy_side",
        "3.4",
        (
            Setting(
                "auto='light'; 'medium' from 500,000 tokens on, 'heavy' from 800,000",
                "with 50 validation items, about 600, 1,000 and 1,500 runs of the program; light is the default",
                "dspy.MIPROv2, AUTO_RUN_SETTINGS; dspy.ai/api/optimizers/MIPROv2",
            ),
            Setting("4 bootstrapped and 4 labeled demonstrations at most", "the defaults", "dspy.MIPROv2"),
            *_DSPY,
        ),
        _EVALUATED,
    ),
    "bootstrap": Peer(
        "dspy",
        "dspy_side",
        "3.4",
        (
            Setting(
                "max_bootstrapped_demos=4, max_labeled_demos=4, num_candidate_programs=10",
                "the page's own example; the constructor's 16 labeled demonstrations would make prompts too long for 13 candidates",
                "dspy.ai/learn/optimization/optimizers",
            ),
            Setting("training items shuffled by the seed", "it takes no seed", "ours"),
            *_DSPY,
        ),
        _EVALUATED,
    ),
    "simba": Peer(
        "dspy",
        "dspy_side",
        "3.4",
        (
            Setting(
                "max_steps: one for each 250,000 tokens, at least 1, at most the default 8",
                "a step is 416 runs of the program, and the choice at the end runs each step's winner on all items",
                "dspy.SIMBA (bsize 32, num_candidates 6); the scaling is ours",
            ),
            Setting(
                "all items of train and validation as its trainset", "it takes no validation set", "dspy.SIMBA.compile"
            ),
            *_DSPY,
        ),
        "the metric, summed by program: one that is better on a whole minibatch than those before; its own choice at the end",
    ),
    "capo": Peer(
        "promptolution",
        "promptolution_side",
        "2.3",
        (
            _population(
                5, "with 10, as its entry has it, the first race of 14 prompts may take more than 300,000 tokens"
            ),
            Setting(
                "crossovers_per_iter=4, upper_shots=5, alpha=0.2, length_penalty=0.05",
                "the defaults",
                "promptolution.optimizers.CAPO; experiment/conf/optimizer/capo.yaml",
            ),
            *_PROMPTOLUTION,
        ),
        _STEPS,
    ),
    "opro": Peer(
        "promptolution",
        "promptolution_side",
        "2.3",
        (
            Setting("1 first prompt: the seed prompt", "all that it needs", "reward_task_tutorial"),
            Setting(
                "num_instructions_per_step=8, max_num_instructions=20, num_few_shots=3",
                "the defaults",
                "promptolution.optimizers.OPRO; experiment/conf/optimizer/opro.yaml",
            ),
            *_PROMPTOLUTION,
        ),
        _STEPS,
    ),
    "evoprompt": Peer(
        "promptolution",
        "promptolution_side",
        "2.3",
        (
            _population(10, "as many as its entry makes from a task description"),
            Setting("EvoPromptGA, selection_mode='wheel'", "the default", "experiment/conf/optimizer/evopromptga.yaml"),
            *_PROMPTOLUTION,
        ),
        _STEPS,
    ),
    "metaprompt": Peer(
        "opik",
        "opik_side",
        "3.2",
        (
            Setting(
                "a local Dataset, constants.ENABLE_EVALUATE_ON_DICT_ITEMS, nothing traced",
                "it reads data sets from an Opik server and writes evaluations to it, and the arena has none",
                "opik_optimizer.constants, core/evaluation.py; the local Dataset is ours",
            ),
            Setting(
                "additional_drop_params=['response_format']",
                "the gate's server has no structured outputs; the library then reads JSON from the text, and asks once more",
                "docs.litellm.ai/docs/completion/drop_params; opik_optimizer/core/llm_calls.py",
            ),
            Setting("max_trials without limit", "the default, 10, might end before the budget", "ours"),
            Setting(
                "prompts_per_round=4, hall of fame, perfect_score=0.95",
                "the defaults",
                "opik_optimizer.MetaPromptOptimizer",
            ),
            Setting(
                "the right answer as the reason of a reward below 1",
                "its metrics give the writer a reason",
                "opik.evaluation.metrics.score_result.ScoreResult",
            ),
            _GREEDY,
            _WRITER,
        ),
        "on_trial, its hook after an evaluation on the validation items: strictly better than before",
    ),
}
"""Method -> how it is run."""


def python_of(method: str, folder: Path) -> Path:
    """Return the Python of a method's library in the folder of the environments."""
    return folder / PEERS_BY_METHOD[method].package / "bin" / "python"


def command_of(method: str, folder: Path) -> list[str]:
    """Return the command of a method; it reads its case as JSON from standard input, and needs `ROOT` on PYTHONPATH.

    Args:
        method: of `PEERS_BY_METHOD`.
        folder: of the environments.
    """
    return [str(python_of(method, folder)), "-m", f"benchmarks.arena.peers.{PEERS_BY_METHOD[method].script}"]
