"""The search strategies, one file each. A strategy is settings in a frozen dataclass and one method, `search(run)`."""

from __future__ import annotations

from functools import partial

from promptopt.strategies.base import Strategy as Strategy
from promptopt.strategies.components import Components as Components
from promptopt.strategies.hillclimb import HillClimb as HillClimb
from promptopt.strategies.joint import Joint as Joint
from promptopt.strategies.p1 import P1 as P1
from promptopt.strategies.ppd import PPD as PPD
from promptopt.strategies.promptquine import PromptQuine as PromptQuine
from promptopt.strategies.promptquine_paper import PromptQuinePaper as PromptQuinePaper
from promptopt.strategies.promst import Promst as Promst
from promptopt.strategies.randomsearch import RandomSearch as RandomSearch
from promptopt.strategies.registry import BUILT_IN, IDENTITIES
from promptopt.strategies.tapruning import SteepestAscent as SteepestAscent
from promptopt.strategies.tapruning import TAPruning as TAPruning
from promptopt.strategies.unsupervised import Unsupervised as Unsupervised

BUILT_IN.update(
    {
        "promptquine": PromptQuine,
        "promptquine.paper": PromptQuine.paper,
        "promptquine.ssga": partial(PromptQuine.paper, mode="ssga"),
        "tapruning": TAPruning,
        "steepest": SteepestAscent,
        "hillclimb": HillClimb,
        "hillclimb.paper": HillClimb.paper,
        "hillclimb.positives_only": HillClimb.positives_only,
        "hillclimb.opro": HillClimb.opro,
        "hillclimb.protegi": HillClimb.protegi,
        "joint": Joint,
        "components": Components,
        "random": RandomSearch,
        "unsupervised": Unsupervised,
        "unsupervised.paper": Unsupervised.paper,
        "promst": Promst,
        "promst.paper": Promst.paper,
        "p1": P1,
        "p1.paper": P1.paper,
    }
)
IDENTITIES.update(
    {
        PromptQuine: "promptopt.strategies.promptquine.PromptQuine",
        PromptQuinePaper: "promptopt.strategies.promptquine.PromptQuine",  # the two were one class
        TAPruning: "promptopt.strategies.tapruning.TAPruning",
        SteepestAscent: "promptopt.strategies.tapruning.SteepestAscent",
        HillClimb: "promptopt.strategies.hillclimb.HillClimb",
        Components: "promptopt.strategies.components.Components",
        Joint: "promptopt.strategies.joint.Joint",
        RandomSearch: "promptopt.strategies.randomsearch.RandomSearch",
        Unsupervised: "promptopt.strategies.unsupervised.Unsupervised",
        PPD: "promptopt.strategies.ppd.PPD",
        Promst: "promptopt.strategies.promst.Promst",
        P1: "promptopt.strategies.p1.P1",
    }
)
