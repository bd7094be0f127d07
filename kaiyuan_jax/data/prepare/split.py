"""Held-out documents, chosen by the hash of their text.

A document is held out if its hash, read as a fraction, lies below the held-out share. So the same text is on the same side in every source
and every re-run whatever else is there, and a larger share holds out a superset. The seed of a store plays no part.
"""

import hashlib

import numpy as np


def heldout(hashes: list[bytes], share: float) -> np.ndarray:
    """bool [n]: which of the documents with these text hashes are held out, for a share in [0, 1)."""
    fractions = [int.from_bytes(hashlib.blake2b(digest, digest_size=8, person=b"held-out").digest(), "big") / 2**64 for digest in hashes]
    return np.array(fractions, np.float64) < share
