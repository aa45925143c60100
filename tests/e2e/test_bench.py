# SPDX-License-Identifier: Apache-2.0
"""The benchmarks measure what they say they do. How long anything takes is nobody's business here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone("it loses packets faster than other agents can record them, and takes the time")

ROOT = Path(__file__).parents[2]
SMALL = "0.02"  # of the usual time: the fewest rounds there are


def bench(*arguments, check=True):
    """What `./dev bench --json` prints, and how it ended; with the binaries that are tested."""
    huatuo = os.environ.get("HUATUO") or str(ROOT / "build-test/huatuo")
    tests = os.environ.get("HUATUO_FAULTS") or str(ROOT / "build-test/tests")
    done = subprocess.run(
        [sys.executable, ROOT / "tests/bench/run.py", "--json", *arguments],
        env={**os.environ, "HUATUO": huatuo, "HUATUO_TESTS": tests},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def test_hits_are_counted_right():
    """What a provoker claims is what a BPF program counts, on each way that works here; and each program that
    an agent runs is either measured or said not to be."""
    found = bench("--only", "hooks", "--count", "--all-ways")
    for row in found["hooks"]:
        assert row["counted"] == row["claimed"] > 0, row
    ways = {row["way"] for row in found["hooks"]}
    assert {"tp_btf/kfree_skb", "raw_tp/kfree_skb", "tp_btf/inet_sock_set_state", "raw_tp/mark_victim"} <= ways
    assert {row["kind"] for row in found["hooks"]} >= {"dropwatch", "oom", "softirq"}
    for row in found["not_measured"]:
        assert row["section"] and row["not_measured"], row
    assert "tp_btf/mark_victim" in {row["section"] for row in found["not_measured"]}


@pytest.mark.parametrize("kind", ["dropwatch", "oom", "softirq"])
def test_hooks(kind):
    """Each case's events become what the case is about, or it fails; all figures are there."""
    found = bench("--only", "hooks", "--kind", kind, "--scale", SMALL)
    assert found["hooks"] and {row["kind"] for row in found["hooks"]} == {kind}
    for row in found["hooks"]:
        assert row["rounds"] >= 5 and row["turns"] >= 1, row
        for name in ("nothing", "empty_over_nothing", "ours_over_empty", "noise"):
            assert set(row[name]) == {"min_ns", "median_ns"}, row
        assert row["nothing"]["min_ns"] > 0, row
    recorded = [row for row in found["hooks"] if row["outcome"] == "recorded"]
    assert all("ours_read_over_empty" in row for row in recorded)
    assert bool(recorded) == (kind == "dropwatch")


def test_agent():
    found = bench("--only", "agent", "--scale", "0.05")["agent"]
    for name in ("start_ms", "start_cpu_ms"):
        assert found[name]["median"] >= found[name]["min"] > 0
    for name in ("idle", "load_recorded", "load_suppressed"):
        part = found[name]
        assert part["cpu_ns"] > 0 and part["rss_bytes"] > part["pss_bytes"] > 0, part
    assert found["load_recorded"]["events"]["recorded"] >= 733  # of 750; others' may be among them
    assert found["load_suppressed"]["events"]["suppressed"] >= 733  # the first ten of a key are recorded
    assert found["store"]["records"] == 3000 and found["store"]["database_bytes"] > 3000 * 200
    assert found["store"]["record_bytes"] > 1000 and min(found["store"][n] for n in ("per_second", "cpu_ns")) > 0


def test_upload():
    found = bench("--only", "upload", "--records", "3000")["upload"]
    assert set(found) == {"sink", "sink, not compressed"}
    for part in found.values():
        assert part["records"] >= 3000 and part["per_second"] > 0 and part["requests"] >= 3
        assert part["cpu_ns"] > part["upload_thread_cpu_ns"] > 0
        assert part["peak_rss_bytes"] >= part["peak_rss_before_bytes"] > 0
    assert found["sink"]["request_bytes"] < found["sink, not compressed"]["request_bytes"] > 1000


def test_unknown_kind():
    said = bench("--only", "hooks", "--kind", "nonsense", check=False)
    assert "nothing to measure" in said, said
