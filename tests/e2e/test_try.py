# SPDX-License-Identifier: Apache-2.0
"""try: real events are provoked, and whether the agent recorded them is said; if not, why."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import SANITIZER_OPTIONS, SANITIZER_REPORT, patience, session_processes, wait_until
from memory import abandoned, memory_hierarchy

USAGE = 2
PLACE = "127.0.0.1:9 "


def huatuo_try(*words, through=(), store=None):
    binary = os.environ.get("HUATUO") or Path(__file__).parents[2] / "build-test/huatuo"
    done = subprocess.run(
        [*through, binary, "try", *map(str, words), *(["--store", str(store)] if store else [])],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **SANITIZER_OPTIONS},
        timeout=patience(90),
        check=False,
    )
    assert not SANITIZER_REPORT.search(done.stderr), done.stderr
    return done.returncode, done.stdout, done.stderr


def outcomes(output):
    return {line["event"]: line for line in map(json.loads, output.splitlines())}


def start(agent, **options):
    sets = [word for key, value in options.items() for word in ("--set", f"dropwatch.{key}={value}")]
    # Whoever tries all of them does not want to wait for the patience of hungtask.
    return agent("--set", "agent.resolve_names=false", "--set", "hungtask.threshold=1s", *sets)


@pytest.mark.parametrize("words", [[], ["dropwatch"]], ids=["all", "named"])
def test_recorded(agent, words):
    one = start(agent)
    found = []
    for _ in range(2):  # each is told from the others
        code, output, errors = huatuo_try(*words, "--json", store=one.store)
        assert code == 0 and not errors, (output, errors)
        line = outcomes(output)["dropwatch"]
        assert set(line) == {"event", "outcome", "id", "summary"} and line["outcome"] == "recorded"
        found.append(line["id"])
        record = json.loads(one.huatuo("show", line["id"], "--json").stdout)
        assert record["summary"] == line["summary"] and PLACE in record["summary"]
        assert record["tracer_name"] == "dropwatch"
        # It happened in a namespace of its own, and nowhere else.
        assert record["tracer_data"]["netns"] != os.stat("/proc/self/ns/net").st_ino
    assert len(set(found)) == 2
    code, output, errors = huatuo_try(*words, store=one.store)
    assert code == 0 and not errors
    assert "dropwatch      recorded: " in output and PLACE in output


def test_told_from_others(agent, netns):
    """While others lose packets all the time, the record is that of what was provoked."""
    one = start(agent)
    busy = netns("busy")
    flood = """
import socket, time
for port in range(1000, 11000):
    with socket.socket() as s:
        s.connect_ex(("127.0.0.1", port))
    time.sleep(0.002)
"""
    with busy, subprocess.Popen([sys.executable, "-c", flood]) as process:
        try:
            one.wait_records(lambda record: record["tracer_data"]["netns"] == busy.inode, event="dropwatch", limit=5)
            code, output, errors = huatuo_try("dropwatch", "--json", store=one.store)
        finally:
            process.kill()
    line = outcomes(output)["dropwatch"]
    assert code == 0 and not errors, line
    record = json.loads(one.huatuo("show", line["id"], "--json").stdout)
    assert record["tracer_data"]["netns"] != busy.inode and PLACE in record["summary"], record


def test_no_agent(agent, tmp_path):
    code, output, errors = huatuo_try(store=tmp_path / "nowhere")
    assert (code, output) == (1, "") and "no agent runs" in errors and "huatuo run" in errors
    one = start(agent)
    one.stop()
    code, output, errors = huatuo_try("dropwatch", "--json", store=one.store)
    assert (code, output) == (1, "") and "no agent runs" in errors


def test_agent_that_does_not_answer(agent):
    one = start(agent)
    (child,) = [pid for pid in one.processes() if pid != one.pid]
    os.kill(child, signal.SIGSTOP)
    try:
        began = time.monotonic()
        code, output, errors = huatuo_try(store=one.store)
        assert (code, output) == (1, "") and "does not answer" in errors
        assert time.monotonic() - began < 15
    finally:
        os.kill(child, signal.SIGCONT)


def test_not_root(agent):
    one = start(agent)
    through = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    done = subprocess.run([*through, "test", "-x", str(one.binary)], check=False)
    if done.returncode != 0:
        pytest.skip("others than root cannot get at the program here")
    code, output, errors = huatuo_try(store=one.store, through=through)
    assert (code, output) == (1, "") and "root" in errors


def test_wrong_words(tmp_path):
    code, output, errors = huatuo_try("dropwach")
    assert (code, output) == (USAGE, "") and "perhaps you mean dropwatch" in errors
    assert huatuo_try("--jsn")[0] == USAGE
    assert not list(tmp_path.iterdir())


def test_switched_off(agent):
    one = start(agent, enabled="no")
    for words in ([], ["dropwatch"]):
        code, output, _ = huatuo_try(*words, "--json", store=one.store)
        line = outcomes(output)["dropwatch"]
        assert code == 1 and line["outcome"] == "not watched" and "off" in line["reason"], line


def test_failed(agent):
    ways = [row["way"] for row in start(agent).status()["events"]["dropwatch"]["hooks"]]
    one = start(agent, hooks_off=",".join(ways))
    code, output, _ = huatuo_try("--json", store=one.store)
    line = outcomes(output)["dropwatch"]
    assert code == 1 and line["outcome"] == "not watched"
    assert "failed" in line["reason"] and "hooks_off" in line["reason"], line


def test_filtered(agent):
    """Not recorded: then what was counted meanwhile is said."""
    one = start(agent, ignore="mine: reason=NO_SOCKET dport=9")
    code, output, errors = huatuo_try("dropwatch", "--json", store=one.store)
    line = outcomes(output)["dropwatch"]
    assert code == 1 and not errors and line["outcome"] == "not recorded"
    assert re.search(r"filtered [1-9][0-9]* by mine", line["reason"]), line
    assert "id" not in line


def test_not_provokable_here(agent):
    one = start(agent)
    through = ("setpriv", "--bounding-set=-sys_admin")
    code, output, errors = huatuo_try("dropwatch", "--json", store=one.store, through=through)
    line = outcomes(output)["dropwatch"]
    assert code == 1 and not errors and line["outcome"] == "not provoked"
    assert "CAP_SYS_ADMIN" in line["reason"]


def test_nothing_is_left(agent):
    one = start(agent)
    spaces = set(os.listdir("/proc/self/ns"))
    with subprocess.Popen(
        [one.binary, "try", "--store", str(one.store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=one.env,
        start_new_session=True,
    ) as process:
        assert process.wait(60) == 0
        assert not session_processes(process.pid)
    assert set(os.listdir("/proc/self/ns")) == spaces


def test_demo_that_is_cut_short(agent):
    """The agent ends while its processes reclaim and hang: nothing is watched from then on, they end, too, and
    their cgroups are removed."""
    if not memory_hierarchy():
        pytest.skip("no memory controller is mounted")
    one = agent("--demo", "--set", "agent.resolve_names=false")

    def made():
        return [path for path in memory_hierarchy()[0].glob("huatuo-try-*") if path.name.rpartition("-")[2] in family(one.pid)]

    wait_until(made, 20, "a cgroup of its own")
    (folder, *_) = made()
    assert hooks_of(one.pid) and not any(map(hooks_of, family(one.pid)))
    one.stop()
    assert not folder.exists() and not abandoned()


def hooks_of(pid):
    """The descriptors of a process that keep hooks attached. Perf events are left out: the agent proper switches
    them on and off."""
    found = []
    with contextlib.suppress(OSError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(os.readlink(fd))
    return [name for name in found if name == "anon_inode:bpf_link"]


def family(pid):
    """All descendants of a process, as they are written."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += [child, *family(child)]
    return found


def test_output_that_does_not_arrive(agent):
    one = start(agent)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [one.binary, "try", "--store", str(one.store)], stdout=full, stderr=subprocess.PIPE, env=one.env, check=False
        )
    assert done.returncode == 1 and b"No space left" in done.stderr
