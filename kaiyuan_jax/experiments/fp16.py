"""Does the recipe keep a deep model inside float16? The same runs with each of its three measures taken away in turn.

A deep narrow decoder at high rates, in float16 with dynamic loss scaling and float32 master weights: with QK-norm, sandwich norm and the
soft-cap (Kaiyuan-2B, section 1.4), without one of them, and without all three; and in float32 with all and with none of them, which tells
what float16 adds from what the rate does anyway. Runs of one seed see the same text in the same order.

What is counted for each run: updates skipped because the gradient was not finite, those of them whose loss was not finite either (the
forward pass overflowed), the largest finite value of every tensor, whether the run stopped because no loss scale helped which tensor of
which layer overflowed first in its last step, the loss at its end, and the seconds of training by the run's own clock.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

from kaiyuan_jax import config as c
from kaiyuan_jax import files
from kaiyuan_jax.experiments import curves

SOURCES = {"prose": 0.3, "code": 0.3, "math": 0.2, "chinese": 0.2}  # as in configs/quickstart.py
END = 0.1  # share of a run's metrics lines that its final loss is the mean of
SPIKE = 0.5  # nats above its own lowest line at which a run that came to its end is said to have diverged

# name -> (compute dtype, fields of the model that differ from the recipe)
WITHOUT = {"qk_norm": {"qk_norm": False}, "sandwich_norm": {"sandwich_norm": False}, "softcap": {"logit_softcap": 0.0}}
NONE = {name: value for fields in WITHOUT.values() for name, value in fields.items()}
VARIANTS: dict[str, tuple[str, dict]] = {
    "recipe": ("float16", {}),
    "no_qk_norm": ("float16", WITHOUT["qk_norm"]),
    "no_sandwich_norm": ("float16", WITHOUT["sandwich_norm"]),
    "no_softcap": ("float16", WITHOUT["softcap"]),
    "none": ("float16", NONE),
    "recipe_float32": ("float32", {}),
    "none_float32": ("float32", NONE),
}


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the study is: lengths in steps, rows and tokens."""

    steps: int = 120
    warmup: int = 20
    batch_size: int = 4
    sequence_length: int = 64
    every: int = 4  # steps between metrics lines
    growth_interval: int = 20  # of the loss scale: the default of 2,000 steps would be longer than the run
    model: c.Model = dataclasses.field(
        default_factory=lambda: c.Model(layers=24, width=64, feedforward=192, heads=2, kv_heads=1, head_size=32, vocabulary=2048)
    )


# Large enough for every stage to run for real, too small to mean anything.
QUICK = Size(
    steps=8, warmup=2, batch_size=4, sequence_length=16, every=2, growth_interval=4,
    model=c.Model(layers=2, width=16, feedforward=32, heads=2, kv_heads=1, head_size=8, vocabulary=2048),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Study:
    size: Size
    seeds: int
    store: str  # folder of the quickstart's stores, or of one training store
    output: str
    peaks: tuple[float, ...] = (1e-1,)  # learning rates, constant after the warm-up; the usual one of so small a model is 3e-3

    @property
    def folder(self) -> Path:
        return Path(self.output)

    def runs(self) -> list["Run"]:
        """Every run, all variants of a rate and seed before the next."""
        return [Run(name, peak, seed, self) for peak in self.peaks for seed in range(self.seeds) for name in VARIANTS]


@dataclasses.dataclass(frozen=True)
class Run:
    variant: str
    peak: float
    seed: int
    study: Study

    @property
    def folder(self) -> Path:
        return self.study.folder / "runs" / f"{self.variant}_rate{self.peak:g}_seed{self.seed}"

    @property
    def stopped(self) -> Path | None:
        """What the run wrote when no loss scale helped, or None."""
        return next(iter(sorted(self.folder.glob("diverged_*.json"))), None)

    @property
    def done(self) -> bool:
        lines = curves.lines(self.folder)
        return bool(self.stopped or (lines and lines[-1]["step"] == self.study.size.steps))

    def experiment(self) -> c.Experiment:
        size, (compute, fields) = self.study.size, VARIANTS[self.variant]
        return c.Experiment(
            name=self.folder.name,
            output=str(self.folder),
            seed=self.seed,
            model=dataclasses.replace(size.model, **fields),
            data=c.Data(
                sources=[c.Source(name=name, path=str(path)) for name, path in sources(self.study.store).items()],
                phases=[c.Phase(tokens=size.steps * size.batch_size * size.sequence_length, uses=_uses(self.study.store))],
                sequence_length=size.sequence_length,
                batch_size=size.batch_size,
                seed=self.seed,
            ),
            schedule=c.Schedule(kind="constant", peak=self.peak, warmup=size.warmup),
            precision=c.Precision(compute=compute, growth_interval=size.growth_interval),
            checkpoint=c.Checkpoint(every=size.steps, keep=1),
            evaluation=c.Evaluation(questions=0),
            logging=c.Logging(every=size.every, tensorboard=False, statistics=True),
        )


def sources(store: str) -> dict[str, Path]:
    """Name -> training store: the four of a quickstart folder, or the one that `store` is. Raises UserError where neither is there."""
    folder = Path(store)
    if (folder / "manifest.json").is_file():
        return {"text": folder}
    found = {name: folder / name / "train" for name in SOURCES}
    if missing := [path for path in found.values() if not path.is_dir()]:
        raise c.UserError(
            f"--store: {missing[0]} does not exist; give a training store, or prepare the quickstart's: "
            f"python launch/prepare_quickstart.py --output={store}"
        )
    return found


def _uses(store: str) -> list[c.Use]:
    names = sources(store)
    return [c.Use(source=name, share=SOURCES[name] if len(names) > 1 else 1.0) for name in names]


def train(run: Run) -> str:
    """Trains a run to its end or until it stops because its numbers are not finite; says which. What was done before is not done again."""
    import jax

    from kaiyuan_jax.training import failure, loop

    if run.done:
        return "done before"
    try:
        result = loop.train(run.experiment(), devices=jax.devices()[:1])
    except failure.DivergedError as error:
        return str(error).splitlines()[0]
    if not result.finished:
        raise c.UserError(f"{run.folder}: stopped at step {result.step} of {result.steps}; the same command goes on from there")
    return f"{result.steps} steps"


def collect(study: Study) -> Path:
    """Writes results.json: the facts and the curves of every run that is done. Returns its path."""
    size = dataclasses.asdict(study.size)
    runs = [measured(run) for run in study.runs() if run.done]
    path = study.folder / "results.json"
    files.replace(path, json.dumps({"size": size, "seeds": study.seeds, "runs": runs}, indent=1) + "\n")
    return path


def measured(run: Run) -> dict:
    """What one run showed: its facts, and by metrics line its loss, headroom, loss scale and largest values."""
    lines = curves.lines(run.folder)
    last = lines[-1] if lines else {}  # none where the run stopped before its first line
    losses = [line["loss"] for line in lines if line.get("loss") is not None and math.isfinite(line["loss"])]
    stopped = json.loads(run.stopped.read_text()) if run.stopped else None
    final = mean(losses[-max(1, round(END * len(losses))) :])
    tensors = [key.removeprefix("largest/") for key in last if key.startswith("largest/")]
    return {
        "variant": run.variant,
        "peak": run.peak,
        "seed": run.seed,
        "stopped": stopped["step"] if stopped else None,
        "skipped": stopped.get("skipped", 0) if stopped else last.get("skipped", 0),
        "nonfinite_loss": stopped.get("nonfinite_loss", 0) if stopped else last.get("nonfinite_loss", 0),
        "final_loss": None if stopped else final,
        "seconds": last.get("seconds", 0.0),
        "diverged": bool(stopped) or final > min(losses) + SPIKE,
        "headroom": min((line["headroom"] for line in lines if line.get("headroom") is not None), default=0.0),
        "largest": {name: max((v for line in lines if (v := line[f"largest/{name}"]) is not None), default=None) for name in tensors},
        "overflowed": first_overflow(stopped["largest_by_layer"]) if stopped else None,
        "by_layer": {name: last.get(f"largest_by_layer/{name}") for name in tensors},
        "curves": {
            name: [line.get(name) for line in lines]
            for name in ("step", "loss", "headroom", "loss_scale", "skipped", *(f"largest/{tensor}" for tensor in tensors))
        },
    }


def first_overflow(by_layer: dict[str, list[float | None]]) -> str | None:
    """`layer 3: feedforward`, the first tensor in the order of computation that was not finite (None) in a step; None if all were."""
    order = ("query", "key", "value", "attention", "gated", "feedforward", "residual")
    for layer in range(len(by_layer["residual"])):
        for name in order:
            if by_layer[name][layer] is None:
                return f"layer {layer}: {name}"
    return None


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
