"""The report of a preparation shows what came in, what went and why, and never runs what it shows."""

import json

import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.prepare.pipeline import prepare
from kaiyuan_jax.data.prepare.settings import Settings
from kaiyuan_jax.report import preparation


def prepared(folder, name, **settings):
    said = "The {} of this kind is what we have read to those who would not come with us, and it was as good as the one before it. "
    rows = [{"text": f"<script>alert({i})</script> " + "".join(said.format(f"{name}{i * j}") for j in range(9)), "q": i} for i in range(60)]
    rows += [{"text": row["text"] + f"Write to someone{i}@example.org about {name}.", "q": 1} for i, row in enumerate(rows[:30])]
    rows += [{"text": "too short", "q": 1}]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    settings = Settings(vocabulary=300, heldout=0.1, max_loss=0.1, mask=("email",), rules=("web_en",), near_duplicates=False, **settings)
    prepare([str(folder / f"{name}.jsonl")], str(folder / name), settings)
    return str(folder / name)


def test_the_page_shows_counts_rules_examples_quality_and_losses(tmp_path):
    folders = [prepared(tmp_path, "first", quality_field="q"), prepared(tmp_path, "second", unscored=True)]
    page = preparation.build(folders, tmp_path / "report.html").read_text()
    assert page.count("<h2>") == 5 and page.count("<img") == 1 and "first" in page and "second" in page
    report = json.loads((tmp_path / "first" / "report.json").read_text())
    masked = [name for name in report["counts"] if "email" in name]
    assert masked and all(name in page for name in masked) and "&lt;email&gt;" in page and "someone" not in page and "rule web_en/" in page
    assert "1 × not JSON, such as first.jsonl, byte" in page and f"{report['stores']['train']['tokens']:,}" in page
    assert "<script" not in page
    assert sorted(item.name for item in tmp_path.iterdir() if item.suffix == ".html") == ["report.html"]


def test_a_folder_that_was_not_prepared_is_refused(tmp_path):
    with pytest.raises(UserError, match="no report.json, so not a prepared source"):
        preparation.build([str(tmp_path)], tmp_path / "x.html")
