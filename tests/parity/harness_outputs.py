"""What lm-evaluation-harness finds with its Hugging Face backend: python tests/parity/harness_outputs.py FOLDER, in the parity environment.

Asks FOLDER/harness/ the tasks of harness_tasks/, in float32 on a CPU, and writes FOLDER/harness/answers.json: the scores, and the answer to
every request of every document. Nothing of the project is imported here. Start it at the top of the repository.
"""

import json
import os
import pathlib
import sys
from importlib.metadata import version

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from lm_eval import evaluator
from lm_eval.tasks import TaskManager

TASKS = ["parity_choices", "parity_last_word", "parity_passages", "parity_writing"]


def main(folder: pathlib.Path) -> None:
    torch.set_num_threads(1)
    manager = TaskManager(include_defaults=False, include_path=str(pathlib.Path(__file__).parent / "harness_tasks"))
    found = evaluator.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "dtype": "float32"},
        tasks=TASKS,
        task_manager=manager,
        batch_size=3,
        device="cpu",
        bootstrap_iters=0,
    )
    answers = {task: [sample["resps"] for sample in samples] for task, samples in found["samples"].items()}
    versions = {name: version(name) for name in ("lm_eval", "torch", "transformers")}
    facts = {"versions": versions, "results": found["results"], "groups": found["groups"], "answers": answers}
    (folder / "answers.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{folder}: " + ", ".join(f"{name} {len(samples)} documents" for name, samples in answers.items()))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) / "harness")
