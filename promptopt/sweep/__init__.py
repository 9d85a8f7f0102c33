"""Sweeps: tasks x models x strategies x seeds at equal budget, or the strategies under one budget as a portfolio."""

from promptopt.sweep.running import run_sweep as run_sweep
from promptopt.sweep.spec import load_sweep as load_sweep
from promptopt.sweep.table import Table as Table
