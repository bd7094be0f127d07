"""What the figures do and do not show, in sentences made from the numbers.

Nothing here is written by hand for one outcome: every sentence follows from a comparison and turns with it.
"""

import numpy as np

from kaiyuan_jax.models import flops
from kaiyuan_jax.report import compare
from kaiyuan_jax.report.compare import Group
from kaiyuan_jax.report.forecasts import Forecast
from kaiyuan_jax.report.load import Run, number, peak_rate
from kaiyuan_jax.schedules.laws.named import SCOPE

CAPTIONS = {  # figure -> (title, what to see in it)
    "results": (
        "Held-out bits per byte by recipe",
        "Mean over sources, lower is better. Hollow: final checkpoint; filled: average of checkpoints; ticks: single runs where a recipe "
        "was repeated with another seed, the circle being their mean. Grey line: baseline; grey band: seed noise around it.",
    ),
    "interaction": (
        "What curriculum, decay and averaging did to each other",
        "Left: bits per byte over the learning rate at which the run ended, hollow for the final checkpoint, filled for its average; "
        "circles uniform order, triangles ascending; lines join the runs of one order (cosine apart). Right: what averaging gained over "
        "the final checkpoint of the same run, with the 95% paired interval over documents; dashes are single seeds.",
    ),
    "quality": (
        "Held-out bits per byte by quality",
        "Documents in equal bins of token mass, from the worst to the best by the source's own quality score. Above: each recipe. "
        "Below: difference to the baseline with the 95% paired interval over documents; below 0 is better.",
    ),
    "data_seen": (
        "The data that was seen",
        "What the runs recorded, not what was planned. Above: share of tokens by source. Below: mean quality quantile of what each source "
        "gave at that point, by token mass of its store. Recipes with the same data share a column.",
    ),
    "learning_rate": (
        "Learning rate",
        "Dots and shading: the checkpoints that an average was made of, and the stretch that they span.",
    ),
    "precision": (
        "Room in float16",
        "Headroom: how many bits the largest value of any layer stays below float16's largest number, 65,504; at 0 it overflows. In "
        "float16 also the dynamic loss scale, and the updates skipped so far because the scaled gradient or the loss was not finite.",
    ),
    "forecast": (
        "Forecast and actual loss",
        "Dots: the loss of the run. Line and band: what the law that its config names predicted from the schedule alone, and where 90% of "
        "such runs should lie. Dashed: where the run left the band. Behind, without a scale: the learning rate.",
    ),
    "heldout_loss": (
        "Held-out loss during training",
        "On the same held-out rows throughout. Thin lines are repeats with another seed.",
    ),
    "training_loss": (
        "Training loss by source",
        "Running mean over 5% of the run. Runs of different order read different text at one point, so a lower line may mean easier "
        "text, not a better model. Thin lines are repeats with another seed.",
    ),
}
TABLE_NOTE = (
    "Sources and mean: held-out bits per byte, lower is better, with the 95% interval over documents below. Choice: accuracy on "
    "next-passage questions. To baseline: difference of the mean to the baseline run with the same seeds (or to the first baseline run), "
    "with paired interval."
)


def forecasts(found: list[Forecast]) -> list[str]:
    """Of every run that had a forecast: how far off it was, where the run left the band, and what the law was fitted to."""
    said = []
    for one in found:
        last, error = int(one.curve.steps[-1]), one.predicted[-1] - one.curve.losses[-1]
        inside = ((one.curve.losses >= one.low) & (one.curve.losses <= one.high)).mean()
        text = f"{one.run}: predicted {one.predicted[-1]:.4f} at step {last:,}, was {one.curve.losses[-1]:.4f} ({error:+.4f}); "
        text += f"{inside:.0%} of its points lie in the band. "
        if one.left is None:
            text += "It never left the band for long. "
        else:
            at = int(np.searchsorted(one.curve.steps, one.left))
            side = "above" if one.curve.losses[at] > one.high[at] else "below"
            text += f"It left the band at step {one.left:,}, {side} it. "
        said.append(text + " ".join([f"The law: {one.origin}.", *(f"{doubt}." for doubt in one.doubts)]))
    return [*said, SCOPE] if said else []


def scale(runs: list[Run]) -> str:
    """How small this is, beside where the published effects were seen."""
    sizes = sorted({flops.parameters(run.experiment.model) for run in runs})
    tokens = sorted({run.tokens for run in runs})
    return (
        f"{len(runs)} runs of {_range(sizes)} parameters on {_range(tokens)} tokens. "
        "The published effects of curriculum, decay and averaging (arXiv 2511.18903) were measured at 1.5B parameters and 30B tokens, "
        "with benchmarks; Kaiyuan-2B (arXiv 2512.07612) used 2.0B parameters and 2.2T tokens. "
        "Neither agreement nor disagreement here is evidence about those scales."
    )


def seeds(found: list[Group]) -> str:
    """What the runs that differ only in their seeds say about noise."""
    noise, repeated = compare.seed_noise(found), [group for group in found if group.spread is not None]
    if noise is None:
        return (
            "Seed noise is unknown: no two runs differ in their seeds alone, so no difference between recipes can be told from chance. "
            "Repeat at least one recipe with another config.seed and config.data.seed."
        )
    spread, group = noise
    each = "; ".join(f"{g.label}: {', '.join(f'{m.bits:.4f}' for m in g.models)}" for g in repeated)
    return (
        f"Seed noise: runs that differ in nothing but their seeds lie up to {spread:.4f} bits per byte apart ({group.label}, "
        f"{len(group.models)} runs). All repeats: {each}. With so few repeats the spread itself is rough; the true one may well be larger."
    )


def choice(found: list[Group]) -> str | None:
    """Whether the next-passage task tells the models apart from guessing."""
    means = [(group, model.result["choice"]["mean"]) for group in found for model in group.models if model.result.get("choice")]
    means = [(group, mean) for group, mean in means if mean["accuracy"] is not None]
    if not means:
        return None
    chance, values = means[0][1]["chance"], [mean["accuracy"] for _, mean in means]
    above = sum(bool(mean["interval"]) and mean["interval"][0] > chance for _, mean in means)
    low, high = max(m["interval"][0] for _, m in means if m["interval"]), min(m["interval"][1] for _, m in means if m["interval"])
    apart = "their intervals all overlap, so it does not rank the models" if low <= high else "some of their intervals do not overlap"
    return (
        f"Next-passage choice: accuracy {min(values):.3f} to {max(values):.3f}, guessing gives {chance:.3f}; "
        f"{above} of {len(means)} models are above guessing by their 95% interval ({means[0][1]['questions']} questions each); {apart}."
    )


def headline(verdicts: list[compare.Verdict], baseline: Group) -> str:
    """How many comparisons with the baseline mean anything, and which."""
    if not verdicts:
        return f"Only {baseline.label} was evaluated: there is nothing to compare."
    better = [v for v in verdicts if v.holds and v.value < 0]
    worse = [v for v in verdicts if v.holds and v.value > 0]
    clear = len(better) + len(worse)
    text = f"Against {baseline.label}, {clear} of {len(verdicts)} models differ by more than seed noise with an interval that excludes 0."
    text += f" Better: {_names(better)}." if better else ""
    text += f" Worse: {_names(worse)}." if worse else ""
    rest = len(verdicts) - clear
    return text + (f" For {f'the other {rest}' if clear else 'all of them'}, this experiment does not tell." if rest else "")


def caveats(runs: list[Run]) -> list[str]:
    """Limits of the method that hold whatever came out."""
    peaks = {peak_rate(run.experiment.schedule) for run in runs}
    found = [
        "Held-out text comes from the same sources as the training text. It measures fit to these sources, not knowledge or reasoning.",
        "Training losses of different orders cannot be compared at one step, because the runs read different text there. Only the "
        "held-out figures compare recipes.",
        "The mean over sources counts every source the same, whatever its size. Bits per byte leave out end-of-document tokens.",
        "Intervals are 95% percentile bootstrap over held-out documents, paired where two models are compared. Of twenty comparisons "
        "of equal models, one would exclude 0 by chance; nothing here is corrected for looking at many.",
    ]
    if len(peaks) == 1:
        found.append(f"Every recipe ran at one peak rate, {number(*peaks)}. Rates tuned for each recipe could change the ranking.")
    return found


def _names(verdicts: list[compare.Verdict]) -> str:
    return "; ".join(f"{v.title.split(' against ')[0]} ({v.value:+.4f})" for v in verdicts)


def _range(values: list[int]) -> str:
    short = [_count(value) for value in (values[0], values[-1])]
    return short[0] if short[0] == short[1] else f"{short[0]} to {short[1]}"


def _count(value: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return str(value)
