"""Small real stores: a byte-level BPE trained on a few sentences, documents of English and Chinese in ascending quality."""

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from kaiyuan_jax.data.store import write_store

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
