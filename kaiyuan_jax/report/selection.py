"""What the studies of mixtures and selection say, out of their results.json: sentences, a table and a picture each; Markdown beside it.

A difference is called one where its interval over seeds excludes 0; what only the documents or one seed show is called open.
"""

import json
from pathlib import Path

import numpy as np

from kaiyuan_jax import files
from kaiyuan_jax.report import style
from kaiyuan_jax.report.schedule_study import interval, text


def mixture(folder: str | Path) -> str:
    """Writes mixture.md and mixture.png beside results.json of launch/study_mixture.py; returns the text."""
    results = _read(folder)
    names = results["sources"]
    shares = [
        [name, *(f"{share:.2f}" for share in one["mixture"]), f"{results['predicted'][name]:.4f}", f"{one['loss']['mean']:.4f}",
         interval(one["loss"]["interval"]), *_difference(one["less_equal"], name == "equal")]
        for name, one in results["confirmed"].items()
    ]  # fmt: skip
    header = ["mixture", *names, "predicted", "new models", "95% over seeds", "less equal", "95% over seeds"]
    models = [
        [name, f"{one['penalty']:.3g}", *(f"{one[kind][error]:.4f}" if kind in one else "" for kind in ("left_out", "unseen")
         for error in ("mean_absolute", "of_the_mean", "rank_correlation"))]
        for name, one in results["models"].items()
    ]  # fmt: skip
    columns = ["regression", "penalty", "left out: |error|", "of the mean", "rank corr.", "unseen: |error|", "of the mean", "rank corr."]
    low_high = ", ".join(
        f"{name} {share:.2f} ({low:.2f} to {high:.2f})"
        for name, share, (low, high) in zip(names, results["proposed"], results["interval"], strict=True)
    )
    lines = [
        f"{len(results['mixtures'])} proxies of {results['tokens']:,} tokens, {results['fitted']} of them fitted; "
        f"the {results['chosen']} regression has the smaller error on proxies left out.",
        f"Proposed: {low_high}; in brackets 95% over proxies drawn again.",
        _verdict("the proposed mixture", "equal shares", results["confirmed"]["proposed"]["less_equal"]),
    ]
    parts = [*lines, _block(text(header, shares)), _block(text(columns, models))]
    if by_source := results["models"][results["chosen"]].get("unseen_by_source"):
        found = [[name, *(f"{value:.4f}" for value in one.values())] for name, one in zip(names, by_source, strict=True)]
        parts.append(_block(text(["held-out source, unseen mixtures", "|error|", "of the mean", "rank corr."], found)))
    return _write(folder, "mixture", "\n\n".join(parts), _mixture_figure(results))


def sampling(folder: str | Path) -> str:
    """The same for launch/study_sampling.py."""
    results = _read(folder)
    header = ["store", "read", "mean quantile", "loss", "95% over seeds", "less all alike", "95% over seeds"]
    header += ["on the best fifth", "95% over seeds"]
    rows = []
    for row in results["rows"]:
        loss = [f"{row['loss']['mean']:.4f}", interval(row["loss"]["interval"])]
        own = [row["store"], row["setting"], f"{row['read']['mean_quantile']:.2f}", *loss]
        rows.append([*own, *_difference(row["difference"]), *_difference(row["best_fifth_difference"])])
    lines = []
    for store in dict.fromkeys(row["store"] for row in results["rows"]):
        own = [row for row in results["rows"] if row["store"] == store and row["difference"]]
        for key, what in (("difference", "on held-out text of all qualities"), ("best_fifth_difference", "on its best fifth")):
            best = min(own, key=lambda row: row[key]["mean"])
            lines.append(f"* {store}, {what}: {_verdict(best['setting'], 'all alike', best[key], chosen=len(own))}")
    parts = ["\n".join(lines), _block(text(header, rows))]
    return _write(folder, "sampling", "\n\n".join(parts), _sampling_figure(results))


def metric_weights(folder: str | Path) -> str:
    """The same for launch/study_metric_weights.py."""
    results, rows = _read(folder), []
    for one in results["populations"]:
        for name, own in one["schemes"].items():
            loss = [f"{own['loss']['mean']:.4f}", interval(own["loss"]["interval"])]
            differences = [*_difference(own["less_sma"], name == "sma"), *_difference(own["less_last"], name == "last checkpoint")]
            rows.append([one["population"], name, f"{own['effective_checkpoints']:.2f}", *loss, *differences])
    header = ["population", "weights", "checkpoints in effect", "loss", "95% over members", "less sma", "95% over members"]
    header += ["less last checkpoint", "95% over members"]
    lines = []
    for one in results["populations"]:
        weighted = {name: scheme for name, scheme in one["schemes"].items() if name.startswith("metric")}
        best = min(weighted, key=lambda name: weighted[name]["loss"]["mean"])
        said = [
            _verdict(best, second, weighted[best][key], chosen=len(weighted), over="members")
            for second, key in (("sma", "less_sma"), ("the last checkpoint", "less_last"))
        ]
        lines.append(
            f"* {one['population']} ({len(one['members'])} members, checkpoints {one['steps'][-1]} to {one['steps'][0]}, whose losses lie "
            f"{one['spread_of_checkpoints']:.4f} apart): {' '.join(said)}"
        )
    return _write(folder, "metric_weights", "\n".join(lines) + "\n\n" + _block(text(header, rows)), None)


def loss_difference(folder: str | Path) -> str:
    """The same for launch/study_loss_difference.py."""
    results, found = _read(folder), []
    for name, one in results["settings"].items():
        target = [f"{one['target']['mean']:.4f}", interval(one["target"]["interval"]), *_difference(one["target_difference"])]
        found.append([name, f"{one['target_share']:.2f}", *target, f"{one['others']['mean']:.4f}", *_difference(one["others_difference"])])
    header = ["read of the pool", "target share", "target loss", "95% over seeds", "less at random", "95% over seeds", "other sources"]
    header += ["less at random", "95% over seeds"]
    scores = [[name, f"{one['auc']:.3f}", f"{one['best_tenth']:.2f}"] for name, one in results["scores"].items()]
    pool = results["pool"]
    lines = [
        f"{pool['documents']:,} documents in the pool, {pool['target_documents']:,} of them of the target source ({results['target']}); "
        f"{pool['target_sample']:,} other documents of it make the conditional model."
    ]
    for name in [name for name in results["settings"] if results["settings"][name]["target_difference"]]:
        lines.append("* " + _verdict(name, "at random", results["settings"][name]["target_difference"]))
    parts = [
        "\n".join(lines),
        _block(text(header, found)),
        _block(text(["score", "AUC of the target", "target in the best tenth"], scores)),
    ]
    return _write(folder, "loss_difference", "\n\n".join(parts), None)


def _verdict(first: str, second: str, difference: dict, chosen: int = 1, over: str = "seeds") -> str:
    """What a paired difference of losses allows to be said; `chosen`: of how many the first is the best by this very number."""
    ends, picked = difference["interval"], f", the best of {chosen} by this number," if chosen > 1 else ""
    said = f"{difference['mean']:+.4f} nats per token (95% over {over} {interval(ends, '+.4f') or 'unknown'})"
    if ends and (ends[0] > 0 or ends[1] < 0):
        return f"{first}{picked} is {'better' if difference['mean'] < 0 else 'worse'} than {second} here: {said}."
    return f"No conclusion between {first}{picked} and {second}: {said}."


def _difference(one: dict | None, itself: bool = False) -> list[str]:
    return ["", ""] if one is None or itself else [f"{one['mean']:+.4f}", interval(one["interval"], "+.4f")]


def _block(table: str) -> str:
    return f"```\n{table}\n```"


def _read(folder) -> dict:
    return json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))


def _write(folder, name: str, body: str, picture: bytes | None) -> str:
    if picture:
        files.replace(Path(folder) / f"{name}.png", picture)
    files.replace(Path(folder) / f"{name}.md", body + "\n")
    return body


def _mixture_figure(results: dict) -> bytes:
    """Left: predicted against actual loss of proxies, each predicted without itself. Right: the proposed shares."""
    losses_N = np.array(results["losses"]).mean(axis=1)
    seen = results["fitted"]
    predicted_N = np.array(results["models"][results["chosen"]]["predicted"])
    with style.settings():
        drawn, axes = style.figure(1, 2, width=4.4, height=3.3)
        left, right = axes[0]
        left.plot(losses_N[:seen], predicted_N[:seen], "o", color=style.FAINT, markersize=4, label="fitted")
        left.plot(losses_N[seen:], predicted_N[seen:], "D", color=style.RECIPE_COLOURS[1], markersize=5, label="not fitted")
        ends = [min(losses_N.min(), predicted_N.min()), max(losses_N.max(), predicted_N.max())]
        left.plot(ends, ends, color=style.INK, linewidth=0.8)
        left.locator_params(nbins=5)
        left.set_xlabel("held-out nats per token of a proxy")
        left.set_ylabel("predicted")
        left.legend()
        place = np.arange(len(results["sources"]))
        low, high = np.array(results["interval"]).T
        right.vlines(place, low, high, color=style.RECIPE_COLOURS[0], linewidth=3, alpha=0.5)
        right.plot(place, results["proposed"], "o", color=style.RECIPE_COLOURS[0], label="proposed, 95%")
        right.plot(place, results["best_proxy"], "x", color=style.INK, label="best proxy")
        right.set_xticks(place, results["sources"])
        right.set_ylabel("share")
        right.legend()
        return style.png(drawn)


def _sampling_figure(results: dict) -> bytes:
    """Differences to reading all alike, from the flattest setting to the steepest."""
    stores = list(dict.fromkeys(row["store"] for row in results["rows"]))
    with style.settings():
        drawn, axes = style.figure(1, len(stores), width=4.4, height=3.3)
        for axis, store in zip(axes[0], stores, strict=True):
            own = [row for row in results["rows"] if row["store"] == store and row["difference"]]
            for shift, key, label, colour in (
                (-0.1, "difference", "all qualities", style.RECIPE_COLOURS[0]),
                (0.1, "best_fifth_difference", "best fifth", style.RECIPE_COLOURS[1]),
            ):
                place = np.arange(len(own)) + shift
                axis.plot(place, [row[key]["mean"] for row in own], "o", color=colour, label=label)
                for at, row in zip(place, own, strict=True):
                    axis.plot([at, at], row[key]["interval"], color=colour, linewidth=1.4)
            axis.axhline(0, color=style.INK, linewidth=0.8)
            axis.set_xticks(range(len(own)), [row["setting"].replace(" ", "\n") for row in own])
            axis.set_title(store)
        axes[0][0].set_ylabel("held-out nats per token,\nless all alike")
        axes[0][0].legend()
        return style.png(drawn)
