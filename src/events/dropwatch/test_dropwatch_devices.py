# SPDX-License-Identifier: Apache-2.0
"""dropwatch: losses outside the stack. Cards that lose something are the fault module's, in guests."""

import contextlib
import os
import socket
import subprocess
from pathlib import Path

import pytest
from dropwatch import counts, kernel_knows, knows_reason, settle, start
from harness import check_accounting, let_pass, patience, veth, wait_until

FAULT = Path("/proc/huatuo_fault")
OUTSIDE = {"device_drop", "tx_timeout", "devlink_trap"}
UNKNOWN_PROTOCOL = 0x88B5  # for experiments, IEEE 802


@pytest.fixture
def card():
    """A network card without a peer, and its name."""
    if not os.environ.get("HUATUO_FAULT_MODULE"):
        pytest.skip("only a guest has a card that can be made to lose packets")
    subprocess.run(["insmod", os.environ["HUATUO_FAULT_MODULE"]], check=True)
    before = {name for _, name in socket.if_nameindex()}
    FAULT.write_text("missed 0")
    (name,) = {name for _, name in socket.if_nameindex()} - before
    yield name
    subprocess.run(["rmmod", "huatuo_fault"], check=True)


def losses(one, device):
    return [
        r["tracer_data"]
        for r in one.records("dropwatch")
        if r["tracer_data"].get("type") in OUTSIDE and r["tracer_data"]["device"] == device
    ]


def wait_losses(one, device, kind, count=1):
    def enough():
        data = [d for d in losses(one, device) if d["type"] == kind]
        return data if sum(d.get("count", 1) for d in data) >= count else None

    return wait_until(enough, 15, lambda: f"{count} {kind}: {losses(one, device)}, {counts(one)}")


def say_nothing(one, device):
    before = len(losses(one, device))
    let_pass(2)  # a look a second
    settle(one)
    assert len(losses(one, device)) == before, losses(one, device)[before:]


@pytest.mark.matrix
def test_missed(agent, card):
    """A card that was there before has nothing to tell, and then it has."""
    FAULT.write_text("missed 7")
    one = start(agent)
    say_nothing(one, card)
    FAULT.write_text("missed 1000")
    data = wait_losses(one, card, "device_drop", 1000)
    assert sum(d["count"] for d in data) == 1000, data
    for d in data:
        assert d["counter"] == "rx_missed_errors" and d["counters"] == {"rx_missed_errors": d["count"]}
        assert d["driver"] == "huatuo_fault" and d["ifindex"] == socket.if_nametoindex(card)
        assert d["netns"] == os.stat("/proc/self/ns/net").st_ino
        assert 0 < d["interval_ms"] < patience(20_000)
    say_nothing(one, card)
    check_accounting(one.stop())


@pytest.mark.matrix
def test_dropped(agent, card):
    """What the card has dropped is told; what the stack has dropped, and counts there too, is not."""
    one = start(agent)
    subprocess.run(["ip", "link", "set", card, "up"], check=True)
    statistics = Path(f"/sys/class/net/{card}/statistics/rx_dropped")
    FAULT.write_text("unhandled 5")
    assert int(statistics.read_text()) == 5
    say_nothing(one, card)
    FAULT.write_text("dropped 300")
    FAULT.write_text("unhandled 4")
    assert int(statistics.read_text()) == 309
    if not knows_reason("UNHANDLED_PROTO"):
        say_nothing(one, card)  # before 5.19 the two cannot be told apart
        return
    data = wait_losses(one, card, "device_drop", 300)
    assert sum(d["count"] for d in data) == 300 and {d["counter"] for d in data} == {"rx_dropped"}, data
    say_nothing(one, card)


@pytest.mark.matrix("tp_btf")
@pytest.mark.parametrize("way", ["tp_btf", "raw_tp"])
def test_tx_timeout(agent, card, way):
    """The queue stops with the next packet, and nothing sets it going but the kernel's watchdog."""
    off = {"raw_tp": "tp_btf/net_dev_xmit_timeout", "tp_btf": "raw_tp/net_dev_xmit_timeout"}[way]
    one = start(agent, dropwatch__hooks_off=off)
    assert f"{way}/net_dev_xmit_timeout" in counts(one)["hook"]
    subprocess.run(["ip", "link", "set", card, "up"], check=True)
    say_nothing(one, card)
    FAULT.write_text("stall 1")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((card, UNKNOWN_PROTOCOL))
        raw.send(b"\xff" * 12 + UNKNOWN_PROTOCOL.to_bytes(2, "big") + bytes(46))
    data = wait_losses(one, card, "tx_timeout")[0]
    FAULT.write_text("stall 0")
    assert data["driver"] == "huatuo_fault" and data["queue_mapping"] == 0
    assert data["ifindex"] == socket.if_nametoindex(card)
    assert data["netns"] == os.stat("/proc/self/ns/net").st_ino
    assert "dev_watchdog/" in data["stack"], data["stack"]


@pytest.mark.matrix("tp_btf")
@pytest.mark.parametrize("way", ["tp_btf", "raw_tp"])
def test_trap(agent, card, way):
    """What the hardware drops is told, what it passes on to the stack is not."""
    off = {"raw_tp": "tp_btf/devlink_trap_report", "tp_btf": "raw_tp/devlink_trap_report"}[way]
    one = start(agent, dropwatch__hooks_off=off)
    assert f"{way}/devlink_trap_report" in counts(one)["hook"]
    FAULT.write_text("control 3")
    say_nothing(one, card)
    FAULT.write_text("trap 2")
    data = wait_losses(one, card, "devlink_trap", 2)
    assert len(data) == 2, data
    for d in data:
        assert d["trap"] == "huatuo_trap" and d["driver"] == "huatuo_fault"
        assert (d["saddr"], d["sport"], d["daddr"], d["dport"]) == ("192.0.2.1", 0x1001, "192.0.2.2", 0x1002)
        assert d["pkt_len"] == 28 and d["netns"] == os.stat("/proc/self/ns/net").st_ino
    say_nothing(one, card)


def test_software(agent, netns):
    """What the stack drops and counts at a device that is none of hardware's is no other loss."""
    one_ns, other_ns = netns("one"), netns("other")
    veth(one_ns, "one0", ["10.9.0.1/24"], other_ns, "other0", ["10.9.0.2/24"])
    one = start(agent)
    with one_ns, contextlib.closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as raw:
        raw.bind(("one0", UNKNOWN_PROTOCOL))
        for _ in range(3):
            raw.send(b"\xff" * 12 + UNKNOWN_PROTOCOL.to_bytes(2, "big") + bytes(46))
    with other_ns:
        lines = [line.split() for line in Path("/proc/thread-self/net/dev").read_text().splitlines()]
    (dropped,) = [int(line[4]) for line in lines if line[0] == "other0:"]
    assert dropped >= 3
    say_nothing(one, "other0")
    say_nothing(one, "one0")


def test_hooks(agent):
    """All that this kernel can have is watched."""
    one = start(agent)
    hook = counts(one)["hook"]
    assert "tp_btf/net_dev_xmit_timeout" in hook and "proc_net_dev" in hook, hook
    assert ("tp_btf/devlink_trap_report" in hook) == kernel_knows("btf_trace_devlink_trap_report"), hook
