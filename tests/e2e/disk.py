# SPDX-License-Identifier: Apache-2.0
"""A small disk of the test's own, and one that is full."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def disk():
    """disk(megabytes, block_bytes=1024): a directory for a store, which has a small ext4 on a loop device to itself."""
    folder = Path(tempfile.mkdtemp(prefix="huatuo-e2e-disk-"))
    folder.chmod(0o755)
    mounted = []

    def make(megabytes, block_bytes=1024):
        image, at = folder / f"image{len(mounted)}", folder / f"disk{len(mounted)}"
        at.mkdir()
        with open(image, "wb") as file:
            file.truncate(megabytes << 20)
        # No journal, which would take most of the room, nor blocks that only root may fill.
        command = ["mkfs.ext4", "-q", "-F", "-m", "0", "-b", str(block_bytes), "-O", "^has_journal", str(image)]
        subprocess.run(command, check=True, capture_output=True)
        command = ["mount", "-o", "loop,errors=remount-ro", str(image), str(at)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no loop device to make a small disk of: {done.stderr.strip()}")
        mounted.append(at)
        (at / "store").mkdir()
        return at / "store"

    yield make
    for at in mounted:
        subprocess.run(["umount", str(at)], check=True)
    shutil.rmtree(folder)


@contextlib.contextmanager
def full(store, but_bytes=0):
    """No room is left on the disk, or but so much."""
    path = store.parent / "ballast"
    with open(path, "wb") as file:
        size = 1 << 26
        while size >= 1024:
            try:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
            except OSError:
                size //= 2
        file.truncate(os.fstat(file.fileno()).st_size - but_bytes)
    assert os.statvfs(store).f_bavail * os.statvfs(store).f_frsize >= but_bytes
    assert but_bytes or os.statvfs(store).f_bavail == 0
    yield
    path.unlink()
