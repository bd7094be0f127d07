"""The typed description of one experiment.

An experiment is one tree of dataclasses. A file in `configs/` returns it, flags such as `--config.schedule.peak=3e-3` change
single fields, `kaiyuan_jax.config_check.check` looks at it as a whole before any work starts, and the resolved tree is saved as
`config.json` beside the run, from which it can be run again (`--config=configs/saved.py:runs/x/config.json`).

Units: tokens, steps and rows (one row is one training sequence) are counts; learning rates are absolute, never ratios; shares,
windows and quantiles are fractions of *token mass* in [0, 1], with 0 the worst and 1 the best text of a source.

Defaults marked "ours" have no published counterpart in the Kaiyuan-2B recipe (arXiv 2512.07612).
"""

import dataclasses
import difflib
import json
import reprlib
import types
import typing
from pathlib import Path

from kaiyuan_jax import json_text


class UserError(ValueError):
    """A mistake its reader can mend: the message says where, what was found, what is allowed and what to do.

    The launch scripts print it as plain lines, without a traceback, and exit with code 2.
    """


class ConfigError(UserError):
    """A description of an experiment that cannot be run."""


def _settings(cls):
    # Fields are plain attributes (not frozen) because the config flags set them one by one before the check.
    return dataclasses.dataclass(kw_only=True)(cls)


@_settings
class Model:
    """A decoder of the Qwen3 family with sandwich norm and capped logits (Kaiyuan-2B, section 1)."""

    layers: int = 4
    width: int = 128  # D, size of the residual stream
    feedforward: int = 384  # F, inner width of SwiGLU
    heads: int = 4  # H, query heads
    kv_heads: int = 2  # K, key/value heads; divides `heads`
    head_size: int = 32  # C; even, because RoPE rotates pairs
    vocabulary: int = 4096  # V; at least the tokenizer's size
    tied: bool = False  # the output head shares the embedding
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-6  # ours
    qk_norm: bool = True  # RMSNorm per head on queries and keys, before RoPE
    sandwich_norm: bool = True  # a second norm on each sub-layer's output, inside the residual branch
    post_norm_gain: float = 1.0  # initial gain of that second norm (ours)
    logit_softcap: float = 30.0  # c in c tanh(logits / c); 0 turns it off (value ours)
    attention_softcap: float = 0.0  # the same on attention scores, before the mask; 0: none, as published
    window: int = 0  # a query sees its newest keys only, itself among them; 0: all before it
    init_std: float = 0.02  # ours
    remat: str = "none"  # none | full | names: what the backward pass recomputes
    remat_names: tuple[str, ...] = ("attention_out", "feedforward_in")  # tensors kept when remat is "names"


@_settings
class Source:
    """One quality-sorted store, by name."""

    name: str = ""
    path: str = ""  # folder of the training store
    heldout: str = ""  # folder of the held-out store; empty: not evaluated
    domain: str = ""  # what kind of text it counts for in the plan's shares and `Data.domain_limits`, in one word such as "english"
    quality: str = ""  # field of the raw text that sorts the store (prepare_data.py --quality_field); "none": unscored; empty: not said
    precut: float = 1.0  # share of its corpus that the store holds: the best by quality, cut before the text was prepared
    planned_tokens: int = 0  # size to plan with while the store is not on this machine; 0: the store must exist
    planned_from: str = ""  # where that size is from: public | inferred | ours (unknown, an assumption); empty: not said


@_settings
class Use:
    """What a phase takes of one source: a window of quality, and how often."""

    source: str = ""
    window: tuple[float, float] = (0.0, 1.0)  # quality quantiles by token mass, worst 0 to best 1
    passes: float = 1.0  # how often the window may be read; the fraction is a seeded choice of sequences
    share: float = 0.0  # of the phase's tokens; 0: take every pass allowed
    temperature: float = 0.0  # above 0: better text is read more densely (data/sampling.py), small: the best alone, large: all alike
    order: str = ""  # overrides the phase's order for this source


@_settings
class Phase:
    """A stretch of training with one mixture and one order."""

    name: str = "main"
    uses: list[Use] = dataclasses.field(default_factory=list)
    order: str = "uniform"  # uniform | ascending | descending | folded
    folds: int = 3  # rounds of the folded order
    tokens: int = 0  # budget; 0: everything the uses give. A smaller budget thins every source evenly
    shuffle_window: int = 0  # rows; 0: keep the order exactly, else a seeded shuffle inside windows of so many rows


@_settings
class DomainLimit:
    """What share of every phase's tokens may come from the sources of one domain; a plan that breaks it is warned about."""

    domain: str = ""
    at_least: float = 0.0
    at_most: float = 1.0


@_settings
class Data:
    """Where text comes from and in which order it is seen."""

    sources: list[Source] = dataclasses.field(default_factory=list)
    phases: list[Phase] = dataclasses.field(default_factory=list)
    domain_limits: list[DomainLimit] = dataclasses.field(default_factory=list)
    sequence_length: int = 128  # L, tokens a row
    batch_size: int = 32  # B, rows a step, over all hosts
    mask_documents: bool = False  # attention and positions stay inside a document
    prefetch: int = 8  # batches read ahead on each host
    verify_tokens: int = 1_000_000_000  # training first reads stores up to this size whole and compares checksums (about 3 s)
    seed: int = 0  # of the order; apart from Experiment.seed so that initialisation and order vary alone


@_settings
class Piece:
    """One stretch of a piecewise schedule."""

    fraction: float = 1.0  # of the steps after warm-up
    begin: float = 3e-3
    end: float = 3e-3
    shape: str = "linear"


@_settings
class Schedule:
    """The learning rate as a function of the step."""

    kind: str = "wsd"  # constant | cosine | wsd | wsd_s | wsdc | power | piecewise | file
    peak: float = 3e-3
    end: float = 1e-5  # rate at the last step of a decay
    warmup: int = 100  # steps, linear from 0
    decay: float = 0.2  # share of all steps spent decaying (of each cycle for wsd_s)
    shape: str = "sqrt"  # linear | cosine | sqrt | sqrt_cube | square | exponential | inverse
    cycles: int = 1  # wsd_s: equal cycles, each continuing from the decayed weights
    rewarmup: float = 0.0  # wsd_s: share of a cycle that climbs back to the peak
    tail: float = 0.1  # wsdc: share of all steps held at `end` after the decay
    power_scale: float = 4.6  # power: a in min(peak, batch a tokens^b)
    power_exponent: float = -0.51  # power: b
    pieces: list[Piece] = dataclasses.field(default_factory=list)  # piecewise only
    path: str = ""  # file: a schedule.json (launch/design_schedule.py) or a CSV with columns step,lr; it decides every rate
    law: str = ""  # a law.json (launch/fit_law.py) to forecast the loss with, whatever the kind; empty: the one inside `path`, if any


@_settings
class Optimizer:
    """AdamW with a decay mask and clipping by global norm (all ours)."""

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    decay_embeddings: bool = False  # matrices always decay, gains never; embeddings and head as this says
    clip_norm: float = 1.0  # 0 turns clipping off
    z_loss: float = 0.0  # weight of mean(logsumexp^2)
    accumulation: int = 1  # micro-batches a step; divides the batch


@_settings
class Precision:
    """Dtypes, and in float16 the dynamic loss scale (optimizers/loss_scale.py); its numbers are ours, the recipe's are not published."""

    compute: str = "float32"  # float32 | bfloat16 | float16: matrix products and activations; reductions are always float32
    parameters: str = "float32"  # float32 | bfloat16, of optimizer moments too
    loss_scale: float = 65536.0  # float16 only, as the rest: factor of the objective at the first step
    growth_interval: int = 2000  # finite steps in a row after which the scale grows
    scale_factor: float = 2.0  # by which it grows, and shrinks after a gradient that is not finite
    scale_floor: float = 1.0  # a gradient that is not finite although the scale came down to this stops the run


@_settings
class Kernels:
    """Which implementation of an op runs; empty: the best one for the kind of device."""

    attention: str = ""
    cross_entropy: str = ""


@_settings
class Mesh:
    """Devices along each axis; one axis may be -1 for "all that are left"."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    context: int = 1  # cuts the positions of a row: every device attends from its own, to keys gathered from all


@_settings
class Checkpoint:
    """What is kept of a run while it runs; never less than averaging needs (all ours)."""

    every: int = 100  # steps; the last step is always saved
    keep: int = 8  # newest checkpoints kept, of those at multiples of `every`; beside them the newest two of any step
    keep_steps: tuple[int, ...] = ()  # checkpoints that are never deleted, for runs that branch off them
    local: str = ""  # folder on every host's own disk or memory (/dev/shm/x) for copies between checkpoints, restored first; empty: none
    local_every: int = 0  # steps between these copies; 0: none
    grace: float = 30.0  # seconds that a preemption leaves to save and exit


@_settings
class Health:
    """What a run does when it stands still or diverges (all ours)."""

    timeout: float = 1800.0  # seconds without a step, save or evaluation after which stacks are written and the process ends; 0: never
    divergence: str = "stop"  # stop | skip (this update is left out) | back_off (to the last good checkpoint, batches since left out)
    spike: float = 0.0  # a loss above so many times the median of recent steps counts as divergence too; 0: only what is not finite
    limit: int = 20  # divergences in a run, after which the next one stops it all the same


@_settings
class Averaging:
    """The weight average made of the last checkpoints, and an optional running one inside the train state."""

    kind: str = "none"  # none | sma | ema | ema_seeded | ema_powers | wma | weights
    last: int = 6  # checkpoints in the window (2511.18903: 6; Kaiyuan-2B: 8)
    alpha: float = 0.2  # of the EMA readings
    shape: str = "sqrt"  # wma: the decay shape it emulates
    weights: tuple[float, ...] = ()  # kind "weights": newest first
    online_decay: float = 0.0  # per-step EMA kept in the train state; 0 turns it off
    online_every: int = 0  # steps between the points of the average above when it is made in the train state instead; 0: it is not


@_settings
class Evaluation:
    every: int = 0  # steps between held-out losses during training; 0: only at the end
    rows: int = 128  # held-out sequences per source, spread evenly over quality
    batch_size: int = 32
    quantiles: int = 5
    bootstrap: int = 1000  # resamples of documents for each interval
    questions: int = 100  # next-passage questions per source
    choices: int = 4
    context: int = 64  # tokens shown before the choices
    continuation: int = 32  # tokens of each choice
    samples: int = 1  # continuations sampled per source
    sample_tokens: int = 48
    temperature: float = 0.8


@_settings
class Logging:
    every: int = 10  # steps
    tensorboard: bool = True
    statistics: bool = False  # largest absolute values by layer and what is left below float16's; always on when compute is float16


@_settings
class Experiment:
    """One experiment: everything that decides what is trained, and nothing about where it runs but the mesh."""

    name: str = "experiment"
    output: str = ""  # run folder; empty: runs/<name>
    start: str = ""  # a checkpoint whose weights (and moments) this run begins with, with a data order, length and schedule of its own
    branch: str = ""  # a checkpoint of another run to go on from, such as runs/x/checkpoints/400: only the rates after it may differ
    seed: int = 0  # of the initialisation
    model: Model = dataclasses.field(default_factory=Model)
    data: Data = dataclasses.field(default_factory=Data)
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    precision: Precision = dataclasses.field(default_factory=Precision)
    kernels: Kernels = dataclasses.field(default_factory=Kernels)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    health: Health = dataclasses.field(default_factory=Health)
    averaging: Averaging = dataclasses.field(default_factory=Averaging)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    logging: Logging = dataclasses.field(default_factory=Logging)

    @property
    def folder(self) -> str:
        return self.output or f"runs/{self.name}"


def to_json(experiment: Experiment) -> str:
    """The whole tree as indented JSON with a stable field order; `from_json` is its inverse."""
    return json.dumps(dataclasses.asdict(experiment), indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> Experiment:
    """Rebuilds an experiment; a field that does not exist or has another type raises `ConfigError`."""
    try:
        return _build(Experiment, json_text.parse(text), "config")
    except json_text.JSONError as error:
        raise ConfigError(f"saved config: not JSON ({error})") from None


def read(path: str | Path) -> Experiment:
    """The experiment of a saved config.json, the name of a local file or a path object such as `storage.path` gives.

    Files that it names and that lie beside it, as in a run folder, are taken from there.

    Raises `ConfigError` for a file that is missing or holds no experiment.
    """
    try:
        experiment = _build(Experiment, json_text.read(path), "config")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the config.json of a run folder") from None
    except json_text.JSONError as error:
        raise ConfigError(f"{path}: not JSON ({error}); give the config.json of a run folder") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    for field, name in kept_files(experiment.schedule).items():
        if (beside := (Path(path) if isinstance(path, str) else path).parent / name).is_file():
            setattr(experiment.schedule, field, str(beside))
    return experiment


def kept_files(schedule: Schedule) -> dict[str, str]:
    """Field of the schedule that names a file -> the name under which the run folder keeps a copy of it."""
    names = {"path": f"schedule{Path(schedule.path).suffix.lower()}", "law": "law.json"}
    return {field: name for field, name in names.items() if getattr(schedule, field)}


def _build(kind, value, path: str):
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: found {reprlib.repr(value)}, must be a table of the fields of {kind.__name__}")
        hints = typing.get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise ConfigError(f"{path}.{unknown[0]}: {unknown_field(unknown[0], kind)}")
        return kind(**{name: _build(hints[name], item, f"{path}.{name}") for name, item in value.items()})
    if origin is list and isinstance(value, list):
        (inner,) = typing.get_args(kind)
        return [_build(inner, item, f"{path}[{i}]") for i, item in enumerate(value)]
    value = tuple(value) if origin is tuple and isinstance(value, list) else value
    if not has_type(value, kind):
        raise ConfigError(f"{path}: {not_of_type(value, kind)}")
    return value


def not_of_type(value, kind) -> str:
    """What was found and which type it must have, of a value whatever it is."""
    said = str(kind).replace("kaiyuan_jax.config.", "") if typing.get_args(kind) else getattr(kind, "__name__", str(kind))
    return f"found {reprlib.repr(value)} of type {type(value).__name__}, must be {said}"


def unknown_field(name: str, owner: type) -> str:
    """One line that says a field does not exist and which ones are near."""
    fields = [field.name for field in dataclasses.fields(owner)]
    near = difflib.get_close_matches(name, fields, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"its fields are {', '.join(fields)}"
    return f"unknown field {name!r} of {owner.__name__}; {hint}"


def has_type(value, kind) -> bool:
    """Whether a value is of an annotated type; an int passes for a float, a bool never passes for a number."""
    origin = typing.get_origin(kind)
    if origin is typing.Union or origin is types.UnionType:
        return any(has_type(value, option) for option in typing.get_args(kind))
    if origin is list:
        return isinstance(value, list) and all(has_type(item, typing.get_args(kind)[0]) for item in value)
    if origin is tuple:
        inner = typing.get_args(kind)
        if not isinstance(value, tuple):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(has_type(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(map(has_type, value, inner))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
