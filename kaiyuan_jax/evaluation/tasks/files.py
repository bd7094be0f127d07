"""A suite is a folder: suite.json, and a file of JSON lines for every task.

    suite.json     {"version": 1, "tasks": {name: {"file", "sha256", "items", ...}}, ...}; what else it says is kept as it is
    <task>.jsonl   {"id": str, "context": str, "choices": [str, ...], "gold": int, "level": int, "kind": "choice" | "loss"}
    <task>.yaml    the same file as a task of lm-evaluation-harness

A model reads the context and then each choice; `gold` is the place of the right one. Kind "loss" has one choice, a reference answer whose
loss is measured. Level 1 is the easiest. The lines of a level stand in random order, so that its first n are a sample of it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from kaiyuan_jax import json_text, storage
from kaiyuan_jax.config import UserError

VERSION = 1
KINDS = ("choice", "loss")


class TaskError(UserError):
    """A suite of tasks that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One question; the fields of one line."""

    id: str
    context: str  # may be empty: then whole texts are compared
    choices: tuple[str, ...]
    gold: int = 0
    level: int = 1
    kind: str = "choice"


@dataclasses.dataclass(frozen=True)
class Task:
    name: str
    items: tuple[Item, ...]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)  # its entry in suite.json

    @property
    def kind(self) -> str:
        return self.items[0].kind

    @property
    def fingerprint(self) -> str:
        """Of the items, whatever file they came from; that of the first n items differs from that of all."""
        return hashlib.sha256(_lines(self.items)).hexdigest()

    @property
    def levels(self) -> tuple[int, ...]:
        return tuple(sorted({item.level for item in self.items}))


@dataclasses.dataclass(frozen=True)
class Suite:
    folder: str
    tasks: dict[str, Task]
    facts: dict[str, Any]  # suite.json


def open_suite(flag: str, folder, *, items: int = 0, tasks: Sequence[str] = ()) -> Suite:
    """The tasks in a folder, each file compared with its checksum.

    items: at most so many of every level of every task, the first; 0: all. tasks: the names of some; empty: all. Raises TaskError that
    begins with the flag.
    """
    place = storage.path(folder)
    facts = _facts(flag, folder, place)
    if unknown := [name for name in tasks if name not in facts["tasks"]]:
        raise TaskError(f"{flag}={folder}: has no task {unknown[0]!r}; it has {', '.join(sorted(facts['tasks']))}")
    found = {}
    for name, entry in facts["tasks"].items():
        if not tasks or name in tasks:
            read = read_items(flag, place / entry["file"], entry["sha256"])
            found[name] = Task(name, _first(read, items) if items else read, entry)
    return Suite(str(folder), found, facts)


def read_items(flag: str, path, sha256: str = "") -> tuple[Item, ...]:
    """The items of one file. Raises TaskError for a file that is not there, changed since its checksum, or with a line that is no item."""
    try:
        content = storage.read(path)
    except FileNotFoundError:
        raise TaskError(f"{flag}={path}: there is no such file; build the suite again (launch/build_tasks.py)") from None
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise TaskError(f"{flag}={path}: is not the file that suite.json names (sha256 differs); build the suite again, or correct the sum")
    items, ids = [], set()
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            try:
                items.append(item_of(json_text.parse(line)))
            except json_text.JSONError as error:
                raise TaskError(f"{flag}={path} line {number}: not JSON ({error})") from None
            except TaskError as error:
                raise TaskError(f"{flag}={path} line {number}: {error}") from None
            if items[-1].id in ids or items[-1].kind != items[0].kind:
                raise TaskError(f"{flag}={path} line {number}: id {items[-1].id!r} stands twice, or its kind differs")
            ids.add(items[-1].id)
    if not items:
        raise TaskError(f"{flag}={path}: holds no items; one JSON object a line is expected")
    return tuple(items)


def item_of(value) -> Item:
    """The item of one parsed line. Raises TaskError that names the field."""
    names = [field.name for field in dataclasses.fields(Item)]
    if not isinstance(value, dict) or set(value) != set(names):
        found = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
        raise TaskError(f"must be an object of {', '.join(names)}, found {found:.200}")
    for name, kind in (("id", str), ("context", str), ("choices", list), ("gold", int), ("level", int), ("kind", str)):
        if not isinstance(value[name], kind) or isinstance(value[name], bool):
            raise TaskError(f"{name}: found {type(value[name]).__name__}, must be {kind.__name__}")
    choices = value["choices"]
    if not all(isinstance(choice, str) and choice for choice in choices) or len(set(choices)) < len(choices):
        raise TaskError("choices: must be texts that differ, none of them empty")
    if value["kind"] not in KINDS or len(choices) < 1 + (value["kind"] == "choice") or value["kind"] == "loss" and len(choices) > 1:
        raise TaskError(f"kind: {value['kind']!r} with {len(choices)} choices; choice has at least 2 and loss has 1")
    if not 0 <= value["gold"] < len(choices) or value["level"] < 1:
        raise TaskError(f"gold: {value['gold']}, of {len(choices)} choices from 0; level: {value['level']}, at least 1")
    return Item(**value | {"choices": tuple(choices)})


def write_suite(folder, tasks: Sequence[Task], facts: dict[str, Any]) -> None:
    """Writes the files of the tasks and then suite.json: `facts`, with the sum and the numbers of each file and the facts of its task."""
    place, entries = storage.path(folder), {}
    storage.make_folder(place)
    for task in tasks:
        content = _lines(task.items)
        entry = {"file": f"{task.name}.jsonl", "sha256": task.fingerprint, "items": len(task.items), "kind": task.kind}
        entries[task.name] = entry | {"chance": chance(task.items)} | task.facts
        storage.replace(place / entry["file"], content)
        storage.replace(place / f"{task.name}.yaml", harness_yaml(task, f"{folder}/{entry['file']}"))
    whole = {"version": VERSION} | facts | {"tasks": entries}
    storage.replace(place / "suite.json", json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


def chance(items: Sequence[Item]) -> float | None:
    """Share of right answers by guessing; None where nothing is chosen."""
    return sum(1 / len(item.choices) for item in items) / len(items) if items[0].kind == "choice" else None


def harness_yaml(task: Task, path: str) -> str:
    """The task for lm-evaluation-harness, read from `path` (as seen from where it is started)."""
    choice = ["output_type: multiple_choice", "doc_to_choice: choices", "doc_to_target: gold"]
    loss = ["output_type: loglikelihood", "doc_to_target: '{{choices[0]}}'"]
    metrics = ("acc", "acc_norm", "acc_bytes") if task.kind == "choice" else ("perplexity",)
    lines = [
        f"task: kaiyuan_{task.name}",
        "dataset_path: json",
        f"dataset_kwargs: {{data_files: {{test: {json.dumps(path, ensure_ascii=False)}}}}}",
        "test_split: test",
        "doc_to_text: context",
        *(choice if task.kind == "choice" else loss),
        "target_delimiter: ''",
        "metric_list:",
        *(f"  - metric: {name}" for name in metrics),
        "metadata: {version: 1}",
    ]
    return "\n".join(lines) + "\n"


def _lines(items: Sequence[Item]) -> bytes:
    return "".join(json.dumps(dataclasses.asdict(item), ensure_ascii=False) + "\n" for item in items).encode()


def _facts(flag: str, folder, place) -> dict[str, Any]:
    try:
        facts = json_text.read(place / "suite.json")
    except OSError:
        raise TaskError(f"{flag}={folder}: holds no suite.json; make one with launch/build_tasks.py --output={folder}") from None
    except json_text.JSONError as error:
        raise TaskError(f"{flag}={folder}/suite.json: not JSON ({error})") from None
    entries = facts.get("tasks") if isinstance(facts, dict) else None
    whole = isinstance(entries, dict) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(field), str) for field in ("file", "sha256")) for entry in entries.values()
    )
    if not whole or not entries or facts.get("version") != VERSION:
        raise TaskError(f"{flag}={folder}/suite.json: must have version {VERSION} and tasks with file and sha256; build the suite again")
    for entry in entries.values():
        if "/" in entry["file"] or "\\" in entry["file"] or not entry["file"].endswith(".jsonl"):
            raise TaskError(f"{flag}={folder}/suite.json: file {entry['file']!r} must be the name of a .jsonl file beside it")
    return facts


def _first(items: Sequence[Item], count: int) -> tuple[Item, ...]:
    seen: dict[int, int] = {}
    kept = []
    for item in items:
        seen[item.level] = seen.get(item.level, 0) + 1
        if seen[item.level] <= count:
            kept.append(item)
    return tuple(kept)
