"""The whole study of reuse in small: it simulates, trains, evaluates, estimates and reports, and does nothing twice."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.prepare import tokenizer as tokenizers
from kaiyuan_jax.data.store import open_store
from kaiyuan_jax.data.store_write import write_store
from kaiyuan_jax.experiments.reuse import simulations, study

ROOT = pathlib.Path(__file__).parents[2]


def launch(*flags):
    hurried = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)  # one device, as users have
    command, environment = [sys.executable, "launch/study_reuse.py", *flags], os.environ | {"XLA_FLAGS": hurried}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two sources of text in which a token is likely to be followed by the next one."""
    folder = tmp_path_factory.mktemp("stores")
    tokenizer = tokenizers.train(["the cat sat on the mat"], 270).to_str()
    for number, source in enumerate(("one", "two")):
        for part, documents in (("train", 120), ("heldout", 20)):
            random = np.random.default_rng([number, documents])
            steps = np.where(random.random((documents, 30)) < 0.8, 1, random.integers(1, 50, (documents, 30)))
            texts = [(f"d{i}", float(i), 60, (1 + np.cumsum(row) % 50).astype(np.uint16)) for i, row in enumerate(steps)]
            write_store(folder / source / part, documents=texts, tokenizer_json=tokenizer, vocabulary=270, eod=0)
    return [f"{folder}/{source}" for source in ("one", "two")]


@pytest.fixture(scope="module")
def done(stores, tmp_path_factory):
    output = tmp_path_factory.mktemp("study") / "reuse"
    flags = ["--size=quick", "--seeds=2", f"--stores={','.join(stores)}", f"--output={output}"]
    code, out, error = launch(*flags)
    assert code == 0, error
    return flags, output, out


def test_one_command_does_all_stages(done):
    _, output, out = done
    stages = ["simulate", "train", "evaluate", "estimate", "report"]
    assert [line for line in out.splitlines() if line in stages] == stages and "tokens/s (measured)" in out
    found = json.loads((output / "reuse.json").read_text())
    assert [size["fresh"] for size in found["sizes"]] == [256, 512] and found["sizes"][0]["epochs"] == [1, 2, 3, 4, 5, 6, 8]
    assert found["sizes"][1]["epochs"] == [1, 2, 3, 4] and np.isfinite(found["one_pass"]).all()
    document = (output / "reuse.md").read_text()
    assert "What this does not show" in document and all(f"({path.name})" in document for path in output.glob("*.png"))
    assert len(list(output.glob("reuse_*.png"))) == 4 and "E(K, N)" in (output / "report.html").read_text()


def test_text_of_a_seed_is_its_own_and_repeated_runs_read_the_beginning_of_it(done):
    _, output, _ = done
    held = [json.loads((output / f"population/members/seed{seed}_fresh256/config.json").read_text()) for seed in range(2)]
    total = (open_store(output / "store").tokens - 1) // 16
    ranges = [[round(edge * total) for edge in config["data"]["phases"][0]["uses"][0]["window"]] for config in held]
    assert ranges == [[0, 16], [128, 144]] and [config["data"]["phases"][0]["uses"][0]["passes"] for config in held] == [8, 8]


def test_the_mixed_store_holds_as_much_of_every_source_in_no_order_of_quality(done, stores):
    _, output, _ = done
    store = open_store(output / "store")
    ids = [store.documents.id(number) for number in range(len(store.documents))]
    of = [name.split("/")[0] for name in ids]
    assert abs(of.count("one") - of.count("two")) <= 1 and len(set(ids)) == len(ids) and not store.scored
    places = [int(name.split("/")[1]) for name in ids]
    assert abs(np.corrcoef(places, range(len(places)))[0, 1]) < 0.3
    source = open_store(f"{stores[0]}/train")
    first = of.index("one")
    begin, length = int(store.documents.offset[first]), int(store.documents.length[first])
    there = int(source.documents.offset[places[first]])
    assert store.read(begin, begin + length).tolist() == source.read(there, there + length).tolist()


def test_a_second_call_does_nothing_again(done, stores):
    _, output, _ = done
    same = study.Study(study.SIZES["quick"], 2, tuple(stores), str(output))
    kept = [
        *output.glob("population/metrics/*.jsonl"),
        *output.glob("evaluation/*.npz"),
        *output.glob("store/*"),
        output / "simulations.json",
    ]
    before = {path: path.stat().st_mtime_ns for path in kept}
    simulations.write(output, quick=True)
    study.mix(same)
    study.evaluate(same, study.train(same))
    assert len(before) > 6 + 7 + 1 and {path: path.stat().st_mtime_ns for path in kept} == before


@pytest.mark.parametrize(
    "sources, change, message",
    [
        (["nowhere"], {}, "--stores: nowhere/train is no store"),
        (None, {"fresh": (100, 200)}, "--fresh: found 100,200, must ascend, be multiples of the first, of 64 tokens (a batch), and divide"),
        (None, {"tokens": 1 << 16}, "lower --tokens, --fresh or --seeds, or give more sources"),
    ],
)
def test_what_cannot_be_studied_is_said_before_any_work(sources, change, message, stores, tmp_path):
    size = dataclasses.replace(study.SIZES["quick"], **change)
    with pytest.raises(UserError, match=re.escape(message)):
        study.check(study.Study(size, 2, tuple(sources or stores), str(tmp_path / "study")))
    assert not (tmp_path / "study").exists()


def test_a_mistake_ends_in_one_line(tmp_path):
    code, _, error = launch("--fresh=a", f"--output={tmp_path / 'study'}")
    assert code == 2 and "--fresh: found a, must be numbers of tokens" in error and "Traceback" not in error
