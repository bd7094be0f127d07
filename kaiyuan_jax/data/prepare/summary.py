"""What a preparation says about itself: the settings it records, the quality of what it wrote, and a summary for the terminal."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from kaiyuan_jax.data import store
from kaiyuan_jax.data.prepare.settings import Settings


@dataclasses.dataclass(frozen=True)
class Result:
    """Stores of one source, and the report of what was done. `heldout` is None if nothing was held out."""

    train: store.Store
    heldout: store.Store | None
    reused: bool
    report: dict


def recorded(settings: Settings) -> dict:
    """The settings without places on this machine, for reports and manifests."""
    facts = dataclasses.asdict(settings) | {"tokenizer": "given" if settings.tokenizer else "trained"}
    for name in ("against", "evaluation_sets"):
        facts[name] = [Path(path).name for path in getattr(settings, name)]
    facts["scores"] = [":".join(Path(part).name for part in spec.split(":")) for spec in settings.scorers]
    return facts


def histogram(path: Path) -> dict:
    """Quality at 21 quantiles of token mass, and the tokens in 20 equal ranges of quality."""
    table = pq.read_table(path, columns=["offset", "length", "quality"])
    offset, length, quality = (table[name].to_numpy() for name in ("offset", "length", "quality"))
    marks = np.linspace(0, 1, 21)
    at = np.searchsorted(offset, np.minimum(marks * length.sum(), length.sum() - 1), side="right") - 1
    low, high = float(quality[0]), float(quality[-1])
    apart = high / 2 - low / 2 > 1e-9 * max(abs(low), abs(high))  # or there is no room for bins between them
    edges = np.linspace(low, high, 21) if apart and np.isfinite(high - low) else np.array([low, high])
    counts = np.diff(np.append(offset, length.sum())[np.append(np.searchsorted(quality, edges[:-1]), len(quality))])
    return {"quantiles": quality[at].tolist(), "edges": edges.tolist(), "tokens": counts.astype(int).tolist()}


def text(name: str, result: Result) -> str:
    """A table of what was read, kept and written, and the quality at quantiles of token mass."""
    counts, train = result.report["counts"], result.train
    lines = [f"{name}: {'up to date' if result.reused else 'prepared'}"]
    cleaned = counts["documents read"] - counts["empty"] - counts["documents cleaned"]
    lines.append(f"  documents read {counts['documents read']:,}   empty {counts['empty']:,}   cleaned away {cleaned:,}   without quality "
                 f"{counts['without quality']:,}   exact duplicates {counts.get('exact duplicates', 0):,}   near duplicates "
                 f"{counts.get('near duplicates', 0):,}")  # fmt: skip
    lines.append(f"  {'':<9}{'documents':>12}{'tokens':>16}{'bytes':>16}{'bytes/token':>13}")
    for side in filter(None, (train, result.heldout)):
        size = side.manifest.bytes
        lines.append(f"  {Path(side.folder).name:<9}{side.manifest.documents:>12,}{side.tokens:>16,}{size:>16,}{size / side.tokens:>13.2f}")
    if train.scored:
        shown = "  ".join(f"{mark:.0%} {value:.4g}" for mark, value in
                          zip(np.linspace(0, 1, 6), result.report["histograms"]["train"]["quantiles"][::4], strict=False))  # fmt: skip
        lines.append(f"  quality at token mass   {shown}")
    else:
        lines.append("  unscored: documents are in the order of a seeded hash")
    lines.append(f"  tokenizer {train.vocabulary:,} entries, fingerprint {train.fingerprint[:12]}; end of document {train.eod}")
    if result.heldout is None:
        lines.append("  nothing was held out: raise --heldout if the source is to be evaluated")
    for file, reason in result.report["quarantined"].items():
        lines.append(f"  quarantined {file}: {reason}")
    if repeated := counts.get("ids of several documents"):
        shown = ", ".join(result.report["examples"]["ids of several documents"][:3])
        lines.append(f"  {repeated:,} ids belong to several documents, such as {shown}")
    if (model := result.report["settings"]["model_vocabulary"]) > train.vocabulary:
        lines.append(f"  the model's vocabulary has {model - train.vocabulary:,} entries that no token of this tokenizer uses")
    if skipped := result.report["not_text"]:
        lines.append(f"  {len(skipped)} files are not text and were left out: {', '.join(skipped[:5])}")
    return "\n".join(lines)
