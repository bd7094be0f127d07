"""Losses and their gradient for any cotangents, slice by slice of the vocabulary: four matrix products for value and gradient.

Residuals are the inputs and the log-sum-exp. With z = c tanh(s / c) the capped logits, p = exp(z - logsumexp) and g, h the cotangents of
loss and logsumexp, the gradient of the raw logits s is ((g + h) p - g onehot(target)) (1 - (z / c)^2). A slice of it gives W columns of the
head's gradient for good, so that no copy of that gradient is summed up: 0.16 GiB of temporaries at 8,192 tokens x 2048 x 151,936 where
the head is bfloat16 (AOT, v5p). The logits are made twice; xla_objective.py makes them once where the cotangents are known beforehand.

All functions see one device's part: T tokens, and V columns of the head when `axes` (mesh axes) cut the vocabulary.
"""

import jax
import jax.numpy as jnp

from kaiyuan_jax.kernels.cross_entropy import slices
from kaiyuan_jax.kernels.cross_entropy.slices import Sizes, Slice


def losses(x_TD, head_DV, targets_T, *, softcap: float, axes: tuple[str, ...], sizes: Sizes):
    """(loss_T, logsumexp_T) in float32: a scan over chunks of tokens, and in each over slices of the vocabulary."""
    T, V = x_TD.shape[0], head_DV.shape[1]
    count = slices.chunks(T, sizes.tokens)
    W = slices.columns_of_a_slice(V, sizes.columns)

    def chunk(_, inputs):
        x_SD, targets_S = inputs

        def add(sums, number):
            part = Slice.take(head_DV, number, W, x_SD.dtype)
            return slices.add_to_sums(sums, part, part.logits(x_SD, softcap)[0], targets_S)[0], None

        return None, jax.lax.scan(add, slices.start_of_sums(x_SD.shape[0]), jnp.arange(-(-V // W)))[0]

    _, sums = jax.lax.scan(chunk, None, (cut(x_TD, count), cut(slices.local_targets(targets_T, V, axes), count, -1)))
    return slices.loss_and_logsumexp(tuple(join(each, T) for each in sums), targets_T, axes)


def gradients(x_TD, head_DV, targets_T, logsumexp_T, loss_T, g_T, h_T, *, softcap: float, axes: tuple[str, ...], dtype, sizes: Sizes):
    """(gradient of x_TD in float32, gradient of head_DV in `dtype`) of sum(g loss + h logsumexp), over this device's tokens and columns.

    g must be zero where a target is ignored. The gradient of x is the sum over the devices that cut the vocabulary.
    """
    (T, D), V = x_TD.shape, head_DV.shape[1]
    W = slices.columns_of_a_slice(V, sizes.columns)
    here_T = slices.local_targets(targets_T, V, axes)
    at_target_T = g_T * jnp.expm1(-loss_T) + h_T * jnp.exp(-loss_T)  # p - 1 of a target that is nearly certain, without cancellation

    def add(gradients, number):
        head_gradient_DV, x_gradient_TD = gradients
        part = Slice.take(head_DV, number, W, x_TD.dtype)
        z_TW, slope_TW = part.logits(x_TD, softcap)
        s_TW = (g_T + h_T)[:, None] * jnp.exp(z_TW - logsumexp_T[:, None])
        s_TW = jnp.where(part.hits(here_T), at_target_T[:, None], s_TW)
        s_TW = s_TW if slope_TW is None else s_TW * slope_TW
        s_TW = part.only_fresh(s_TW, 0.0).astype(x_TD.dtype)
        x_gradient_TD += jnp.einsum("TW,DW->TD", s_TW, part.head_DW, preferred_element_type=jnp.float32)
        part_DW = jnp.einsum("TD,TW->DW", x_TD, s_TW, preferred_element_type=jnp.float32)
        return (part.add_to(head_gradient_DV, part_DW), x_gradient_TD), None

    start = jnp.zeros((D, V), dtype), jnp.zeros((T, D), jnp.float32)
    (head_gradient_DV, x_gradient_TD), _ = jax.lax.scan(add, start, jnp.arange(-(-V // W)))
    return jax.lax.psum(x_gradient_TD, axes) if axes else x_gradient_TD, head_gradient_DV


def cut(x_T, count: int, fill=0):
    """[T, ...] -> [count, S, ...], the last chunk filled up."""
    T = x_T.shape[0]
    missing = -T % count
    if missing:
        x_T = jnp.pad(x_T, [(0, missing)] + [(0, 0)] * (x_T.ndim - 1), constant_values=fill)
    return x_T.reshape(count, -1, *x_T.shape[1:])


def join(x_CS, T: int):
    """Inverse of `cut`."""
    return x_CS.reshape(-1, *x_CS.shape[2:])[:T]
