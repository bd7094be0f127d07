"""A small study: stores of random text for every source."""

import numpy as np
import pytest

from kaiyuan_jax.data.store_write import write_store
from kaiyuan_jax.experiments import schedules


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    """Four sources with a training and a held-out store each, tokens below 64."""
    folder = tmp_path_factory.mktemp("stores")
    for number, source in enumerate(schedules.SOURCES):
        for part, documents in (("train", 120), ("heldout", 30)):
            random = np.random.default_rng([number, documents])
            texts = [(f"d{i}", float(i), 60, random.integers(1, 64, 30).astype(np.uint16)) for i in range(documents)]
            write_store(folder / source / part, documents=texts, tokenizer_json="{}", vocabulary=64, eod=0)
    return str(folder)


@pytest.fixture
def study(stores, tmp_path):
    return schedules.Study(schedules.QUICK, 2, stores, str(tmp_path / "study"))
