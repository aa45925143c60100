# SPDX-License-Identifier: Apache-2.0
"""The harness itself: tests that rely on it can fail, because it can."""

import os
import socket
import subprocess
import sys
import textwrap

import harness
import pytest
from harness import check_accounting, in_netns, session_processes, veth, wait_until

# Behaves like the agent's command line; FAULT says what goes wrong.
DOUBLE = """
    import json, os, pathlib, signal, subprocess, sys
    fault, store = os.environ.get("FAULT", ""), pathlib.Path(sys.argv[3])
    def status(running):
        lost = {"ring_full": 1 if fault == "by_cause" else 2}
        kind = dict(seen=10, recorded=5, suppressed=2, filtered=1, filtered_by={"own": 1}, lost=2,
                    lost_by=lost, unaccounted=0)
        if fault == "unbalanced":
            kind["recorded"] = 4
        ready = running and fault != "never_ready"
        text = json.dumps({"running": running, "ready": ready, "events": {"dropwatch": kind}})
        # Whoever asks meanwhile finds the one or the other, not half of it.
        (store / "status.new").write_text(text)
        (store / "status.new").rename(store / "status")
    def end(*_):
        if fault == "sanitizer":
            print("x.c:1:2: runtime error: signed integer overflow", file=sys.stderr, flush=True)
        if fault != "leaves_child":
            child.kill()
        status(False)
        os._exit(3 if fault == "exit" else 0)
    if sys.argv[1] == "status":
        print((store / "status").read_text())
    elif sys.argv[1] == "list":
        assert sys.argv[4:] == ["--json", "--event", "oom", "--event", "dropwatch", "--since", "1m"]
        print('{"tracer_name": "oom"}\\\\n{"tracer_name": "dropwatch"}')
    elif fault == "dies":
        sys.exit("cannot work here")
    else:
        store.mkdir()
        child = subprocess.Popen(["sleep", "1000"])
        signal.signal(signal.SIGTERM, end)
        status(True)
        while True:
            signal.pause()
"""


@pytest.fixture
def double(tmp_path, monkeypatch):
    program = tmp_path / "huatuo"
    program.write_text(f"#!{sys.executable}\n" + textwrap.dedent(DOUBLE).replace("\\\\n", "\\n"))
    program.chmod(0o755)
    monkeypatch.setenv("HUATUO", str(program))
    return program


def test_agent_runs_is_asked_and_stops(double, agent):
    one = agent("--events", "dropwatch", output="json")
    assert one.process.args[1:] == [
        "run", "--store", str(one.store), "--output", "json", "--events", "dropwatch"
    ]  # fmt: skip
    assert one.status()["running"] is True
    assert len(one.processes()) == 2
    kinds = ["oom", "dropwatch"]
    assert [r["tracer_name"] for r in one.records(event=kinds, since="1m")] == kinds
    found = one.wait_records(lambda r: r["tracer_name"] == "oom", event=kinds, since="1m")
    assert found == [{"tracer_name": "oom"}]
    with pytest.raises(pytest.fail.Exception, match="the last of 2:\n.*oom.*\n.*dropwatch"):
        one.wait_records(lambda r: False, timeout=0, event=kinds, since="1m")
    assert one.stop()["running"] is False
    assert not one.processes()


@pytest.mark.parametrize(
    "fault, complaint",
    [
        ("unbalanced", "dropwatch: seen 10, {'recorded': 4,"),
        ("by_cause", "dropwatch: lost 2, but by cause {'ring_full': 1}"),
        ("sanitizer", "runtime error: signed integer overflow"),
        ("exit", "the agent ended with 3 after signal 15"),
    ],
)
def test_a_bad_end_is_noticed(double, agent, fault, complaint):
    one = agent(env={"FAULT": fault})
    with pytest.raises(AssertionError) as failure:
        one.stop()
    assert complaint in str(failure.value)


def test_a_process_left_behind_is_noticed_and_killed(double, agent):
    one = agent(env={"FAULT": "leaves_child"})
    with pytest.raises(pytest.fail.Exception, match="in vain for: the end of"):
        one.process.terminate()
        one.wait_end(timeout=3)
    assert not one.processes()


def test_kill_ends_one_process_and_waits_for_the_others(double, agent):
    one = agent()
    partner = next(pid for pid in one.processes() if pid != one.pid)
    os.kill(partner, 9)
    wait_until(lambda: one.processes() == [one.pid], 5, "the partner's end")
    assert one.kill() == -9


def test_kill_complains_if_the_others_live_on(double, agent, monkeypatch):
    one = agent()
    monkeypatch.setattr(harness, "STOP_TIMEOUT_S", 1)
    with pytest.raises(pytest.fail.Exception, match="in vain for: the end of"):
        one.kill()
    assert not one.processes()


@pytest.mark.parametrize(
    "fault, complaint", [("never_ready", '"ready": false'), ("dies", "cannot work here")]
)
def test_an_agent_that_is_never_ready_is_given_up(double, agent, fault, complaint):
    one = agent(env={"FAULT": fault}, ready=False)
    with pytest.raises(pytest.fail.Exception, match=complaint):
        one.wait_ready(timeout=1)
    one.forget()
    assert not session_processes(one.pid)


def test_a_running_agent_has_to_balance_in_time(double, agent):
    assert agent().wait_balance(timeout=1)["running"] is True
    one = agent(env={"FAULT": "unbalanced"})
    with pytest.raises(pytest.fail.Exception, match="seen 10, {'recorded': 4,"):
        one.wait_balance(timeout=1)
    one.forget()


def test_a_status_without_kinds_proves_nothing():
    with pytest.raises(AssertionError, match="knows no event kind"):
        check_accounting({"events": {}})


def test_an_agent_still_running_is_stopped_with_all_checks(double, inner_pytest):
    code, output = inner_pytest(
        """
        def test_forgets_to_stop(agent):
            agent(env={"FAULT": "unbalanced"})
        """
    )
    assert code == 1 and "the accounts don't balance" in output, output


@pytest.fixture
def inner_pytest(tmp_path):
    """Runs a test file with this harness in a pytest of its own; returns exit code and output."""
    def run(text):
        file = tmp_path / "test_inner.py"
        file.write_text(textwrap.dedent(text))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "harness", file],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.path.dirname(__file__)},
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


RESULTS = """<testsuites><testsuite>
<testcase classname="a" name="1"/>
<testcase classname="a" name="2"><failure message="x"/></testcase>
<testcase classname="a" name="3"><skipped message="user namespaces may not be made here"/></testcase>
<testcase classname="a" name="4"><skipped message="nobody knows why"/></testcase>
<testcase classname="a" name="5"><skipped/><system-out>test_cmocka</system-out></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize("ci, counts", [("", "1 1 3"), ("true", "1 3 1")])
def test_ci_counts_what_was_skipped(tmp_path, ci, counts):
    """As a failure, unless the reason is known."""
    (tmp_path / "x.xml").write_text(RESULTS)
    program = os.path.join(os.path.dirname(__file__), "../count.py")
    command = [sys.executable, program, tmp_path / "x.xml"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CI": ci}, check=True)
    assert done.stdout == counts + "\n"
    lines = done.stderr.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["a.3", "a.4", "a.5"]
    assert "nobody knows why" in lines[1] and "test_cmocka" in lines[2]
    assert ["a failure" in line for line in lines] == [False, ci == "true", ci == "true"]


# ---- network namespaces


def network_of(pid="self"):
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def test_in_netns_is_another_process_in_the_namespace(netns):
    ns, before = netns("a"), network_of()
    pid, inode, name = in_netns(ns, lambda x: (os.getpid(), network_of(), x), "bytes \0")
    assert (inode, name) == (ns.inode, "bytes \0")
    assert pid != os.getpid() and network_of() == before != inode


def test_in_netns_hands_back_failures(netns):
    ns = netns("a")
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        in_netns(ns, lambda: 1 // 0)
    with pytest.raises(AssertionError, match="pickle"):
        in_netns(ns, lambda: lambda: None)
    with pytest.raises(AssertionError, match="without an answer"):
        in_netns(ns, lambda: os.kill(os.getpid(), 9))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_packets_pass_between_two_namespaces(netns, family):
    one, other = netns("one"), netns("other")
    veth(one, "left", ["10.9.8.1/24", "fd00::1/64"], other, "right", ["10.9.8.2/24", "fd00::2/64"])
    before = network_of("thread-self")
    with other:
        assert network_of("thread-self") == other.inode
        address = {socket.AF_INET: "10.9.8.2", socket.AF_INET6: "fd00::2"}[family]
        server = socket.create_server((address, 5000), family=family)
    assert network_of("thread-self") == before
    server.settimeout(10)

    def client():
        with socket.create_connection((address, 5000), timeout=10) as s:
            return s.getsockname()[0]

    name = in_netns(one, client)
    with server, server.accept()[0] as accepted:
        assert accepted.getpeername()[0] == name == address.replace("2", "1")


def test_namespaces_go_after_the_test(netns, inner_pytest):
    code, output = inner_pytest(
        """
        from harness import ip
        made = []
        def test_makes_one(netns):
            made.append(netns("x").name)
            assert made[0] in ip("netns", "list")
        def test_it_is_gone():
            assert made and made[0] not in ip("netns", "list")
        """
    )
    assert code == 0 and "2 passed" in output, output
