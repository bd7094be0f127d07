"""The page of a plan on a machine: what it says of memory, time, cost and disks, as text and as HTML."""

import json
import re

import pytest

from kaiyuan_jax import config as c
from kaiyuan_jax.plan import compiled, document, machine, memory, setting, traffic
from kaiyuan_jax.sharding import topology

GIB = 2**30


def experiment(**fields):
    source = c.Source(name="prose", planned_tokens=40_000_000_001, domain="english")
    other = c.Source(name="notes", planned_tokens=400_000_001, domain="code")
    phases = [
        c.Phase(name="one", uses=[c.Use(source="prose")]),
        c.Phase(name="two", order="ascending", uses=[c.Use(source="notes", passes=20.0)]),
    ]
    tree = c.Experiment(
        name="small",
        model=c.Model(layers=12, width=1024, feedforward=3072, heads=16, kv_heads=8, head_size=64, vocabulary=32_768, remat="full"),
        data=c.Data(sources=[source, other], phases=phases, sequence_length=2048, batch_size=512,
                    domain_limits=[c.DomainLimit(domain="code", at_most=0.5)]),
        schedule=c.Schedule(kind="wsd", peak=3e-3, end=1e-5, warmup=100, decay=0.2),
        precision=c.Precision(compute="bfloat16"),
        mesh=c.Mesh(data=1, fsdp=-1),
        checkpoint=c.Checkpoint(every=500, keep=6),
        averaging=c.Averaging(kind="ema", last=6),
    )  # fmt: skip
    for path, value in fields.items():
        part, _, name = path.partition("__")
        setattr(getattr(tree, part), name, value)
    return tree


def described(name="v6e:4x4", tree=None, **options):
    elsewhere = [topology.target(other) for other in options.pop("elsewhere", ())]
    return document.describe(tree or experiment(), topology.target(name), elsewhere=elsewhere, **options)


def found(pattern, words):
    match = re.search(pattern, words)
    assert match, f"{pattern} not in\n{words}"
    return [float(one.replace(",", "")) for one in match.groups()]


def test_the_page_is_at_most_120_columns_and_says_everything_before_anything_is_paid_for():
    page = described(hours=10.0, prices={"v6e": 2.7, "h100": 3.0}, elsewhere=machine.ELSEWHERE, tree=experiment(averaging__online_every=50))
    words = page.text()
    assert max(map(len, words.splitlines())) <= 120
    for title in (
        "small on v6e:4x4, 16 chips", "Memory of a chip", "As configured it fits", "Speed, time and cost", "cost at 2.7 a chip-hour",
        "Where runs land, published MFU", "In 10 hours", "What if", "Checkpoints: bytes and traffic", "Data seen and repeated",
        "The average in the train state costs", "Learning rate (wsd)", "Exposures", "Warnings", "Estimates are arithmetic",
    ):  # fmt: skip
        assert title in words, title


def test_days_cost_and_hours_follow_from_the_band():
    words = described(hours=5.0, prices={"v6e": 2.0}).text()
    slow, fast = found(r"tokens/s, all chips +([\d,]+) to ([\d,]+)", words)
    tokens = found(r"tokens +([\d,]+) \(", words)[0]
    days = found(r"the run, days +([\d,.]+) to ([\d,.]+)", words)
    assert days == pytest.approx([tokens / slow / 86400, tokens / fast / 86400], abs=0.06)
    cost = found(r"cost at 2 a chip-hour +([\d,]+) to ([\d,]+)", words)
    assert cost == pytest.approx([tokens / speed / 3600 * 16 * 2 for speed in (slow, fast)], abs=2)
    chips = found(r"takes ([\d,]+) to ([\d,]+) such chips", words)
    assert chips == pytest.approx([16 * tokens / speed / 3600 / 5 for speed in (slow, fast)], abs=1)


def test_what_does_not_fit_is_said_with_flags_that_make_it_fit():
    tree = experiment(data__sequence_length=8192, model__remat="none")
    words = described("v5e:2x2", tree).text()
    assert "As configured it DOES NOT FIT" in words and "fastest that fits" in words
    for flag in re.findall(r'^    --config\.([a-z_]+\.[a-z_]+)=([^\s"]+)(?: \\)?$', words, re.MULTILINE):
        part, _, name = flag[0].partition(".")
        setattr(getattr(tree, part), name, int(flag[1]) if flag[1].isdigit() else flag[1])
    if kept := re.search(r'remat_names="(\(.*?\))"', words, re.DOTALL):
        tree.model.remat_names = eval(kept[1])
    after = described("v5e:2x2", tree).text()
    assert "As configured it fits" in after and "fastest that fits" not in after.split("What if")[0]


@pytest.mark.parametrize(
    "name, fields, said",
    [
        ("v5e:2x2", {"data__sequence_length": 1_048_576, "data__batch_size": 8}, "NOTHING FITS: the least is"),
        ("v5e:16x16", {"data__batch_size": 6}, "NOTHING FITS: 6 rows cannot be cut over 256 devices"),
        ("v5e:4x4", {"mesh__fsdp": 5}, "As configured it cannot run here: config.mesh: found data=1, fsdp=5"),
        ("v5e:16x16", {"data__batch_size": 96}, "As configured it cannot run here: config.data.batch_size = 96 rows cannot be cut into"),
    ],
)
def test_a_page_comes_even_where_the_machine_cannot_run_it(name, fields, said):
    assert said in described(name, experiment(**fields)).text().replace("\n    ", " ")


def test_the_html_is_one_file_with_curves_warnings_and_tables_and_fetches_nothing():
    page = described(tree=experiment(), elsewhere=("hopper:8",), hours=4.0)
    text = page.html()
    assert text.startswith("<!doctype html>") and text.count("<svg") == 1 and text.count("<table>") >= 3
    assert "repetition: read more than 11.7 times in all" in text and "domains: two: 100.0% code" in text
    assert not re.search(r"<script|<link|<img|src=|href=|https?://", text)
    assert "polyline" in text and ">averaged<" in text and ">one<" in text


def test_names_in_the_html_are_made_safe():
    tree = experiment()
    tree.name = "<b>x</b>"
    assert "<b>x" not in described(tree=tree).html()


def test_a_checkpoint_holds_parameters_both_moments_and_a_running_average():
    tree = experiment()
    count = memory.parameters(tree, machine.look(tree, topology.target("v6e:2x2")).asked.setting)
    assert traffic.checkpoint_bytes(tree) == pytest.approx(12 * count * 4, rel=0.01)  # of four chips; gains are on all
    tree.averaging.online_decay = 0.999
    assert traffic.checkpoint_bytes(tree) == pytest.approx(16 * count * 4, rel=0.01)


def test_local_copies_are_counted_on_every_host():
    words = described(tree=experiment(checkpoint__local="/dev/shm/x", checkpoint__local_every=20)).text()
    assert "Local copies in /dev/shm/x every 20 steps" in words and "two of" in words


@pytest.mark.parametrize(
    "name, chips, wanted",
    [
        ("v5p", 64, "v5p:4x4x4"),
        ("v6e", 256, "v6e:16x16"),
        ("hopper", 64, "hopper:64"),
        ("v5p:4x4x4", 64, "v5p:4x4x4"),
        ("v5e:4x8", 0, "v5e:4x8"),
    ],
)
def test_a_kind_of_chip_and_a_number_name_a_machine(name, chips, wanted):
    assert machine.named(name, chips).name == wanted


@pytest.mark.parametrize(
    "name, chips, said",
    [
        ("v5p:4x4x4", 32, "--chips=32: --target=v5p:4x4x4 has 64; leave one out, as in --target=v5p --chips=32"),
        ("v5p", 12, "--chips=12: no usual slice of v5p has so many; take 4, 8, 16"),
        ("v9", 64, "--target=v9:64: found 'v9' before the colon"),
        ("v5p", 0, "--target=v5p: found '', must be the 3 sides of a slice"),
        ("hopper", 12, "--target=hopper:12: found '12', must be a number of GPUs"),
    ],
)
def test_a_machine_that_is_none_is_refused_in_one_line(name, chips, said):
    with pytest.raises(c.UserError) as refused:
        machine.named(name, chips)
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)


def test_prices_are_by_kind_of_chip_or_for_the_target():
    target = topology.target("v5p:4x4x4")
    assert machine.prices(["4.2", "v6e:2.7", "hopper:3"], target) == {"v5p": 4.2, "v6e": 2.7, "h100": 3.0}
    for wrong in ("cheap", "v5p:", "v9:3", "-1", "nan", "inf", "0"):
        with pytest.raises(c.UserError, match=re.escape(f"--price={wrong}: must be a number above 0")):
            machine.prices([wrong], target)


def test_a_setting_that_the_compiler_refused_is_not_recommended_again(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "FOLDER", tmp_path)
    tree, target = experiment(), topology.target("v6e:4x4")
    first = compiled.best(tree, target)
    key = compiled.key(tree, target, first.setting)
    result = {"key": key, "code": "", "jax": "0", "memory": {"fits": False, "needed": 40.0 * GIB, "available": 32.0 * GIB}}
    compiled._path(key).write_text(json.dumps(result))
    second = compiled.best(tree, target)
    assert second.setting != first.setting and second.fits
    tree = setting.applied(tree, first.setting)
    assert "As configured it DOES NOT FIT: 40.0 GiB of 32 GiB, as compiled" in described("v6e:4x4", tree).text()


def test_without_the_compilers_the_page_comes_and_says_what_it_is_based_on(tmp_path, monkeypatch):
    monkeypatch.setattr(topology, "FOLDER", tmp_path)
    monkeypatch.setattr(topology, "INSTALLED", ())
    tree, target = experiment(), topology.target("v6e:4x4")
    compiled.ensure(tree, target, 1.0)
    words = described("v6e:4x4", tree).text().replace("\n    ", " ")
    assert (
        "Estimates are arithmetic" in words and "They cannot be checked here: v6e:4x4: the compiler for v6e is not on this machine" in words
    )
