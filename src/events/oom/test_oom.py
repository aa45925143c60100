# SPDX-License-Identifier: Apache-2.0
"""oom: real kills by the real OOM killer in memory cgroups of our own, compared field by field with what
the test and the kernel's log know."""

import contextlib
import mmap
import os
import re
import signal
import time
from pathlib import Path

import pytest
from harness import check_accounting, patience, wait_until
from memory import MIB, PAGE, abandoned, become, cgroup, fork, memory_hierarchy  # noqa: F401 (a fixture)

PERCPU_SLACK = 4 * 64 * PAGE * os.cpu_count()  # what CPUs have not handed in yet (6.2+)

SPEC_FIELDS = [
    f"{who}_{what}"
    for who in ("trigger", "victim")
    for what in ("memcg_css", "pid", "process_name", "container_id", "container_hostname")
]
MARK_WAYS = ("tp_btf/mark_victim", "raw_tp/mark_victim", "tp/oom/mark_victim")
TELL_WAYS = ("fentry/oom_kill_process", "kprobe/oom_kill_process", "tp_btf/console")
FRAME = re.compile(r"^([^\s/]+/[0-9a-f]{8,16} \[[^\s\]]+\]|(0x)?[0-9a-f]{8,16})$")


# ---- processes that want memory


def eat(size):
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, size, PAGE):
        memory[at] = 1
    return memory


# The kernel says ten times in five seconds what it does, and then nothing until they are over: whoever
# counts on what it says kills in turn.
pytestmark = pytest.mark.xdist_group("kernel log")
kills = []  # when


def let_the_kernel_speak():
    if len([t for t in kills if time.monotonic() - t < 6]) > 3:
        time.sleep(6)


def hog(group, comm=b"e2e-hog", size=96 * MIB, score=0):
    """A process that wants more than it may have, and is killed for it; its pid."""

    def run():
        become(group, comm, score)
        eat(size)

    pid = fork(run)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    kills.append(time.monotonic())
    return pid


def kernel_log():
    """The messages that are in the kernel's log."""
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    lines = []
    with contextlib.suppress(BlockingIOError):
        while True:
            with contextlib.suppress(BrokenPipeError):  # overwritten meanwhile
                lines.append(os.read(fd, 8192).decode(errors="replace").partition(";")[2])
    os.close(fd)
    return lines


# ---- records


def start(agent, *off, **options):
    let_the_kernel_speak()
    sets = [word for key, value in options.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]
    if off:
        sets += ["--set", f"oom.hooks_off={','.join(off)}"]
    return agent("--events", "oom", *sets)


def counts(one):
    return one.status()["events"]["oom"]


def way_of(one, hook):
    return next((r["way"] for r in counts(one)["hooks"] if r["hook"] == hook and r["state"] == "attached"), None)


def wait_kill(one, pid):
    found = one.wait_records(lambda r: r["tracer_data"].get("victim_pid") == pid, event="oom")
    assert len(found) == 1, [r["summary"] for r in found]
    return found[0]


def expect(values, **fields):
    """Every field at once, so that one failure shows all that is wrong."""
    wrong = [f"{n} is {values.get(n)!r}, not {v!r}" for n, v in fields.items() if values.get(n) != v]
    assert not wrong, "; ".join(wrong) + f"\n{values}"


def check(record, limited=True):
    """What is true of every record of a kill in a cgroup with a limit. Returns its tracer_data."""
    data = record["tracer_data"]
    assert list(data)[: len(SPEC_FIELDS)] == SPEC_FIELDS
    assert record["tracer_name"] == "oom" and record["tracer_type"] == "auto"
    for who in ("trigger", "victim"):
        assert re.fullmatch("0x[0-9a-f]{16}", data[f"{who}_memcg_css"]), data
    frames = data["stack"].splitlines()
    assert len(frames) > 3 and all(FRAME.match(frame) for frame in frames), frames
    assert "incomplete" not in data
    assert data["victim_rss_bytes"] == sum(data[f"victim_{k}_bytes"] for k in ("anon", "file", "shmem"))
    assert data["victim_total_vm_bytes"] > data["victim_anon_bytes"] > 0
    assert data["victim_page_table_bytes"] > 0
    assert data["meminfo"]["MemTotal"] > data["meminfo"]["MemFree"] > 0
    largest = data["largest"]
    assert 0 < len(largest) <= 10
    sizes = [row["rss_bytes"] + row["swap_bytes"] for row in largest]
    assert sizes == sorted(sizes, reverse=True)
    victims = [row for row in largest if row["pid"] == data["victim_pid"]]
    assert victims and victims[0]["rss_bytes"] == data["victim_rss_bytes"] and victims[0]["chosen"]
    if limited:
        assert data["constraint"] == "memcg"
        assert data["limit_bytes"] - data["usage_bytes"] < MIB
        assert data["memory_stat"] and data["memory_events"]["oom_kill"] >= 0
        inside = data["limit_cgroup"] + "/"
        assert all((row["cgroup"] + "/").startswith(inside) for row in largest), largest
    return data


# ---- the tests


@pytest.mark.matrix
def test_memcg(agent, cgroup):
    group = cgroup().limit(24 * MIB)
    one = start(agent)
    before = time.time()
    pid = hog(group, b"e2e-hog", score=7)
    record = wait_kill(one, pid)
    data = check(record)
    expect(
        data,
        trigger_pid=pid,
        trigger_process_name="e2e-hog",
        trigger_container_id="",
        trigger_container_hostname="",
        victim_pid=pid,
        victim_process_name="e2e-hog",
        victim_container_id="",
        victim_container_hostname="",
        trigger_memcg_css=data["victim_memcg_css"],
        limit_cgroup=group.path,
        limit_memcg_css=data["victim_memcg_css"],
        limit_of="memory",
        limit_bytes=24 * MIB,
        victim_cgroup=group.path,
        trigger_cgroup=group.path,
        victim_oom_score_adj=7,
        victim_swap_bytes=0,
        victim_uid=0,
        victim_tid=pid,
        trigger_tid=pid,
        gfp_mask=data["gfp_mask"],
        order=0,
        limit_known_by="console" if way_of(one, "oom_kill_process") == TELL_WAYS[2] else "oom_control",
    )
    assert data["gfp_flags"].startswith("GFP_") and int(data["gfp_mask"], 16) > 0
    assert data["limit_events"]["oom"] >= 1 and data["limit_events"]["oom_kill"] == 1
    assert data["memory_events"]["oom_kill"] == 1
    assert data["limit_events"]["max"] > 0
    assert "mem_cgroup_out_of_memory" in data["stack"]
    assert record["cgroup"] == group.path and "container_id" not in record
    expect(record["process"], pid=pid, tid=pid, ppid=os.getpid(), uid=0, comm="e2e-hog")
    ours = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert ours[0].decode() in record["process"]["cmdline"]
    assert re.fullmatch(
        rf"e2e-hog\[{pid}\] \([\d.]+ MiB resident, oom_score_adj 7\) was killed because the cgroup "
        rf"{re.escape(group.path)} has reached its memory limit of 24\.0 MiB \(usage 2[34]\.\d MiB\); "
        "triggered by itself",
        record["summary"],
    ), record["summary"]
    seen = time.mktime(time.strptime(record["time"][:19], "%Y-%m-%d %H:%M:%S"))
    assert before - 2 < seen < time.time() + 1
    status = one.stop()["events"]["oom"]
    assert len([r for r in one.records("oom") if r["tracer_data"].get("limit_cgroup") == group.path]) == 1
    assert status["recorded"] == len(one.records("oom")) and status["lost"] == status["incomplete"] == 0, status


def test_as_the_kernel_says(agent, cgroup):
    """Its own line, to compare with: sizes, user, score."""
    if not os.access("/dev/kmsg", os.R_OK):
        pytest.skip("the kernel's log may not be read")
    group = cgroup().limit(24 * MIB)
    one = start(agent)
    pid = hog(group)
    data = check(wait_kill(one, pid))
    assert data["victim_anon_bytes"] > 16 * MIB
    pattern = re.compile(
        rf"Killed process {pid} \((?P<comm>.*)\) total-vm:(?P<vm>\d+)kB, anon-rss:(?P<anon>\d+)kB, "
        r"file-rss:(?P<file>\d+)kB, shmem-rss:(?P<shmem>\d+)kB, UID:(?P<uid>\d+) pgtables:(?P<pt>\d+)kB "
        r"oom_score_adj:(?P<score>-?\d+)"
    )
    said = [m for m in map(pattern.search, kernel_log()) if m]
    assert said, "the kernel has not said whom it killed"
    kernel = {k: v if k == "comm" else int(v) for k, v in said[-1].groupdict().items()}
    expect(
        data,
        victim_process_name=kernel["comm"],
        victim_total_vm_bytes=kernel["vm"] * 1024,
        victim_page_table_bytes=kernel["pt"] * 1024,
        victim_uid=kernel["uid"],
        victim_oom_score_adj=kernel["score"],
    )
    for what in ("anon", "file", "shmem"):
        assert abs(data[f"victim_{what}_bytes"] - kernel[what] * 1024) <= PERCPU_SLACK, (what, data, kernel)


def test_limit_of_the_parent(agent, cgroup):
    """The task sits two levels below the cgroup whose limit it is, which has children without limits."""
    parent = cgroup().limit(24 * MIB)
    leaf = parent.child("middle").child("leaf")
    one = start(agent)
    pid = hog(leaf)
    data = check(wait_kill(one, pid))
    expect(
        data,
        limit_cgroup=parent.path,
        limit_bytes=24 * MIB,
        victim_cgroup=leaf.path,
        trigger_cgroup=leaf.path,
    )
    assert data["limit_memcg_css"] != data["victim_memcg_css"]
    assert data["limit_events"]["oom"] >= 1


def may_lower_oom_score_adj():
    """CAP_SYS_RESOURCE, which is 24."""
    return int(re.search(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.M)[1], 16) & 1 << 24


@pytest.mark.matrix
def test_trigger_is_not_the_victim(agent, cgroup):
    """One process wants memory, and another, in a sibling cgroup below the same limit, dies for it."""
    parent = cgroup().limit(64 * MIB)
    group_a, group_b = parent.child("a"), parent.child("b")
    one = start(agent)
    reader, writer = os.pipe2(os.O_NONBLOCK)
    # A slow machine may take longer to give the victim's memory back than the kernel waits for: then it would kill one more.
    spared = -1000 if may_lower_oom_score_adj() else 0

    def said(byte):
        with contextlib.suppress(BlockingIOError):
            return os.read(reader, 1) == byte

    def hold():
        become(group_a, b"e2e-victim", 900)
        memory = eat(36 * MIB)
        os.write(writer, b"x")
        signal.pause()
        return memory

    def want():
        become(group_b, b"e2e-trigger", spared)
        memory = eat(36 * MIB)
        os.write(writer, b"y")
        signal.pause()
        return memory

    victim = fork(hold)
    trigger = None
    try:
        wait_until(lambda: said(b"x"), 20, "the victim to have its memory")
        trigger = fork(want)
        wait_until(lambda: said(b"y"), 20, lambda: f"the trigger to have its memory; {kernel_log()[-6:]}")
        record = wait_kill(one, victim)
    finally:
        for pid in (victim, trigger):
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
    data = check(record)
    expect(
        data,
        trigger_pid=trigger,
        trigger_process_name="e2e-trigger",
        trigger_cgroup=group_b.path,
        victim_pid=victim,
        victim_process_name="e2e-victim",
        victim_cgroup=group_a.path,
        victim_oom_score_adj=900,
        limit_cgroup=parent.path,
        limit_bytes=64 * MIB,
    )
    assert data["trigger_memcg_css"] != data["victim_memcg_css"]
    assert data["victim_anon_bytes"] >= 36 * MIB - PERCPU_SLACK
    rows = {row["pid"]: row for row in data["largest"]}
    expect(rows[trigger], comm="e2e-trigger", oom_score_adj=spared, cgroup=group_b.path, chosen=False)
    expect(rows[victim], comm="e2e-victim", oom_score_adj=900, cgroup=group_a.path, chosen=True)
    # The record is the victim's.
    expect(record["process"], pid=victim, ppid=os.getpid(), comm="e2e-victim")
    assert record["cgroup"] == group_a.path
    assert record["summary"].endswith(f"triggered by e2e-trigger[{trigger}]")


def test_containers(agent, cgroup):
    """Of both, by the paths of their cgroups; the envelope's is the victim's."""
    ident = "0123456789abcdef" * 4
    group = cgroup(f"docker-{ident}.scope").limit(24 * MIB)
    one = start(agent)
    record = wait_kill(one, hog(group))
    expect(record["tracer_data"], victim_container_id=ident, trigger_container_id=ident)
    expect(record, container_id=ident, container_found_by="cgroup")
    assert record["process"]["systemd_unit"] == f"docker-{ident}.scope"
    assert [r["tracer_id"] for r in one.records(container=ident[:12])] == [record["tracer_id"]]


@pytest.mark.parametrize(
    "comm",
    [b"\xff\"\\\n\x1b[31m\x07</x>", b"),order=9,pid=1", b" invoked oom-ki", b",task=x,pid=1,u"],
    ids=["bytes", "order", "invoked", "task"],
)
def test_hostile_names(agent, cgroup, comm):
    """Of a process, which stand in the kernel's lines, too, from which limit and flags are taken."""
    group = cgroup().limit(24 * MIB)
    one = start(agent)
    pid = hog(group, comm)
    record = wait_kill(one, pid)
    data = check(record)
    shown = comm[:15].decode(errors="replace")
    expect(data, victim_process_name=shown, trigger_process_name=shown, limit_cgroup=group.path, order=0)
    assert data["limit_known_by"] in ("console", "oom_control") and data["gfp_flags"].startswith("GFP_")
    text = one.huatuo("show", record["tracer_id"]).stdout
    assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", text)


@pytest.mark.alone("it takes the time")
def test_a_hundred_in_ten_seconds(agent, cgroup):
    """Each is a record, and whole: also those of which the kernel, after the first ten, says nothing."""
    group = cgroup().limit(16 * MIB)
    one = start(agent)
    began = time.monotonic()
    pids = [hog(group, size=32 * MIB) for _ in range(100)]
    took = time.monotonic() - began
    records = one.wait_records(lambda r: True, count=100, timeout=30, event="oom")
    assert sorted(r["tracer_data"]["victim_pid"] for r in records) == sorted(pids)
    known_by = [check(record)["limit_known_by"] for record in records]
    for record in records:
        expect(record["tracer_data"], limit_cgroup=group.path, limit_bytes=16 * MIB)
        assert record["process"]["cmdline"]
    status = one.stop()
    check_accounting(status)
    expect(status["events"]["oom"], recorded=100, suppressed=0, lost=0, incomplete=0)
    print(f"a hundred kills in {took:.1f} s; known by: { {k: known_by.count(k) for k in set(known_by)} }")
    assert took < patience(10), took


# What no two kills have in common.
OF_THE_KILL = {
    "trigger_pid", "victim_pid", "trigger_tid", "victim_tid", "cpu", "stack", "meminfo", "memory_stat",
    "memory_events", "largest", "limit_events", "failcnt", "memsw_failcnt", "usage_bytes",
    "memsw_usage_bytes", "swap_usage_bytes",
}  # fmt: skip


def comparable(data):
    """Without what differs between any two kills; sizes roughly."""
    rough = {k: round(v / (2 * MIB)) for k, v in data.items() if k.endswith("_bytes") and k != "limit_bytes"}
    rough |= {k: round(v * PAGE / (2 * MIB)) for k, v in data.items() if k.endswith("_pages")}
    return {k: rough.get(k, v) for k, v in data.items() if k not in OF_THE_KILL}


def test_every_way_to_the_victim(agent, cgroup, tracefs):
    """Each alternative records the same."""
    group = cgroup().limit(24 * MIB)
    found = {}
    for n, way in enumerate(MARK_WAYS):
        one = start(agent, *MARK_WAYS[:n])
        assert way_of(one, "mark_victim") == way
        record = wait_kill(one, hog(group))
        found[way] = check(record)
        assert record["process"]["cmdline"]
        assert counts(one)["state"] == "watching"
        one.stop()
    for way in MARK_WAYS[1:]:
        ours, theirs = comparable(found[way]), comparable(found[MARK_WAYS[0]])
        for sizes in [k for k in ours if k.endswith(("_bytes", "_pages")) and k != "limit_bytes"]:
            assert abs(ours.pop(sizes) - theirs.pop(sizes)) <= 1, (way, sizes)
        assert ours == theirs, way


@pytest.mark.matrix("all")
@pytest.mark.parametrize("off", [(), TELL_WAYS[:1], TELL_WAYS[:2], TELL_WAYS], ids=["none", "one", "two", "all"])
def test_every_way_to_the_limit(agent, cgroup, off):
    """The limiting cgroup is found by any, also without any."""
    parent = cgroup().limit(24 * MIB)
    leaf = parent.child("leaf").limit(512 * MIB)
    one = start(agent, *off)
    way = way_of(one, "oom_kill_process")
    assert way not in off
    data = check(wait_kill(one, hog(leaf)))
    expect(data, limit_cgroup=parent.path, limit_bytes=24 * MIB, victim_cgroup=leaf.path)
    known_by = {None: "usage", TELL_WAYS[2]: "console"}.get(way, "oom_control")
    expect(data, limit_known_by=known_by)
    assert ("order" in data) == ("gfp_flags" in data) == (way is not None)
    assert ("victim_badness_pages" in data) == (known_by == "oom_control")
    assert counts(one)["state"] == "watching"


@pytest.mark.matrix
def test_group_that_dies_as_one(agent, cgroup):
    """memory.oom.group: the kernel chooses one, and all of its cgroup die. Each is a record, and says so."""
    group = cgroup()
    if not group.unified:
        pytest.skip("memory.oom.group is of cgroup v2")
    group.limit(32 * MIB)
    (group.folder / "memory.oom.group").write_text("1")
    one = start(agent)
    reader, writer = os.pipe()

    def wait():
        become(group, b"e2e-member", 0)
        os.write(writer, b"x")
        signal.pause()

    members = [fork(wait) for _ in range(3)]
    for _ in members:
        os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    chosen = hog(group)
    for pid in members:
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    pids = sorted([chosen, *members])
    for pid in pids:
        record = wait_kill(one, pid)
        data = record["tracer_data"]
        expect(data, oom_group=group.path, limit_cgroup=group.path, limit_bytes=32 * MIB)
        assert sorted(data["killed_with"]) == pids  # they are in the order in which the kernel went through them
        expect(data, victim_cgroup=group.path, trigger_pid=chosen, trigger_process_name="e2e-hog")
        expect(record["process"], pid=pid, ppid=os.getpid())
    status = one.stop()["events"]["oom"]
    assert (status["recorded"], status["lost"], status["incomplete"]) == (4, 0, 0), status


def test_without_the_snapshot(agent, cgroup):
    """It is optional: there is no list of processes then, and nothing waits for one."""
    group = cgroup().limit(24 * MIB)
    one = start(agent, "iter/task")
    assert way_of(one, "tasks") is None
    record = wait_kill(one, hog(group))
    data = record["tracer_data"]
    assert "largest" not in data and "incomplete" not in data
    assert data["meminfo"] and data["memory_stat"]
    expect(data, limit_cgroup=group.path)


def test_a_process_of_many_threads(agent, cgroup):
    """It is killed once, whatever becomes of its threads."""
    group = cgroup().limit(24 * MIB)
    one = start(agent)

    def run():
        import threading

        become(group, b"e2e-threads", 0)
        threads = [threading.Thread(target=eat, args=(32 * MIB,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    pid = fork(run)
    os.waitpid(pid, 0)
    record = wait_kill(one, pid)
    data = check(record)
    expect(data, victim_pid=pid, trigger_pid=pid)
    time.sleep(1)
    assert len([r for r in one.records("oom") if r["tracer_data"]["victim_pid"] == pid]) == 1
    count = one.stop()["events"]["oom"]
    assert count["seen"] == count["recorded"] + count["filtered_by"]["marked_again"]
    assert count["recorded"] == len(one.records("oom")) and count["filtered_by"]["marked_again"] == count["filtered"]


def test_cgroup_that_goes_at_once(agent, cgroup):
    """As a container's does: what the kernel counted is in the event itself."""
    group = cgroup()
    one = start(agent)
    for n in range(5):
        leaf = group.child(f"short{n}").limit(16 * MIB)
        pid = hog(leaf, size=32 * MIB)
        leaf.remove()
        record = wait_kill(one, pid)
        data = record["tracer_data"]
        expect(data, limit_cgroup=leaf.path, victim_cgroup=leaf.path, limit_bytes=16 * MIB)
        assert data["limit_events"]["oom_kill"] == 1 and data["victim_rss_bytes"] > 8 * MIB
        assert record["cgroup"] == leaf.path
        assert "incomplete" not in data


@pytest.mark.alone("others provoke the same")
def test_demo(agent):
    """What it provokes itself is killed, recorded, and gone."""
    if not memory_hierarchy():
        pytest.skip("no memory controller is mounted")
    one = agent("--events", "oom", "--demo")
    (record,) = one.wait_records(lambda r: r["tracer_data"]["victim_process_name"] == "huatuo-try-oom", event="oom")
    assert record["tracer_data"]["limit_bytes"] == 16 * MIB
    one.stop()
    assert not abandoned()
