"""Kept answers: found again by what was asked of which model, and by nothing else."""

import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.config import UserError
from kaiyuan_jax.evaluation.harness import answers


def test_answers_are_found_again_after_a_restart_and_only_whole_batches(tmp_path):
    kept = answers.Answers("--cache", tmp_path / "answers", "0f")
    keys = [answers.key("likelihood", [1, number], [2]) for number in range(1200)]
    kept.keep({key: [-float(number), number % 2 == 0] for number, key in enumerate(keys)})
    with pytest.raises(TypeError):
        kept.keep({answers.key("a"): 1.0, answers.key("b"): object()})
    kept.close()
    again = answers.Answers("--cache", tmp_path / "answers", "0f")
    assert again.find(keys) == {key: [-float(number), number % 2 == 0] for number, key in enumerate(keys)}
    assert again.find([answers.key("a"), answers.key("b")]) == {}
    assert answers.Answers("--cache", tmp_path / "answers", "1f").find(keys) == {}


def test_a_key_tells_kind_context_and_continuation_apart():
    questions = [("likelihood", [1, 2], [3]), ("likelihood", [1], [2, 3]), ("text", [1, 2], [3]), ("likelihood", [1, 2], [4])]
    assert len({answers.key(*question) for question in questions}) == len(questions)


def test_a_fingerprint_changes_with_all_that_answers_depend_on(tokenizer, untrained_model, small_experiment):
    made = small_experiment(300)
    _, params = untrained_model(made)

    def of(params=params, model=made.model, precision=made.precision, **facts):
        return answers.fingerprint(params, model, precision, tokenizer, facts)

    first = of()
    assert first == of() and len(first) == 32
    other = {name: value for name, value in params.items()}
    other["norm_D"] = np.array(params["norm_D"])
    other["norm_D"][3] = np.nextafter(other["norm_D"][3], 2)
    changed = [of(params=other), of(precision=config.Precision(compute="bfloat16")), of(length=64), of(model=config.Model())]
    assert len({first, *changed}) == 5


def test_a_file_that_is_no_database_is_said_in_a_line(tmp_path):
    (tmp_path / "0f.sqlite").write_text("no database at all, but long enough to be looked at" * 20)
    with pytest.raises(UserError, match="--cache=.*: answers cannot be kept in .*0f.sqlite .*; remove it, or name another folder"):
        answers.Answers("--cache", tmp_path, "0f")
