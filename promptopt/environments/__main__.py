"""Prints the floors and the ceiling of every environment: `python -m promptopt.environments`."""

from __future__ import annotations

import sys

from promptopt.environments import PRESETS, WORLDS, instances
from promptopt.environments.floors import floors, table

_COUNT = 48

rows = {
    f"{name}, {preset}": floors(WORLDS[name].environment, instances(name, _COUNT, preset=preset))
    for preset in PRESETS
    for name in WORLDS
}
sys.stdout.write(f"Mean scores over {_COUNT} instances, seed 0.\n\n{table(rows)}\n")
