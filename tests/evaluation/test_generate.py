import numpy as np
import pytest

from kaiyuan_jax.evaluation.generate import generate
from kaiyuan_jax.models import decoder

SIZE = 12
OPTIONS = dict(new_tokens=8, window=6, eod=0, vocabulary=SIZE, seed=0)


@pytest.fixture
def counting(bigram_model):
    """Token t is followed by t + 1, token 9 by the end of the document (0)."""
    logits = np.zeros((SIZE, SIZE))
    for token in range(SIZE):
        logits[token, 0 if token == 9 else (token + 1) % SIZE] = 6.0
    return bigram_model(logits)


def test_greedy_text_follows_the_likeliest_token_and_ends_before_the_end_of_document(counting):
    texts = generate(*counting, [[1], [5, 6], [9], [3, 4, 5, 6, 7, 8, 9, 1]], temperature=0.0, **OPTIONS)
    assert texts == [[2, 3, 4, 5, 6, 7, 8, 9], [7, 8, 9], [], [2, 3, 4, 5, 6, 7, 8, 9]]


def test_greedy_text_of_a_random_model_is_deterministic_and_the_same_alone(small_experiment, untrained_model):
    model = untrained_model(small_experiment(SIZE))
    together = generate(*model, [[1, 2], [3, 4, 5]], temperature=0.0, **OPTIONS | dict(window=16, eod=-1))
    assert together == generate(*model, [[1, 2], [3, 4, 5]], temperature=0.0, **OPTIONS | dict(window=16, eod=-1))
    assert generate(*model, [[3, 4, 5]], temperature=0.0, **OPTIONS | dict(window=16, eod=-1)) == together[1:]
    assert [len(text) for text in together] == [8, 8]


def test_greedy_steps_agree_with_the_logits_of_the_whole_text(small_experiment, untrained_model):
    graphdef, params = untrained_model(small_experiment(SIZE))
    (text,) = generate(graphdef, params, [[1, 2]], temperature=0.0, **OPTIONS | dict(window=16, eod=-1))
    tokens = np.array([[1, 2, *text]], np.int32)
    model = decoder.merge(graphdef, params)
    logits = model.logits(model(tokens, np.ones_like(tokens), np.arange(tokens.shape[1], dtype=np.int32)[None]))
    assert np.argmax(logits, axis=-1)[0, 1:-1].tolist() == text


def test_draws_repeat_with_the_seed_and_follow_the_temperature(bigram_model):
    logits = np.tile(np.log([0.5, 0.3, 0.2]), (3, 1))
    model = bigram_model(logits)
    options = dict(new_tokens=1, window=2, eod=-1, vocabulary=3)
    prompts = [[0]] * 2000
    drawn = np.array(generate(*model, prompts, temperature=1.0, seed=0, **options))[:, 0]
    assert np.allclose(np.bincount(drawn, minlength=3) / 2000, [0.5, 0.3, 0.2], atol=0.05)
    cold = np.array(generate(*model, prompts, temperature=0.5, seed=0, **options))[:, 0]
    squares = np.array([0.5, 0.3, 0.2]) ** 2
    assert np.allclose(np.bincount(cold, minlength=3) / 2000, squares / squares.sum(), atol=0.05)
    assert np.array_equal(drawn, np.array(generate(*model, prompts, temperature=1.0, seed=0, **options))[:, 0])
    assert not np.array_equal(drawn, np.array(generate(*model, prompts, temperature=1.0, seed=1, **options))[:, 0])


def test_ids_that_the_tokenizer_does_not_have_are_never_drawn(bigram_model):
    logits = np.zeros((SIZE, SIZE))
    logits[:, 10:] = 9.0
    model = bigram_model(logits)
    for temperature in (0.0, 1.0):
        texts = generate(*model, [[1]] * 50, temperature=temperature, **OPTIONS | dict(vocabulary=10, eod=-1))
        assert max(map(max, texts)) < 10


def test_an_empty_prompt_is_an_error_and_no_prompts_are_no_texts(counting):
    with pytest.raises(ValueError, match="empty prompt"):
        generate(*counting, [[1], []], temperature=0.0, **OPTIONS)
    assert generate(*counting, [], temperature=0.0, **OPTIONS) == []
