"""An objective whose gradient is made while its value is: the logits are computed once, three matrix products in all.

    objective = sum over tokens of  g (loss + z_loss logsumexp^2)

The weights g of the tokens are known before the backward pass, so each chunk of S tokens finishes its gradient at once. A first pass over
the slices of the vocabulary keeps d = exp(z - m) (1 - (z / c)^2) in the dtype of the activations, m being the largest logit so far, and
finds the log-sum-exp; a second turns d into the gradient of the raw logits,

    s = g (1 + 2 z_loss logsumexp) exp(m - logsumexp) d,  at the target  g (p - 1 + 2 z_loss logsumexp p) (1 - (z / c)^2)  from float32,

and multiplies it with x and with the head. What is kept in 16 bits thus has the relative accuracy of the softmax, not of the logits.
In exchange for the fourth product (2 T D V FLOPs) the head's float32 gradient is read and written once a chunk, 8 D V bytes: a gain where
T / chunks tokens of products, 2 S D V FLOPs, take longer than that. The copy d is S V elements. The float32 gradient is the result
itself where the head is stored in float32; for a head in bfloat16 it would be an extra 4 D V bytes, so there xla.py is used.
"""

import jax
import jax.numpy as jnp

from kaiyuan_jax.kernels.cross_entropy import slices
from kaiyuan_jax.kernels.cross_entropy.slices import Sizes, Slice
from kaiyuan_jax.kernels.cross_entropy.xla import cut, join

ROOM = 2.0**13  # d is at most 1; float16 holds it 13 bits better when it is at most 8,192


def losses_and_gradients(x_TD, head_DV, targets_T, g_T, *, z_loss: float, softcap: float, axes: tuple[str, ...], sizes: Sizes):
    """(loss_T, logsumexp_T, gradient of x_TD in float32 or x's dtype, gradient of head_DV in float32), of one device's tokens and columns.

    g must be zero where a target is ignored, and hold the loss scale. The gradient of x is summed over the devices that cut the vocabulary.
    """
    (T, D), V = x_TD.shape, head_DV.shape[1]
    count = slices.chunks(T, sizes.tokens)
    W = slices.columns_of_a_slice(V, sizes.columns)
    numbers = jnp.arange(-(-V // W))

    def chunk(head_gradient_DV, inputs):
        x_SD, targets_S, g_S = inputs
        here_S = slices.local_targets(targets_S, V, axes)

        def first(sums, number):
            part = Slice.take(head_DV, number, W, x_SD.dtype)
            z_SW, slope_SW = part.logits(x_SD, softcap)
            sums, e_SW = slices.add_to_sums(sums, part, z_SW, here_S)
            d_SW = e_SW * ROOM if slope_SW is None else e_SW * slope_SW * ROOM
            return sums, (d_SW.astype(x_SD.dtype), sums[0])

        sums, (d_KSW, largest_KS) = jax.lax.scan(first, slices.start_of_sums(x_SD.shape[0]), numbers)
        loss_S, logsumexp_S = slices.loss_and_logsumexp(sums, targets_S, axes)
        pull_S = 2.0 * z_loss * logsumexp_S
        at_target_S = g_S * (jnp.expm1(-loss_S) + pull_S * jnp.exp(-loss_S))  # p - 1 of a nearly certain target, without cancellation
        if softcap:
            at_target_S *= 1.0 - jnp.square((logsumexp_S - loss_S) / softcap)

        def second(gradients, inputs):
            head_gradient_DV, x_gradient_SD = gradients
            number, d_SW, largest_S = inputs
            part = Slice.take(head_DV, number, W, x_SD.dtype)
            factor_S = g_S * (1.0 + pull_S) * jnp.exp(largest_S - logsumexp_S) / ROOM
            s_SW = jnp.where(part.hits(here_S), at_target_S[:, None], factor_S[:, None] * d_SW.astype(jnp.float32)).astype(x_SD.dtype)
            x_gradient_SD += jnp.einsum("SW,DW->SD", s_SW, part.head_DW, preferred_element_type=jnp.float32)
            part_DW = jnp.einsum("SD,SW->DW", x_SD, s_SW, preferred_element_type=jnp.float32)
            return (part.add_to(head_gradient_DV, part_DW), x_gradient_SD), None

        gradients = head_gradient_DV, jnp.zeros(x_SD.shape, jnp.float32)
        (head_gradient_DV, x_gradient_SD), _ = jax.lax.scan(second, gradients, (numbers, d_KSW, largest_KS))
        return head_gradient_DV, (loss_S, logsumexp_S, x_gradient_SD if axes else x_gradient_SD.astype(x_SD.dtype))

    inputs = cut(x_TD, count), cut(targets_T, count, -1), cut(g_T, count)
    head_gradient_DV, outputs = jax.lax.scan(chunk, jnp.zeros((D, V), jnp.float32), inputs)
    loss_T, logsumexp_T, x_gradient_TD = (join(output, T) for output in outputs)
    return loss_T, logsumexp_T, jax.lax.psum(x_gradient_TD, axes) if axes else x_gradient_TD, head_gradient_DV
