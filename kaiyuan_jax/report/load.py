"""Reads run folders into what the report needs, and finds out which runs are repeats of one recipe.

A recipe is everything that decides what is trained but the two seeds (initialisation, data order). Runs that share it differ by chance
alone, and the spread between them is the yardstick for every other difference.
"""

import dataclasses
import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np

from kaiyuan_jax import config, json_text, storage
from kaiyuan_jax.schedules import file

LARGEST = 1 << 30  # bytes of the arrays of an evaluation
FINAL = "final"  # the newest checkpoint that was evaluated


@dataclasses.dataclass(frozen=True)
class Model:
    """One evaluated set of parameters of a run."""

    run: str
    kind: str  # "final", or the name of an average
    label: str  # "final checkpoint", "EMA of 6 checkpoints"
    step: int
    result: dict  # evaluation/<name>.json
    arrays: dict[str, np.ndarray]  # evaluation/<name>.npz

    @property
    def bits(self) -> float:
        """Held-out bits per byte, mean over sources."""
        return self.result["mean"]["bits_per_byte"]


@dataclasses.dataclass(frozen=True)
class Run:
    name: str  # of the folder
    folder: Path
    experiment: config.Experiment
    training: list[dict]  # lines of metrics.jsonl with a training loss, by step
    heldout: list[dict]  # lines with held-out losses
    models: tuple[Model, ...]  # the final checkpoint first
    averages: dict[str, list[int]]  # name -> steps averaged, ascending
    settings: dict[str, tuple[str, int]]  # name of an average -> its kind and how many checkpoints
    recipe: str = ""  # label, set by `load`

    @property
    def seeds(self) -> tuple[int, int]:
        return self.experiment.seed, self.experiment.data.seed

    @property
    def tokens_per_step(self) -> int:
        return self.experiment.data.batch_size * self.experiment.data.sequence_length

    @property
    def steps(self) -> int:
        return self.training[-1]["step"] if self.training else 0

    @property
    def tokens(self) -> int:
        return self.steps * self.tokens_per_step

    def model(self, kind: str) -> Model | None:
        return next((model for model in self.models if model.kind == kind), None)

    @property
    def chosen(self) -> Model | None:
        """What this recipe would ship: its average where the config asks for one and it was evaluated, else the final checkpoint."""
        averaged = [model for model in self.models if model.kind != FINAL]
        wanted = self.experiment.averaging
        same = [model for model in averaged if self.settings.get(model.kind) == (wanted.kind, wanted.last)]
        matching = same or averaged
        return matching[0] if wanted.kind != "none" and matching else self.model(FINAL)

    @property
    def end_rate(self) -> float:
        """Learning rate of the last update that was logged."""
        return self.training[-1]["learning_rate"] if self.training else self.experiment.schedule.end


def load(folders) -> list[Run]:
    """All runs, in the order given, with their recipes labelled. Raises UserError for a folder that is not a run."""
    runs = [_load_run(storage.path(folder)) for folder in folders]
    if len({run.name for run in runs}) < len(runs):
        raise config.UserError(f"--runs: found two runs of one name among {', '.join(r.name for r in runs)}; the report tells them by name")
    labels = recipe_labels([run.experiment for run in runs])
    return [dataclasses.replace(run, recipe=label) for run, label in zip(runs, labels, strict=True)]


def recipes(runs: list[Run]) -> dict[str, list[Run]]:
    """Recipe label -> its runs, in order of first appearance."""
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(run.recipe, []).append(run)
    return grouped


def _load_run(folder: Path) -> Run:
    if not (folder / "config.json").is_file():
        raise config.UserError(f"--runs: {folder} holds no config.json, must be the folder of a run (launch/train.py makes one)")
    lines, facts = metrics(folder / "metrics.jsonl"), _average_facts(folder)
    return Run(
        name=folder.resolve().name,
        folder=folder,
        experiment=config.read(folder / "config.json"),
        training=[line for line in lines if "loss" in line],
        heldout=[line for line in lines if any(key.startswith("heldout/") for key in line)],
        models=_models(folder, facts),
        averages={name: sorted(fact["steps"]) for name, fact in facts.items()},
        settings={name: (fact["averaging"]["kind"], len(fact["steps"])) for name, fact in facts.items() if "averaging" in fact},
    )


def metrics(path: Path) -> list[dict]:
    """Lines by step. A line cut short by a crash is skipped; of lines repeated after a resume the newest counts."""
    merged: dict[tuple[int, bool], dict] = {}
    if path.is_file():
        for text in storage.read(path).decode(errors="replace").splitlines():
            try:
                line = json_text.parse(text)
            except json_text.JSONError:
                continue
            if isinstance(line, dict) and config.has_type(line.get("step"), int):
                merged[line["step"], not any(key.startswith("heldout/") for key in line)] = line
    return [merged[key] for key in sorted(merged)]


def _models(folder: Path, facts: dict[str, dict]) -> tuple[Model, ...]:
    """The newest evaluated checkpoint, then the averages by name."""
    finals, averages = [], []
    for path in [folder / "evaluation" / name for name in storage.names(folder / "evaluation") if name.endswith(".json")]:
        result, arrays = evaluation(path)
        name, run, step = result["model"], folder.resolve().name, result["step"]
        if name.startswith("checkpoint_"):
            finals.append(Model(run, FINAL, "final checkpoint", step, result, arrays))
        else:
            averages.append(Model(run, name, average_label(name, facts.get(name, {})), step, result, arrays))
    return (*sorted(finals, key=lambda model: model.step)[-1:], *averages)


def evaluation(path) -> tuple[dict, dict[str, np.ndarray]]:
    """What an evaluation/<name>.json and the .npz beside it hold. Raises UserError where launch/evaluate.py did not write them."""
    beside = path.with_suffix(".npz")
    try:
        result, arrays = json_text.read(path), {}
        if not (isinstance(result["model"], str) and config.has_type(result["step"], int)):
            raise ValueError("model must be a name, step a number")
        if beside.is_file():
            content = io.BytesIO(beside.read_bytes())
            with zipfile.ZipFile(content) as packed:
                if (size := sum(member.file_size for member in packed.infolist())) > LARGEST:
                    raise ValueError(f"{beside.name} would unpack to {size:,} bytes")
            arrays = dict(np.load(content, allow_pickle=False))
        return result, arrays
    except Exception as error:  # numpy and zipfile have many of their own
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise config.UserError(f"{path}: is not a result of launch/evaluate.py ({said}); evaluate again, or remove it") from None


def _average_facts(folder: Path) -> dict[str, dict]:
    names = [name for name in storage.names(folder / "averages") if (folder / "averages" / name).is_dir()]
    if not names:
        return {}
    from kaiyuan_jax.training import checkpoint  # imports jax: only where there is something to read

    facts = {name: checkpoint.progress(folder / "averages" / name) for name in names}
    return {name: fact for name, fact in facts.items() if fact.get("steps")}


def average_label(name: str, facts: dict) -> str:
    """`EMA of 6 checkpoints` from what the average recorded about itself; its name where it recorded nothing."""
    if "averaging" not in facts:
        return name
    kind = facts["averaging"]["kind"].upper().replace("_", " ")
    return f"{kind} of {len(facts['steps'])} checkpoints"


# Labels


def recipe_labels(experiments: list[config.Experiment]) -> list[str]:
    """A short name for each experiment's recipe; equal exactly where only the seeds differ. Fields that the short form does not show are
    added where it takes them to tell two recipes apart."""
    flats = [_flat(_recipe(experiment)) for experiment in experiments]
    plain = [short_label(experiment) for experiment in experiments]
    labels = []
    for flat, label in zip(flats, plain, strict=True):
        rivals = [other for other, name in zip(flats, plain, strict=True) if name == label]
        differing = [key for key in flat if len({json.dumps(other.get(key)) for other in rivals}) > 1]
        labels.append(label + "".join(f", {key}={flat[key]}" for key in differing))
    return labels


def short_label(experiment: config.Experiment) -> str:
    """Order and schedule: `ascending, WSD to 1e-3`."""
    schedule = experiment.schedule
    names = {"wsd": "WSD", "wsd_s": "WSD-S", "wsdc": "WSDC"}
    kind = names.get(schedule.kind, schedule.kind)
    rate = f"constant {number(schedule.peak)}" if schedule.kind == "constant" else f"{kind} to {number(schedule.end)}"
    if schedule.kind == "file":
        rate = f"file to {number(file.read(schedule.path).rates[-1])}" if storage.path(schedule.path).is_file() else "file"
    return f"{order_label(experiment)}, {kind if schedule.kind in ('power', 'piecewise') else rate}"


def peak_rate(schedule: config.Schedule) -> float:
    """The highest rate that a schedule names; of one in a file, the highest of the file where it is there."""
    if schedule.kind == "file" and storage.path(schedule.path).is_file():
        return float(file.read(schedule.path).rates.max())
    return schedule.peak


def order_label(experiment: config.Experiment) -> str:
    """`ascending`, or the orders of the phases one after the other."""
    orders = []
    for phase in experiment.data.phases:
        inside = list(dict.fromkeys(use.order or phase.order for use in phase.uses)) or [phase.order]
        orders.append("+".join(inside))
    return " then ".join(order for i, order in enumerate(orders) if i == 0 or orders[i - 1] != order) or "no data"


def number(value: float) -> str:
    """1e-5, 3e-3, 1.2e-4, 0: learning rates as people write them."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _recipe(experiment: config.Experiment) -> dict:
    tree = dataclasses.asdict(experiment)
    for name in ("name", "output", "branch", "seed", "logging", "evaluation", "mesh", "checkpoint"):
        del tree[name]
    del tree["schedule"]["law"]
    if experiment.schedule.kind == "file" and storage.path(experiment.schedule.path).is_file():  # every run folder has its own copy
        found = file.read(experiment.schedule.path)
        tree["schedule"]["path"] = hashlib.sha256(found.knots.tobytes() + found.rates.tobytes()).hexdigest()[:8]
    for part, name in (
        ("data", "seed"), ("data", "prefetch"), ("data", "verify_tokens"),
        ("model", "remat"), ("model", "remat_names"), ("optimizer", "accumulation"),
    ):  # fmt: skip
        del tree[part][name]
    for source in tree["data"]["sources"]:
        del source["heldout"], source["planned_tokens"]
    return tree


def _flat(tree, path: str = "") -> dict:
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, (list, tuple)) and any(isinstance(item, dict) for item in tree):
        items = enumerate(tree)
    else:
        return {path: tree}
    return {key: value for name, item in items for key, value in _flat(item, f"{path}.{name}" if path else str(name)).items()}
