"""The final order: ascending quality, equal quality by the seeded hash of the text."""

import numpy as np

from kaiyuan_jax.data.prepare.normalise import text_hash
from kaiyuan_jax.data.prepare.write import final_order

HASHES = [text_hash(str(i)) for i in range(300)]


def test_quality_ascends_and_ties_follow_the_seed_not_the_input():
    quality = np.random.default_rng(0).integers(0, 3, 300) / 2
    order = final_order(quality, HASHES, seed=0)
    assert (np.diff(quality[order]) >= 0).all() and sorted(order) == list(range(300))
    shuffle = np.random.default_rng(1).permutation(300)
    again = final_order(quality[shuffle], [HASHES[i] for i in shuffle], seed=0)
    assert (shuffle[again] == order).all()
    assert (final_order(quality, HASHES, seed=1) != order).any()


def test_an_unscored_source_is_in_the_order_of_the_hash():
    order = final_order(np.zeros(300), HASHES, seed=3)
    assert abs(np.corrcoef(order, np.arange(300))[0, 1]) < 0.2 and sorted(order) == list(range(300))
