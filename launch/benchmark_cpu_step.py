"""Our train step against the same model and step in eager PyTorch, on two threads of the CPU, in float32.

    python launch/benchmark_cpu_step.py --torch_python=build/parity/bin/python --output=docs/results/cpu_step.json

Both sides are processes that compile and warm up first, and then take steps by turns, a few seconds each, while the other one waits; they
start from the same weights on the same batch, and the losses of the warm-up must agree to 1e-3. The ratio is the median over the rounds of
torch's seconds by ours in the same round, so that a machine busy with other work disturbs both alike; CPU seconds say the same without
the waiting. PyTorch lives in another interpreter, which `make parity` installs; without it ours alone is timed.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import flags
from tqdm import tqdm

from kaiyuan_jax import config, files
from kaiyuan_jax.flags import run

SIZES = {  # model, batch rows, tokens a row
    "1.3m": (config.Model(layers=4, width=128, feedforward=384, heads=4, kv_heads=2, head_size=32, vocabulary=2048), 16, 128),
    "8m": (config.Model(layers=8, width=256, feedforward=768, heads=4, kv_heads=2, head_size=64, vocabulary=4096), 8, 256),
}
WARM_UP, RATE, CLOSE = 3, 1e-3, 1e-3

TORCH = flags.DEFINE_string("torch_python", "build/parity/bin/python", "Interpreter that has torch; `make parity` makes this one.")
SIZE = flags.DEFINE_list("sizes", list(SIZES), f"Of {', '.join(SIZES)}.")
ROUNDS = flags.DEFINE_integer("rounds", 9, "Turns of each side.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 0, "Steps a turn; 0: about two seconds.", lower_bound=0)
THREADS = flags.DEFINE_integer("threads", 2, "Threads, and processors that both sides may use.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", "", "Where the figures go, such as cpu_step.json; empty: printed alone.")


def main(argv):
    del argv
    files.check_target("output", OUTPUT.value, ".json")
    for name in SIZE.value:
        if name not in SIZES:
            raise config.UserError(f"--sizes={name}: must be among {', '.join(SIZES)}")
    if len(os.sched_getaffinity(0)) < THREADS.value:
        raise config.UserError(f"--threads={THREADS.value}: this process may use {len(os.sched_getaffinity(0))} processors only")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: THREADS.value])
    has_torch = torch_at(TORCH.value)
    if not has_torch:
        print(f"--torch_python={TORCH.value}: no interpreter that imports torch (`make parity` makes one); timing ours alone")
    results = [measure(name, has_torch) for name in SIZE.value]
    if OUTPUT.value:
        files.replace(OUTPUT.value, json.dumps(results, indent=1) + "\n")
        print(f"written: {OUTPUT.value}")


def torch_at(python: str) -> bool:
    try:
        return subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def measure(name: str, has_torch: bool) -> dict:
    """The figures of one size, printed too."""
    model, B, L = SIZES[name]
    experiment = config.Experiment(model=model, data=config.Data(batch_size=B, sequence_length=L), mesh=config.Mesh(data=1))
    tree = json.loads(config.to_json(experiment))
    with tempfile.TemporaryDirectory() as folder:
        settings = {"experiment": tree, "model": tree["model"], "optimizer": tree["optimizer"], "rate": RATE, "warm_up": WARM_UP}
        (Path(folder) / "settings.json").write_text(json.dumps(settings))
        sides = {"jax": Side([sys.executable, "-m", "kaiyuan_jax.experiments.cpu_step.jax_side", folder])}
        if has_torch:
            script = Path(__file__).parents[1] / "kaiyuan_jax" / "experiments" / "cpu_step" / "torch_side.py"
            sides["torch"] = Side([TORCH.value, str(script), folder, str(THREADS.value)])
        try:
            return report(name, B * L, {side: process.ready for side, process in sides.items()}, take_turns(sides))
        finally:
            for side in sides.values():
                side.close()


class Side:
    """A process that takes steps when it is told to."""

    def __init__(self, command: list[str]):
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": str(THREADS.value), "MKL_NUM_THREADS": str(THREADS.value)}
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process = subprocess.Popen(command, cwd=Path(__file__).parents[1], env=environment, **pipes)
        self.ready = self._read()

    def steps(self, count: int) -> dict:
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args)}: ended with code {self.process.wait()}")
        return json.loads(line)


def take_turns(sides: dict[str, Side]) -> dict[str, list[dict]]:
    """{side: [{seconds, cpu} of one step, a round each]}."""
    count = STEPS.value or max(1, round(2 / min(side.steps(2)["seconds"] / 2 for side in sides.values())))
    rounds = {name: [] for name in sides}
    for _ in tqdm(range(ROUNDS.value), desc="rounds", unit="round", leave=False, disable=None):
        for name, side in sides.items():
            taken = side.steps(count)
            rounds[name].append({key: taken[key] / count for key in ("seconds", "cpu")})
    return rounds


def report(name: str, tokens: int, ready: dict[str, dict], rounds: dict[str, list[dict]]) -> dict:
    """Prints and returns the figures; raises RuntimeError where the two sides are not the same model."""
    result = {"size": name, "parameters": ready["jax"]["parameters"], "tokens_per_step": tokens, "threads": THREADS.value}
    print(f"{name}: {result['parameters']:,} parameters, {tokens:,} tokens a step, {THREADS.value} threads, {ROUNDS.value} rounds")
    for side, taken in rounds.items():
        seconds, cpu = [[turn[key] for turn in taken] for key in ("seconds", "cpu")]
        figures = {"best": tokens / min(seconds), "median": tokens / statistics.median(seconds), "cpu_seconds": statistics.median(cpu)}
        result[side] = figures | {"version": ready[side]["version"], "losses": ready[side]["losses"]}
        print(
            f"  {ready[side]['version']:<18} best {figures['best']:>8,.0f} tokens/s, median {figures['median']:>8,.0f}; "
            f"{figures['cpu_seconds'] * 1e3:,.0f} ms of CPU a step"
        )
    if "torch" in rounds:
        ours, theirs = ready["jax"], ready["torch"]
        apart = max(abs(a - b) / b for a, b in zip(ours["losses"], theirs["losses"], strict=True))
        if ours["parameters"] != theirs["parameters"] or apart > CLOSE:
            raise RuntimeError(f"not the same model: losses {ours['losses']} and {theirs['losses']}")
        for key in ("seconds", "cpu"):
            ratios = [theirs[key] / ours[key] for ours, theirs in zip(rounds["jax"], rounds["torch"], strict=True)]
            result[f"ratio_{key}"] = statistics.median(ratios)
            low, high = min(ratios), max(ratios)
            print(f"  ours by torch, {key}: {result[f'ratio_{key}']:.2f} (rounds {low:.2f} to {high:.2f}); above 1 ours is faster")
        print(f"  losses of the first {WARM_UP} steps agree to {apart:.1e}")
    return result


if __name__ == "__main__":
    run(main)
