"""What 2511.18903 found, as tests on held-out losses, and its two tables as rows to set ours beside.

The notes that we have on the paper do not number its findings. These are the six that they report, as we read them, and two more that are
about folding and about averages that imitate a decay. Every test is a contrast that the paper's finding makes negative.
"""

import dataclasses

from kaiyuan_jax.experiments.curriculum import NEAR_ZERO, Recipe

WSD = f"wsd_{NEAR_ZERO}"
MODERATE = "wsd_3"


@dataclasses.dataclass(frozen=True)
class Kept:
    """A recipe under one average of its last checkpoints."""

    recipe: Recipe
    average: str

    def __str__(self) -> str:
        return f"{self.recipe.order} {self.recipe.schedule} {self.average}"


@dataclasses.dataclass(frozen=True)
class Test:
    claim: str
    terms: tuple[tuple[float, Kept], ...]  # the claim: the sum of sign times loss is below 0


@dataclasses.dataclass(frozen=True)
class Finding:
    title: str
    tests: tuple[Test, ...]
    extra: bool = False  # beside the six


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of one of the paper's tables, with its mean over eight tasks less that of the first row, in points (above 0: better)."""

    kept: Kept
    paper: float | None


def kept(order: str, schedule: str, average: str = "none") -> Kept:
    return Kept(Recipe(order, schedule), average)


def better(claim: str, first: Kept, second: Kept) -> Test:
    return Test(claim, ((1, first), (-1, second)))


BASELINE = kept("uniform", WSD)
BASELINE_PHASES = kept("U,U", WSD)
IMITATED = kept("ascending", "constant", "wma")

TABLES = {
    "one phase": (
        Row(BASELINE, None),
        Row(kept("uniform", "cosine"), -1.43),
        Row(kept("ascending", WSD), -0.22),
        Row(kept("uniform", "constant", "ema"), -0.62),
        Row(kept("ascending", "constant", "sma"), 0.38),
        Row(kept("ascending", "constant", "ema"), 0.39),
        Row(kept("ascending", MODERATE, "ema"), 1.68),
    ),
    "two phases": (
        Row(BASELINE_PHASES, None),
        Row(kept("A-T", WSD), 0.52),
        Row(kept("U,A", "constant", "ema"), -0.04),
        Row(kept("A,A", "constant", "ema"), 1.20),
        Row(kept("A-T", "constant", "ema"), 1.20),
        Row(kept("A-T", "constant", "sma"), 1.20),
    ),
}

FINDINGS = (
    Finding(
        "At a constant rate ascending order beats uniform order",
        (better("ascending is better than uniform, constant rate", kept("ascending", "constant"), kept("uniform", "constant")),),
    ),
    Finding(
        "A decay takes that gain away: the gap shrinks as the end rate falls",
        (
            Test(
                "the gap at 1/300 is smaller than at a constant rate",
                (
                    (1, kept("uniform", WSD)), (-1, kept("ascending", WSD)),
                    (-1, kept("uniform", "constant")), (1, kept("ascending", "constant")),
                ),
            ),
        ),
    ),
    Finding(
        "Uniform order wants an end rate near zero, ascending order a moderate one",
        (
            better("uniform is better with 1/300 than with 1/3", kept("uniform", WSD), kept("uniform", MODERATE)),
            better("ascending is better with 1/3 than with 1/300", kept("ascending", MODERATE), kept("ascending", WSD)),
        ),
    ),
    Finding(
        "An average in place of the decay keeps the gain: constant + ascending + average beats WSD + uniform",
        (
            better("EMA, ascending, constant is better than uniform, 1/300", kept("ascending", "constant", "ema"), BASELINE),
            better("SMA, ascending, constant is better than uniform, 1/300", kept("ascending", "constant", "sma"), BASELINE),
            better("uniform, 1/300 is better than EMA, uniform, constant", BASELINE, kept("uniform", "constant", "ema")),
        ),
    ),
    Finding(
        "A moderate decay, ascending order and an average together are best",
        (
            better("EMA, ascending, 1/3 is better than uniform, 1/300", kept("ascending", MODERATE, "ema"), BASELINE),
            better(
                "EMA, ascending, 1/3 is better than EMA, ascending, constant",
                kept("ascending", MODERATE, "ema"), kept("ascending", "constant", "ema"),
            ),
        ),
    ),
    Finding(
        "In two phases the whole run has to be sorted, not its end alone",
        (
            better("EMA, A-T, constant is better than U,U, 1/300", kept("A-T", "constant", "ema"), BASELINE_PHASES),
            better("EMA, A,A, constant is better than U,U, 1/300", kept("A,A", "constant", "ema"), BASELINE_PHASES),
            better("EMA, A,A is better than EMA, U,A, both constant", kept("A,A", "constant", "ema"), kept("U,A", "constant", "ema")),
        ),
    ),
    Finding(
        "Folding softens both sides",
        (
            better("ascending is better than folded, constant rate", kept("ascending", "constant"), kept("folded", "constant")),
            better("folded is better than ascending, cosine", kept("folded", "cosine"), kept("ascending", "cosine")),
            better("uniform is better than folded, cosine", kept("uniform", "cosine"), kept("folded", "cosine")),
        ),
        extra=True,
    ),
    Finding(
        "An average that imitates a decay wastes the end as the decay does",
        (
            better("EMA is better than WMA, ascending, constant", kept("ascending", "constant", "ema"), IMITATED),
            better("SMA is better than WMA, ascending, constant", kept("ascending", "constant", "sma"), IMITATED),
        ),
        extra=True,
    ),
)  # fmt: skip
