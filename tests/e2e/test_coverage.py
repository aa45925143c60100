# SPDX-License-Identifier: Apache-2.0
"""When what was watched: silence is proof of health only where somebody was listening."""

import json
import os
import signal
import subprocess
import time

import pytest
from dropwatch import (
    counts,
    drop_all,
    flood,  # noqa: F401 (a fixture)
    flood_program,  # noqa: F401 (a fixture)
    hosts,  # noqa: F401 (a fixture)
    local_time,
    start,
)
from harness import wait_until

KILLED = "the agent was killed, or the machine went down"


def coverage(one):
    """(change, reason) of each record about the watching."""
    return [(r["tracer_data"]["change"], r["tracer_data"]["reason"]) for r in one.records("coverage")]


def gaps(one, *arguments):
    lines = one.huatuo("list", *arguments).stdout.decode().splitlines()
    return [line for line in lines if line.startswith("-- ")]


def test_begin_and_end(agent):
    one = start(agent)
    (begin,) = wait_until(lambda: one.records("coverage"), 5, "the record")
    data = begin["tracer_data"]
    hook = one.status()["events"]["dropwatch"]["hook"]
    assert hook.startswith("tp_btf/kfree_skb, tp_btf/inet_sock_set_state, ")
    assert data == {"event": "dropwatch", "change": "begin", "hook": hook, "reason": ""}
    assert begin["summary"].startswith("dropwatch is watched from now on, through tp_btf/kfree_skb")
    assert gaps(one) == [], "nothing was missed since"
    one.stop()  # where the accounts have to balance: it stands outside of them
    assert coverage(one)[1] == ("end", "the agent was stopped (Terminated)")
    (gap,) = gaps(one)
    assert gap.startswith("-- dropwatch: not watched from ") and " on: the agent was stopped" in gap, gap
    # Before it was started nobody knows; asked for that time it says so.
    assert "not watched from the beginning to" in gaps(one, "--since", "1h")[0]
    # Whole documents are no place for remarks.
    lines = one.huatuo("list", "--json").stdout.decode().splitlines()
    assert [json.loads(line)["tracer_name"] for line in lines].count("coverage") == 2


def test_gap_between_two_runs(agent):
    one = start(agent)
    one.stop()
    time.sleep(1.2)
    two = agent("--events", "dropwatch", "--set", "agent.resolve_names=false", store=one.store)
    wait_until(lambda: len(coverage(two)) == 3, 5, "the record")
    _, end, begin = two.records("coverage")
    assert (local_time(begin["time"]) - local_time(end["time"])).total_seconds() > 1
    (gap,) = gaps(two)
    assert end["time"] in gap and begin["time"] in gap and "Terminated" in gap, gap
    assert gaps(two, "--since", begin["time"][:23]) == [gap], "the moment itself belongs to it"
    time.sleep(1.1)
    assert gaps(two, "--since", "1s") == []
    assert gaps(two, "--event", "coverage") == []


@pytest.mark.parametrize("whom", ["agent proper", "both"])
def test_gap_after_a_crash(agent, whom):
    """Nobody was left to say so; the next start does, and until then `list` does."""
    one = start(agent)
    wait_until(lambda: coverage(one), 5, "the record")
    pids = [one.proper()] + ([one.pid] if whom == "both" else [])
    began = time.time()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    one.wait_end()
    (gap,) = gaps(one)
    assert " on: " + KILLED in gap, gap
    two = agent("--events", "dropwatch", "--set", "agent.resolve_names=false", store=one.store)
    wait_until(lambda: len(coverage(two)) == 3, 5, "the records")
    assert coverage(two) == [("begin", ""), ("end", KILLED), ("begin", "")]
    end = two.records("coverage")[1]
    assert -11 < local_time(end["time"]).timestamp() - began < 1, "to about ten seconds"
    (gap,) = gaps(two)
    assert KILLED in gap and end["time"] in gap, gap
    assert "killed at about " + end["time"] in two.stderr, two.stderr


def test_kind_that_cannot_be_watched(agent):
    off = "tp_btf/kfree_skb,raw_tp/kfree_skb,tp/skb/kfree_skb"
    one = agent("--events", "dropwatch", "--set", f"dropwatch.hooks_off={off}", ready=False)
    assert one.wait_end() == 1
    ((change, reason),) = coverage(one)
    assert change == "failed" and "dropwatch.hooks_off" in reason
    assert counts(one)["state"] == "failed"


@pytest.mark.alone("it loses packets faster than other agents can record them")
def test_losses(agent, hosts, flood):  # noqa: F811
    """A ring that is too small: what was lost is a record, a warning and a line of the list."""
    client, _ = hosts
    drop_all(client, "cli0")
    one = start(agent, dropwatch__ring_size="4KiB", dropwatch__repeat_keys="65536")
    flood(client, 4, 65535, 1000, 20000, keys=20000)
    lost = wait_until(lambda: counts(one)["lost"], 10, "losses")
    wait_until(lambda: [c for c in coverage(one) if c[0] == "lost"], 5, "the record")
    one.stop()
    lost = counts(one)["lost"]
    records = [r for r in one.records("coverage") if r["tracer_data"]["change"] == "lost"]
    assert sum(r["tracer_data"]["lost"] for r in records) == lost
    assert all("ring_full" in r["tracer_data"]["reason"] for r in records)
    assert "dropwatch: " in one.stderr and " events were lost: ring_full" in one.stderr
    said = [gap for gap in gaps(one) if "events were lost" in gap]
    assert len(said) == len(records) and "ring_full" in said[0], said


def test_follow_shows_them(agent):
    """`list -f` shows the end as it comes."""
    one = start(agent)
    with subprocess.Popen(
        [one.binary, "list", "--store", str(one.store), "-f"], stdout=subprocess.PIPE, text=True, env=one.env
    ) as process:
        assert "dropwatch is watched from now on" in process.stdout.readline()
        one.stop()
        # Other packets of this host may be dropped meanwhile.
        assert any("dropwatch is not watched any more" in line for line in iter(process.stdout.readline, ""))
        process.send_signal(signal.SIGINT)
