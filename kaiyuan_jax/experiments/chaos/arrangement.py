"""What is hurt: a run so small that a fault costs seconds, and the arrangements of processes it is trained in.

60 steps of 8 rows of 16 tokens, a checkpoint every 5 steps, an evaluation every 12, an average of the last steps in the train state; a
model of one layer whose checkpoint is still large enough to be cut short. The two stores hold drawn numbers in which each token depends on
the one before, and no two sequences are the same: so a row of a batch tells by its tokens which sequence it is.
"""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.data.store import open_store

VOCABULARY, LENGTH, BATCH, STEPS, EVERY = 512, 16, 8, 60, 5
WINDOW = 43  # the batch after which the average in the train state takes its first point, of 5
NAMES = ("code", "prose")
TIMEOUT = 20.0  # seconds without a step after which the watchdog ends a process; processes are stopped for longer


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """Processes and devices that one run is trained on; `mesh` stays the same however many processes share its devices."""

    name: str
    processes: tuple[int, ...]  # that a session of the run may have; drawn, the undisturbed run has the first
    devices: int = 1  # over all processes
    mesh: config.Mesh = dataclasses.field(default_factory=lambda: config.Mesh(data=1))
    local: bool = False  # copies of the state on the host's own disk between checkpoints
    divergence: str = "stop"
    poisoned: tuple[int, ...] = ()  # steps, counted from 0, whose batch has a token that is none: its loss is NaN

    @property
    def undisturbed(self) -> tuple:
        """What decides the numbers: arrangements that have it in common are compared with the same undisturbed run."""
        return self.processes[0], self.devices, self.divergence, self.poisoned


ARRANGEMENTS = {
    one.name: one
    for one in (
        Arrangement("one", (1,)),
        Arrangement("local_copies", (1,), local=True),
        Arrangement("skip", (1,), divergence="skip", poisoned=(22,)),
        Arrangement("back_off", (1,), divergence="back_off", poisoned=(22,)),
        Arrangement("two_processes", (2,), 4, config.Mesh(data=2, fsdp=2), local=True),
        Arrangement("changing_processes", (2, 1, 2, 1, 4), 4, config.Mesh(data=2, fsdp=2)),
    )
}


def experiment(arrangement: Arrangement, stores: Path, output: Path) -> config.Experiment:
    """The run of an arrangement, in the folder `output`."""
    copies = {"local": str(local_copies(output)), "local_every": 2} if arrangement.local else {}
    uses = [config.Use(source="code"), config.Use(source="prose", passes=1.5)]
    return config.Experiment(
        name="chaos",
        output=str(output),
        model=config.Model(layers=1, width=32, feedforward=64, heads=2, kv_heads=1, head_size=16, vocabulary=VOCABULARY),
        data=config.Data(
            sources=[config.Source(name=n, path=f"{stores}/{n}/train", heldout=f"{stores}/{n}/heldout") for n in NAMES],
            phases=[config.Phase(uses=uses, order="ascending", tokens=STEPS * LENGTH * BATCH)],
            sequence_length=LENGTH,
            batch_size=BATCH,
            prefetch=4,
            verify_tokens=0,
        ),
        schedule=config.Schedule(warmup=5, peak=1e-2),
        checkpoint=config.Checkpoint(every=EVERY, keep=5, **copies),
        health=config.Health(timeout=TIMEOUT, divergence=arrangement.divergence),
        mesh=arrangement.mesh,
        averaging=config.Averaging(kind="wma", last=5, online_every=4),
        evaluation=config.Evaluation(every=12, rows=8, batch_size=8, context=8, continuation=4),
        logging=config.Logging(every=4, tensorboard=False),
    )


def local_copies(output: Path) -> Path:
    """Where the processes of a run keep their own copies of its state."""
    return output.with_name(output.name + "_local")


def write_stores(folder: Path) -> None:
    """The stores of every run, the same bytes each time; what is there is kept."""
    from tokenizers import Tokenizer, models

    from kaiyuan_jax.data.store_write import write_store

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0")).to_str()
    for seed, (name, part, documents) in enumerate((n, p, d) for n in NAMES for p, d in (("train", 600), ("heldout", 40))):
        if (folder / name / part / "manifest.json").exists():
            continue
        random = np.random.default_rng(seed)
        sizes, starts = random.integers(5, 60, documents), random.integers(0, VOCABULARY, documents)
        texts = [(start + np.cumsum(random.integers(1, 9, size))) % (VOCABULARY - 1) + 1 for start, size in zip(starts, sizes, strict=True)]
        rows = [(f"{name}-{i}", i / documents, 3 * len(ids), ids) for i, ids in enumerate(texts)]
        write_store(folder / name / part, documents=rows, tokenizer_json=words, vocabulary=VOCABULARY, eod=0)


def digest(tokens: np.ndarray) -> str:
    """What a row int[L + 1] is known by."""
    return hashlib.blake2b(np.ascontiguousarray(tokens, np.int32).tobytes(), digest_size=8).hexdigest()


def sequences(folder: Path) -> dict[str, str]:
    """digest -> "source/sequence" of every sequence of the training stores; no two are alike."""
    found = {}
    for name in NAMES:
        store = open_store(folder / name / "train")
        tokens = store.read(0, store.tokens)
        for j in range(store.sequences(LENGTH)):
            found[digest(tokens[j * LENGTH : (j + 1) * LENGTH + 1])] = f"{name}/{j}"
    assert len(found) == sum(open_store(folder / name / "train").sequences(LENGTH) for name in NAMES)
    return found
