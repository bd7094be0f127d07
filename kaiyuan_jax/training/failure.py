"""What a run says of a step that diverged: its numbers, the documents of that batch, and where to go on from."""

import json
from pathlib import Path

import numpy as np

from kaiyuan_jax import storage
from kaiyuan_jax.data import provenance
from kaiyuan_jax.training import checkpoint, metrics

_SHOWN = 12  # documents in the message; all of them are in the file


class DivergedError(RuntimeError):
    """The run diverged and its config says to stop; the state of that step was not saved."""


def write_documents(done: int, measured: dict, plan, stores, folder: Path) -> Path:
    """Puts the numbers of update `done` and every document of its batch, highest loss first, into `diverged_<step>.json` in the folder."""
    facts = {"step": done, "objective": repr(float(measured["objective"])), "gradient_norm": repr(float(measured["gradient_norm"]))}
    scaling, largest = measured["loss_scale"], metrics.Largest()
    if scaling:
        facts |= {name: value.item() for name, value in scaling._asdict().items()}
    largest.add(measured["statistics"])
    facts |= {"largest_by_layer": largest.rounded(), "documents": documents(plan, stores, done - 1, measured["loss_B"])}
    file = folder / f"diverged_{done}.json"
    storage.replace(file, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return file


def diverged(done: int, why: str, before: int, measured: dict, plan, stores, folder: Path) -> DivergedError:
    """The error for update `done`; why: divergence.reason; before: divergences that the run went on from."""
    found = documents(plan, stores, done - 1, measured["loss_B"])
    scaling, good = measured["loss_scale"], checkpoint.steps(folder / "checkpoints")
    lines = [
        f"step {done}: loss {measured['loss_B'].mean():.6g}, gradient norm {measured['gradient_norm']:.6g}: {why}; stopped, this update is "
        "thrown away",
        *([f"{before} divergences before it were left out, as many as config.health.limit allows or fewer"] if before else []),
        *([_of_scale(scaling, measured)] if scaling else []),
        f"documents of its batch, highest loss first ({len(found)}, all in {folder / f'diverged_{done}.json'}):",
        *(
            f"  row {d['row']:<5d} loss {d['row_loss']:<9} {d['source']}  {d['document']}  score {d['score']:.4g}  pass {d['pass']}"
            for d in found[:_SHOWN]
        ),
        f"last good checkpoint: {folder / 'checkpoints' / str(good[-1])}" if good else "no checkpoint was saved before it",
        "the same command would meet the same batch; set config.health.divergence to skip or back_off, or lower config.schedule.peak or "
        "lengthen the warm-up in a new --config.output",
    ]
    return DivergedError("\n".join(lines))


def _of_scale(scaling, measured: dict) -> str:
    """Why dynamic loss scaling does not go on; `scaling` is the LossScale after this step."""
    where = f"{scaling.skipped} steps skipped in the run, {scaling.nonfinite_loss} of them with a loss not finite"
    if measured["finite"]:
        return f"{where}; no scale cures weights that are not finite"
    return f"{where}; the loss scale would be {scaling.scale:g}, below config.precision.scale_floor: a smaller one is no remedy"


def documents(plan, stores, step: int, loss_B: np.ndarray) -> list[dict]:
    """Every document of batch `step` (0-based): its row, the row's loss, source, id, score and pass (1 is the first); worst rows first."""
    rank = np.argsort(np.where(np.isfinite(loss_B), -loss_B, -np.inf), kind="stable").tolist()
    return [
        {
            "row": row.row,
            "row_loss": f"{loss_B[row.row]:.4g}",
            "source": row.source,
            "document": piece.id,
            "score": piece.quality,
            "pass": row.pass_ + 1,
        }
        for row in provenance.trace(plan, stores, step, rank)
        for piece in row.pieces
    ]
