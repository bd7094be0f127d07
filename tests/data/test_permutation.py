import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.permutation import below, hash64, permute, seed_of


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.integers(0, 2**62))
def test_every_index_of_a_range_is_hit_once(size, seed):
    image = permute(np.arange(size), size, seed)
    assert np.array_equal(np.sort(image), np.arange(size))


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 2**61), st.integers(0, 2**62), st.data())
def test_large_ranges_map_inside_themselves_without_collisions(size, seed, data):
    indices = np.unique(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=200)))
    image = permute(indices, size, seed)
    assert image.min() >= 0 and image.max() < size
    assert np.unique(image).size == indices.size


def test_seeds_give_different_permutations():
    images = {permute(np.arange(100), 100, seed).tobytes() for seed in range(200)}
    assert len(images) == 200


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_permutation_of_a_few_elements_occurs(size):
    images = permute(np.arange(size), size, np.arange(2000)[:, None])  # row s is the permutation of seed s
    assert len(set(map(tuple, images.tolist()))) == {2: 2, 3: 6, 4: 24}[size]


def test_many_ranges_and_seeds_in_one_call_equal_calls_one_by_one():
    sizes = np.array([1, 2, 7, 1000, 10**12])
    seeds = np.array([5, 5, 6, 7, 8])
    indices = np.array([0, 1, 3, 999, 123_456_789_012])
    together = permute(indices, sizes, seeds)
    assert together.tolist() == [int(permute(*arguments)) for arguments in zip(indices, sizes, seeds, strict=True)]


def test_neighbours_scatter_over_the_range():
    image = permute(np.arange(20_000), 20_000, 1) / 20_000
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(image, np.arange(20_000))[0, 1]) < 0.03
    counts = np.histogram(image[:2000], bins=20, range=(0, 1))[0]  # a tenth of the input covers every twentieth of the output evenly
    assert counts.min() > 60 and counts.max() < 140


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 2**50), st.integers(0, 2**62))
def test_hashes_are_scaled_into_their_bound(bound, seed):
    values = below(hash64(np.arange(50), seed), np.full(50, bound))
    assert values.min() >= 0 and values.max() < bound


def test_seeds_of_parts_are_stable_and_tell_parts_apart():
    assert seed_of(0, "use", 1, "code") == seed_of(0, "use", 1, "code")
    assert seed_of("ab", "c") != seed_of("a", "bc")
    assert seed_of(0, "use", 1, "code") == 4553119599059706955
