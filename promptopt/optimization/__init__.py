"""The loop around a strategy: preflight, search, selection, test, result; and what it would cost."""
