"""Figures of the study of curriculum x decay x averaging: the gap by end rate, losses by recipe, and the quadratic model."""

import numpy as np

from kaiyuan_jax.report import style

ORDERS = ("uniform", "ascending", "descending", "folded")
ENDS = ("constant", "wsd_3", "wsd_10", "wsd_30", "wsd_100", "wsd_300")
TICKS = ("1", "1/3", "1/10", "1/30", "1/100", "1/300")
COLOURS = dict(zip(ORDERS, style.RECIPE_COLOURS, strict=False))
SHOWN = {"none": "last checkpoint", "ema": "EMA of the last ones", "sma": "their mean", "wma": "WMA"}
AVERAGE_COLOURS = dict(zip(SHOWN, style.RECIPE_COLOURS[3:7], strict=True))


def gaps(results: dict) -> bytes:
    """A panel a corpus: loss of uniform less that of ascending against the end rate, one line an average."""
    corpora, places = results["corpora"], np.arange(len(TICKS))
    with style.settings():
        drawn, axes = style.figure(1, len(corpora), width=5.0, height=3.4)
        for axis, (name, corpus) in zip(axes[0], corpora.items(), strict=True):
            axis.axhline(0, color=style.INK, linewidth=1)
            for number, average in enumerate(SHOWN):
                rows, colour, shift = corpus["gaps"][average], AVERAGE_COLOURS[average], (number - 1.5) * 0.08
                axis.plot(places + shift, [row["mean"] for row in rows], "o-", color=colour, markersize=4)
                for place, row in zip(places, rows, strict=True):
                    axis.plot([place + shift] * 2, row["interval"] or [np.nan] * 2, color=colour, linewidth=1)
            axis.set_xticks(places, TICKS)
            axis.set_xlabel("end rate, of the peak")
            axis.set_title(name)
        axes[0][0].set_ylabel("uniform less ascending, nats per token")
        style.legend(drawn, {words: AVERAGE_COLOURS[average] for average, words in SHOWN.items()}, columns=2 * len(corpora))
        return style.png(drawn)


def losses(results: dict) -> bytes:
    """A row a corpus, a panel an average: loss against the end rate, one line an order; the cosine as a mark on the right."""
    corpora, shown = results["corpora"], ("none", "ema", "wma")
    with style.settings():
        drawn, axes = style.figure(len(corpora), len(shown), width=3.6, height=2.9, sharey="row", sharex=True)
        for line, corpus in zip(axes, corpora.values(), strict=True):
            for axis, average in zip(line, shown, strict=True):
                for order in ORDERS:
                    means = [corpus["losses"][f"{order} {schedule} {average}"]["mean"] for schedule in (*ENDS, "cosine")]
                    axis.plot(range(len(ENDS)), means[:-1], f"{style.ORDER_MARKERS[order]}-", color=COLOURS[order], markersize=4)
                    axis.plot(len(ENDS) + 0.3, means[-1], style.ORDER_MARKERS[order], color=COLOURS[order], markersize=6)
        for axis, average in zip(axes[0], shown, strict=True):
            axis.set_title(SHOWN[average])
        for axis in axes[-1]:
            axis.set_xticks([*range(len(ENDS)), len(ENDS) + 0.3], [*TICKS, "cosine"], fontsize=8)
            axis.set_xlabel("end rate, of the peak")
        for line, name in zip(axes, corpora, strict=True):
            line[0].set_ylabel(f"{name}: nats per token")
        style.legend(drawn, COLOURS, columns=4)
        return style.png(drawn)


def quadratic(results: dict) -> bytes:
    """Expected loss of the quadratic model against the number of samples, with the exponents over the largest sizes."""
    found = results["quadratic"]
    colours = style.colours(found["losses"], style.RECIPE_COLOURS)
    with style.settings():
        drawn, axes = style.figure(1, 1, width=6.2, height=3.6)
        axis = axes[0][0]
        for name, values in found["losses"].items():
            axis.loglog(found["sizes"], values, "o-", color=colours[name], markersize=4)
        axis.set_xlabel("samples M")
        axis.set_ylabel("expected loss")
        style.legend(drawn, {f"{name}: M^{found['exponents'][name]:.2f}": colour for name, colour in colours.items()}, columns=2)
        return style.png(drawn)
