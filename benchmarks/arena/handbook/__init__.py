"""A query writer and an answerer over BM25, searched by promptopt, GEPA and DSPy through the arena's gate: `python -m benchmarks.arena.handbook`."""
