"""Parameters and floating-point operations by arithmetic, for plans and for model FLOP utilisation (MFU).

Convention: a multiply-add is 2 operations; backward costs twice forward; causal attention is counted as half of the square;
nothing that is computed twice (rematerialisation) counts twice; the embedding lookup, norms, RoPE and the soft-cap count nothing.
So a token costs 6 x (parameters in matrix products) + 6 N H C L: both attention products, 2 x 2 H C L / 2 forward, times 3.
"""

from kaiyuan_jax import config


def matrix_parameters(model: config.Model) -> int:
    """Parameters that take part in a matrix product for every token: layers and head, without the embedding table."""
    attention = 2 * model.width * model.head_size * (model.heads + model.kv_heads)
    return model.layers * (attention + 3 * model.width * model.feedforward) + model.width * model.vocabulary


def parameters(model: config.Model) -> int:
    """All parameters, gains included."""
    gains = model.width * (4 if model.sandwich_norm else 2) + (2 * model.head_size if model.qk_norm else 0)
    embedding = 0 if model.tied else model.vocabulary * model.width
    return matrix_parameters(model) + embedding + model.layers * gains + model.width


def per_token(model: config.Model, sequence_length: int) -> float:
    """FLOPs of forward and backward for one token of a sequence of that length, by the convention above."""
    return 6.0 * matrix_parameters(model) + 6.0 * model.layers * model.heads * model.head_size * sequence_length
