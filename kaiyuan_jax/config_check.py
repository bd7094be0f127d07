"""Checks an experiment as a whole, before anything runs.

`check` needs nothing but the description: no store, no device. What also needs the stores' sizes (a token budget beyond what
selection and repetition give, an averaging window longer than the run) is checked where sizes are known, in `data/recipe.py` and
`plan/checks.py`, with the same error. Every problem is reported at once, one line each: field, value found, what is allowed.
"""

import dataclasses
import difflib
import math
import reprlib
import typing

from kaiyuan_jax import secrets
from kaiyuan_jax.config import ConfigError, Data, Experiment, has_type, not_of_type

ORDERS = ("uniform", "ascending", "descending", "folded")
SCHEDULES = ("constant", "cosine", "wsd", "wsd_s", "wsdc", "power", "piecewise", "file")
SHAPES = ("linear", "cosine", "sqrt", "sqrt_cube", "square", "exponential", "inverse")
AVERAGES = ("none", "sma", "ema", "ema_seeded", "ema_powers", "wma", "weights")
REMAT = ("none", "full", "names")
# Tensors that the model names. attention_out is the heads' output before its projection; *_in is the residual stream before the norm.
# *_projection and *_branch are what the norms of heads and the sandwich norms read: without them backward makes their products again.
REMAT_NAMES = ("attention_in", "query", "key", "value", "attention_out", "feedforward_in", "gate", "up")
REMAT_NAMES += ("query_projection", "key_projection", "attention_branch", "feedforward_branch")
COMPUTE = ("float32", "bfloat16", "float16")
PARAMETERS = ("float32", "bfloat16")
ATTENTION = ("pallas_tpu", "cudnn", "pallas_gpu", "xla", "reference")  # implementations, each a file of kernels/attention
CROSS_ENTROPY = ("xla", "reference")  # of kernels/cross_entropy
DIVERGENCE = ("stop", "skip", "back_off")
LARGEST = 2**62  # of whole numbers: sums of a few stay in 64 bits
SIZES_FROM = ("", "public", "inferred", "ours")


def check(experiment: Experiment) -> None:
    """Raises one `ConfigError` that lists every problem found; returns nothing when there is none."""
    problems = list(_types(experiment, "config"))
    if not problems:  # values are only looked at once every one has its type
        for part in (_model, _sources, _domain_limits, _data, _schedule, _optimizer, _precision, _run, _recovery, _averaging, _evaluation):
            problems += part(experiment)
    if problems:
        raise ConfigError(secrets.redact("\n".join(problems)))


def _types(value, path: str):
    for name, kind in typing.get_type_hints(type(value)).items():
        item, where = getattr(value, name), f"{path}.{name}"
        if not has_type(item, kind):
            yield f"{where}: {not_of_type(item, kind)}"
        elif dataclasses.is_dataclass(item):
            yield from _types(item, where)
        elif isinstance(item, list):
            for i, inner in enumerate(item):
                yield from _types(inner, f"{where}[{i}]")
        else:
            for one in item if isinstance(item, tuple) else (item,):
                yield from _value(one, where)


def _value(value, where: str):
    """What is wrong with a number or a string wherever it stands."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where}: found {value}, must be a finite number"
    elif isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        yield f"{where}: found {reprlib.repr(value)}, must be at most {LARGEST:,}"
    elif isinstance(value, str) and (kind := secrets.found(value)):
        yield (
            f"{where}: found {secrets.redact(value)!r}, which holds {kind}; it would be saved with the run and printed: take it out, and "
            "give credentials by the environment or the files of the service's own tools"
        )
    elif isinstance(value, str) and not value.isprintable():
        yield f"{where}: found {reprlib.repr(value)}, must be printable text on one line"


def _positive(path: str, owner, *names: str):
    for name in names:
        if getattr(owner, name) <= 0:
            yield f"{path}.{name}: found {getattr(owner, name)}, must be above 0"


def _not_negative(path: str, owner, *names: str):
    for name in names:
        if getattr(owner, name) < 0:
            yield f"{path}.{name}: found {getattr(owner, name)}, must be 0 or more"


def _fraction(path: str, owner, *names: str, top: bool = False):
    for name in names:
        value = getattr(owner, name)
        if not (0 <= value < 1 or (top and value == 1)):
            yield f"{path}.{name}: found {value}, must be at least 0 and {'at most' if top else 'below'} 1"


def _one_of(path: str, value: str, allowed: tuple[str, ...]):
    if value not in allowed:
        yield f"{path}: found {value!r}, must be one of {', '.join(allowed)}"


def _model(experiment: Experiment):
    model, path = experiment.model, "config.model"
    counts = ("layers", "width", "feedforward", "heads", "kv_heads", "head_size", "vocabulary")
    yield from _positive(path, model, *counts, "rope_base", "norm_epsilon", "init_std")
    yield from _not_negative(path, model, "logit_softcap", "attention_softcap", "window", "post_norm_gain")
    if model.kv_heads > 0 and model.heads % model.kv_heads:
        yield f"{path}.kv_heads: found {model.kv_heads}, must divide config.model.heads = {model.heads}"
    if model.head_size % 2:
        yield f"{path}.head_size: found {model.head_size}, must be even (RoPE rotates pairs)"
    if model.heads > 0 and model.width % model.heads:
        yield f"{path}.heads: found {model.heads}, must divide config.model.width = {model.width}"
    yield from _one_of(f"{path}.remat", model.remat, REMAT)
    for name in model.remat_names:
        yield from _one_of(f"{path}.remat_names", name, REMAT_NAMES)


def _sources(experiment: Experiment):
    for i, source in enumerate(experiment.data.sources):
        where = f"config.data.sources[{i}]"
        if not source.path and source.planned_tokens <= 0:
            yield f"{where}.path: empty; name the folder of a store, or give planned_tokens to plan without one"
        yield from _not_negative(where, source, "planned_tokens")
        if source.domain and not source.domain.isidentifier():
            yield f"{where}.domain: found {source.domain!r}, must be one word, such as 'english'"
        if not 0 < source.precut <= 1:
            yield f"{where}.precut: found {source.precut}, must be above 0 and at most 1"
        if source.planned_from not in SIZES_FROM:
            yield f"{where}.planned_from: found {source.planned_from!r}, must be empty or one of {', '.join(SIZES_FROM[1:])}"


def _domain_limits(experiment: Experiment):
    domains = sorted({source.domain for source in experiment.data.sources if source.domain})
    for i, limit in enumerate(experiment.data.domain_limits):
        where = f"config.data.domain_limits[{i}]"
        if limit.domain not in domains:
            yield f"{where}.domain: found {limit.domain!r}, must be a domain of config.data.sources: {', '.join(domains) or '(none given)'}"
        if not 0 <= limit.at_least <= limit.at_most <= 1:
            yield f"{where}: found at_least {limit.at_least} and at_most {limit.at_most}, must satisfy 0 <= at_least <= at_most <= 1"


def _data(experiment: Experiment):
    yield from data_problems(experiment.data)


def data_problems(data: Data):
    """Yields what is wrong with a recipe whatever the sizes of its sources; `data/recipe.py` goes on from here."""
    path = "config.data"
    yield from _positive(path, data, "sequence_length", "batch_size", "prefetch")
    yield from _not_negative(path, data, "seed", "verify_tokens")
    names = [source.name for source in data.sources]
    for i, name in enumerate(names):
        if not name:
            yield f"{path}.sources[{i}].name: empty, every source needs a name"
        elif name == "mean" or "/" in name:
            yield f"{path}.sources[{i}].name: found {name!r}, must not be 'mean' nor hold '/' (metrics are named after sources)"
        elif names.count(name) > 1 and names.index(name) == i:
            yield f"{path}.sources[{i}].name: {name!r} is given {names.count(name)} times, names must be unique"
    if not data.phases:
        yield f"{path}.phases: empty, a run needs at least one phase with data"
    for i, phase in enumerate(data.phases):
        yield from _phase(phase, f"{path}.phases[{i}]", names)


def _phase(phase, path: str, names: list[str]):
    if not phase.uses:
        yield f"{path}.uses: empty, phase {phase.name!r} has no data; name at least one source"
    yield from _one_of(f"{path}.order", phase.order, ORDERS)
    yield from _positive(path, phase, "folds")
    yield from _not_negative(path, phase, "tokens", "shuffle_window")
    for i, use in enumerate(phase.uses):
        where = f"{path}.uses[{i}]"
        if use.source not in names:
            near = difflib.get_close_matches(use.source, names) if len(names) > 8 else names
            yield f"{where}.source: found {use.source!r}, must be one of config.data.sources: {', '.join(near or names) or '(none given)'}"
        low, high = use.window
        if not 0 <= low < high <= 1:
            yield f"{where}.window: found {use.window}, must satisfy 0 <= low < high <= 1 (token mass, worst 0 to best 1)"
        yield from _positive(where, use, "passes")
        if use.temperature and use.temperature < 0.001:
            yield f"{where}.temperature: found {use.temperature:g}, must be 0 (none) or at least 0.001; for the best alone, narrow window"
        if use.temperature and use.passes > 1:
            yield f"{where}.passes: found {use.passes:g} with temperature {use.temperature:g}, which reads nothing twice; must be at most 1"
        if not 0 <= use.share <= 1:
            yield f"{where}.share: found {use.share}, must lie in [0, 1]"
        if use.order:
            yield from _one_of(f"{where}.order", use.order, ORDERS)
    shares = [use.share for use in phase.uses]
    if any(shares):
        if not all(shares):
            yield f"{path}.uses: some have a share and some have none; give every source of a phase a share, or none"
        elif max(shares) <= 1 and abs(sum(shares) - 1) > 1e-6:
            yield f"{path}.uses: shares sum to {sum(shares):.6g}, must sum to 1"
        if phase.tokens <= 0:
            yield f"{path}.tokens: found {phase.tokens}, shares need a token budget above 0"


def _schedule(experiment: Experiment):
    schedule, path = experiment.schedule, "config.schedule"
    yield from _one_of(f"{path}.kind", schedule.kind, SCHEDULES)
    yield from _one_of(f"{path}.shape", schedule.shape, SHAPES)
    yield from _positive(path, schedule, "peak", "cycles")
    yield from _not_negative(path, schedule, "end", "warmup")
    if schedule.kind in ("cosine", "wsd", "wsd_s", "wsdc") and schedule.end > schedule.peak > 0:
        yield f"{path}.end: found {schedule.end}, must not exceed config.schedule.peak = {schedule.peak}"
    decays = schedule.kind in ("wsd", "wsd_s", "wsdc")
    if decays and schedule.shape in ("exponential", "inverse") and schedule.end == 0:
        yield f"{path}.end: found 0, the {schedule.shape} decay needs an end rate above 0"
    yield from _fraction(path, schedule, "decay", top=True)
    yield from _fraction(path, schedule, "rewarmup", "tail")
    if schedule.kind == "wsdc" and schedule.decay + schedule.tail > 1:
        yield f"{path}.tail: decay {schedule.decay} + tail {schedule.tail} exceed the run; lower one of them"
    if schedule.kind == "wsd_s" and schedule.decay + schedule.rewarmup > 1:
        yield f"{path}.rewarmup: decay {schedule.decay} + rewarmup {schedule.rewarmup} exceed a cycle; lower one of them"
    if schedule.kind == "file" and not schedule.path:
        yield f"{path}.path: empty; kind 'file' needs a schedule.json (launch/design_schedule.py) or a CSV with columns step,lr"
    if schedule.kind != "file" and schedule.path:
        yield f"{path}.path: found {schedule.path!r} with kind {schedule.kind!r}; set config.schedule.kind to file, or leave path empty"
    if schedule.kind == "power":
        yield from _positive(path, schedule, "power_scale")
    if schedule.kind == "piecewise":
        total = sum(piece.fraction for piece in schedule.pieces)
        if abs(total - 1) > 1e-6:
            yield f"{path}.pieces: fractions sum to {total:.6g}, must sum to 1 (of the steps after warm-up)"
        for i, piece in enumerate(schedule.pieces):
            where = f"{path}.pieces[{i}]"
            yield from _one_of(f"{where}.shape", piece.shape, SHAPES)
            yield from _positive(where, piece, "fraction", "begin")
            yield from _not_negative(where, piece, "end")
            if piece.shape in ("exponential", "inverse") and piece.end == 0:
                yield f"{where}.end: found 0, the {piece.shape} shape needs an end rate above 0"


def _optimizer(experiment: Experiment):
    optimizer, path = experiment.optimizer, "config.optimizer"
    yield from _fraction(path, optimizer, "beta1", "beta2")
    yield from _positive(path, optimizer, "epsilon", "accumulation")
    yield from _not_negative(path, optimizer, "weight_decay", "clip_norm", "z_loss")
    if optimizer.accumulation > 0 and experiment.data.batch_size % optimizer.accumulation:
        yield f"{path}.accumulation: found {optimizer.accumulation}, must divide config.data.batch_size = {experiment.data.batch_size}"


def _precision(experiment: Experiment):
    precision, path = experiment.precision, "config.precision"
    yield from _one_of(f"{path}.compute", precision.compute, COMPUTE)
    if precision.parameters == "float16":
        yield (
            f"{path}.parameters: found 'float16', must be one of {', '.join(PARAMETERS)}: float16 rounds away updates below 1/2048 of a "
            "weight; set compute to float16 and keep parameters in float32"
        )
    else:
        yield from _one_of(f"{path}.parameters", precision.parameters, PARAMETERS)
    if precision.compute == "float16" and precision.parameters == "bfloat16":
        yield f"{path}.parameters: found 'bfloat16' with compute float16, must be float32: the products would have the worse of both"
    yield from _positive(path, precision, "loss_scale", "growth_interval", "scale_floor")
    if precision.scale_factor <= 1:
        yield f"{path}.scale_factor: found {precision.scale_factor}, must be above 1"
    if 0 < precision.loss_scale < precision.scale_floor:
        yield f"{path}.loss_scale: found {precision.loss_scale}, must be at least scale_floor = {precision.scale_floor}"


def _run(experiment: Experiment):
    if not experiment.name or "/" in experiment.name:
        yield f"config.name: found {experiment.name!r}, must be a folder name (set config.output for a path)"
    yield from _not_negative("config", experiment, "seed")
    axes = dataclasses.asdict(experiment.mesh)
    for name, size in axes.items():
        if size == 0 or size < -1:
            yield f"config.mesh.{name}: found {size}, must be above 0, or -1 for all devices that are left"
    if list(axes.values()).count(-1) > 1:
        yield f"config.mesh: found {axes}, at most one axis may be -1"
    context, length = axes["context"], experiment.data.sequence_length
    if context == -1:
        yield "config.mesh.context: found -1, must say how many devices cut a row, 1 for none"
    elif context > 1 and length % (2 * context):
        yield f"config.mesh.context: found {context}; config.data.sequence_length is {length}, must be a multiple of {2 * context}"
    if context > 1 and experiment.kernels.attention not in ("", "xla"):
        yield f"config.kernels.attention: found {experiment.kernels.attention!r} with mesh.context={context}; leave it empty or take xla"
    yield from _positive("config.checkpoint", experiment.checkpoint, "every", "keep")
    yield from _positive("config.logging", experiment.logging, "every")
    if experiment.kernels.attention:
        yield from _one_of("config.kernels.attention", experiment.kernels.attention, ATTENTION)
    if experiment.kernels.cross_entropy:
        yield from _one_of("config.kernels.cross_entropy", experiment.kernels.cross_entropy, CROSS_ENTROPY)


def _recovery(experiment: Experiment):
    checkpoint, health = experiment.checkpoint, experiment.health
    yield from _positive("config.checkpoint", checkpoint, "grace")
    yield from _not_negative("config.checkpoint", checkpoint, "local_every")
    if bool(checkpoint.local) != bool(checkpoint.local_every):
        yield (
            f"config.checkpoint.local_every: found {checkpoint.local_every} with local {checkpoint.local!r}; give both, a folder on the "
            "host's own disk or memory and the steps between copies, or neither"
        )
    yield from _one_of("config.health.divergence", health.divergence, DIVERGENCE)
    yield from _not_negative("config.health", health, "timeout", "limit")
    if health.spike and health.spike <= 1:
        yield f"config.health.spike: found {health.spike}, must be above 1 (times the median loss), or 0 for none"
    if experiment.start and experiment.branch:
        yield "config.start and config.branch: give one, a checkpoint to begin another run with or one to go on from in the same run"


def _averaging(experiment: Experiment):
    averaging, path = experiment.averaging, "config.averaging"
    yield from _one_of(f"{path}.kind", averaging.kind, AVERAGES)
    yield from _one_of(f"{path}.shape", averaging.shape, SHAPES)
    yield from _positive(path, averaging, "last")
    yield from _fraction(path, averaging, "online_decay")
    yield from _not_negative(path, averaging, "online_every")
    if averaging.online_every and averaging.online_decay:
        yield f"{path}.online_every: found {averaging.online_every} with online_decay {averaging.online_decay}; the state keeps one average"
    if averaging.online_every and averaging.kind == "none":
        yield f"{path}.online_every: found {averaging.online_every} with kind 'none'; say which average, such as ema"
    if not 0 < averaging.alpha < 1:
        yield f"{path}.alpha: found {averaging.alpha}, must lie between 0 and 1"
    if averaging.kind == "weights" and len(averaging.weights) != averaging.last:
        yield f"{path}.weights: found {len(averaging.weights)} weights, config.averaging.last = {averaging.last} asks for as many"
    if averaging.kind != "none" and averaging.last > experiment.checkpoint.keep:
        yield (
            f"{path}.last: found {averaging.last}, the window reaches before the first kept checkpoint; "
            f"config.checkpoint.keep = {experiment.checkpoint.keep} must be at least as large"
        )


def _evaluation(experiment: Experiment):
    evaluation, path = experiment.evaluation, "config.evaluation"
    yield from _not_negative(path, evaluation, "every", "questions", "samples", "sample_tokens", "temperature")
    yield from _positive(path, evaluation, "rows", "batch_size", "quantiles", "bootstrap", "context", "continuation")
    if evaluation.choices < 2:
        yield f"{path}.choices: found {evaluation.choices}, must be at least 2"
    if evaluation.questions and evaluation.context + evaluation.continuation > experiment.data.sequence_length:
        yield (
            f"{path}.context: {evaluation.context} + continuation {evaluation.continuation} tokens exceed "
            f"config.data.sequence_length = {experiment.data.sequence_length}"
        )
