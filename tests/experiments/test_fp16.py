"""What the float16 study reads of its runs; that it trains and draws is in tests/launch."""

import json

from kaiyuan_jax.experiments import fp16


def test_a_run_that_stops_before_its_first_line_has_diverged(tmp_path):
    run = fp16.Run("ours", 1e-3, 0, fp16.Study(fp16.QUICK, 1, store="", output=str(tmp_path)))
    run.folder.mkdir(parents=True)
    by_layer = {name: [1.0] for name in ("query", "key", "value", "attention", "gated", "feedforward")} | {"residual": [None]}
    (run.folder / "diverged_1.json").write_text(json.dumps({"step": 1, "largest_by_layer": by_layer}))
    found = fp16.measured(run)
    assert found["diverged"] and found["stopped"] == 1 and found["overflowed"] == "layer 0: residual"
