"""Coverage-guided fuzzing of every reader: python tests/fuzz/run.py --seconds=60 [--readers=law.json,...] [--output=fuzzing.md]

Needs atheris (libFuzzer for Python), which `make fuzz` puts into build/fuzz. Each reader runs in a process of its own, from its good file
and a few hundred damaged ones, with our code instrumented and libFuzzer's mutations and the words of `damage.py` as its dictionary; a file
that takes more than 5 s or 2 GiB, or an error other than the reader's own, ends it. What was found is printed and kept with the input that
shows it in build/fuzz/found; the exit code is then 1.
"""

import argparse
import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import traceback

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
FOUND = ROOT / "build" / "fuzz" / "found"
SECONDS, MEMORY = 5, 2048  # for one file; MiB of a process


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("--readers", default="", help="names, separated by commas; empty: all")
    parser.add_argument("--output", default="", help="a Markdown table of what was run")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if not importlib.util.find_spec("atheris"):
        sys.exit("error: needs the package atheris, for Python up to 3.13 on Linux; make fuzz installs it")
    sys.path[:0] = [str(ROOT), str(HERE)]
    if flags.child:
        return child(flags.child, flags.seconds)
    import readers

    every = [reader.name for reader in readers.READERS]
    chosen = flags.readers.split(",") if flags.readers else every
    if wrong := [name for name in chosen if name not in every]:
        sys.exit(f"error: --readers: found {wrong[0]!r}, must be of {', '.join(every)}")
    rows = [row for name in chosen for row in [parent(name, flags.seconds)]]
    table = [
        "| reader | files | seconds | covered | found |",
        "|---|---|---|---|---|",
        *("| " + " | ".join(map(str, row)) + " |" for row in rows),
    ]
    if flags.output:
        pathlib.Path(flags.output).write_text("\n".join(table) + "\n", encoding="utf-8")
    print("\n".join(table))
    sys.exit(any(row[-1] != "nothing" for row in rows))


def parent(name: str, seconds: int) -> tuple:
    """Fuzzes one reader in another process; (name, files, seconds, edges covered, what was found)."""
    begin = time.monotonic()
    command = [sys.executable, __file__, f"--child={name}", f"--seconds={seconds}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    files = re.findall(r"(?:stat::number_of_executed_units:\s*|Done )(\d+)|^#(\d+)", done.stderr, re.MULTILINE)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    found = "nothing"
    if done.returncode:
        said = re.findall(r"^FAULT (.*)$|^==\d+== ?ERROR: (.*)$", done.stderr, re.MULTILINE)
        found = next((one or other for one, other in said), f"exit code {done.returncode}")
        print(f"{name}: {done.stderr[-3000:]}", file=sys.stderr)
    count = max((int(one or other) for one, other in files), default=0)
    row = (name, f"{count:,}", round(time.monotonic() - begin), covered[-1] if covered else "", found.replace("|", "/")[:160])
    print(*row, sep="  ", flush=True)
    return row


def child(name: str, seconds: int):
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["kaiyuan_jax"]):
        import readers
    import damage
    import hypothesis

    reader = next(reader for reader in readers.READERS if reader.name == name)
    work = pathlib.Path(tempfile.mkdtemp(prefix="kaiyuan_jax_fuzz_"))
    good, corpus = reader.good(work), work / "corpus"
    corpus.mkdir()
    (corpus / "good").write_bytes(good)

    @hypothesis.settings(max_examples=300, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(damage.damaged(good, reader.is_json))
    def fill(content):
        (corpus / str(hash(content))).write_bytes(content)

    fill()
    words = [word for word in (*damage.RAW, *map(str, damage.ODD)) if 0 < len(word) < 60]
    (work / "words").write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"\n' for word in words))

    def feed(content: bytes):
        try:
            reader.read(work, content)
        except reader.refuses:
            return
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            print(f"FAULT {type(error).__name__}: {' '.join(str(error).split())[:100]} ({last.name})", file=sys.stderr, flush=True)
            raise

    FOUND.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEMORY}", f"-dict={work / 'words'}"]
    prefix = f"-artifact_prefix={FOUND}/{re.sub('[^a-z]+', '_', name.lower())}_"
    largest = f"-max_len={max(2 * len(good), 20_000)}"
    atheris.Setup([sys.argv[0], *limits, prefix, largest, "-print_final_stats=1", "-close_fd_mask=1", str(corpus)], feed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
