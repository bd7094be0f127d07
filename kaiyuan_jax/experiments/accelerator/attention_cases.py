"""The attention that is timed, and how many operations each case needs. Standard library only.

A query and a key that it may see cost 4 C operations a head forward (two products) and 10 C backward (five). Masked pairs are not counted,
whatever a kernel computes, so that TFLOP/s of cases compare.
"""

import dataclasses
import random


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    documents: bool = False
    softcap: float = 0.0
    window: int = 0


CASES = (
    Case("causal"),
    Case("documents", documents=True),
    Case("soft-cap", softcap=50.0),
    Case("documents and soft-cap", documents=True, softcap=50.0),
    Case("window", window=1024),
)
BATCH, LENGTH, HEADS, KV_HEADS, HEAD_SIZE = 4, 4096, 16, 8, 128  # the 2.03B model's layer on 16,384 tokens
TINY = (2, 128, 4, 2, 64)
MEAN = 600  # tokens of a document


def documents(batch: int, length: int) -> list[list[int]]:
    """Segment ids 1, 2, ... of rows of packed documents, lengths exponential around MEAN; the same for every caller."""
    source, rows = random.Random(0), []
    for _ in range(batch):
        row, number = [], 0
        while len(row) < length:
            number += 1
            row += [number] * max(8, round(source.expovariate(1 / min(MEAN, length / 4))))
        rows.append(row[:length])
    return rows


def pairs(case: Case, batch: int, length: int) -> int:
    """Visible (query, key) pairs of the batch."""
    if not case.documents:
        return batch * sum(min(i + 1, case.window or length) for i in range(length))
    total = 0
    for row in documents(batch, length):
        start = 0
        for i, number in enumerate(row):
            start = i if i and row[i - 1] != number else start
            total += min(i - start + 1, case.window or length)
    return total


def flops(case: Case, batch: int, length: int, heads: int, head_size: int, backward: bool) -> int:
    """Operations of a forward pass, or of forward and backward."""
    return (14 if backward else 4) * pairs(case, batch, length) * heads * head_size
