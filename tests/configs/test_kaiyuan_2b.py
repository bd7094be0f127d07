"""The published recipe against the tables of the paper, copied here cell by cell, and against its exposures."""

import pathlib
import runpy
import subprocess
import sys

import pytest

from kaiyuan_jax.config_check import check
from kaiyuan_jax.data import recipe
from kaiyuan_jax.plan import domains, text

ROOT = pathlib.Path(__file__).parents[2]
FILE = runpy.run_path(str(ROOT / "configs" / "kaiyuan_2b.py"))
EXPERIMENT = FILE["get_config"]()
PLAN = recipe.resolve(EXPERIMENT.data, *recipe.facts_of(EXPERIMENT.data))

# arXiv 2512.07612, configs/phases/phaseN/mix.yaml: source | quality column | phases 1 to 5 | order inside phases 3 to 5
GOLDEN = """
dclm | fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train_prob | 100 % | top .40 | top .10 | top .06 | top .03 | score
fineweb_edu_chinese | score                          | 100 %    | top .20  | top .12 | top .10  | top .05  | score
fineweb_edu         | metadata.score                 |          | 100 %    | top .50 | top .30  | top .10  | score
finepdfs_en_top5    | fineweb-edu-classifier         |          |          | 100 %   | top .60  | top .30  | score
starcoder           | max_stars_count                | rand .10 | top .10  | top .05 | top .04  | top .01  | score
llm360_math         |                                | rand .30 |          |         | rand .20 | rand .10 | random
finewiki_zh         |                                |          | x1       | x2      | x2       | x2.5     | random
finewiki_en         |                                |          | x1       | x2      | x2       | x1.5     | random
baidu_baike         |                                |          |          | x1      | x2       | x1.5     | random
un_zh_en            |                                |          |          | x1      |          | rand .5  | random
arxiv               |                                |          | x1       | rand .6 | rand .8  | rand .4  | random
cosmopedia_v2       |                                |          | x1       | rand .2 | rand .4  | rand .1  | random
dolmino_flan        |                                |          | rand .10 |         |          |          | -
dolmino_pes2o       |                                |          | rand .05 |         |          |          | -
finemath_4plus      | score                          |          | x1       | top .6  | top .8   | top .4   | score
megamath_web_pro    | math_score                     |          | x1       | top .6  | top .8   | top .4   | score
openwebmath         | meta.extraction_info.math_score |         | x1       | top .4  | top .9   | top .6   | score
megamath_text_code  |                                |          | rand .5  |         |          |          | -
automathtext        | lm_q1q2_score                  |          |          | top .4  | x1       | top .6   | score
swallowmath_v2      |                                |          |          | rand .4 | x1       | rand .6  | random
stackexchange       |                                |          | x1       | rand .4 | rand .6  | rand .3  | random
swallowcode_v2      | score                          |          |          | top .4  | top .9   | top .4   | score
python_edu          | score                          |          |          | top .5  | x1       | top .6   | score
algebraic_stack     | max_stars_count                |          |          |         |          | top .6   | score
stack_v2_smol       |                                |          |          |         |          | rand .2  | random
zh_dedup_top30      | pac_score                      |          |          |         | rand .10 | top .05  | P4 random, P5 score
sft_downstream      |                                |          |          |         | x10      | x30      | random
jiuzhang3           |                                |          |          |         | x2       | x2       | random
tulu3_sft           |                                |          |          |         |          | x7       | random
slimorca            |                                |          |          |         |          | x2       | random
"""
ROWS = [[cell.strip() for cell in line.split("|")] for line in GOLDEN.strip().splitlines()]


def meaning(cell: str) -> tuple[tuple[float, float], float]:
    """(window, passes) of a cell."""
    if cell.startswith("top"):
        return (pytest.approx(1 - float(cell[3:])), 1.0), 1.0
    return (0.0, 1.0), 1.0 if cell == "100 %" else float(cell.removeprefix("rand").removeprefix("x"))


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_every_cell_of_the_phase_table_is_the_papers(row):
    name, quality, *cells, order = row
    (source,) = [source for source in EXPERIMENT.data.sources if source.name == name]
    assert source.quality == (quality or "none")
    for number, (phase, cell) in enumerate(zip(EXPERIMENT.data.phases, cells, strict=True)):
        uses = [use for use in phase.uses if use.source == name]
        assert len(uses) == bool(cell), f"phase {number + 1}"
        if uses:
            by_score = number >= 2 and (order == "score" or f"P{number + 1} score" in order)
            assert (uses[0].window, uses[0].passes) == meaning(cell)
            assert uses[0].order == ("ascending" if by_score else "uniform")
            assert uses[0].share == 0


def test_the_table_has_no_other_sources_and_the_papers_number_by_phase():
    check(EXPERIMENT)
    assert [source.name for source in EXPERIMENT.data.sources] == [row[0] for row in ROWS]
    assert [len(phase.uses) for phase in EXPERIMENT.data.phases] == [4, 15, 19, 22, 27]
    assert [phase.order for phase in EXPERIMENT.data.phases] == ["uniform"] * 2 + ["ascending"] * 3


def test_the_run_is_the_published_one_in_tokens_and_steps():
    assert PLAN.tokens == pytest.approx(2.2e12, rel=0.002)
    assert PLAN.steps == pytest.approx(262_260, rel=0.002)


def test_inferred_sizes_are_the_papers_and_all_others_are_public_or_ours():
    sizes = {source.name: (source.planned_from, source.planned_tokens / 1e9) for source in EXPERIMENT.data.sources}
    assert {name: size for name, (grade, size) in sizes.items() if grade == "inferred"} == {
        "dclm": 610, "fineweb_edu": 190, "finepdfs_en_top5": 55, "starcoder": 190,
    }  # fmt: skip
    assert {grade for grade, _ in sizes.values()} == {"inferred", "public", "ours"}


# Section 4 of the paper: quantile from the top -> exposures, 0 below the last one unless a rest is given.
EXPOSURES = {
    "fineweb_edu": ({0.10: 4, 0.30: 3, 0.50: 2}, 1),
    "dclm": ({0.03: 5, 0.06: 4, 0.10: 3, 0.40: 2}, 1),
    "fineweb_edu_chinese": ({0.05: 5, 0.10: 4, 0.12: 3, 0.20: 2}, 1),
    "finepdfs_en_top5": ({0.015: 3, 0.03: 2, 0.05: 1}, 0),
}
TOTALS = {
    "finewiki_zh": 7.5, "finewiki_en": 6.5, "baidu_baike": 4.5, "arxiv": 2.8, "stackexchange": 2.3, "cosmopedia_v2": 1.7,
    "swallowmath_v2": 2.0, "jiuzhang3": 4, "tulu3_sft": 7, "slimorca": 2, "sft_downstream": 40,
}  # fmt: skip


@pytest.mark.parametrize("name", EXPOSURES)
def test_exposures_by_quantile_of_the_whole_corpus_are_the_papers(name):
    steps, rest = EXPOSURES[name]
    (source,) = [source for source in EXPERIMENT.data.sources if source.name == name]
    found = text.of_corpus(recipe.exposures(PLAN)[name], source.precut)
    assert [step.passes for step in reversed(found)] == [*steps.values(), rest]
    assert [1 - step.low for step in reversed(found)] == pytest.approx([*steps, 1.0], abs=1e-5)


@pytest.mark.parametrize("name", TOTALS)
def test_total_exposures_of_unscored_sources_are_the_papers(name):
    (step,) = recipe.exposures(PLAN)[name]
    assert (step.low, step.high) == (0, 1)
    assert step.passes == pytest.approx(TOTALS[name], abs=1e-4)


def test_the_papers_caps_by_domain_are_checked_and_kept():
    limits = {(limit.domain, limit.at_least, limit.at_most) for limit in EXPERIMENT.data.domain_limits}
    assert limits == {("english", 0.3, 1.0), ("chinese", 0.0, 0.3), ("code", 0.0, 0.3), ("math", 0.0, 0.3)}
    assert not list(domains.broken(EXPERIMENT.data.domain_limits, domains.mixtures(EXPERIMENT, PLAN)))


def test_the_schedule_changes_with_the_phases_and_the_average_is_the_published_one():
    experiment = EXPERIMENT
    assert [(piece.begin, piece.end) for piece in experiment.schedule.pieces] == [
        (5e-3, 5e-3), (3e-3, 3e-3), (3e-3, 3e-3), (3e-3, 3e-3), (3e-3, 6e-4),
    ]  # fmt: skip
    ends, at = [], experiment.schedule.warmup
    for piece in experiment.schedule.pieces:
        at += piece.fraction * (PLAN.steps - experiment.schedule.warmup)
        ends.append(at)
    starts = [(phase.start + phase.entries) / PLAN.batch_size for phase in PLAN.phases]
    assert ends == pytest.approx(starts, abs=2)
    assert (experiment.averaging.last, experiment.checkpoint.every * 4096 * 2048) == (8, pytest.approx(3.36e9, rel=0.01))


def test_launch_plan_prints_the_page_without_any_data_in_terminal_width(tmp_path):
    command = [sys.executable, str(ROOT / "launch" / "plan.py"), f"--config={ROOT}/configs/kaiyuan_2b.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for line in (
        "fineweb_edu_chinese     94B  ours: unknown  chinese  score",
        "english at least 0.3: kept in every phase",
        "finepdfs_en_top5     0-0.95: 0x   0.95-0.97: 1x   0.97-0.985: 2x   0.985-1: 3x",
        "sft_downstream       0-1: 40x",
    ):
        assert line in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
