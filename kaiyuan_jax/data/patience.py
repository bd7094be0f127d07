"""Reads of a store that fail are tried again for a while, since network disks and object stores fail for seconds at a time.

Five tries, 0.1, 0.4, 1.6 and 6.4 seconds apart, 8.5 seconds in all: what lasts longer is better left to whatever starts the job again,
which waits longer between starts. Every failure is said on stderr, so a disk that often fails is seen before it fails for good. What no
waiting cures (no such file, content that cannot be decoded) is not tried again.
"""

import sys
import time
from collections.abc import Callable

import numpy as np

PAUSES = (0.1, 0.4, 1.6, 6.4)  # seconds
# tensorstore raises ValueError for every status and begins the message with it; a read that the system failed (EIO) is UNKNOWN
_PASSING = ("UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "INTERNAL", "RESOURCE_EXHAUSTED")


class ReadError(RuntimeError):
    """A store that could be opened can no longer be read; not a mistake in the config, so that the same start may succeed later."""


def patiently(read: Callable[[], np.ndarray], folder: str) -> np.ndarray:
    """The array that `read` gives, tried again while the system fails it (OSError, or ValueError with a status that may pass).

    Raises ReadError, with the store's folder and the last reason, when the last try fails too; any other error as it is.
    """
    for pause in (*PAUSES, None):
        try:
            return read()
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) or (isinstance(error, ValueError) and not str(error).startswith(_PASSING)):
                raise
            reason = f"{folder}: tokens could not be read ({str(error).splitlines()[0][:200]})"
            if pause is None:
                raise ReadError(
                    f"{reason}, {len(PAUSES)} further tries were in vain; look after the disk or network and start again"
                ) from error
        print(f"{reason}; trying again in {pause:g} s", file=sys.stderr, flush=True)
        time.sleep(pause)
    raise AssertionError("unreachable")
