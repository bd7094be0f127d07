"""Cross-entropy that never holds all logits: a scan over chunks of S positions, forward and backward.

Residuals are the inputs and the log-sum-exp. With z = c tanh(s / c) the capped logits of a chunk, p = exp(z - logsumexp) and g, h the
cotangents of loss and logsumexp, the gradient of the raw logits s is ((g + h) p - g onehot(target)) (1 - (z / c)^2): the backward pass
recomputes s chunk by chunk, and accumulates the head's gradient in float32. Chunks cut L, not B, so that a batch sharded over devices
stays sharded inside a chunk; and the head's gradient is accumulated for each of the G parts of the batch on its own, so that devices
exchange it once at the end, not once per chunk.
"""

import functools
import math

import jax
import jax.numpy as jnp

# Tokens of a chunk on one device. At V = 4,096 a chunk of logits (8 MB) stays in a CPU's cache; at V = 151,936 (0.3 GB) its products still
# outweigh reading and writing the head's gradient once per chunk.
CHUNK = 512


def linear_cross_entropy(x_BLD, head_DV, targets_BL, *, softcap: float = 0.0, shards: int = 1, chunk: int = CHUNK):
    """(loss_BL, logsumexp_BL) in float32; logits exist for about chunk tokens of every shard at a time.

    shards: parts that the batch axis is cut into. Products in x's dtype, sums in float32.
    """
    B, L, _ = x_BLD.shape
    shards = math.gcd(B, shards)
    longest = max(1, chunk * shards // B)
    chunks = -(-L // longest)
    length = -(-L // chunks)
    return _chunked(x_BLD, head_DV, targets_BL, float(softcap), length, shards)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _chunked(x_BLD, head_DV, targets_BL, softcap, length, shards):
    return _forward(x_BLD, head_DV, targets_BL, softcap, length, shards)[0]


def _forward(x_BLD, head_DV, targets_BL, softcap, length, shards):
    head = head_DV.astype(x_BLD.dtype)

    def chunk(_, inputs):
        x_BSD, targets_BS = inputs
        z_BSV = _capped(x_BSD, head, softcap)
        logsumexp_BS = jax.nn.logsumexp(z_BSV, axis=-1)
        target_BS = jnp.take_along_axis(z_BSV, targets_BS[..., None], axis=-1)[..., 0]
        return None, (logsumexp_BS - target_BS, logsumexp_BS)

    _, outputs = jax.lax.scan(chunk, None, (_cut(x_BLD, length), _cut(targets_BL, length)))
    loss_BL, logsumexp_BL = (_join(output, x_BLD.shape[1]) for output in outputs)
    return (loss_BL, logsumexp_BL), (x_BLD, head_DV, targets_BL, logsumexp_BL)


def _backward(softcap, length, shards, residuals, cotangents):
    x_BLD, head_DV, targets_BL, logsumexp_BL = residuals
    head = head_DV.astype(x_BLD.dtype)
    loss_cotangent_BL, logsumexp_cotangent_BL = cotangents

    def chunk(gradient_GDV, inputs):
        x_BSD, targets_BS, logsumexp_BS, g_BS, h_BS = inputs
        z_BSV = _capped(x_BSD, head, softcap)
        p_BSV = jnp.exp(z_BSV - logsumexp_BS[..., None])
        onehot_BSV = targets_BS[..., None] == jnp.arange(z_BSV.shape[-1])
        s_BSV = (g_BS + h_BS)[..., None] * p_BSV - jnp.where(onehot_BSV, g_BS[..., None], 0.0)
        if softcap:
            s_BSV = s_BSV * (1.0 - jnp.square(z_BSV / softcap))
        s_BSV = s_BSV.astype(x_BSD.dtype)
        parts = (array.reshape(shards, -1, *array.shape[1:]) for array in (x_BSD, s_BSV))
        gradient_GDV += jnp.einsum("GBSD,GBSV->GDV", *parts, preferred_element_type=jnp.float32)
        return gradient_GDV, jnp.einsum("BLV,DV->BLD", s_BSV, head)

    columns = (x_BLD, targets_BL, logsumexp_BL, loss_cotangent_BL, logsumexp_cotangent_BL)
    start = jnp.zeros((shards, *head_DV.shape), jnp.float32)
    gradient_GDV, x_gradient = jax.lax.scan(chunk, start, tuple(_cut(column, length) for column in columns))
    return _join(x_gradient, x_BLD.shape[1]), gradient_GDV.sum(0).astype(head_DV.dtype), None


_chunked.defvjp(_forward, _backward)


def _capped(x_BLD, head_DV, softcap):
    logits_BLV = jnp.einsum("BLD,DV->BLV", x_BLD, head_DV, preferred_element_type=jnp.float32)
    return softcap * jnp.tanh(logits_BLV / softcap) if softcap else logits_BLV


def _cut(x_BL, length):
    """[B, L, ...] -> [chunks, B, length, ...], padded with zeros (their cotangents are zero)."""
    B, L = x_BL.shape[:2]
    chunks = -(-L // length)
    x_BL = jnp.pad(x_BL, [(0, 0), (0, chunks * length - L)] + [(0, 0)] * (x_BL.ndim - 2))
    return jnp.moveaxis(x_BL.reshape(B, chunks, length, *x_BL.shape[2:]), 1, 0)


def _join(x, L):
    """Inverse of `_cut`."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :L]
