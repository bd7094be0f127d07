"""Raw text, tokenizers and scores that a preparation cannot use, and flags that no tool has."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.bad_inputs.cases import Case, cut, replace

TEXT = "--input=text.jsonl --quality_field=q --id_field=id --vocabulary=300 --output=new"


def packed(name, content):
    return lambda good: (good / name).write_bytes(gzip.compress(content))


def repeated(good):
    """A Parquet file of a few kilobytes whose texts have gigabytes."""
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(200_000, np.int32)), pa.array(["x" * 50_000]))
    pq.write_table(pa.table({"text": text}), good / "in.parquet", compression="zstd")


CASES = [
    Case("no input", "--output=new", ("--input",), tool="prepare_data"),
    Case("an input that is not there", "--input=none.jsonl --output=new", ("--input=none.jsonl: no such file",), tool="prepare_data"),
    Case("no field of that name", f"{TEXT} --text_field=txet", ("no field 'txet'", "--text_field"), tool="prepare_data"),
    Case("an output that is no store", f"{TEXT[: TEXT.index(' --output')]} --output=curves", ("curves",), tool="prepare_data"),
    Case("an output with a star", f"{TEXT}*", ("must not have any of",), tool="prepare_data"),
    Case("an output that is a URL", f"{TEXT[: TEXT.index(' --output')]} --output=s3://bucket/x", ("--output",), tool="prepare_data"),
    Case(
        "a file cut short",
        f"{TEXT.replace('text.jsonl', 'in.parquet')}",
        ("in.parquet",),
        replace("in.parquet", b"PAR1" + b"x" * 99),
        "prepare_data",
    ),
    Case(
        "packed text cut short",
        TEXT.replace("text.jsonl", "in.jsonl.gz"),
        ("in.jsonl.gz",),
        lambda good: [packed("in.jsonl.gz", (good / "text.jsonl").read_bytes())(good), cut("in.jsonl.gz", 0.6)(good)],
        "prepare_data",
    ),
    Case(
        "a bomb of packed text",
        TEXT.replace("text.jsonl", "in.jsonl.gz"),
        ("in.jsonl.gz",),
        packed("in.jsonl.gz", b'{"q": 1, "id": "a", "text": "' + b"x" * 80_000_000 + b'"}\n'),
        "prepare_data",
    ),
    Case("a tokenizer that is not there", f"{TEXT} --tokenizer=none.json", ("--tokenizer=none.json: no such file",), tool="prepare_data"),
    Case(
        "a tokenizer that is none",
        f"{TEXT} --tokenizer=t.json",
        ("--tokenizer=t.json: not a tokenizer.json",),
        replace("t.json", "[]"),
        "prepare_data",
    ),
    Case(
        "a tokenizer of bytes",
        f"{TEXT} --tokenizer=t.json",
        ("--tokenizer=t.json: not a tokenizer.json",),
        replace("t.json", b"\xff\xfe"),
        "prepare_data",
    ),
    Case(
        "a tokenizer without an end",
        f"{TEXT} --tokenizer=t.json",
        ("not a special token of the tokenizer",),
        replace("t.json", json.dumps({"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})),
        "prepare_data",
    ),
    Case(
        "an end that is no token",
        f"{TEXT} --tokenizer=tokenizer.json --end_of_document=<stop>",
        ("--end_of_document=<stop>: not a special token",),
        tool="prepare_data",
    ),
    Case("a vocabulary too small", TEXT.replace("300", "10"), ("--vocabulary=10",), tool="prepare_data"),
    Case("a vocabulary beyond the model's", f"{TEXT} --model_vocabulary=270", ("--model_vocabulary=270",), tool="prepare_data"),
    Case("scores of a file that is not there", f"{TEXT} --scores=file:none.parquet:score", ("none.parquet",), tool="prepare_data"),
    Case(
        "a classifier that is none",
        f"{TEXT} --scores=fasttext:m.bin:good",
        ("m.bin",),
        replace("m.bin", b"\xba\x16O/\x0c\0\0\0" + b"\xff" * 200),
        "prepare_data",
    ),
    Case("a scorer that is not known", f"{TEXT} --scores=magic", ("magic",), tool="prepare_data"),
    Case("rules that are not known", f"{TEXT} --rules=web_fr", ("web_fr",), tool="prepare_data"),
    Case("an evaluation set of bytes", f"{TEXT} --evaluation_sets=e.jsonl", ("e.jsonl",), replace("e.jsonl", b"\xff\n"), "prepare_data"),
    Case("a share above one", f"{TEXT} --heldout=1.5", ("--heldout",), tool="prepare_data"),
    Case("a flag that is not known", "--config=experiment.py --learning_rate=1", ("Unknown command line flag 'learning_rate'",)),
    Case(
        "a field that is not known",
        "--config=experiment.py --config.schedule.peek=1",
        ("unknown field 'peek' of Schedule; did you mean peak",),
    ),
    Case("a word for a number", "--config=experiment.py --config.schedule.warmup=soon", ("config.schedule.warmup",)),
    Case("an index beyond the end", "--config=experiment.py --config.data.phases[7].tokens=1", ("an index beyond the end of its list",)),
    Case("an argument without a flag", "--config=experiment.py now", ("unexpected argument 'now'",)),
    Case("a whole table", "--config=experiment.py --config.model=1", ("a whole table cannot be given",)),
    Case("a flag that is missing", "", ("--model",), tool="generate"),
    Case("a number out of range", "--model=runs/trained --temperature=-1", ("--temperature",), tool="generate"),
    Case("a choice that is none", "--model=runs/trained --compute=int8", ("--compute",), tool="generate"),
    Case("a target that is not known", "--config=experiment.py --target=v9:2x2", ("--target",), tool="plan"),
    Case("a step beyond the run", "--config=experiment.py --step=999", ("--step",), tool="show_batch"),
    Case("processes without a coordinator", "--config=experiment.py --processes=2 --process=0", ("--coordinator",)),
    Case("a process beyond its number", "--config=experiment.py --coordinator=127.0.0.1:1 --processes=2 --process=2", ("--process",)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_text_and_flags_are_one_line_and_leave_nothing(case, refused):
    refused(case)
