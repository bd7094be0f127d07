import numpy as np
import pytest

from kaiyuan_jax.data.store_write import write_store
from kaiyuan_jax.evaluation import choice, heldout
from kaiyuan_jax.evaluation.byte_lengths import byte_lengths

ASK = dict(count=40, choices=4, context=8, continuation=6, seed=0)
GROUP = 6  # tokens that a document of the cyclic store goes round


@pytest.fixture(scope="module")
def cyclic(tokenizer, tmp_path_factory):
    """40 documents, each going round six tokens of its own: what follows is clear from what came before."""
    size = tokenizer.get_vocab_size()
    documents = [(f"d{i}", float(i), 1, 1 + GROUP * i + (np.arange(30) + i) % GROUP) for i in range(40)]
    folder = tmp_path_factory.mktemp("cyclic") / "store"
    return write_store(folder, documents=documents, tokenizer_json=tokenizer.to_str(), vocabulary=size, eod=0)


def next_in_cycle(size: int) -> np.ndarray:
    tokens = np.arange(size)
    follower = np.where(tokens == 0, 0, (tokens - 1) // GROUP * GROUP + tokens % GROUP + 1) % size
    logits = np.zeros((size, size))
    logits[tokens, follower] = 8.0
    return logits


def test_a_model_that_knows_what_follows_answers_everything(cyclic, tokenizer, bigram_model):
    size = tokenizer.get_vocab_size()
    graphdef, params = bigram_model(next_in_cycle(size))
    asked = choice.questions(cyclic, **ASK)
    answers = choice.answer(heldout.token_losses(graphdef), params, asked, byte_lengths(tokenizer, size), batch_size=16, eod=0)
    assert len(answers.correct) == 40 and answers.correct.all()
    gold = np.log2(np.exp(8) + size - 1) - 8 / np.log(2)
    assert np.allclose(answers.gold_bits, 6 * gold, rtol=1e-4)
    wrong = choice.answer(
        heldout.token_losses(graphdef), params | {"head_DV": -params["head_DV"]}, asked, np.ones(size), batch_size=16, eod=0
    )
    assert not wrong.correct.any()


def test_an_untrained_model_guesses(make_store, tmp_path, tokenizer, small_experiment, untrained_model):
    store = make_store(tmp_path / "s", 250, words=(20, 40))
    made = small_experiment(tokenizer.get_vocab_size())
    graphdef, params = untrained_model(made)
    asked = choice.questions(store, **ASK | dict(count=250))
    answers = choice.answer(heldout.token_losses(graphdef), params, asked, byte_lengths(tokenizer, 400), batch_size=64, eod=store.eod)
    entry = choice.summary(answers, asked_for=250, choices=4, resamples=300, source="s")
    assert entry["questions"] == 250
    assert entry["interval"][0] <= 0.25 + 0.05 and entry["interval"][1] >= 0.25 - 0.05
    assert 0.12 < entry["accuracy"] < 0.38
    assert entry["chance"] == 0.25


def test_a_model_that_cannot_tell_scores_chance_exactly(cyclic, tokenizer, bigram_model):
    size = tokenizer.get_vocab_size()
    graphdef, params = bigram_model(np.zeros((size, size)))
    asked = choice.questions(cyclic, **ASK)
    answers = choice.answer(heldout.token_losses(graphdef), params, asked, np.ones(size, np.int64), batch_size=16, eod=0)
    assert np.allclose(answers.correct, 1 / 4)
    assert np.allclose(answers.gold_bits / answers.gold_bytes, np.log2(size), rtol=1e-5)


def test_choices_share_the_context_and_differ_from_one_another(make_store, tmp_path):
    store = make_store(tmp_path / "s", 80, words=(3, 30))
    asked = choice.questions(store, **ASK)
    assert len(asked.document) == len(set(asked.document.tolist())) > 0
    for document, shown in zip(asked.document, asked.tokens, strict=True):
        start = store.documents.offset[document]
        assert np.array_equal(shown[0], store.read(start, start + 14))
        assert (shown[:, :8] == shown[0, :8]).all()
        assert len({tuple(row) for row in shown}) == 4
        assert store.eod not in shown


def test_questions_follow_from_the_seed_alone(make_store, tmp_path):
    store = make_store(tmp_path / "s", 80, words=(10, 30))
    again, other = choice.questions(store, **ASK), choice.questions(store, **ASK | dict(seed=1))
    assert np.array_equal(choice.questions(store, **ASK).tokens, again.tokens)
    assert not np.array_equal(other.document, again.document)


def test_fewer_questions_than_asked_for_are_told(make_store, tmp_path, tokenizer):
    texts = ["word " * 4] * 5 + [
        "the cat sat on the mat and the dog ran over the hill",
        "a small bird sang of rain and wind to the sea " * 2,
    ]
    store = make_store(tmp_path / "s", 0, texts=texts)
    asked = choice.questions(store, **ASK)
    assert len(asked.document) == 0  # two documents are long enough, four choices are wanted
    empty = choice.answer(None, None, asked, np.ones(400), batch_size=4, eod=store.eod)
    entry = choice.summary(empty, asked_for=40, choices=4, resamples=10, source="s")
    assert (entry["accuracy"], entry["interval"], entry["questions"], entry["asked_for"]) == (None, None, 0, 40)
    assert choice.mean_summary({"s": empty}, choices=4, resamples=10)["accuracy"] is None


def test_documents_that_all_say_the_same_give_no_question(make_store, tmp_path):
    store = make_store(tmp_path / "s", 0, texts=["the cat sat on the mat and the dog ran over the hill " * 3] * 20)
    assert len(choice.questions(store, **ASK).document) == 0
