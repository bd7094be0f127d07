"""A small disk of the campaign's own that can be filled: a tmpfs in a mount namespace that ends with this process.

It needs root or a kernel that lets users have namespaces. Where neither is given a full disk is imitated: no file of the processes may
grow beyond some size (RLIMIT_FSIZE), so that a write fails there as it would on a full disk, with another error number.
"""

import ctypes
import os
import sys
from pathlib import Path

SIZE = 48 << 20  # bytes: some twenty times what a run keeps
_MS_REC, _MS_PRIVATE = 16384, 1 << 18


def mount(folder: Path) -> bool:
    """Puts a tmpfs of `SIZE` bytes at a folder, for this process and its children; False where that is not allowed.

    Call while the process has one thread.
    """
    if sys.platform != "linux":
        return False
    user, group, libc = os.getuid(), os.getgid(), ctypes.CDLL(None, use_errno=True)
    try:
        os.unshare(os.CLONE_NEWNS | (os.CLONE_NEWUSER if user else 0))
        if user:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError:
        return False
    if libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
        return False
    return not libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={SIZE}".encode())


def fill(folder: Path, room: int) -> None:
    """Leaves about `room` bytes on the disk of a folder, on which others may be writing."""
    with open(folder / "filler", "wb") as file:
        for _ in range(10):
            found = os.statvfs(folder)
            if (left := found.f_bavail * found.f_frsize - room) <= 0:
                return
            try:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), left)
                return
            except OSError:  # somebody was faster
                continue


def free(folder: Path) -> None:
    (folder / "filler").unlink(missing_ok=True)
