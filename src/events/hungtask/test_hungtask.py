# SPDX-License-Identifier: Apache-2.0
"""hungtask: tasks that really are stuck in uninterruptible sleep, compared with what the test and /proc
know; and those that only look like it."""

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from harness import check_accounting, patience, wait_until

LIBC = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE
KERNEL_WAYS = ("tp_btf/sched_process_hang", "raw_tp/sched_process_hang")
SYSCTL = Path("/proc/sys/kernel")
FRAME = re.compile(r"^([^\s/]+/[0-9a-f]{8,16} \[[^\s\]]+\]|(0x)?[0-9a-f]{8,16})$")
SYS_USERFAULTFD, SYS_CLONE = {"x86_64": (323, 56), "aarch64": (282, 220)}[platform.machine()]


# ---- tasks that are stuck: they want to write to a file in memory, while somebody else, who holds its
# lock, waits for a page that nobody fills. He can be killed; they cannot, until he is.


def call(number, *arguments):
    result = LIBC.syscall(number, *(ctypes.c_long(a) for a in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def hold(file):
    fault = call(SYS_USERFAULTFD, os.O_CLOEXEC)
    uffdio_api, uffdio_register, version, missing = 0xC018AA3F, 0xC020AA00, 0xAA, 1
    fcntl.ioctl(fault, uffdio_api, bytearray(struct.pack("QQQ", version, 0, 0)))
    hole = mmap.mmap(-1, PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(hole))
    fcntl.ioctl(fault, uffdio_register, bytearray(struct.pack("QQQQ", address, PAGE, missing, 0)))
    LIBC.pwrite(file, ctypes.c_void_p(address), ctypes.c_size_t(PAGE), ctypes.c_long(0))


def name_it(comm):
    pr_set_name = 15
    LIBC.prctl(pr_set_name, ctypes.c_char_p(comm), 0, 0, 0)


def fork(function, *arguments):
    pid = os.fork()
    if pid == 0:
        try:
            pr_set_pdeathsig = 1
            LIBC.prctl(pr_set_pdeathsig, signal.SIGKILL)
            function(*arguments)
            os._exit(0)
        finally:
            os._exit(1)  # nothing of pytest may run here
    return pid


def read(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def state(pid):
    return read(pid, "stat").rpartition(")")[2].split()[:1]


class Lock:
    """What others are stuck behind."""

    def __init__(self):
        self.file = os.memfd_create("huatuo-e2e-hung")
        self.holder = None
        self.pids = []

    def take(self):
        self.holder = fork(hold, self.file)
        wait_until(lambda: "userfault" in read(self.holder, "stack"), 20, "somebody to hold the lock", every=0.01)
        return self

    def give_up(self):
        os.kill(self.holder, signal.SIGKILL)
        os.waitpid(self.holder, 0)
        self.holder = None

    def spawn(self, function, *arguments):
        """One more process, which calls the function and writes to the file."""

        def run():
            function(*arguments)
            self.write()

        self.pids.append(fork(run))
        return self.pids[-1]

    def write(self):
        LIBC.pwrite(self.file, b"x", ctypes.c_size_t(1), ctypes.c_long(0))

    def block(self, comm, before=lambda: None):
        def become():
            before()
            name_it(comm)

        pid = self.spawn(become)
        wait_until(lambda: state(pid) == ["D"], 20, "a process to be stuck", every=0.01)
        return pid

    def over(self):
        if self.holder:
            self.give_up()
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)  # some would go on for ever
            os.waitpid(pid, 0)
        self.pids = []


@pytest.fixture
def lock():
    """lock(): something to be stuck behind."""
    made = []

    def make():
        made.append(Lock())
        return made[-1].take()

    try:
        yield make
    finally:
        for one in made:
            one.over()
            os.close(one.file)


# ---- records


def start(agent, *off, threshold="2s", list_interval="0s", **options):
    """Every record has a list: somebody else's on this host may just have been the first of many."""
    options = {**options, "threshold": threshold, "list_interval": list_interval}
    sets = [f"hungtask.{key}={value}" for key, value in options.items()]
    if off:
        sets.append(f"hungtask.hooks_off={','.join(off)}")
    return agent("--events", "hungtask", *(word for one in sets for word in ("--set", one)))


def counts(one):
    return one.status()["events"]["hungtask"]


def way_of(one, hook):
    return next((r["way"] for r in counts(one)["hooks"] if r["hook"] == hook and r["state"] == "attached"), None)


def hung(one, pid):
    """The full records of a process, and the closing ones."""
    found = [r for r in one.records("hungtask") if r["tracer_data"].get("pid") == pid]
    return [r for r in found if "repeat" not in r["tracer_data"]], [r for r in found if "repeat" in r["tracer_data"]]


def wait_hung(one, pid, timeout=20):
    (record,) = wait_until(lambda: hung(one, pid)[0], timeout, lambda: f"a record of {pid}: {counts(one)}")
    return record


def wait_closed(one, pid, timeout=30):
    (record,) = wait_until(lambda: hung(one, pid)[1], timeout, lambda: f"a closing record of {pid}: {counts(one)}")
    return record


def wait_looks(one, n, interval=1):
    """Until everything was looked at n times more, and each time something of ours was found to be stuck."""
    begin = counts(one)["seen"]
    time.sleep(n * interval)
    wait_until(lambda: counts(one)["seen"] >= begin + n, 20 + 2 * n, lambda: f"{n} looks: {counts(one)}")


def expect(values, **fields):
    wrong = [f"{n} is {values.get(n)!r}, not {v!r}" for n, v in fields.items() if values.get(n) != v]
    assert not wrong, "; ".join(wrong) + f"\n{values}"


def names_of(stack):
    """The functions of a stack; without what the compiler has made of their names."""
    return [line.partition("/")[0].partition(".")[0] for line in stack.splitlines()]


def kernel_stack(pid):
    """The same, as /proc tells it."""
    frames = re.findall(r"^\[<0>\] ([^+\s]+)", read(pid, "stack"), re.M)
    return [frame.partition(".")[0] for frame in frames]


def paragraphs(data, name="blocked_processes_stack"):
    """By process id (or CPU): title, frames."""
    found = {}
    for text in data[name].split("\n\n"):
        title, *frames = text.split("\n")
        pattern = r"CPU (\d+): " if name == "cpus_stack" else r"\S.*\[(\d+)\]( tid \d+)?: D"
        if match := re.match(pattern, title):
            found[int(match[1])] = (title, frames)
    return found


def check(record, lists=True):
    """What is true of every record. Returns its tracer_data."""
    data = record["tracer_data"]
    assert list(data)[:2] == ["pid", "comm"]
    assert record["tracer_name"] == "hungtask" and record["tracer_type"] == "auto"
    assert "incomplete" not in data
    frames = data["stack"].splitlines()
    assert len(frames) > 3 and all(FRAME.match(frame) for frame in frames), frames
    assert data["where"] in names_of(data["stack"]), data
    title, own = paragraphs(data)[data["pid"]]
    assert own == frames and title.startswith(f"{data['comm']}[{data['pid']}]"), title
    if lists:
        assert data["blocked_count"] >= len(paragraphs(data)) > 0
        cpus = paragraphs(data, "cpus_stack")
        missing = {row["cpu"] for row in data.get("cpus_missing", ())}  # on a busy machine one may be late
        assert set(cpus) | missing == set(os.sched_getaffinity(0)) and cpus, data
        assert all(map(FRAME.match, (frame for _, frames in cpus.values() for frame in frames))), cpus
    else:
        assert data["listed_by_pid"] and data["listed_before_ms"] >= 0
        assert "blocked_count" not in data and "cpus_stack" not in data
    return data


# ---- the tests


@pytest.mark.matrix
def test_stuck(agent, lock):
    one = start(agent, interval="200ms")
    began = time.monotonic()
    pid = lock().block(b"e2e-stuck")
    stack = kernel_stack(pid)
    record = wait_hung(one, pid)
    took = time.monotonic() - began
    data = check(record)
    expect(data, pid=pid, tid=pid, comm="e2e-stuck", process_name="e2e-stuck", found_by="watch", threshold_ms=2000)
    assert 2000 <= data["duration_ms"] <= min(took, 2.2 + patience(1)) * 1000, (data["duration_ms"], took)
    if stack:
        assert names_of(data["stack"])[-len(stack) :] == stack, (data["stack"], stack)
    wchan = read(pid, "wchan")
    assert data["where"] == wchan or wchan in ("", "0"), (data["where"], wchan)
    expect(record["process"], pid=pid, tid=pid, ppid=os.getpid(), uid=0, comm="e2e-stuck")
    assert record["process"]["cmdline"]
    cgroups = {line.partition(":")[2].partition(":")[2] for line in read(pid, "cgroup").splitlines()}
    assert record["cgroup"] in cgroups
    title = paragraphs(data)[pid][0]
    assert re.fullmatch(rf"e2e-stuck\[{pid}\]: D for [\d.]+ s, cgroup {re.escape(record['cgroup'])}", title), title
    assert re.fullmatch(
        rf"e2e-stuck\[{pid}\] has been blocked \(D state\) for [\d.]+ s in {data['where']}", record["summary"]
    ), record["summary"]
    status = one.stop()
    expect(status["events"]["hungtask"], lost=0, incomplete=0, filtered=0, state="stopped")


def check_closed(closed, record, seconds, ended=True):
    """`seconds`: what it lasted at least and at most."""
    data = closed["tracer_data"]
    assert data["repeat"]["of"] == record["tracer_id"]
    assert data["ended"] is ended
    assert seconds[0] * 1000 <= data["duration_ms"] <= seconds[1] * 1000, (seconds, data)
    assert closed["summary"].endswith(record["summary"])
    assert closed["summary"].startswith("over after" if ended else "not reported any more after at least")
    return data["repeat"]


def test_episode(agent, lock):
    """As long as it is stuck that is one episode: one record, and one that says how long it was."""
    one = start(agent, repeat_limit="100")
    held = lock()
    before = time.monotonic()
    pid = held.block(b"e2e-episode")
    began = time.monotonic()
    record = wait_hung(one, pid)
    wait_looks(one, 6)
    full, closing = hung(one, pid)
    assert len(full) == 1 and not closing, "it goes on"
    was = time.monotonic() - began
    held.give_up()
    freed = time.monotonic() - before
    closed = wait_closed(one, pid)
    # The watch has found it within a second, and that it goes on within another.
    repeat = check_closed(closed, record, (was - 1.5, freed + 1.5 + patience(1)))
    seconds = closed["tracer_data"]["duration_ms"] / 1000 - 2  # one look in each, or a little less
    assert repeat["count"] >= 5 and seconds / 2 - 1 <= repeat["count"] <= seconds + 2, closed
    count = one.wait_balance()["events"]["hungtask"]
    assert count["seen"] == count["recorded"] + count["suppressed"] and count["suppressed"] >= repeat["count"]
    full, closing = hung(one, pid)
    assert (len(full), len(closing)) == (1, 1)


@pytest.mark.host_only("the same on every kernel")
def test_again(agent, lock):
    """Another sleep of the same process is another event."""
    one = start(agent, threshold="1s")
    held = lock()
    ready, go = os.pipe()

    def twice():
        name_it(b"e2e-again")
        held.write()
        os.read(ready, 1)

    pid = held.spawn(twice)
    first = wait_hung(one, pid)
    held.give_up()
    wait_until(lambda: state(pid) == ["S"], 10, "it to go on")
    held.take()
    os.write(go, b"x")
    wait_until(lambda: len(hung(one, pid)[0]) == 2, 20, "the second record")
    wait_looks(one, 2)
    records, _ = hung(one, pid)
    assert first in records and len(records) == 2 and len({r["tracer_data"]["stack"] for r in records}) == 1
    os.close(ready)
    os.close(go)


@pytest.mark.host_only("the same on every kernel")
def test_in_and_out(agent, lock):
    """In D state most of the time, but never for long: a busy disk is not a hung one."""
    one = start(agent, threshold="3s", interval="200ms")
    held = lock()

    def write_often():
        name_it(b"e2e-busy")
        while True:
            held.write()

    pid = held.spawn(write_often)
    blocked = 0
    begin = time.monotonic()
    while time.monotonic() - begin < 9:
        wait_until(lambda: state(pid) == ["D"], 10, "it to be stuck", every=0.01)
        time.sleep(1)
        blocked += 1
        held.give_up()
        held.take()
    assert blocked >= 4
    assert hung(one, pid) == ([], [])
    # Nor was it left out for another reason: once it is stuck for longer it is found.
    wait_hung(one, pid)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.matrix
def test_a_parent_that_waits_for_its_child(agent, lock):
    """vfork() is shown as D state by ps, but can be killed. It is listed when others are stuck."""
    one = start(agent, threshold="1s")

    def parent():
        clone_vfork = 0x4000
        if call(SYS_CLONE, clone_vfork | signal.SIGCHLD, 0, 0, 0, 0) == 0:
            time.sleep(60)
            os._exit(0)

    pid = fork(parent)
    try:
        wait_until(lambda: state(pid) == ["D"], 10, "the parent to wait")
        data = check(wait_hung(one, lock().block(b"e2e-other")))  # which began later
        assert hung(one, pid) == ([], [])
        assert " D (killable) for " in paragraphs(data)[pid][0]
        assert state(pid) == ["D"]
    finally:
        for child in read(pid, f"task/{pid}/children").split():
            os.kill(int(child), signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def freezer():
    """(a new cgroup that can be frozen, the file that does it, what to write)"""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split()[:3]
        point = Path(left.split()[4])
        if kind == "cgroup" and "freezer" in options.split(","):
            return point, "freezer.state", "FROZEN", "THAWED"
        if kind == "cgroup2" and os.access(point, os.W_OK):
            return point, "cgroup.freeze", "1", "0"
    return None


@pytest.mark.matrix
def test_frozen_cgroup(agent, lock):
    """It sleeps because somebody wanted it so, in v1 uninterruptibly."""
    found = freezer()
    if not found:
        pytest.skip("there is no cgroup freezer")
    root, file, freeze, thaw = found
    group = root / f"huatuo-e2e-hung-{os.getpid()}"
    group.mkdir()
    one = start(agent, threshold="1s")
    pid = fork(time.sleep, 60)
    try:
        (group / "cgroup.procs").write_text(str(pid))
        (group / file).write_text(freeze)
        time.sleep(1)
        wait_hung(one, lock().block(b"e2e-other"))  # which began later
        wait_looks(one, 2)
        assert hung(one, pid) == ([], [])
    finally:
        (group / file).write_text(thaw)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        wait_until(lambda: not (group / "cgroup.procs").read_text(), 10, "the cgroup to be empty")
        group.rmdir()


def test_idle_kernel_threads(agent, lock):
    """They wait for work without being counted into the load: no D state, whatever their flags."""
    one = start(agent, threshold="1s")
    idle = [int(p.name) for p in Path("/proc").glob("[0-9]*") if state(p.name) == ["I"]]
    assert idle
    pid = lock().block(b"e2e-other")
    data = check(wait_hung(one, pid))
    wait_looks(one, 3)
    assert not set(idle) & set(paragraphs(data))
    assert not [r for r in one.records("hungtask") if r["tracer_data"].get("pid") in idle]


@pytest.fixture
def frozen_disk():
    """A file system of its own on a loop device: freeze(), thaw(); gone after the test."""
    folder = Path(tempfile.mkdtemp(prefix="huatuo-e2e-disk-"))
    folder.chmod(0o755)
    image, point = folder / "image", folder / "disk"
    point.mkdir()
    with open(image, "wb") as file:
        file.truncate(64 << 20)

    class Disk:
        path = point
        frozen = False

        def freeze(self):
            subprocess.run(["fsfreeze", "-f", point], check=True)
            self.frozen = True

        def thaw(self):
            self.frozen = False
            subprocess.run(["fsfreeze", "-u", point], check=True)

    disk = Disk()
    for command in (["mkfs.ext4", "-q", "-F", image], ["mount", "-o", "loop", image, point]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            shutil.rmtree(folder)
            pytest.skip(f"no ext4 on a loop device: {command[0]}: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        if disk.frozen:
            disk.thaw()

        def unmounted():
            return subprocess.run(["umount", point], capture_output=True, check=False).returncode == 0

        wait_until(unmounted, 20, "the disk to be free")
        shutil.rmtree(folder)


def write_file(path):
    name_it(b"e2e-writer")
    path.write_bytes(b"x" * PAGE)


@pytest.mark.matrix
def test_frozen_file_system(agent, frozen_disk):
    """Unlike a frozen cgroup that is an alarm: nobody can tell whether it will ever be thawed."""
    one = start(agent)
    frozen_disk.freeze()
    pid = fork(write_file, frozen_disk.path / "file")
    try:
        wait_until(lambda: state(pid) == ["D"], 10, "the writer to be stuck")
        stack = kernel_stack(pid)
        record = wait_hung(one, pid)
        data = check(record)
        wait_looks(one, 2)
    finally:
        frozen_disk.thaw()
        os.waitpid(pid, 0)
    expect(data, comm="e2e-writer", found_by="watch")
    if stack:
        assert names_of(data["stack"])[-len(stack) :] == stack
    assert re.search(r"^(percpu_rwsem_wait|__percpu_down_read)", data["where"]), data["where"]
    assert any("ext4" in name or "mnt_want_write" in name or "open" in name for name in names_of(data["stack"]))
    check_closed(wait_closed(one, pid), record, (2, 600))


@pytest.mark.host_only("the same on every kernel")
def test_the_store_hangs(frozen_disk, agent, lock):
    """The disk that is stuck is the one that records are written to: the agent goes on, and nothing is lost."""
    frozen_disk.path.chmod(0o755)
    store = frozen_disk.path / "store"
    sets = ("--set", "hungtask.threshold=2s", "--set", "hungtask.list_interval=0s")
    one = agent("--events", "hungtask", *sets, store=store)
    frozen_disk.freeze()
    pid = lock().block(b"e2e-stuck")

    def seen():
        # The status socket lies on the disk as well, but nothing has to be written to ask.
        done = one.huatuo("status", "--json", check=False)
        return json.loads(done.stdout)["events"]["hungtask"]["seen"] if done.returncode == 0 else 0

    try:
        begin = wait_until(seen, 20, "the task to be found")
        wait_until(lambda: seen() >= begin + 3, 20, "it to be found again and again")
        time.sleep(1)
    finally:
        frozen_disk.thaw()
    data = check(wait_hung(one, pid, timeout=30))
    expect(data, comm="e2e-stuck")
    one.stop()


SLEEPERS, STUCK = 4700, 300


def cpu_seconds(pid):
    """Of the root part, which looks at all tasks."""
    return int(read(pid, "schedstat").split()[0]) / 1e9


@pytest.mark.host_only("it takes a fast machine")
@pytest.mark.alone("all other agents would record three hundred tasks, too")
def test_three_hundred_of_five_thousand(agent, lock):
    """A disk has gone: each process is a record, one of them lists all; and what looking at them costs."""
    one = start(agent, threshold="10s", list_interval="10s")
    held = lock()
    over = threading.Event()

    def sleep():
        ready.write(b"x")
        ready.flush()
        threading.stack_size(64 * 1024)
        threads = [threading.Thread(target=over.wait, daemon=True) for _ in range(SLEEPERS)]
        for thread in threads:
            thread.start()
        ready.write(b"y")
        ready.flush()
        signal.pause()

    reader, writer = os.pipe()
    ready = os.fdopen(writer, "wb")
    sleeper = fork(sleep)
    try:
        assert os.read(reader, 1) == b"x" and os.read(reader, 1) == b"y"
        pids = [held.spawn(name_it, b"e2e-%d" % i) for i in range(STUCK)]
        wait_until(lambda: all(state(pid) == ["D"] for pid in pids), 60, "all to be stuck")
        tasks = sum(1 for _ in Path("/proc").glob("[0-9]*/task/[0-9]*"))
        assert tasks >= SLEEPERS + STUCK
        def recorded():
            return {r["tracer_data"]["pid"] for r in one.records("hungtask") if "repeat" not in r["tracer_data"]}

        wait_until(lambda: set(pids) <= recorded(), 60, lambda: f"{STUCK} records: {counts(one)}", every=1)
        before, begin = cpu_seconds(one.pid), time.monotonic()
        time.sleep(5)
        cost = (cpu_seconds(one.pid) - before) / (time.monotonic() - begin)
    finally:
        os.kill(sleeper, signal.SIGKILL)
        os.waitpid(sleeper, 0)
        os.close(reader)
        ready.close()
        held.over()
    records = [r for r in one.records("hungtask") if "repeat" not in r["tracer_data"]]
    ours = [r for r in records if r["tracer_data"]["pid"] in pids]
    assert len(ours) == STUCK
    lists = [r for r in records if "blocked_count" in r["tracer_data"]]
    shown = [paragraphs(r["tracer_data"]) for r in lists]
    assert any(set(pids) <= set(them) for them in shown), [len(them) for them in shown]
    assert len(lists) <= 3, "one for each ten seconds"
    for record in ours:
        data = check(record, lists=record in lists)
        expect(data, comm=f"e2e-{pids.index(data['pid'])}", found_by="watch", where=ours[0]["tracer_data"]["where"])
        if record not in lists:
            assert data["listed_by_pid"] in {r["tracer_data"]["pid"] for r in lists}
    status = one.stop()
    check_accounting(status)
    expect(status["events"]["hungtask"], lost=0, incomplete=0)
    print(f"{tasks} tasks, {STUCK} of them in D state: {cost * 1000:.2f} ms of CPU time a second")


@pytest.mark.host_only("the same on every kernel")
def test_many_threads_of_one_process(agent, lock):
    """They are the same: ten are recorded, the others counted, all are listed."""
    one = start(agent)
    held = lock()
    n = 40

    def run():
        threads = [threading.Thread(target=held.write) for _ in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    pid = fork(run)
    held.pids.append(pid)
    wait_until(lambda: sum(state(f"{pid}/task/{t}") == ["D"] for t in os.listdir(f"/proc/{pid}/task")) == n, 20, "all to be stuck")
    wait_until(lambda: len(hung(one, pid)[0]) >= 10, 20, "ten records")
    wait_looks(one, 3)
    full, _ = hung(one, pid)
    assert len(full) == 10
    tids = {r["tracer_data"]["tid"] for r in full}
    assert len(tids) == 10 and tids <= set(map(int, os.listdir(f"/proc/{pid}/task")))
    assert all(f"(thread {r['tracer_data']['tid']} of " in r["summary"] for r in full if r["tracer_data"]["tid"] != pid)
    listed = [r["tracer_data"] for r in one.records("hungtask") if "blocked_count" in r["tracer_data"]]
    assert any(len(re.findall(rf"\[{pid}\] tid \d+: D for", data["blocked_processes_stack"])) >= n - 1 for data in listed)
    held.give_up()
    last = max(full, key=lambda r: (r["time"], r["tracer_id"]))
    closed = wait_closed(one, pid, timeout=40)
    assert closed["tracer_data"]["repeat"]["of"] in {r["tracer_id"] for r in full if r["time"] == last["time"]}
    repeat = closed["tracer_data"]["repeat"]
    assert repeat["count"] >= 3 * 10 + n - 10


@pytest.mark.host_only("the same on every kernel")
def test_hostile_names(agent, lock):
    one = start(agent)
    comm = b"\xff\"\\\n\x1b[1]: D"
    pid = lock().block(comm)
    record = wait_hung(one, pid)
    expect(record["tracer_data"], comm=comm.decode(errors="replace"))
    assert re.search(rf"^\S+\[1\]: D\[{pid}\]: D for [\d.]+ s, cgroup", record["tracer_data"]["blocked_processes_stack"], re.M)
    text = one.huatuo("show", record["tracer_id"]).stdout
    assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", text)


def test_containers(agent, lock):
    found = freezer()
    if not found:
        pytest.skip("there is no hierarchy to make a cgroup in")
    ident = "0123456789abcdef" * 4
    one = start(agent)
    root = next((p for p in (Path("/sys/fs/cgroup/memory"),) if p.is_dir()), found[0])
    group = root / f"docker-{ident}.scope"
    group.mkdir()
    held = lock()
    try:
        pid = held.block(b"e2e-inside", lambda: (group / "cgroup.procs").write_text("0"))
        record = wait_hung(one, pid)
        data = check(record)
        held.over()
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), 10, "the cgroup to be empty")
        group.rmdir()
    expect(record, container_id=ident, container_found_by="cgroup", cgroup=f"/docker-{ident}.scope")
    assert f"cgroup /docker-{ident}.scope" in paragraphs(data)[pid][0]
    assert [r["tracer_id"] for r in one.records("hungtask", container=ident[:12])][0] == record["tracer_id"]


@pytest.mark.host_only("the same on every kernel")
def test_without_the_list(agent, lock):
    """What is optional may be missing: the record says what it knows."""
    one = start(agent, "iter/task:stacks", "perf_event/cpus")
    assert counts(one)["state"] == "watching" and way_of(one, "tasks") is None
    pid = lock().block(b"e2e-stuck")
    data = wait_hung(one, pid)["tracer_data"]
    assert data["stack"] and "incomplete" not in data
    assert "blocked_count" not in data and data["cpus_stack"] == ""
    assert list(paragraphs(data)) == [pid] and paragraphs(data)[pid][1] == data["stack"].splitlines()


@pytest.mark.host_only("the same on every kernel")
def test_without_the_cpus(agent, lock):
    one = start(agent, "perf_event/cpus")
    pid = lock().block(b"e2e-stuck")
    data = wait_hung(one, pid)["tracer_data"]
    assert data["blocked_count"] > 0 and data["blocked_processes_stack"]
    assert data["cpus_stack"] == "" and {row["cpu"] for row in data["cpus_missing"]} == set(os.sched_getaffinity(0))


@pytest.mark.host_only("the same on every kernel")
def test_without_the_end(agent, lock):
    """It is not reported any more, and that is all that is known."""
    one = start(agent, "raw_tp", repeat_window="3s")
    held = lock()
    pid = held.block(b"e2e-stuck")
    record = wait_hung(one, pid)
    wait_looks(one, 4)
    assert hung(one, pid) == ([record], []), "its window is open"
    held.give_up()
    check_closed(wait_closed(one, pid), record, (5, 600), ended=False)


@pytest.mark.host_only("the same on every kernel")
def test_without_the_watch(agent, lock):
    """The kernel's own detector is left, which has more patience."""
    one = start(agent, "iter/task:watch", threshold="1s")
    count = counts(one)
    assert count["state"] == "partly" and way_of(one, "watch") is None
    pid = lock().block(b"e2e-stuck")
    time.sleep(4)
    assert hung(one, pid) == ([], [])


@pytest.mark.host_only("the same on every kernel")
def test_reload(agent, lock):
    """Another agent goes on with the same hooks: what was recorded is not recorded again, and looking
    at everything does not stop."""
    one = start(agent)
    held = lock()
    pid = held.block(b"e2e-stuck")
    record = wait_hung(one, pid)
    one.reload()
    wait_looks(one, 4)
    assert hung(one, pid) == ([record], [])
    held.give_up()
    check_closed(wait_closed(one, pid), record, (5, 600))


@pytest.mark.host_only("the same on every kernel")
@pytest.mark.alone("others provoke the same")
def test_demo(agent):
    """What it provokes itself is recorded, and gone afterwards."""
    arguments = ("--events", "hungtask", "--set", "hungtask.threshold=1s", "--set", "hungtask.list_interval=0s")
    one = agent("--demo", *arguments)
    (record,) = one.wait_records(
        lambda r: r["tracer_data"]["comm"] == "huatuo-try-hung" and "repeat" not in r["tracer_data"], event="hungtask"
    )
    check(record)
    one.stop()
    assert state(record["tracer_data"]["pid"]) in ([], ["Z"])


# ---- the kernel's own detector


@pytest.fixture
def impatient():
    """It reports a task after three seconds. That is a setting of the whole machine, which has to be ours."""
    product = Path("/sys/class/dmi/id/product_name")
    if not product.exists() or product.read_text().strip() != "huatuo test guest":
        pytest.skip("the kernel's detector is set in guests of our own only")
    values = {"hung_task_timeout_secs": "3", "hung_task_check_interval_secs": "1", "hung_task_warnings": "-1"}
    paths = {SYSCTL / name: value for name, value in values.items()}
    if not all(path.exists() for path in paths):
        pytest.skip("this kernel has no such detector")
    before = {path: path.read_text() for path in paths}
    for path, value in paths.items():
        path.write_text(value)
    yield
    for path, value in before.items():
        path.write_text(value)


@pytest.mark.matrix("tp_btf/sched_process_hang")
@pytest.mark.parametrize("n", range(len(KERNEL_WAYS)), ids=KERNEL_WAYS)
def test_detector(agent, lock, tracefs, impatient, n):
    """Each way records the same; it is one episode, however often the kernel reports it."""
    one = start(agent, "iter/task:watch", *KERNEL_WAYS[:n], repeat_window="10s")
    assert way_of(one, "sched_process_hang") == KERNEL_WAYS[n]
    held = lock()
    pid = held.block(b"e2e-detected")
    stack = kernel_stack(pid)
    record = wait_hung(one, pid, timeout=30)
    data = record["tracer_data"]
    expect(data, pid=pid, tid=pid, comm="e2e-detected", found_by="kernel", threshold_ms=3000)
    assert data["duration_ms"] >= 3000 and data["blocked_count"] >= 1
    if n == 0:
        check(record)
        assert names_of(data["stack"])[-len(stack) :] == stack
    else:
        assert data["stack"] == "" and data["where"] == ""
    assert names_of("\n".join(paragraphs(data)[pid][1]))[-len(stack) :] == stack
    expect(record["process"], pid=pid, comm="e2e-detected")
    assert record["process"]["cmdline"] and record["cgroup"]
    time.sleep(5)
    assert len(hung(one, pid)[0]) == 1
    count = counts(one)
    assert count["suppressed"] > 0 and count["lost"] == 0, count
    if n == 0:
        held.give_up()
        check_closed(wait_closed(one, pid, timeout=40), record, (6, 600), ended=False)


def test_detector_and_watch(agent, lock, impatient):
    """Who comes first has it; the other one's are repeats of it."""
    for threshold, by in (("1s", "watch"), ("1h", "kernel")):
        one = start(agent, threshold=threshold)
        held = lock()
        pid = held.block(b"e2e-both")
        record = wait_hung(one, pid, timeout=30)
        expect(check(record), found_by=by, pid=pid)
        time.sleep(6)
        assert len(hung(one, pid)[0]) == 1
        held.give_up()
        check_closed(wait_closed(one, pid), record, (4, 600))
        one.stop()


@pytest.mark.host_only("the same on every kernel")
def test_settings_are_checked(agent, tmp_path):
    binary = start(agent).binary
    for line in ("threshold: 1ms", "interval: 2m", "interval: 10ms", "list_interval: 2d"):
        file = tmp_path / "config.yaml"
        file.write_text(f"hungtask:\n  {line}\n")
        done = subprocess.run([binary, "config", "check", file], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and f"hungtask.{line.partition(':')[0]}" in done.stderr, (line, done)


@pytest.mark.host_only("the same on every kernel")
def test_nothing_is_left(lock):
    """Of what these tests themselves do."""
    held = lock()
    pid = held.block(b"e2e-stuck")
    held.over()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        pytest.fail("it is still there")
