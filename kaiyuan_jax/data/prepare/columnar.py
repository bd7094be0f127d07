"""Parquet and Arrow files, column by column: only the fields that are asked for are decoded, and texts never become Python strings."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from kaiyuan_jax.data.prepare import fields as F
from kaiyuan_jax.data.prepare.fields import EXPANSION_FROM, Fields, Limits
from kaiyuan_jax.data.prepare.inputs import Damaged, Input, opened
from kaiyuan_jax.data.prepare.tally import Tally

BATCH_BYTES = 8 << 20  # decoded from Parquet at a time
PARQUET_ROWS = 1024  # at most: a dictionary page, 1 MB as writers make them, may hold one text that every row repeats
ARROW_ROWS = 4096


def source(input: Input) -> pa.NativeFile:
    """The bytes of an input, as Arrow reads them."""
    return pa.PythonFile(opened(input.path), mode="r") if "://" in input.path else pa.OSFile(input.path)


def parquet_ranges(input: Input, size: int) -> list[tuple[int, int]]:
    """Ranges of row groups that hold about `size` bytes once decompressed."""
    with source(input) as file:
        metadata = pq.ParquetFile(file).metadata
        return _ranges([metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)], size)


def arrow_ranges(input: Input, size: int) -> list[tuple[int, int]]:
    """Ranges of record batches of about `size` bytes; one for a file that is not local, because a stream has no index."""
    if "://" in input.path:
        return [(0, 0)]
    return _ranges([batch.nbytes for batch in _batches(pa.memory_map(input.path), 0, None)], size)


def _ranges(sizes: list[int], size: int) -> list[tuple[int, int]]:
    ranges, start, held = [], 0, 0
    for index, bytes in enumerate(sizes):
        held += bytes
        if held >= size or index == len(sizes) - 1:
            ranges.append((start, index + 1))
            start, held = index + 1, 0
    return ranges or [(0, 0)]


def parquet(input: Input, start: int, stop: int, fields: Fields, limits: Limits, tally: Tally) -> Iterator[pa.Table]:
    """Documents of row groups [start, stop)."""
    with source(input) as file:
        reader = pq.ParquetFile(file)
        places = _places(input, reader.schema_arrow, fields)
        metadata = reader.metadata
        if not metadata.num_rows:
            tally.add("read: empty files", 1, [input.name])
            return
        row = sum(metadata.row_group(group).num_rows for group in range(start))
        names = [".".join(place) for place in places.values()]
        roots = {name.split(".")[0] for name in names}
        for group in range(start, stop or metadata.num_row_groups):
            facts = metadata.row_group(group)
            chunks = [facts.column(index) for index in range(facts.num_columns)]
            chunks = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in roots]
            stored, size = sum(chunk.total_compressed_size for chunk in chunks), sum(chunk.total_uncompressed_size for chunk in chunks)
            if size > max(EXPANSION_FROM, limits.expansion * stored):
                raise Damaged(input.path, f"row group {group} decompresses {stored:,} bytes to {size:,}, more than {limits.expansion} "
                                          "times as much; a decompression bomb?")  # fmt: skip
            rows = max(1, min(PARQUET_ROWS, BATCH_BYTES * max(facts.num_rows, 1) // max(size, 1)))
            for batch in reader.iter_batches(batch_size=rows, row_groups=[group], columns=names, use_threads=False):
                yield _documents(batch, row, places, input, fields, limits, tally)
                row += batch.num_rows


def arrow(input: Input, start: int, stop: int, fields: Fields, limits: Limits, tally: Tally) -> Iterator[pa.Table]:
    """Documents of record batches [start, stop) of an Arrow file or stream, such as `save_to_disk` writes."""
    row, places = 0, None
    with source(input) if "://" in input.path else pa.memory_map(input.path) as file:
        for index, batch in enumerate(_batches(file, 0, stop or None)):
            places = _places(input, batch.schema, fields) if places is None else places
            if index >= start:
                batch.validate()
                for at in range(0, batch.num_rows, ARROW_ROWS):
                    yield _documents(batch.slice(at, ARROW_ROWS), row + at, places, input, fields, limits, tally)
            row += batch.num_rows
    if not row:
        tally.add("read: empty files", 1, [input.name])


def _batches(file: pa.NativeFile, start: int, stop: int | None) -> Iterator[pa.RecordBatch]:
    # A mapped file is only skipped over here; batches come without a copy.
    magic = file.read(6)
    file.seek(0)
    if magic == b"ARROW1":
        reader = pa.ipc.open_file(file)
        for index in range(start, reader.num_record_batches if stop is None else stop):
            yield reader.get_batch(index)
    else:
        for index, batch in enumerate(pa.ipc.open_stream(file)):
            if stop is not None and index >= stop:
                return
            if index >= start:
                yield batch


def _places(input: Input, schema: pa.Schema, fields: Fields) -> dict[str, list[str]]:
    """Where every field lies; raises `ReadError` if one lies nowhere."""
    places = {}
    for field, flag in fields.flags():
        place = F.resolve(schema, field)
        if place is None:
            raise F.absent(input.path, field, flag, F.schema_names(schema))
        places[field] = place
    return places


def _documents(batch, row: int, places, input: Input, fields: Fields, limits: Limits, tally: Tally) -> pa.Table:
    columns = {field: F.column(batch, place) for field, place in places.items()}
    text, wrong = F.as_texts(columns[fields.text], input.path, fields.text)
    id = F.as_names(columns[fields.id]) if fields.id else None
    metadata = F.as_metadata({field: columns[field] for field in fields.metadata}, batch.num_rows)
    quality = columns[fields.quality] if fields.quality else None
    return F.documents(text, quality, id, metadata, wrong, lambda at: f"{input.name}, row {row + at + 1}", limits, tally)
