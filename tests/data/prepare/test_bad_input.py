"""What a preparation does with bad input: one line, or a count and a place; and nothing half-written, ever."""

import dataclasses
import errno
import gzip
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.prepare import documents, engine, pipeline, tokenizer
from kaiyuan_jax.data.prepare.job import JobError, locked
from kaiyuan_jax.data.prepare.pipeline import prepare
from kaiyuan_jax.data.prepare.read import ReadError
from kaiyuan_jax.data.prepare.settings import PrepareError, Settings
from kaiyuan_jax.data.store import verify_store

ROOT = pathlib.Path(__file__).parents[3]
SETTINGS = Settings(quality_field="q", id_field="id", vocabulary=300, near_duplicates=False)
ROWS = [{"id": f"d{i}", "text": f"document {i} says {i * i}, which nobody doubts", "q": i % 7} for i in range(200)]


def lines(path, rows=ROWS, opened=open):
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


def refused(folder, inputs, settings=SETTINGS, error=UserError, **options):
    """The message of the refusal; checks that it is one line and that only what was there before is there."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(error) as caught:
        prepare(inputs, str(folder / "out"), settings, **options)
    assert sorted(folder.rglob("*")) == before and "\n" not in str(caught.value)
    return str(caught.value)


def test_empty_folders_files_and_texts_are_refused(tmp_path):
    (tmp_path / "none").mkdir()
    assert "no text files found" in refused(tmp_path, [str(tmp_path / "none")], error=ReadError)
    assert "no text in 0 rows of field 'text'" in refused(tmp_path, [lines(tmp_path / "a.jsonl", [])])
    assert "no text in 2 rows" in refused(tmp_path, [lines(tmp_path / "b.jsonl", [{"id": "a", "text": " \n", "q": 1}] * 2)])


def test_a_wrong_field_is_refused_with_the_field_that_was_meant(tmp_path):
    message = refused(tmp_path, [lines(tmp_path / "a.jsonl")], dataclasses.replace(SETTINGS, text_field="txet"), ReadError)
    assert "no field 'txet'" in message and "text" in message and "--text_field" in message
    pq.write_table(pa.table({"text": ["a"], "quality_score": [1.0]}), tmp_path / "a.parquet")
    message = refused(tmp_path, [str(tmp_path / "a.parquet")], dataclasses.replace(SETTINGS, id_field="", quality_field="quality_scores"))
    assert "quality_scores" in message and "quality_score" in message and "--quality_field" in message


def damaged(path, kind):
    if kind == "parquet":
        pq.write_table(pa.table({"text": [row["text"] for row in ROWS]}), path)
    else:
        lines(path, opened=gzip.open)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    return str(path)


@pytest.mark.parametrize("name", ["bad.jsonl.gz", "bad.parquet"])
def test_a_damaged_file_ends_the_job_or_is_left_out_whole_and_named(tmp_path, name):
    good, bad = lines(tmp_path / "good.jsonl"), damaged(tmp_path / name, name.rpartition(".")[2])
    message = refused(tmp_path, [good, bad], error=PrepareError)
    assert "1 of 2 files cannot be read to their end" in message and name in message and "--max_loss" in message
    result = prepare([good, bad], str(tmp_path / "out"), dataclasses.replace(SETTINGS, max_loss=0.5))
    assert list(result.report["quarantined"]) == [name] and result.report["quarantined"][name]
    calm = prepare([good], str(tmp_path / "calm"), dataclasses.replace(SETTINGS, max_loss=0.5))
    assert result.train.manifest.tokens_sha256 == calm.train.manifest.tokens_sha256
    assert result.train.manifest.documents == calm.train.manifest.documents


def test_lost_rows_are_counted_with_their_places_and_too_many_end_the_job(tmp_path):
    path = pathlib.Path(lines(tmp_path / "a.jsonl"))
    with open(path, "ab") as file:
        file.write(b'{"text": "caf\xe9", "q": 1}\n{broken\n{"text": 5, "q": 1}\n{"q": 1}\n')
    message = refused(tmp_path, [str(path)], error=PrepareError)
    assert "4 of 204 rows are lost" in message and "not UTF-8" in message and "not JSON" in message and "--max_loss" in message
    report = prepare([str(path)], str(tmp_path / "out"), dataclasses.replace(SETTINGS, max_loss=0.05)).report
    assert report["counts"]["read: rows lost"] == 4 and report["counts"]["read: not JSON"] == 1
    assert report["examples"]["read: not UTF-8"][0].startswith("a.jsonl, byte ")


def test_a_huge_line_and_nul_bytes_do_no_harm(tmp_path):
    path = pathlib.Path(lines(tmp_path / "a.jsonl", [*ROWS, {"text": "nul\x00 byte", "q": 1}]))
    with open(path, "a") as file:
        file.write('{"q": 1, "text": "')
        for _ in range(100):
            file.write("x" * (1 << 20))
        file.write('"}\n')
    result = prepare([str(path)], str(tmp_path / "out"), dataclasses.replace(SETTINGS, max_document_bytes=1 << 20))
    assert result.report["counts"]["read: longer than the limit"] == 1 and result.report["counts"]["read: NUL characters"] == 1
    assert result.train.manifest.documents + (result.heldout.manifest.documents if result.heldout else 0) == 201


@pytest.mark.parametrize("score", [None, float("nan"), float("inf"), "high"])
def test_documents_without_a_usable_score_end_the_job_or_are_dropped_and_counted(tmp_path, score):
    path = lines(tmp_path / "a.jsonl", [*ROWS, {"id": "bad", "text": "the one", "q": score}])
    assert "document bad has no finite q" in refused(tmp_path, [path], error=PrepareError)
    result = prepare([path], str(tmp_path / "out"), dataclasses.replace(SETTINGS, missing_quality="drop"))
    assert result.report["counts"]["without quality"] == 1


def test_a_source_of_which_nothing_stays_is_refused(tmp_path):
    path = lines(tmp_path / "a.jsonl", [{"text": f"text {i}", "q": None} for i in range(5)])
    message = refused(tmp_path, [path], dataclasses.replace(SETTINGS, id_field="", missing_quality="drop"))
    assert "no text in 5 rows" in message and "5 without quality" in message and "--quality_field" in message


def test_ids_of_several_texts_are_counted_and_shown(tmp_path):
    path = lines(tmp_path / "a.jsonl", [*ROWS, {"id": "d3", "text": "another text under an old name", "q": 1}, ROWS[5]])
    report = prepare([path], str(tmp_path / "out"), SETTINGS).report
    assert report["counts"]["ids of several documents"] == 1 and report["examples"]["ids of several documents"] == ["d3"]
    many = [{"id": f"d{i}", "text": f"another text under the old name {i}", "q": 1} for i in range(30)]
    report = prepare([lines(tmp_path / "b.jsonl", ROWS + many)], str(tmp_path / "many"), SETTINGS).report
    assert report["counts"]["ids of several documents"] == 30 and len(report["examples"]["ids of several documents"]) == 10
    assert set(report["examples"]["ids of several documents"]) < {row["id"] for row in many}


def test_names_in_the_data_never_become_places_to_write_to(tmp_path):
    (tmp_path / "in").mkdir()
    rows = [{"id": f"../../../evil{i}", "text": f"text {i} of this", "q": 1, "../up": f"/etc/{i}"} for i in range(50)]
    path = lines(tmp_path / "in" / "..evil.jsonl", rows)
    prepare([path], str(tmp_path / "deep" / "out"), dataclasses.replace(SETTINGS, metadata_fields=("../up",)))
    assert sorted(item.name for item in tmp_path.iterdir()) == ["deep", "in"]
    assert [item.name for item in (tmp_path / "deep").iterdir()] == ["out"]


def test_a_file_name_that_is_not_utf8_is_a_name_like_any_other(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(20):
        with open(os.fsencode(tmp_path / "in") + b"/caf\xe9%d.txt" % i, "w") as file:
            file.write(f"a text of its own, number {i}")
    result = prepare([str(tmp_path / "in")], str(tmp_path / "out"), Settings(vocabulary=300, near_duplicates=False, heldout=0.0))
    assert result.train.manifest.documents == 20 and result.train.documents.id(0).startswith("caf")


def test_a_full_disk_leaves_finished_parts_alone_and_says_so(tmp_path, monkeypatch):
    path = lines(tmp_path / "a.jsonl")
    with monkeypatch.context() as patched:
        patched.setattr(documents.pq, "write_table", lambda *rest, **options: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(JobError, match="no space left on the disk .*run the same command, or remove that folder"):
            prepare([path], str(tmp_path / "out"), SETTINGS)
    assert not (tmp_path / "out").exists() and not list((tmp_path / "out.work" / "documents").glob("*.json"))
    verify_store(prepare([path], str(tmp_path / "out"), SETTINGS).train)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.jsonl", "out"]


def test_a_second_job_for_the_same_output_is_refused_while_the_first_runs(tmp_path):
    path = lines(tmp_path / "a.jsonl")
    with locked(tmp_path / "out"):
        assert "another process is preparing it" in refused(tmp_path, [path], error=JobError)


def test_a_worker_killed_in_the_middle_costs_nothing(tmp_path):
    rows = [{"id": str(i), "text": f"{i} " + " ".join(f"w{i * j % 991}" for j in range(300)), "q": i % 5} for i in range(8000)]
    path = lines(tmp_path / "a.jsonl", rows)
    command = [sys.executable, str(ROOT / "launch" / "prepare_data.py"), f"--input={path}", "--quality_field=q", "--id_field=id",
               "--vocabulary=300", "--memory=0.25", "--workers=2", f"--output={tmp_path}/out"]  # fmt: skip
    run = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    killed = began = time.time()
    while killed == began and time.time() - began < 60 and run.poll() is None:
        if list((tmp_path / "out.work" / "documents").glob("*.json")):
            workers = subprocess.run(["ps", "--ppid", str(run.pid), "-o", "pid="], capture_output=True, text=True).stdout.split()
            os.kill(int(workers[0]), signal.SIGKILL)
            killed = time.time()
        time.sleep(0.01)
    assert killed > began and run.wait(120) == 0, run.stderr.read()[-2000:]
    settings = Settings(quality_field="q", id_field="id", vocabulary=300)
    calm = prepare([path], str(tmp_path / "calm"), settings, engine=engine.start(workers=1))
    again = pipeline.opened(tmp_path / "out")
    assert again.train.manifest == calm.train.manifest


def test_a_tokenizer_must_fit_the_model(tmp_path):
    path = lines(tmp_path / "a.jsonl")
    message = refused(tmp_path, [path], dataclasses.replace(SETTINGS, model_vocabulary=280))
    assert "--vocabulary=300 with --model_vocabulary=280" in message
    (tmp_path / "t.json").write_text(tokenizer.train([row["text"] for row in ROWS], 300).to_str())
    given = dataclasses.replace(SETTINGS, tokenizer=str(tmp_path / "t.json"))
    assert "280" in refused(tmp_path, [path], dataclasses.replace(given, model_vocabulary=280), PrepareError)
    result = prepare([path], str(tmp_path / "out"), dataclasses.replace(given, model_vocabulary=5000))
    from kaiyuan_jax.data.prepare.summary import text

    assert "entries that no token of this tokenizer uses" in text("out", result)
