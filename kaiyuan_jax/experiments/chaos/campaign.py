"""Trains small runs, hurts them at random, and compares each with the same run undisturbed.

A run is started again and again, by the same command, until it is finished. Each of its sessions gets some of the faults of faults.py;
kinds that were seldom met so far are drawn more often, moments at random. A fault counts once it was really brought about: the process was
alive and got the signal, the read did fail. It is survived when

    no session ended with a code that asks for a human (1: diverged, 2: a mistake), hung, or came no further although nothing hurt it;
    the finished run equals the undisturbed one of its arrangement (compare.py).

Results are kept a run at a time (faults.jsonl), so the same command goes on where it stopped, and a larger number of faults adds to them.
"""

import dataclasses
import json
import random
import shutil
import signal
import threading
import time
from pathlib import Path

from tqdm import tqdm

from kaiyuan_jax import config
from kaiyuan_jax.experiments.chaos import arrangement as arrangements
from kaiyuan_jax.experiments.chaos import compare, disk, faults
from kaiyuan_jax.experiments.chaos.arrangement import EVERY, STEPS, Arrangement
from kaiyuan_jax.experiments.chaos.session import Ended, Running
from kaiyuan_jax.training import saved

HUMAN = (1, 2)  # exit codes after which nothing starts again by itself
LOST = 2 * EVERY  # steps that may be lost where no checkpoint is damaged: one write is in flight, and the one before it is complete
STUCK = 6  # sessions in a row that bring no newer checkpoint, undisturbed ones among them, after which a run is given up


@dataclasses.dataclass
class Injected:
    """One fault that was brought about."""

    kind: str
    arrangement: str
    run: int
    session: int
    step: int  # updates of the run behind the last batch that its session had taken before it; 0 for none
    detail: str
    time: float  # monotonic seconds; not kept
    repeated: int = 0  # of these batches, how many were taken again
    seconds: float = 0.0  # until a batch beyond them was taken, or the run was over
    survived: bool = False
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a campaign works."""

    output: Path  # results, journals, what is left of a run that lost something
    disk: Path  # the run folders
    mounted: bool  # `disk` is small and can be filled


class Lost(Exception):
    """A run did not come to its end without help."""


def campaign(place: Place, count: int, seed: int, kinds: tuple[str, ...], names: tuple[str, ...]) -> list[dict]:
    """Brings about `count` faults of the kinds and arrangements named, those already in the output counted; all that were brought about."""
    place.output.mkdir(parents=True, exist_ok=True)
    stores, kept = place.output / "stores", place.output / "faults.jsonl"
    arrangements.write_stores(stores)
    sequences = arrangements.sequences(stores)
    results = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    number = 1 + max((result["run"] for result in results), default=0)
    references: dict[str, compare.Outcome] = {}
    with tqdm(total=count, initial=len(results), desc="faults survived", unit="fault", disable=None) as bar:
        while len(results) < count:
            draw = random.Random(f"{seed}/{number}")
            one = arrangements.ARRANGEMENTS[names[(number - 1) % len(names)]]
            met = {kind: sum(result["kind"] == kind for result in results) for kind in kinds}
            run = Run(place, one, number, draw, met, sequences, bar)
            if one.undisturbed not in references:
                bar.set_postfix_str(f"{one.name}: undisturbed")
                references[one.undisturbed] = run.undisturbed()
            found = run.hurt(min(draw.randint(12, 20), count - len(results)), references[one.undisturbed])
            with open(kept, "a", encoding="utf-8") as file:
                for injected in found:
                    results.append({k: v for k, v in dataclasses.asdict(injected).items() if k != "time"})
                    file.write(json.dumps(results[-1]) + "\n")
            number += 1
    return results


class Run:
    """One run of an arrangement, its sessions and what was done to it."""

    def __init__(self, place: Place, arrangement: Arrangement, number: int, draw: random.Random, met: dict, sequences: dict, bar: tqdm):
        self.place, self.arrangement, self.number, self.draw, self.met = place, arrangement, number, draw, met
        self.sequences, self.bar = sequences, bar
        self.sessions: list[Ended] = []
        self.injected: list[Injected] = []
        self.freeing = threading.Timer(0, lambda: None)  # of the disk that is full
        self.start = 8.0  # seconds that a session takes to its first batch, as last measured

    def undisturbed(self) -> compare.Outcome:
        """The outcome of the run when nothing is done to it."""
        reference = Run(self.place, self.arrangement, 0, self.draw, {}, self.sequences, self.bar)
        reference._prepare()
        ended = reference._start(self.arrangement.processes[0], []).end(None)
        reference.sessions.append(ended)
        if any(ended.codes) or reference._saved() != STEPS:
            raise config.UserError(
                f"the undisturbed run of {self.arrangement.name!r} ended with codes {ended.codes}: {_tail(ended.output)}"
            )
        return compare.outcome(reference.folder, reference.sessions, self.sequences)

    def hurt(self, count: int, whole: compare.Outcome) -> list[Injected]:
        """Trains the run to its end with about `count` faults; every fault brought about, judged."""
        self._prepare()
        try:
            self._train(count)
            hurt = compare.outcome(self.folder, self.sessions, self.sequences)
            problems = compare.differences(hurt, whole, bitwise=len(set(self.arrangement.processes)) == 1)
            problem = "; ".join(problems[:5])
        except (Lost, ValueError, OSError) as error:
            problem = f"{type(error).__name__}: {error}"
        self._measure()
        for injected in self.injected:
            injected.survived, injected.problem = not problem, problem
        if problem:
            tqdm.write(f"run {self.number}, {self.arrangement.name}: {problem}")
            for injected in self.injected:
                tqdm.write(f"  session {injected.session}, step {injected.step}: {injected.kind} {injected.detail}")
            shutil.copytree(self.folder, self.logs / "run", dirs_exist_ok=True)
        return self.injected

    def _prepare(self) -> None:
        self.folder = self.place.disk / f"run_{self.number}"
        self.logs = self.place.output / "logs" / f"run_{self.number}"
        for old in (*self.place.disk.glob("run_*"), self.logs):
            shutil.rmtree(old, ignore_errors=True)
        self.logs.mkdir(parents=True)
        experiment = arrangements.experiment(self.arrangement, self.place.output / "stores", self.folder)
        (self.logs / "config.json").write_text(config.to_json(experiment), encoding="utf-8")

    def _saved(self) -> int:
        return (saved.steps(self.folder / "checkpoints") or [0])[-1]

    def _start(self, processes: int, inner: list[dict]) -> Running:
        flags = [f"--config=configs/saved.py:{self.logs}/config.json"]
        one = self.arrangement
        return Running(len(self.sessions) + 1, flags, processes, one.devices, inner, one.poisoned, self.logs)

    def _train(self, count: int) -> None:
        processes, idle, before = self.draw.choice(self.arrangement.processes), 0, 0
        while self._saved() < STEPS:
            left = count - len(self.injected)
            if left > 0:
                processes = self._between(processes)
            kinds = self._pick("inside", processes, min(left, self.draw.randint(2, 6)))
            kinds = kinds[:1] + [kind for kind in kinds[1:] if kind != "dead_read"]  # which would end every session
            inner = [faults.inside(self.draw, kind) for kind in kinds]
            kinds = self._pick("strike", processes, min(max(left - len(inner), 0), 2))
            strikes = [faults.strike(self.draw, kind, self._saved(), processes, self.start) for kind in faults.in_turn(kinds)]
            ended = self._session(processes, inner, strikes)
            idle, before = (0 if self._saved() > before or strikes else idle + 1), self._saved()
            if idle >= STUCK:
                raise Lost(f"{STUCK} sessions in a row came no further than step {before}: {_tail(ended.output)}")

    def _pick(self, when: str, processes: int, count: int) -> list[str]:
        """Kinds to bring about now, those met seldom so far more often."""
        kinds = [kind for kind in self.met if faults.KINDS[kind].when == when]
        kinds = [kind for kind in kinds if faults.possible(kind, self.arrangement, self._saved(), processes)]
        weights = [1 / (1 + self.met[kind]) ** 2 for kind in kinds]
        drawn = self.draw.choices(kinds, weights, k=count) if kinds and count > 0 else []
        return drawn if when == "inside" else list(dict.fromkeys(drawn))

    def _between(self, processes: int) -> int:
        """Sometimes damages a checkpoint or takes another number of processes, which it returns."""
        for kind in self._pick("between", processes, self.sessions != [] and self.draw.random() < 0.8):
            if kind == "processes":
                other = self.draw.choice([other for other in self.arrangement.processes if other != processes])
                self._note(kind, f"{processes} -> {other}")
                return other
            if detail := faults.damage(self.draw, kind, self.folder):
                self._note(kind, detail)
        return processes

    def _session(self, processes: int, inner: list[dict], strikes: list[faults.Strike]) -> Ended:
        self.bar.set_postfix_str(f"run {self.number}, {self.arrangement.name}, session {len(self.sessions) + 1}, step {self._saved()}")
        running, fell = self._start(processes, inner), []
        try:
            for strike in strikes:
                if running.reach(strike.moment):
                    now = time.monotonic()
                    if self._strike(running, strike):
                        fell.append((strike, now))
            ended = running.end(fell[-1][1] if fell else None)
        finally:
            running.abandon()
            self._free(running)
        self.sessions.append(ended)
        for strike, when in fell:
            self._note(strike.kind, f"{strike.moment} {strike.victims} {strike.seconds:.1f} s", when)
        seen = set()
        for event in ended.events:
            # a read that fails for good, or several times, is one fault, and so is a batch that is NaN each time it is taken
            if event["event"] == "fault" and (which := (event["kind"], event.get("number"), event.get("step"))) not in seen:
                seen.add(which)
                if event["kind"] in self.met:
                    self._note(event["kind"], str({k: v for k, v in event.items() if k not in ("event", "time", "kind")}), event["time"])
        if first := ended.batches():
            self.start = first[0]["time"] - ended.begin
        self._judge(ended, [strike for strike, _ in fell])
        return ended

    def _strike(self, running: Running, strike: faults.Strike) -> bool:
        """Does it; False if it met nobody."""
        victims = list(strike.victims)
        if strike.kind.startswith("kill"):
            return running.send(signal.SIGKILL, victims)
        if strike.kind.startswith("terminate"):
            return running.send(signal.SIGTERM, victims)
        if strike.kind == "full_disk":
            if self.place.mounted:
                disk.fill(self.place.disk, strike.room)
            else:
                running.limit_files(max(strike.room, 1 << 16))
            self.freeing = threading.Timer(strike.seconds, self._free, [running])
            self.freeing.start()
            return True
        if not running.send(signal.SIGSTOP, victims):
            return False
        if strike.kind == "stop":
            time.sleep(strike.seconds)
            running.send(signal.SIGCONT, victims)
        return True  # one of several stays stopped until the others have ended

    def _free(self, running: Running) -> None:
        self.freeing.cancel()
        if self.place.mounted:
            disk.free(self.place.disk)
        else:
            running.limit_files(None)

    def _note(self, kind: str, detail: str, when: float | None = None) -> None:
        self.met[kind] = self.met.get(kind, 0) + 1
        self.injected.append(Injected(kind, self.arrangement.name, self.number, len(self.sessions), 0, detail, when or time.monotonic()))
        self.bar.update()

    def _judge(self, ended: Ended, strikes: list[faults.Strike]) -> None:
        """Raises Lost where a human would be needed."""
        if ended.hung:
            raise Lost(f"session {ended.number} hung: {_tail(ended.output)}")
        if human := [code for code in ended.codes if code in HUMAN]:
            raise Lost(f"session {ended.number} ended with code {human[0]}: {_tail(ended.output)}")
        if ended.batches():
            self._judge_begin(ended)
        hurt = strikes or any(event["event"] == "fault" for event in ended.events)
        if not hurt and any(ended.codes):
            tqdm.write(f"run {self.number}, session {ended.number}: nothing was done to it, codes {ended.codes}: {_tail(ended.output)}")

    def _judge_begin(self, ended: Ended) -> None:
        """Raises Lost where a session begins further back than is promised: at the step that was saved when the last one was told to stop,
        else behind at most the steps since a checkpoint and those taken while the next was being written."""
        before = next((session for session in reversed(self.sessions[:-1]) if session.batches()), None)
        if before is None or self._damaged_since(before.number):
            return
        lost = before.last_step + 1 - ended.first_step
        told = not any(before.codes) and before.struck is not None
        if lost > (0 if told else LOST):
            promised = "none, as it ended with code 0" if told else f"at most {LOST}"
            raise Lost(f"session {ended.number} began at step {ended.first_step}, {lost} steps back; promised: {promised}")

    def _damaged_since(self, session: int) -> bool:
        kinds = ("truncated", "flipped", "deleted")
        return any(injected.kind in kinds and injected.session >= session for injected in self.injected)

    def _measure(self) -> None:
        """How much each fault made the run repeat, and how long it took to come beyond it.

        Counted are the batches that its own session had taken: what an earlier fault lost is not lost again by one while starting.
        """
        over = time.monotonic()
        taken = sorted((event["time"], event["step"], session.number) for session in self.sessions for event in session.batches())
        for injected in self.injected:
            own = [step for at, step, session in taken if session == injected.session and at <= injected.time]
            later = [(at, step) for at, step, _ in taken if at > injected.time]
            injected.step = max(own, default=-1) + 1
            beyond = next((at for at, step in later if step >= injected.step), over)
            injected.seconds = round(beyond - injected.time, 2)
            injected.repeated = max((injected.step - step for at, step in later if at <= beyond and step < injected.step), default=0)


def _tail(output: str) -> str:
    return " | ".join(line.strip() for line in output.strip().splitlines()[-6:])[-900:]
