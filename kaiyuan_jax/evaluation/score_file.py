"""Scores of many documents by models, as one Parquet file that `file:` scorers join (kaiyuan_jax/data/prepare/score.py).

Input is read in pieces. The scores of a finished piece are kept in OUTPUT.partial/ under a name that says what they are of (models, piece,
the file's size and time), so a killed job goes on where it was, and a changed file is scored again alone. The output is one row a
distinct pair of text and id, by hash and id, so that it does not depend on how the input lies in files; it appears when it is whole.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from kaiyuan_jax.data.prepare import normalise, read
from kaiyuan_jax.data.prepare.tally import Tally

Scorer = Callable[[list[str]], np.ndarray]  # texts -> float64[texts], NaN where there is no score
PIECE_BYTES = 32 << 20


def write(
    output: str | Path, inputs: list[read.Input], fields: read.Fields, scorers: dict[str, Scorer], settings: dict, tally: Tally
) -> pa.Table:
    """Writes and gives the table of hash (binary16 of the normalised text), id, a float64 column a scorer, and the difference of two.

    scorers: name of the column -> function; with two, `difference` is the first less the second. settings: JSON-able, all that decides
    what the scorers give. Raises `ReadError` for a wrong field and, after the pieces before it are kept, for a damaged file.
    """
    output, tasks = Path(output), []
    work = output.with_name(output.name + ".partial")
    work.mkdir(parents=True, exist_ok=True)
    for input in inputs:
        tasks += [(work / _name(piece, fields, settings), piece) for piece in read.pieces(input, PIECE_BYTES)]
    waiting = [(path, piece) for path, piece in tasks if not path.is_file()]
    with tqdm(total=len(tasks), initial=len(tasks) - len(waiting), desc="scoring", unit=" pieces", disable=None) as bar:
        for path, piece in waiting:
            _replace(path, _piece(piece, fields, scorers, bar, tally))
            bar.update()
    table = gather([pq.read_table(path) for path, _ in tasks])
    _replace(output, table)
    shutil.rmtree(work)
    return table


def gather(tables: list[pa.Table]) -> pa.Table:
    """All rows by hash and id, each pair once, with the difference where there are two scores."""
    table = pa.concat_tables(tables)
    names = table.column_names[2:]
    table = table.group_by(["hash", "id"]).aggregate([(name, "min") for name in names])
    table = table.select(["hash", "id", *(f"{name}_min" for name in names)]).rename_columns(["hash", "id", *names])
    table = table.take(pc.sort_indices(table, sort_keys=[("hash", "ascending"), ("id", "ascending")]))
    return table.append_column("difference", pc.subtract(table[names[0]], table[names[1]])) if len(names) == 2 else table


def _piece(piece: read.Piece, fields: read.Fields, scorers: dict[str, Scorer], bar: tqdm, tally: Tally) -> pa.Table:
    kinds = {"hash": pa.binary(normalise.HASH_BYTES), "id": pa.large_string()} | dict.fromkeys(scorers, pa.float64())
    schema, done, tables = pa.schema(list(kinds.items())), 0, []
    for table in read.read(piece, fields, read.Limits(), tally):
        pairs = zip(table["id"].to_pylist(), map(normalise.normalise_text, table["text"].to_pylist()), strict=True)
        documents = [(name, text) for name, text in pairs if text]
        texts = [text for _, text in documents]
        columns = [[normalise.text_hash(text) for text in texts], [name for name, _ in documents]]
        columns += [scorer(texts) for scorer in scorers.values()]
        arrays = [pa.array(column, kind, from_pandas=True) for column, kind in zip(columns, kinds.values(), strict=True)]
        tables.append(pa.table(arrays, schema=schema))
        done += len(texts)
        bar.set_postfix_str(f"{done:,} documents of this piece")
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _name(piece: read.Piece, fields: read.Fields, settings: dict) -> str:
    path = piece.input.path
    changed = os.stat(path).st_mtime_ns if os.path.exists(path) else 0  # a URL has its size only
    facts = [settings, str(fields), path, piece.input.bytes, changed, piece.start, piece.stop]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest() + ".parquet"


def _replace(path: Path, table: pa.Table) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
