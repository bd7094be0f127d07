"""A loss curve and the learning-rate schedule that made it: what every law is fitted to and tested on.

Step t of a schedule is update t, counted from 0, and `rates[t]` is its rate. A loss at step s is of the weights that have felt the updates
0 to s, so a law sums the rates 0 to s, the last included (the convention of the released curves of 2503.12811). A line of our own
metrics at "step" n is of the weights after n updates: that is s = n - 1 here.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """One run as a law sees it."""

    name: str
    steps: np.ndarray  # int64[E], ascending, each in [0, len(rates))
    losses: np.ndarray  # float64[E], nats per token unless the file says otherwise
    rates: np.ndarray  # float64[T], the learning rate of every update of the whole schedule
    warmup: int  # updates before the first at the peak; 0 without a warm-up
    path: str = ""
    checksum: str = ""  # sha256 of the file
