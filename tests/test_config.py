"""The description of an experiment: what it accepts, what it refuses and in which words, and that it survives being saved."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

from kaiyuan_jax import config as c
from kaiyuan_jax.config_check import check

ROOT = pathlib.Path(__file__).parents[1]


def config_file(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def experiment() -> c.Experiment:
    return c.Experiment(
        data=c.Data(
            sources=[c.Source(name="a", path="stores/a"), c.Source(name="b", path="stores/b")],
            phases=[c.Phase(tokens=4096, uses=[c.Use(source="a", share=0.5), c.Use(source="b", share=0.5)])],
        )
    )


def test_a_sound_experiment_passes():
    check(experiment())


@pytest.mark.parametrize("variant", list(config_file("quickstart").VARIANTS))
def test_every_quickstart_variant_passes(variant):
    check(config_file("quickstart").get_config(variant))


# field path, bad value, what the message must say
BAD = [
    ("model.heads", 3, "config.model.heads: found 3, must divide config.model.width = 128"),
    ("model.kv_heads", 3, "config.model.kv_heads: found 3, must divide config.model.heads = 4"),
    ("model.head_size", 31, "config.model.head_size: found 31, must be even"),
    ("model.layers", 0, "config.model.layers: found 0, must be above 0"),
    ("model.layers", 2.5, "config.model.layers: found 2.5 of type float, must be int"),
    ("model.remat", "some", "config.model.remat: found 'some', must be one of none, full, names"),
    ("model.remat_names", ("foo",), "config.model.remat_names: found 'foo', must be one of attention_in, query"),
    ("data.sources[1].name", "mean", "config.data.sources[1].name: found 'mean', must not be 'mean' nor hold '/'"),
    ("data.sources[1].name", "a/b", "config.data.sources[1].name: found 'a/b', must not be 'mean' nor hold '/'"),
    ("model.logit_softcap", -1.0, "config.model.logit_softcap: found -1.0, must be 0 or more"),
    ("data.batch_size", 0, "config.data.batch_size: found 0, must be above 0"),
    ("data.phases", [], "config.data.phases: empty, a run needs at least one phase with data"),
    ("data.phases[0].uses", [], "config.data.phases[0].uses: empty, phase 'main' has no data"),
    ("data.phases[0].order", "sorted", "config.data.phases[0].order: found 'sorted', must be one of uniform, ascending"),
    ("data.phases[0].tokens", 0, "config.data.phases[0].tokens: found 0, shares need a token budget"),
    ("data.phases[0].uses[0].source", "c", "config.data.phases[0].uses[0].source: found 'c', must be one of config.data.sources: a, b"),
    ("data.phases[0].uses[0].window", (0.5, 0.5), "config.data.phases[0].uses[0].window: found (0.5, 0.5), must satisfy 0 <= low < high"),
    ("data.phases[0].uses[0].window", (0.5,), "config.data.phases[0].uses[0].window: found (0.5,) of type tuple"),
    ("data.phases[0].uses[0].passes", -1.0, "config.data.phases[0].uses[0].passes: found -1.0, must be above 0"),
    ("data.phases[0].uses[0].share", 0.4, "config.data.phases[0].uses: shares sum to 0.9, must sum to 1"),
    ("data.phases[0].uses[0].share", 0.0, "config.data.phases[0].uses: some have a share and some have none"),
    ("data.sources[1].name", "a", "config.data.sources[0].name: 'a' is given 2 times, names must be unique"),
    ("data.sources[0].path", "", "config.data.sources[0].path: empty; name the folder of a store"),
    ("data.sources[0].domain", "plain text", "config.data.sources[0].domain: found 'plain text', must be one word, such as 'english'"),
    ("data.sources[0].precut", 0.0, "config.data.sources[0].precut: found 0.0, must be above 0 and at most 1"),
    ("data.sources[0].planned_from", "guess", "planned_from: found 'guess', must be empty or one of public, inferred, ours"),
    ("data.domain_limits", [c.DomainLimit(domain="code")], "found 'code', must be a domain of config.data.sources: (none given)"),
    ("data.domain_limits", [c.DomainLimit(at_least=0.5, at_most=0.3)], "found at_least 0.5 and at_most 0.3, must satisfy"),
    ("schedule.kind", "cosin", "config.schedule.kind: found 'cosin', must be one of constant, cosine"),
    ("schedule.peak", -3e-3, "config.schedule.peak: found -0.003, must be above 0"),
    ("schedule.peak", 0.0, "config.schedule.peak: found 0.0, must be above 0"),
    ("schedule.peak", float("nan"), "config.schedule.peak: found nan, must be a finite number"),
    ("schedule.peak", "3e-3", "config.schedule.peak: found '3e-3' of type str, must be float"),
    ("schedule.end", 1.0, "config.schedule.end: found 1.0, must not exceed config.schedule.peak"),
    ("schedule.decay", 1.5, "config.schedule.decay: found 1.5, must be at least 0 and at most 1"),
    ("schedule.warmup", -1, "config.schedule.warmup: found -1, must be 0 or more"),
    ("optimizer.beta2", 1.0, "config.optimizer.beta2: found 1.0, must be at least 0 and below 1"),
    ("optimizer.accumulation", 3, "config.optimizer.accumulation: found 3, must divide config.data.batch_size = 32"),
    ("optimizer.epsilon", 0.0, "config.optimizer.epsilon: found 0.0, must be above 0"),
    ("precision.compute", "fp8", "config.precision.compute: found 'fp8', must be one of float32, bfloat16, float16"),
    ("precision.parameters", "float16", "config.precision.parameters: found 'float16', must be one of float32, bfloat16: float16 rounds"),
    ("precision.growth_interval", 0, "config.precision.growth_interval: found 0, must be above 0"),
    ("precision.scale_factor", 1.0, "config.precision.scale_factor: found 1.0, must be above 1"),
    ("precision.loss_scale", 0.5, "config.precision.loss_scale: found 0.5, must be at least scale_floor = 1.0"),
    ("mesh.tensor", 0, "config.mesh.tensor: found 0, must be above 0, or -1"),
    ("mesh.context", -1, "config.mesh.context: found -1, must say how many devices cut a row"),
    ("mesh.context", 3, "config.mesh.context: found 3; config.data.sequence_length is 128, must be a multiple of 6"),
    ("mesh.fsdp", -1, "config.mesh: found {'data': -1, 'fsdp': -1, 'tensor': 1, 'context': 1}, at most one axis may be -1"),
    ("checkpoint.every", 0, "config.checkpoint.every: found 0, must be above 0"),
    ("averaging.alpha", 1.0, "config.averaging.alpha: found 1.0, must lie between 0 and 1"),
    ("evaluation.choices", 1, "config.evaluation.choices: found 1, must be at least 2"),
    ("evaluation.context", 100, "config.evaluation.context: 100 + continuation 32 tokens exceed config.data.sequence_length = 128"),
    ("name", "a/b", "config.name: found 'a/b', must be a folder name"),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD, ids=[f"{path}={value}" for path, value, _ in BAD])
def test_a_bad_field_is_refused_by_name_value_and_remedy(path, value, message):
    bad = experiment()
    owner = bad
    *parents, last = re.sub(r"\[(\d+)\]", r".\1", path).split(".")
    for name in parents:
        owner = owner[int(name)] if name.isdigit() else getattr(owner, name)
    setattr(owner, last, value)
    with pytest.raises(c.ConfigError, match=re.escape(message)):
        check(bad)


def test_an_average_longer_than_what_is_kept_is_refused():
    bad = experiment()
    bad.averaging.kind, bad.averaging.last, bad.checkpoint.keep = "sma", 9, 8
    with pytest.raises(c.ConfigError, match="config.averaging.last: found 9, the window reaches before the first kept checkpoint"):
        check(bad)


def test_all_problems_are_reported_at_once():
    bad = experiment()
    bad.model.heads, bad.schedule.peak, bad.data.phases = 3, -1.0, []
    with pytest.raises(c.ConfigError) as caught:
        check(bad)
    lines = str(caught.value).splitlines()
    for field in ("config.model.heads", "config.schedule.peak", "config.data.phases"):
        assert any(line.startswith(field) for line in lines)


def test_a_saved_experiment_comes_back_equal():
    for original in (experiment(), config_file("kaiyuan_2b").get_config()):
        assert c.from_json(c.to_json(original)) == original


def test_a_saved_experiment_with_an_unknown_field_is_refused_with_near_names():
    text = c.to_json(experiment()).replace('"peak"', '"peek"')
    with pytest.raises(c.ConfigError, match="config.schedule.peek: unknown field 'peek' of Schedule; did you mean peak"):
        c.from_json(text)


@pytest.mark.parametrize("text", ["{", "[]", '{"model": 3}'])
def test_a_saved_experiment_that_is_no_tree_is_refused(text):
    with pytest.raises(c.ConfigError, match="saved config|must be a table"):
        c.from_json(text)


SCRIPT = """
from kaiyuan_jax import flags
CONFIG = flags.define_config()
flags.run(lambda argv: print(flags.checked(CONFIG).schedule.peak))
"""


def launch(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", SCRIPT, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_overrides_on_the_command_line_are_typed():
    done = launch("--config=configs/quickstart.py:ascending_wsd", "--config.schedule.peak=2e-3")
    assert (done.returncode, done.stdout.strip()) == (0, "0.002")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.schedule.peek=1"], "--config.schedule.peek: unknown field 'peek' of Schedule; did you mean peak"),
        (["--config.schedule.peak=fast"], "could not convert string to float: 'fast'"),
        (["--config.schedule.peak=-1"], "config.schedule.peak: found -1.0, must be above 0"),
        (["--config.schedul.peak=1"], "--config.schedul.peak: unknown field 'schedul' of Experiment; did you mean schedule"),
        (["--config.data.phases[9].order=folded"], "--config.data.phases[9].order: an index beyond the end of its list"),
        (["--config.data.phases=[]"], "--config.data.phases: a whole table cannot be given on the command line"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_a_mistake_on_the_command_line_ends_in_one_line_and_no_traceback(arguments, message):
    done = launch("--config=configs/quickstart.py", *arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("configs/absent.py", "absent.py"),
        ("configs/saved.py", "needs the file to run again"),
        ("configs/quickstart.py:nonsense", "must be one of uniform_cosine"),
    ],
)
def test_a_config_file_that_does_not_load_ends_in_one_line(path, message):
    done = launch(f"--config={path}")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
