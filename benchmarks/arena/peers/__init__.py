"""The peers' side of the arena: each library's script runs in a Python of its own, which has that library and no promptopt.

`python -m benchmarks.arena.peers FOLDER` makes those Pythons, `methods` says which script runs a method, with which settings
and why, and `side` is what the scripts share.
"""
