"""The batches of all members, stacked and read ahead: batch k of a population is batch k of every member.

Members with the same data (as where seeds or schedules differ alone) are read once.
"""

from collections.abc import Sequence

import grain
import jax
import numpy as np

from kaiyuan_jax.data import loader
from kaiyuan_jax.experiments.population.members import Members
from kaiyuan_jax.experiments.population.program import Layout
from kaiyuan_jax.training import step


class _Stacked:
    """Random access by step over several data sets of equal shapes (Grain's data source protocol); arrays gain a leading axis."""

    def __init__(self, parts: Sequence[grain.MapDataset]):
        self._parts = parts

    def __len__(self) -> int:
        return len(self._parts[0])

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        batches = [part[number] for part in self._parts]
        return {key: np.stack([batch[key] for batch in batches]) for key in step.BATCH_KEYS}


class Feed:
    """Batches from a step on, as arrays [P, B, L] cut by member."""

    def __init__(self, members: Members, laid: Layout, begin: int):
        data, kinds, which = members.first.data, {}, []
        for plan, stores in zip(members.plans, members.stores, strict=True):
            # resolve gives members with the same data the same objects
            number, _ = kinds.setdefault((id(plan), id(stores)), (len(kinds), (plan, stores)))
            which.append(number)
        parts = [loader.dataset(*kind, mask_documents=data.mask_documents) for _, kind in kinds.values()]
        self._laid, self._which_M = laid, np.array(which)
        self._reader = loader.Batches(grain.MapDataset.source(_Stacked(parts)), begin, data.prefetch)

    def next(self) -> dict[str, jax.Array]:
        batch = next(self._reader)
        return {key: self._laid.put(x[self._which_M]) for key, x in batch.items()}

    def close(self) -> None:
        """Stops reading ahead."""
        self._reader.close()
