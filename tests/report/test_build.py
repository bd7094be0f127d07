import html
import json
import re
import struct

import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.report import build, style

FIGURES = ("results", "interaction", "quality", "data_seen", "learning_rate", "heldout_loss", "training_loss")


@pytest.fixture(scope="module")
def report(quickstart, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    path, table = build.build(quickstart, folder, title="A & B", preliminary="Two more seeds are running.", baseline="uniform_wsd")
    return folder, path.read_text(encoding="utf-8"), table


def test_the_page_names_every_run_and_holds_every_number(report, quickstart):
    _, page, table = report
    for folder in quickstart:
        for path in (folder / "evaluation").glob("*.json"):
            result = json.loads(path.read_text(encoding="utf-8"))
            assert folder.name in page and folder.name in table
            for entry in (*result["heldout"].values(), result["mean"]):
                assert f"{entry['bits_per_byte']:.4f}" in page and f"{entry['bits_per_byte']:.4f}" in table
            assert f"{result['choice']['mean']['accuracy']:.3f}" in page


def test_the_page_needs_nothing_from_elsewhere(report):
    _, page, _ = report
    without_pictures = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|//[a-z]|<script|<link|@import|url\(", without_pictures)
    assert page.count("data:image/png;base64,") == len(FIGURES)


def test_pictures_lie_beside_the_page_whole(report):
    folder, _, _ = report
    assert sorted(p.name for p in folder.iterdir()) == sorted([*(f"{name}.png" for name in FIGURES), "report.html"])
    for name in FIGURES:
        content = (folder / f"{name}.png").read_bytes()
        width, height = struct.unpack(">II", content[16:24])
        assert content[:8] == b"\x89PNG\r\n\x1a\n" and width > 800 and height > 300
        assert b"http" not in content


def test_text_is_escaped_and_chinese_stays_text(report):
    _, page, _ = report
    assert "<title>A &amp; B</title>" in page
    assert "Once upon a &lt;b&gt;time" in page and "<b>time" not in page
    assert "学而时习之" in page and "不亦说乎" in page


def test_the_page_says_what_it_does_not_show(report):
    _, page, _ = report
    words = html.unescape(page)
    assert "Two more seeds are running." in words
    assert "1.5B parameters and 30B tokens" in words and "614k tokens" in words
    assert "Seed noise: runs that differ in nothing but their seeds lie up to 0.0060 bits per byte apart" in words
    assert "Against uniform, WSD to 1e-5, final checkpoint, 5 of 7 models differ" in words
    assert "guessing gives 0.250" in words


def test_the_baseline_is_the_first_run_unless_named(quickstart, tmp_path):
    path, table = build.build(quickstart[:2], tmp_path)
    assert "Against uniform, cosine to 1e-5, final checkpoint" in path.read_text(encoding="utf-8")
    assert table.splitlines()[1].endswith("baseline")
    with pytest.raises(UserError, match="--baseline: found 'nothing', must be one of uniform_cosine, uniform_wsd"):
        build.build(quickstart[:2], tmp_path, baseline="nothing")


def test_runs_that_are_not_evaluated_yet_still_make_a_page(make_run, tmp_path):
    path, table = build.build([make_run("fresh", 0.0, evaluated=False)], tmp_path)
    assert "not evaluated" in table or "no run was evaluated" in table
    page = path.read_text(encoding="utf-8")
    assert "fresh" in page and "No run was evaluated yet" in page and page.count("data:image/png") == 4


def test_the_same_runs_give_the_same_bytes(quickstart, tmp_path):
    first, _ = build.build(quickstart[1:2], tmp_path / "a")
    second, _ = build.build(quickstart[1:2], tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_labels_are_pushed_apart_no_further_than_needed():
    assert style.spread([0.1, 0.5, 0.9], 0.1) == [0.1, 0.5, 0.9]
    moved = style.spread([0.0, 0.01, 0.02, 0.9], 0.1)
    assert moved == pytest.approx([-0.09, 0.01, 0.11, 0.9])


def test_smoothing_keeps_a_straight_line_and_its_ends():
    line = [float(x) for x in range(50)]
    assert style.smooth(line, 0.2) == pytest.approx(line)
    assert style.smooth([5.0], 0.2) == pytest.approx([5.0])
