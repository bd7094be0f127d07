"""reuse.json: every number of the report from evaluated runs."""

import json

import numpy as np

from kaiyuan_jax import files
from kaiyuan_jax.experiments.reuse import estimate, study
from kaiyuan_jax.models import flops

NAME = "reuse.json"
RESAMPLES = 500


def write(of: study.Study) -> dict:
    """Estimates and writes. Raises UserError where a run or an evaluation is missing."""
    tables = study.losses(of)
    tokens = np.array(of.steps) * of.size.batch_size * of.size.sequence_length
    measured = estimate.losses(tables, tokens, RESAMPLES)
    found = {
        "size": study.settings(of),
        "parameters": flops.parameters(of.members()[0].model),
        "seeds": of.seeds,
        "sources": list(of.heldout),
        "documents": {source: int(count.size) for source, (_, count) in tables.items()},
        "resamples": RESAMPLES,
        "tokens": tokens.tolist(),
        "one_pass": measured.found_SFP[:, 0].tolist(),
        "repeated": measured.found_SFP[:, 1:].tolist(),
        **estimate.summary(measured, of.size.fresh),
        "by_source": {source: _by_source(table, tokens, of.size.fresh) for source, table in tables.items()},
    }
    files.replace(of.folder / NAME, json.dumps(found, indent=1) + "\n")
    return found


def _by_source(table: tuple[np.ndarray, np.ndarray], tokens: np.ndarray, fresh: tuple[int, ...]) -> list[list[float | None]]:
    """E(K, N) by the held-out text of one source alone, mean loss over seeds; a list for every N."""
    nats_SFPD, count_D = table
    losses_FP = nats_SFPD.sum(axis=-1).mean(axis=0) / count_D.sum()
    return [[float(e) if np.isfinite(e) else None for e in row] for row in estimate.reuse(tokens, losses_FP, fresh)]
