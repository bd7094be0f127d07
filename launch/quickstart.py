"""The main job, end to end, on real text: prepare -> plan -> train -> average -> evaluate -> report.

    make quickstart        or        python launch/quickstart.py

Every stage is one of the launch scripts, run as a user would run it and shown with its command line. Stores and finished runs are
reused, so a second call only does what is missing. Trains the four recipes of configs/quickstart.py, two of them a second time with
another seed, so that the noise between seeds stands beside the differences between recipes.
"""

import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

from absl import flags
from tqdm import tqdm

from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import run

OUTPUT = flags.DEFINE_string("output", "runs", "Folder for the runs and the report.")
STORES = flags.DEFINE_string("stores", "stores/quickstart", "Folder for the prepared text.")
JOBS = flags.DEFINE_integer("jobs", 2, "Runs trained at the same time, each on its share of the cores.", lower_bound=1)

CACHE = str(pathlib.Path("build/jax_cache").absolute())  # compiled programs, shared by all runs
AVERAGE = ["--kind=ema", "--last=6", "--alpha=0.2", "--name=average"]  # of every run, so that its gain can be compared
RUNS = [  # variant of configs/quickstart.py, seed
    ("uniform_cosine", 0),
    ("uniform_wsd", 0),
    ("ascending_wsd", 0),
    ("ascending_moderate", 0),
    ("uniform_wsd", 1),
    ("ascending_moderate", 1),
]


def main(argv):
    del argv
    began = time.perf_counter()
    script("prepare_quickstart", f"--output={STORES.value}")
    runs = {folder(variant, seed): overrides(variant, seed) for variant, seed in RUNS}
    script("plan", *overrides("ascending_moderate", 0))
    together([command("train", *options) for options in runs.values()], list(runs), "train")
    new = [path for path in runs if not (path / "evaluation" / "average.json").exists()]
    together([command("average_checkpoints", f"--run={path}", *AVERAGE) for path in new], new, "average")
    together([command("evaluate", f"--model={path},{path}/averages/average") for path in new], new, "evaluate")
    report = pathlib.Path(OUTPUT.value, "quickstart_report")
    script("report", f"--runs={','.join(map(str, runs))}", f"--output={report}", "--title=Quickstart", "--baseline=quickstart_uniform_wsd")
    print(f"\nDone in {(time.perf_counter() - began) / 60:.1f} minutes. Open {report / 'report.html'}")


def folder(variant: str, seed: int) -> pathlib.Path:
    return pathlib.Path(OUTPUT.value, f"quickstart_{variant}" + (f"_seed{seed}" if seed else ""))


def overrides(variant: str, seed: int) -> list[str]:
    options = [f"--config=configs/quickstart.py:{variant},{STORES.value}", f"--config.output={folder(variant, seed)}"]
    if seed:
        options += [f"--config.name={folder(variant, seed).name}", f"--config.seed={seed}", f"--config.data.seed={seed}"]
    return options


def command(name: str, *options: str) -> list[str]:
    return [sys.executable, f"launch/{name}.py", *options]


def shown(words: list[str]) -> str:
    return "$ python " + shlex.join(words[1:])


def script(name: str, *options: str) -> None:
    """Runs one launch script in the foreground; a failure ends the quickstart with the command that failed."""
    words = command(name, *options)
    print(f"\n{shown(words)}", flush=True)
    if subprocess.run(words, check=False).returncode:
        raise UserError(f"quickstart: stopped, this command failed: {shown(words)}")


def together(commands: list[list[str]], folders: list[pathlib.Path], job: str) -> None:
    """Runs independent commands (none is fine), JOBS at a time, each with its own share of the cores and its own log beside the run."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    slots = [cores[i :: JOBS.value] for i in range(JOBS.value)] if len(cores) >= JOBS.value else [None] * JOBS.value
    print()
    for words in commands:
        print(shown(words))
    waiting, running = list(zip(commands, folders, strict=True)), {}
    with tqdm(total=len(commands), desc=job, unit="run", disable=None) as bar:
        while waiting or running:
            while waiting and slots:
                (words, path), slot = waiting.pop(0), slots.pop()
                path.mkdir(parents=True, exist_ok=True)
                running[start(words, path / f"{job}.log", slot)] = (words, path, slot, time.perf_counter())
            time.sleep(1)
            bar.set_postfix_str(", ".join(f"{path.name} {progress(path)}" for _, path, *_ in running.values()))
            for process in [p for p in running if p.poll() is not None]:
                words, path, slot, began = running.pop(process)
                slots.append(slot)
                bar.update()
                if process.returncode:
                    for other in running:
                        other.terminate()
                    log = (path / f"{job}.log").read_text(errors="replace").splitlines()
                    raise UserError("\n".join([f"quickstart: stopped, this command failed: {shown(words)}", *log[-15:]]))
                tqdm.write(f"{job} {path.name}: {time.perf_counter() - began:.0f} s")


def progress(path: pathlib.Path) -> str:
    """The step that a run's metrics have reached."""
    metrics = path / "metrics.jsonl"
    lines = metrics.read_text().rpartition("\n")[0].splitlines() if metrics.exists() else []  # the last line may be half written
    return f"step {json.loads(lines[-1])['step']}" if lines else "starting"


def start(words: list[str], log: pathlib.Path, cores: list[int] | None) -> subprocess.Popen:
    pin = (lambda: os.sched_setaffinity(0, cores)) if cores else None
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": CACHE, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
    if cores and len(cores) == 1:  # threads that share one core only wait for one another: a step takes 0.86 of the time without them
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    with log.open("w") as file:
        return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, preexec_fn=pin, env=environment)


if __name__ == "__main__":
    run(main)
