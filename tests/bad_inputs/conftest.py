"""What every mistake in these tables goes through.

A `Case` says what is done to a folder of good things (`spoil`), which tool is then started with which flags, and what it must say. The
proof is the same for all: exit code 2, the lines said and no others (each begins with "error: "), no traceback, and a folder in which
every file and folder is, byte for byte, what it was before: nothing half-written, no temporary name.

The tools run in this process (tests/scripts.py); test_processes.py starts a few as users do.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.bad_inputs.cases import Case, tree_of
from tests.scripts import start

VOCABULARY = 280


# A store, a run that was trained, its export, curves, a law, a schedule and raw text, each as small as it can be


def experiment(folder=Path()):
    from kaiyuan_jax import config

    sources = [config.Source(name="code", path=str(folder / "store"), heldout=str(folder / "heldout"))]
    phases = [config.Phase(uses=[config.Use(source="code", passes=2.0)], tokens=10 * 8 * 16)]
    return config.Experiment(
        name="tiny",
        output="runs/new",
        model=config.Model(layers=1, width=8, feedforward=8, heads=1, kv_heads=1, head_size=8, vocabulary=VOCABULARY),
        data=config.Data(sources=sources, phases=phases, sequence_length=16, batch_size=8),
        schedule=config.Schedule(warmup=2),
        checkpoint=config.Checkpoint(every=5, keep=8),
        evaluation=config.Evaluation(rows=4, batch_size=8, context=8, continuation=4),
        logging=config.Logging(tensorboard=False),
    )


def _store(folder: Path, seed: int, documents: int) -> None:
    from kaiyuan_jax.data.store_write import write_store

    random = np.random.default_rng(seed)
    rows = [(f"d{i}", i / documents, 30, random.integers(1, VOCABULARY, 30)) for i in range(documents)]
    write_store(folder, documents=rows, tokenizer_json=_tokenizer(), vocabulary=VOCABULARY, eod=0)


def _tokenizer() -> str:
    from kaiyuan_jax.data.prepare import tokenizer

    return tokenizer.train(["the sea and the shore and the sea"] * 20, VOCABULARY).to_str()


def _run(folder: Path) -> None:
    import jax

    from kaiyuan_jax import config
    from kaiyuan_jax.models import decoder
    from kaiyuan_jax.training import checkpoint

    made = experiment()
    _, abstract = decoder.abstract(made.model, made.precision)
    leaves = {
        "/".join(str(key.key) for key in path): np.full(leaf.shape, 0.01, leaf.dtype)
        for path, leaf in jax.tree_util.tree_flatten_with_path(abstract)[0]
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json(made))
    (folder / "tokenizer.json").write_text(_tokenizer())
    for step in (5, 10):
        checkpoint.save_parameters(folder / "checkpoints" / str(step), dict(leaves), {"step": step})
    lines = [{"step": step, "loss": 4.0 - step / 10, "learning_rate": 1e-3} for step in range(1, 11)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _curves(folder: Path) -> None:
    from kaiyuan_jax.schedules import file
    from kaiyuan_jax.schedules.laws import artefact, catalogue
    from kaiyuan_jax.schedules.laws.fit import Fit

    (folder / "curves").mkdir()
    steps = np.arange(10, 400, 5)
    for name, end in (("constant", 1e-3), ("decay", 1e-4), ("deep", 1e-5)):
        rates = np.interp(steps, [0, 200, 400], [1e-3, 1e-3, end])
        rows = "".join(f"{s},{r:.9g},{3 + 2 / np.sqrt(s) - 20 * (1e-3 - r):.6f}\n" for s, r in zip(steps, rates, strict=True))
        (folder / "curves" / f"{name}.csv").write_text("step,lr,loss\n" + rows)
    law = catalogue.LAWS["multi_power"]
    values = dict(L0=3.0, A=0.5, alpha=0.5, B=500.0, C=2.0, beta=0.5, gamma=0.5)
    reach = {"updates": 400, "summed_rate": 0.4, "peaks": [1e-3, 1e-3]}
    fit = Fit(law, "robust", law.theta(values), 0.1, ("constant",), None, {"loss": "train", "reach": reach}, {"residual": 0.01})
    artefact.write(folder / "law.json", artefact.tree(fit, []))
    file.write(folder / "schedule.json", [0, 2, 9], [0.0, 1e-3, 1e-5])


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The good folder that every case gets a copy of."""
    folder = tmp_path_factory.mktemp("good")
    _store(folder / "store", 0, 40)
    _store(folder / "heldout", 1, 10)
    _run(folder / "runs" / "trained")
    _curves(folder)
    (folder / "experiment.py").write_text(
        "from kaiyuan_jax import config\n\n\ndef get_config(name='experiment.json'):\n    return config.read(name)\n"
    )
    from kaiyuan_jax import config

    (folder / "experiment.json").write_text(config.to_json(experiment()))
    rows = [{"id": f"d{i}", "text": f"document {i} tells of the sea and {i * i}", "q": i % 7} for i in range(50)]
    (folder / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tokenizer.json").write_text(_tokenizer())
    with pytest.MonkeyPatch.context() as patch:
        code = start(patch, "export_hf", ["--model=runs/trained", "--output=hf", "--dtype=float32"], folder)
    assert code == 0
    return folder


@pytest.fixture
def refused(prepared, tmp_path, monkeypatch, capsys):
    """refused(case): runs it and holds it against everything that a refusal must be; gives what was printed."""

    def check(case: Case) -> str:
        good = tmp_path / "good"
        shutil.copytree(prepared, good, symlinks=True)
        case.spoil(good)
        before = tree_of(tmp_path)
        capsys.readouterr()
        code = start(monkeypatch, case.tool, case.flags.split(), good)
        printed = capsys.readouterr().err
        assert code == 2 and "Traceback" not in printed, printed
        lines = printed.splitlines()
        assert len(lines) == case.lines and all(line.startswith("error: ") and len(line) < 700 for line in lines), printed
        at = 0
        for words in case.says:
            assert words in printed[at:], f"{words!r} not in {printed!r}"
            at = printed.index(words, at) + len(words)
        assert tree_of(tmp_path) == before
        return printed

    return check
