# SPDX-License-Identifier: Apache-2.0
"""Each way to a hook records the same, and what cannot be hooked is said with the reason, while the
agent runs on."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import TRACEFS, wait_until
from dropwatch import (
    CLIENT,
    SERVER,
    check_drop,
    counts,
    drop_all,
    drops,
    expect,
    families,
    flood,  # noqa: F401 (a fixture)
    flood_program,  # noqa: F401 (a fixture)
    hosts,  # noqa: F401 (a fixture)
    reason_here,
    refused,
    start,
    wait_drop,
)

TYPED, RAW, CLASSIC = DROP_WAYS = ("tp_btf/kfree_skb", "raw_tp/kfree_skb", "tp/skb/kfree_skb")
# What may differ between two packets that are dropped alike, each sent by another process.
OF_THE_PACKET = {"pid", "tid", "seq", "ack_seq", "cpu", "sport", "owner_pid", "owner_comm", "socket_inode"}
# What the hook itself knows; the rest is read later, when the process may have gone.
OF_THE_PROCESS = {"ppid", "uid", "comm"}


def ways(one, hook="kfree_skb"):
    return {row["way"]: row for row in counts(one)["hooks"] if row["hook"] == hook}


def states(one, hook="kfree_skb"):
    return {way: row["state"] for way, row in ways(one, hook).items()}


def all_ways(one):
    return [row["way"] for row in counts(one)["hooks"]]


def record_of(agent, off, provoke):
    """What an agent with these ways switched off records of a drop, and which way it took."""
    one = start(agent, dropwatch__hooks_off=",".join(off)) if off else start(agent)
    found = provoke(one)
    (way,) = [way for way, state in states(one).items() if state == "attached"]
    assert way in counts(one)["hook"].split(", ")
    assert f"through {way}" in one.stderr
    for name in off:
        assert states(one)[name] == "off"
    assert counts(one)["state"] == "watching" and "reason" not in counts(one)
    one.stop()
    return way, found


@families
@pytest.mark.parametrize("kind", ["sent", "received"])
def test_every_way_records_the_same(agent, hosts, flood, tracefs, family, kind):  # noqa: F811
    client, server = hosts
    if kind == "sent":
        drop_all(client, "cli0")
    nth = iter(range(3))

    def provoke(one):
        if kind == "sent":
            flood(client, family, 50000, 4000, 1)
            fields = {"netns": client.inode, "sport": 50000, "dport": 4000}
        else:
            sport = refused(client, SERVER[family], 4000 + next(nth))
            fields = {"netns": server.inode, "sport": sport}
        data = wait_drop(one, **fields)
        (record,) = drops(one, **fields)
        assert record["tracer_data"] == data and check_drop(record)
        return record

    found = {}
    for off in ([], [TYPED], [TYPED, RAW]):
        way, record = record_of(agent, off, provoke)
        found[way] = record
    assert list(found) == [TYPED, RAW, CLASSIC]
    expect(found[CLASSIC]["tracer_data"], saddr=CLIENT[family], daddr=SERVER[family], family=f"ipv{family}")

    def comparable(record):
        data = {k: v for k, v in record["tracer_data"].items() if k not in OF_THE_PACKET}
        if kind == "sent":
            return data, {k: record["process"][k] for k in OF_THE_PROCESS}
        data["dport"] -= list(found.values()).index(record)  # each asked for another port
        # The softirq came at another place, and on top of whoever was running there.
        for name in ("stack", "comm"):
            del data[name]
        return (data,)

    for way in (RAW, CLASSIC):
        ours, theirs = comparable(found[way]), comparable(found[TYPED])
        for one_part, other_part in zip(ours, theirs, strict=True):
            assert one_part == other_part, way


def start_in_vain(agent, **options):
    """An agent that finds nothing to watch does not look as if all were well: it says so and ends."""
    sets = {"agent.resolve_names": "false", **{k.replace("__", "."): v for k, v in options.items()}}
    words = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    one = agent("--events", "dropwatch", *words, ready=False)
    assert one.wait_end() == 1
    assert "none of the kinds of event that are switched on can be watched" in one.stderr, one.stderr
    return one


def test_classic_way_without_tracefs(agent):
    """It needs its number out of a file system; the reason says so, in status too."""
    if any(os.path.exists(path) for path in (f"{TRACEFS}/events", "/sys/kernel/debug/tracing")):
        pytest.skip("tracefs is mounted on this machine, so the tracepoint cannot be missed")
    one = start_in_vain(agent, dropwatch__hooks_off=f"{TYPED},{RAW}")
    row = ways(one)[CLASSIC]
    assert row["state"] == "refused" and "No such file" in row["reason"] and "tracepoint" in row["reason"], row
    text = one.huatuo("status").stdout.decode()
    assert f"{CLASSIC} was refused: {row['reason']}" in text
    assert f"the hook {CLASSIC} was refused" in one.stderr and row["reason"] in one.stderr
    # No drop is seen now: that is not half as bad, it is bad.
    assert counts(one)["state"] == "failed", counts(one)


@pytest.mark.matrix
def test_all_off(agent):
    every = all_ways(start(agent))
    assert set(DROP_WAYS) < set(every)
    one = start_in_vain(agent, dropwatch__hooks_off=",".join(every))
    status = one.status()
    count = status["events"]["dropwatch"]
    assert not status["running"] and count["state"] == "failed" and count["hook"] == ""
    assert {row["state"] for row in count["hooks"]} == {"off"}
    assert "hooks_off" in count.get("reason", ""), count
    assert count["reason"] in one.huatuo("status").stdout.decode()
    assert "error: dropwatch" in one.stderr and "hooks_off" in one.stderr, one.stderr


@pytest.mark.matrix("-all")
@pytest.mark.parametrize("dropped", ["-sys_admin,-cap_38,-cap_39", "-all"])
def test_without_the_capabilities(agent, through, dropped):
    """Who starts it without what BPF needs is told that, once for each hook."""
    if not shutil.which("setpriv"):
        pytest.skip("there is no setpriv to take capabilities away with")
    if dropped == "-all":
        # Enough to become somebody else, which the agent insists on.
        dropped = "-all,+setuid,+setgid,+setpcap,+chown,+dac_override"
    through("setpriv", f"--bounding-set={dropped}")
    one = start_in_vain(agent)
    count = counts(one)
    assert count["state"] == "failed" and count["seen"] == 0
    assert {row["state"] for row in count["hooks"]} == {"refused"}
    for row in count["hooks"]:
        # Others may lack something of the kernel, besides, or addresses, for want of CAP_SYSLOG.
        assert "Operation not permitted" in row["reason"] or (row["reason"] and row["hook"] != "kfree_skb"), row
    text = one.huatuo("status").stdout.decode()
    assert "failed" in text and "Operation not permitted" in text
    assert one.stderr.count("error: ") <= len({row["hook"] for row in count["hooks"]}), one.stderr
    # What to do about it is in the log and in status, in words and not in libbpf's.
    assert "CAP_BPF" in count.get("reason", "") and "root" in count["reason"], count
    assert "CAP_BPF" in one.stderr, one.stderr


def test_started_by_somebody_else(agent, through):
    """Not as root at all."""
    if not shutil.which("setpriv"):
        pytest.skip("there is no setpriv to become somebody else with")
    store = Path(f"/tmp/huatuo-e2e-{os.getpid()}-nobody")
    store.mkdir()
    os.chown(store, 65534, 65534)
    through("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    try:
        one = agent("--events", "dropwatch", "--set", "agent.resolve_names=false", store=store, ready=False)
        assert one.wait_end() == 1
        assert "CAP_BPF" in one.stderr and "root" in one.stderr, one.stderr
    finally:
        shutil.rmtree(store)


@pytest.fixture
def kptr_restrict():
    """The kernel shows its addresses to nobody."""
    path = Path("/proc/sys/kernel/kptr_restrict")
    before = path.read_text()
    try:
        path.write_text("2")
    except OSError as e:
        pytest.skip(f"kernel.kptr_restrict may not be set here: {e}")
    yield
    path.write_text(before)


@pytest.mark.matrix
@pytest.mark.alone("no agent sees a symbol meanwhile")
def test_hidden_symbols(agent, hosts, kptr_restrict):  # noqa: F811
    """Said aloud, with what to do about it; stacks are bare addresses then, and nothing is missing."""
    _, server = hosts
    one = start(agent)
    assert "kptr_restrict" in one.stderr and "place=" in one.stderr, one.stderr
    assert "kptr_restrict" in one.status()["symbols"]
    assert "kptr_restrict" in one.huatuo("status").stdout.decode()
    sport = refused(server, SERVER[4], 9)
    (record,) = wait_until(lambda: drops(one, sport=sport, netns=server.inode), 10, "the record")
    data = record["tracer_data"]
    frames = data["stack"].splitlines()
    assert len(frames) > 10
    for frame in frames:
        assert re.fullmatch("[0-9a-f]{16}", frame), frame
    assert re.fullmatch("0x[0-9a-f]{16}", data["place"]), data["place"]
    assert data["reason"] == reason_here("NO_SOCKET") and data["context"] == data["process_role"] == "unknown"
