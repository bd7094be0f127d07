"""The study of learning-rate schedules: which runs it has, and the experiment of each.

One model, one peak, one data order a seed; runs of a seed differ in the schedule alone, so their differences are paired. A law sees three
schedules, those of 2503.12811: a cosine to a tenth of the peak, a constant rate, two stages (the peak, then 0.3 of it from half of the run
on). It predicts all others: WSD with a 1-sqrt decay of two lengths and WSD-S of two cycles, both unlike anything it saw, and cosines to
other end rates. The schedule that is then designed with it has to beat the cosines and the WSDs of three end rates each.

The loss of a curve is the held-out loss of a small fixed sample, every `every` steps. A training loss would be free, but it is read on
other text at every point and with other weights at every step: measured on a constant run, it jumps from point to point twice as far.
"""

import dataclasses
import math
from pathlib import Path

from kaiyuan_jax import config as c
from kaiyuan_jax.experiments.runs import Run

SOURCES = {"prose": 0.3, "code": 0.3, "math": 0.2, "chinese": 0.2}  # share of the training tokens, as in configs/quickstart.py
# End rates as fractions of the peak, 2 for a half. In so short a run a cosine loses more by its low rates than it gains: a third is better
# than a tenth, so a half is what its tuning needs to look at, not a hundredth.
COSINE_ENDS, WSD_ENDS = (2, 3, 10), (3, 10, 100)
DECAYS = (10, 20)  # percent of all steps that WSD decays
TRUNK, DESIGNED = "constant", "designed"
TRAIN = ("constant", "cosine_to_10", "two_stage")
TEST = ("wsd20_to_10", "wsd_s")  # the shapes a law has not seen; the other baselines are predicted too
BASELINE = "cosine_to_10"  # what gaps are measured to


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the study is; learning rates are absolute, lengths in steps, rows and tokens."""

    steps: int = 480
    warmup: int = 24
    peak: float = 3e-3
    batch_size: int = 16
    sequence_length: int = 64
    every: int = 16  # steps between held-out losses
    first: int = 128  # updates before the first point that a law is fitted to or judged by
    rows: int = 32  # held-out sequences a source for a point of a curve
    final_rows: int = 256  # and for the comparison of the final models
    save: int = 48  # steps between the constant run's checkpoints, where others branch off
    starts: int = 32  # random starts of the fits of other laws
    cosine_ends: tuple[int, ...] = COSINE_ENDS
    wsd_ends: tuple[int, ...] = WSD_ENDS
    decays: tuple[int, ...] = DECAYS
    model: c.Model = dataclasses.field(
        default_factory=lambda: c.Model(layers=4, width=128, feedforward=384, heads=4, kv_heads=2, head_size=32, vocabulary=2048)
    )


# Large enough for every stage to run for real, too small to mean anything.
QUICK = Size(
    steps=40, warmup=4, batch_size=4, sequence_length=16, every=4, first=8, rows=4, final_rows=16, save=16, starts=2,
    cosine_ends=(10,), wsd_ends=(10,), decays=(20,),
    model=c.Model(layers=1, width=16, feedforward=32, heads=2, kv_heads=1, head_size=8, vocabulary=2048),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Study:
    """A size, how often it is repeated, and where it lives."""

    size: Size
    seeds: int
    stores: str
    output: str

    @property
    def folder(self) -> Path:
        return Path(self.output)

    def run(self, name: str, schedule: c.Schedule, seed: int) -> Run:
        trunk = "" if name == TRUNK else f"{self.output}/runs/{TRUNK}_seed{seed}"
        return Run(name, seed, experiment(name, schedule, seed, self.size, stores=self.stores, output=self.output), trunk)

    def runs(self) -> list[Run]:
        """Every run that is known before a law is fitted, the training curves first."""
        found = schedules(self.size)
        names = sorted(found, key=lambda name: (name not in TRAIN, name not in TEST))
        return [self.run(name, found[name], seed) for name in names for seed in range(self.seeds)]

    def designed(self) -> list[Run]:
        """The runs of the designed schedule, once `schedule.json` is there."""
        schedule = c.Schedule(kind="file", path=str(self.folder / "schedule.json"), peak=self.size.peak, warmup=self.size.warmup)
        return [self.run(DESIGNED, schedule, seed) for seed in range(self.seeds)]


def schedules(size: Size) -> dict[str, c.Schedule]:
    """Every schedule known before a law is fitted, by name."""
    common = dict(peak=size.peak, warmup=size.warmup)
    half = (size.steps // 2 - size.warmup) / (size.steps - size.warmup)  # the second stage begins at half of all steps
    low = 0.3 * size.peak
    stages = [c.Piece(fraction=half, begin=size.peak, end=size.peak), c.Piece(fraction=1 - half, begin=low, end=low)]
    found = {
        "constant": c.Schedule(kind="constant", **common),
        "two_stage": c.Schedule(kind="piecewise", pieces=stages, **common),
        "wsd_s": c.Schedule(kind="wsd_s", cycles=2, decay=0.2, end=size.peak / 10, shape="sqrt", **common),
    }
    for end in size.cosine_ends:
        found[f"cosine_to_{end}"] = c.Schedule(kind="cosine", end=size.peak / end, **common)
    for end in size.wsd_ends:
        for decay in size.decays:
            found[f"wsd{decay}_to_{end}"] = c.Schedule(kind="wsd", decay=decay / 100, end=size.peak / end, shape="sqrt", **common)
    return found


def families(size: Size) -> dict[str, list[str]]:
    """The baselines by family; each is tuned over what it lists."""
    return {
        "cosine": [f"cosine_to_{end}" for end in size.cosine_ends],
        "WSD": [f"wsd{decay}_to_{end}" for decay in size.decays for end in size.wsd_ends],
    }


def label(name: str) -> str:
    """A run's schedule in words; end rates as fractions of the peak."""
    shape, _, end = name.partition("_to_")
    if not end:
        return {"two_stage": "two stages", "wsd_s": "WSD-S, two cycles"}.get(name, name)
    return f"{'cosine' if shape == 'cosine' else f'WSD {shape[3:]}%'} to 1/{end}"


def experiment(name: str, schedule: c.Schedule, seed: int, size: Size, *, stores: str, output: str) -> c.Experiment:
    """The experiment of one run; `name` without the seed."""
    return c.Experiment(
        name=f"{name}_seed{seed}",
        output=f"{output}/runs/{name}_seed{seed}",
        seed=seed,
        model=size.model,
        data=c.Data(
            sources=[c.Source(name=source, path=f"{stores}/{source}/train", heldout=f"{stores}/{source}/heldout") for source in SOURCES],
            phases=[
                c.Phase(
                    order="uniform",
                    tokens=size.steps * size.batch_size * size.sequence_length,
                    uses=[c.Use(source=source, share=share) for source, share in SOURCES.items()],
                )
            ],
            sequence_length=size.sequence_length,
            batch_size=size.batch_size,
            seed=seed,
        ),
        schedule=schedule,
        checkpoint=c.Checkpoint(every=size.save, keep=size.steps // size.save if name == TRUNK else 1),
        evaluation=c.Evaluation(every=size.every, rows=size.rows, questions=0),
        logging=c.Logging(every=size.every, tensorboard=False),
    )


def sized(size: Size, steps: int) -> Size:
    """A size with other steps, in which everything that counts steps keeps its share. 0 steps: as it is.

    Raises UserError unless the checkpoints that the schedules branch off at fall on whole steps.
    """
    if not steps:
        return size
    scaled = {name: getattr(size, name) * steps / size.steps for name in ("warmup", "every", "first", "save")}
    if any(value != int(value) for value in scaled.values()):
        unit = size.steps // math.gcd(*(getattr(size, name) for name in scaled))
        raise c.UserError(f"--steps: found {steps}, must be a multiple of {unit}, so that points and checkpoints fall on whole steps")
    return dataclasses.replace(size, steps=steps, **{name: int(value) for name, value in scaled.items()})
