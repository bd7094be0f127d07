"""Puts the report together: report.html and its PNGs from finished (or unfinished) runs."""

from pathlib import Path

from kaiyuan_jax import config, files, page
from kaiyuan_jax.models import flops
from kaiyuan_jax.report import compare, forecasts, result_figures, style, table, training_figures, words
from kaiyuan_jax.report.compare import Group
from kaiyuan_jax.report.load import FINAL, Run, load, recipes


def build(folders, output, *, title: str = "Runs", preliminary: str = "", baseline: str = "") -> tuple[Path, str]:
    """Writes <output>/report.html and PNGs; returns the path of the page and the comparison table as text.

    baseline: name of the run whose recipe the others are compared with (its final checkpoints); the first run where empty. Raises
    UserError for a folder that is not a run, or an unknown baseline.
    """
    runs = load(folders)
    if baseline and baseline not in [run.name for run in runs]:
        raise config.UserError(f"--baseline: found {baseline!r}, must be one of {', '.join(run.name for run in runs)}")
    found, (foretold, untold) = compare.groups(runs), forecasts.of_runs(runs)
    reference = _reference(runs, found, baseline)
    with style.settings():
        figures = _figures(runs, found, reference, foretold)
    text = table.text(table.rows(runs, reference), _sources(found)) if reference else "no run was evaluated yet (launch/evaluate.py)"
    parts = _parts(title, preliminary, runs, found, reference, [*words.forecasts(foretold), *untold], figures)

    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    for picture in figures:
        files.replace(output / f"{picture.name}.png", picture.png)
    path = output / "report.html"
    files.replace(path, page.page(title, parts))
    return path, text


def _reference(runs: list[Run], found: list[Group], baseline: str) -> Group | None:
    """The final checkpoints of the baseline's recipe."""
    wanted = next((run.recipe for run in runs if run.name == baseline), None)
    finals = [group for group in found if group.kind == FINAL and (wanted is None or group.recipe == wanted)]
    if wanted and found and not finals:
        raise config.UserError(f"--baseline: the final checkpoint of {baseline} was not evaluated; run launch/evaluate.py --model=RUN")
    return finals[0] if finals else found[0] if found else None


def _sources(found: list[Group]) -> list[str]:
    return list(dict.fromkeys(source for group in found for model in group.models for source in model.result["heldout"]))


def _figures(runs: list[Run], found: list[Group], reference: Group | None, foretold: list[forecasts.Forecast]) -> list[page.Figure]:
    """Every figure that these runs have the numbers for."""
    drawn = {
        "data_seen": training_figures.data_seen(runs),
        "learning_rate": training_figures.learning_rates(runs),
        "forecast": forecasts.draw(foretold),
        "heldout_loss": training_figures.heldout_loss(runs),
        "training_loss": training_figures.training_loss(runs),
        "precision": training_figures.precision(runs),
    }
    if reference:
        drawn |= {
            "results": result_figures.results(runs, found, reference),
            "interaction": result_figures.interaction(runs, found),
            "quality": result_figures.quality(runs, reference),
        }
    return [page.Figure(name, *words.CAPTIONS[name], png) for name, png in drawn.items() if png]


def _parts(title: str, preliminary: str, runs, found: list[Group], reference: Group | None, foretold: list[str], figures) -> list[str]:
    pictures = {picture.name: page.figure(picture) for picture in figures}

    def shown(*names: str) -> list[str]:
        return [pictures[name] for name in names if name in pictures]

    parts = [f"<h1>{page.text(title)}</h1>"]
    if preliminary:
        parts.append(page.paragraph(preliminary, "notice"))
    if reference:
        against, gains = compare.against_baseline(found, reference), compare.averaging(runs)
        parts.append(page.paragraph(words.headline(against, reference), "lead"))
        parts += [page.paragraph(words.scale(runs), "small")]
        parts.append(page.section("Comparison", _table(runs, found, reference), *shown("results")))
        parts.append(page.section("Curriculum, decay and averaging", *shown("interaction", "quality")))
    else:
        parts.append(page.paragraph("No run was evaluated yet; launch/evaluate.py --model=RUN adds the comparison.", "notice"))
        parts.append(page.paragraph(words.scale(runs), "small"))
    said = [page.bullets(foretold)] if foretold else []
    parts.append(
        page.section(
            "Training",
            *shown("data_seen", "learning_rate", "forecast"),
            *said,
            *shown("heldout_loss", "training_loss", "precision"),
            _runs_table(runs),
        )
    )
    if reference:
        parts.append(
            page.section(
                "What this does and does not show",
                page.bullets([sentence for sentence in (words.seeds(found), words.choice(found)) if sentence]),
                "<h3>Each model against the baseline</h3>",
                page.verdicts([(v.title, v.text, v.holds) for v in against]),
                *(["<h3>Averaging inside each run</h3>", page.verdicts([(v.title, v.text, v.holds) for v in gains])] if gains else []),
                "<h3>Limits</h3>",
                page.bullets([words.scale(runs), *words.caveats(runs)]),
            )
        )
        parts.append(_samples(runs))
    return parts


def _table(runs: list[Run], found: list[Group], reference: Group) -> str:
    sources = _sources(found)
    colours = style.colours(recipes(runs), style.RECIPE_COLOURS)
    header, body, previous = table.header(sources), [], None
    for row in table.rows(runs, reference):
        body.append((table.cells(row, sources), colours[row.run.recipe], row.run.name != previous))
        previous = row.run.name
    return page.table(header, body, header.index("seeds") + 1) + page.paragraph(words.TABLE_NOTE, "small")


def _runs_table(runs: list[Run]) -> str:
    header = ["run", "recipe", "seed", "data seed", "parameters", "steps", "tokens", "last training loss", "tokens/s", "seconds"]
    colours = style.colours(recipes(runs), style.RECIPE_COLOURS)
    body = []
    for run in runs:
        last = run.training[-1] if run.training else {}
        facts = [run.name, run.recipe, run.experiment.seed, run.experiment.data.seed, f"{flops.parameters(run.experiment.model):,}"]
        facts += [f"{run.steps:,}", f"{run.tokens:,}", f"{last['loss']:.4f}" if last else ""]
        facts += [f"{last[key]:,.0f}" if key in last else "" for key in ("tokens_per_second", "seconds")]
        body.append(([(str(fact), "") for fact in facts], colours[run.recipe], False))
    return page.details("All runs", page.table(header, body, 2))


def _samples(runs: list[Run]) -> str:
    folded = []
    for run in [repeats[0] for repeats in recipes(runs).values()]:
        if run.chosen and run.chosen.result["samples"]:
            samples = [page.sample(item["source"], item["prompt"], item["text"]) for item in run.chosen.result["samples"]]
            folded.append(page.details(f"{run.name}, {run.chosen.label}", *samples, opened=not folded))
    note = "Grey: the beginning of a held-out document. Black: what the model made of it (one draw each, not chosen)."
    return page.section("Sampled text", page.paragraph(note, "small"), *folded) if folded else ""
