"""The held-out split depends on a document's text and the share, and on nothing else."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.prepare.normalise import text_hash
from kaiyuan_jax.data.prepare.split import heldout

HASHES = [text_hash(str(i)) for i in range(20_000)]


def test_about_the_share_is_held_out():
    for share in (0.01, 0.1, 0.5):
        assert abs(heldout(HASHES, share).mean() - share) < 4 * np.sqrt(share / len(HASHES))
    assert not heldout(HASHES, 0.0).any()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 19_999), max_size=50), st.floats(0, 0.99))
def test_a_document_is_on_the_same_side_whatever_is_around_it(chosen, share):
    everything = heldout(HASHES, share)
    assert (heldout([HASHES[i] for i in chosen], share) == everything[chosen]).all()


def test_a_larger_share_holds_out_a_superset():
    assert (heldout(HASHES, 0.2) >= heldout(HASHES, 0.1)).all()


def test_the_split_is_fixed_for_all_time():
    assert np.flatnonzero(heldout(HASHES[:200], 0.02)).tolist() == [77, 87, 109, 172]

