"""Why a decay wastes the best data: SGD on a quadratic, exactly.

Our reconstruction of the model behind 2511.18903, Theorem 4.1, whose setting we have not seen verbatim. Two parameters w, loss
L(w) = |w - w*|^2 / 2 with w* = (S, 0), and at step t of M one sample whose quality q_t in [0, 1] says how near its target is to w*:

    z_t = (q_t S, 0) + S e_t,  E e_t = 0,  E |e_t|^2 = 1         w_t = w_{t-1} - eta_t (w_{t-1} - z_t),  w_0 = 0

Everything is linear, so whatever is kept, the last iterate or an average sum_j c_j w_j of iterates, is a weighted sum of the samples:

    w = sum_t a_t z_t,   a_t = eta_t g_t,   g_t = c_t + (1 - eta_{t+1}) g_{t+1}

The learning rate and the average are nothing but weights of samples, and the expected loss is a bias and a variance, with no sampling:

    E L / S^2 = 1/2 [ (1 - sum_t a_t m_t)^2 + sum_t a_t^2 (1 + v_t) ]         m_t, v_t: mean and variance of q_t

Sorted, q_t = (t + 1/2) / M. An average of the last n iterates is biased by n / 2M and has variance 1/n: n ~ M^(2/3) balances them.
Uniform, m = 1/2: no schedule and no average removes a bias of 1/2. Three rates follow for large M, with S = 1:

    uniform, any schedule                                >= 1/8
    ascending, constant rate, average of the last M^(2/3)    ~ M^(-2/3)
    ascending, 1-sqrt decay to 0, last iterate               ~ M^(-1/2)   in between: near the end eta falls in proportion to the steps
                                                             that are left, so the last ~ sqrt(M) samples share the weight, by variance

A rate that drops to nothing at once when a share d of the samples is left forgets them all, and stays above d^2 / 2 for any M, as the
theorem says of aggressive decays. Under a fixed end rate eta_T the last iterate stays at about eta_T / 4, unless it is averaged.
"""

import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.schedules import build

PEAK = 0.5  # of every schedule here; a rate of 1 would forget all but the last sample
FOLDS = 3


def qualities(order: str, steps: int, *, folds: int = FOLDS) -> tuple[np.ndarray, np.ndarray]:
    """(mean, variance), float64[M] each, of the quality of the sample of every step. Raises ConfigError for an order it does not know."""
    ascending = (np.arange(steps) + 0.5) / steps
    match order:
        case "uniform":
            return np.full(steps, 0.5), np.full(steps, 1 / 12)
        case "ascending":
            return ascending, np.zeros(steps)
        case "descending":
            return ascending[::-1], np.zeros(steps)
        case "folded":
            rounds = np.array_split(np.arange(steps), folds)
            return np.concatenate([(np.arange(len(part)) + 0.5) / len(part) for part in rounds]), np.zeros(steps)
    raise config.ConfigError(f"order: found {order!r}, must be one of uniform, ascending, descending, folded")


def rates(kind: str, steps: int, *, end: float = 0.0, decay: float = 0.2) -> np.ndarray:
    """float64[M]: a schedule of schedules/build.py without warm-up from `PEAK`; `end` is a fraction of it."""
    schedule = config.Schedule(kind=kind, peak=PEAK, end=end * PEAK, warmup=0, decay=decay)
    return build.rates(schedule, steps, batch_size=1, sequence_length=1)


def last(steps: int, count: int = 1, *, every: int = 1) -> np.ndarray:
    """float64[M]: weights of iterates that keep the plain mean of the last `count`, `every` steps apart; 1: the last iterate alone."""
    kept = np.zeros(steps)
    kept[steps - 1 - every * np.arange(count)] = 1 / count
    return kept


def sample_weights(rates_M: np.ndarray, kept_M: np.ndarray) -> np.ndarray:
    """float64[M]: how much each sample counts in sum_j kept_j w_j; what is missing to 1 is the weight of the start."""
    carried_M, carried = np.empty(len(rates_M)), 0.0
    for step in range(len(rates_M) - 1, -1, -1):
        carried += kept_M[step]
        carried_M[step] = carried
        carried *= 1 - rates_M[step]
    return rates_M * carried_M


def expected_loss(order: str, rates_M: np.ndarray, kept_M: np.ndarray) -> float:
    """E L / S^2 of an average of iterates, exactly."""
    weights, (mean, variance) = sample_weights(rates_M, kept_M), qualities(order, len(rates_M))
    return float(0.5 * ((1 - weights @ mean) ** 2 + weights**2 @ (1 + variance)))


def simulated_loss(order: str, rates_M: np.ndarray, kept_M: np.ndarray, *, runs: int, seed: int = 0) -> np.ndarray:
    """float64[runs]: L / S^2 of SGD as it is written above, step by step, with noise of either sign evenly in both coordinates."""
    random, (mean, variance) = np.random.default_rng(seed), qualities(order, len(rates_M))
    w_R2, kept_R2 = np.zeros((runs, 2)), np.zeros((runs, 2))
    for rate, kept, m, v in zip(rates_M, kept_M, mean, variance, strict=True):
        quality = random.random(runs) if v else m
        target_R2 = random.normal(0, np.sqrt(0.5), (runs, 2))
        target_R2[:, 0] += quality
        w_R2 -= rate * (w_R2 - target_R2)
        kept_R2 += kept * w_R2
    return 0.5 * ((kept_R2 - [1, 0]) ** 2).sum(axis=1)


def regimes(steps: int, *, decay: float = 0.2) -> dict[str, float]:
    """E L / S^2 over M steps of the three cases of the theorem, and of the drop that forgets the last share `decay`."""
    window, final = last(steps, round(steps ** (2 / 3))), last(steps)
    constant, decayed = rates("constant", steps), rates("wsd", steps, decay=decay)
    dropped = np.where(np.arange(steps) < round((1 - decay) * steps), PEAK, PEAK / steps**2)
    return {
        "uniform, decay": expected_loss("uniform", decayed, final),
        "uniform, average": expected_loss("uniform", constant, window),
        "ascending, drop": expected_loss("ascending", dropped, window),
        "ascending, decay": expected_loss("ascending", decayed, final),
        "ascending, average": expected_loss("ascending", constant, window),
    }


def exponent(sizes: np.ndarray, losses: np.ndarray) -> float:
    """b of losses ~ sizes^b, by least squares of logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(losses), 1)[0])


def gaps(steps: int, ends: tuple[float, ...], *, decay: float = 0.2) -> dict[str, np.ndarray]:
    """E L / S^2 of uniform less that of ascending, float64 by end rate (fractions of the peak), of the last iterate and of an average.

    The average is that of six iterates over the last tenth of the run.
    """
    kept = {"last": last(steps), "average": last(steps, 6, every=max(1, steps // 50))}
    of_end = [rates("constant", steps) if end == 1 else rates("wsd", steps, end=end, decay=decay) for end in ends]
    return {
        name: np.array([expected_loss("uniform", one, weights) - expected_loss("ascending", one, weights) for one in of_end])
        for name, weights in kept.items()
    }
