"""Small real stores: a byte-level BPE trained on a few sentences, documents of English and Chinese in ascending quality."""

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from kaiyuan_jax import config
from kaiyuan_jax.data.store_write import write_store
from kaiyuan_jax.models import decoder

ENGLISH = "the cat sat on the mat and the dog ran over the hill while a small bird sang of rain and wind to the sea".split()
CHINESE = "学而时习之不亦说乎有朋自远方来不亦乐乎人不知而不愠不亦君子乎"
END = "<|endoftext|>"


@pytest.fixture(scope="session")
def tokenizer():
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([" ".join(ENGLISH), CHINESE], trainer)
    return made


def text(random, words: int, chinese: bool) -> str:
    return "".join(random.choice(list(CHINESE), 2 * words)) if chinese else " ".join(random.choice(ENGLISH, words))


@pytest.fixture(scope="session")
def make_store(tokenizer):
    """make_store(folder, count, chinese=False, words=(5, 60), scored=True) -> Store of `count` documents of random words."""

    def make(folder, count, *, chinese=False, words=(5, 60), scored=True, seed=0, texts=None):
        random = np.random.default_rng(seed)
        texts = texts or [text(random, int(random.integers(*words)), chinese) for _ in range(count)]
        documents = [
            (f"document-{i}", i / len(texts) if scored else 0.0, len(t.encode()), tokenizer.encode(t).ids) for i, t in enumerate(texts)
        ]
        end = tokenizer.token_to_id(END)
        size = tokenizer.get_vocab_size()
        return write_store(folder, documents=documents, tokenizer_json=tokenizer.to_str(), vocabulary=size, eod=end, scored=scored)

    return make


def experiment(vocabulary: int, **model) -> config.Experiment:
    shape = dict(layers=1, width=32, feedforward=32, heads=2, kv_heads=1, head_size=8, vocabulary=vocabulary) | model
    made = config.Experiment(model=config.Model(**shape), data=config.Data(sequence_length=32))
    made.evaluation = config.Evaluation(rows=12, batch_size=8, quantiles=2, bootstrap=50, questions=6, context=12, continuation=6)
    made.evaluation.sample_tokens, made.evaluation.choices = 5, 3
    return made


@pytest.fixture(scope="session")
def small_experiment():
    """small_experiment(vocabulary, **fields of the model) -> Experiment of one thin layer."""
    return experiment


@pytest.fixture(scope="session")
def bigram_model():
    """bigram_model(log_probabilities float[V, V]) -> (graphdef, params) of a real decoder that gives exactly these next-token logits.

    The layers are zero, the embedding is the identity, so the normalised state is sqrt(V) times a unit vector.
    """

    def make(logits_VV):
        size = len(logits_VV)
        made = experiment(size, width=size, logit_softcap=0.0, norm_epsilon=1e-12)
        graphdef, params = decoder.abstract(made.model, made.precision)
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
        params["embedding_VD"] = np.eye(size, dtype=np.float32)
        params["norm_D"] = np.ones(size, np.float32)
        params["head_DV"] = (np.asarray(logits_VV) / np.sqrt(size)).astype(np.float32)
        return graphdef, params

    return make


@pytest.fixture(scope="session")
def untrained_model():
    """untrained_model(experiment, seed) -> (graphdef, params) with random matrices and gains of one."""

    def make(made, seed=0):
        graphdef, params = decoder.abstract(made.model, made.precision)
        random = np.random.default_rng(seed)
        return graphdef, jax.tree.map_with_path(lambda path, leaf: leaf_of(random, path[-1].key, leaf), params)

    return make


def leaf_of(random, name, leaf):
    return np.ones(leaf.shape, leaf.dtype) if "norm" in name else random.normal(0, 0.05, leaf.shape).astype(leaf.dtype)
