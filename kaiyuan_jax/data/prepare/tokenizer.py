"""Byte-level BPE: trained on the corpus, or a tokenizer.json that the user brings.

Words are cut as current open models do (a letter run with the sign before it, single digits, runs of signs, newlines), and every
byte has a token, so nothing is unknown. The one special token ends a document; text never produces it, even if it spells it out.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from kaiyuan_jax.config import UserError

END = "<|endoftext|>"
ENDS = (END, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<|endofdocument|>")
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BATCH_BYTES = 2 << 20


class TokenizerError(UserError):
    """A tokenizer that cannot be used; one line with what to do."""


def train(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE with at most `vocabulary` entries (fewer if the text is too small), the end of a document being entry 0.

    Deterministic in the sequence of texts. Raises `TokenizerError` below 257 entries (256 bytes and the end).
    """
    if vocabulary < 257:
        raise TokenizerError(f"--vocabulary={vocabulary}: must be at least 257 (256 bytes and {END})")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False,
                                  max_token_length=32)  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load(path: str) -> tuple[Tokenizer, str]:
    """A tokenizer.json, or the one inside a folder such as a store, and its text unchanged (its hash is the fingerprint of stores)."""
    file = Path(path)
    if file.is_dir():
        file = file / "tokenizer.json"
    if not file.is_file():
        raise TokenizerError(f"--tokenizer={path}: no such file; expected a tokenizer.json or a folder that holds one")
    try:
        text = file.read_text(encoding="utf-8")
        return Tokenizer.from_str(text), text
    except Exception as error:  # the package raises a bare Exception
        raise TokenizerError(f"--tokenizer={path}: not a tokenizer.json ({str(error)[:120]})") from None


def end_of_document(tokenizer: Tokenizer, name: str = "") -> int:
    """Id of the special token that ends documents: `name`, or the first known one; `TokenizerError` if there is none."""
    special = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for candidate in (name,) if name else ENDS:
        if candidate in special:
            return special[candidate]
    known = ", ".join(sorted(special)[:8]) or "none"
    raise TokenizerError(f"--end_of_document={name}: not a special token of the tokenizer; name one of its special tokens: {known}")


def vocabulary(tokenizer: Tokenizer) -> int:
    """Smallest V such that every id is below V."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def encode(tokenizer: Tokenizer, texts: Iterable[str], eod: int) -> Iterator[np.ndarray]:
    """uint32 ids of each text, without an end; batches are encoded on all cores. Raises `TokenizerError` if a text produces the end."""
    tokenizer.encode_special_tokens = True  # a text that spells <|endoftext|> gets ordinary tokens
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def batch(held: list[str]) -> Iterator[np.ndarray]:
        for encoding in tokenizer.encode_batch_fast(held, add_special_tokens=False):
            ids = np.array(encoding.ids, np.uint32)
            if (ids == eod).any():
                raise TokenizerError("--tokenizer: ordinary text also gives its end-of-document token; name another with --end_of_document")
            yield ids

    held, size = [], 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield from batch(held)
            held, size = [], 0
    yield from batch(held)
