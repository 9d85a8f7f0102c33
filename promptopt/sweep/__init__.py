"""Sweeps: run tasks x models x strategies x seeds at equal budget, or let strategies compete in a portfolio."""

from promptopt.sweep.running import run_sweep as run_sweep
from promptopt.sweep.spec import load_sweep as load_sweep
from promptopt.sweep.table import Table as Table
