# SPDX-License-Identifier: Apache-2.0
"""The fault module does what it says, for as long as it says, and loads in guests of ours only."""

import mmap
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from harness import wait_until

MODULE = os.environ.get("HUATUO_FAULT_MODULE", "")
OURS = Path("/sys/class/dmi/id/product_name").read_text().strip() == "huatuo test guest"
FAULT = Path("/proc/huatuo_fault")

pytestmark = pytest.mark.matrix
ours = pytest.mark.skipif(not OURS, reason="this machine is not to be harmed")


def insmod():
    return subprocess.run(["insmod", MODULE], capture_output=True, text=True, check=False)


@pytest.fixture
def fault():
    assert insmod().returncode == 0
    yield
    subprocess.run(["rmmod", "huatuo_fault"], check=True)


def on_one_cpu(function):
    """What function() returns in a process of its own, on the last CPU. It returns a number."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
            os.write(writer, str(function()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return float(answer)


def count(path, row):
    """The last CPU's count in a table of /proc: of all lines whose name matches."""
    lines = re.findall(rf"^\s*(?:{row}):([\d ]+)", Path(path).read_text(), re.M)
    return sum(int(line.split()[max(os.sched_getaffinity(0))]) for line in lines)


def grown(what, number):
    """By how much a number grows meanwhile."""
    before = number()
    began = time.monotonic()
    FAULT.write_text(what)
    assert time.monotonic() - began >= 1
    return number() - before


def test_refuses_other_machines():
    done = insmod()
    assert (done.returncode == 0) == OURS, done.stderr
    if OURS:
        subprocess.run(["rmmod", "huatuo_fault"], check=True)
    else:
        assert not FAULT.exists()


@ours
@pytest.mark.parametrize("what, path, row", [("irqs", "/proc/interrupts", "LOC"), ("bh", "/proc/softirqs", r"\w+")])
def test_off(fault, what, path, row):
    """What does not come meanwhile, and comes while the CPU spins in a program."""

    def spin():
        until = time.monotonic() + 1
        before = count(path, row)
        while time.monotonic() < until:
            pass
        return count(path, row) - before

    off = on_one_cpu(lambda: grown(f"{what} 1000", lambda: count(path, row)))
    on = on_one_cpu(spin)
    assert off < on / 2, (off, on)


@ours
def test_nobody_else_runs(fault):
    """Another process that wants the same CPU has to wait all the time, and not only for its turn."""
    longest = memoryview(mmap.mmap(-1, 16)).cast("d")  # between two moments in which the other ran; it does
    pid = os.fork()
    if pid == 0:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        last = time.monotonic()
        longest[1] = 1
        while True:
            now = time.monotonic()
            if now - last > longest[0]:  # else not written: it may have been set to 0 just now
                longest[0] = now - last
            last = now

    def waited(what):
        longest[0] = 0
        on_one_cpu(lambda: what() or 0)
        time.sleep(2)  # until it has had its turn
        return longest[0]

    def spin():
        until = time.monotonic() + 1
        while time.monotonic() < until:
            pass

    try:
        while not longest[1]:
            time.sleep(0.1)
        assert waited(lambda: FAULT.write_text("preempt 1000")) >= 1
        assert waited(spin) < 1
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


@ours
def test_sleeps(fault):
    pid = os.fork()
    if pid == 0:
        FAULT.write_text("sleep 3000")
        os._exit(0)
    wait_until(lambda: ") D " in Path(f"/proc/{pid}/stat").read_text(), 3, "state D")
    os.kill(pid, 9)  # in vain
    began = time.monotonic()
    os.waitpid(pid, 0)
    assert time.monotonic() - began > 1


@ours
@pytest.mark.parametrize("what", ["irqs 10001", "bh 60001", "preempt 60001", "sleep 300001", "irqs", "fire 1", "", "irqs -1"])
def test_bounded(fault, what):
    with pytest.raises(OSError):
        FAULT.write_bytes(what.encode() + b"\n")
