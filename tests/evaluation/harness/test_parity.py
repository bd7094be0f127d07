"""The adapter against the harness's own Hugging Face backend, on answers that `make parity` had it give; and launch/evaluate.py --tasks.

The goldens are an export of a random model of ours with what that backend answered to every request of tests/parity/harness_tasks/: choices
after solved examples, with empty and too long contexts, last words, whole texts in windows, generated text, and a group of tasks.
KAIYUAN_GOLDENS names another folder of them than the committed one.
"""

import importlib.util
import json
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
from absl import flags

from kaiyuan_jax import config
from kaiyuan_jax.config import UserError
from kaiyuan_jax.evaluation import tasks
from kaiyuan_jax.evaluation.harness import likelihood
from kaiyuan_jax.training import checkpoint

pytest.importorskip("lm_eval", reason="pip install -e '.[harness]'")

ROOT = pathlib.Path(__file__).parents[3]
GOLDENS = pathlib.Path(os.environ.get("KAIYUAN_GOLDENS", ROOT / "tests" / "parity" / "goldens")).absolute() / "harness"
TASKS = "parity_choices,parity_last_word,parity_passages,parity_writing"
CLOSE = 1e-4


@pytest.fixture(scope="module")
def script():
    """launch/evaluate.py as a module."""
    spec = importlib.util.spec_from_file_location("evaluate_script", ROOT / "launch" / "evaluate.py")
    module = sys.modules["evaluate_script"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["evaluate_script"]
    for flag in list(flags.FLAGS.flags_by_module_dict()["evaluate_script"]):
        delattr(flags.FLAGS, flag.name)


@pytest.fixture
def launch(script, monkeypatch, capsys):
    """launch(*arguments) -> what the script prints; from the top of the repository, without a network."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(likelihood, "SHORTEST", 128)  # fewer programs to compile; test_likelihood.py tries the shapes
    monkeypatch.setattr(likelihood, "FEW", 128)
    before = {flag.name: flag.value for flag in flags.FLAGS.flags_by_module_dict()[script.__name__]}

    def call(*arguments):
        for name, value in before.items():
            flags.FLAGS[name].value = value
        flags.FLAGS(["evaluate", "--batch_tokens=1024", *arguments], known_only=True)
        script.main([])
        return capsys.readouterr().out

    yield call
    for name, value in before.items():
        flags.FLAGS[name].value = value


@pytest.fixture(scope="module")
def wanted():
    return json.loads((GOLDENS / "answers.json").read_text(encoding="utf-8"))


def read(folder):
    """(results, answers by task as in the goldens) of a folder with one result."""
    (path,) = [path for path in folder.rglob("*.json")]
    answers = {}
    for line in path.with_suffix("").with_suffix(".samples.jsonl").read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        answers.setdefault(sample["task"], []).append(sample["resps"])
    return json.loads(path.read_text(encoding="utf-8")), answers


def flat(value):
    """The values inside nested lists."""
    return [one for entry in value for one in flat(entry)] if isinstance(value, list) else [value]


def same(found, theirs):
    """Fails unless texts and choices are equal and numbers within 1e-4, or a millionth where float32 is coarser."""
    found, theirs = flat(found), flat(theirs)
    assert len(found) == len(theirs)
    for ours, other in zip(found, theirs, strict=True):
        if isinstance(other, float):
            assert ours == pytest.approx(other, abs=CLOSE, rel=1e-6), (ours, other)  # -7000 nats are told from their neighbours by 5e-4
        else:
            assert ours == other


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The exported model, in a folder that may be written to."""
    return pathlib.Path(shutil.copytree(GOLDENS, tmp_path_factory.mktemp("harness") / "model"))


def test_every_answer_and_every_score_is_that_of_the_hugging_face_backend(model, launch, wanted, tmp_path):
    include = "--include_path=tests/parity/harness_tasks"
    said = launch(f"--model={model}", f"--tasks={TASKS}", include, f"--output={tmp_path}")
    results, answers = read(tmp_path)
    assert answers.keys() == wanted["answers"].keys()
    for task, theirs in wanted["answers"].items():
        same(answers[task], theirs)
    for name, theirs in (wanted["results"] | wanted["groups"]).items():
        found = results["results"].get(name) or results["groups"][name]
        for metric, value in theirs.items():
            if isinstance(value, float) and "stderr" not in metric:
                assert found[metric] == pytest.approx(value, abs=CLOSE, rel=CLOSE), (name, metric)
    assert "parity_choices" in said and "bits_per_byte" in said and "exact_match" in said
    assert "0 of them answered before, 3 with the beginning of their context left out" in said
    assert results["config"]["fingerprint"] and results["versions"]["parity_colours"] == 1


def test_a_killed_evaluation_asks_only_what_was_not_answered(model, launch, monkeypatch, tmp_path):
    arguments = [f"--model={model}", "--tasks=tests/parity/harness_tasks/colours.yaml", f"--output={tmp_path}"]
    whole, rows = likelihood.answer, []

    def counted(compute, params, pairs, **options):
        for number, batch in enumerate(whole(compute, params, pairs, **options)):
            if limit and number == limit:
                raise KeyboardInterrupt
            rows.extend(batch)
            yield batch

    monkeypatch.setattr(likelihood, "answer", counted)
    limit = 1
    with pytest.raises(KeyboardInterrupt):
        launch(*arguments)
    first = len(rows)
    assert first and not list(tmp_path.rglob("*.json"))
    limit = 0
    said = launch(*arguments)
    _, answers = read(tmp_path)
    questions = len(flat(answers["parity_colours"])) // 2
    assert len(rows) == questions and f"{questions} questions, {first} of them answered before" in said
    again = launch(*arguments)
    assert len(rows) == questions and f"{questions} of them answered before" in again


@pytest.fixture(scope="module")
def trained_run(model, tmp_path_factory):
    """A run folder with the same model as a checkpoint, and an average that is another."""
    from kaiyuan_jax.models.hf import read as hugging_face

    folder = tmp_path_factory.mktemp("harness") / "run"
    loaded = hugging_face.load(model)
    experiment = config.Experiment(name="tiny", model=loaded.model, data=config.Data(sequence_length=128))
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json(experiment))
    shutil.copyfile(model / "tokenizer.json", folder / "tokenizer.json")

    def leaves(tree, prefix=""):
        for name, value in tree.items():
            yield from leaves(value, f"{prefix}{name}/") if isinstance(value, dict) else [(prefix + name, np.asarray(value))]

    made = dict(leaves(loaded.params))
    checkpoint.save_parameters(folder / "averages" / "half", {path: leaf / 2 for path, leaf in made.items()}, {"step": 7})
    checkpoint.save_parameters(folder / "checkpoints" / "7", made, {"step": 7})  # takes them out of the dict
    return folder


def test_a_run_its_average_and_its_export_answer_in_one_call_and_a_run_as_its_export(model, trained_run, launch, wanted):
    said = launch(f"--model={trained_run},{trained_run}/averages/half", "--tasks=tests/parity/harness_tasks/letters.yaml", "--limit=2")
    _, answers = read(trained_run / "evaluation" / "tasks" / "checkpoint_7")
    same(answers["parity_letters"], wanted["answers"]["parity_letters"][:2])
    result, halved = read(trained_run / "evaluation" / "tasks" / "half")
    assert np.abs(np.array(flat(halved["parity_letters"]), float) - np.array(flat(answers["parity_letters"]), float)).max() > 0.01
    assert said.count("letters_limit2.json") == 2 and result["config"]["model_path"].endswith("half")


def test_a_suite_folder_is_answered_beside_tasks_and_not_twice(model, launch, monkeypatch, tmp_path):
    items = [tasks.Item(f"i{n}", f"The cat number {n} sat", (" on the mat", " of stone"), n % 2, 1 + n // 2) for n in range(4)]
    tasks.write_suite(tmp_path / "suite", [tasks.Task("cats", tuple(items))], {})
    arguments = [f"--model={model}", f"--tasks={tmp_path}/suite", f"--output={tmp_path}/out"]
    said = launch(*arguments)
    (path,) = (tmp_path / "out").rglob("suite.json")
    entry = json.loads(path.read_text())["tasks"]["cats"]
    assert entry["items"] == {"0": 4, "1": 2, "2": 2} and "gold_bits_per_byte" in said
    before = path.read_bytes()
    monkeypatch.setattr(tasks, "score", None)  # is not called again
    assert launch(*arguments) == said and path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks=parity_nothing.yaml"], "--tasks=parity_nothing.yaml: no such task, file or folder"),
        (["--tasks=docs"], "--tasks=docs: this folder holds no task"),
        (["--tasks={tmp}/broken.yaml"], "broken.yaml: cannot be loaded"),
        (["--tasks={tmp}/absent.yaml"], "absent.yaml: cannot be loaded"),
        (
            ["--tasks=tests/parity/harness_tasks/writing.yaml", "--gen_kwargs=max_gen_toks=128"],
            "asks for 128 tokens of text, but the model reads",
        ),
        (["--tasks=tests/parity/harness_tasks/writing.yaml", "--gen_kwargs=top_k=3"], "sets top_k for its texts; this adapter knows"),
    ],
)
def test_mistakes_are_said_in_a_line(model, launch, monkeypatch, tmp_path, arguments, message):
    from kaiyuan_jax.evaluation.harness import results

    whole = results.TaskManager
    monkeypatch.setattr(results, "TaskManager", lambda include_defaults=False, **options: whole(include_defaults=False, **options))
    (tmp_path / "broken.yaml").write_text("task: broken\ndataset_path: [")
    (tmp_path / "absent.yaml").write_text("task: absent\ndataset_path: json\ndataset_kwargs: {data_files: {test: nowhere.jsonl}}\n")
    with pytest.raises(UserError) as error:
        launch(f"--model={model}", f"--output={tmp_path}/out", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert message in str(error.value) and "\n" not in str(error.value)
