"""Sorts the documents of one side by quality, tokenises them in that order and writes the store."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from kaiyuan_jax.data import store
from kaiyuan_jax.data.prepare import tokenizer as tokenizers


def final_order(quality: np.ndarray, hashes: list[bytes], seed: int) -> np.ndarray:
    """int64 [n]: documents by ascending quality, equal quality by the seeded hash of the text."""
    ties = np.array([int.from_bytes(store.tie_break(digest, seed), "big") for digest in hashes], np.uint64)
    return np.lexsort((ties, quality))


def write(
    folder: Path,
    *,
    ids: Callable[[int], str],
    text: Callable[[int], str],
    quality: np.ndarray,
    hashes: list[bytes],
    tokenizer,
    tokenizer_json: str,
    eod: int,
    scored: bool,
    seed: int,
    inputs: dict[str, str],
    facts: dict,
    compression: int,
    progress: Callable[[int], None],
) -> store.Store:
    """Writes the documents 0..n-1, whose id and text come from functions of the number, as a store; returns it opened."""
    order = final_order(quality, hashes, seed)

    def texts() -> Iterator[str]:
        for document in order:
            found = text(document)
            sizes.append(len(found.encode()))
            yield found

    def documents():
        for document, tokens in zip(order, tokenizers.encode(tokenizer, texts(), eod), strict=True):
            size = sizes.pop(0)
            progress(size)
            yield ids(document), quality[document], size, tokens

    sizes: list[int] = []
    return store.write_store(
        folder, documents=documents(), tokenizer_json=tokenizer_json, vocabulary=tokenizers.vocabulary(tokenizer), eod=eod,
        scored=scored, seed=seed, inputs=inputs, facts=facts, compression=compression,
    )  # fmt: skip
