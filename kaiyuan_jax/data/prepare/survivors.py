"""Which documents stay: those of files that could be read, that no better one equals or resembles, and that no earlier source holds.

The answer is one Parquet file of (uid, copies), sorted by uid: a part finds its rows in it by range. Damaged files leave as a whole,
so that what stays of them does not depend on how they were cut.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kaiyuan_jax.data import store_write
from kaiyuan_jax.data.prepare import deduplicate, read
from kaiyuan_jax.data.prepare.documents import ROW_BITS, Part
from kaiyuan_jax.data.prepare.engine import Engine
from kaiyuan_jax.data.prepare.settings import PrepareError, Settings
from kaiyuan_jax.data.prepare.tally import EXAMPLES, Tally

KEY_BYTES = 500  # of a document's keys while they are sorted
ID_BYTES = 100  # of a document while ids are compared


def gather(made: list[dict], found: list[read.Input], settings: Settings) -> tuple[Tally, list[Part], dict[int, str]]:
    """Counts of the readable input, all parts, and damaged inputs with the reason; raises if nothing or too little is left."""
    damaged = {int(number): reason for facts in made for number, reason in facts["damaged"].items()}
    tally = Tally()
    for facts in made:
        tally.merge(Tally.from_json(facts["tally"]))
        for number, held in facts["by_input"].items():
            if int(number) not in damaged:
                tally.merge(Tally.from_json(held))
    lost, everything = sum(found[number].bytes for number in damaged), sum(input.bytes for input in found)
    if lost > settings.max_loss * everything:
        number, reason = next(iter(sorted(damaged.items())))
        raise PrepareError(
            f"{len(damaged)} of {len(found)} files cannot be read to their end, {lost / everything:.1%} of the bytes, first "
            f"{found[number].path}: {reason}; replace them or raise --max_loss={settings.max_loss}"
        )
    rows, gone = tally.counts.get("read: rows", 0), tally.counts.get("read: rows lost", 0)
    if gone > settings.max_loss * rows:
        reasons = ", ".join(f"{count} {name.removeprefix('read: ')}" for name, count in sorted(tally.counts.items())
                            if name in tally.examples and name.startswith("read: "))  # fmt: skip
        raise PrepareError(f"{gone:,} of {rows:,} rows are lost ({reasons}); mend them or raise --max_loss={settings.max_loss}")
    parts = [Part(**part) for facts in made for part in facts["parts"]]
    if not parts:
        gone = (f"{count:,} {name}" for name, count in sorted(tally.counts.items())
                if count and (name == "without quality" or name.startswith(("rule ", "empty", "contamination "))))  # fmt: skip
        count = tally.counts.get("documents read", 0)
        raise PrepareError(f"no text in {count} rows of field {settings.text_field!r} ({', '.join(gone)}); check --input, --text_field, "
                           "--quality_field and --rules")  # fmt: skip
    return tally, parts, damaged


def choose(engine: Engine, parts: list[Part], damaged: dict[int, str], settings: Settings, path: Path, wanted: bool) -> dict:
    """Writes the uid and copies of the documents that stay, sorted by uid: all of readable files unless `wanted`; gives counts."""
    import daft

    columns = ["uid", "hash", "quality", "tie", "priority", *["bands"] * settings.near_duplicates]
    rows = engine.frame([Path(part.name + ".parquet") for part in parts])
    rows = rows.where(~rows["input"].is_in(list(damaged))) if damaged else rows
    keys = rows.with_column("priority", daft.lit(len(settings.against)).cast(daft.DataType.int32())).select(*columns)
    for priority, folder in enumerate(settings.against):
        earlier = engine.frame([Path(folder) / "fingerprints.parquet"])
        earlier = earlier.with_column("priority", daft.lit(priority).cast(daft.DataType.int32()))
        keys = keys.concat(earlier.with_column("uid", -1 - earlier["uid"] - (priority << 40)).select(*columns))
    if settings.near_duplicates:
        bands = daft.DataType.fixed_size_list(daft.DataType.uint64(), settings.near.shape[0])
        keys = keys.with_column("bands", keys["bands"].cast(bands))
    tally = Tally()
    if settings.id_field:
        _repeated_ids(rows, tally, engine.memory // 8)
    if wanted:
        kept = deduplicate.clusters(keys, settings.near_duplicates, engine.memory // 2, tally)
    else:
        kept = keys.select("uid").sort("uid").to_arrow()
        kept = kept.append_column("copies", pa.array(np.ones(kept.num_rows, np.int64)))
    kept = kept.filter(pc.greater_equal(kept["uid"], 0))
    pq.write_table(kept, path.with_suffix(".partial"), row_group_size=1 << 16)
    path.with_suffix(".partial").replace(path)
    if not kept.num_rows and settings.against:
        raise PrepareError(f"--against={','.join(settings.against)}: every document of this source is there already, none is left")
    if not kept.num_rows:
        raise PrepareError("no document is left: all were in files that could not be read to their end; replace those")
    return {"tally": tally.to_json()}


def rows_of(part: Part, path: str) -> tuple[pa.Table, np.ndarray]:
    """(uid and copies of the documents of a part that stay, their rows in it)."""
    first = part.number << ROW_BITS
    kept = pq.read_table(path, filters=[("uid", ">=", first), ("uid", "<", first + (1 << ROW_BITS))])
    return kept, kept["uid"].to_numpy() - first


def table(part: Part, path: str) -> pa.Table:
    """The rows of a part that stay, with `copies` and `row`, their place in the part; `path` holds uid and copies of every part."""
    kept, rows = rows_of(part, path)
    columns = [name for name in pq.read_schema(part.name + ".parquet").names if name != "input"]
    chosen = part.table(columns).take(pa.array(rows))
    return chosen.append_column("copies", kept["copies"]).append_column("row", pa.array(rows))


def keep_fingerprints(engine: Engine, files: list[Path], documents: int, settings: Settings, path: Path) -> None:
    """Keys of the documents that stayed, for sources that are prepared --against this one later; sorted by hash, a range at a time.

    `files` are those of the parts (tokenise.make): hash, quality, tie, bands and `byte`, the first byte of the hash.
    """
    passes = min(256, -(-documents * KEY_BYTES // (engine.memory // 8)))
    names = ["hash", "quality", "tie", "bands"]
    fields = [pa.field("uid", pa.int64()), *(pq.read_schema(files[0]).field(name) for name in names)]
    schema = pa.schema(fields, metadata={"near": json.dumps(dataclasses.asdict(settings.near))})

    def ranges():
        count = 0
        for number in range(passes):
            keys = engine.frame(files)
            low, high = (-(-256 * edge // passes) for edge in (number, number + 1))
            table = keys.where((keys["byte"] >= low) & (keys["byte"] < high)).select(*names).to_arrow().sort_by("hash")
            yield table.add_column(0, "uid", pa.array(np.arange(count, count + table.num_rows)))
            count += table.num_rows

    partial = path.with_name(path.name + ".partial")
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for table in store_write.regrouped(ranges(), schema):
            writer.write_table(table)
    partial.replace(path)


def keys_of(table: pa.Table) -> pa.Table:
    """What `keep_fingerprints` needs of a part's documents, sorted by hash."""
    keys = table.select(["hash", "quality", "tie", "bands"]).sort_by("hash")
    return keys.append_column("byte", pa.array([digest[0] for digest in keys["hash"].to_pylist()], pa.uint8()))


def _repeated_ids(rows, tally: Tally, memory: int) -> None:
    """Counts ids that several different texts share: nothing depends on ids, but whoever looks one up should know."""
    import daft

    passes = max(1, -(-rows.count_rows() * ID_BYTES // memory))
    shown = 0
    for number in range(passes):
        some = rows.where(rows["id"].hash() % passes == number) if passes > 1 else rows
        pairs = some.select(some["id"].hash().alias("id"), some["hash"].hash().alias("text")).distinct()
        values, counts = np.unique(pairs.select("id").to_arrow()["id"].to_numpy(), return_counts=True)
        repeated = values[counts > 1]
        if len(repeated):
            asked = repeated[:EXAMPLES] if shown < EXAMPLES else repeated[:0]
            shown += len(asked)
            named = rows.select("id", rows["id"].hash().alias("name"))
            found = named.join(daft.from_arrow(pa.table({"name": asked})), on="name", how="semi").select("id").distinct().to_arrow()
            tally.add("ids of several documents", len(repeated), found["id"].to_pylist())


def export(task: dict) -> None:
    """Writes the documents of a part that stay as one Parquet file into the folder `target`."""
    part = Part(**task["part"])
    chosen = table(part, task["survivors"])
    chosen = chosen.append_column("text", part.texts().take(chosen["row"].combine_chunks()))
    chosen = chosen.drop_columns([name for name in ("uid", "row", "size", "tie", "bands") if name in chosen.column_names])
    pq.write_table(chosen, Path(task["target"]) / f"{Path(part.name).name}.parquet", compression="zstd")
