"""The picture of a designed schedule: its rates beside those of tuned named schedules, and the loss that the law predicts for each."""

import numpy as np

from kaiyuan_jax.report import style
from kaiyuan_jax.report.load import number
from kaiyuan_jax.schedules.laws import forecast
from kaiyuan_jax.schedules.laws.families import Family
from kaiyuan_jax.schedules.laws.fit import Fit
from kaiyuan_jax.schedules.laws.minimize import Design, Problem

SHOWN = 3  # named schedules: the best ones, and the cosine


def draw(fit: Fit, problem: Problem, best: Design, tuned: list[Family]) -> bytes:
    """A PNG: rates on the left over the whole run, on the right where the schedules part; the predicted losses below."""
    named = [family for i, family in enumerate(tuned) if i < SHOWN - 1 or family.name == "cosine"][:SHOWN]
    schedules = {"designed": problem.rates(best.knots, best.values)} | {family.name: family.rates(problem) for family in named}
    colours = style.colours(schedules, style.RECIPE_COLOURS)
    last = problem.steps - 1
    knee = min((family.knee for family in named if family.name.startswith("WSD")), default=problem.first)
    spans = [(0, last), (max(problem.first, last - round(1.4 * (last - knee))), last)]
    with style.settings():
        drawn, axes = style.figure(2, 2, width=4.4, height=2.5, sharex="col")
        for (begin, end), (above, below) in zip(spans, axes.T, strict=True):
            steps = np.unique(np.linspace(max(begin, problem.warmup + 1), end, 600).round().astype(np.int64))
            every = np.unique(np.linspace(begin, end, 1500).round().astype(np.int64))
            lows, highs = [], []
            for name, rates in schedules.items():
                width = 2.2 if name == "designed" else 1.2
                above.plot(every, rates[every], color=colours[name], linewidth=width)
                loss, low, high = forecast.predict(fit, rates, steps)
                if name == "designed":
                    below.fill_between(steps, low, high, color=colours[name], alpha=0.15, linewidth=0)
                below.plot(steps, loss, color=colours[name], linewidth=width)
                late = loss[steps.size // 12 :] if begin == 0 else loss
                lows.append(late.min()), highs.append(late.max())
            below.set_ylim(min(lows) - 0.1 * (max(highs) - min(lows)), max(highs) + 0.05 * (max(highs) - min(lows)))
            above.set_ylim(0, None)
            above.yaxis.set_major_formatter(lambda value, _: number(value))
            below.xaxis.set_major_locator(style.matplotlib.ticker.MaxNLocator(4))
            below.set_xlabel("step")
        axes[0, 0].set_ylabel("learning rate")
        axes[1, 0].set_ylabel("predicted loss")
        axes[0, 0].set_title("the whole run")
        axes[0, 1].set_title("its end")
        style.legend(drawn, colours, columns=len(colours))
        return style.png(drawn)
