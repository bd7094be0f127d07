"""The whole preparation: the same documents give the same bytes, nothing half-made is ever left, and mistakes cost one line."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from kaiyuan_jax.data import blocks, store_write
from kaiyuan_jax.data import store as data_store
from kaiyuan_jax.data.prepare import engine, job, pipeline, split
from kaiyuan_jax.data.prepare import write as prepare_write
from kaiyuan_jax.data.prepare.normalise import text_hash
from kaiyuan_jax.data.prepare.pipeline import prepare
from kaiyuan_jax.data.prepare.settings import PrepareError, Settings, check
from kaiyuan_jax.data.prepare.summary import text as summary
from kaiyuan_jax.data.store import open_store, verify_store

ROOT = pathlib.Path(__file__).parents[3]
# The rows below differ in their numbers alone, which near de-duplication does not look at.
SETTINGS = Settings(quality_field="q", id_field="id", vocabulary=300, heldout=0.2, near_duplicates=False)
ROWS = [{"id": f"d{i}", "text": f"document {i} says {i * i} and the text ends <|endoftext|>", "q": (i * 7 % 13) / 4} for i in range(120)]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def contents(folder):
    """Everything but the report, which tells how and how fast it was made."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "report.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def near_rows():
    """Ten pairs of documents that differ in one word of two hundred."""
    rows = []
    for i in range(10):
        words = [f"w{chr(97 + i)}x{chr(97 + j // 26)}{chr(97 + j % 26)}" for j in range(200)]
        rows += [{"id": f"n{i}{k}", "text": " ".join([*words[:100], f"other{k}", *words[101:]]), "q": k} for k in (0, 1)]
    return rows


def texts(store):
    tokenizer, table = store.tokenizer(), store.documents
    ends = table.offset + table.length - 1
    return [tokenizer.decode(store.read(int(a), int(b)).tolist()) for a, b in zip(table.offset, ends, strict=True)]


def test_every_document_comes_out_once_on_one_side_in_ascending_quality(tmp_path):
    result = prepare([write(tmp_path / "a.jsonl", ROWS)], str(tmp_path / "out"), SETTINGS)
    verify_store(result.train), verify_store(result.heldout)
    both = texts(result.train) + texts(result.heldout)
    assert sorted(both) == sorted(row["text"] for row in ROWS) and 5 < result.heldout.manifest.documents < 50
    quality = {row["text"]: row["q"] for row in ROWS}
    for store in (result.train, result.heldout):
        assert [quality[text] for text in texts(store)] == sorted(quality[text] for text in texts(store))
        assert (store.documents.quality == [quality[text] for text in texts(store)]).all()
        assert [len(text.encode()) for text in texts(store)] == store.documents.bytes.tolist()
    assert result.train.fingerprint == result.heldout.fingerprint and result.train.scored


def test_the_same_input_gives_the_same_bytes_whatever_the_place_and_order(tmp_path):
    for name, rows in (("one", ROWS), ("two", ROWS)):
        write(tmp_path / name / "b.jsonl", rows[:50])
        write(tmp_path / name / "a.jsonl", rows[50:])
    prepare([str(tmp_path / "one")], str(tmp_path / "x"), SETTINGS)
    prepare([str(tmp_path / "two" / "b.jsonl"), str(tmp_path / "two" / "a.jsonl")], str(tmp_path / "y"), SETTINGS)
    left, right = contents(tmp_path / "x"), contents(tmp_path / "y")
    assert left == right and {"train/manifest.json", "heldout/manifest.json", "train/documents.parquet"} <= set(left)
    assert str(tmp_path) not in left["train/manifest.json"].decode()


def test_neither_files_nor_rows_nor_workers_nor_parts_change_a_byte(tmp_path, monkeypatch):
    rows = near_rows() + [row | {"meta": {"n": i % 7}} for i, row in enumerate(ROWS * 20)] + ROWS[:40]
    settings = dataclasses.replace(SETTINGS, metadata_fields=("meta.n",), scores=("heuristic",), sort_by="quality", near_duplicates=True)
    prepare([write(tmp_path / "1" / "a.jsonl", rows)], str(tmp_path / "x"), settings)
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    for i in range(5):
        write(tmp_path / "2" / f"{i}.jsonl", shuffled[i::5])
    monkeypatch.setattr(engine, "SMALL", 0)
    monkeypatch.setattr(pipeline, "PART_BYTES", 1 << 20)
    prepare([str(tmp_path / "2")], str(tmp_path / "y"), settings, engine=engine.start(workers=2, memory=1 << 26))
    left, right = contents(tmp_path / "x"), contents(tmp_path / "y")
    assert left == right and "fingerprints.parquet" in left
    counts = json.loads((tmp_path / "y" / "report.json").read_text())["counts"]
    assert counts["near duplicates"] >= 10 and counts["exact duplicates"] >= 40
    table = open_store(tmp_path / "x" / "train").documents
    assert table.column("metadata")[0].as_py().startswith("{") and len(table.column("score.heuristic")) == len(table)


def test_another_seed_reorders_equal_scores_and_moves_nothing_across_the_split(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    stores = [prepare([path], str(tmp_path / f"s{seed}"), dataclasses.replace(SETTINGS, seed=seed)) for seed in (0, 1)]
    assert texts(stores[0].train) != texts(stores[1].train) and sorted(texts(stores[0].train)) == sorted(texts(stores[1].train))
    assert stores[0].train.fingerprint == stores[1].train.fingerprint


def test_duplicates_keep_the_best_score_and_empty_texts_go(tmp_path):
    rows = [{"id": "a", "text": "same\r\n", "q": 1}, {"id": "b", "text": "same", "q": 3}, {"id": "c", "text": " \n", "q": 2}, *ROWS]
    result = prepare([write(tmp_path / "a.jsonl", rows)], str(tmp_path / "out"), dataclasses.replace(SETTINGS, heldout=0.0))
    counts = result.train.manifest.facts["counts"]
    expected = {"documents read": 123, "empty": 1, "documents cleaned": 122, "without quality": 0, "exact duplicates": 1}
    assert {name: counts[name] for name in expected} == expected
    assert result.heldout is None and not (tmp_path / "out" / "heldout").exists()
    table = result.train.documents
    (at,) = [i for i in range(len(table)) if table.id(i) in ("a", "b")]
    assert table.id(at) == "b" and table.quality[at] == 3 and table.copies[at] == 2 and table.copies.sum() == 122


def test_a_text_is_on_the_same_side_in_every_source(tmp_path):
    one = prepare([write(tmp_path / "a.jsonl", ROWS[:80])], str(tmp_path / "x"), SETTINGS)
    other = prepare([write(tmp_path / "b.jsonl", ROWS[40:])], str(tmp_path / "y"), SETTINGS)
    assert not set(texts(one.heldout)) & set(texts(other.train)) and not set(texts(one.train)) & set(texts(other.heldout))


def test_without_scores_the_heuristic_or_a_hash_orders(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    scored = prepare([path], str(tmp_path / "x"), Settings(vocabulary=300, near_duplicates=False))
    assert scored.train.scored and 0 < scored.train.documents.quality[0] < scored.train.documents.quality[-1] < 1
    assert scored.train.documents.id(0) in {text_hash(row["text"]).hex() for row in ROWS}
    unscored = prepare([path], str(tmp_path / "y"), Settings(vocabulary=300, unscored=True, near_duplicates=False))
    assert not unscored.train.scored and (unscored.train.documents.quality == 0).all() and "unscored" in summary("y", unscored)


def test_a_given_tokenizer_is_used_unchanged(tmp_path):
    first = prepare([write(tmp_path / "a.jsonl", ROWS)], str(tmp_path / "x"), SETTINGS)
    settings = dataclasses.replace(SETTINGS, tokenizer=str(tmp_path / "x" / "train"))
    second = prepare([write(tmp_path / "b.jsonl", ROWS[:50])], str(tmp_path / "y"), settings)
    assert second.train.fingerprint == first.train.fingerprint and second.train.vocabulary == first.train.vocabulary


def test_a_second_run_reuses_and_any_change_prepares_again(tmp_path):
    path, out = write(tmp_path / "a.jsonl", ROWS), str(tmp_path / "out")
    assert not prepare([path], out, SETTINGS).reused
    assert prepare([path], out, SETTINGS).reused and "up to date" in summary("x", prepare([path], out, SETTINGS))
    assert not prepare([path], out, SETTINGS, force=True).reused
    assert not prepare([path], out, dataclasses.replace(SETTINGS, seed=3)).reused
    assert prepare([path], out, dataclasses.replace(SETTINGS, vocabulary=280)).train.vocabulary == 280
    assert not prepare([path], out, dataclasses.replace(SETTINGS, seed=3)).reused
    write(tmp_path / "a.jsonl", ROWS[:100])
    assert not prepare([path], out, dataclasses.replace(SETTINGS, seed=3)).reused
    shard = tmp_path / "out" / "train" / "tokens" / "c" / "0"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert not prepare([path], out, dataclasses.replace(SETTINGS, seed=3)).reused
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.jsonl", "out"]


@pytest.mark.parametrize("score", [{"q": None}, {"q": float("nan")}, {"q": float("inf")}, {}])
def test_documents_without_a_finite_score_are_refused_or_dropped(tmp_path, score):
    path = write(tmp_path / "a.jsonl", [*ROWS, {"id": "bad", "text": "x", **score}])
    with pytest.raises(PrepareError, match="document bad has no finite q.*--missing_quality=drop"):
        prepare([path], str(tmp_path / "out"), SETTINGS)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.jsonl"]
    result = prepare([path], str(tmp_path / "out"), dataclasses.replace(SETTINGS, missing_quality="drop"))
    assert result.train.manifest.facts["counts"]["without quality"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heldout": 1.0}, "--heldout=1.0"),
        ({"missing_quality": "keep"}, "--missing_quality=keep"),
        ({"kind": "poem"}, "--kind=poem"),
        ({"unscored": True}, "--unscored with --quality_field=q"),
        ({"vocabulary": 100}, "--vocabulary=100"),
        ({"compression": -1}, "--compression=-1"),
        ({"text_field": ""}, "--text_field is empty"),
    ],
)
def test_settings_that_cannot_work_are_named_before_anything_is_read(tmp_path, change, words):
    with pytest.raises(PrepareError) as error:
        prepare([str(tmp_path / "missing")], str(tmp_path / "out"), dataclasses.replace(SETTINGS, **change))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_every_wrong_setting_has_its_line():
    with pytest.raises(PrepareError) as error:
        check(Settings(heldout=2, kind="poem", vocabulary=1))
    assert len(str(error.value).splitlines()) == 3


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path):
    write(tmp_path / "out" / "mine.txt", ROWS)
    with pytest.raises(PrepareError, match="not made by this script"):
        prepare([write(tmp_path / "a.jsonl", ROWS)], str(tmp_path / "out"), SETTINGS)


def test_input_without_text_or_all_held_out_is_refused(tmp_path):
    with pytest.raises(PrepareError, match="no text in 1 rows"):
        prepare([write(tmp_path / "a.jsonl", [{"text": " "}])], str(tmp_path / "out"), Settings())
    held = next(row for row in ROWS if split.heldout([text_hash(row["text"])], 0.9)[0])
    with pytest.raises(PrepareError, match="holds out all 1 documents"):
        prepare([write(tmp_path / "a.jsonl", [held])], str(tmp_path / "out"), dataclasses.replace(SETTINGS, heldout=0.9))


def command(*flags):
    return [sys.executable, str(ROOT / "launch" / "prepare_data.py"), *flags]


def test_the_script_prepares_and_reports_mistakes_in_one_line(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    flags = f"--input={tmp_path}/*.jsonl", f"--output={tmp_path}/out", "--vocabulary=300", "--nonear_duplicates"
    good = subprocess.run(command(*flags), capture_output=True, text=True)
    assert good.returncode == 0 and "documents read" in good.stdout and "bytes/token" in good.stdout, good.stderr
    bad = subprocess.run(command(f"--input={path}", f"--output={tmp_path}/out2", "--text_field=body"), capture_output=True, text=True)
    assert bad.returncode == 2 and "no field 'body'; found id, text, q; set --text_field" in bad.stderr and "Traceback" not in bad.stderr


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_job_goes_on_from_its_finished_parts_to_the_same_bytes(tmp_path, kill):
    rows = [{"id": str(i), "text": f"{i} " + " ".join(f"w{i * j % 997}" for j in range(400)), "q": 1.0} for i in range(9000)]
    path, out = write(tmp_path / "in" / "a.jsonl", rows), tmp_path / "out"
    flags = [f"--input={path}", "--quality_field=q", "--vocabulary=300", "--memory=0.25", "--workers=2"]
    run = subprocess.Popen(command(*flags, f"--output={out}"), stderr=subprocess.DEVNULL, env=os.environ)
    first, began = tmp_path / "out.work" / "documents" / "000000.json", time.time()
    while not first.exists() and time.time() - began < 300:
        time.sleep(0.02)
    assert first.exists()
    run.send_signal(kill)
    assert run.wait() != 0 and not out.exists() and not (tmp_path / "out.partial" / "report.json").exists()
    settings = Settings(quality_field="q", vocabulary=300)
    again = prepare([path], str(out), settings, engine=engine.start(workers=2, memory=1 << 28))
    documents = next(step for step in again.report["steps"] if step["step"] == "documents")
    assert 0 < documents["resumed"] < documents["tasks"]
    prepare([path], str(tmp_path / "calm"), settings, engine=engine.start(workers=1))
    assert contents(out) == contents(tmp_path / "calm")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["calm", "in", "out"]


def test_rows_of_sequences_cross_documents(tmp_path):
    result = prepare([write(tmp_path / "a.jsonl", ROWS)], str(tmp_path / "out"), SETTINGS)
    rows = result.train.read_rows(np.arange(result.train.sequences(32)), 32)
    assert (rows == result.train.eod).sum() > 10 and rows.max() < result.train.vocabulary


def test_documents_of_an_earlier_source_are_removed_from_a_later_one(tmp_path):
    near = dataclasses.replace(SETTINGS, near_duplicates=True, heldout=0.0)
    rows = near_rows()
    earlier = prepare([write(tmp_path / "a.jsonl", rows[0::2])], str(tmp_path / "a"), near)
    fresh = {"id": "new", "text": " ".join(f"fresh{chr(97 + j % 26)}{chr(97 + j // 26)}" for j in range(50)), "q": 0}
    both = [write(tmp_path / "b.jsonl", [*rows[1::2], rows[4], fresh])]  # near the earlier ones, equal to one, and new
    later = prepare(both, str(tmp_path / "b"), dataclasses.replace(near, against=(str(tmp_path / "a"),)))
    assert earlier.train.manifest.documents == 10 and texts(later.train) == [fresh["text"]]
    alone = prepare(both, str(tmp_path / "c"), near)
    assert alone.train.manifest.documents == 11
    with pytest.raises(PrepareError, match="every document of this source is there already"):
        prepare(both, str(tmp_path / "d"), dataclasses.replace(near, against=(str(tmp_path / "a"), str(tmp_path / "c"))))
    with pytest.raises(PrepareError, match="near duplicates were found with .*prepare both alike"):
        prepare(both, str(tmp_path / "d"), dataclasses.replace(near, against=(str(tmp_path / "a"),), near_threshold=0.5))
    with pytest.raises(PrepareError, match="no fingerprints.parquet there"):
        prepare(both, str(tmp_path / "d"), dataclasses.replace(near, against=(str(tmp_path),)))


def test_documents_that_quote_an_evaluation_set_are_removed_and_shown(tmp_path):
    asked = " ".join(f"question{chr(97 + j)}" for j in range(20))
    rows = [*ROWS, {"id": "leak", "text": f"As everybody knows, {asked}. So it is.", "q": 1}]
    settings = dataclasses.replace(SETTINGS, evaluation_sets=(write(tmp_path / "sets" / "quiz.jsonl", [{"text": asked}]),), heldout=0.0)
    result = prepare([write(tmp_path / "a.jsonl", rows)], str(tmp_path / "out"), settings)
    assert sorted(texts(result.train)) == sorted(row["text"] for row in ROWS)
    (name,) = [name for name in result.report["counts"] if name.startswith("contamination ")]
    assert "quiz" in name and result.report["counts"][name] == 1 and "questiona" in result.report["examples"][name][0]


def test_documents_exported_after_cleaning_can_be_prepared_on(tmp_path):
    rows = [*ROWS, ROWS[3], {"id": "mail", "text": "write to me@example.org about the thing", "q": 2}]
    path = write(tmp_path / "a.jsonl", rows)
    masked = dataclasses.replace(SETTINGS, mask=("email",))
    for until, count in (("read", 122), ("clean", 122), ("score", 122), ("deduplicate", 121)):
        pipeline.export([path], str(tmp_path / until), masked, until)
        counts = json.loads((tmp_path / until / "manifest.json").read_text())["counts"]
        assert counts.get("mask email", 0) == (until != "read") and counts["documents read"] == 122
        table = pq.read_table([str(file) for file in (tmp_path / until).glob("*.parquet")])
        assert table.num_rows == count and {"id", "text", "quality", "copies", "hash"} <= set(table.column_names)
    onwards = dataclasses.replace(SETTINGS, quality_field="quality")
    later = prepare([str(file) for file in (tmp_path / "clean").glob("*.parquet")], str(tmp_path / "x"), onwards)
    at_once = prepare([path], str(tmp_path / "y"), masked)
    assert later.train.manifest.tokens_sha256 == at_once.train.manifest.tokens_sha256
    with pytest.raises(PrepareError, match="exists; name a new folder"):
        pipeline.export([path], str(tmp_path / "clean"), masked, "clean")


def calm_and_killed(tmp_path, monkeypatch, kill_at, job_options):
    """Prepares once undisturbed, and once with the process 'killed' as it is about to write mark number `kill_at`."""
    rows = [{"id": str(i), "text": f"{i} " + " ".join(f"w{i * j % 997}" for j in range(40)), "q": i % 7} for i in range(600)]
    path = write(tmp_path / "in" / "a.jsonl", rows)
    settings = Settings(quality_field="q", id_field="id", vocabulary=300, heldout=0.1, near_duplicates=True)
    marks, real = [], job.write_json

    def write_json(target, value):
        marks.append(target)
        if len(marks) == kill_at:
            raise KeyboardInterrupt
        real(target, value)

    with monkeypatch.context() as patched:
        for module in (job, pipeline, prepare_write):
            patched.setattr(module, "write_json", write_json)
        patched.setattr(pipeline, "PART_BYTES", 1 << 14)
        with contextlib.suppress(KeyboardInterrupt):
            prepare([path], str(tmp_path / "out"), settings, engine=engine.Engine("native", 1, 1 << 24))
    result = prepare([path], str(tmp_path / "out"), settings, engine=job_options)
    calm = prepare([path], str(tmp_path / "calm"), settings, engine=engine.Engine())
    assert contents(tmp_path / "out") == contents(tmp_path / "calm") and result.train.manifest == calm.train.manifest
    assert sorted(item.name for item in tmp_path.iterdir()) == ["calm", "in", "out"]
    return len(marks)


@pytest.mark.parametrize("kill_at", range(1, 16))
def test_a_job_killed_at_any_mark_ends_in_the_same_bytes_with_other_workers_and_memory(tmp_path, monkeypatch, kill_at):
    assert calm_and_killed(tmp_path, monkeypatch, kill_at, engine.Engine("native", 1, 1 << 30)) >= kill_at


def test_an_export_that_goes_on_with_other_workers_gives_every_document_once(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", [{"text": f"{i} " + "word " * 400, "q": 1} for i in range(3000)])
    inputs, output, settings = [path], str(tmp_path / "out"), Settings(near_duplicates=False)
    real = job.write_json

    def write_json(target, value):
        if target.name == "000002.json":
            raise KeyboardInterrupt
        real(target, value)

    with monkeypatch.context() as patched:
        patched.setattr(job, "write_json", write_json)
        with pytest.raises(KeyboardInterrupt):
            pipeline.export(inputs, output, settings, "clean", engine=engine.Engine("native", 1, 1 << 24))
    pipeline.export(inputs, output, settings, "clean", engine=engine.start(workers=2))
    table = pq.read_table([str(file) for file in (tmp_path / "out").glob("*.parquet")])
    assert table.num_rows == 3000 == len(set(table["text"].to_pylist()))


def test_files_of_the_output_are_no_input(tmp_path):
    write(tmp_path / "in" / "a.jsonl", ROWS)
    first = prepare([str(tmp_path / "in")], str(tmp_path / "in" / "out"), SETTINGS)
    assert prepare([str(tmp_path / "in")], str(tmp_path / "in" / "out"), SETTINGS).reused and first.train.tokens
    with pytest.raises(PrepareError, match="only files of the output itself"):
        prepare([str(tmp_path / "in" / "out")], str(tmp_path / "in" / "out"), SETTINGS)


@pytest.mark.parametrize("qualities", [(0.3, 0.1 + 0.2), (1e308, -1e308), (5.0, 5.0)])
def test_histograms_take_any_qualities(tmp_path, qualities):
    rows = [row | {"q": qualities[i % 2]} for i, row in enumerate(ROWS)]
    result = prepare([write(tmp_path / "a.jsonl", rows)], str(tmp_path / "out"), SETTINGS)
    histogram = result.report["histograms"]["train"]
    assert sum(histogram["tokens"]) == result.train.tokens and len(histogram["edges"]) == len(histogram["tokens"]) + 1


def test_documents_that_cross_shards_are_whole(tmp_path, monkeypatch):
    rows = [{"text": f"{i} " + " ".join(f"{i * j % 9973}" for j in range(300)), "q": i % 5} for i in range(200)]
    path, settings = write(tmp_path / "a.jsonl", rows), Settings(quality_field="q", vocabulary=257, near_duplicates=False)
    whole = prepare([path], str(tmp_path / "whole"), settings).train
    for module in (data_store, store_write):
        monkeypatch.setattr(module, "SHARD", blocks.BLOCK)
    cut = prepare([path], str(tmp_path / "cut"), settings).train
    assert len(list((tmp_path / "cut" / "train" / "tokens" / "c").iterdir())) > 2
    verify_store(cut)
    assert (cut.read(0, cut.tokens) == whole.read(0, whole.tokens)).all() and texts(cut) == texts(whole)
