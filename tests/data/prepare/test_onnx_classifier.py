"""Classifiers in ONNX against the same arithmetic in NumPy, on a model whose bytes are written here."""

import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.prepare import onnx_classifier
from kaiyuan_jax.data.prepare.onnx_classifier import OnnxError

VOCABULARY, WIDTH = 50, 48
WORDS = [f"w{number}" for number in range(2, VOCABULARY)]


# A protocol buffer is a list of (field number, value): integers, bytes, or nested lists (https://protobuf.dev/programming-guides/encoding).
def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def message(*fields) -> bytes:
    parts = []
    for number, value in fields:
        value = value.encode() if isinstance(value, str) else value
        whole = isinstance(value, int)
        parts.append(varint(number << 3) + varint(value) if whole else varint(number << 3 | 2) + varint(len(value)) + value)
    return b"".join(parts)


def tensor(name, array):
    kind = {"float32": 1, "int64": 7}[str(array.dtype)]
    return message(*[(1, size) for size in array.shape], (2, kind), (8, name), (9, array.tobytes()))


def value(name, kind, *sizes):
    shape = message(*[(1, message((1, size) if isinstance(size, int) else (2, size))) for size in sizes])
    return message((1, name), (2, message((1, message((1, kind), (2, shape))))))


def node(operator, inputs, output, **attributes):
    described = []
    for name, values in attributes.items():
        numbers = [(8, number) for number in values] + [(20, 7)] if isinstance(values, list) else [(3, values), (20, 2)]
        described.append((5, message((1, name), *numbers)))
    return message(*[(1, name) for name in inputs], (2, output), (4, operator), *described)


def write_model(folder, labels, *, types=False, seed=0, **config):
    """One layer of attention, mean over tokens, linear head; returns a function ids -> float32[labels] that does the same in NumPy."""
    random = np.random.default_rng(seed)
    embedding = random.normal(0, 1, (VOCABULARY, WIDTH)).astype(np.float32)
    mix = random.normal(0, 0.2, (WIDTH, WIDTH)).astype(np.float32)
    head = random.normal(0, 1, (WIDTH, len(labels))).astype(np.float32)
    kinds = random.normal(0, 1, (2, WIDTH)).astype(np.float32)
    inputs = ["input_ids", "attention_mask"] + ["token_type_ids"] * types
    typed = [node("Gather", ["kinds", "token_type_ids"], "kind"), node("Add", ["tokens", "kind"], "x")]
    nodes = [
        node("Gather", ["embedding", "input_ids"], "tokens"),
        *(typed if types else [node("Identity", ["tokens"], "x")]),
        node("MatMul", ["x", "mix"], "queries"),
        node("Transpose", ["x"], "turned", perm=[0, 2, 1]),
        node("Cast", ["attention_mask"], "mask", to=1),
        node("Unsqueeze", ["mask", "one"], "mask_B1L"),
        node("Unsqueeze", ["mask", "two"], "mask_BL1"),
        node("Sub", ["mask_B1L", "unit"], "negative"),
        node("Mul", ["negative", "large"], "bias"),
        node("MatMul", ["queries", "turned"], "products"),
        node("Add", ["products", "bias"], "biased"),
        node("Softmax", ["biased"], "weights", axis=2),
        node("MatMul", ["weights", "x"], "mixed"),
        node("Mul", ["mixed", "mask_BL1"], "kept"),
        node("ReduceSum", ["kept", "one"], "sum", keepdims=0),
        node("ReduceSum", ["mask", "one"], "count", keepdims=1),
        node("Div", ["sum", "count"], "mean"),
        node("MatMul", ["mean", "head"], "logits"),
    ]
    constants = dict(embedding=embedding, mix=mix, head=head, kinds=kinds, one=np.array([1]), two=np.array([2]))
    constants |= dict(unit=np.ones(1, np.float32), large=np.full(1, 1e4, np.float32))
    graph = message(
        *[(1, part) for part in nodes],
        (2, "classifier"),
        *[(5, tensor(name, array)) for name, array in constants.items()],
        *[(11, value(name, 7, "batch", "length")) for name in inputs],
        (12, value("logits", 1, "batch", len(labels))),
    )
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(message((1, 8), (7, graph), (8, message((2, 17)))))
    (folder / "config.json").write_text(json.dumps({"id2label": {str(i): label for i, label in enumerate(labels)}} | config))
    vocabulary = {"[PAD]": 0, "[UNK]": 1} | {word: number for number, word in enumerate(WORDS, 2)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_padding(length=512)  # as some published tokenizers have it
    tokenizer.save(str(folder / "tokenizer.json"))

    def reference(text):
        ids = [vocabulary.get(word, 1) for word in text.split()][:512] or [0]
        x = embedding[ids].astype(np.float64) + (kinds[0] if types else 0)
        products = x @ mix @ x.T
        weights = np.exp(products - products.max(axis=1, keepdims=True))
        return (weights / weights.sum(axis=1, keepdims=True) @ x).mean(axis=0) @ head

    return reference


def texts(count, longest=600, seed=1):
    random = np.random.default_rng(seed)
    lengths = np.exp(random.uniform(0, np.log(longest), count)).astype(int)
    return ["", "unknown words only"] + [" ".join(random.choice(WORDS, int(length))) for length in lengths]


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """(folder, reference) of a model with the labels bad and good."""
    folder = tmp_path_factory.mktemp("onnx") / "two"
    return folder, write_model(folder, ["bad", "good"])


@pytest.mark.parametrize("types", [False, True])
def test_scores_are_the_softmax_that_numpy_gives_for_any_length(types, tmp_path):
    reference = write_model(tmp_path / "m", ["bad", "fair", "good"], types=types)
    documents = texts(40)
    scores = onnx_classifier.load(tmp_path / "m").scores(documents, "fair")
    np.testing.assert_allclose(scores, [softmax(reference(text))[1] for text in documents], atol=1e-5)


def test_a_model_with_one_output_gives_it_as_it_is(tmp_path):
    reference = write_model(tmp_path / "m", ["LABEL_0"])
    documents = texts(10)
    scores = onnx_classifier.load(tmp_path / "m").scores(documents, "")
    np.testing.assert_allclose(scores, [reference(text)[0] for text in documents], atol=1e-5)
    assert scores.min() < 0 < scores.max()


def test_labels_that_do_not_exclude_each_other_are_sigmoids(tmp_path):
    reference = write_model(tmp_path / "m", ["a", "b"], problem_type="multi_label_classification")
    documents = texts(10)
    scores = onnx_classifier.load(tmp_path / "m").scores(documents, "b")
    np.testing.assert_allclose(scores, [1 / (1 + np.exp(-reference(text)[1])) for text in documents], atol=1e-5)


ALL = texts(60)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(len(ALL))), st.lists(st.integers(1, len(ALL) - 1), max_size=6))
def test_a_score_is_the_same_bits_in_any_batch(two, order, cuts):
    classifier = onnx_classifier.load(two[0])
    expected = classifier.logits(ALL)
    bounds = [0, *sorted(set(cuts)), len(ALL)]
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        chosen = order[begin:end]
        np.testing.assert_array_equal(classifier.logits([ALL[place] for place in chosen]), expected[chosen])


def test_texts_are_cut_at_512_tokens_or_the_fewer_that_the_model_has(tmp_path):
    long = " ".join(WORDS * 20)
    cut = " ".join((WORDS * 20)[:40])
    write_model(tmp_path / "m", ["a", "b"])
    write_model(tmp_path / "short", ["a", "b"], max_position_embeddings=40)
    whole, short = (onnx_classifier.load(tmp_path / name) for name in ("m", "short"))
    np.testing.assert_array_equal(whole.logits([long]), whole.logits([" ".join((WORDS * 20)[:512])]))
    np.testing.assert_array_equal(short.logits([long]), short.logits([cut]))
    assert (whole.logits([long]) != short.logits([long])).all()


def test_a_model_that_measures_its_inputs_gets_one_text_at_a_time(two, tmp_path):
    assert not onnx_classifier.load(two[0]).alone
    write_model(tmp_path / "m", ["a", "b"])
    content = (tmp_path / "m" / "model.onnx").read_bytes()
    (tmp_path / "m" / "model.onnx").write_bytes(content + message((6, "uses DynamicQuantizeLinear")))  # field 6 of a model is a note
    assert onnx_classifier.load(tmp_path / "m").alone


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path):
    folder = tmp_path / "m"
    with pytest.raises(OnnxError, match="has no model.onnx, tokenizer.json, config.json; expected"):
        onnx_classifier.load(folder)
    write_model(folder, ["a", "b"])
    (folder / "config.json").write_text('{"id2label": {"0": "a", "1": "b", "2": "c"}}')
    with pytest.raises(OnnxError, match="gives 2 outputs, config.json has labels a, b, c"):
        onnx_classifier.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(OnnxError, match="config.json: not JSON"):
        onnx_classifier.load(folder)
    for name, reason in (("model.onnx", "cannot be loaded"), ("tokenizer.json", "not a tokenizer")):
        write_model(folder, ["a", "b"])
        (folder / name).write_bytes((folder / name).read_bytes()[:100])
        with pytest.raises(OnnxError, match=f"{name}: {reason}") as error:
            onnx_classifier.load(folder)
        assert "\n" not in str(error.value)
    write_model(folder, ["a", "b"])
    model = folder / "model.onnx"
    model.write_bytes(model.read_bytes().replace(b"attention_mask", b"attention_some"))
    with pytest.raises(OnnxError, match="asks for attention_some; must take only input_ids, attention_mask, token_type_ids"):
        onnx_classifier.load(folder)
