"""How fast the driver of a run is without its models, and what that means for many replicas: `python -m benchmarks.driver`.

The driver is the process that renders, looks up, cuts, stores and judges. Models are fakes that answer at once, so that
only its own work is timed, in seconds of its processor (other programs' share of the machine is left out), and on the
wall too for a run as a whole. A scored sequence is one prompt x item. What many replicas do is simulated, not measured.
"""
