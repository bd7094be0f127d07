"""Every reader of a format that we define, with a good file for it: what the fuzzers feed damaged bytes to.

A reader may give a value or raise an error that its user can read (`UserError`); anything else is a fault. Each is given the bytes of one
file in a folder whose other files are good, so that damage is met behind the checks of sizes and checksums too, where it can do harm.
"""

import dataclasses
import functools
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kaiyuan_jax import config, config_check
from kaiyuan_jax.config import UserError
from kaiyuan_jax.data import store, store_write
from kaiyuan_jax.data.prepare import contamination, fasttext_model, tokenizer
from kaiyuan_jax.models.hf import configs, names, read, safetensors_files
from kaiyuan_jax.report import load
from kaiyuan_jax.schedules import file
from kaiyuan_jax.schedules.laws import artefact, catalogue, curves, given
from kaiyuan_jax.schedules.laws.fit import Fit

Read = Callable[[Path, bytes], object]  # a folder to work in, and what the file holds


@dataclasses.dataclass(frozen=True)
class Reader:
    name: str
    good: Callable[[Path], bytes]  # the bytes of a file without fault; the folder is the work folder
    read: Read
    refuses: tuple[type[Exception], ...] = (UserError,)
    is_json: bool = False
    files: int = 80  # how many damaged ones a test feeds it


def experiment() -> config.Experiment:
    uses = [config.Use(source="a"), config.Use(source="b", window=(0.5, 1.0), passes=1.5)]
    sources = [config.Source(name=name, path=f"stores/{name}", domain="english") for name in "ab"]
    phases = [config.Phase(uses=uses, tokens=8192, order="ascending")]
    limits = [config.DomainLimit(domain="english", at_least=0.1)]
    averaging = config.Averaging(kind="weights", last=2, weights=(0.5, 0.5))
    return config.Experiment(data=config.Data(sources=sources, phases=phases, domain_limits=limits), averaging=averaging)


def _put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _config(folder, content):
    config_check.check(config.read(_put(folder, "config.json", content)))


# Stores: one file of a good one is replaced, and the manifest's size of it with it.


def good_store(folder: Path, compression: int = 0) -> Path:
    target = folder / f"store{compression}"
    if not target.exists():
        documents = [(f"d{i}", i / 4, 9, np.arange(1, 3 + i % 5)) for i in range(40)]
        store_write.write_store(target, documents=documents, tokenizer_json="{}", vocabulary=64, eod=0, compression=compression)
    return target


def _of_store(name: str, compression: int = 0):
    return lambda folder: (good_store(folder, compression) / name).read_bytes()


def _manifest(folder, content):
    target = _copy(folder)
    (target / "manifest.json").write_bytes(content)
    store.open_store(target).read_rows(np.arange(2), 8)


def _store_file(name: str, compression: int = 0, checked: bool = False):
    def read(folder, content):
        target = _copy(folder, compression)
        (target / name).write_bytes(content)
        manifest = json.loads((target / "manifest.json").read_text())
        manifest["files"][name] = len(content)
        (target / "manifest.json").write_text(json.dumps(manifest))
        opened = store.open_store(target)
        if checked:
            store.verify_store(opened)
        return opened.documents.id(0), opened.documents.bytes, opened.documents.copies

    return read


def _copy(folder: Path, compression: int = 0) -> Path:
    target = folder / "damaged"
    if target.exists():
        shutil.rmtree(target)
    return Path(shutil.copytree(good_store(folder, compression), target))


# Schedules, laws and curves


def _written(write: Callable[[Path], None], suffix: str = ""):
    def good(folder):
        path = folder / f"good{suffix}"
        write(path)
        return path.read_bytes()

    return good


@functools.cache
def _fit() -> Fit:
    law = catalogue.LAWS["multi_power"]
    size = len(law.parameters)
    return Fit(law, "robust", np.linspace(0.1, 1, size), 0.5, ("a",), np.eye(size), {"loss": "train"}, {"residual": 0.1})


STEPS = np.arange(20, 400, 20)
CURVE = np.column_stack([STEPS, np.linspace(1e-3, 1e-5, STEPS.size), np.linspace(4, 3, STEPS.size)])
CSV = "step,lr,loss\n" + "".join(f"{step:.0f},{rate:.9g},{loss:.9g}\n" for step, rate, loss in CURVE)


def _curve(suffix: str):
    def read(folder, content):
        curves.assemble(curves.read(_put(folder, f"curve{suffix}", content)))

    return read


def _parquet(folder: Path) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(zip(("step", "lr", "loss"), CURVE.T, strict=True))), buffer)
    return buffer.getvalue()


def _npy(folder: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.linspace(0, 1e-3, 50))
    return buffer.getvalue()


def _schedule(suffix: str):
    def read(folder, content):
        found = file.read(str(_put(folder, f"schedule{suffix}", content)))
        return found.rate(np.array([0, 5, found.steps - 1]))

    return read


METRICS = "".join(
    json.dumps(line) + "\n"
    for line in ({"step": 7, "loss": 3.1, "learning_rate": 1e-3}, {"step": 7, "heldout/mean": 3.0}, {"step": 14, "loss": None})
)


# Hugging Face folders

HF = {
    "model_type": "qwen3", "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 12,
    "num_hidden_layers": 2, "vocab_size": 32, "rms_norm_eps": 1e-6, "hidden_act": "silu", "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "layer_types": ["full_attention"] * 2, "sliding_window": None,
    "tie_word_embeddings": False, "eos_token_id": [1, 2],
}  # fmt: skip


def _tensors(folder: Path) -> bytes:
    arrays = {"a": np.ones((2, 3), np.float32), "b.weight": np.zeros(4, np.float32), "c": np.zeros((0, 2), np.float32)}
    return _written(lambda path: safetensors_files.write(path, arrays, {"format": "pt"}))(folder)


def _safetensors(folder, content):
    found, _ = safetensors_files.tensors(_put(folder, "tensors/model.safetensors", content))
    return [float(tensor.read().astype(np.float32).sum()) for tensor in found.values()]


def _index(folder, content):
    for name, tensor in (("model-1.safetensors", "a"), ("model-2.safetensors", "b")):
        if not (folder / "sharded" / name).exists():
            (folder / "sharded").mkdir(exist_ok=True)
            safetensors_files.write(folder / "sharded" / name, {tensor: np.ones(3, np.float32)}, {})
    _put(folder, f"sharded/{safetensors_files.INDEX}", content)
    return safetensors_files.checkpoint(folder / "sharded")


def _hf_config(folder, content):
    path = _put(folder, "hf/config.json", content)
    configs.from_json(configs.load(path), str(path))
    return read.is_checkpoint(path.parent)


def _names(folder, content):
    return names.read_table(_put(folder, "names.json", content))


# Preparation


def _fasttext(folder: Path) -> bytes:
    options = fasttext_model.Options(dimension=2, buckets=4, min_count=1, epochs=1)
    model = fasttext_model.train(["good words here", "bad words there"], [0, 1], ["positive", "negative"], options)
    return _written(lambda path: fasttext_model.save(model, path), ".bin")(folder)


def _contamination(folder: Path) -> bytes:
    made = contamination.index({"a": ["one two three four five six seven eight nine"]})
    return _written(lambda path: contamination.save(path, made), ".npz")(folder)


# Run folders


def _checkpoint(folder: Path) -> Path:
    from kaiyuan_jax.training import checkpoint

    target = folder / "checkpoint"
    if not target.exists():
        checkpoint.save_parameters(target, {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b/c": np.ones(4, np.float32)}, {"step": 5})
    return target


def _values(folder: Path) -> Path:
    """The file of a checkpoint that holds its arrays."""
    found = (path for path in (_checkpoint(folder) / "parameters").rglob("*") if path.is_file() and "d" in path.parts[-2])
    return max(found, key=lambda path: path.stat().st_size)


def _of_checkpoint(where: Callable[[Path], Path]):
    return lambda folder: where(folder).read_bytes()


def _progress(folder: Path) -> Path:
    return _checkpoint(folder) / "progress" / "metadata"


def _read_checkpoint(where: Callable[[Path], Path]):
    def read(folder, content):
        from kaiyuan_jax.training import checkpoint

        path = where(folder)
        good = path.read_bytes()
        try:
            path.write_bytes(content)
            facts = checkpoint.progress(_checkpoint(folder))
            names, leaf = checkpoint.leaf_reader(_checkpoint(folder))
            return facts, [leaf(name) for name in names]
        finally:
            path.write_bytes(good)

    return read


def _local_copy(folder: Path):
    """A copy of a state of two arrays, the state's description, and the folder of the copy."""
    import jax
    import jax.numpy as jnp

    from kaiyuan_jax.training import local_copies, state

    now = state.TrainState(
        step=jnp.int32(5),
        params={"a": jnp.arange(6.0)},
        opt_state=(),
        key=jax.random.key_data(jax.random.key(0)),
        average={},
        loss_scale=(),
    )
    copies = local_copies.LocalCopies(folder / "local", "run", 0)
    if not copies.steps():
        copies.save(5, now, {"step": 5}, {"parameters": {"a": "0"}})
        copies.wait()
    return copies, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), now), copies.folder / "5"


def _of_local_copy(name: str):
    return lambda folder: (_local_copy(folder)[2] / name).read_bytes()


def _read_local_copy(name: str):
    def read(folder, content):
        copies, abstract, place = _local_copy(folder)
        good = (place / name).read_bytes()
        try:
            (place / name).write_bytes(content)
            return copies.usable(abstract), copies.read(5, abstract)
        finally:
            (place / name).write_bytes(good)

    return read


def _divergences(folder, content):
    from kaiyuan_jax.training import divergence

    return divergence.read(_put(folder, f"run/{divergence.FILE}", content).parent)


def _training_metrics(folder, content):
    from kaiyuan_jax.training import metrics

    path = _put(folder, "run/metrics.jsonl", content)
    metrics.truncate(path, 7)
    return metrics.read(path)


DIVERGENCES = [{"step": 9, "why": "loss is not finite", "objective": None, "gradient_norm": 1.0, "left_out": [9, 9]}]


def _evaluation(name: str):
    def read(folder, content):
        good = {"json": json.dumps({"model": "checkpoint_5", "step": 5}).encode(), "npz": _npz(folder)}
        for suffix, held in good.items():
            _put(folder, f"evaluation/a.{suffix}", content if suffix == name else held)
        return load.evaluation(folder / "evaluation" / "a.json")

    return read


def _npz(folder: Path) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{"heldout/a/loss": np.ones(300), "heldout/a/rank": np.arange(9)})
    return buffer.getvalue()


def _json(value) -> Callable[[Path], bytes]:
    return lambda folder: json.dumps(value).encode()


READERS = (
    Reader("config.json", lambda folder: config.to_json(experiment()).encode(), _config, is_json=True),
    Reader("store manifest.json", _of_store("manifest.json"), _manifest, is_json=True),
    Reader("store documents.parquet", _of_store("documents.parquet"), _store_file("documents.parquet")),
    Reader("store zarr.json", _of_store("tokens/zarr.json", 3), _store_file("tokens/zarr.json", 3, True), is_json=True, files=50),
    Reader("raw store shard", _of_store("tokens/c/0"), _store_file("tokens/c/0", 0, True), files=30),
    Reader("packed store shard", _of_store("tokens/c/0", 3), _store_file("tokens/c/0", 3, True), files=50),
    Reader("schedule.json", _written(lambda path: file.write(path, [0, 9, 50], [0, 1, 0.1], peak=1)), _schedule(".json"), is_json=True),
    Reader("schedule.csv", lambda folder: b"step,lr\n0,0.0\n10,1e-3\n400,1e-5\n", _schedule(".csv")),
    Reader("schedule.npy", _npy, lambda folder, content: given.rates(str(_put(folder, "rates.npy", content)))),
    Reader(
        "law.json",
        _written(lambda path: artefact.write(path, artefact.tree(_fit(), []))),
        lambda folder, content: artefact.load(_put(folder, "law.json", content)),
        is_json=True,
    ),
    Reader("curve.csv", lambda folder: CSV.encode(), _curve(".csv")),
    Reader("curve.parquet", _parquet, _curve(".parquet")),
    Reader("metrics.jsonl", lambda folder: METRICS.encode(), lambda folder, content: load.metrics(_put(folder, "metrics.jsonl", content))),
    Reader("metrics.jsonl to resume from", lambda folder: METRICS.encode(), _training_metrics),
    Reader("divergences.json", _json(DIVERGENCES), _divergences, is_json=True),
    Reader("checkpoint progress", _of_checkpoint(_progress), _read_checkpoint(_progress), is_json=True, files=25),
    Reader("checkpoint values", _of_checkpoint(_values), _read_checkpoint(_values), files=25),
    Reader("facts of a local copy", _of_local_copy("facts.json"), _read_local_copy("facts.json"), is_json=True, files=60),
    Reader("shards of a local copy", _of_local_copy("shards"), _read_local_copy("shards"), files=60),
    Reader("evaluation.json", _json({"model": "checkpoint_5", "step": 5, "mean": {}}), _evaluation("json"), is_json=True),
    Reader("evaluation.npz", _npz, _evaluation("npz")),
    Reader("safetensors", _tensors, _safetensors),
    Reader("safetensors index", _json({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}), _index, is_json=True),
    Reader("Hugging Face config.json", _json(HF), _hf_config, is_json=True),
    Reader("names.json", _json({"embed.weight": ["embedding_VD", "V,D"], "norm": ["norm_D", "D"]}), _names, is_json=True),
    Reader("tokenizer.json", lambda folder: tokenizer.train(["a b c"], 260).to_str().encode(),
           lambda folder, content: tokenizer.load(str(_put(folder, "tokenizer.json", content))), is_json=True),
    Reader("fastText model", _fasttext, lambda folder, content: fasttext_model.read_labels(_put(folder, "model.bin", content))),
)  # fmt: skip
