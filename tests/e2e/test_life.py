# SPDX-License-Identifier: Apache-2.0
"""How the two processes begin, live and end, what the agent proper may do, and what it prints."""

import contextlib
import fcntl
import json
import os
import pwd
import re
import select
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest
from harness import SANITIZER_REPORT, check_accounting, session_processes, wait_until
from dropwatch import (
    counts,
    drop_all,
    flood,  # noqa: F401 (a fixture)
    flood_program,  # noqa: F401 (a fixture)
    hosts,  # noqa: F401 (a fixture)
    local_time,
)

ESCAPE = "\x1b"
SOURCE_PORT = 65535
TABLE = ("event", "seen", "recorded", "suppressed", "filtered", "lost")
FASTER = "it loses packets faster than other agents can record them"
QUIET = ("--set", "agent.resolve_names=false")


@pytest.fixture
def lose(hosts, flood):  # noqa: F811
    """lose(first, count): drops of `count` different packets in a namespace; returns its inode."""
    client, _ = hosts
    drop_all(client, "cli0")

    def run(first, count):
        flood(client, 4, SOURCE_PORT, first, count, keys=count)
        return client.inode

    return run


def found(one, netns):
    """Where the packets were sent to that were recorded in full."""
    data = [r["tracer_data"] for r in one.records("dropwatch")]
    return [d["dport"] for d in data if d.get("netns") == netns and "repeat" not in d]


def wait_found(one, netns, count):
    wait_until(lambda: len(found(one, netns)) >= count, 20, lambda: f"{count} records: {one.status()}")
    assert len(found(one, netns)) == count


def saved_status(one):
    """What a start after kill -9 would find."""
    with contextlib.closing(sqlite3.connect(f"file:{one.store}/huatuo.db?mode=ro", uri=True)) as db:
        row = db.execute("SELECT text FROM meta WHERE name = 'status'").fetchone()
    return json.loads(row[0]) if row else None


# ---- where standard output goes


@pytest.fixture
def output_to(tmp_path_factory, monkeypatch):
    """output_to(path): the next agents' standard output is this file, pipe or terminal."""
    real = os.environ.get("HUATUO") or Path(__file__).parents[2] / "build-test/huatuo"
    folder = tmp_path_factory.mktemp("output")

    def use(path):
        script = folder / "huatuo"
        script.write_text(
            f'#!/bin/sh\n[ "$1" = run ] && exec "{real}" "$@" >"{path}"\nexec "{real}" "$@"\n'
        )
        script.chmod(0o755)
        monkeypatch.setenv("HUATUO", str(script))

    return use


@pytest.fixture
def terminal(output_to):
    """A terminal for an agent to print on: what was printed so far, as a function."""
    master, slave = os.openpty()
    mode = termios.tcgetattr(slave)
    mode[1] &= ~termios.OPOST  # as it was written, without carriage returns
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    printed = bytearray()

    def read():
        while select.select([master], [], [], 0)[0]:
            printed.extend(os.read(master, 1 << 16))
        return printed.decode()

    output_to(os.ttyname(slave))
    yield read
    os.close(slave)
    os.close(master)


# ---- the end


def rows(text):
    """The table at the end of the output: numbers by kind."""
    lines = [line.split() for line in text.splitlines()]
    at = lines.index(list(TABLE))
    return {words[0]: dict(zip(TABLE[1:], map(int, words[1:]), strict=True)) for words in lines[at + 1 :]}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("whom", ["root part", "both"])
def test_clean_end(agent, lose, number, whom):
    one = agent("--events", "dropwatch", *QUIET, output="text")
    netns = lose(1000, 30)
    begun = time.monotonic()
    if whom == "both":  # as Ctrl-C does
        os.kill(one.proper(), number)
    status = one.stop(number)
    assert time.monotonic() - begun < 12
    wait_found(one, netns, 30)
    count = status["events"]["dropwatch"]
    assert count["state"] == "stopped" and count["lost"] == 0 and count["recorded"] >= 30, count
    assert rows(one.stdout) == {"dropwatch": {name: count[name] for name in TABLE[1:]}}
    assert one.stdout.count(" dropwatch ") >= 30
    # Nothing is left behind that would keep the next one from starting, and it has no complaint.
    two = agent("--events", "dropwatch", *QUIET, store=one.store)
    assert "killed" not in two.stderr
    begun = counts(two)
    assert begun["lost"] == 0 and begun["recorded"] < count["recorded"], "it counts from the beginning"


def test_agent_proper_leaves_the_end_to_the_root_part(agent):
    one = agent("--events", "dropwatch", *QUIET)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(one.proper(), number)
    time.sleep(1)
    assert len(one.processes()) == 2 and one.status()["running"] is True


def test_duration(agent):
    begun = time.monotonic()
    one = agent("--events", "dropwatch", "--duration", "2s", *QUIET, output="text")
    assert one.wait_end() == 0
    assert 2 <= time.monotonic() - begun < 8
    status = one.status()
    assert status["running"] is False and status["ready"] is False
    check_accounting(status)
    assert rows(one.stdout)["dropwatch"]["seen"] == status["events"]["dropwatch"]["seen"]


@pytest.fixture
def deaf_server():
    """A name server that never answers; records wait for their names."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


def waiting(agent, server, **options):
    """An agent whose records wait for ten seconds."""
    sets = ("--set", f"agent.dns_servers={server}", "--set", "agent.resolve_timeout=10s")
    return agent("--events", "dropwatch", *sets, **options)


def test_end_while_records_wait(agent, lose, deaf_server):
    """What is on its way is written at the end, without the details that have not come by then."""
    one = waiting(agent, deaf_server)
    netns = lose(1000, 20)
    wait_until(lambda: counts(one)["unaccounted"] >= 20, 5, "records that wait")
    begun = time.monotonic()
    one.stop()
    assert time.monotonic() - begun < 12
    wait_found(one, netns, 20)


def test_kill_of_the_agent_proper(agent, lose, deaf_server):
    """The root part ends, and the next start says what was lost."""
    one = waiting(agent, deaf_server)
    lose(1000, 20)
    saved = wait_until(
        lambda: (s := saved_status(one)) and s["events"]["dropwatch"]["unaccounted"] >= 20 and s, 8, "a status"
    )
    begun = time.monotonic()
    assert one.kill(one.proper()) == 1
    assert time.monotonic() - begun < 12
    assert "the agent was killed by signal 9" in one.stderr, one.stderr
    status = one.status()
    assert status["running"] is False and status["ready"] is False
    # It may have saved once more before it was killed.
    saved = saved_status(one)["events"]["dropwatch"]
    # And written a record of somebody else's packet after that.
    written = len([r for r in one.records("dropwatch") if "repeat" not in r["tracer_data"]]) - saved["recorded"]
    two = agent("--events", "dropwatch", *QUIET, store=one.store)
    assert "before was killed" in two.stderr and str(one.store) in two.stderr, two.stderr
    count = counts(two)
    assert count["lost_by"] == {"crash": saved["unaccounted"] - written} and count["lost"] >= 20, (count, saved, written)
    two.stop()
    # It is said once.
    three = agent("--events", "dropwatch", *QUIET, store=one.store)
    assert "killed" not in three.stderr and counts(three)["lost"] == 0


def test_kill_of_the_root_part(agent, lose):
    """Its hooks go with it; the agent proper writes what it has, so nothing is lost."""
    one = agent("--events", "dropwatch", *QUIET)
    netns = lose(1000, 50)
    begun = time.monotonic()
    assert one.kill() == -signal.SIGKILL
    assert time.monotonic() - begun < 12
    assert "the root part has gone" in one.stderr, one.stderr
    wait_found(one, netns, 50)
    status = one.status()
    assert status["running"] is False
    check_accounting(status)
    two = agent("--events", "dropwatch", *QUIET, store=one.store)
    said = f"the last run on {one.store} ended because its root part was killed"
    assert said in two.stderr and counts(two)["lost"] == 0, two.stderr


def test_kill_of_the_root_part_while_records_wait(agent, lose, deaf_server):
    """The agent proper does not spin meanwhile, and ends in time."""
    one = waiting(agent, deaf_server)
    pid = one.proper()
    netns = lose(1000, 20)
    wait_until(lambda: counts(one)["unaccounted"] >= 20, 5, "records that wait")

    def cpu_seconds():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    begun, used, last = time.monotonic(), cpu_seconds(), 0
    os.kill(one.pid, signal.SIGKILL)
    one.process.wait()
    while session_processes(one.pid) and time.monotonic() - begun < 15:
        with contextlib.suppress(OSError):
            last = cpu_seconds() - used
        time.sleep(0.05)
    took = time.monotonic() - begun
    one.wait_end()
    assert took < 12
    assert last < 1.5, f"{last} s of CPU time until the end"
    wait_found(one, netns, 20)


@pytest.fixture
def hung(agent, hosts, flood):  # noqa: F811
    """An agent whose loop hangs while thousands of windows close: what the root part has to say to it
    does not fit into the channel."""
    client, _ = hosts
    drop_all(client, "cli0")
    one = agent(
        "--events", "dropwatch", *QUIET,
        "--set", "dropwatch.repeat_limit=1", "--set", "dropwatch.repeat_window=2s",
    )  # fmt: skip
    pid = one.proper()
    os.kill(pid, signal.SIGSTOP)
    for _ in range(2):
        flood(client, 4, SOURCE_PORT, 1000, 4000, keys=4000)
    time.sleep(3.5)
    yield one, pid
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


@pytest.mark.alone(FASTER)
@pytest.mark.parametrize("signals", [1, 2])
def test_end_of_an_agent_that_hangs(hung, signals):
    one, _ = hung
    begun = time.monotonic()
    for _ in range(signals):
        one.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    assert one.wait_end() == 1
    took = time.monotonic() - begun
    assert took < 3 if signals == 2 else 9 < took < 14, "after ten seconds, or at once when asked twice"
    assert "it is killed, and what it had not written is lost" in one.stderr, one.stderr


@pytest.mark.alone(FASTER)
def test_agent_that_hung_and_goes_on(hung):
    """What did not fit was kept, and nothing is missing."""
    one, pid = hung
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: counts(one)["unaccounted"] == 0 and counts(one)["suppressed"] >= 4000, 20, one.status)
    one.stop()
    closing = [r["tracer_data"]["repeat"] for r in one.records("dropwatch") if "repeat" in r["tracer_data"]]
    assert sum(repeat["count"] for repeat in closing) == counts(one)["suppressed"] >= 4000


@pytest.mark.alone(FASTER)
def test_crash_counts_only_what_is_lost(agent, lose):
    """Commits go on between two notes of what is on its way."""
    for nth in range(4):
        one = agent("--events", "dropwatch", *QUIET)
        netns = lose(1000, 3000)
        time.sleep(0.15 * (nth + 1))
        one.kill(one.proper())
        written = len(found(one, netns))
        saved = saved_status(one)["events"]["dropwatch"]
        two = agent("--events", "dropwatch", *QUIET, store=one.store)
        lost = counts(two)["lost_by"].get("crash", 0)
        # Of what was seen when the last note was made, no more can be lost than is not there.
        assert lost <= max(0, saved["seen"] - written), (nth, written, lost, saved)
        two.stop()


# ---- nobody reads


@pytest.mark.parametrize("output", ["text", "json"])
def test_output_that_nobody_reads(agent, lose, output_to, tmp_path_factory, output):
    """As in a terminal that was stopped with Ctrl-S: what is shown waits, what is recorded does not."""
    path = tmp_path_factory.mktemp("pipe") / "stdout"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    output_to(path)
    one = agent("--events", "dropwatch", *QUIET, output=output)
    netns = lose(1000, 500)
    wait_found(one, netns, 500)
    netns = lose(2000, 500)
    wait_found(one, netns, 1000)
    one.wait_settled("dropwatch", 10)
    assert counts(one)["lost"] == 0
    begun = time.monotonic()
    one.stop()  # nor does it keep the agent from ending
    assert time.monotonic() - begun < 8
    os.close(reader)


def test_output_that_is_gone(agent, lose, output_to, tmp_path_factory):
    """As with `huatuo run | head`: it goes on recording."""
    path = tmp_path_factory.mktemp("pipe") / "stdout"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    output_to(path)
    one = agent("--events", "dropwatch", *QUIET, output="text")
    os.close(reader)
    netns = lose(1000, 100)
    wait_found(one, netns, 100)
    netns = lose(2000, 100)
    wait_found(one, netns, 200)
    one.stop()


# ---- privilege


def fields_of(path):
    return dict(line.split(":\t", 1) for line in Path(path).read_text().splitlines() if ":\t" in line)


def links(pid):
    names = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(fd))
    return names


def test_privileges(agent):
    one = agent("--events", "dropwatch")
    try:
        user = pwd.getpwnam("huatuo")
    except KeyError:
        user = pwd.getpwnam("nobody")
    pid = one.proper()
    tasks = [path / "status" for path in Path(f"/proc/{pid}/task").iterdir()]
    assert len(tasks) > 1
    for task in tasks:
        fields = fields_of(task)
        assert fields["Uid"].split() == [str(user.pw_uid)] * 4, task
        assert fields["Gid"].split() == [str(user.pw_gid)] * 4, task
        assert fields["Groups"].strip() == "", task
        for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
            assert int(fields[name], 16) == 0, (task, name, fields[name])
        assert fields["NoNewPrivs"].strip() == "1" and fields["Seccomp"].strip() == "2", task
    # Neither programs nor their links, by which one could take the hooks away.
    assert not [name for name in links(pid) if "bpf-prog" in name or "bpf_link" in name]
    assert one.status()["user"] == user.pw_name

    # The other one keeps its privilege and listens to nobody but its partner.
    assert fields_of(f"/proc/{one.pid}/status")["Uid"].split()[1] == "0"
    assert len([name for name in links(one.pid) if name.startswith("socket:")]) == 1, links(one.pid)
    assert len(list(Path(f"/proc/{one.pid}/task").iterdir())) == 1
    assert (one.store.stat().st_uid, one.store.stat().st_gid) == (user.pw_uid, user.pw_gid)


def test_other_user(agent):
    one = agent("--events", "dropwatch", "--set", "agent.user=daemon")
    user = pwd.getpwnam("daemon")
    assert fields_of(f"/proc/{one.proper()}/status")["Uid"].split() == [str(user.pw_uid)] * 4
    assert one.status()["user"] == "daemon"
    one.stop()
    # Another user on the same store later: it is made theirs, or they say why they can't.
    two = agent("--events", "dropwatch", "--set", "agent.user=no-such-user", ready=False)
    assert two.wait_end() == 1
    assert "no-such-user" in two.stderr, two.stderr


# ---- the beginning


@pytest.mark.alone("it takes the time")
def test_demo_at_once(agent, monkeypatch):
    """What somebody sees who tries it out: it says within two seconds what it watches, and shows a
    record within ten."""
    release = Path(__file__).parents[2] / "build/huatuo"
    slow = 1
    if release.exists():
        monkeypatch.setenv("HUATUO", str(release))
    else:
        slow = 3  # most likely with sanitizers
    begun = time.monotonic()
    one = agent("--demo", output="text", ready=False)
    wait_until(lambda: "watching dropwatch: " in one.stderr, 30, "the first line")
    assert time.monotonic() - begun < 2 * slow
    wait_until(lambda: " was dropped " in one.stdout, 30, "a record")
    assert time.monotonic() - begun < 10 * slow
    one.wait_ready()
    (record,) = [r for r in one.records("dropwatch") if r["tracer_data"]["comm"] == "huatuo"]
    assert record["tracer_data"]["dport"] == 9 and record["tracer_data"]["reason"] == "NO_SOCKET"
    assert record["summary"] in one.stdout


# ---- what is printed


def test_json_output_is_what_list_prints(agent, lose):
    one = agent("--events", "dropwatch", *QUIET, output="json")
    netns = lose(1000, 100)
    wait_found(one, netns, 100)
    one.stop()
    assert one.stdout.encode() == one.huatuo("list", "--json").stdout
    # A second run shows what is new only.
    two = agent("--events", "dropwatch", *QUIET, output="json", store=one.store)
    lose(2000, 10)
    wait_found(two, netns, 110)
    two.stop()
    assert two.stdout and one.stdout + two.stdout == two.huatuo("list", "--json").stdout.decode()


def test_text_output(agent, lose):
    one = agent("--events", "dropwatch", *QUIET, output="text")
    netns = lose(1000, 20)
    wait_found(one, netns, 20)
    one.stop()
    assert ESCAPE not in one.stdout and ESCAPE not in one.stderr
    lines = [line for line in one.stdout.splitlines() if re.match(r"\d\d:\d\d:\d\d\.\d{3} dropwatch ", line)]
    records = one.records()
    assert len(lines) == len(records)
    for line, record in zip(lines, records, strict=True):
        assert line.endswith(record["summary"]), line
        assert line.startswith(record["time"][11:23])
    # Each with its stack.
    stack = "\n".join("    " + frame for frame in records[0]["tracer_data"]["stack"].splitlines())
    assert f"{lines[0]}\n{stack}\n" in one.stdout


@pytest.mark.parametrize("no_colour", ["", "1"])
def test_text_output_on_a_terminal(agent, lose, terminal, no_colour):
    one = agent("--events", "dropwatch", *QUIET, output="text", env={"NO_COLOR": no_colour})
    netns = lose(1000, 5)
    wait_found(one, netns, 5)
    wait_until(lambda: terminal().count("was dropped") >= 5, 5, lambda: terminal())
    assert (ESCAPE in terminal()) == (not no_colour)
    assert (f"{ESCAPE}[1mdropwatch{ESCAPE}[0m" in terminal()) == (not no_colour)
    plain = re.sub(ESCAPE + r"\[[0-9;]*m", "", terminal())
    assert ESCAPE not in plain and plain.count(" dropwatch ") >= 5
    one.stop()


# ---- the wall clock is set


SHIM = r"""
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset_s;

__attribute__((constructor)) static void begin(void)
{
    int fd = open(getenv("CLOCK_OFFSET"), O_RDONLY | O_CLOEXEC);

    offset_s = fd < 0 ? NULL : mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *ret)
{
    static int (*real)(clockid_t, struct timespec *);
    int r;

    if (!real)
        real = dlsym(RTLD_NEXT, "clock_gettime");
    r = real(clock, ret);
    if (clock == CLOCK_REALTIME && offset_s)
        ret->tv_sec += *offset_s;
    return r;
}
"""


@pytest.fixture
def wall_clock(tmp_path):
    """The agent's wall clock, which the test may set: the machine's is not touched. `env` is for the
    agent, `set(seconds)` says how far it is from the machine's."""
    (tmp_path / "shim.c").write_text(SHIM)
    (tmp_path / "offset").write_bytes(bytes(8))
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", "shim.so", "shim.c"]
    subprocess.run(command, cwd=tmp_path, check=True)

    class WallClock:
        env = {
            "LD_PRELOAD": str(tmp_path / "shim.so"),
            "CLOCK_OFFSET": str(tmp_path / "offset"),
            "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0:exitcode=99",
        }

        @staticmethod
        def set(seconds):
            with open(tmp_path / "offset", "r+b") as file:
                file.write(struct.pack("q", seconds))

    return WallClock


def test_wall_clock_is_set(agent, lose, wall_clock, flood, hosts):  # noqa: F811
    """Each event has the time that the clock showed when it happened, not when it was recorded."""
    client, _ = hosts
    window = ("--set", "dropwatch.repeat_window=3s")
    one = agent("--events", "dropwatch", *QUIET, *window, env=wall_clock.env)
    expected, repeated = [], []
    for nth, offset in enumerate((0, 3600, -7200, 0)):
        wall_clock.set(offset)
        time.sleep(1.5)  # it is looked at once a second
        before = time.time() + offset
        netns = lose(1000 + nth, 1)
        # The closing record of these is written when the clock shows something else already.
        flood(client, 4, SOURCE_PORT, 2000 + nth, 15)
        after = time.time() + offset
        expected.append((1000 + nth, before, after))
        repeated.append((before, after))
        wait_found(one, netns, 11 * (nth + 1))
        time.sleep(1.2)  # the kernel does not tell of this clock, so it is known by looking only
    wait_until(lambda: len(closing(one, netns)) == 4, 15, "the closing records")
    times = {
        r["tracer_data"]["dport"]: local_time(r["time"]).timestamp()
        for r in one.records("dropwatch")
        if r["tracer_data"].get("netns") == netns and "repeat" not in r["tracer_data"]
    }
    for port, before, after in expected:
        assert before - 0.002 <= times[port] <= after + 0.002, (port, times[port] - before)
    for record, (before, after) in zip(closing(one, netns), repeated, strict=True):
        for name in ("first_time", "last_time"):
            when = local_time(record["tracer_data"]["repeat"][name]).timestamp()
            assert before - 0.002 <= when <= after + 0.002, (name, when - before)
    one.stop()


def closing(one, netns):
    """In the order in which they were written."""
    return [r for r in one.records("dropwatch", match=str(netns)) if "repeat" in r["tracer_data"]]


# ---- where the store is


@pytest.fixture
def folder():
    """A directory that everybody may look into."""
    path = Path(f"/tmp/huatuo-e2e-{os.getpid()}-folder")
    path.mkdir(mode=0o755)
    yield path
    shutil.rmtree(path)


HOSTILE = [
    "with space",
    "%s%n%999999d",
    "'; DROP TABLE records; --",
    '"$(touch was-here)`',
    "?mode=memory&cache=shared#x",
    "雪 ☃",
    "-f",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_store_path(folder, agent, lose, name):
    one = agent("--events", "dropwatch", *QUIET, store=folder / name)
    netns = lose(1000, 5)
    wait_found(one, netns, 5)
    assert one.status()["running"] is True
    one.stop()
    assert (folder / name / "huatuo.db").exists() and (folder / name / "records/dropwatch").exists()
    assert [path.name for path in folder.iterdir()] == [name]


def run_briefly(*arguments, cwd):
    """`huatuo` that is expected to end by itself."""
    binary = os.environ.get("HUATUO") or Path(__file__).parents[2] / "build-test/huatuo"
    done = subprocess.run(
        [Path(binary).resolve(), *arguments], capture_output=True, cwd=cwd, timeout=60, check=False
    )
    assert not SANITIZER_REPORT.search(done.stderr.decode(errors="replace")), done.stderr
    return done


RELATIVE = ["here", "file:here?mode=memory&cache=shared", "deep/er/../er/here", "./x//y/"]


@pytest.mark.parametrize("name", RELATIVE)
def test_relative_store_path(folder, name):
    (folder / "deep").mkdir()
    done = run_briefly("run", "--store", name, "--output", "none", "--demo", "--duration", "1s", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / name / "huatuo.db").exists()
    listed = run_briefly("list", "--store", name, "--json", cwd=folder)
    assert listed.returncode == 0 and b"NO_SOCKET" in listed.stdout
    assert run_briefly("status", "--store", name, cwd=folder).returncode == 0


def test_store_path_with_control_characters(folder):
    done = run_briefly("run", "--store", "a\x1b[2Jb\nc", cwd=folder)
    assert done.returncode == 2
    assert b"\x1b" not in done.stderr and b"control character" in done.stderr, done.stderr
    assert not list(folder.iterdir())


def test_store_path_that_cannot_be(folder):
    (folder / "file").write_text("x")
    for path in ("file", "file/below", "x" * 5000, "/" + "y/" * 2100):
        done = run_briefly("run", "--store", path, cwd=folder)
        assert done.returncode == 1, (path, done.stderr)
        assert b"error: " in done.stderr and b"store" in done.stderr, done.stderr
    assert (folder / "file").read_text() == "x"


def test_store_path_that_is_a_symbolic_link(folder):
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    done = run_briefly("run", "--store", str(folder / "link"), cwd=folder)
    assert done.returncode == 1
    assert b"link is a symbolic link" in done.stderr and b"Not a directory" not in done.stderr, done.stderr
    assert not list((folder / "real").iterdir())


def test_store_that_nobody_can_reach(folder):
    """The agent's user has to get through: the message says which directory is in the way."""
    (folder / "private").mkdir(mode=0o700)
    done = run_briefly("run", "--store", str(folder / "private/store"), cwd=folder)
    assert done.returncode == 1
    assert f"{folder}/private/store: Permission denied" in done.stderr.decode(), done.stderr


def test_long_store_path(folder, agent, lose):
    """Longer than a socket's path may be (107 bytes)."""
    one = agent("--events", "dropwatch", *QUIET, store=folder / ("long" * 40), ready=False)
    wait_until(lambda: "watching dropwatch: " in one.stderr, 30, "the first line")
    netns = lose(1000, 5)
    wait_found(one, netns, 5)
    status = one.status()
    assert status["running"] is True and status["ready"] is True, status
    one.stop()


@pytest.mark.parametrize("what", ["directory", "link"])
def test_directory_of_others_is_not_given_away(folder, what):
    """A mistyped --store must not make root hand somebody's directory to the agent's user."""
    others = folder / "others"
    others.mkdir(mode=0o755)
    (others / "letter").write_text("dear")
    store = others
    if what == "link":
        store = folder / "link"
        store.symlink_to(others)
    before = others.stat()
    done = run_briefly("run", "--store", str(store), "--duration", "1s", "--output", "none", cwd=folder)
    assert (others.stat().st_uid, others.stat().st_mode) == (before.st_uid, before.st_mode)
    assert [path.name for path in others.iterdir()] == ["letter"]
    assert done.returncode == 1 and str(store).encode() in done.stderr, done.stderr


def test_directory_of_a_disk_of_its_own(folder):
    """What mkfs leaves in the root of a new file system is nobody's."""
    (folder / "store/lost+found").mkdir(mode=0o700, parents=True)
    done = run_briefly("run", "--store", "store", "--duration", "1s", "--output", "none", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "store/huatuo.db").exists() and (folder / "store/lost+found").stat().st_uid == 0
