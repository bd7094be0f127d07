"""What a run was started from, kept with it: `<run>/snapshots/<hash of its contents>/`.

    code.tar.gz        every file that git tracks or would track, as it is in the working tree; the same tree gives the same bytes
    changes.diff       the working tree against the commit
    config.json        the resolved experiment
    requirements.lock  the versions that the project was tested with
    snapshot.json      commit, arguments, versions installed, JAX's environment, what was left out and why; written last

A launcher that starts code elsewhere or later starts this copy, so that what runs is what is kept, whatever is edited meanwhile. Nothing
of the environment is kept but JAX's own variables. Files that are named like credentials or hold a key are left out unless they are
committed; changed lines that hold one are refused.
"""

import dataclasses
import datetime
import fnmatch
import gzip
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import subprocess
import tarfile
from pathlib import Path

from kaiyuan_jax import config, files, secrets, storage
from kaiyuan_jax.config import Experiment, UserError

LARGEST = 1 << 20  # bytes of a file that is not committed; data belongs elsewhere
CREDENTIALS = (".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa*", "id_ed25519*", ".netrc", ".git-credentials", ".pypirc")
CREDENTIALS += ("*credential*.json", "*service*account*.json", "*secret*.json", "*.keytab", ".aws", ".boto", ".npmrc", "kubeconfig")
_WITHOUT_GIT = ("kaiyuan_jax/**/*.py", "kaiyuan_jax/**/*.txtpb", "launch/*.py", "configs/**/*.py", "pyproject.toml", "requirements*")
_ENVIRONMENT = re.compile(r"JAX_\w+|XLA_FLAGS|LIBTPU_INIT_ARGS|NCCL_\w+|OMP_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Snapshot:
    name: str  # hash of its contents
    folder: str  # in the run folder, which may be remote
    archive: bytes  # code.tar.gz
    experiment: bytes  # config.json

    def copy(self, under: Path) -> Path:
        """Makes `<under>/<name>` with code.tar.gz and config.json, on this machine; returns it."""
        folder = under / self.name
        folder.mkdir(parents=True, exist_ok=True)
        files.replace(folder / "code.tar.gz", self.archive)
        files.replace(folder / "config.json", self.experiment)
        return folder

    def unpack(self, under: Path) -> Path:
        """The same with `code/` beside them."""
        folder = self.copy(under)
        if not (folder / "code").is_dir():
            temporary = folder / f".code.{os.getpid()}"
            with tarfile.open(fileobj=io.BytesIO(self.archive)) as archive:
                archive.extractall(temporary, filter="data")
            temporary.rename(folder / "code")
        return folder


def take(root: Path, experiment: Experiment, arguments: list[str]) -> Snapshot:
    """Keeps the code under `root`, the experiment and the arguments it was given with the run.

    A snapshot that is there already is left as it is. Raises UserError naming file and line where a change holds a secret.
    """
    names, left_out = _files(root, experiment.folder)
    contents = {
        "code.tar.gz": _archive(root, names),
        "changes.diff": secrets.redact(_git(root, "diff", "--no-color", "--no-ext-diff", "HEAD")).encode(),
        "config.json": config.to_json(experiment).encode(),
    }
    if (lock := root / "requirements.lock").is_file():
        contents["requirements.lock"] = lock.read_bytes()
    about = _about(root, arguments) | {"changed": _changed(root, experiment.folder), "left_out": left_out}
    digest = hashlib.sha256()
    for name, content in [*contents.items(), ("about", json.dumps(about, sort_keys=True).encode())]:
        digest.update(name.encode() + hashlib.sha256(content).digest())
    name = digest.hexdigest()[:12]
    found = Snapshot(name, f"{experiment.folder}/snapshots/{name}", contents["code.tar.gz"], contents["config.json"])
    folder = storage.path(found.folder)
    if "snapshot.json" not in storage.names(folder):
        storage.make_folder(folder)
        for name, content in contents.items():
            storage.replace(folder / name, content)
        taken = {"taken": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
        storage.replace(folder / "snapshot.json", json.dumps(taken | about, indent=2, ensure_ascii=False) + "\n")
    return found


def _files(root: Path, run: str) -> tuple[list[str], dict[str, str]]:
    """(paths to keep, path -> reason of those left out), in order."""
    if not _git(root, "rev-parse", "HEAD"):
        return sorted({str(path.relative_to(root)) for pattern in _WITHOUT_GIT for path in root.glob(pattern) if path.is_file()}), {}
    _refuse_secrets(_git(root, "diff", "--no-color", "--no-ext-diff", "--unified=0", "HEAD"))
    tracked = [name for name in _git(root, "ls-files", "-z").split("\0") if (root / name).is_file()]
    kept, left_out = [name for name in tracked if name], {}
    for name in filter(None, _git(root, "ls-files", "-z", "--others", "--exclude-standard").split("\0")):
        path = root / name
        if not path.is_file() or _within(path, run):
            continue
        if reason := _reason(path, root):
            left_out[name] = reason
        else:
            kept.append(name)
    return sorted(kept), left_out


def _changed(root: Path, run: str) -> list[str]:
    """What git says of the working tree, a line a file."""
    lines = _git(root, "status", "--porcelain", "--no-renames", "--untracked-files=all", "-z").split("\0")
    return [line for line in lines if line and not _within(root / line[3:], run)]


def _within(path: Path, run: str) -> bool:
    """Whether a file belongs to the run itself."""
    return not storage.is_remote(run) and path.resolve().is_relative_to(Path(run).resolve())


def _reason(path: Path, root: Path) -> str:
    """Why a file that is not committed is not kept; empty if it is."""
    if not path.resolve().is_relative_to(root.resolve()):
        return "a link out of the tree"
    if any(fnmatch.fnmatch(part, pattern) for part in path.relative_to(root).parts for pattern in CREDENTIALS):
        return "named like credentials"
    if path.stat().st_size > LARGEST:
        return f"larger than {LARGEST:,} bytes"
    kinds = _kinds(path.read_bytes().decode("utf-8", "replace"))
    return f"holds {kinds[0]}" if kinds else ""


def _refuse_secrets(diff: str) -> None:
    """Raises UserError for the first added line that holds a secret."""
    name, line = "", 0
    for text in diff.splitlines():
        if text.startswith("+++ "):
            name = text[4:].removeprefix("b/")
        elif match := re.match(r"@@ -\S+ \+(\d+)", text):
            line = int(match.group(1)) - 1
        elif text.startswith("+"):
            line += 1
            if kinds := _kinds(text[1:]):
                raise UserError(f"{name}:{line}: holds {kinds[0]}; code is kept with the run, so read it from the environment instead")


def _kinds(text: str) -> list[str]:
    """Secrets by their shape: code is full of arguments that are named `token`."""
    return [kind for kind in secrets.kinds(text) if kind != "a secret by its name"]


def _archive(root: Path, names: list[str]) -> bytes:
    """A tar.gz of the files without times and owners."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w", dereference=True) as archive:
        for name in names:
            about = archive.gettarinfo(root / name, name)
            about.uid = about.gid = about.mtime = 0
            about.uname = about.gname = ""
            about.mode = 0o755 if about.mode & 0o100 else 0o644
            with open(root / name, "rb") as file:
                archive.addfile(about, file)
    return buffer.getvalue()


def _about(root: Path, arguments: list[str]) -> dict:
    installed = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    return {
        "commit": _git(root, "rev-parse", "HEAD").strip() or "not a git repository",
        "branch": _git(root, "rev-parse", "--abbrev-ref", "HEAD").strip(),
        "arguments": [secrets.redact(argument) for argument in arguments],
        "environment": {name: secrets.redact(value) for name, value in sorted(os.environ.items()) if _ENVIRONMENT.fullmatch(name)},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "installed": dict(sorted(installed.items(), key=lambda item: item[0].lower())),
    }


def _git(root: Path, *arguments: str) -> str:
    """What git prints; empty where there is no git or no repository at `root`."""
    try:
        top = subprocess.run(["git", "-C", root, *arguments], capture_output=True, check=True, env=os.environ | {"LC_ALL": "C"})
    except (OSError, subprocess.CalledProcessError):
        return ""
    return top.stdout.decode("utf-8", "replace")
