# SPDX-License-Identifier: Apache-2.0
"""Memory cgroups of a test's own, in whichever hierarchy has the memory controller, and processes in them."""

import contextlib
import ctypes
import mmap
import os
from pathlib import Path

import pytest
from harness import wait_until

MIB = 1 << 20
PAGE = mmap.PAGESIZE


def memory_hierarchy():
    """(where it is mounted, whether it is v2) of the hierarchy that has the memory controller."""
    found = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split()[:3]
        point = Path(left.split()[4])
        if kind == "cgroup" and "memory" in options.split(","):
            return point, False
        if kind == "cgroup2" and "memory" in (point / "cgroup.controllers").read_text().split():
            found = point, True
    return found


def abandoned():
    """Cgroups that were made to provoke events in, and outlive who made them."""
    point, _ = memory_hierarchy()
    makers = [(path.name, path.name.rpartition("-")[2]) for path in point.glob("huatuo-try-*")]
    return [name for name, pid in makers if not Path("/proc", pid).exists()]


class Cgroup:
    def __init__(self, folder, unified, root):
        self.folder, self.unified = folder, unified
        self.path = "/" + str(folder.relative_to(root))
        self.root = root
        folder.mkdir()

    def child(self, name):
        if self.unified:
            (self.folder / "cgroup.subtree_control").write_text("+memory")
        return Cgroup(self.folder / name, self.unified, self.root)

    def limit(self, size):
        if self.unified:
            (self.folder / "memory.max").write_text(str(size))
            (self.folder / "memory.swap.max").write_text("0")
        else:
            (self.folder / "memory.limit_in_bytes").write_text(str(size))
            with contextlib.suppress(OSError):  # without accounting of swap
                (self.folder / "memory.swappiness").write_text("0")
        return self

    def enter(self):
        (self.folder / "cgroup.procs").write_text("0")

    def remove(self):
        for below in sorted(self.folder.rglob("*"), reverse=True):
            if below.is_dir():
                self.rmdir(below)
        self.rmdir(self.folder)

    @staticmethod
    def rmdir(folder):
        def gone():
            with contextlib.suppress(OSError):
                folder.rmdir()
            return not folder.exists()

        wait_until(gone, 10, f"{folder} to be empty")


@pytest.fixture
def cgroup():
    """cgroup(name): a memory cgroup; gone after the test with all below it."""
    hierarchy = memory_hierarchy()
    if not hierarchy:
        pytest.skip("no memory controller is mounted")
    root, unified = hierarchy
    made = []

    def make(name=None):
        folder = root / f"huatuo-e2e-{os.getpid()}-{len(made)}"
        made.append(Cgroup(folder, unified, root))
        return made[-1].child(name) if name else made[-1]

    yield make
    for one in made:
        one.remove()


def become(group, comm, score):
    group.enter()
    pr_set_name = 15
    ctypes.CDLL(None).prctl(pr_set_name, ctypes.c_char_p(comm), 0, 0, 0)
    if score:
        Path("/proc/self/oom_score_adj").write_text(str(score))


def fork(function, *arguments):
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            function(*arguments)
        finally:
            os._exit(1)  # nothing of pytest may run here
    return pid
