"""Bytes of one device while it trains, by arithmetic: what the state takes is exact, what a step needs beside it is calibrated.

    state        parameters, moments, average, gradients, from the model's shapes and the rules that cut them (sharding/rules.py);
                 gradients summed over micro-batches are a second copy, in float32
    activations  of every layer, what recomputation keeps: dimensions of its tensors x tokens of a micro-batch
    working      A x 4 D V / tensor + B x w x tokens x (numbers of a layer's tensors) + 12 x (parameters of a layer) / tensor

The last is the head's gradient before it is cut, one layer's forward and backward pass, and a layer's weights and gradient gathered. Its
factors A and B, by platform, are the least that lie above every step that was compiled (docs/results/plan.md holds both, and the errors);
a compiler may find better or worse orders, so the estimate decides nothing within MARGIN of the limit.
"""

import functools
import math

from kaiyuan_jax.config import Experiment, Model
from kaiyuan_jax.plan.setting import Setting

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
HEAD = {"tpu": 3.05, "gpu": 0.8}  # A, in float32 heads
LAYER = {"tpu": 2.0, "gpu": 1.7}  # B, in tensors of one layer
MARGIN = 0.1  # of a device's memory: what the estimate may be wrong by, and what a compiler keeps for itself


def leaves(model: Model) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters by their names, whose last letters are their dimensions."""
    N, D, F, H, K, C, V = (
        model.layers, model.width, model.feedforward, model.heads, model.kv_heads, model.head_size, model.vocabulary,
    )  # fmt: skip
    found = {"embedding_VD": (V, D), "norm_D": (D,)} | ({} if model.tied else {"head_DV": (D, V)})
    found |= {"query_NDHC": (N, D, H, C), "key_NDKC": (N, D, K, C), "value_NDKC": (N, D, K, C), "out_NHCD": (N, H, C, D)}
    found |= {"gate_NDF": (N, D, F), "up_NDF": (N, D, F), "down_NFD": (N, F, D), "attention_norm_ND": (N, D), "feedforward_norm_ND": (N, D)}
    if model.qk_norm:
        found |= {"query_norm_NC": (N, C), "key_norm_NC": (N, C)}
    if model.sandwich_norm:
        found |= {"attention_post_norm_ND": (N, D), "feedforward_post_norm_ND": (N, D)}
    return found


def parameters(experiment: Experiment, setting: Setting) -> int:
    """Elements that one device holds."""
    return sum(_held(name, shape, tuple(setting.mesh.items())) for name, shape in leaves(experiment.model).items())


@functools.cache
def _held(name: str, shape: tuple[int, ...], mesh: tuple[tuple[str, int], ...]) -> int:
    from jax.sharding import AbstractMesh, NamedSharding

    from kaiyuan_jax.sharding import rules

    abstract = AbstractMesh(tuple(size for _, size in mesh), tuple(axis for axis, _ in mesh))
    return math.prod(NamedSharding(abstract, rules.spec(name, shape, abstract)).shard_shape(shape))


def kept(model: Model, setting: Setting, width: int) -> float:
    """Bytes that a layer's forward pass leaves for the backward pass, by token, of a device; its input among them."""
    D, F, H, K = model.width, model.feedforward / setting.tensor, model.heads / setting.tensor, model.kv_heads / setting.tensor
    C = model.head_size
    if setting.remat == "full":
        return width * D
    if setting.remat == "none":  # norms keep float32 copies; what is read off the traced step (tests/plan/test_memory.py)
        return 4 * (12 * D + 8 + 3 * H * C + 3 * K * C + 3 * H + 2 * K) + width * (2 * D + 6 * F + 2 * H * C + 2 * K * C)
    sizes = {
        "attention_in": 0, "query_projection": H * C, "query": H * C, "key_projection": K * C, "key": K * C, "value": K * C,
        "attention_out": H * C + 4 * H / width, "attention_branch": D, "feedforward_in": D, "gate": F, "up": F, "feedforward_branch": D,
    }  # fmt: skip
    return width * (D + sum(sizes[name] for name in setting.names))


def estimate(experiment: Experiment, setting: Setting, platform: str) -> dict[str, float]:
    """Bytes of a device by category; their sum is what it needs."""
    model, tokens = experiment.model, setting.tokens(experiment)
    stored, width = WIDTHS[experiment.precision.parameters], WIDTHS[experiment.precision.compute]
    held = parameters(experiment, setting)
    layer = sum(math.prod(shape[1:]) for name, shape in leaves(model).items() if "_N" in name)
    whole = model.feedforward * 2 + model.head_size * (3 * model.heads + 3 * model.kv_heads)
    tensors = width * (4 * model.width + whole / setting.tensor)
    return {
        "parameters": held * stored,
        "optimizer": 2 * held * stored,
        "average": held * 4 if averages(experiment) else 0,
        "gradients": held * stored,
        "gradients of micro-batches": held * 4 if setting.accumulation > 1 else 0,
        "saved activations": model.layers * tokens * kept(model, setting, width),
        "working memory": HEAD[platform] * 4 * model.width * model.vocabulary / setting.tensor
        + LAYER[platform] * tokens * tensors
        + 12 * layer / setting.tensor,
    }


def averages(experiment: Experiment) -> bool:
    """Whether the train state holds a running average: one float32 copy of the parameters."""
    averaging = experiment.averaging
    return bool(averaging.online_decay or averaging.online_every)
