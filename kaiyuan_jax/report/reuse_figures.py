"""Figures of the study of reuse: both simulated regimes, real loss curves, E(K, N) with bands."""

import numpy as np

from kaiyuan_jax.report import style

COLOURS = style.RECIPE_COLOURS
LAW = style.FAINT


def convex(found: dict) -> bytes:
    """Left: E over K for every N. Right: its plateau over ln N, beside the slope that theory gives."""
    rows, epochs = found["rows"], np.array(found["epochs"])
    with style.settings():
        drawn, axes = style.figure(1, 2, width=4.6, height=3.4)
        _families(axes[0, 0], rows, epochs)
        right, samples = axes[0, 1], np.array([row["samples"] for row in rows])
        saturated = np.array([row["saturated"] for row in rows])
        right.semilogx(samples, saturated, "o-", color=style.INK)
        right.semilogx(samples, saturated[-1] + found["slope_theory"] * np.log(samples / samples[-1]), "--", color=LAW)
        right.set_xlabel("fresh samples N")
        right.set_ylabel("E at K = infinity")
        style.legend(drawn, _names(rows) | {"plateau": style.INK, "slope tr(H) / (4 l d), through the last": LAW}, columns=4)
        return style.png(drawn)


def zipf(found: dict) -> bytes:
    """Left: E over K. Right: the plateau over N in logarithms, beside the exponent that theory gives."""
    rows, epochs = found["rows"], np.array(found["epochs"])
    with style.settings():
        drawn, axes = style.figure(1, 2, width=4.6, height=3.4)
        _families(axes[0, 0], rows, epochs)
        right, samples, saturated = axes[0, 1], np.array(found["samples"]), np.array(found["saturated"])
        theory = found["exponents"]["E_sat"]["theory"]
        right.loglog(samples, saturated, "o-", color=style.INK)
        right.loglog(samples, saturated[-1] * (samples / samples[-1]) ** theory, "--", color=LAW)
        right.set_xlabel("fresh samples N")
        right.set_ylabel("E after very many epochs")
        style.legend(drawn, _names(rows) | {"plateau": style.INK, f"exponent {theory:.3f}, through the last": LAW}, columns=3)
        return style.png(drawn)


def curves(found: dict) -> bytes:
    """Held-out loss over tokens read: one pass and every N; lines are means over seeds, points single seeds."""
    tokens, sizes = np.array(found["tokens"]), [size["fresh"] for size in found["sizes"]]
    once, again = np.array(found["one_pass"]), np.array(found["repeated"])
    with style.settings():
        drawn, axes = style.figure(1, 1, width=6.6, height=3.8)
        axis = axes[0, 0]
        entries = {"one pass": style.INK}
        for number, fresh in enumerate(sizes):
            colour = COLOURS[number]
            axis.semilogx(tokens, again[:, number].mean(axis=0), color=colour)
            axis.semilogx(tokens, again[:, number].T, "o", color=colour, markersize=2.2, alpha=0.5)
            entries[f"{fresh:,} tokens again and again"] = colour
        axis.semilogx(tokens, once.mean(axis=0), color=style.INK)
        axis.semilogx(tokens, once.T, "o", color=style.INK, markersize=2.2, alpha=0.5)
        axis.set_xlabel("tokens read")
        axis.set_ylabel("held-out nats per token")
        style.legend(drawn, entries, columns=2)
        return style.png(drawn)


def reuse(found: dict) -> bytes:
    """E over K, a panel for every N: value, band and seeds, beside E = K and the law of 2305.16264."""
    with style.settings():
        drawn, axes = style.figure(1, len(found["sizes"]), width=3.4, height=3.3, sharex=True, sharey=True)
        for number, (axis, size) in enumerate(zip(axes[0], found["sizes"], strict=True)):
            epochs, colour = np.array(size["epochs"]), COLOURS[number]
            axis.loglog(epochs, epochs, color=style.FAINT, linewidth=1, linestyle=":")
            axis.loglog(epochs, size["law"], color=LAW, linestyle="--")
            low, high = (np.array([np.nan if band[end] is None else band[end] for band in size["bands"]]) for end in (0, 1))
            axis.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
            for seed in size["seeds"]:
                axis.loglog(epochs, _numbers(seed), "o", color=colour, markersize=2.4, alpha=0.6)
            axis.loglog(epochs, _numbers(size["reuse"]), color=colour)
            axis.set_title(f"N = {size['fresh']:,} tokens")
            axis.set_xlabel("epochs K")
        for axis in axes[0]:
            _doubling(axis, max(found["sizes"][0]["epochs"]))
        axes[0, 0].set_ylabel("effective reuse E(K, N)")
        entries = {"E, band 95%, seeds (points)": COLOURS[0], "E = K (dotted), 2305.16264 (dashed)": LAW}
        style.legend(drawn, entries, columns=2)
        return style.png(drawn)


def _families(axis, rows: list[dict], epochs: np.ndarray) -> None:
    for number, row in enumerate(rows):
        axis.loglog(epochs, _numbers(row["reuse"]), color=COLOURS[number % len(COLOURS)])
    axis.loglog(epochs, np.minimum(epochs, max(max(row["reuse"]) for row in rows)), color=style.FAINT, linewidth=1, linestyle=":")
    _doubling(axis, epochs[-1], step=4)
    axis.set_xlabel("epochs K")
    axis.set_ylabel("effective reuse E(K, N)")


def _doubling(axis, largest: float, step: int = 2) -> None:
    """Ticks at powers of `step` in plain numbers, on both logarithmic axes."""
    ticks = [step**power for power in range(1 + int(np.log(largest) / np.log(step)))]
    low, high = axis.get_ylim()
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    heights = [2**power for power in range(-3, 12) if low <= 2**power <= high]
    axis.set_yticks(heights, [f"{height:g}" for height in heights])
    axis.minorticks_off()


def _names(rows: list[dict]) -> dict[str, str]:
    return {f"N = {row['samples']:,}": COLOURS[number % len(COLOURS)] for number, row in enumerate(rows)}


def _numbers(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)
