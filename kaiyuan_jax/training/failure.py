"""What a run says when its numbers stop being finite: the step, the documents of that batch, and where to go on from."""

import json
from pathlib import Path

import numpy as np

from kaiyuan_jax.data import provenance
from kaiyuan_jax.training import checkpoint, metrics
from kaiyuan_jax.training.resume import write_text

_SHOWN = 12  # documents in the message; all of them are in the file


class NonFiniteError(RuntimeError):
    """Loss, gradient or weights are not finite; the state of that step was not saved."""


def non_finite(done: int, measured: dict, plan, stores, folder: Path) -> NonFiniteError:
    """The error for update `done`, after writing every document of its batch to `nonfinite_<step>.json` in the run folder."""
    found = documents(plan, stores, done - 1, measured["loss_B"])
    file = folder / f"nonfinite_{done}.json"
    facts = {"step": done, "objective": repr(float(measured["objective"])), "gradient_norm": repr(float(measured["gradient_norm"]))}
    scaling, largest = measured["loss_scale"], metrics.Largest()
    if scaling:
        facts |= {name: value.item() for name, value in scaling._asdict().items()}
    largest.add(measured["statistics"])
    facts["largest_by_layer"] = largest.rounded()
    write_text(file, json.dumps({**facts, "documents": found}, indent=1, ensure_ascii=False) + "\n")
    good = checkpoint.steps(folder / "checkpoints")
    lines = [
        f"step {done}: loss {measured['loss_B'].mean():.6g}, gradient norm {measured['gradient_norm']:.6g}: {_what(measured)} not finite; "
        "stopped, this update is thrown away",
        *([_of_scale(scaling, measured)] if scaling else []),
        f"documents of its batch, highest loss first ({len(found)}, all in {file}):",
        *(
            f"  row {d['row']:<5d} loss {d['row_loss']:<9} {d['source']}  {d['document']}  score {d['score']:.4g}  pass {d['pass']}"
            for d in found[:_SHOWN]
        ),
        f"last good checkpoint: {folder / 'checkpoints' / str(good[-1])}" if good else "no checkpoint was saved before it",
        "the same command would meet the same batch; lower config.schedule.peak or lengthen the warm-up, in a new --config.output",
    ]
    return NonFiniteError("\n".join(lines))


def _what(measured: dict) -> str:
    """A step whose loss and gradient are finite is here for its weights, which were looked at before they were saved."""
    return "new weights are" if measured["finite"] else "loss or gradient is"


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
