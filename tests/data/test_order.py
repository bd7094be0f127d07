"""The order against its definition: explicit sorts of small phases, and invariants that hold for every recipe."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax import config as c
from kaiyuan_jax.config_check import ORDERS
from kaiyuan_jax.data import order
from kaiyuan_jax.data.recipe import resolve

QUICK = settings(deadline=None, max_examples=30)


def make_plan(sizes, *, phases=1, batch_size=1, seed=0, passes=1.0, window=(0.0, 1.0), **settings):
    """A plan over sources of the given numbers of sequences; `settings` are of every phase."""
    tokens = {f"s{i}": size * 4 + 1 for i, size in enumerate(sizes)}
    uses = [c.Use(source=name, passes=passes, window=window) for name in tokens]
    data = c.Data(
        sources=[c.Source(name=name) for name in tokens],
        phases=[c.Phase(name=f"p{i}", uses=uses, **settings) for i in range(phases)],
        sequence_length=4,
        batch_size=batch_size,
        seed=seed,
    )
    return resolve(data, tokens, dict.fromkeys(tokens, True))


@st.composite
def plans(draw, orders=ORDERS, shuffled=True):
    """Recipes of one to three phases over up to 27 sources, some of one sequence, with any windows, passes and budgets."""
    sizes = draw(st.lists(st.one_of(st.just(1), st.integers(1, 12), st.integers(1, 400)), min_size=1, max_size=27))
    tokens = {f"s{i}": size * 4 + 1 for i, size in enumerate(sizes)}
    phases = []
    for number in range(draw(st.integers(1, 3))):
        uses = []
        for name, size in zip(tokens, sizes, strict=True):
            low, high = draw(st.sampled_from([(0.0, 1.0), (0.0, 1.0), (0.4, 1.0), (0.1, 0.9)])) if size > 20 else (0.0, 1.0)
            passes = draw(st.sampled_from([0.3, 0.77, 1.0, 1.0, 1.5, 2.0, 3.25])) if size > 4 else draw(st.sampled_from([1.0, 2.0, 7.0]))
            temperature = draw(st.sampled_from([0.0, 0.0, 0.5, 3.0])) if passes <= 1 else 0.0
            own = draw(st.sampled_from(("", *orders)))
            uses.append(c.Use(source=name, window=(low, high), passes=passes, order=own, temperature=temperature))
        window = draw(st.sampled_from([0, 0, 1, 7, 64])) if shuffled else 0
        phases.append(
            c.Phase(name=f"p{number}", uses=uses, order=draw(st.sampled_from(orders)), folds=draw(st.integers(1, 5)), shuffle_window=window)
        )
    data = c.Data(
        sources=[c.Source(name=name) for name in tokens], phases=phases, sequence_length=4, batch_size=1, seed=draw(st.integers(0, 99))
    )
    whole = resolve(data, tokens, dict.fromkeys(tokens, True))
    if draw(st.booleans()):  # thin the first phase
        phases[0].tokens = 4 * draw(st.integers(1, whole.phases[0].entries))
        whole = resolve(data, tokens, dict.fromkeys(tokens, True))
    return whole


def all_rows(plan):
    return order.rows(plan, np.arange(plan.positions))


def merge_of(phase):
    """(use, entry) of every rank by sorting every key, ties by use: the definition of the merge."""
    offsets = order.offsets(len(phase.uses))
    keys = [((e + u) / use.entries, i, e) for i, (use, u) in enumerate(zip(phase.uses, offsets, strict=True)) for e in range(use.entries)]
    return [(i, e) for _, i, e in sorted(keys)]


def entries_of_use(plan, phase, use, rows):
    """The (sequence, pass) of one use in the order they are read; needs one use per source and no shuffle window."""
    here = (rows.phase == plan.phases.index(phase)) & (rows.source == use.source)
    return list(zip(rows.sequence[here].tolist(), rows.pass_[here].tolist(), strict=True))


@QUICK
@given(plans())
def test_lookup_agrees_with_sorting_every_key(plan):
    for phase in plan.phases:
        use, entry = order.lookup(phase, np.arange(phase.entries))
        assert list(zip(use.tolist(), entry.tolist(), strict=True)) == merge_of(phase)


@QUICK
@given(plans(), st.data())
def test_rows_asked_for_alone_or_in_any_order_are_the_same_rows(plan, data):
    positions = np.array(data.draw(st.lists(st.integers(0, plan.positions - 1), min_size=1, max_size=30)))
    whole, some = all_rows(plan), order.rows(plan, positions)
    for field in dataclasses.fields(order.Rows):
        assert np.array_equal(getattr(some, field.name), getattr(whole, field.name)[positions]), field.name


@QUICK
@given(plans(shuffled=False))
def test_every_prefix_of_a_phase_holds_its_mixture(plan):
    # There is an x such that every use has given x m_i rows to within one: the intervals [(c - 1) / m, (c + 1) / m] have a common point.
    for phase in plan.phases:
        use, _ = order.lookup(phase, np.arange(phase.entries))
        counts = np.cumsum(use[:, None] == np.arange(len(phase.uses)), axis=0)
        entries = phase.columns["entries"]
        counts, entries = counts[:, entries > 0], entries[entries > 0]
        assert (((counts - 1) / entries).max(axis=1) <= ((counts + 1) / entries).min(axis=1) + 1e-12).all()


@pytest.mark.parametrize("kind", ORDERS)
def test_the_mixture_holds_for_27_sources_of_very_different_sizes(kind):
    sizes = [1] * 9 + [2, 3, 5, 8, 13, 21, 34, 55, 89] + [144, 233, 377, 610, 987, 1597, 2584, 1000, 1000]
    (phase,) = (plan := make_plan(sizes, order=kind)).phases
    rows = all_rows(plan)
    counts = np.cumsum(rows.source[:, None] == np.arange(27), axis=0)
    assert (((counts - 1) / sizes).max(axis=1) <= ((counts + 1) / sizes).min(axis=1) + 1e-12).all()
    single = np.flatnonzero(rows.source < 9) / phase.entries
    assert np.diff(single, prepend=0, append=1).max() < 0.2  # sources of one sequence do not arrive together


@QUICK
@given(plans())
def test_every_selected_sequence_is_read_exactly_its_number_of_passes(plan):
    rows = all_rows(plan)
    for number, phase in enumerate(plan.phases):
        for use in phase.uses:
            here = (rows.phase == number) & (rows.source == use.source)
            seen = list(zip(rows.sequence[here].tolist(), rows.pass_[here].tolist(), strict=True))
            passes, extra = divmod(use.entries, use.width)
            times = Counter(sequence for sequence, _ in seen)
            assert all(use.begin <= sequence < use.end for sequence in times)
            assert sum(times[sequence] == passes + 1 for sequence in range(use.begin, use.end)) == extra
            assert sum(times[sequence] == passes for sequence in range(use.begin, use.end)) == use.width - extra
            # Passes count from 0 without gaps, and no (sequence, pass) comes twice: the order is a bijection onto them.
            assert set(seen) == {(sequence, k) for sequence, count in times.items() for k in range(count)}
            assert len(set(seen)) == len(seen) == use.entries


@pytest.mark.parametrize("passes", [0.01, 0.3, 1.0, 1.37, 2.0, 5.9])
def test_all_orders_read_the_same_text_equally_often(passes):
    read = []
    for kind in ORDERS:
        rows = all_rows(make_plan([300, 41], passes=passes, order=kind))
        read.append(Counter(zip(rows.source.tolist(), rows.sequence.tolist(), rows.pass_.tolist(), strict=True)))
    assert read[0] == read[1] == read[2] == read[3]


@pytest.mark.parametrize("passes", [0.07, 0.5, 0.93, 2.31])
def test_a_fraction_of_a_pass_has_the_quality_of_the_whole(passes):
    rows = all_rows(make_plan([1000], passes=passes, order="ascending"))
    extra = rows.sequence[rows.pass_ == int(passes)]
    strata = extra.size
    assert strata == round(passes % 1 * 1000)
    edges = np.arange(strata + 1) * 1000 // strata
    assert ((edges[:-1] <= extra) & (extra < edges[1:])).all()  # exactly one of each stratum
    other = all_rows(make_plan([1000], passes=passes, order="ascending", seed=1))
    assert not np.array_equal(extra, other.sequence[other.pass_ == int(passes)])


@QUICK
@given(plans(orders=("ascending",), shuffled=False))
def test_ascending_never_falls_in_quality_and_keeps_copies_together(plan):
    rows = all_rows(plan)
    for phase in plan.phases:
        for use in phase.uses:
            seen = entries_of_use(plan, phase, use, rows)
            assert seen == sorted(seen)


@QUICK
@given(plans(orders=("descending",), shuffled=False))
def test_descending_never_rises_in_quality(plan):
    rows = all_rows(plan)
    for phase in plan.phases:
        for use in phase.uses:
            seen = entries_of_use(plan, phase, use, rows)
            assert seen == sorted(seen, key=lambda pair: (-pair[0], pair[1]))


@QUICK
@given(plans(orders=("folded",), shuffled=False))
def test_folded_is_k_ascending_rounds_and_gives_one_of_every_k_neighbours_to_each(plan):
    rows = all_rows(plan)
    for phase in plan.phases:
        for use in phase.uses:
            seen, folds = entries_of_use(plan, phase, use, rows), use.folds
            place = {pair: i for i, pair in enumerate(sorted(seen))}
            sizes = [use.entries // folds + (k >= folds - use.entries % folds) for k in range(folds)]
            rounds = np.split([place[pair] for pair in seen], np.cumsum(sizes)[:-1])
            for group_of in rounds:
                assert (np.diff(group_of) > 0).all()
                assert len(set((group_of // folds).tolist())) == len(group_of)


def test_uniform_reads_pass_after_pass_each_shuffled_on_its_own():
    rows = all_rows(make_plan([500], passes=2.5))
    assert rows.pass_.tolist() == [0] * 500 + [1] * 500 + [2] * 250
    first, second, third = rows.sequence[:500], rows.sequence[500:1000], rows.sequence[1000:]
    assert not np.array_equal(first, second)
    for part in (first, second, third):
        assert abs(np.corrcoef(part, np.arange(part.size))[0, 1]) < 0.15


@pytest.mark.parametrize("kind", ["uniform", "folded"])
def test_the_seed_decides_the_order(kind):
    runs = [all_rows(make_plan([200], order=kind, seed=seed)).sequence for seed in (0, 0, 1)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


@QUICK
@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(2, 40), st.sampled_from(ORDERS))
def test_a_shuffle_window_moves_rows_inside_their_block_only(sizes, window, kind):
    plain, shuffled = make_plan(sizes, order=kind), make_plan(sizes, order=kind, shuffle_window=window)
    before, after = all_rows(plain), all_rows(shuffled)
    for start in range(0, plain.positions, window):
        block = slice(start, start + window)
        assert Counter(zip(before.source[block], before.sequence[block], strict=True)) == Counter(
            zip(after.source[block], after.sequence[block], strict=True)
        )


def test_a_shuffle_window_does_shuffle():
    plain, shuffled = make_plan([1000], order="ascending"), make_plan([1000], order="ascending", shuffle_window=100)
    assert (all_rows(plain).sequence != all_rows(shuffled).sequence).mean() > 0.9


def test_batches_tile_the_run_up_to_its_very_last_row():
    plan = make_plan([37, 5], phases=3, batch_size=20, order="ascending")
    whole = all_rows(plan)
    steps = [order.batch(plan, step) for step in range(plan.steps)]
    assert plan.skipped == 126 % 20
    assert np.array_equal(np.concatenate([rows.sequence for rows in steps]), whole.sequence[plan.skipped :])
    assert any(np.unique(rows.phase).size == 2 for rows in steps)  # some batch straddles two phases


@pytest.mark.parametrize("step", [-1, 6])
def test_a_step_outside_the_plan_is_refused(step):
    with pytest.raises(IndexError, match="it has steps 0 to 5"):
        order.batch(make_plan([12], batch_size=2), step)


@pytest.mark.parametrize("positions", [[-1], [0, 12]])
def test_a_row_outside_the_plan_is_refused(positions):
    with pytest.raises(IndexError, match="plan of 12 rows"):
        order.rows(make_plan([12]), np.array(positions))


def test_quantiles_are_the_middle_of_each_sequence_in_its_store():
    rows = all_rows(make_plan([4], order="ascending", window=(0.5, 1.0)))
    assert rows.quantile.tolist() == [0.625, 0.875]


@pytest.mark.parametrize("kind", ORDERS)
def test_a_run_of_trillions_of_tokens_is_exact_where_it_is_asked(kind):
    rng = np.random.default_rng(0)
    sizes = [*(10 ** rng.uniform(0, 9.5, 26)).astype(int).tolist(), 8_000_000_000]
    plan = make_plan(sizes, order=kind, passes=1.37, batch_size=512)
    (phase,) = plan.phases
    for step in [0, plan.steps - 2, *rng.integers(0, plan.steps - 1, 20).tolist()]:
        here, after = order.positions(plan, step), order.positions(plan, step + 1)
        (use, entry), (next_use, next_entry) = order.lookup(phase, here), order.lookup(phase, after)
        for i in range(27):
            # Entries of a use come one after the other, within a batch and from one to the next.
            assert (np.diff(np.concatenate([entry[use == i], next_entry[next_use == i]])) == 1).all()
        alone = [order.lookup(phase, here[k : k + 1]) for k in (0, 100, 511)]
        assert [(int(one[0][0]), int(one[1][0])) for one in alone] == [(int(use[k]), int(entry[k])) for k in (0, 100, 511)]
        rows = order.batch(plan, step)
        for i in np.unique(rows.source):
            assert 0 <= rows.sequence[rows.source == i].min() and rows.sequence[rows.source == i].max() < sizes[i]
    last = order.rows(plan, np.arange(plan.positions - 512, plan.positions))
    assert (np.bincount(last.source, minlength=27) > 0)[-1]
    if kind == "ascending":
        assert last.sequence[last.source == 26].max() == 8_000_000_000 - 1


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 2**40), st.integers(1, 2**40), st.data())
def test_scaling_is_exact_where_products_overflow(w, r, data):
    if w // r > 2**40:
        return
    k = data.draw(st.integers(0, r))
    assert order._scaled(np.array([k]), np.array([w]), np.array([r])).tolist() == [k * w // r]
