"""Control stores: real text in which a known part is noise, and nothing else differs between its windows of quality.

A study of quality that finds nothing in real text shows something only if it finds what must be there. So the documents of a store are
brought into a seeded random order, which is then called their quality: windows of it differ by chance alone. Then tokens are replaced by
tokens drawn evenly from the vocabulary. What a model should predict where a share c is replaced is (1 - c) p + c / V, so even a model that
has only learned how often words occur is misled. `inject` replaces a share `strength` in documents whose middle lies in one of some ranges
of token mass [low, high):

    (0, 0.4)      the worst text is noise, as an honest score would have it
    (0.5, 0.65)   noise among good text, where a score that is wrong would put it: performance must dip there
    no range      whatever a study finds is chance

`grade` is the harder control that studies of order need, in which text gets better all the way: at quantile u of the new order a share

    rate max(0, 1 - u / share)

of a document's tokens is replaced, so noise moves the optimum in proportion to c, as the quality q_t moves the target of the quadratic
model (experiments/quadratic.py). The document table keeps the bytes of the text before.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.store import Store
from kaiyuan_jax.data.store_write import write_store


def inject(source: Store, folder: str | Path, *, noise: Sequence[tuple[float, float]], strength: float = 0.5, seed: int = 0) -> Store:
    """Writes a control store of the documents of `source`; quality is the place in the new order, 0 the worst and 1 the best.

    noise: ranges of quantiles of token mass, 0 the worst; strength: share of the tokens of a document that are replaced.
    Raises UserError for a range or a strength outside [0, 1], StoreError where the folder holds something that is no store.
    """
    for low, high in noise:
        if not 0 <= low < high <= 1:
            raise UserError(f"noise: found {low:g},{high:g}, must be pairs of quantiles with 0 <= low < high <= 1")
    if not 0 <= strength <= 1:
        raise UserError(f"strength: found {strength:g}, must be between 0 and 1")

    def share(quantile):
        return strength * any(low <= quantile < high for low, high in noise)

    return _write(source, folder, share, seed, {"noise": [list(pair) for pair in noise], "strength": strength})


def grade(source: Store, folder: str | Path, *, share: float = 0.9, rate: float = 0.6, seed: int = 0) -> Store:
    """Writes a control store of the documents of `source` in which noise falls with quality, and `1 - share` of the token mass is clean.

    share: of the token mass that holds noise; rate: share of the tokens that are noise in the worst text.
    Raises UserError for a share or a rate outside (0, 1], StoreError where the folder holds something that is no store.
    """
    for name, value in (("share", share), ("rate", rate)):
        if not 0 < value <= 1:
            raise UserError(f"{name}: found {value:g}, must be above 0 and at most 1")
    return _write(source, folder, lambda quantile: rate * max(0.0, 1 - quantile / share), seed, {"share": share, "rate": rate})


def _write(source: Store, folder: str | Path, share: Callable, seed: int, settings: dict) -> Store:
    return write_store(
        folder,
        documents=_documents(source, share, seed),
        tokenizer_json=(Path(source.folder) / "tokenizer.json").read_text(encoding="utf-8"),
        vocabulary=source.vocabulary,
        eod=source.eod,
        seed=seed,
        facts={"control": {**settings, "seed": seed, "of": source.manifest.tokens_sha256}},
    )


def _documents(source: Store, share: Callable[[float], float], seed: int) -> Iterator[tuple[str, float, int, np.ndarray]]:
    """`share` takes the quantile of a document in the new order and gives the share of its tokens that are replaced."""
    words = np.flatnonzero(np.arange(source.vocabulary) != source.eod).astype(np.uint32)
    table, random = source.documents, np.random.default_rng(seed)
    order = random.permutation(len(table))
    lengths = table.length[order]
    middle = (np.cumsum(lengths) - lengths / 2) / source.tokens
    ids, sizes = table.column("id"), table.bytes
    for document, quantile in zip(order.tolist(), middle.tolist(), strict=True):
        begin = int(table.offset[document])
        tokens = source.read(begin, begin + int(table.length[document]) - 1)
        places = np.flatnonzero(random.random(len(tokens)) < share(quantile))
        tokens[places] = random.choice(words, places.size)
        yield ids[document].as_py(), quantile, int(sizes[document]), tokens
