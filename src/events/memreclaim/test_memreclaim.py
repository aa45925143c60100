# SPDX-License-Identifier: Apache-2.0
"""memreclaim: processes that really reclaim, in memory cgroups of our own, compared with what the kernel
itself has added up for each task (delay accounting) and with what the test knows.

What is to be reclaimed is memory that its process no longer needs (MADV_FREE): that takes neither swap nor
a disk, and works with the page cache's rules. One test does it with a file."""

import contextlib
import mmap
import os
import pickle
import re
import select
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import traceback
from pathlib import Path

import pytest
from harness import SANITIZER_OPTIONS, check_accounting, patience, wait_until
from memory import MIB, PAGE, become, cgroup, fork, memory_hierarchy  # noqa: F401 (a fixture)

MS, SECOND = 1_000_000, 1_000_000_000
SPEC_FIELDS = ["comm", "pid", "deltatime"]
WAYS = {  # hook: its ways
    "memcg_reclaim": "mm_vmscan_memcg_reclaim_begin",
    "direct_reclaim": "mm_vmscan_direct_reclaim_begin",
    "shrink_inactive": "mm_vmscan_lru_shrink_inactive",
    "process_exit": "sched_process_exit",
}
FRAME = re.compile(r"^([^\s/]+/[0-9a-f]{8,16} \[[^\s\]]+\]|(0x)?[0-9a-f]{8,16})$")
LIMIT = 16 * MIB
CHUNK = MIB // 4


# ---- what the kernel says of a task: netlink, TASKSTATS (Documentation/accounting/delay-accounting.rst)


class Delays:
    """How often and how long (ns) tasks have been in reclaim, as do_try_to_free_pages() counts it."""

    GENL_ID_CTRL, CTRL_CMD_GETFAMILY, TASKSTATS_CMD_GET = 16, 3, 1
    OF_THREAD, OF_PROCESS = 1, 2  # TASKSTATS_CMD_ATTR_*; the answer's aggregate has 3 more
    FREEPAGES = 312  # struct taskstats: freepages_count, freepages_delay_total

    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
        self.socket.bind((0, 0))
        answer = self.ask(self.GENL_ID_CTRL, self.CTRL_CMD_GETFAMILY, 2, b"TASKSTATS\0")
        (self.family,) = struct.unpack("H", answer[1])

    def ask(self, family, command, kind, data):
        length = 4 + len(data)
        body = struct.pack("BBHHH", command, 1, 0, length, kind) + data + b"\0" * (-length % 4)
        self.socket.send(struct.pack("IHHII", 16 + len(body), family, 1, 1, 0) + body)
        return self.attributes(self.socket.recv(65536)[20:])

    @staticmethod
    def attributes(data):
        found = {}
        while len(data) >= 4:
            length, kind = struct.unpack_from("HH", data)
            found[kind & 0x3FFF] = data[4:length]
            data = data[(length + 3) & ~3 :]
        return found

    def get(self, ident, of=OF_PROCESS):
        answer = self.ask(self.family, self.TASKSTATS_CMD_GET, of, struct.pack("I", ident))
        return struct.unpack_from("QQ", self.attributes(answer[of + 3])[3], self.FREEPAGES)


pytestmark = pytest.mark.xdist_group("delay accounting")


@pytest.fixture(autouse=True, scope="module")
def delay_accounting():
    """It is on by default up to 5.13, and a switch of the whole host later."""
    switch = Path("/proc/sys/kernel/task_delayacct")
    before = switch.read_text() if switch.exists() else None
    if before is not None:
        switch.write_text("1")
    yield
    if before is not None:
        switch.write_text(before)


# ---- processes that reclaim


class Waster:
    """Memory that is wanted all the time and not needed a moment later."""

    def __init__(self, size=32 * MIB):
        self.zero = os.open("/dev/zero", os.O_RDONLY)
        map_noreserve = 0x4000  # it may be more than there is
        self.memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | map_noreserve)
        self.memory.madvise(mmap.MADV_NOHUGEPAGE)
        self.size, self.at = size, 0

    def step(self):
        # Other threads of this interpreter run meanwhile.
        os.readv(self.zero, [memoryview(self.memory)[self.at : self.at + CHUNK]])
        self.memory.madvise(mmap.MADV_FREE, self.at, CHUNK)
        self.at = (self.at + CHUNK) % self.size


def waste_for(seconds):
    waster = Waster()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        waster.step()


def waste_until(spent_ns, delays=None, waster=None):
    """Until this process has been in reclaim for so long."""
    delays, waster = delays or Delays(), waster or Waster()
    while delays.get(os.getpid())[1] < spent_ns:
        waster.step()


class Child:
    """A process in a memory cgroup that calls a function; result() is what that returns and what the
    kernel has added up for the process."""

    def __init__(self, group, function, *arguments, comm=b"e2e-reclaim"):
        self.reader, writer = os.pipe()

        def run():
            os.close(self.reader)
            status = 1
            try:
                become(group, comm, 0)
                delays = Delays()
                begin = time.time()
                answer = function(*arguments)
                calls, spent_ns = delays.get(os.getpid())
                faults = int(Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()[7])
                data = (True, (answer, calls, spent_ns, faults, begin, time.time()))
            except BaseException:
                data = (False, traceback.format_exc())
            os.write(writer, pickle.dumps(data))
            os.close(writer)
            if data[0]:
                status = 0
            os._exit(status)

        self.pid = fork(run)
        os.close(writer)
        self.ended = False

    def result(self):
        ready, _, _ = select.select([self.reader], [], [], patience(90))
        data = os.read(self.reader, 65536) if ready else b""
        if not ready:
            self.kill()
        self.wait()
        assert data, f"the child {self.pid} ended without an answer, or did not end"
        fine, answer = pickle.loads(data)
        assert fine, answer
        self.answer, self.calls, self.spent_ns, self.faults, self.begin, self.end = answer
        return self

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self):
        if not self.ended:
            os.waitpid(self.pid, 0)
            os.close(self.reader)
            self.ended = True


@pytest.fixture
def child(cgroup):  # noqa: F811
    """child(group, function, ...): a Child; none outlives the test."""
    made = []

    def make(*arguments, **options):
        made.append(Child(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.kill()
        one.wait()


# ---- records


def start(agent, *off, **options):
    sets = [word for key, value in options.items() for word in ("--set", f"memreclaim.{key}={value}")]
    if off:
        sets += ["--set", f"memreclaim.hooks_off={','.join(off)}"]
    return agent("--events", "memreclaim", *sets)


def counts(one):
    return one.status()["events"]["memreclaim"]


def ways_of(one):
    return {r["hook"]: r["way"] for r in counts(one)["hooks"] if r["state"] == "attached"}


def of(pid):
    return lambda record: record["tracer_data"].get("pid") == pid


def records_of(one, *pids):
    """Without closing records, which have the pid as well."""
    return [r for r in one.records("memreclaim") if r["tracer_data"].get("pid") in pids and "repeat" not in r["tracer_data"]]


def wait_record(one, pid, timeout=20):
    """Its only one."""
    (record,) = one.wait_records(of(pid), timeout=timeout)
    return record


def expect(values, **fields):
    wrong = [f"{n} is {values.get(n)!r}, not {v!r}" for n, v in fields.items() if values.get(n) != v]
    assert not wrong, "; ".join(wrong) + f"\n{values}"


def about(found, expected, part=0.05, slack=10 * MS):
    assert abs(found - expected) <= part * expected + slack, (found, expected)


def seconds_of(text):
    """`2025-06-11 16:05:16.251 +0800` as time.time() has it."""
    return time.mktime(time.strptime(text[:19], "%Y-%m-%d %H:%M:%S")) + int(text[20:23]) / 1000


def limit_name(group):
    return "memory.max" if group.unified else "memory.limit_in_bytes"


def check(record, done, group, comm="e2e-reclaim"):
    """What is true of a record of all that a child has done, in a cgroup with a limit. Returns its
    tracer_data."""
    data = record["tracer_data"]
    assert list(data)[: len(SPEC_FIELDS)] == SPEC_FIELDS
    assert record["tracer_name"] == "directreclaim" and record["tracer_type"] == "auto"
    expect(
        data,
        comm=comm,
        pid=done.pid,
        ongoing=False,
        scope="memcg",
        global_calls=0,
        limit_cgroup=group.path,
        limit_bytes=LIMIT,
        limit_of=limit_name(group),
        limit_memcg_css=data["memcg_css"],
    )
    about(data["deltatime"], done.spent_ns)
    about(data["memcg_calls"], done.calls, slack=2)
    assert re.fullmatch("0x[0-9a-f]{16}", data["memcg_css"])
    # What it has faulted in has gone again, but for what the limit allows, and what threads gave back as they ended.
    assert done.faults - 3 * LIMIT / PAGE <= data["pages_reclaimed"] * 1.05 + 64, (data, done.faults)
    assert data["pages_reclaimed"] <= 1.05 * done.faults + 64
    assert data.get("pages_scanned", data["pages_reclaimed"]) >= data["pages_reclaimed"]
    assert 0 < data["worst_ns"] <= data["deltatime"]
    assert data["usage_bytes"] <= LIMIT + MIB
    frames = data["stack"].splitlines()
    assert len(frames) > 3 and all(FRAME.match(frame) for frame in frames), frames
    assert "try_to_free_mem_cgroup_pages/" in data["stack"] and "try_charge" in data["stack"]
    assert "incomplete" not in data
    assert data["memory_stat"]
    assert ("memory_events" in data) == group.unified
    entry, last = seconds_of(data["entry_time"]), seconds_of(record["time"])
    assert done.begin - 0.05 <= entry <= last <= done.end + 0.05
    about(data["duration_ns"], (last - entry) * SECOND, slack=2 * MS)
    expect(record["process"], pid=done.pid, ppid=os.getpid(), uid=0, comm=comm)
    ours = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert ours[0].decode() in record["process"]["cmdline"]  # though it has ended
    assert record["cgroup"] == group.path
    assert record["summary"].startswith(f"{comm}[{done.pid}] was in direct reclaim for ")
    assert f"the limit of cgroup {group.path} ({limit_name(group)} 16.0 MiB)" in record["summary"]
    return data


# ---- the tests


@pytest.mark.matrix
def test_one_thread(agent, cgroup, child):  # noqa: F811
    group = cgroup().limit(LIMIT)
    one = start(agent, threshold="100ms")
    done = child(group, waste_for, 1.5).result()
    record = wait_record(one, done.pid)
    data = check(record, done, group)
    expect(data, worst_tid=done.pid, worst_comm="e2e-reclaim", threshold_ns=100 * MS)
    expect(record["process"], tid=done.pid)
    expect(data, within_ns=SECOND)
    about(data["worst_ns"], data["deltatime"])
    assert "thread" not in record["summary"]
    status = one.stop()["events"]["memreclaim"]
    full = [r for r in one.records("memreclaim") if "repeat" not in r["tracer_data"]]
    expect(status, recorded=len(full), lost=0)


def wasting_threads(n, seconds):
    """Returns [(thread id, calls, ns)]."""
    found, done = [], threading.Barrier(n)

    def run():
        delays = Delays()
        waste_for(seconds)
        ident = threading.get_native_id()
        found.append((ident, *delays.get(ident, Delays.OF_THREAD)))
        done.wait()

    threads = [threading.Thread(target=run) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_threads_together(agent, cgroup, child):  # noqa: F811
    """With the threshold as it is: none of the threads need reach it by itself."""
    group = cgroup().limit(LIMIT)
    one = start(agent)
    done = child(group, wasting_threads, 8, 2.5).result()
    record = wait_record(one, done.pid)
    data = check(record, done, group)
    assert data["deltatime"] >= 900 * MS
    expect(data, threshold_ns=900 * MS)
    spent = {ident: ns for ident, _, ns in done.answer}
    assert data["worst_tid"] in spent, (data["worst_tid"], spent)
    about(data["worst_ns"], max(spent.values()), part=0.15)
    about(data["worst_ns"], spent[data["worst_tid"]], part=0.15)
    assert f"of it in its thread e2e-reclaim[{data['worst_tid']}]" in record["summary"]


def test_the_threshold_is_an_edge(agent, cgroup, child):  # noqa: F811
    """Below it there is nothing, above it there is, for processes on both sides; where it lies is configured.
    A single call may carry a process far beyond where it wanted to stop."""
    group = cgroup().limit(LIMIT)
    edge = int(patience(300)) * MS
    one = start(agent, threshold=f"{edge // MS}ms", within="10s")
    below, above = [], []
    for target in (0.4, 0.7, 0.9, 1.05, 1.2) * 4:
        if len(below) >= 3 and len(above) >= 3:
            break
        done = child(group, waste_until, target * edge).result()
        if done.spent_ns < 0.97 * edge:
            below.append(done)
        elif done.spent_ns > 1.03 * edge and done.end - done.begin < 9:
            above.append(done)
    print("spent, ms:", *(f"{d.spent_ns / MS:.0f}" for d in below + above))
    assert len(below) >= 2 and len(above) >= 2, "this machine is too slow to hit the edge"
    for done in above:
        check(wait_record(one, done.pid, timeout=30), done, group)
    time.sleep(3)
    assert not records_of(one, *(d.pid for d in below))


def wasting_now_and_then(spent_ns, times):
    delays, waster = Delays(), Waster()
    begin = time.monotonic()
    for n in range(times):
        waste_until(delays.get(os.getpid())[1] + spent_ns, delays, waster)
        time.sleep(max(0, begin + n + 1 - time.monotonic()))


@pytest.mark.matrix
def test_look_alikes(agent, cgroup, child):  # noqa: F811
    """A process that reclaims a little each second, and many that together are far above the threshold."""
    group = cgroup()
    one = start(agent)
    children = [
        child((group.child(f"c{n}").limit(LIMIT)), wasting_now_and_then, 60 * MS, 3) for n in range(12)
    ]
    done = [c.result() for c in children]
    # On a busy machine some are held up for longer than they wanted.
    little = [d for d in done if d.spent_ns < 800 * MS]
    assert sum(d.spent_ns for d in little) > 900 * MS and len(little) > 2, [d.spent_ns for d in done]
    time.sleep(3)
    assert not records_of(one, *(d.pid for d in little))
    check_accounting(one.stop())


def test_two_apart(agent, cgroup, child):  # noqa: F811
    """At the same time, each with its own."""
    groups = [cgroup().limit(LIMIT), cgroup().limit(LIMIT)]
    one = start(agent, threshold="100ms")
    children = [child(g, waste_for, s, comm=c) for g, s, c in zip(groups, (1.2, 2.4), (b"e2e-a", b"e2e-b"))]
    done = [c.result() for c in children]
    data = [check(wait_record(one, d.pid), d, g, c) for d, g, c in zip(done, groups, ("e2e-a", "e2e-b"))]
    assert data[0]["memcg_css"] != data[1]["memcg_css"]


def test_a_hundred(agent, cgroup, child):  # noqa: F811
    """As fast as they come: each is a record."""
    group = cgroup().limit(LIMIT)
    one = start(agent, threshold="10ms")
    began, done, running = time.monotonic(), [], []
    for _ in range(100):
        running.append(child(group, waste_until, 12 * MS))
        if len(running) == 4:
            done.append(running.pop(0).result())
    done += [c.result() for c in running]
    took = time.monotonic() - began
    pids = [d.pid for d in done]
    records = one.wait_records(lambda r: r["tracer_data"].get("pid") in pids, count=100, timeout=40)
    assert sorted(r["tracer_data"]["pid"] for r in records) == sorted(pids)
    spent = {d.pid: d.spent_ns for d in done}
    for record in records:
        # And what it takes them to end, in a cgroup that is full.
        more = record["tracer_data"]["deltatime"] - spent[record["tracer_data"]["pid"]]
        assert -5 * MS <= more <= patience(30) * MS, (record["tracer_data"], spent)
    expect(one.stop()["events"]["memreclaim"], lost=0)
    print(f"a hundred processes in {took:.1f} s")


def test_killed_in_the_middle(agent, cgroup, child):  # noqa: F811
    """Threads that die in reclaim leave nothing behind: it ends, once."""
    group = cgroup().limit(LIMIT)
    one = start(agent, threshold="100ms", ongoing_after="1s")
    victims = [child(group.child(f"c{n}").limit(LIMIT), wasting_threads, 4, 60) for n in range(3)]
    time.sleep(2)
    for victim in victims:
        victim.kill()
        victim.wait()
    pids = [victim.pid for victim in victims]

    def ended():
        return [r for r in records_of(one, *pids) if not r["tracer_data"]["ongoing"]]

    wait_until(lambda: len(ended()) == 3, 20, lambda: f"their ends: {records_of(one, *pids)}")
    n = len(records_of(one, *pids))
    time.sleep(4)  # were one taken for being inside still, it would be told as ongoing
    assert len(records_of(one, *pids)) == n and len(ended()) == 3
    check_accounting(one.status())


def test_ongoing(agent, cgroup, child):  # noqa: F811
    """Told while it goes on, more and more seldom, and at its end."""
    group = cgroup().limit(LIMIT)
    one = start(agent, threshold="50ms", ongoing_after="1s")
    done = child(group, waste_for, 6).result()
    wait_until(
        lambda: any(not r["tracer_data"]["ongoing"] for r in records_of(one, done.pid)),
        20,
        lambda: f"its end: {records_of(one, done.pid)}",
    )
    everything = records_of(one, done.pid)
    told = [(r["tracer_data"]["ongoing"], r["tracer_data"]["entry_time"][14:23], r["tracer_data"]["duration_ns"] // MS) for r in everything]
    ends = [r for r in everything if not r["tracer_data"]["ongoing"]]
    # A machine that stands still for a second ends an episode.
    records = everything[: everything.index(ends[0]) + 1]
    assert len(records) >= 3, told
    if len(ends) == 1:
        check(records[-1], done, group)
    else:
        about(sum(r["tracer_data"]["deltatime"] for r in ends), done.spent_ns)
    times = [r["tracer_data"]["deltatime"] for r in records]
    assert times == sorted(times)
    lasted = [r["tracer_data"]["duration_ns"] for r in records]
    assert SECOND <= lasted[0] < patience(3) * SECOND
    for before, now in zip(lasted, lasted[1:-1]):
        assert now > 1.9 * before, told
    for record in records:
        # The same episode, to what the two clocks allow.
        assert abs(seconds_of(record["tracer_data"]["entry_time"]) - seconds_of(records[0]["tracer_data"]["entry_time"])) < 0.01
    for record in records[:-1]:
        expect(record["tracer_data"], ongoing=True)
        assert " and still is, " in record["summary"]
        age = seconds_of(record["time"]) - done.begin
        assert 1 <= age <= patience(8)


def test_the_agent_ends_in_the_middle(agent, cgroup, child):  # noqa: F811
    """What is known by then is a record."""
    group = cgroup().limit(LIMIT)
    one = start(agent, threshold="100ms", within="10s")
    busy = child(group, waste_for, 60)
    wait_spent(busy, 150 * MS)
    check_accounting(one.stop())
    (record,) = records_of(one, busy.pid)
    expect(record["tracer_data"], pid=busy.pid, ongoing=True, limit_cgroup=group.path)
    assert record["tracer_data"]["deltatime"] >= 100 * MS


def wait_spent(busy, spent_ns):
    """Until a child has been in reclaim for so long."""
    delays = Delays()
    wait_until(lambda: delays.get(busy.pid)[1] >= spent_ns, 60, f"{busy.pid} to reclaim for {spent_ns} ns")


def wasting_in_bursts(spent_ns, times, pause):
    delays, waster = Delays(), Waster()
    for _ in range(times):
        waste_until(delays.get(os.getpid())[1] + spent_ns, delays, waster)
        time.sleep(pause)


def test_repeats(agent, cgroup, child):  # noqa: F811
    """Episodes of one process are the same; those of another are not."""
    group = cgroup().limit(LIMIT)
    one = start(agent, threshold="50ms", repeat_limit=2)
    done = [child(group, wasting_in_bursts, 80 * MS, n, 4).result() for n in (4, 1)]
    assert one.stop()["events"]["memreclaim"]["suppressed"] >= 2
    first = records_of(one, done[0].pid)
    assert len(first) == 2 and len(records_of(one, done[1].pid)) == 1
    (closing,) = [r for r in one.records("memreclaim") if r["tracer_data"].get("repeat", {}).get("of") == first[-1]["tracer_id"]]
    expect(closing["tracer_data"]["repeat"], count=2)


def wasting_again(spent_ns, pause, little_ns):
    wasting_in_bursts(spent_ns, 1, pause)
    before = Delays().get(os.getpid())[1]
    waste_until(before + little_ns)
    return Delays().get(os.getpid())[1] - before


def test_told_once(agent, cgroup, child):  # noqa: F811
    """What was in one episode is in no other, though it is in the sliding time still."""
    group = cgroup().limit(LIMIT)
    edge = int(patience(200)) * MS
    one = start(agent, threshold=f"{edge // MS}ms", within="10s")
    done = child(group, wasting_again, 1.1 * edge, 3.5, 5 * MS).result()
    assert done.answer < 0.9 * edge, "this machine is too slow to reclaim a little"
    time.sleep(3)
    (record,) = one.wait_records(of(done.pid))
    about(record["tracer_data"]["deltatime"], done.spent_ns - done.answer)
    expect(record["tracer_data"], ongoing=False)


# ---- by other roads


def of_file(size):
    """A file of so many bytes whose pages can be reclaimed: ours, on a disk, or the largest of the
    system's, read again and again."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", "/var/tmp"], capture_output=True, text=True, check=True)
    if kind.stdout.strip() not in ("tmpfs", "ramfs", "overlayfs"):
        file = tempfile.NamedTemporaryFile(dir="/var/tmp", prefix="huatuo-e2e-")
        return file, file.name, size
    files = [p for p in Path("/usr/lib").rglob("*.so*") if p.is_file() and not p.is_symlink()]
    largest = max(files, key=lambda p: p.stat().st_size)
    return None, str(largest), largest.stat().st_size


def use_file(path, size, writes, spent_ns):
    delays = Delays()
    fd = os.open(path, os.O_RDWR if writes else os.O_RDONLY)
    block = b"x" * MIB
    if writes:
        for _ in range(0, size, MIB):
            os.write(fd, block)
        os.fsync(fd)
    while delays.get(os.getpid())[1] < spent_ns:
        os.lseek(fd, 0, os.SEEK_SET)
        while os.read(fd, MIB) and delays.get(os.getpid())[1] < spent_ns:
            pass


@pytest.mark.host_only("its disk is the host's, through 9p, and takes minutes")
def test_file(agent, cgroup, child):  # noqa: F811
    """The page cache of a file that is some times as large as the limit."""
    group = cgroup().limit(LIMIT)
    one = start(agent, threshold="20ms", within="10s")
    file, path, size = of_file(5 * LIMIT)
    with file or contextlib.nullcontext():
        done = child(group, use_file, path, size, file is not None, 30 * MS).result()
    assert size > 2 * LIMIT
    record = wait_record(one, done.pid, timeout=30)
    data = record["tracer_data"]
    expect(data, scope="memcg", limit_cgroup=group.path, limit_bytes=LIMIT, limit_of=limit_name(group))
    about(data["deltatime"], done.spent_ns)
    about(data["memcg_calls"], done.calls, slack=2)
    assert "try_to_free_mem_cgroup_pages/" in data["stack"]


@pytest.mark.matrix
def test_memory_high(agent, cgroup, child):  # noqa: F811
    """The limit that does not refuse but slows down (v2): reclaim on the way back to user space."""
    group = cgroup()
    if not group.unified:
        pytest.skip("only cgroup v2 has memory.high")
    (group.folder / "memory.high").write_text(str(LIMIT))
    one = start(agent, threshold="20ms", within="10s")
    done = child(group, waste_until, 30 * MS).result()
    record = wait_record(one, done.pid, timeout=30)
    data = record["tracer_data"]
    expect(data, scope="memcg", limit_of="memory.high", limit_bytes=LIMIT, limit_cgroup=group.path)
    about(data["deltatime"], done.spent_ns)
    assert "mem_cgroup_handle_over_high" in data["stack"] or "reclaim_high" in data["stack"], data["stack"]
    assert f"({'memory.high'} 16.0 MiB)" in record["summary"]


def test_limit_of_the_parent(agent, cgroup, child):  # noqa: F811
    parent = cgroup().limit(LIMIT)
    leaf = parent.child("middle").child("leaf")
    one = start(agent, threshold="50ms", within="10s")
    done = child(leaf, waste_until, 60 * MS).result()
    record = wait_record(one, done.pid, timeout=30)
    data = record["tracer_data"]
    expect(data, limit_cgroup=parent.path, limit_bytes=LIMIT)
    assert record["cgroup"] == leaf.path and data["limit_memcg_css"] != data["memcg_css"]


def available():
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def vmstat(name):
    return dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())[name]


def fill(spent_ns):
    """More than there is, of memory that may be taken: kswapd takes it, and if that is not fast enough,
    whoever wants more."""
    delays, waster = Delays(), Waster(2 * available() // CHUNK * CHUNK)
    for _ in range(2 * waster.size // CHUNK):
        if delays.get(os.getpid())[1] >= spent_ns:
            break
        waster.step()


@pytest.mark.matrix
@pytest.mark.alone("it fills the host's memory")
def test_host(agent, cgroup, child):  # noqa: F811
    """Without any cgroup's limit, when the host is full. What kswapd does is no event, and where it was
    fast enough there is none."""
    if available() > 3072 * MIB:
        pytest.skip(f"this host is too large to be filled: {available() // MIB} MiB are available")
    one = start(agent, threshold="5ms", within="10s")
    before = int(vmstat("pgsteal_kswapd"))
    done = child(cgroup(), fill, 20 * MS).result()
    assert int(vmstat("pgsteal_kswapd")) > before
    print(f"in direct reclaim: {done.calls} calls, {done.spent_ns / MS:.1f} ms")
    if done.spent_ns > 6 * MS:
        record = wait_record(one, done.pid, timeout=30)
        data = record["tracer_data"]
        expect(data, scope="global", memcg_calls=0)
        assert "limit_of" not in data and data["meminfo"]["MemTotal"] > 0
        assert "try_to_free_pages/" in data["stack"]
        time.sleep(3)  # where all is slow kswapd keeps up for a while, and it is several episodes
        episodes = [r["tracer_data"] for r in records_of(one, done.pid)]
        about(sum(e["deltatime"] for e in episodes), done.spent_ns)
        about(sum(e["global_calls"] for e in episodes), done.calls, part=0.2, slack=2)
    elif done.spent_ns < 4 * MS:
        time.sleep(3)
        assert not records_of(one, done.pid)
    names = {r["tracer_data"]["comm"] for r in one.records("memreclaim") if "comm" in r["tracer_data"]}
    assert not any(name.startswith("kswapd") for name in names), names


def hold(size, ready, go):
    waster = Waster(size)
    for _ in range(size // CHUNK):
        waster.step()
    os.write(ready, b"x")
    os.read(go, 1)


def shrink(folder, unified):
    """Asks for reclaim, by a smaller limit."""
    name = "memory.max" if unified else "memory.limit_in_bytes"
    (folder / name).write_text(str(4 * MIB))


@pytest.mark.parametrize("wanted", ["false", "true"])
def test_requested(agent, cgroup, child, wanted):  # noqa: F811
    """A process that asks for reclaim is not one that is held up by it."""
    group, outside = cgroup().limit(512 * MIB), cgroup()
    one = start(agent, threshold="1ms", within="10s", requested=wanted)
    (ready, told), (wait, go) = os.pipe(), os.pipe()
    held = child(group, hold, 192 * MIB, told, wait)
    assert select.select([ready], [], [], 60)[0], "it does not hold its memory"
    asks = child(outside, shrink, group.folder, group.unified, comm=b"e2e-asks").result()
    assert asks.spent_ns > MS
    if wanted == "true":
        record = wait_record(one, asks.pid)
        about(record["tracer_data"]["deltatime"], asks.spent_ns)
    else:
        wait_until(lambda: counts(one)["filtered"], 20, lambda: f"it to be filtered: {counts(one)}")
    os.write(go, b"x")
    held.result()
    status = one.stop()["events"]["memreclaim"]
    mine = len(records_of(one, asks.pid))
    assert mine == (wanted == "true")
    assert set(status["filtered_by"]) == (set() if mine else {"requested"}), status
    for fd in (ready, told, wait, go):
        os.close(fd)


@pytest.mark.parametrize("comm", [b"\xff\"\\\n\x1b[31m\x07</x>"], ids=["bytes"])
def test_hostile_name(agent, cgroup, child, comm):  # noqa: F811
    group = cgroup().limit(LIMIT)
    one = start(agent, threshold="50ms", within="10s")
    done = child(group, waste_until, 60 * MS, comm=comm).result()
    record = wait_record(one, done.pid, timeout=30)
    expect(record["tracer_data"], comm=comm[:15].decode(errors="replace"))
    text = one.huatuo("show", record["tracer_id"]).stdout
    assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", text)


def test_container(agent, cgroup, child):  # noqa: F811
    ident = "0123456789abcdef" * 4
    group = cgroup(f"docker-{ident}.scope").limit(LIMIT)
    one = start(agent, threshold="50ms", within="10s")
    done = child(group, waste_until, 60 * MS).result()
    record = wait_record(one, done.pid, timeout=30)
    expect(record, container_id=ident, container_found_by="cgroup", cgroup=group.path)
    assert [r["tracer_id"] for r in one.records(container=ident[:12])] == [record["tracer_id"]]


@pytest.mark.matrix("raw_tp")
@pytest.mark.parametrize("prefix", ["tp_btf", "raw_tp"])
def test_every_way(agent, cgroup, child, prefix):  # noqa: F811
    """Each records the same."""
    group = cgroup().limit(LIMIT)
    off = [f"tp_btf/{name}" for name in WAYS.values()] if prefix == "raw_tp" else []
    one = start(agent, *off, threshold="50ms", within="10s")
    assert ways_of(one) == {"clock": "raw_tp", **{hook: f"{prefix}/{name}" for hook, name in WAYS.items()}}
    done = child(group, waste_until, 80 * MS).result()
    check(wait_record(one, done.pid, timeout=30), done, group)


def test_without_what_is_optional(agent, cgroup, child):  # noqa: F811
    """How many pages were scanned is not known then."""
    group = cgroup().limit(LIMIT)
    off = [f"{p}/{WAYS[h]}" for p in ("tp_btf", "raw_tp") for h in ("shrink_inactive", "process_exit")]
    one = start(agent, *off, threshold="50ms", within="10s")
    assert set(ways_of(one)) == {"memcg_reclaim", "direct_reclaim", "clock"}
    done = child(group, waste_until, 80 * MS).result()
    data = check(wait_record(one, done.pid, timeout=30), done, group)
    assert "pages_scanned" not in data


def test_try(agent):
    """What it provokes itself reaches the default threshold, is recorded, and gone."""
    hierarchy = memory_hierarchy()
    if not hierarchy:
        pytest.skip("no memory controller is mounted")
    one = agent("--events", "memreclaim")
    done = subprocess.run(
        [one.binary, "try", "memreclaim", "--store", str(one.store)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **SANITIZER_OPTIONS},
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r" recorded: [0-9a-f]+\s+huatuo-try-mem\[(\d+)\]", done.stdout)
    assert found, done.stdout
    (record,) = records_of(one, int(found[1]))
    expect(record["tracer_data"], limit_bytes=LIMIT, scope="memcg", threshold_ns=900 * MS)
    assert not (hierarchy[0] / f"huatuo-try-{record['process']['ppid']}").exists()


def test_reload_in_the_middle(agent, cgroup, child, tmp_path):  # noqa: F811
    """Other objects take over: what the one before knew of an episode is recorded, and the rest again."""
    file = tmp_path / "huatuo.yaml"
    text = "memreclaim: {threshold: 100ms, within: 10s, ring_size: %s}\n"
    file.write_text(text % "1MiB")
    group = cgroup().limit(LIMIT)
    one = agent("--events", "memreclaim", "--config", str(file))
    busy = child(group, waste_for, 60)
    wait_spent(busy, 150 * MS)
    file.write_text(text % "2MiB")
    one.reload()
    first = wait_record(one, busy.pid)
    expect(first["tracer_data"], ongoing=True)
    wait_spent(busy, Delays().get(busy.pid)[1] + 150 * MS)
    busy.kill()
    busy.wait()
    both = one.wait_records(of(busy.pid), count=2)
    expect(both[1]["tracer_data"], ongoing=False, limit_cgroup=group.path)
    assert both[0]["tracer_data"]["entry_time"] < both[1]["tracer_data"]["entry_time"]
    expect(one.stop()["events"]["memreclaim"], lost=0)
