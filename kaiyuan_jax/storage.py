"""Run folders on a local disk, in gs:// or in s3://, through one set of paths.

A local name is a `pathlib.Path`, and every function here does with it what the operating system does. A remote one is an `etils.epath.Path`
over fsspec (extras `s3` and `gcs`). An object store has no folders, no renames and no appending; what it has is enough:

    one object is put whole or not at all, and may be put on condition that none of its name exists
    a folder is the objects whose names begin so, so that making one is nothing to do
    a folder of several objects is complete when one of them, its marker, is there: it is put last and deleted first

Which endpoint and which credentials is said by the environment and the files of the service's own tools, never by a path. s3fs and gcsfs
would answer from listings they remember, although other processes put and delete objects: here they ask every time.
"""

import errno
import functools
import importlib.util
import os
import re
import shutil
from pathlib import Path

from kaiyuan_jax import files, secrets
from kaiyuan_jax.config import UserError

PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}  # scheme -> the package that speaks it
_EXTRAS = {"s3": "s3", "gs": "gcs"}
_PASSING = (errno.EAGAIN, errno.EBUSY, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)


class StorageError(UserError):
    """A remote folder that cannot be reached, or where this process may not do what it has to."""


class NoAnswerError(StorageError, ConnectionError):
    """A store that does not answer, which may be over soon."""


def is_remote(name) -> bool:
    """Whether a name, or a path of `path`, is of an object store."""
    return str(name).startswith(tuple(f"{scheme}://" for scheme in PACKAGES))


def path(name):
    """The path of a name: `pathlib.Path` of a local one, `epath.Path` of a remote one. What is a path already stays what it is.

    Raises StorageError for a scheme that is not known or whose package is not installed, and for an address with credentials in it.
    """
    if not isinstance(name, str):
        return name
    if not re.match(r"\w+:/", name):
        return Path(name)
    if kind := secrets.found(name):
        raise StorageError(f"{secrets.redact(name)}: holds {kind}; give credentials by the environment, not in an address")
    if not re.match(r"(s3|gs)://[^/]", name):
        raise StorageError(f"{name}: must be a local folder, gs://bucket/folder or s3://bucket/folder")
    _system(name)
    from etils import epath  # only for remote runs: a plan is quick to import

    return epath.Path(name.rstrip("/"))


def absolute(name):
    """The path of a name, from the root."""
    found = path(name)
    return found if is_remote(found) else found.absolute()


def check(field: str, name: str) -> None:
    """Raises StorageError, beginning with the field or flag, unless a remote folder can be listed and its bucket exists.

    Raises NoAnswerError where the store does not answer.
    """
    try:
        found = path(name)
        if is_remote(found):
            system, key = _system(name), _key(found)
            try:
                system.ls(key, detail=False)
            except FileNotFoundError:  # nothing there yet, or no such bucket
                if not system.exists(bucket := key.partition("/")[0]):
                    raise StorageError(f"{name}: there is no bucket {bucket!r} at this endpoint; make it first") from None
    except StorageError as error:
        raise StorageError(f"{field}={error}") from None
    except Exception as error:  # botocore, aiohttp and Google's client each have their own
        said = secrets.redact(f"{type(error).__name__}: {''.join(str(error).strip().splitlines()[:1])}")
        if may_pass(error):
            raise NoAnswerError(f"{field}={name}: the object store does not answer ({said})") from None
        remedy = "check the bucket, and the endpoint and the credentials in the environment"
        raise StorageError(f"{field}={name}: cannot be reached ({said}); {remedy}") from None


def may_pass(error: Exception) -> bool:
    """Whether an error says nothing of what is stored and may be over soon: of the network, for want of memory, of too many open files."""
    if isinstance(error, OSError) and error.errno in _PASSING:
        return True
    names = [kind.__name__ for kind in type(error).__mro__]  # clients of stores each have their own
    return any(word in name for name in names for word in ("Connect", "Timeout", "MemoryError"))


def read(target) -> bytes:
    """All of a file, as it was at one moment although it may be replaced meanwhile. Raises FileNotFoundError."""
    return _system(target).cat_file(_key(target)) if is_remote(target) else Path(target).read_bytes()


def replace(target, content: str | bytes) -> None:
    """Puts text (as UTF-8) or bytes at a path, whole or not at all, over what was there."""
    if is_remote(target):
        _system(target).pipe_file(_key(target), content.encode() if isinstance(content, str) else content)
    else:
        files.replace(target, content)


def create(target, content: str) -> bool:
    """Puts text where none was, and says whether it did: of several processes that try, one does."""
    try:
        if is_remote(target):
            _system(target).pipe_file(_key(target), content.encode(), mode="create")
        else:
            with open(target, "x", encoding="utf-8") as file:
                file.write(content)
    except FileExistsError:
        return False
    return True


def make_folder(folder) -> None:
    """Makes a folder and those above it; on an object store there is nothing to make, least of all a bucket.

    Raises StorageError where its name is a file's or may not be made, and OSError for what may be over soon, such as a full disk.
    """
    if is_remote(folder):
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise StorageError(f"{folder}: no folder can be made there ({error.strerror}); give another place") from None


def version(target) -> tuple:
    """What tells whether a file is still the same: its size, and its time of change or the store's tag. Raises OSError where it is not."""
    if is_remote(target):
        facts = _system(target).info(_key(target))
        return facts["size"], facts.get("ETag") or facts.get("etag")
    found = os.stat(target)
    return found.st_size, found.st_mtime_ns


def names(folder) -> list[str]:
    """Names of what lies in a folder, sorted; none where there is no folder."""
    if not is_remote(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    try:
        found = _system(folder).ls(_key(folder), detail=False)
    except FileNotFoundError:
        return []
    return sorted({name.rstrip("/").rpartition("/")[2] for name in found} - {""})


def delete(target, first: str = "") -> None:
    """Deletes a file, or a folder with all in it: `first`, its marker, before the rest. What is not there is no mistake."""
    if not is_remote(target):
        target = Path(target)
        if target.is_dir() and not target.is_symlink():
            if first:
                (target / first).unlink(missing_ok=True)
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        return
    system, found = _system(target), [f"{target}/{name}" if name else str(target) for name in inside(target)]
    if (marker := f"{target}/{first}") in found:
        system.rm_file(_key(marker))
        found.remove(marker)
    if found:
        system.rm([_key(name) for name in found])


def copy(source, target, last: str = "") -> None:
    """Copies a file, or a folder with all in it, between any two places: `last`, its marker, when all else is there."""
    for name in sorted(inside(source), key=lambda name: name == last):
        one, other = (path(f"{place}/{name}" if name else str(place)) for place in (source, target))
        make_folder(other.parent)
        if is_remote(one) and is_remote(other) and _system(one) is _system(other):
            _system(one).cp_file(_key(one), _key(other))  # inside the store: nothing comes here
        elif is_remote(one):
            replace(other, read(one))
        elif is_remote(other):
            _system(other).put_file(str(one), _key(other))
        else:
            shutil.copy2(one, other)


def move(source, target, marker: str) -> None:
    """Moves a folder, at once where there are renames; elsewhere its marker is deleted first and is not moved with it."""
    if not is_remote(source):
        os.rename(source, target)
        return
    delete(path(f"{source}/{marker}"))
    copy(source, target)
    delete(source)


def inside(folder) -> list[str]:
    """Relative names of all files in a folder and below it, sorted; of a file the empty name alone; of nothing none."""
    if is_remote(folder):
        key = _key(folder)
        return sorted(found[len(key) + 1 :] for found in _system(folder).find(key))
    folder = Path(folder)
    if folder.is_file():
        return [""]
    return sorted(str(found.relative_to(folder)) for found in folder.rglob("*") if found.is_file())


def _key(target) -> str:
    """bucket/name of a remote path."""
    return str(target).partition("://")[2]


def _system(target):
    """The fsspec file system of a remote path; raises StorageError when its package is not installed."""
    return _system_of(str(target).partition("://")[0])


@functools.cache
def _system_of(scheme: str):
    package = PACKAGES[scheme]
    if importlib.util.find_spec(package) is None:
        raise StorageError(f"{scheme}:// needs the package {package}: pip install 'kaiyuan_jax[{_EXTRAS[scheme]}]', or use a local folder")
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks for a bucket's kind, which takes a permission of its own
    import fsspec

    for protocol in ("s3", "gs", "gcs"):  # also for the instances that Orbax gets through etils, which says nothing of listings
        fsspec.config.conf.setdefault(protocol, {})["use_listings_cache"] = False
    return fsspec.filesystem(scheme)
