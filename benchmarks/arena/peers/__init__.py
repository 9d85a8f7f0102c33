"""The peers' scripts. Each runs in its own environment, which has that library and no promptopt.

`python -m benchmarks.arena.peers FOLDER` creates these environments. `methods` lists each method's script, its settings and
their reasons. `side` is shared by all scripts.
"""
