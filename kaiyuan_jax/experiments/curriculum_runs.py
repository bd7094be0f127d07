"""Trains and evaluates the study of curriculum x decay x averaging, cell by cell; what is finished is not done again.

A cell (one seed on one corpus) is two populations, `trunk` and `decays`, and `losses.npz`, its held-out losses: for every source
`<source>/nats` float64 [recipes, averages, documents], in the order of `curriculum.recipes()` and `curriculum.AVERAGES`, with `document`
and `tokens` of the documents. Averages are of stacked checkpoints, all members at once.
"""

import dataclasses
import json
import operator
import zipfile
from pathlib import Path

import jax
import numpy as np

from kaiyuan_jax import json_text, storage
from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.store import open_store
from kaiyuan_jax.data.store_write import write_store
from kaiyuan_jax.experiments import noise, population
from kaiyuan_jax.experiments.curriculum import AVERAGES, Cell, Corpus, Study, averages, recipes
from kaiyuan_jax.experiments.population import branch
from kaiyuan_jax.experiments.population.trained import Population

CONTROL_NOISE = dict(share=1.0, rate=0.6)  # three of five tokens in the worst text, none at the very end, as in the quadratic model


def control(store: str, heldout: str, folder: Path) -> Corpus:
    """Text of a store with noise that falls with quality, written where it is missing; judged by clean text."""
    made = folder / "control" / "train"
    if not (made / "manifest.json").exists():
        noise.grade(open_store(store), made, **CONTROL_NOISE)
    return Corpus("control", (("control", str(made), heldout),))


def best(store: str, share: float, folder: Path) -> str:
    """The folder of a store with the best `share` of the token mass of another one, written where it is missing."""
    source, made = open_store(store), folder / "heldout" / Path(store).parent.name
    if not (made / "manifest.json").exists():
        table = source.documents
        chosen = np.flatnonzero(source.quality_quantile(np.arange(len(table))) >= 1 - share).tolist()
        write_store(
            made,
            documents=(
                (table.id(i), table.quality[i], int(table.bytes[i]), source.read(table.offset[i], table.offset[i] + table.length[i] - 1))
                for i in chosen
            ),
            tokenizer_json=Path(source.folder, "tokenizer.json").read_text(encoding="utf-8"),
            vocabulary=source.vocabulary,
            eod=source.eod,
            scored=source.scored,
        )
    return str(made)


def hold(study: Study) -> None:
    """Writes study.json. Raises UserError where the folder holds a study of another size or of other stores; seeds may be added."""
    path = study.folder / "study.json"
    corpora = {f"corpus {corpus.name}": corpus.sources for corpus in study.corpora}
    ours = json.loads(json.dumps({"size": dataclasses.asdict(study.size)} | corpora))
    theirs = json_text.read(path) if path.exists() else {}
    for name in ours.keys() & theirs.keys():
        if ours[name] != theirs[name]:
            raise UserError(f"--output: {study.folder} holds a study with another {name}; give another folder, or remove that one")
    storage.make_folder(study.folder)
    storage.replace(path, json.dumps(theirs | ours, indent=1) + "\n")


def train(cell: Cell, devices=None) -> tuple[Population, Population]:
    """The trunk and the decays of a cell. Raises ConfigError before any work for stores that do not fit."""
    how = dict(devices=devices, first_save=round(cell.size.first_save * cell.size.steps), folders=False)
    trunk = population.train(cell.part(decays=False), cell.folder / "trunk", **how)
    decays = cell.part(decays=True)
    branch.begin(decays, cell.folder / "decays", trunk, cell.size.knee, cell.trunk_rows())
    return trunk, population.train(decays, cell.folder / "decays", **how)


def evaluate(cell: Cell, trunk: Population, decays: Population, devices=None) -> None:
    """Writes losses.npz of a cell; a member that diverged has NaN, and so has a recipe that the cell leaves out."""
    path = losses_path(cell)
    if path.exists() and zipfile.is_zipfile(path):
        return
    places = {recipe: number for number, recipe in enumerate(recipes())}
    arrays: dict[str, np.ndarray] = {}
    for trained, decaying in ((trunk, False), (decays, True)):
        mine = [places[recipe] for recipe in cell.recipes if recipe.decays == decaying]
        weights = [averages(kind, cell.size) for kind in AVERAGES]
        read = {step: trained.parameters({step: 1.0}) for step in sorted(set().union(*weights))}  # each checkpoint once
        for number, of_step in enumerate(weights):
            params_M = jax.tree.map(lambda *leaves, of=of_step: sum(map(operator.mul, of.values(), leaves)), *(read[s] for s in of_step))
            for place, sums in zip(mine, population.evaluate(trained, params_M, devices=devices), strict=True):
                for source, found in sums.items():
                    for field in ("document", "tokens"):
                        arrays[f"{source}/{field}"] = getattr(found, field)
                    shape = len(places), len(AVERAGES), len(found.document)
                    arrays.setdefault(f"{source}/nats", np.full(shape, np.nan))[place, number] = found.nats
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, **arrays)
    temporary.replace(path)


def losses_path(cell: Cell) -> Path:
    return cell.folder / "losses.npz"


def held_out(cell: Cell) -> dict[str, dict[str, np.ndarray]]:
    """source -> its arrays of losses.npz. Raises UserError where the cell is not finished."""
    if not losses_path(cell).exists():
        raise UserError(f"{cell.folder}: not finished; the same command without --stage goes on with it")
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(losses_path(cell), allow_pickle=False) as arrays:
        for key in arrays.files:
            source, field = key.rsplit("/", 1)
            found.setdefault(source, {})[field] = arrays[key]
    return found
