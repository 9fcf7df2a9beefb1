"""A pytest plugin that leaves Python's full garbage collections to the end of the process.

A full one is due when the objects have grown by a quarter, so whether a run has one more depends on
a handful of objects, and it takes as much as what is measured. The ends of both sides have them.
"""

import gc

young, middle, _ = gc.get_threshold()
gc.set_threshold(young, middle, 1_000_000)
