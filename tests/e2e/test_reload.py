# SPDX-License-Identifier: Apache-2.0
"""SIGHUP: the configuration is read again, all of it takes effect, and not one event is lost, counted
twice or invented; a bad one changes nothing."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from dropwatch import (
    CLIENT,
    counts,
    drop_all,
    drops,
    flood,  # noqa: F401 (a fixture)
    flood_program,  # noqa: F401 (a fixture)
    hosts,  # noqa: F401 (a fixture)
    settle,
)
from harness import SANITIZER_REPORT, wait_until

SOURCE_PORT = 65535


class Config:
    """A configuration file, as sections of text."""

    def __init__(self, path):
        self.path, self.sections = path, {"agent": {"resolve_names": "false"}, "dropwatch": {}}
        self.write()

    def write(self):
        lines = []
        for section, keys in self.sections.items():
            if keys:
                lines += [f"{section}:", *(f"  {key}: {value}" for key, value in keys.items())]
        self.path.write_text("\n".join(lines) + "\n")

    def set(self, **values):
        """set(agent__region="here"); None takes a key out."""
        for name, value in values.items():
            section, key = name.split("__")
            keys = self.sections.setdefault(section, {})
            keys.pop(key, None) if value is None else keys.update({key: value})
        self.write()


@pytest.fixture
def config(tmp_path):
    return Config(tmp_path / "huatuo.yaml")


@pytest.fixture
def start(agent, config):
    """An agent that watches drops only, with that file."""
    return lambda **options: agent("--config", str(config.path), "--events", "dropwatch", **options)


@pytest.fixture
def client(hosts):  # noqa: F811
    """A namespace in which all that is sent is dropped."""
    drop_all(hosts[0], "cli0")
    return hosts[0]


@pytest.fixture
def lose(client, flood):  # noqa: F811
    """lose(first, count): drops of that many different packets."""
    return lambda first, count, **rate: flood(client, 4, SOURCE_PORT, first, count, keys=count, **rate)


def found(one, client):
    return [r["tracer_data"]["dport"] for r in drops(one, netns=client.inode, sport=SOURCE_PORT)]


def wait_found(one, client, count):
    wait_until(lambda: len(found(one, client)) >= count, 20, lambda: f"{count} records: {one.status()}")
    assert len(found(one, client)) == count


def links(pid):
    return [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]


# ---- it takes effect


def test_everything_takes_effect(start, config, client, lose, tmp_path):
    config.set(agent__region="before")
    one = start()
    agent_before = one.proper()
    lose(1000, 5)
    wait_found(one, client, 5)
    started = one.status()["started"]

    config.set(agent__region="after", agent__hostname="renamed", agent__user="daemon", store__retain="1h")
    one.reload()
    assert one.process.poll() is None and one.proper() != agent_before
    lose(2000, 5)
    wait_found(one, client, 10)
    records = drops(one, netns=client.inode)
    for r in records:
        later = r["tracer_data"]["dport"] >= 2000
        assert r["region"] == ("after" if later else "before") and (r["hostname"] == "renamed") == later, r
    status = one.status()
    assert status["user"] == "daemon" and status["running"] and status["ready"]
    assert status["started"] == started, "it is the same run"
    assert counts(one)["recorded"] >= 10, "and its counts go on"
    # The new one holds no more than the one before did.
    names = links(one.proper())
    assert not [name for name in names if "bpf-prog" in name or "bpf_link" in name], names
    assert len(session_threads(one)) == 1
    status = one.stop()
    assert status["events"]["dropwatch"]["recorded"] >= 10


def session_threads(one):
    """Of the root part, which has never more than one."""
    return list(Path(f"/proc/{one.pid}/task").iterdir())


def test_running_all_the_time(start, config, tmp_path):
    """Whoever asks meanwhile waits for a moment, and is not told that nobody is running."""
    one = start()
    answers, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            answers.append(one.status()["running"])

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for n in range(3):
            config.set(agent__region=f"r{n}")
            one.reload()
    finally:
        stop.set()
        thread.join()
    assert len(answers) > 3 and all(answers), answers


def test_command_line_stays(agent, config, client, lose):
    """What --set says holds against whatever comes to stand in the file."""
    one = agent("--config", str(config.path), "--events", "dropwatch", "--set", "agent.region=mine")
    config.set(agent__region="file")
    one.reload()
    lose(1000, 1)
    wait_found(one, client, 1)
    assert drops(one, netns=client.inode)[0]["region"] == "mine"


def test_switching_off_and_on(agent, config, client, lose):
    one = agent("--config", str(config.path))
    lose(1000, 5)
    wait_found(one, client, 5)
    seen = counts(one)["seen"]
    config.set(dropwatch__enabled="false")
    one.reload()
    assert counts(one)["state"] == "off" and counts(one)["seen"] >= seen >= 5
    off = counts(one)["seen"]
    lose(2000, 5)
    time.sleep(1)
    assert counts(one)["seen"] == off
    config.set(dropwatch__enabled="true")
    one.reload()
    assert counts(one)["state"] == "watching"
    lose(3000, 5)
    wait_found(one, client, 10)
    assert sorted(found(one, client)) == [*range(1000, 1005), *range(3000, 3005)]
    watching = [r["tracer_data"] for r in one.records("coverage")]
    changes = [data["change"] for data in watching if data["event"] == "dropwatch" and not data.get("lost")]
    assert changes == ["begin", "end", "begin"], changes


@pytest.mark.matrix
def test_hook_changes(start, config, client, lose):
    one = start()
    assert counts(one)["hook"].startswith("tp_btf/kfree_skb")
    config.set(dropwatch__hooks_off="[tp_btf/kfree_skb]")
    one.reload()
    assert counts(one)["hook"].startswith("raw_tp/kfree_skb")
    lose(1000, 5)
    wait_found(one, client, 5)
    first, second = one.records("coverage")
    assert second["tracer_data"]["change"] == "hook"
    assert second["tracer_data"]["hook"].startswith("raw_tp/kfree_skb")
    assert first["tracer_data"]["hook"].startswith("tp_btf/kfree_skb")


def test_filter_rules_change(start, config, client, lose):
    """Rules have other places in the list then; what was counted keeps its name."""
    low, high, new = 65001, 65002, 65003  # nobody else loses packets to these
    config.set(dropwatch__ignore=f'["low: dport={low}", "high: dport={high}"]')
    one = start()
    lose(low, 1)
    lose(high, 1)
    settle(one)
    assert counts(one)["filtered_by"]["low"] == 1 and counts(one)["filtered_by"]["high"] == 1
    config.set(dropwatch__ignore=f'["new: dport={new}", "high: dport={high}"]')
    one.reload()
    lose(low, 1)
    lose(high, 1)
    lose(new, 1)
    wait_found(one, client, 1)
    assert found(one, client) == [low]
    by = counts(one)["filtered_by"]
    assert (by["low"], by["high"], by["new"]) == (1, 2, 1), by
    one.wait_balance()


def test_store_moves(config, client, lose):
    """From then on records are written elsewhere, and both stores say so."""
    binary = os.environ.get("HUATUO") or Path(__file__).parents[2] / "build-test/huatuo"
    folder = Path(tempfile.mkdtemp(prefix="huatuo-e2e-moved-"))
    folder.chmod(0o755)
    old, new = folder / "old", folder / "new"

    def ask(store, *arguments):
        done = subprocess.run(
            [binary, arguments[0], "--store", store, "--json", *arguments[1:]],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        return [json.loads(line) for line in done.stdout.splitlines()]

    def changes(store):
        return [r["tracer_data"]["change"] for r in ask(store, "list", "--event", "coverage")]

    def found_in(store):
        found = [r["tracer_data"] for r in ask(store, "list", "--match", CLIENT[4])]
        return sorted(data["dport"] for data in found if data.get("netns") == client.inode)

    config.set(store__path=old)
    with open(folder / "stderr", "wb") as err:
        process = subprocess.Popen(
            [binary, "run", "--config", config.path, "--events", "dropwatch", "--output", "none"], stderr=err
        )
    try:
        wait_until(lambda: (s := ask(old, "status")) and s[0]["ready"], 30, "the agent")
        lose(1000, 3)
        wait_until(lambda: len(found_in(old)) == 3, 30, "records")
        config.set(store__path=new)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: (s := ask(new, "status")) and s[0]["ready"], 30, "the agent in the new place")
        lose(2000, 3)
        wait_until(lambda: len(found_in(new)) == 3, 30, "records")
        assert found_in(old) == [1000, 1001, 1002] and found_in(new) == [2000, 2001, 2002]
        assert ask(new, "status")[0]["events"]["dropwatch"]["recorded"] >= 6, "the counts go on"
        assert ask(old, "status")[0]["running"] is False
        assert changes(old) == ["begin", "end"] and changes(new) == ["begin"]
        end = ask(old, "list", "--event", "coverage")[-1]
        assert str(new) in end["summary"], end
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
        text = (folder / "stderr").read_text()
        shutil.rmtree(folder)
    assert code == 0 and not SANITIZER_REPORT.search(text), text


# ---- nothing is lost


@pytest.mark.alone("it loses thousands of packets, all different: other agents would record them")
@pytest.mark.parametrize("exchange", [False, True], ids=["same hooks", "other hooks"])
def test_not_one_event_is_lost(start, config, client, lose, exchange):
    """A stream of different drops goes on while the configuration is read again, four times."""
    one = start()
    count, enough = 0, threading.Event()

    def keep_losing():
        nonlocal count
        while not enough.is_set():
            lose(1000 + count, 500, per_second=500)
            count += 500

    stream = threading.Thread(target=keep_losing)
    stream.start()
    try:
        for n in range(4):
            time.sleep(1)
            config.set(agent__region=f"r{n}", dropwatch__ring_size=f"{2 + n if exchange else 2}MiB")
            one.reload()
        time.sleep(1)
    finally:
        enough.set()
        stream.join()
    settle(one)
    got = Counter(found(one, client))
    assert set(got) == set(range(1000, 1000 + count)), f"missing: {set(range(1000, 1000 + count)) - set(got)}"
    assert not [port for port, n in got.items() if n > 1], "recorded twice"
    count_ = counts(one)
    assert count_["lost"] == 0 and count_["seen"] >= count, count_
    one.wait_balance()
    regions = Counter(r["region"] for r in drops(one, netns=client.inode))
    assert set(regions) >= {"", "r0", "r3"}, regions


@pytest.mark.alone("it loses packets by the million, and takes the time for that")
def test_not_one_event_is_counted_twice(start, config, client, flood):  # noqa: F811
    """Drops by the hundred thousand a second while hooks are exchanged: each meets both objects, and
    the moment of the change lies in the middle of one sooner or later."""
    one = start()
    count = 2_500_000
    stream = threading.Thread(target=flood, args=(client, 4, SOURCE_PORT, 1000, count))
    stream.start()
    exchanges = 0
    try:
        while stream.is_alive() and exchanges < 8:
            config.set(dropwatch__hooks_off="[]" if exchanges % 2 else "[tp_btf/kfree_skb]")
            one.reload()
            exchanges += 1
            assert stream.is_alive() or exchanges > 4, "the stream has ended too early"
    finally:
        stream.join()
    one.stop()
    of_stream = [
        r for r in one.records("dropwatch") if f"{CLIENT[4]}:{SOURCE_PORT}" in r["summary"]
    ]
    repeats = sum(r["tracer_data"].get("repeat", {}).get("count", 0) for r in of_stream)
    full = sum("repeat" not in r["tracer_data"] for r in of_stream)
    assert repeats + full == count, (repeats, full)


def test_asked_before_it_watches(config):
    """SIGHUP while the hooks are still being loaded is not forgotten."""
    binary = os.environ.get("HUATUO") or Path(__file__).parents[2] / "build-test/huatuo"
    folder = Path(tempfile.mkdtemp(prefix="huatuo-e2e-early-"))
    folder.chmod(0o755)
    config.set(store__path=folder / "store")
    with open(folder / "stderr", "wb") as err:
        process = subprocess.Popen([binary, "run", "--config", config.path, "--output", "none"], stderr=err)
    text = (folder / "stderr").read_text

    def listens():
        line = re.search(r"^SigBlk:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.M)
        return int(line.group(1), 16) & 1 << signal.SIGHUP - 1

    try:
        wait_until(listens, 10, "the root part", every=0.001)
        assert "watching" not in text()
        config.set(agent__region="late")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the configuration was read again and is in effect" in text(), 30, text)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
        said = text()
        shutil.rmtree(folder)
    assert code == 0 and not SANITIZER_REPORT.search(said), said


def test_repeats_go_on(start, config, client, flood):  # noqa: F811
    """A window that is open meanwhile closes with one record, of the last full one before."""
    one = start()
    flood(client, 4, SOURCE_PORT, 1000, 30)
    wait_until(lambda: counts(one)["suppressed"] >= 20, 10, "repeats")
    config.set(agent__region="after")
    one.reload()
    flood(client, 4, SOURCE_PORT, 1000, 5)
    one.stop()  # it does not wait for the window's end
    closing = one.wait_records(lambda r: "repeat" in r["tracer_data"], event="dropwatch")
    (closing,) = [r for r in closing if str(SOURCE_PORT) in r["summary"]]
    full = drops(one, netns=client.inode)
    assert closing["tracer_data"]["repeat"]["count"] == 25
    assert closing["tracer_data"]["repeat"]["of"] == full[-1]["tracer_id"] and len(full) == 10
    assert closing["region"] == "after"


def test_repeat_numbers_take_effect(start, config, client, flood):  # noqa: F811
    one = start()
    config.set(dropwatch__repeat_limit="3")
    one.reload()
    flood(client, 4, SOURCE_PORT, 1000, 30)
    wait_until(lambda: counts(one)["suppressed"] >= 27, 10, lambda: f"repeats: {counts(one)}")
    wait_found(one, client, 3)


# ---- what is bad changes nothing


@pytest.mark.parametrize(
    "text, words",
    [
        ("dropwatch: {protcols: tcp}\n", ["huatuo.yaml:1", "protcols", "protocols"]),
        ("agent: {resolve_timeout: 5}\n", ["huatuo.yaml:1", "resolve_timeout"]),
        ("agent: [\n", ["huatuo.yaml:"]),
        ("agent: {user: no-such-user}\n", ["no-such-user"]),
    ],
    ids=["unknown key", "bad value", "no YAML", "no such user"],
)
def test_bad_file_is_refused(start, config, client, lose, text, words):
    config.set(agent__region="before")
    one = start()
    pid = one.proper()
    config.path.write_text(text)
    one.reload(refused=True)
    assert all(word in one.stderr for word in words), one.stderr
    assert one.proper() == pid and one.status()["ready"]
    lose(1000, 3)
    wait_found(one, client, 3)
    assert {r["region"] for r in drops(one, netns=client.inode)} == {"before"}
    # And once it is right again it is taken.
    config.set(agent__region="right")
    one.reload()
    lose(2000, 1)
    wait_found(one, client, 4)
    assert drops(one, netns=client.inode)[-1]["region"] == "right"


def test_file_that_is_gone(start, config):
    one = start()
    config.path.unlink()
    one.reload(refused=True)
    assert str(config.path) in one.stderr and one.status()["ready"]


# ---- signals that come meanwhile


def test_many_signals(start, config, client, lose):
    one = start()
    for n in range(20):
        config.set(agent__region=f"r{n}")
        one.process.send_signal(signal.SIGHUP)
        time.sleep(0.05 * (n % 3))
    one.reload()
    wait_until(lambda: len(one.processes()) == 2, 20, "one agent")
    time.sleep(1)
    lose(1000, 3)
    wait_found(one, client, 3)
    assert {r["region"] for r in drops(one, netns=client.inode)} == {"r19"}


@pytest.mark.parametrize("after", [0, 0.1, 0.3, 0.6, 1.0, 1.5])
def test_end_meanwhile(start, config, client, lose, after):
    one = start()
    lose(1000, 20)
    config.set(dropwatch__ring_size="4MiB")
    one.process.send_signal(signal.SIGHUP)
    time.sleep(after)
    one.stop()
    wait_found(one, client, 20)


def kill_agent(one):
    """False: it had just come to its end."""
    agents = [pid for pid in one.processes() if pid != one.pid]
    try:
        os.kill(agents[0], signal.SIGKILL)
    except (IndexError, ProcessLookupError):
        return False
    return True


@pytest.mark.parametrize("after", [0.1, 0.4, 0.8, 1.2])
def test_kill_meanwhile(start, config, client, lose, after):
    """Whichever of them is killed: the run ends, or goes on; it never hangs, and nothing is left."""
    one = start()
    lose(1000, 20)
    wait_found(one, client, 20)
    config.set(agent__region="after")
    one.process.send_signal(signal.SIGHUP)
    time.sleep(after)
    wait_until(lambda: kill_agent(one), 5, "an agent to be killed")
    deadline = time.monotonic() + 15
    while one.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    if one.process.poll() is None:  # it was the new one, or the old one had just come to its end
        assert one.status()["ready"] and len(one.processes()) == 2
        refused = "goes on with the configuration it has" in one.stderr
        assert refused != ("was read again and is in effect" in one.stderr), one.stderr
    else:
        assert one.wait_end() == 1
    wait_found(one, client, 20)


# ---- the service manager


def test_notifies(start, config, tmp_path):
    """sd_notify(3): ready, reloading, ready again, stopping; and the watchdog is fed."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(20)
        said = []

        def wait_for(text):
            while not said or text not in said[-1]:
                said.append(sock.recv(4096).decode())

        one = start(env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "4000000"})
        wait_for("READY=1")
        wait_for("WATCHDOG=1")
        config.set(agent__region="after")
        one.process.send_signal(signal.SIGHUP)
        wait_for("RELOADING=1")
        assert "MONOTONIC_USEC=" in said[-1]
        wait_for("READY=1")
        # A loop that hangs must not be vouched for by the part that does not.
        pid = one.proper()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(4)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                sock.recv(4096)
        sock.settimeout(3)
        with pytest.raises(TimeoutError):
            sock.recv(4096)
        os.kill(pid, signal.SIGCONT)
        sock.settimeout(20)
        wait_for("WATCHDOG=1")
        one.process.send_signal(signal.SIGTERM)
        wait_for("STOPPING=1")
        assert one.wait_end() == 0
