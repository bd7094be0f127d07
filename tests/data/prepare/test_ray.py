"""The same input prepared on a local Ray cluster of two workers and on this machine gives the same bytes."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[3]
WORDS = [f"{a}{b}" for a in "bcdfglmnprst" for b in ("an", "el", "ir", "on", "um")]


def documents(folder):
    """Three files with texts of their own, equal texts and near-equal texts, and a broken line."""
    folder.mkdir()
    for file in range(3):
        with open(folder / f"{file}.jsonl", "w") as lines:
            for i in range(900):
                number = file * 900 + i
                words = [WORDS[(number * 31 + j * j * (number % 13 + 1)) % len(WORDS)] for j in range(80)]
                if i % 50 == 1:
                    words[40] = "other"  # near the one before it
                if i % 50 == 2:
                    words = [WORDS[j % len(WORDS)] for j in range(60)]  # the same in all files
                text = " ".join(words).replace("bel", "bel: write to a@example.org or")
                lines.write(json.dumps({"id": f"{file}/{i}", "text": text, "score": number % 17}) + "\n")
            lines.write("{broken\n")


def prepare(output, *flags):
    # about 40 s on an idle machine; the limit is for a hang, not for a busy machine
    command = [sys.executable, str(ROOT / "launch" / "prepare_data.py"), f"--output={output}", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


def contents(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("report.")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_ray_with_two_workers_gives_the_bytes_of_one_machine(tmp_path):
    documents(tmp_path / "in")
    flags = [f"--input={tmp_path}/in", "--quality_field=score", "--id_field=id", "--vocabulary=400", "--heldout=0.1", "--mask=email",
             "--scores=heuristic", "--sort_by=quality", "--rules=web_en"]  # fmt: skip
    prepare(tmp_path / "native", *flags, "--workers=1")
    printed = prepare(tmp_path / "ray", *flags, "--engine=ray", "--workers=2")
    left, right = contents(tmp_path / "native"), contents(tmp_path / "ray")
    assert left == right and {"train/manifest.json", "heldout/tokens/c/0", "fingerprints.parquet"} <= set(left)
    report = json.loads((tmp_path / "ray" / "report.json").read_text())
    assert report["engine"]["name"] == "ray" and report["engine"]["workers"] == 2 and "prepared" in printed
    counts = report["counts"]
    assert counts["exact duplicates"] >= 50 and counts["near duplicates"] >= 20 and counts["read: not JSON"] == 3
    native = json.loads((tmp_path / "native" / "report.json").read_text())
    assert native["counts"] == counts and native["examples"] == report["examples"]
