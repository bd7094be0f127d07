"""Byte-level BPE: trained on the corpus, or a tokenizer.json that the user brings.

Words are cut as current open models do (a letter run with the sign before it, single digits, runs of signs, newlines), and every
byte has a token, so nothing is unknown. The one special token ends a document; text never produces it, even if it spells it out.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from kaiyuan_jax import storage
from kaiyuan_jax.config import UserError

END = "<|endoftext|>"
ENDS = (END, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<|endofdocument|>")
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
AUDIT = 512  # one text in so many is encoded twice


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


def load(path: str | Path) -> tuple[Tokenizer, str]:
    """A tokenizer.json, or the one inside a folder such as a store, and its text unchanged (its hash is the fingerprint of stores)."""
    file = storage.path(path)
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


class Encoder:
    """Texts to tokens with one tokenizer: fast where that is exact, and by `tokenizers` itself, which defines the result, elsewhere.

    gigatoken gives the same ids forty times faster, but takes the spelling of a special token in a text for the token; so texts that
    spell one go to `tokenizers`, as does everything if gigatoken does not know the kind of tokenizer. One text in `AUDIT` is encoded
    by both and compared.
    """

    def __init__(self, tokenizer_json: str, eod: int):
        self.eod = eod
        self.exact = Tokenizer.from_str(tokenizer_json)
        self.exact.encode_special_tokens = True  # a text that spells <|endoftext|> gets ordinary tokens
        self.exact.no_truncation()
        self.exact.no_padding()
        self.special = [token.content for token in self.exact.get_added_tokens_decoder().values()]
        try:
            import gigatoken

            self.fast = gigatoken.Tokenizer.from_json(tokenizer_json)
        except Exception:  # not installed, or a tokenizer of a kind that it does not know: it says so in many ways
            self.fast = None

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(uint32 tokens of all texts one after the other, each ended by the end-of-document token; int64 [n] lengths with that token).

        Runs on one core. Raises `TokenizerError` if a text produces the end, or if the two encoders disagree.
        """
        slow = [i for i, text in enumerate(texts) if self.fast is None or any(token in text for token in self.special)]
        held = set(slow)
        quick = [i for i in range(len(texts)) if i not in held]
        found: dict[int, np.ndarray] = {}
        if quick:
            layout = self.fast.encode_batch([texts[i] for i in quick], parallel=False).layout
            starts, values = layout.offsets.data, layout.content.data
            found = {i: values[begin:end] for i, begin, end in zip(quick, starts[:-1], starts[1:], strict=True)}
        checked = quick[::AUDIT]
        for i, encoding in zip(slow + checked, self._exactly([texts[i] for i in slow + checked]), strict=True):
            ids = np.array(encoding.ids, np.uint32)
            if i in found and not np.array_equal(ids, found[i]):
                raise TokenizerError(f"--tokenizer: gigatoken and tokenizers disagree on {texts[i][:60]!r}; uninstall gigatoken to use "
                                     "the slower tokenizers alone")  # fmt: skip
            found[i] = ids
        lengths = np.array([len(found[i]) + 1 for i in range(len(texts))], np.int64)
        ends = np.cumsum(lengths)
        tokens = np.full(int(lengths.sum()), self.eod, np.uint32)
        body = np.ones(len(tokens), bool)
        body[ends - 1] = False
        tokens[body] = np.concatenate([found[i] for i in range(len(texts))]) if len(texts) else ()
        if (tokens == self.eod).sum() != len(texts):
            raise TokenizerError("--tokenizer: ordinary text also gives its end-of-document token; name another with --end_of_document")
        return tokens, lengths

    def _exactly(self, texts: list[str]) -> list:
        return self.exact.encode_batch_fast(texts, add_special_tokens=False) if texts else []
