"""Real runs that E(K, N) is estimated from: one long pass and many short ones, the same model, rate and number of tokens.

All runs have T tokens at a constant rate after warm-up, as in 2511.13421. A seed has a stretch of T tokens of its own: its one-pass run
reads all of it, its run with N fresh tokens the first N again and again, T / N times. Effective tokens never exceed tokens read, so a pass
of T is long enough for every run, and all are one population: their shapes and lengths agree.

Fresh text must be a sample of the same text, and a store is sorted by quality; so the stretches are windows of a store of the study's own,
in which the documents of all sources come in the order of a seeded hash. The held-out stores stay as they are.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kaiyuan_jax import config as c
from kaiyuan_jax.data.store import Store, open_store
from kaiyuan_jax.data.store_write import write_store
from kaiyuan_jax.experiments import population

EPOCHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128)


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the study is: tokens, steps, rows; `fresh` and `tokens` are whole numbers of batches."""

    tokens: int = 1 << 19  # T, that every run reads
    fresh: tuple[int, ...] = (1 << 14, 1 << 15, 1 << 16)  # N, ascending, each a multiple of the first
    peak: float = 3e-3
    warmup: int = 20  # steps
    batch_size: int = 8
    sequence_length: int = 128
    rows: int = 32  # held-out sequences a source
    model: c.Model = dataclasses.field(
        default_factory=lambda: c.Model(layers=2, width=64, feedforward=192, heads=2, kv_heads=1, head_size=32, vocabulary=2048)
    )
    precision: c.Precision = dataclasses.field(default_factory=c.Precision)

    @property
    def epochs(self) -> list[int]:
        """Of the least N, after which runs are evaluated; ascending, to the last."""
        last = self.tokens // self.fresh[0]
        return [*(epoch for epoch in EPOCHS if epoch < last), last]


SIZES = {
    "cpu": Size(),
    # One GPU: 25M parameters beside the embeddings, K to 64, 8e16 operations.
    "gpu": Size(
        tokens=1 << 25, fresh=(1 << 19, 1 << 20, 1 << 21, 1 << 22), peak=1e-3, warmup=100, batch_size=32, sequence_length=512, rows=256,
        model=c.Model(layers=8, width=512, feedforward=1536, heads=8, kv_heads=4, head_size=64, vocabulary=2048),
        precision=c.Precision(compute="bfloat16"),
    ),
    # Large enough for every stage to run for real, too small to mean anything.
    "quick": Size(
        tokens=1 << 11, fresh=(1 << 8, 1 << 9), warmup=2, batch_size=4, sequence_length=16, rows=8,
        model=c.Model(layers=1, width=16, feedforward=32, heads=2, kv_heads=1, head_size=8, vocabulary=2048),
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Study:
    """A size, how often it is repeated, the sources (folders with `train` and `heldout`), and where it lives."""

    size: Size
    seeds: int
    sources: tuple[str, ...]
    output: str

    @property
    def folder(self) -> Path:
        return Path(self.output)

    @property
    def heldout(self) -> dict[str, str]:
        """Source -> folder of its held-out store."""
        return {Path(source).name: f"{source}/heldout" for source in self.sources}

    @property
    def steps(self) -> list[int]:
        """After which every run is evaluated, ascending; the last is the end."""
        unit = self.size.fresh[0] // (self.size.batch_size * self.size.sequence_length)
        return [unit * epoch for epoch in self.size.epochs]

    def members(self) -> list[c.Experiment]:
        """The one-pass run and a run for every N, of every seed; a seed's runs follow one another."""
        return [_member(self, seed, fresh) for seed in range(self.seeds) for fresh in (self.size.tokens, *self.size.fresh)]


def check(study: Study) -> None:
    """Raises UserError for sizes that do not divide one another, and stores that are missing or too small, before any work."""
    size, batch = study.size, study.size.batch_size * study.size.sequence_length
    wrong = [fresh for fresh in size.fresh if fresh % size.fresh[0] or size.tokens % fresh or not batch <= fresh < size.tokens]
    if wrong or list(size.fresh) != sorted(set(size.fresh)) or size.fresh[0] % batch:
        raise c.UserError(
            f"--fresh: found {','.join(map(str, size.fresh))}, must ascend, be multiples of the first, of {batch} tokens (a batch), and "
            f"divide --tokens={size.tokens}"
        )
    if len(set(study.heldout)) != len(study.sources):
        raise c.UserError(f"--stores: found {','.join(study.sources)}, the folders must have different names")
    for source in study.sources:
        for part in ("train", "heldout"):
            if not Path(source, part, "manifest.json").is_file():
                raise c.UserError(f"--stores: {source}/{part} is no store; give folders that launch/prepare_data.py wrote, with --heldout")
    stores = _sources(study)
    needed, least = _share(study), min(stores.values(), key=lambda store: store.tokens)
    if least.tokens < needed:
        raise c.UserError(
            f"--stores: {least.folder} holds {least.tokens:,} tokens and {study.seeds} seeds of {size.tokens:,} take {needed:,} of each of "
            f"{len(stores)} sources; lower --tokens, --fresh or --seeds, or give more sources"
        )

    mixed = study.folder / "store"
    if (study.folder / "population").exists() and (mixed / "manifest.json").is_file() and open_store(mixed).manifest.facts != _facts(study):
        raise c.UserError(
            f"--output={study.output}: holds runs on other --stores, --tokens or --seeds; give those it was begun with, or another folder"
        )


def mix(study: Study) -> Store:
    """The store of the study: documents of all sources, as many tokens of each, in an order that says nothing of quality or source."""
    folder, stores, needed, facts = study.folder / "store", _sources(study), _share(study), _facts(study)
    if (folder / "manifest.json").is_file() and (found := open_store(folder)).manifest.facts == facts:
        return found
    chosen = []
    for name, store in stores.items():
        documents = store.documents
        keys = [_key(f"{name}/{document}") for document in range(len(documents))]
        order = np.argsort(np.array(keys, np.uint64), kind="stable")
        count = int(np.searchsorted(np.cumsum(documents.length[order]), needed)) + 1
        chosen += [(keys[document], name, int(document)) for document in order[:count]]
    first = next(iter(stores.values()))
    tokenizer = Path(first.folder, "tokenizer.json").read_text(encoding="utf-8")
    settings = dict(tokenizer_json=tokenizer, vocabulary=first.vocabulary, eod=first.eod, scored=False, facts=facts)
    return write_store(folder, documents=_documents(stores, sorted(chosen)), **settings)


def train(study: Study) -> population.Population:
    """All runs, as one population; goes on where it was left."""
    return population.train(study.members(), study.folder / "population")


def evaluate(study: Study, trained: population.Population) -> None:
    """Writes evaluation/<step>.npz for every step of `study.steps` that has none: <source>/nats [M, D], /tokens [D], /document [D]."""
    (study.folder / "evaluation").mkdir(exist_ok=True)
    for step in study.steps:
        path = study.folder / "evaluation" / f"{step}.npz"
        if path.exists():
            continue
        found = population.evaluate(trained, trained.parameters({step: 1.0}), rows=study.size.rows, stores=study.heldout)
        arrays = {}
        for source, sums in found[0].items():
            arrays |= {f"{source}/document": sums.document, f"{source}/tokens": sums.tokens}
            arrays[f"{source}/nats"] = np.stack([member[source].nats for member in found])
        temporary = path.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, **arrays)
        temporary.replace(path)


def losses(study: Study) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Source -> (nats float64[S, 1 + F, P, D], tokens int64[D]): seeds, the one-pass run and the fresh sizes, steps, documents.

    Raises UserError where a step is missing, and for a run that diverged, by name.
    """
    paths = [study.folder / "evaluation" / f"{step}.npz" for step in study.steps]
    if missing := [path for path in paths if not path.exists()]:
        raise c.UserError(f"{missing[0]}: is not there; run --stage=evaluate first")
    names, found = [member.name for member in study.members()], {}
    parts = [np.load(path, allow_pickle=False) for path in paths]
    for source in study.heldout:
        tables = [part[f"{source}/nats"] for part in parts]
        for step, table in zip(study.steps, tables, strict=True):
            if bad := [name for name, row in zip(names, table, strict=True) if not np.isfinite(row).all()]:
                raise c.UserError(f"{', '.join(bad)}: no finite loss after step {step}; lower --peak")
        nats_MPD = np.stack(tables, axis=1)
        shape = (study.seeds, 1 + len(study.size.fresh), *nats_MPD.shape[1:])
        found[source] = nats_MPD.reshape(shape), parts[0][f"{source}/tokens"]
    return found


def _member(study: Study, seed: int, fresh: int) -> c.Experiment:
    size = study.size
    rows = study.seeds * size.tokens // size.sequence_length
    begin = seed * size.tokens // size.sequence_length
    store = open_store(study.folder / "store")
    total = (store.tokens - 1) // size.sequence_length
    window = (begin / total, (begin + fresh // size.sequence_length) / total)
    if rows > total:
        raise c.UserError(f"{study.folder}/store: holds {total} rows of {rows}; remove it, and it is written anew")
    passes = size.tokens // fresh
    unit = study.steps[0]
    return c.Experiment(
        name=f"seed{seed}_{'one_pass' if fresh == size.tokens else f'fresh{fresh}'}",
        seed=seed,
        model=dataclasses.replace(size.model, vocabulary=max(size.model.vocabulary, store.vocabulary)),
        data=c.Data(
            sources=[c.Source(name="mixed", path=str(study.folder / "store"))],
            phases=[c.Phase(uses=[c.Use(source="mixed", window=window, passes=passes)])],
            sequence_length=size.sequence_length,
            batch_size=size.batch_size,
            seed=seed,
        ),
        schedule=c.Schedule(kind="constant", peak=size.peak, warmup=size.warmup),
        precision=size.precision,
        checkpoint=c.Checkpoint(every=math.gcd(unit, *study.steps), keep=1, keep_steps=tuple(study.steps)),
        evaluation=c.Evaluation(questions=0),
        logging=c.Logging(every=unit, tensorboard=False),
    )


def _sources(study: Study) -> dict[str, Store]:
    fingerprint, found = None, {}
    for source in study.sources:
        found[Path(source).name] = store = open_store(f"{source}/train", fingerprint=fingerprint)
        fingerprint = store.fingerprint
    return found


def _facts(study: Study) -> dict:
    """What decides the mixed store, as its manifest keeps it."""
    return {"tokens": study.seeds * study.size.tokens, "sources": {name: store.fingerprint for name, store in _sources(study).items()}}


def _share(study: Study) -> int:
    """Tokens of each source: those of all seeds, and the token after the last."""
    return -(-(study.seeds * study.size.tokens + 1) // len(study.sources))


def _documents(stores: dict[str, Store], chosen: list[tuple[int, str, int]]) -> Iterator[tuple[str, float, int, np.ndarray]]:
    for _, name, document in chosen:
        documents = stores[name].documents
        begin = int(documents.offset[document])
        tokens = stores[name].read(begin, begin + int(documents.length[document]) - 1)  # without its end of document, which is written
        yield f"{name}/{document}", 0.0, int(documents.bytes[document]), tokens


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def settings(study: Study) -> dict:
    """Of the size, for results; the model in words of its own."""
    return json.loads(
        json.dumps({key: value for key, value in dataclasses.asdict(study.size).items() if key not in ("model", "precision")})
    )
