"""What the project set itself for one H200, read off the results. A goal whose measurements are missing is owed."""

from collections.abc import Iterable

AHEAD = ("documents", "soft-cap", "documents and soft-cap")  # where no other kernel is to be faster


def rows(results: dict) -> list[dict]:
    """goal, wanted, found and verdict (reached, missed or owed) of every goal."""
    steps = [row for name in ("step", "step_plain", "step_fp16") for row in _rows(results, name)]
    ours = _best(steps, compute="bfloat16", shape="Kaiyuan")
    half = _best(steps, compute="float16", shape="Kaiyuan")
    plain = _best(steps, compute="bfloat16", shape="Qwen3")
    torch = _best(_rows(results, "torch_step"), weights="float32")
    found = [
        _goal("2.03B bf16 step, MFU (causal halved)", "at least 0.60", ours and ours.get("mfu"), lambda value: value >= 0.6),
        _goal("fp16 over bf16, tokens/s", "at least 0.95", _ratio(half, ours), lambda value: value >= 0.95),
        _goal("ours over PyTorch, tokens/s, both Qwen3", "at least 1.25", _ratio(plain, torch), lambda value: value >= 1.25),
        _goal("ours with everything over PyTorch's Qwen3", "at least 1.25", _ratio(ours, torch), lambda value: value >= 1.25),
    ]
    losses = [row for row in _rows(results, "cross_entropy") if row.get("implementation") == "ours: objective"]
    for row in losses:
        if "against_materialised" in row:
            what = "loss op over materialised logits" + (", soft-cap" if row["softcap"] else "")
            found.append(_goal(what, "at most 1.05", row["against_materialised"], lambda value: value <= 1.05))
    if not any("against_materialised" in row for row in losses):
        found.append(_goal("loss op over materialised logits", "at most 1.05", None, None))
    attention = [row for name in ("attention", "torch_ops") for row in _rows(results, name) if row.get("dtype") == "bfloat16"]
    for case, least, most in (("causal", 0.9, "at least 0.90"), *((case, 1.0, "at least 1.00") for case in AHEAD)):
        mine = _best(attention, "both_tflops", case=case, chosen=True)
        others = [row for row in attention if row.get("case") == case and not str(row.get("implementation")).startswith("ours")]
        value = _ratio(mine, _best(others, "both_tflops"), "both_tflops")
        found.append(_goal(f"attention over the best other, {case}, with backward", most, value, lambda value, least=least: value >= least))
    together = _best(_rows(results, "population"), "ratio", compute="bfloat16")
    value = together and together["ratio"]
    found.append(_goal("16 members of 5M together over one after another, tokens/s", "at least 4", value, lambda value: value >= 4))
    return found


def _goal(goal: str, wanted: str, value: float | None, test) -> dict:
    verdict = "owed" if value is None else "reached" if test(value) else "missed"
    return {"goal": goal, "wanted": wanted, "found": value, "verdict": verdict}


def _rows(results: dict, name: str) -> list[dict]:
    if results["tiny"]:
        return []
    return [row for section in results["sections"] if section["name"] == name for row in section["rows"]]


def _best(rows: Iterable[dict], key: str = "tokens_per_second", **match) -> dict | None:
    """The row with the largest `key` among those that have it and match."""
    fitting = [row for row in rows if row.get(key) is not None and all(row.get(name) == value for name, value in match.items())]
    return max(fitting, key=lambda row: row[key], default=None)


def _ratio(above: dict | None, below: dict | None, key: str = "tokens_per_second") -> float | None:
    return above[key] / below[key] if above and below else None
