import json

import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.report import build, fp16_study, training_figures
from kaiyuan_jax.report.load import load

TENSORS = ("residual", "attention", "gated", "feedforward", "scores", "logits")


def run(variant, seed, stopped=None):
    count = 6 if stopped else 10
    top = {name: 100.0 * (seed + 1) for name in TENSORS}
    curves = {f"largest/{name}": [10.0 * (i + 1) for i in range(count - 1)] + [None if stopped else top[name]] for name in TENSORS}
    curves |= {"step": list(range(count)), "loss": [7.0 - 0.1 * i for i in range(count)], "headroom": [3.0] * count}
    curves |= {"loss_scale": [2.0**15] * count, "skipped": [0] * count}
    facts = {
        "variant": variant,
        "peak": 0.1,
        "seed": seed,
        "stopped": stopped,
        "diverged": bool(stopped),
        "seconds": 90.0,
        "curves": curves,
    }
    counts = {"skipped": 17 if stopped else 1, "nonfinite_loss": 17 if stopped else 0}
    ends = {"final_loss": None if stopped else 5.25, "headroom": 0.0 if stopped else 3.0, "largest": top}
    ends |= {"overflowed": "layer 1: gated" if stopped else None}
    return facts | counts | ends | {"by_layer": {name: [1.0, None if stopped else value] for name, value in top.items()}}


def test_figures_and_table_hold_every_variant(tmp_path):
    runs = [run(name, seed, stopped=60 if name == "none" else None) for name in fp16_study.LABELS for seed in (0, 1)]
    (tmp_path / "results.json").write_text(json.dumps({"runs": runs}))
    table = fp16_study.build(tmp_path / "results.json")
    assert table.startswith(
        "Learning rate 0.1 (14 runs, 21 minutes of training by their own clocks, without compilation; the longest 1.5):"
    )
    rows = {line.split(" | ")[0].lstrip("| "): line for line in table.splitlines()[4:] if line}
    assert list(rows) == list(fp16_study.LABELS.values())
    assert "| 17 / 17 | 17 / 17 | 60 / 60 | layer 1: gated / layer 1: gated | 0.0 / 0.0 | 100 / 200 |" in rows["without all three"]
    assert "| 1 / 1 | 0 / 0 | no / no | - / - | 3.0 / 3.0 | 100 / 200 |" in rows["recipe"] and rows["recipe"].endswith("| 5.25 / 5.25 |")
    for name in ("curves_0.1.png", "layers_0.1.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("half", [True, False])
def test_the_page_shows_headroom_where_it_was_measured(make_run, tmp_path, half):
    folder = make_run("measured", 0.0, evaluated=False)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    random = np.random.default_rng(0)
    added = {"headroom": float(random.uniform(3, 8))} | ({"loss_scale": 2.0**15, "skipped": 1} if half else {})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line | added) + "\n" for line in lines))
    if half:
        made = config.read(folder / "config.json")
        made.precision.compute = "float16"
        (folder / "config.json").write_text(config.to_json(made))
    assert training_figures.precision(load([folder])).startswith(b"\x89PNG")
    path, _ = build.build([folder], tmp_path)
    assert "Room in float16" in path.read_text(encoding="utf-8") and (tmp_path / "precision.png").exists()
