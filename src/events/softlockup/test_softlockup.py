# SPDX-License-Identifier: Apache-2.0
"""softlockup: a CPU really held in the kernel until the kernel's own watchdog reports it, compared with what
the test, the kernel's log and its counters know."""

import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from harness import patience, wait_until

KERNEL = Path("/proc/sys/kernel")
COUNT = Path("/sys/kernel/softlockup_count")  # 6.17 and later
TAINT_SOFTLOCKUP = 1 << 14
THRESH_S = 1  # of the watchdog: it reports after twice that
TWO_REPORTS_MS, ONE_REPORT_MS = 6500, 4000
SLACK_MS = 1500  # what the watchdog counts are whole numbers of 1.07 s, from its last look on
RECORDED_WITHIN_S = patience(1)
HOSTILE = b"BUG: soft locku"  # as long as the name of a process can be
LINE = "watchdog: BUG: soft lockup - CPU#{cpu} stuck for {seconds}s! [{comm}:{pid}]"
FRAME = re.compile(r"^([^\s/]+/[0-9a-f]{8,16} \[[^\s\]]+\]|(0x)?[0-9a-f]{8,16})$")
REPORT_WAYS = ("tp_btf/console", "raw_tp/console", "fentry/add_taint", "kprobe/add_taint")


def why_no_watchdog():
    switch = KERNEL / "soft_watchdog"
    if not switch.exists():
        return "this kernel has no soft lockup detector (CONFIG_SOFTLOCKUP_DETECTOR)"
    if switch.read_text().strip() != "1":
        return "the soft lockup detector is switched off (kernel.soft_watchdog)"
    if (KERNEL / "softlockup_panic").read_text().strip() != "0":
        return "a soft lockup would take this machine down (kernel.softlockup_panic)"
    if os.cpu_count() < 2:
        return "there is but one CPU, and that would be locked up"
    return None


needs_watchdog = pytest.mark.skipif(why_no_watchdog() is not None, reason=str(why_no_watchdog()))
holds_a_cpu = pytest.mark.alone("it holds a CPU for seconds")


@pytest.fixture
def watchdog():
    """It looks soon, while the test lasts."""
    thresh = KERNEL / "watchdog_thresh"
    before = thresh.read_text()
    thresh.write_text(str(THRESH_S))
    yield
    thresh.write_text(before)


@contextlib.contextmanager
def in_use(cpu):
    """Somebody runs there. (Some machines run no timer of perf on a CPU that has fallen idle: seen on 6.18.)"""
    one = subprocess.Popen(["taskset", "--cpu-list", str(cpu), "sh", "-c", "while :; do :; done"])
    try:
        yield
    finally:
        one.kill()
        one.wait()


def burn(cpu, name=b"e2e-burn", ms=TWO_REPORTS_MS):
    """Holds the CPU in a softirq; (pid, for how many ms, between which times)."""
    command = [os.path.join(os.environ["HUATUO_FAULTS"], "burn"), "softirq", str(ms), str(cpu), name]
    begin = time.time()
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    end = time.time()
    pid, burnt_ms = map(int, done.stdout.split())
    assert burnt_ms >= ms, f"this machine burns {burnt_ms} ms only: more rounds are needed in burn.bpf.c"
    with in_use(cpu):
        time.sleep(1)
    return pid, burnt_ms, begin, end


def say(text):
    """Into the kernel's log, loud enough for any console; how much one may say is counted by descriptor."""
    fd = os.open("/dev/kmsg", os.O_WRONLY)
    try:
        os.write(fd, b"<0>" + text.encode())
    finally:
        os.close(fd)


def seconds_of(time_text):
    return datetime.datetime.strptime(time_text, "%Y-%m-%d %H:%M:%S.%f %z").timestamp()


def written_at(record):
    text = record["uploaded_time"]  # with nanoseconds, which Python does not read
    return datetime.datetime.fromisoformat(text[:26] + text[29:]).timestamp()


def counts(one):
    return one.status()["events"]["softlockup"]


def kernel_count():
    return int(COUNT.read_text()) if COUNT.exists() else None


def full_and_closing(one, pid):
    """The records of a lockup in that process, when it is over."""
    found = one.wait_records(
        lambda r: r["tracer_data"].get("pid") == pid and "ended" in r["tracer_data"], event="softlockup", timeout=30
    )
    of_it = [r for r in one.records("softlockup") if r["tracer_data"].get("pid") == pid]
    (full,) = [r for r in of_it if "repeat" not in r["tracer_data"]]
    (closing,) = [r for r in of_it if "repeat" in r["tracer_data"]]
    assert found == [closing]
    return full, closing


def paragraphs(cpus_stack):
    """{CPU: (title, frames)}"""
    cpus = {}
    for paragraph in cpus_stack.split("\n\n"):
        title, *frames = paragraph.split("\n")
        number, what = re.fullmatch(r"CPU (\d+): (.*)", title).groups()
        assert all(FRAME.match(frame) for frame in frames), frames
        cpus[int(number)] = (what, frames)
    return cpus


def online():
    stat = Path("/proc/stat").read_text()
    return {int(n) for n in re.findall(r"^cpu(\d+)", stat, re.M)}


# ---- the tests


@pytest.mark.matrix
@holds_a_cpu
@needs_watchdog
def test_lockup(agent, watchdog):
    """A process that is called like the kernel's own message."""
    cpu = os.cpu_count() - 1
    one = agent("--events", "softlockup")
    before = kernel_count()
    pid, ms, begin, end = burn(cpu, HOSTILE)
    full, closing = full_and_closing(one, pid)
    comm = HOSTILE.decode()

    data = full["tracer_data"]
    assert list(data)[:3] == ["cpu", "pid", "comm"]
    assert (data["cpu"], data["pid"], data["tid"], data["comm"]) == (cpu, pid, pid, comm)
    assert data["context"] == "softirq" and data["verified"] is True
    assert full["tracer_name"] == "softlockup" and full["tracer_type"] == "auto"
    process = full["process"]
    assert (process["pid"], process["uid"], process["ppid"], process["comm"]) == (pid, 0, os.getpid(), comm)

    # What the kernel has written, and when.
    pattern = re.escape(LINE).replace(r"\{", "{").replace(r"\}", "}")
    said = re.fullmatch(pattern.format(cpu=cpu, seconds=r"(\d+)", comm=re.escape(comm), pid=pid), data["message"])
    assert said, data["message"]
    assert data["duration_ms"] == (int(said[1]) << 30) // 1000000
    assert 2000 * THRESH_S <= data["duration_ms"] + SLACK_MS
    noticed = seconds_of(full["time"])
    assert begin < noticed < end
    assert written_at(full) - noticed < RECORDED_WITHIN_S

    # The culprit's own stack: from where it burns, without the interrupt in which it was found.
    frames = data["stack"].split("\n")
    assert all(FRAME.match(frame) for frame in frames), frames
    names = [frame.partition("/")[0] for frame in frames]
    assert "watchdog_timer_fn" not in names and not any(name.startswith("asm_sysvec") for name in names)
    assert {"sk_filter_trim_cap", "udp_sendmsg"} < set(names), names
    assert re.fullmatch(
        rf"CPU {cpu} has been locked up for \d s in {re.escape(names[0])}, in a softirq that interrupts "
        rf"{re.escape(comm)}\[{pid}\]: it schedules nothing else",
        full["summary"],
    ), full["summary"]

    # What all CPUs did, the locked up one among them.
    assert "incomplete" not in data, data
    cpus = paragraphs(data["cpus_stack"])
    missing = {row["cpu"] for row in data.get("cpus_missing", [])}
    assert set(cpus) | missing == online() and not set(cpus) & missing
    assert cpus[cpu] == (f"{comm}[{pid}]", frames)
    assert set(cpus) == online(), data["cpus_missing"]

    # One episode, with its whole duration.
    data = closing["tracer_data"]
    assert data["repeat"]["of"] == full["tracer_id"]
    assert data["ended"] is True
    late_ms = 1000 * (end - begin) - ms + SLACK_MS  # the end, too, is seen late where the CPU has others to serve
    assert ms <= data["duration_ms"] + 100 and data["duration_ms"] < ms + SLACK_MS + late_ms, data
    assert closing["summary"].endswith(full["summary"]) and closing["summary"].startswith("over after ")

    # As often as the kernel says. (It may have been right about others, where CPUs are emulated.)
    status = one.stop()["events"]["softlockup"]
    repeats = [r["tracer_data"].get("repeat") for r in one.records("softlockup")]
    assert status["recorded"] == repeats.count(None) and status["lost"] == 0, status
    assert status["suppressed"] == sum(repeat["count"] for repeat in repeats if repeat), (status, repeats)
    assert status["filtered"] == status["filtered_by"]["not_watchdog"], status
    if before is not None:
        assert kernel_count() - before == status["seen"] - status["filtered"]
    assert int((KERNEL / "tainted").read_text()) & TAINT_SOFTLOCKUP


@holds_a_cpu
@needs_watchdog
def test_late_look(agent, watchdog):
    """An agent that comes to look when it is over long ago does not say that it has lasted until then."""
    cpu = os.cpu_count() - 1
    one = agent("--events", "softlockup")
    os.kill(one.proper(), signal.SIGSTOP)
    try:
        pid, ms, _, _ = burn(cpu, ms=ONE_REPORT_MS)
        time.sleep(2 * ONE_REPORT_MS / 1000)
    finally:
        os.kill(one.proper(), signal.SIGCONT)
    with in_use(cpu):
        full, closing = full_and_closing(one, pid)
    assert closing["tracer_data"]["ended"] is True
    # Nobody has seen it after its one report.
    assert closing["tracer_data"]["duration_ms"] == full["tracer_data"]["duration_ms"] < ms + SLACK_MS, (full, closing)


@pytest.mark.matrix
def test_forged(agent):
    """Who may write into the kernel's log can write the line, but is not the watchdog."""
    one = agent("--events", "softlockup")
    forged = 0
    for cpu in [*range(os.cpu_count()), 4095]:
        line = LINE.format(cpu=cpu, seconds=22, comm="innocent", pid=os.getpid())
        for text in (line, line + "\n"):
            say(text)
            forged += 1
    # Not even these.
    say("soft lockup - CPU#0 stuck for 22s!")
    say(LINE.format(cpu=4096, seconds=22, comm="x", pid=1))
    say("Comm: " + LINE.format(cpu=0, seconds=22, comm="x", pid=1))
    wait_until(lambda: counts(one)["seen"] >= forged, 15, lambda: one.counts_of(counts(one)))
    time.sleep(1)
    assert one.records("softlockup") == []
    status = one.stop()["events"]["softlockup"]
    assert (status["seen"], status["filtered"], status["filtered_by"]["not_watchdog"]) == (forged,) * 3, status


@holds_a_cpu
@needs_watchdog
def test_ways(agent, watchdog):
    """Each way to notice one, all at the same lockup."""
    cpu = os.cpu_count() - 1
    agents = {}
    for way in REPORT_WAYS:
        off = ",".join(other for other in REPORT_WAYS if other != way)
        agents[way] = agent("--events", "softlockup", "--set", f"softlockup.hooks_off={off}", ready=False)
    for way, one in list(agents.items()):
        wait_until(lambda one=one: one.process.poll() is not None or is_ready(one), 90, f"{way} to be tried")
        if one.process.poll() is not None:
            # A kernel may refuse it, and says why.
            assert f"the hook {way} was refused (" in one.stderr, one.stderr
            one.forget()
            del agents[way]
    assert set(agents) >= set(REPORT_WAYS[:2]), agents

    pid = burn(cpu, ms=ONE_REPORT_MS)[0]
    for way, one in agents.items():
        full, closing = full_and_closing(one, pid)
        data = full["tracer_data"]
        assert data["cpu"] == cpu and data["verified"] is True, way
        assert data["duration_ms"] >= 2000 * THRESH_S - SLACK_MS, way
        assert "udp_sendmsg" in data["stack"], way
        assert cpu in paragraphs(data["cpus_stack"]), way
        assert ("message" in data) == (way in REPORT_WAYS[:2]), way
        assert closing["tracer_data"]["ended"] is True, way


@holds_a_cpu
@needs_watchdog
def test_options(agent, watchdog):
    """Two lockups are two, also after the configuration was read again; what is switched off is not done."""
    cpu = os.cpu_count() - 1
    short = agent("--events", "softlockup", "--set", "softlockup.min_duration=1h", ready=False)
    plain = agent(
        "--events", "softlockup", "--set", "softlockup.cpu_stacks=no",
        "--set", "softlockup.hooks_off=perf_event/end", "--set", "softlockup.repeat_window=5s", ready=False,
    )  # fmt: skip
    one = agent("--events", "softlockup")
    short.wait_ready()
    plain.wait_ready()

    before = kernel_count()
    pids = []
    for _ in range(2):
        pids.append(burn(cpu, ms=ONE_REPORT_MS)[0])
        one.wait_records(lambda r: r["tracer_data"].get("pid") == pids[-1], event="softlockup")
        one.reload()
    for pid in pids:
        full, closing = full_and_closing(one, pid)
        assert set(paragraphs(full["tracer_data"]["cpus_stack"])) == online(), full["tracer_data"].get("cpus_missing")
        assert closing["tracer_data"]["ended"] is True
    status = one.stop()["events"]["softlockup"]
    assert status["recorded"] >= 2 and status["lost"] == 0, status
    if before is not None:
        assert status["seen"] - status["filtered"] == kernel_count() - before, status

    records = [r["tracer_data"] for r in plain.records("softlockup") if r["tracer_data"].get("pid") in pids]
    full = [data for data in records if "repeat" not in data]
    assert len(full) == 2 and not any("cpus_stack" in data or "cpus_missing" in data for data in full)
    # Its end is not seen: it is over when nothing has been reported for some time.
    for data in records:
        assert "repeat" not in data or data["ended"] is False
    status = short.stop()["events"]["softlockup"]
    assert status["recorded"] == 0 and status["filtered_by"]["min_duration"] == status["seen"] >= 2, status


def is_ready(one):
    done = one.huatuo("status", "--json", check=False)
    return done.returncode == 0 and json.loads(done.stdout)["ready"] is True


def test_try_does_not(agent):
    """It cannot be provoked without harm, and says so."""
    one = agent("--events", "softlockup")
    done = one.huatuo("try", "softlockup", check=False)
    assert "cannot be provoked" in (done.stdout + done.stderr).decode(), done
    assert one.records("softlockup") == []
