"""Control stores: real text in which a known part is noise, and nothing else differs between its windows of quality.

A study of quality that finds nothing in real text shows something only if it finds what must be there. So the documents of a store are
brought into a seeded random order, which is then called their quality: windows of it differ by chance alone. The documents whose middle
lies in a range of token mass [low, high) then have a share of their tokens, `strength`, permuted among their places, inside the document.
Such text keeps its words and its length in bytes, and loses their order.

    noise = (0, 0.4)      the worst text is noise, as an honest score would have it
    noise = (0.5, 0.65)   noise among good text, where a score that is wrong would put it: performance must dip there
    noise = (0, 0)        none: whatever a study finds is chance
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.store import Store
from kaiyuan_jax.data.store_write import write_store


def inject(source: Store, folder: str | Path, *, noise: tuple[float, float], strength: float = 1.0, seed: int = 0) -> Store:
    """Writes a control store of the documents of `source`; quality is the place in the new order, 0 the worst and 1 the best.

    noise: quantiles of token mass, 0 the worst; strength: share of the tokens of a document that lose their places.
    Raises UserError for a range or a strength outside [0, 1], StoreError where the folder holds something that is no store.
    """
    low, high = noise
    if not 0 <= low <= high <= 1:
        raise UserError(f"noise: found {low:g},{high:g}, must be two quantiles with 0 <= low <= high <= 1")
    if not 0 <= strength <= 1:
        raise UserError(f"strength: found {strength:g}, must be between 0 and 1")
    facts = {"control": {"noise": [low, high], "strength": strength, "seed": seed, "of": source.manifest.tokens_sha256}}
    return write_store(
        folder,
        documents=_documents(source, low, high, strength, seed),
        tokenizer_json=(Path(source.folder) / "tokenizer.json").read_text(encoding="utf-8"),
        vocabulary=source.vocabulary,
        eod=source.eod,
        seed=seed,
        facts=facts,
    )


def _documents(source: Store, low: float, high: float, strength: float, seed: int) -> Iterator[tuple[str, float, int, np.ndarray]]:
    table, random = source.documents, np.random.default_rng(seed)
    order = random.permutation(len(table))
    lengths = table.length[order]
    middle = (np.cumsum(lengths) - lengths / 2) / source.tokens
    ids, sizes = table.column("id"), table.bytes
    for document, quantile in zip(order.tolist(), middle.tolist(), strict=True):
        begin = int(table.offset[document])
        tokens = source.read(begin, begin + int(table.length[document]) - 1)
        if low <= quantile < high:
            places = np.flatnonzero(random.random(len(tokens)) < strength)
            tokens[places] = tokens[random.permutation(places)]
        yield ids[document].as_py(), quantile, int(sizes[document]), tokens
