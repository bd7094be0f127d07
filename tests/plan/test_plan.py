"""The page of a plan, its warnings and problems, and the curves for pictures; all from planned sizes, without a store."""

import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax import config as c
from kaiyuan_jax import plan as planning
from kaiyuan_jax.data import order, recipe
from kaiyuan_jax.plan import text

ROOT = pathlib.Path(__file__).parents[2]
L, B = 128, 16


def experiment(phases, *, sizes=None, schedule=None, every=10, keep=6, averaging=None):
    sizes = sizes or {"prose": 256_001, "code": 512_001}  # 2,000 and 4,000 sequences
    return c.Experiment(
        name="small",
        data=c.Data(
            sources=[c.Source(name=name, planned_tokens=size) for name, size in sizes.items()],
            phases=phases,
            sequence_length=L,
            batch_size=B,
        ),
        schedule=schedule or c.Schedule(kind="wsd", peak=3e-3, end=1e-3, warmup=10, decay=0.2, shape="linear"),
        checkpoint=c.Checkpoint(every=every, keep=keep),
        averaging=averaging or c.Averaging(kind="ema", last=6),
    )


def phase(name="main", order="ascending", passes=1.0, **fields):
    return c.Phase(name=name, order=order, uses=[c.Use(source="prose", passes=passes), c.Use(source="code")], **fields)


def resolved(tree, scored=True):
    tokens = {source.name: source.planned_tokens for source in tree.data.sources}
    return recipe.resolve(tree.data, tokens, dict.fromkeys(tokens, scored))


def warned(tree, scored=True):
    return planning.warnings(tree, resolved(tree, scored))


def only(tree, *words):
    (line,) = warned(tree)
    for word in words:
        assert word in line
    return line


# --- the page ---


def test_the_page_says_size_mixture_exposures_rates_and_averaging_window():
    tree = experiment([phase(passes=2.0)])
    page = planning.describe(tree)
    for line in (
        "tokens      1,024,000 (1.02M, 0.557 a parameter)",
        "steps       500 of 2,048 tokens (16 rows of 128)",
        "Phase main: steps 0 to 499, 1.02M tokens (100.0% of the run)",
        "prose     512k  50.0%       2  ascending  0 to 1",
        "code      512k  50.0%       1  ascending  0 to 1",
        "prose  0-1: 2x",
        "10  0.003  constant at 0.003",
        "399  0.003  linear decay from 0.003 to 0.001 begins",
        "499  0.001  last update",
        "average: ema of the last 6, after steps 450, 460, 470, 480, 490, 500",
        "weights, oldest first: 0.0888, 0.111, 0.139, 0.173, 0.217, 0.271",
        "the window covers 50 steps, 102k tokens (10.0% of the run), at rates 0.00198 to 0.001",
    ):
        assert line in page
    assert "Warnings" not in page


def test_no_line_of_the_page_is_wider_than_a_terminal():
    tree = experiment([phase(order="ascending")], schedule=c.Schedule(warmup=10), averaging=c.Averaging(kind="wma"))
    page = planning.describe(tree)
    assert "Warnings" in page
    assert max(map(len, page.splitlines())) <= 120


def test_exposures_of_shrinking_windows_are_a_step_function_on_the_page():
    shares = (1.0, 0.5, 0.3, 0.1)  # the example of Kaiyuan-2B, section 4
    phases = [c.Phase(name=f"p{i}", uses=[c.Use(source="code", window=(1 - share, 1.0))]) for i, share in enumerate(shares)]
    assert "code   0-0.5: 1x   0.5-0.7: 2x   0.7-0.9: 3x   0.9-1: 4x" in planning.describe(experiment(phases, schedule=c.Schedule(end=0.0)))


def test_the_plot_shows_a_linear_fall_from_top_left_to_bottom_right():
    tree = experiment([phase()], schedule=c.Schedule(kind="wsd", warmup=0, decay=0.99, end=1e-9, shape="linear", peak=1.0))
    rows = [line.partition("┤")[2] for line in planning.describe(tree).splitlines() if "┤" in line]
    assert len(rows) == text.HEIGHT and {len(row) for row in rows} == {text.WIDTH}
    filled = [sum(text.BLOCKS.index(row[column]) for row in rows) for column in range(text.WIDTH)]
    np.testing.assert_allclose(filled, np.linspace(63.5, 0.5, 64), atol=1)


def test_a_phase_begins_at_the_first_step_whose_first_row_lies_in_it():
    tree = experiment([phase("one", tokens=1003 * L), phase("two", tokens=1000 * L), phase("three", tokens=777 * L)])
    plan = resolved(tree)
    spans = planning.phase_steps(plan)
    assert spans[0][0] == 0 and spans[-1][1] == plan.steps
    for number, (first, after) in enumerate(spans):
        assert {int(order.batch(plan, step).phase[0]) for step in range(first, after)} == {number}


def test_a_phase_shorter_than_a_batch_is_named_as_such():
    page = planning.describe(experiment([phase("one"), phase("dot", tokens=3 * L), phase("two")]))
    assert "Phase dot: shorter than a batch" in page


def test_the_published_recipe_and_a_page_of_27_sources_take_under_a_second():
    sizes = {f"source{i}": int(2.2e12 / 27) for i in range(27)}
    phases = [c.Phase(name=f"p{i}", order="ascending", uses=[c.Use(source=name, window=(i / 5, 1.0)) for name in sizes]) for i in range(5)]
    tree = experiment(phases, sizes=sizes, schedule=c.Schedule(warmup=1000), every=400)
    tree.data.sequence_length, tree.data.batch_size = 4096, 2048
    planning.describe(tree)  # imports
    start = time.process_time()
    planning.describe(tree)
    assert time.process_time() - start < 1


def test_planning_does_not_import_jax():
    code = "import sys; from kaiyuan_jax import plan; print([m for m in ('jax', 'orbax', 'grain', 'optax') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# --- warnings ---


def test_the_regime_the_literature_recommends_has_no_warning():
    assert warned(experiment([phase()])) == []


def test_the_published_baseline_has_no_warning():
    assert warned(experiment([phase(order="uniform")], schedule=c.Schedule(end=1e-5), averaging=c.Averaging())) == []


def test_ascending_into_a_deep_decay_is_warned_about_with_the_share_of_the_best_text_lost():
    schedule = c.Schedule(kind="wsd", peak=1e-2, end=1e-5, warmup=10, decay=0.2, shape="linear")
    line = only(experiment([phase()], schedule=schedule, averaging=c.Averaging()), "ascending", "End near a third of the peak (0.003)")
    # 375 steps, the decay is the last 75: a tenth of the peak is crossed 7.4 steps before the last, in a last tenth of 37.
    assert "0.1% of the peak): 22% of its last and best tenth" in line


def test_ascending_at_a_constant_rate_without_an_average_is_warned_about():
    only(experiment([phase()], schedule=c.Schedule(kind="constant"), averaging=c.Averaging()), "nothing is averaged")
    assert warned(experiment([phase()], schedule=c.Schedule(kind="constant"))) == []


def test_uniform_order_that_ends_at_a_high_rate_is_warned_about():
    only(experiment([phase(order="uniform")], schedule=c.Schedule(kind="constant")), "A shuffled run does best with an end near zero")


def test_averaging_where_the_rate_is_near_zero_is_warned_about():
    schedule = c.Schedule(kind="wsdc", peak=3e-3, end=1e-5, warmup=10, decay=0.2, tail=0.3)
    only(experiment([phase(order="uniform")], schedule=schedule), "the last 6 checkpoints (steps 330 to 375)", "0.3% of the peak")


def test_averaging_across_a_deep_decay_is_warned_about():
    schedule = c.Schedule(kind="wsd", peak=3e-3, end=1e-6, warmup=10, decay=0.2, shape="linear")
    only(
        experiment([phase(order="uniform")], schedule=schedule, every=20),
        "the last 6 checkpoints lie across a deep decay",
        "0.0% of the peak",
    )
    moderate = c.Schedule(kind="wsd", peak=3e-3, end=1e-3, warmup=10, decay=0.2, shape="linear")
    assert warned(experiment([phase()], schedule=moderate, every=20)) == []


def test_passes_beyond_the_limit_of_reuse_are_warned_about_with_what_they_are_worth():
    lines = warned(experiment([phase(passes=14.0)]))
    assert any("prose 14 (worth 9.78)" in line for line in lines)
    assert any("read more than 11.7 times in all: prose. From there on a pass is worth less than half" in line for line in lines)


def test_wma_with_an_ascending_order_is_warned_about():
    only(experiment([phase()], averaging=c.Averaging(kind="wma")), "wma imitates a learning-rate decay")
    uniform = experiment([phase(order="uniform")], schedule=c.Schedule(kind="cosine", end=9e-4), averaging=c.Averaging(kind="wma"))
    assert warned(uniform) == []


def test_more_than_four_passes_in_all_phases_together_are_warned_about():
    assert warned(experiment([phase("one", passes=2.0), phase("two", passes=2.0)])) == []
    only(experiment([phase("one", passes=2.5), phase("two", passes=2.0)]), "read more than 4 times in all: prose 4.5 (worth 4.13).")


def test_a_descending_order_of_one_source_is_warned_about():
    tree = experiment([phase()])
    tree.data.phases[0].uses[1].order = "descending"
    only(tree, "main: descending order reads the best text first")


def test_an_averaging_window_over_a_phase_change_is_warned_about():
    only(experiment([phase("one"), phase("two", tokens=500 * L)]), "averaging: the window begins at step 360, before two")
    assert warned(experiment([phase("one"), phase("two", tokens=1000 * L)])) == []


def test_an_order_by_quality_of_sources_without_scores_is_warned_about():
    lines = warned(experiment([phase()], schedule=c.Schedule(end=9e-4)), scored=False)
    assert lines == ["order: no quality score in code, prose, so the order asked for is replaced by uniform there"]


def test_a_temperature_over_text_that_is_all_read_is_warned_about():
    def lines(passes):
        tree = experiment([phase()], schedule=c.Schedule(end=9e-4))
        tree.data.phases[0].uses[0].temperature, tree.data.phases[0].uses[0].passes = 0.5, passes
        return [line for line in warned(tree) if line.startswith("sampling: ")]

    (line,) = lines(1.0)
    assert line.startswith("sampling: all of the window of prose is read, so its temperature changes nothing") and lines(0.5) == []


# --- domains ---


def with_domains(phases, **fields):
    tree = experiment(phases, schedule=c.Schedule(warmup=10), **fields)
    for source in tree.data.sources:
        source.domain = source.name
    return tree


def test_domains_add_up_by_phase_and_over_the_run():
    one, two = c.Phase(name="one", order="uniform", uses=[c.Use(source="prose")]), phase("two", "uniform")
    mixed = with_domains([one, two])
    parts = planning.domains.mixtures(mixed, resolved(mixed))
    assert [part.name for part in parts] == ["one", "two", "run"]
    assert [part.tokens for part in parts] == [
        {"prose": 2000 * L, "code": 0},
        {"prose": 2000 * L, "code": 4000 * L},
        {"prose": 4000 * L, "code": 4000 * L},
    ]
    assert [part.share("code") for part in parts] == pytest.approx([0, 2 / 3, 1 / 2])
    table = planning.describe(mixed).split("Domains")[1].splitlines()[2:4]
    assert [line.split() for line in table] == [
        ["prose", "256k", "100.0%", "256k", "33.3%", "512k", "50.0%"],
        ["code", "512k", "66.7%", "512k", "50.0%"],
    ]


def test_domains_of_many_phases_are_wrapped_to_the_width_of_a_terminal():
    tree = with_domains([phase(f"phase{i}", "uniform") for i in range(13)])
    page = planning.describe(tree)
    heads = [line.split() for line in page.splitlines() if line.startswith("  domain ")]
    assert heads == [["domain", *(f"phase{i}" for i in part)] for part in (range(6), range(6, 12))] + [["domain", "phase12", "run"]]
    assert max(map(len, page.splitlines())) <= 120


def test_a_page_without_domains_does_not_mention_them():
    assert "Domains" not in planning.describe(experiment([phase()]))


def test_sources_that_share_a_domain_are_one_line():
    tree = with_domains([phase()])
    tree.data.sources[1].domain = "prose"
    (main, run) = planning.domains.mixtures(tree, resolved(tree))
    assert main.tokens == run.tokens == {"prose": 6000 * L}


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (c.DomainLimit(domain="code", at_most=0.67), True),
        (c.DomainLimit(domain="code", at_most=0.66), False),
        (c.DomainLimit(domain="prose", at_least=0.33), True),
        (c.DomainLimit(domain="prose", at_least=0.34), False),
    ],
)
def test_a_limit_is_kept_up_to_its_edge_and_broken_beyond(limit, kept):
    tree = with_domains([phase(order="uniform")], averaging=c.Averaging())  # a third prose
    tree.data.domain_limits = [limit]
    assert (warned(tree) == []) == kept
    assert ("kept in every phase" in planning.describe(tree)) == kept


def test_a_broken_limit_names_phase_share_and_the_sizes_it_rests_on():
    tree = with_domains([phase("first", "uniform")], averaging=c.Averaging())
    tree.data.domain_limits = [c.DomainLimit(domain="code", at_most=0.3)]
    assert only(tree) == "domains: first: 66.7% code, the recipe asks for code at most 0.3"
    tree.data.sources[0].planned_from = "ours"
    assert only(tree).endswith("at most 0.3; 33% of the phase rests on sizes that are ours, so this may be too")
    assert "code at most 0.3: broken in first (66.7%)" in planning.describe(tree)


def test_the_page_says_where_sizes_are_from_and_never_calls_ours_published():
    tree = with_domains([phase(order="uniform")])
    tree.data.sources[0].planned_from, tree.data.sources[1].planned_from = "ours", "public"
    tree.data.sources[0].quality, tree.data.sources[1].quality = "metadata.score", "none"
    page = planning.describe(tree)
    assert "prose     256k  ours: unknown  prose   metadata.score" in page
    assert "code      512k  public         code    not scored" in page


def test_exposures_of_a_precut_store_are_those_of_the_whole_corpus():
    tree = with_domains([c.Phase(name="p", order="uniform", uses=[c.Use(source="code", window=(0.4, 1.0))])])
    tree.data.sources[1].precut = 0.05
    assert "code   0-0.97: 0x   0.97-1: 1x" in planning.describe(tree)


# --- problems ---


def test_an_averaging_window_longer_than_the_run_is_a_problem_with_its_cure():
    tree = experiment([phase()], every=100)  # 375 steps save 100, 200, 300, 375
    plan = resolved(tree)
    (line,) = planning.problems(tree, plan)
    assert "375 steps with config.checkpoint.every = 100 save 4 checkpoints" in line and line.endswith("every to at most 74")
    tree.checkpoint.every = 74
    assert planning.problems(tree, plan) == []
    tree.checkpoint.every, tree.averaging.last = 100, 4
    assert planning.problems(tree, plan) == []
    tree.averaging.last = 1
    assert "average: ema of the last 1, after steps 375" in planning.describe(tree)
    tree.averaging.last = 4
    assert planning.window(tree, plan.steps) == [100, 200, 300, 375]


@settings(deadline=None, max_examples=100)
@given(steps=st.integers(1, 500), every=st.integers(1, 120), last=st.integers(1, 12))
def test_without_a_problem_the_window_has_as_many_checkpoints_as_asked(steps, every, last):
    tree = experiment([phase(tokens=steps * B * L)], sizes={"prose": 2_000_000, "code": 2_000_000}, every=every, keep=12,
                      schedule=c.Schedule(kind="constant", warmup=0), averaging=c.Averaging(kind="sma", last=last))  # fmt: skip
    plan = resolved(tree)
    assert plan.steps == steps
    window = planning.window(tree, steps)
    assert window[-1] == steps and window[0] >= 1 and all(step % every == 0 for step in window[:-1])
    assert (len(window) == last) == (planning.problems(tree, plan) == [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: setattr(tree.schedule, "warmup", 375), "config.schedule.warmup: found 375 steps, must be 0 to 374 in a run of 375"),
        (lambda tree: setattr(tree.checkpoint, "keep", 5), "config.averaging.last: found 6, must be at most config.checkpoint.keep = 5"),
        (lambda tree: setattr(tree, "averaging", c.Averaging(kind="weights", last=2, weights=(0.5, 0.4))), "sum to 0.9, must sum to 1"),
        (lambda tree: setattr(tree.schedule, "decay", 0.99), "warmup 10 + decay 371 steps, must be at most 374"),
    ],
)
def test_what_cannot_run_is_refused_with_one_line(change, message):
    tree = experiment([phase()])
    change(tree)
    with pytest.raises(c.ConfigError) as caught:
        planning.describe(tree)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


# --- curves ---


def test_curves_of_an_ascending_run_rise_in_quality_and_keep_the_mixture():
    tree = experiment([phase()])
    plan = resolved(tree)
    curves = planning.curves(tree, plan, points=50)
    assert curves["step"][0] == 0 and curves["step"][-1] == plan.steps - 1 and len(curves["step"]) == 50
    np.testing.assert_array_equal(curves["learning_rate"], planning.learning_rate(tree, plan)(curves["step"]))
    np.testing.assert_allclose(curves["mixture"]["prose"] + curves["mixture"]["code"], 1)
    np.testing.assert_allclose(curves["mixture"]["prose"], 1 / 3, atol=0.01)
    for name in plan.sources:
        np.testing.assert_allclose(curves["quality"][name], np.linspace(0, 1, 50), atol=0.03)


def test_curves_do_not_mix_phases_and_have_no_quality_where_a_source_is_absent():
    only_prose = c.Phase(name="tail", uses=[c.Use(source="prose")])
    tree = experiment([phase("head", "uniform"), only_prose])
    curves = planning.curves(tree, resolved(tree), points=10_000)
    assert len(curves["step"]) == 500  # every step once
    tail = curves["phase"] == 1
    assert tail.sum() == 125 and not tail[:375].any()
    assert np.isnan(curves["quality"]["code"][tail]).all() and np.isfinite(curves["quality"]["code"][~tail]).all()
    assert (curves["mixture"]["prose"][tail] == 1).all()
    np.testing.assert_allclose(curves["mixture"]["prose"][~tail], 1 / 3, atol=0.02)


# --- launch/plan.py ---


def test_the_script_prints_the_page_of_a_config_with_overrides():
    command = [sys.executable, "launch/plan.py", "--config=configs/kaiyuan_2b.py", "--config.averaging.last=6"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "2,031,854,592" in done.stdout and "sma of the last 6" in done.stdout and "phase phase5 begins" in done.stdout


def test_the_script_ends_with_one_line_and_code_2_when_the_run_is_impossible():
    command = [sys.executable, "launch/plan.py", "--config=configs/kaiyuan_2b.py", "--config.schedule.warmup=300000"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == ["error: config.schedule.warmup: found 300000 steps, must be 0 to 262189 in a run of 262190 steps"]


def test_a_sampled_source_is_shown_by_tenths_that_account_for_what_it_reads():
    use = c.Use(source="prose", temperature=0.5)
    tree = experiment([c.Phase(uses=[use], order="ascending", tokens=64_000)], sizes={"prose": 256_001}, every=2)
    steps = recipe.exposures(resolved(tree))["prose"]
    shown = text.tenths(steps)
    assert len(shown) == 10 < len(steps) and [step.passes for step in shown] == sorted(step.passes for step in shown)
    assert sum(step.passes for step in shown) / 10 == pytest.approx(0.25)
    page = planning.describe(tree)
    assert "0 to 1, the better the denser" in page and "0.9-1: " in page and "0.89-0.9" not in page
