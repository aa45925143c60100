# SPDX-License-Identifier: Apache-2.0
"""dropwatch's accounting: every packet is recorded, counted as a repeat, filtered or lost, and one can
tell which. The queueing discipline drops each packet while its sender runs, so none goes elsewhere."""

import os
import signal

import pytest
from harness import wait_until
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
    local_time,
    settle,
    start,
)

pytestmark = pytest.mark.host_only("counting is the same code on every kernel, and takes storms")

LIMIT = 10  # full records of a key in a window, by default
SOURCE_PORT = 50000


def closing(one, **fields):
    """The closing records of a key: tracer_data.repeat."""
    found = []
    for record in one.records("dropwatch"):
        data = record["tracer_data"]
        if "repeat" in data and all(data.get(name) == value for name, value in fields.items()):
            found.append(record)
    return found


def check_repeats(one, records, total, **key):
    """What there is of `total` packets with the same key, sent within a window that is over."""
    records.sort(key=lambda r: r["tracer_data"]["seq"])
    assert len(records) == min(total, LIMIT)
    # The first ones are recorded, none twice, each by itself.
    assert [r["tracer_data"]["seq"] for r in records] == list(range(len(records)))
    assert len({r["tracer_id"] for r in records}) == len(records)
    for record in records:
        check_drop(record)
    if total <= LIMIT:
        assert not closing(one, **key)
        return
    (last,) = closing(one, **key)
    repeat = last["tracer_data"]["repeat"]
    assert repeat["count"] == total - LIMIT
    assert repeat["of"] == records[-1]["tracer_id"]
    first, end = local_time(repeat["first_time"]), local_time(repeat["last_time"])
    assert local_time(records[-1]["time"]) <= first <= end


@families
def test_repeats(agent, hosts, flood, family):
    client, _ = hosts
    drop_all(client, "cli0")
    one = start(agent)
    before = counts(one)
    # How many, how many in a second; 0: as fast as they can be sent.
    jobs = [(1, 0), (2, 0), (LIMIT, 0), (LIMIT + 1, 0), (100, 100), (100, 0), (1000, 0), (100_000, 0)]
    for nth, (total, per_second) in enumerate(jobs):
        flood(client, family, SOURCE_PORT, 1000 + nth, total, per_second=per_second)
    settle(one)
    one.wait_balance()
    one.stop()  # it does not wait for the windows' end
    for nth, (total, _) in enumerate(jobs):
        key = {
            "netns": client.inode,
            "saddr": CLIENT[family],
            "daddr": SERVER[family],
            "sport": SOURCE_PORT,
            "dport": 1000 + nth,
        }
        check_repeats(one, drops(one, **key), total, **key)
    # Others on this host may lose packets at the same time: no less than ours. That none of ours is among
    # `lost` follows from the above: each was recorded or counted as a repeat.
    after = counts(one)
    recorded = sum(min(total, LIMIT) for total, _ in jobs)
    everything = sum(total for total, _ in jobs)
    assert after["seen"] - before["seen"] >= everything
    assert after["recorded"] - before["recorded"] >= recorded
    assert after["suppressed"] - before["suppressed"] >= everything - recorded


def test_different_packets_are_no_repeats(agent, hosts, flood):
    client, _ = hosts
    drop_all(client, "cli0")
    one = start(agent)
    flood(client, 4, SOURCE_PORT, 1000, 100, keys=100)
    settle(one)
    records = drops(one, netns=client.inode, sport=SOURCE_PORT)
    assert sorted(r["tracer_data"]["dport"] for r in records) == list(range(1000, 1100))
    for record in records:
        expect(check_drop(record), saddr=CLIENT[4], daddr=SERVER[4], tcp_flags="SYN")
    assert not closing(one, netns=client.inode)


def test_source_port_is_no_difference(agent, hosts, flood):
    """A client that tries again and again comes from another port each time: the lower port counts."""
    client, _ = hosts
    drop_all(client, "cli0")
    one = start(agent)
    for sport in range(SOURCE_PORT, SOURCE_PORT + 25):
        flood(client, 4, sport, 80, 1)
    settle(one)
    one.stop()  # it does not wait for the window's end
    key = {"netns": client.inode, "daddr": SERVER[4], "dport": 80}
    assert len(drops(one, **key)) == LIMIT
    (last,) = closing(one, **key)
    assert last["tracer_data"]["repeat"]["count"] == 25 - LIMIT


def test_next_window_is_recorded_again(agent, hosts, flood):
    client, _ = hosts
    drop_all(client, "cli0")
    one = start(agent, dropwatch__repeat_window="3s", dropwatch__repeat_limit="2")
    key = {"netns": client.inode, "sport": SOURCE_PORT, "dport": 80}
    for windows in (1, 2):
        flood(client, 4, SOURCE_PORT, 80, 50)
        ended = wait_until(
            lambda n=windows: len(closing(one, **key)) == n and closing(one, **key), 13, "the window's end"
        )
        assert [r["tracer_data"]["repeat"]["count"] for r in ended] == [48] * windows
        assert len(drops(one, **key)) == 2 * windows


def test_repeats_at_the_end(agent, hosts, flood):
    """An agent that stops does not keep to itself what it has counted."""
    client, _ = hosts
    drop_all(client, "cli0")
    one = start(agent)
    flood(client, 4, SOURCE_PORT, 80, 500)
    settle(one)
    one.stop()
    (last,) = closing(one, netns=client.inode, dport=80)
    assert last["tracer_data"]["repeat"]["count"] == 500 - LIMIT


def test_full_ring_is_accounted_for(agent, hosts, flood):
    """While the agent does not read, the ring takes what fits; the rest is counted where it is lost."""
    client, _ = hosts
    drop_all(client, "cli0")
    one = start(agent, dropwatch__ring_size="4KiB")
    before = counts(one)
    reader = [pid for pid in one.processes() if pid != one.pid]
    for pid in reader:
        os.kill(pid, signal.SIGSTOP)
    try:
        flood(client, 4, SOURCE_PORT, 1000, 100, keys=100)
    finally:
        for pid in reader:
            os.kill(pid, signal.SIGCONT)
    settle(one)
    records = drops(one, netns=client.inode, sport=SOURCE_PORT)
    after = counts(one)
    # The first few: a record takes some 700 bytes of the ring.
    assert 1 <= len(records) <= 6
    assert sorted(r["tracer_data"]["dport"] for r in records) == list(range(1000, 1000 + len(records)))
    assert after["lost_by"]["ring_full"] >= 100 - len(records)
    assert after["seen"] - before["seen"] >= 100
    one.wait_balance()


@pytest.mark.alone("it loses packets faster than other agents can record them")
def test_storm_of_keys_is_accounted_for(agent, hosts, flood):
    """More different packets than there is room for: some are lost, but each is counted, as what it is."""
    client, _ = hosts
    drop_all(client, "cli0")
    one = start(agent, dropwatch__repeat_keys="1024")
    before = counts(one)
    total = 20_000
    flood(client, 4, 65535, 1000, total, keys=total)
    wait_until(lambda: counts(one)["seen"] - before["seen"] >= total, 60, f"{total} drops seen")
    settle(one)
    after = counts(one)
    more = {name: after[name] - before[name] for name in ("recorded", "lost")}
    assert sum(more.values()) >= total, after  # they are all different: none is a repeat
    assert more["recorded"] >= 1000, after
    one.wait_balance()
