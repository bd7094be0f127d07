"""How the figures look: one colour for each recipe and one for each source, the same on every figure; labels beside the lines they name."""

import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

# Both sets are told apart with the common colour blindnesses; recipes are saturated, sources muted, so that the two are not mixed up.
RECIPE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7A5C00", "#56B4E9", "#4D4D4D", "#E69F00")
SOURCE_COLOURS = ("#5B7FA6", "#C4A35A", "#7FA67A", "#B0728C", "#6CA6A1", "#A58B78", "#8E86B5", "#9A9A9A")
INK, FAINT = "#222222", "#8A8A8A"
ORDER_MARKERS = {"uniform": "o", "ascending": "^", "descending": "v", "folded": "D"}

SETTINGS = {
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 160,
}


def colours(names, palette) -> dict[str, str]:
    """A colour for each name by its place; beyond the palette they repeat."""
    return {name: palette[i % len(palette)] for i, name in enumerate(names)}


def settings():
    """Everything is drawn inside `with settings():`; the caller's matplotlib settings stay as they were."""
    return plt.rc_context(SETTINGS)


def figure(rows: int, columns: int, *, width: float, height: float, **options):
    """A figure of equal panels, inches each; axes always as a 2-D array."""
    return plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False, **options)


def widths(count: int) -> list[float]:
    """Line widths that leave every one of `count` lines visible where they lie on top of one another: the first drawn is the widest."""
    return [1.6 + 0.9 * (count - 1 - i) if count < 6 else 1.6 for i in range(count)]


def png(drawn) -> bytes:
    """The PNG of a figure, without dates or addresses in it; closes the figure."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    plt.close(drawn)
    return buffer.getvalue()


def tokens_axis(axis, largest: float) -> None:
    """Labels an x axis that counts tokens, in the unit that suits its end."""
    unit, name = next(
        ((u, n) for u, n in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e3, "thousand")) if largest >= u), (1, "")
    )
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    axis.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x / unit:g}"))
    axis.set_xlabel(f"tokens seen ({name})" if name else "tokens seen")
    axis.set_xlim(0, largest * 1.02)


def label_ends(axis, ends, *, gap: float = 0.065, size: float = 9.5) -> None:
    """Names lines at their right ends. ends: [(y, text, colour)]; labels are pushed apart to `gap` of the axis' height."""
    low, high = axis.get_ylim()
    places = sorted(((np.clip((y - low) / (high - low), 0, 1), text, colour) for y, text, colour in ends), key=lambda place: place[0])
    heights = spread([place[0] for place in places], gap)
    for (_, text, colour), height in zip(places, heights, strict=True):
        axis.annotate(
            text, (1, height), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points", color=colour, va="center", fontsize=size
        )


def spread(heights, gap: float) -> list[float]:
    """Ascending heights moved as little as it takes to lie `gap` apart."""
    groups: list[tuple[float, int]] = []  # (centre, members) of labels that have been pushed together
    for height in heights:
        groups.append((height, 1))
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (groups[-1][1] + groups[-2][1]) / 2:
            (second, m), (first, n) = groups.pop(), groups.pop()
            groups.append(((first * n + second * m) / (n + m), n + m))
    return [centre + gap * (i - (members - 1) / 2) for centre, members in groups for i in range(members)]


def legend(drawn, entries: dict[str, str], columns: int = 2) -> None:
    """One legend for a whole figure, above its panels: text -> colour."""
    handles = [matplotlib.lines.Line2D([], [], color=colour, linewidth=3) for colour in entries.values()]
    drawn.legend(handles, list(entries), loc="outside upper left", ncols=columns, handlelength=1.2, columnspacing=1.6)


def smooth(values, share: float = 0.04) -> np.ndarray:
    """Centred running mean over `share` of the points (at least one); windows shrink at the ends."""
    values = np.asarray(values, np.float64)
    half = int(len(values) * share / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(np.minimum(index, len(values) - 1 - index), half)
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)
