"""A suite is what its files say, or one line that says why it is not."""

import json

import pytest

from kaiyuan_jax.evaluation import tasks


def items(count=3, level=1):
    return tuple(tasks.Item(f"{level}-{n}", f"context {n}", (" 好", f" wrong {n}"), n % 2, level) for n in range(count))


@pytest.fixture
def folder(tmp_path):
    loss = tasks.Task("answers", (tasks.Item("a", "f(x) =", (" x",), kind="loss"),))
    tasks.write_suite(tmp_path / "suite", [tasks.Task("words", items() + items(2, level=2), {"source": "made up"}), loss], {"seed": 7})
    return tmp_path / "suite"


def test_what_is_written_is_read_again(folder):
    suite = tasks.open_suite("--tasks", folder)
    assert suite.facts["seed"] == 7 and set(suite.tasks) == {"words", "answers"}
    words = suite.tasks["words"]
    assert words.items == items() + items(2, level=2) and words.levels == (1, 2) and words.kind == "choice"
    assert words.facts["sha256"] == words.fingerprint and words.facts["chance"] == 0.5 and words.facts["source"] == "made up"
    assert suite.tasks["answers"].facts["chance"] is None


def test_some_tasks_and_the_first_items_of_every_level(folder):
    suite = tasks.open_suite("--tasks", folder, items=2, tasks=["words"])
    assert list(suite.tasks) == ["words"] and suite.tasks["words"].items == items(2) + items(2, level=2)
    assert suite.tasks["words"].fingerprint != suite.tasks["words"].facts["sha256"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ('{"id": "x"}', "must be an object of id, context"),
        ({"gold": 2}, "gold: 2"),
        ({"gold": True}, "gold: found bool"),
        ({"choices": ["a", "a"]}, "choices"),
        ({"choices": ["a"]}, "kind"),
        ({"kind": "essay"}, "essay"),
        ({"level": 0}, "level: 0"),
        ({"id": "1-0"}, "stands twice"),
    ],
)
def test_a_line_that_is_no_item_is_said_with_its_number(folder, line, said):
    path, suite = folder / "words.jsonl", json.loads((folder / "suite.json").read_text())
    whole = {"id": "new", "context": "", "choices": ["a", "b"], "gold": 0, "level": 1, "kind": "choice"}
    text = line if isinstance(line, str) else json.dumps(whole | line)
    path.write_text(path.read_text() + text + "\n")
    with pytest.raises(tasks.TaskError, match="--tasks=.*sha256"):
        tasks.open_suite("--tasks", folder)
    suite["tasks"]["words"]["sha256"] = tasks.files.hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "suite.json").write_text(json.dumps(suite))
    with pytest.raises(tasks.TaskError, match="line 6: ") as error:
        tasks.open_suite("--tasks", folder)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda suite: suite.update(version=2), "version 1"),
        (lambda suite: suite["tasks"]["words"].update(file="../words.jsonl"), "beside it"),
        (lambda suite: suite["tasks"]["words"].pop("sha256"), "sha256"),
        (lambda suite: suite["tasks"]["words"].update(file="gone.jsonl"), "no such file"),
    ],
)
def test_a_suite_that_cannot_be_used_is_one_line(folder, change, said):
    suite = json.loads((folder / "suite.json").read_text())
    change(suite)
    (folder / "suite.json").write_text(json.dumps(suite))
    with pytest.raises(tasks.TaskError, match="^--tasks=[^\n]*$") as error:
        tasks.open_suite("--tasks", folder)
    assert said in str(error.value)


def test_no_suite_and_no_such_task_name_what_to_do(folder, tmp_path):
    with pytest.raises(tasks.TaskError, match=r"--tasks=.*holds no suite.json.*build_tasks"):
        tasks.open_suite("--tasks", tmp_path)
    with pytest.raises(tasks.TaskError, match="no task 'poem'; it has answers, words"):
        tasks.open_suite("--tasks", folder, tasks=["poem"])


def test_the_harness_reads_the_same_file(folder):
    text = (folder / "words.yaml").read_text()
    assert f'test: "{folder}/words.jsonl"' in text and "doc_to_choice: choices" in text and "target_delimiter: ''" in text
    assert "doc_to_target: '{{choices[0]}}'" in (folder / "answers.yaml").read_text()
