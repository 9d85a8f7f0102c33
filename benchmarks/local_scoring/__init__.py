"""How fast the local engine scores labels beside the usual ways: `python -m benchmarks.local_scoring`, Markdown tables.

Prompts that are mutants of one parent, each before the same examples of a public data set. All ways run in turns within
one process, so that a slow moment of the machine meets each of them; medians over the turns. Every turn has a parent of
its own, made of demonstrations that no other turn has, and the first turn only warms up: no way finds attention states
of an earlier turn. Slow ways get the first prompts only, with all examples; ratios are of the time per sequence, and
differences of log-probabilities are taken where (a) was run. Loading is not timed. Ours and (b) are timed from text to
numbers, the others from tokens.
"""
