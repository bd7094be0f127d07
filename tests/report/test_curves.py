"""Loss curves out of run folders: the schedule is the config's, and every loss is laid on the update whose weights it is of."""

import json

import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.config import UserError
from kaiyuan_jax.report import curves
from kaiyuan_jax.schedules import build

STEPS, EVERY, SLOPE = 300, 10, 1e-3


def loss_after(updates):
    """Of weights that have felt so many updates; linear, so that a window's mean is the loss of its middle."""
    return 5 - SLOPE * np.asarray(updates, float)


def make_run(folder, *, steps=STEPS, every=EVERY, done=None, tokens=STEPS * 16 * 128, plan=True, offset=0.0):
    """A run that logged `done` of `steps` updates; `offset` is added to the rates it logged."""
    data = config.Data(
        sources=[config.Source(name="a")], phases=[config.Phase(uses=[config.Use(source="a")], tokens=tokens)], batch_size=16
    )
    experiment = config.Experiment(data=data, schedule=config.Schedule(kind="cosine", peak=1e-3, end=1e-5, warmup=20))
    schedule = build.build(experiment.schedule, steps, batch_size=16, sequence_length=128)
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json(experiment))
    if plan:
        (folder / "plan.txt").write_text(f"name\n  steps       {steps:,} of 2,048 tokens (16 rows of 128)\n")
    lines, before = [], 0
    for after in [step for step in range(1, (done or steps) + 1) if step % every == 0 or step == steps]:
        felt = np.arange(before, after)  # update u is measured on weights that have felt u updates
        rate = float(schedule(after - 1)) + offset
        lines.append({"step": after, "loss": loss_after(felt).mean(), "loss/a": 1 + loss_after(felt).mean(), "learning_rate": rate})
        if after % 50 == 0:
            lines.append({"step": after, "heldout/a": loss_after(after), "heldout/mean": loss_after(after)})
        before = after
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("every", [1, 7, 10, 50])
@pytest.mark.parametrize("loss", ["train", "loss/a", "heldout/mean", "heldout/a"])
def test_every_loss_is_of_the_weights_of_its_step(tmp_path, every, loss):
    samples, rates = curves.read(make_run(tmp_path / "x", every=every), loss)
    # At step s the updates 0 to s have been felt, s + 1 of them; half a step is lost to rounding.
    expected = loss_after(samples.steps + 1) + (loss == "loss/a")
    np.testing.assert_allclose(samples.losses, expected, atol=0.51 * SLOPE if "heldout" not in loss else 1e-12)
    assert samples.name == "x" and samples.rates is None and len(samples.checksum) == 64 and rates.size == STEPS


def test_a_line_whose_updates_were_all_skipped_has_no_loss_and_moves_no_other(tmp_path):
    whole, rates = curves.read(make_run(tmp_path / "x", every=10), "train")
    record = make_run(tmp_path / "y", every=10) / "metrics.jsonl"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    bare = [{k: v for k, v in line.items() if not k.startswith("loss")} if line["step"] in (10, 50) else line for line in lines]
    record.write_text("".join(json.dumps(line) + "\n" for line in bare))
    found, same = curves.read(tmp_path / "y", "train")
    kept = ~np.isin(np.arange(whole.steps.size), (0, 4))
    np.testing.assert_array_equal(found.steps, whole.steps[kept])
    np.testing.assert_array_equal(found.losses, whole.losses[kept])
    np.testing.assert_array_equal(same, rates)


def test_a_loss_of_untrained_weights_is_left_out(tmp_path):
    samples, _ = curves.read(make_run(tmp_path / "x", every=1))
    assert samples.steps[0] == 0 and samples.steps.size == STEPS - 1


@pytest.mark.parametrize(
    "change", [{}, {"plan": False}, {"tokens": 0}, {"tokens": 0, "plan": False}, {"done": 150}, {"done": 150, "tokens": 0}]
)
def test_the_schedule_is_that_of_the_whole_run_wherever_its_length_is_written(tmp_path, change):
    _, rates = curves.read(make_run(tmp_path / "x", **change))
    expected = build.rates(config.Schedule(kind="cosine", peak=1e-3, end=1e-5, warmup=20), STEPS, batch_size=16, sequence_length=128)
    np.testing.assert_array_equal(rates, expected)


def test_a_schedule_that_is_not_what_was_logged_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"over 300 steps it has the rate 0.00045 at step 10, logged 0.00046"):
        curves.read(make_run(tmp_path / "x", offset=1e-5))
    with pytest.raises(UserError, match="its config's schedule is not the one it logged"):
        curves.read(make_run(tmp_path / "y", done=150, tokens=0, plan=False))  # nothing says how long it would have been


def test_a_run_without_that_loss_names_those_it_has(tmp_path):
    with pytest.raises(UserError, match="--loss=heldout/b is not in its metrics, must be one of train, heldout/a, heldout/mean, loss/a"):
        curves.read(make_run(tmp_path / "x"), "heldout/b")
    (tmp_path / "x" / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="no training loss in metrics.jsonl"):
        curves.read(tmp_path / "x")


def test_a_folder_offers_its_files_and_runs_by_name(tmp_path):
    make_run(tmp_path / "run")
    (tmp_path / "a.csv").write_text("step,lr,loss\n5,1e-3,3\n")
    (tmp_path / "LICENSE").write_text("free")
    assert curves.find(tmp_path) == {"a": tmp_path / "a.csv", "run": tmp_path / "run"}
    assert curves.find(tmp_path / "run") == {"run": tmp_path / "run"}
    assert curves.read(tmp_path / "a.csv")[1] is None
    (tmp_path / "a.parquet").write_text("")
    with pytest.raises(UserError, match="both called a; rename one"):
        curves.find(tmp_path)
    (tmp_path / "empty").mkdir()
    for wrong in ("empty", "nowhere"):
        with pytest.raises(UserError, match=f"--curves: .*{wrong}"):
            curves.find(tmp_path / wrong)


def test_folders_called_like_a_file_are_no_curves_and_a_link_to_nothing_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("step,lr,loss\n")
    (tmp_path / "b.csv").mkdir()
    assert list(curves.find(tmp_path)) == ["a"]
    (tmp_path / "c.csv").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match="c.csv is a link to nothing; mend or remove it"):
        curves.find(tmp_path)
