"""How many bytes of text each token stands for.

Bits per byte compares models and tokenizers on one scale, so the bytes must be exact, also inside multi-byte characters, where a token can
hold a third of a Chinese character. In a byte-level vocabulary every character of a token's written form is one byte (the GPT-2 alphabet
gives each of the 256 bytes a printable character): the length of that form is the number of bytes. Special tokens, such as the
end-of-document token, stand for no text: 0 bytes.
"""

import json

import numpy as np

from kaiyuan_jax.config import UserError


def byte_lengths(tokenizer, vocabulary: int) -> np.ndarray:
    """int64[vocabulary]: bytes of text of each token id; 0 for special tokens and for ids that the tokenizer does not have.

    Raises UserError for a tokenizer that is not byte-level, or that has more tokens than `vocabulary`.
    """
    description = json.loads(tokenizer.to_str())
    if not _byte_level(description.get("decoder")):
        found = (description.get("decoder") or {}).get("type")
        raise UserError(f"tokenizer: decoder {found!r} is not byte-level, so bits per byte are unknown; use a byte-level BPE tokenizer")
    tokens = tokenizer.get_vocab(with_added_tokens=True)
    if tokens and max(tokens.values()) >= vocabulary:
        raise UserError(
            f"tokenizer: has token id {max(tokens.values())}, but the model's vocabulary is {vocabulary}; enlarge model.vocabulary"
        )
    lengths = np.zeros(vocabulary, np.int64)
    lengths[list(tokens.values())] = [len(token) for token in tokens]
    for added in description.get("added_tokens", []):
        lengths[added["id"]] = 0 if added["special"] else len(added["content"].encode())
    return lengths


def _byte_level(decoder) -> bool:
    if not decoder:
        return False
    return decoder["type"] == "ByteLevel" or any(map(_byte_level, decoder.get("decoders", [])))
