"""What was in row r: the documents of a training row, with score, quality quantile and pass, from the stores' own tables."""

import dataclasses
from collections.abc import Sequence

from kaiyuan_jax.data import order
from kaiyuan_jax.data.recipe import Plan
from kaiyuan_jax.data.store import Store


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of one document inside a row."""

    document: int  # index in the store's table
    id: str
    quality: float  # the document's score
    quantile: float  # share of the store's token mass that is worse (middle of the document)
    begin: int  # first token, counted in the document
    tokens: int


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a batch and the documents whose tokens are its inputs."""

    row: int  # in the global batch
    phase: str
    source: str
    sequence: int
    pass_: int  # from 0
    quantile: float  # of the sequence
    pieces: tuple[Piece, ...]


def trace(plan: Plan, stores: Sequence[Store], step: int, rows: Sequence[int] | None = None) -> list[Row]:
    """Where the given rows (default: all) of batch `step` come from. Raises IndexError for a step or row outside the plan."""
    rows = range(plan.batch_size) if rows is None else rows
    where = order.rows(plan, order.positions(plan, step)[list(rows)])
    result = []
    for i, row in enumerate(rows):
        store, sequence = stores[where.source[i]], int(where.sequence[i])
        result.append(
            Row(
                row=row,
                phase=plan.phases[where.phase[i]].name,
                source=plan.sources[where.source[i]],
                sequence=sequence,
                pass_=int(where.pass_[i]),
                quantile=float(where.quantile[i]),
                pieces=_pieces(store, sequence * plan.sequence_length, (sequence + 1) * plan.sequence_length),
            )
        )
    return result


def _pieces(store: Store, start: int, stop: int) -> tuple[Piece, ...]:
    documents, pieces = store.documents, []
    for document in range(store.document_at(start), store.document_at(stop - 1) + 1):
        offset, length = int(documents.offset[document]), int(documents.length[document])
        begin, end = max(start, offset), min(stop, offset + length)
        pieces.append(
            Piece(
                document=document,
                id=documents.id(document),
                quality=float(documents.quality[document]),
                quantile=float(store.quality_quantile(document)),
                begin=begin - offset,
                tokens=end - begin,
            )
        )
    return tuple(pieces)
