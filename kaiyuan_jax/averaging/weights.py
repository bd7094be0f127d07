"""How much each of the last k checkpoints counts in their average: float64[k], newest first, summing to 1.

2511.18903 averages the last six checkpoints of a sorted run. Its notes give two readings of "EMA", a literal recursion a third:

    sma          1/k
    ema          proportional to (1 - alpha)^i for the i-th newest: the recursion M <- alpha theta + (1 - alpha) M without what its
                 start leaves behind. Our default reading, the one with weights that never fall towards recent checkpoints and still
                 flat enough to average
    ema_seeded   the same recursion started from the oldest checkpoint, which keeps (1 - alpha)^(k-1)
    ema_powers   proportional to alpha^i: with alpha 0.2 four fifths lie on the newest
    weights      given one by one

wma stands in for a learning-rate decay that was not run. Call the checkpoints theta_1 (oldest) to theta_k, and let the update
between theta_j and theta_{j+1}, made at a constant rate, count only f(j / k), with f a decay shape falling from f(0) = 1 to f(1) = 0:

    average = theta_1 + sum_{j=1}^{k-1} f(j/k) (theta_{j+1} - theta_j) = sum_{j=1}^{k} [f((j-1)/k) - f(j/k)] theta_j

So the coefficient of a checkpoint is a difference of decay factors; they are positive and sum to f(0) - f(1) = 1. A linear decay
is the plain mean; a 1-sqrt decay falls fastest at first and so puts most weight on the *oldest*, which is why it wastes the end of a
sorted run as the decay itself does (worse than SMA and EMA there).

Metric-weighted: each checkpoint counts by how well it does, w_i proportional to exp(-m_i / T), m_i a loss of the i-th and T in the loss's
own unit: checkpoints that differ by much less than T weigh the same (sma), and with T far below their differences only the best counts.
If m is the mean loss of n tokens, T = 1/n makes the weights a posterior over the checkpoints. (2504.18580 weighs by loss too, with one
penalty factor; the exponential is ours.) The text that m is measured on is part of the training from then on.
"""

import numpy as np

from kaiyuan_jax import config

# The factors of schedules/shapes.py, on float64 alone: averaging stands beside schedules and imports nothing from it.
FACTORS = {
    "linear": lambda r: 1 - r,
    "cosine": lambda r: 0.5 * (1 + np.cos(np.pi * r)),
    "sqrt": lambda r: 1 - np.sqrt(r),
    "sqrt_cube": lambda r: (1 - r) ** 1.5,
    "square": lambda r: (1 - r) ** 2,
}


def weights(averaging: config.Averaging) -> np.ndarray:
    """float64[last], newest first, sum 1. Raises `ConfigError` for a kind, shape or vector that gives no average."""
    last, alpha = averaging.last, averaging.alpha
    if last < 1:
        raise config.ConfigError(f"config.averaging.last: found {last}, must be at least 1")
    if averaging.kind in ("ema", "ema_seeded", "ema_powers") and not 0 < alpha < 1:
        raise config.ConfigError(f"config.averaging.alpha: found {alpha}, must lie between 0 and 1")
    match averaging.kind:
        case "sma":
            return np.full(last, 1 / last)
        case "ema":
            return _normalised((1 - alpha) ** np.arange(last))
        case "ema_seeded":
            recursion = alpha * (1 - alpha) ** np.arange(last)
            recursion[-1] = (1 - alpha) ** (last - 1)
            return recursion
        case "ema_powers":
            return _normalised(alpha ** np.arange(1.0, last + 1))
        case "wma":
            return decay_weights(averaging.shape, last)
        case "weights":
            return _explicit(averaging)
    raise config.ConfigError(
        f"config.averaging.kind: found {averaging.kind!r}, must be one of sma, ema, ema_seeded, ema_powers, wma, weights to make an average"
    )


def decay_weights(shape: str, count: int) -> np.ndarray:
    """float64[count], newest first: the coefficients that make an average of checkpoints imitate a decay of this shape."""
    if shape not in FACTORS:
        raise config.ConfigError(f"config.averaging.shape: found {shape!r}, wma needs a shape that falls to 0: one of {', '.join(FACTORS)}")
    factors = FACTORS[shape](np.linspace(0, 1, count + 1))
    return _normalised(-np.diff(factors))[::-1]


def metric_weights(losses, temperature: float) -> np.ndarray:
    """float64[k]: softmax(-losses / temperature), in the order of `losses` float[k]. Raises `ConfigError` for what gives no weights."""
    losses = np.asarray(losses, np.float64)
    if not temperature > 0 or not np.isfinite(temperature):
        raise config.ConfigError(f"temperature of a metric-weighted average: found {temperature}, must be a finite number above 0")
    if not losses.size or not np.isfinite(losses).all():
        raise config.ConfigError(f"losses of a metric-weighted average: found {losses.tolist()}, must be finite, one a checkpoint")
    return _normalised(np.exp(-(losses - losses.min()) / temperature))


def _explicit(averaging: config.Averaging) -> np.ndarray:
    given = np.asarray(averaging.weights, np.float64)
    if given.shape != (averaging.last,):
        raise config.ConfigError(
            f"config.averaging.weights: found {given.size} weights, must be config.averaging.last = {averaging.last}, newest first"
        )
    if not np.isfinite(given).all() or abs(given.sum() - 1) > 1e-6:
        raise config.ConfigError(f"config.averaging.weights: they sum to {given.sum():.8g}, must sum to 1 within 1e-6")
    return given


def _normalised(values: np.ndarray) -> np.ndarray:
    return values / values.sum()
