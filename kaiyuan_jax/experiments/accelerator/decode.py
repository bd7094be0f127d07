"""Generation with the key/value cache: tokens/s of a prompt being read and of text being drawn, at several batches.

Every new token reads all weights once and its row's cache, so the floor of a step is bytes over memory speed, and small batches cost as
much as one row. Weights are bfloat16, as one would serve them. Two lengths are timed; their difference is decoding alone.
"""

import jax
import jax.numpy as jnp

from kaiyuan_jax import config
from kaiyuan_jax.evaluation import generate
from kaiyuan_jax.experiments.accelerator import shapes, timing
from kaiyuan_jax.experiments.accelerator.child import Job
from kaiyuan_jax.kernels.placement import Placement
from kaiyuan_jax.models import decoder

PROMPT, NEW = 512, 128  # tokens
BATCHES = (1, 16, 64)


def measure(job: Job) -> None:
    shape = shapes.model("tiny" if job.tiny else "2b")
    build = jax.jit(lambda key: decoder.split(decoder.build(shape, config.Precision(compute="bfloat16", parameters="bfloat16"), key))[1])
    params, (graphdef, _) = build(jax.random.key(0)), decoder.abstract(shape, config.Precision(compute="bfloat16", parameters="bfloat16"))
    for batch in BATCHES[:1] if job.tiny else BATCHES:
        row = dict(model="tiny" if job.tiny else "2b", batch=batch)
        job.attempt(lambda b=batch: _measure(graphdef, params, shape, b, *((16, 8) if job.tiny else (PROMPT, NEW))), needs=0, **row)


def _measure(graphdef, params, shape: config.Model, batch: int, prompt: int, new: int) -> dict:
    place = Placement(jax.devices()[0].device_kind)
    tokens = jax.random.randint(jax.random.key(1), (batch, prompt), 0, shape.vocabulary)
    lengths, keys = jnp.full(batch, prompt, jnp.int32), jax.random.split(jax.random.key(2), batch)
    sampling = dict(eod=-1, vocabulary=shape.vocabulary, temperature=1.0, top_p=1.0, place=place)

    def seconds(count: int) -> float:
        return timing.seconds(
            lambda: generate.continuations(params, tokens, lengths, keys, graphdef=graphdef, new_tokens=count, **sampling), rounds=3
        )

    short, long = seconds(1), seconds(new)
    step = (long - short) / (new - 1)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return {
        "prompt": prompt,
        "new_tokens": new,
        "prompt_tokens_per_second": batch * prompt / short,
        "decode_tokens_per_second": batch / step,
        "step_ms": step * 1e3,
        "weights_gb_per_second": weights / step / 1e9,
    }
