"""What cannot be trained together is refused before any work, by field and members."""

import dataclasses

import pytest

from kaiyuan_jax import config
from kaiyuan_jax.config import ConfigError
from kaiyuan_jax.experiments import population
from kaiyuan_jax.experiments.population import loop, members
from kaiyuan_jax.schedules import file


def with_fields(experiment, **fields):
    """Copies with nested fields by double underscore."""
    for path, value in fields.items():
        *parents, name = path.split("__")
        owners = [experiment]
        for parent in parents:
            owners.append(getattr(owners[-1], parent))
        made = dataclasses.replace(owners.pop(), **{name: value})
        for owner, parent in zip(reversed(owners), reversed(parents), strict=True):
            made = dataclasses.replace(owner, **{parent: made})
        experiment = made
    return experiment


@pytest.mark.parametrize(
    "field, value",
    [
        ("model__width", 24), ("data__batch_size", 8), ("optimizer__beta2", 0.99), ("optimizer__z_loss", 1e-4),
        ("precision__compute", "bfloat16"), ("data__mask_documents", True), ("evaluation__rows", 5),
    ],
)  # fmt: skip
def test_a_field_that_is_compiled_in_must_be_equal_and_is_named_with_both_members(member, field, value):
    other = with_fields(member("b"), **{field: value})
    with pytest.raises(ConfigError, match=rf"config.{field.replace('__', '.')}: member a has .* member b has {value!r}"):
        members.check([member("a"), other])


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("start", "runs/x/checkpoints/3", "config.start"),
        ("mesh__fsdp", 2, "config.mesh.fsdp"),
        ("averaging__online_decay", 0.9, "config.averaging"),
        ("health__divergence", "skip", "config.health"),
        ("logging__statistics", True, "config.logging.statistics"),
    ],
)
def test_what_a_population_does_not_do_is_refused_with_a_remedy(member, field, value, said):
    with pytest.raises(ConfigError, match=rf"{said}.*(or train this experiment alone)"):
        members.check([with_fields(member(), **{field: value})])


def test_a_mistake_in_one_member_is_said_with_its_name(member):
    with pytest.raises(ConfigError, match="member b: config.schedule.peak"):
        members.check([member("a"), with_fields(member("b"), schedule__peak=-1.0)])


def test_names_are_unique_and_there_is_a_member(member):
    with pytest.raises(ConfigError, match="a given more than once"):
        members.check([member("a"), member("a")])
    with pytest.raises(ConfigError, match="found none"):
        members.check([])


def test_members_of_different_lengths_are_refused(member):
    longer = member("b")
    longer.data.phases[0].tokens += 64
    with pytest.raises(ConfigError, match="member a has 12 steps, member b has 13"):
        members.resolve([member("a"), longer])


def test_one_name_for_two_held_out_stores_is_refused(member, stores, tmp_path):
    other = member("b")
    other.data.sources[0].heldout = f"{stores}/prose/heldout"
    with pytest.raises(ConfigError, match="'code'.heldout: found .*code/heldout and .*prose/heldout .member b."):
        population.train([member("a"), other], tmp_path / "population")
    assert not (tmp_path / "population").exists()


def test_members_with_the_same_data_share_its_plan_and_stores(trio, member):
    group = members.resolve([*trio, member("d", seed=9, schedule=config.Schedule(kind="constant", peak=1.0, warmup=0))])
    assert group.plans[0] is group.plans[3] and group.stores[0] is group.stores[2]
    assert group.plans[0] != group.plans[1] and group.plans[0] != group.plans[2]


def test_the_cost_counts_every_members_tokens(trio):
    cost = population.predict_cost(trio)
    assert cost.tokens == 3 * 12 * 4 * 16 and cost.seconds is None
    assert cost.flops == pytest.approx(population.predict_cost(trio[:1]).flops * 3)
    assert "3 members, 2,304 tokens" in str(cost)


def test_a_file_of_rates_that_changed_since_the_checkpoint_is_refused_by_member(member, tmp_path):
    def group(end):
        file.write(tmp_path / "schedule.json", [0, 2, 11], [0.0, 1e-3, end])
        schedule = config.Schedule(kind="file", path=str(tmp_path / "schedule.json"), peak=1e-3, warmup=2)
        return members.resolve([member("a"), member("b", schedule=schedule)])

    before = group(1e-5).checksums()
    loop._check_rates(tmp_path, group(1e-5), before)
    with pytest.raises(ConfigError, match="member b was begun with other rates than .*schedule.json"):
        loop._check_rates(tmp_path, group(2e-5), before)
