"""Runs that begin with the weights of another: longer rows, other text, another schedule, a larger base of RoPE.

`config.start` names a run, a checkpoint or average inside one (runs/x/checkpoints/400, runs/x/averages/sma), or an imported model
(launch/import_hf.py). The new run takes its weights, and from a checkpoint Adam's moments with their count, which keep their bias
correction; its own steps, rates, data and random numbers begin at 0. So it is another run, with a folder and a history of its own;
to go on with the same data under another schedule is `config.branch`.

The model must be the same function of the same arrays, but for what may be wanted otherwise when rows get longer: the base of RoPE, whose
slowest pair turns by L / base^(1 - 2/C) radians over a row, and the attention window.
"""

import dataclasses

import jax
import optax

from kaiyuan_jax import config, storage
from kaiyuan_jax.config import ConfigError, Experiment
from kaiyuan_jax.data.store import fingerprint
from kaiyuan_jax.training import checkpoint, resume, saved, state

# Fields, as `resume.FREE`: all but the model's, and of those what changes no array.
FREE = (r"(?!model\.).*", r"model\.(rope_base|window|remat|remat_names.*|init_std|post_norm_gain)")


def find(item: str):
    """(run folder, folder of the weights) that `config.start` names. Raises ConfigError saying what is there."""
    path = storage.path(item)
    folder = path.parents[1] if path.parent.name in ("checkpoints", "averages") else path
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"config.start: found {item!r}, must be a run, or checkpoints/STEP or averages/NAME inside one (launch/train.py, import_hf.py)"
        )
    if path == folder:
        steps, averages = saved.steps(folder / "checkpoints"), storage.names(folder / "averages")
        if not steps and len(averages) != 1:
            raise ConfigError(f"config.start: {item} has no complete checkpoint; name one of its averages: {', '.join(averages) or 'none'}")
        path = folder / "checkpoints" / str(steps[-1]) if steps else folder / "averages" / averages[0]
    if not (path / saved.COMPLETE).exists():
        raise ConfigError(f"config.start: {path} is not complete; {path.parent} has {', '.join(storage.names(path.parent)) or 'nothing'}")
    return folder, path


def check(experiment: Experiment, tokenizer: str) -> None:
    """Raises ConfigError where a run cannot begin as `config.start` says; tokenizer: the fingerprint of its stores'.

    One line a field of the model that differs. A run that has checkpoints has begun, and asks for nothing.
    """
    if not experiment.start or saved.steps(storage.path(experiment.folder) / "checkpoints"):
        return
    folder, path = find(experiment.start)
    if lines := resume.changes(config.read(folder / "config.json"), experiment, FREE):
        raise ConfigError("\n".join([f"config.start: the model of {folder} is another one than this experiment's", *lines]))
    text = (folder / "tokenizer.json").read_text(encoding="utf-8") if (folder / "tokenizer.json").is_file() else ""
    if fingerprint(text) != tokenizer:
        raise ConfigError(f"config.start: {path} was trained with another tokenizer than that of the stores; prepare them with {folder}'s")


def begin(experiment: Experiment, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh):
    """(state before the first step, a line that says where it is from); every process reads what its own devices hold.

    Raises CheckpointError where arrays have other shapes, DamagedError where they are not what was saved.
    """
    folder, path = find(experiment.start)
    abstract = state.abstract(experiment, optimizer, mesh)
    params = checkpoint.load_parameters(path, abstract.params)
    created = state.create(experiment, mesh, params)
    whence = f"begins with the weights of {path}"
    if (path / "rest").is_dir():
        rest = {"step": abstract.step, "opt_state": abstract.opt_state, "key": abstract.key}
        moments = _adam(checkpoint.load_parameters(path, rest, "rest")["opt_state"])
        parts = tuple(moments if isinstance(part, optax.ScaleByAdamState) else part for part in created.opt_state)
        created, whence = dataclasses.replace(created, opt_state=parts), f"{whence} and its moments"
    before = config.read(folder / "config.json")
    return created, ", ".join(
        [
            whence,
            *_changed("RoPE base", before.model.rope_base, experiment.model.rope_base),
            *_changed("tokens of a row", before.data.sequence_length, experiment.data.sequence_length),
        ]
    )


def _changed(name: str, was: float, now: float) -> list[str]:
    return [f"{name} {was:,g} -> {now:,g}"] if was != now else []


def _adam(opt_state) -> optax.ScaleByAdamState:
    return next(part for part in opt_state if isinstance(part, optax.ScaleByAdamState))
