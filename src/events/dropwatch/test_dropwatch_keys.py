# SPDX-License-Identifier: Apache-2.0
"""What makes two drops the same. Two kinds that differ in one respect only are no repeats of each other:
ten of each are recorded in full."""

import contextlib
import os
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from dropwatch import (
    CLIENT,
    SERVER,
    check_drop,
    drop_all,
    drops,
    hosts,  # noqa: F401 (a fixture)
    needs_reason,
    set_comm,
    settle,
    start,
)
from harness import in_netns, veth
from tcp_peer import SYN, Segment, TcpPeer, checksum, ip_packet, pseudo_header

pytestmark = pytest.mark.host_only("keys are made by the same code on every kernel")

LIMIT = 10  # full records of a key in a window, by default
SENT = LIMIT + 5
SPORT, DPORT = 50000, 4000


def tcp(saddr, daddr, dport=DPORT):
    return Segment(saddr, daddr, SPORT, dport).pack()


def udp(saddr, daddr):
    head = SPORT.to_bytes(2, "big") + DPORT.to_bytes(2, "big") + (8).to_bytes(2, "big")
    check = checksum(pseudo_header(saddr, daddr, socket.IPPROTO_UDP, 8) + head)
    return ip_packet(saddr, daddr, socket.IPPROTO_UDP, head + check.to_bytes(2, "big"))


def transmit(daddr, packet, comm=b"sender", cgroup=None):
    """Sends a packet as it is, again and again."""
    set_comm(comm)
    if cgroup:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    family = socket.AF_INET6 if ":" in daddr else socket.AF_INET
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for _ in range(SENT):
            with contextlib.suppress(OSError):  # the sender may be told of the drop: ENOBUFS
                raw.sendto(packet, (daddr, 0))


def check_kinds(one, differ, first, second):
    """There are ten full records of either kind, and the records themselves say that the kinds differ in
    that respect and in no other part of the key."""
    settle(one)
    found = [drops(one, **kind) for kind in (first, second)]
    assert [len(records) for records in found] == [LIMIT, LIMIT]
    parts = ("reason", "place", "saddr", "daddr", "dport", "netns", "protocol")  # dport: the lower
    seen = [{tuple(check_drop(r)[part] for part in parts) for r in records} for records in found]
    assert all(len(kind) == 1 for kind in seen), seen
    wrong = [part for part, a, b in zip(parts, *map(min, seen)) if (a != b) != (part == differ)]
    assert not wrong, seen


@pytest.fixture
def client(hosts):  # noqa: F811
    drop_all(hosts[0], "cli0")
    return hosts[0]


# Of an IPv6 address both halves count.
@pytest.mark.parametrize("other", ["10.9.0.77", "fd09::77", "fd77::1"])
def test_source_address(agent, client, other):
    family = 6 if ":" in other else 4
    one = start(agent)
    for saddr in (CLIENT[family], other):
        in_netns(client, transmit, SERVER[family], tcp(saddr, SERVER[family]))
    here = {"netns": client.inode, "daddr": SERVER[family]}
    check_kinds(one, "saddr", {**here, "saddr": CLIENT[family]}, {**here, "saddr": other})


@pytest.mark.parametrize("other", ["10.9.0.77", "fd09::77", "fd77::2"])
def test_destination_address(agent, client, other):
    family = 6 if ":" in other else 4
    known = ("lladdr", "02:00:00:00:00:01", "nud", "permanent")
    client.ip("route", "replace", f"{other}/{128 if family == 6 else 32}", "dev", "cli0")
    client.ip("neigh", "replace", other, "dev", "cli0", *known)
    one = start(agent)
    for daddr in (SERVER[family], other):
        in_netns(client, transmit, daddr, tcp(CLIENT[family], daddr))
    here = {"netns": client.inode, "saddr": CLIENT[family]}
    check_kinds(one, "daddr", {**here, "daddr": SERVER[family]}, {**here, "daddr": other})


def test_lower_port(agent, client):
    one = start(agent)
    for dport in (DPORT, DPORT + 1):
        in_netns(client, transmit, SERVER[4], tcp(CLIENT[4], SERVER[4], dport))
    here = {"netns": client.inode, "sport": SPORT}
    check_kinds(one, "dport", {**here, "dport": DPORT}, {**here, "dport": DPORT + 1})


def test_protocol(agent, client):
    one = start(agent, dropwatch__protocols="tcp,udp")
    for packet in (tcp, udp):
        in_netns(client, transmit, SERVER[4], packet(CLIENT[4], SERVER[4]))
    here = {"netns": client.inode, "dport": DPORT}
    check_kinds(one, "protocol", {**here, "protocol": "tcp"}, {**here, "protocol": "udp"})


def test_network_namespace(agent, client, netns):
    """Two hosts of the same address, as containers' often are."""
    twin, far = netns("twin"), netns("far")
    veth(twin, "cli0", [CLIENT[4] + "/24"], far, "srv0", [SERVER[4] + "/24"])
    drop_all(twin, "cli0")
    one = start(agent)
    for ns in (client, twin):
        in_netns(ns, transmit, SERVER[4], tcp(CLIENT[4], SERVER[4]))
    check_kinds(one, "netns", {"netns": client.inode}, {"netns": twin.inode})


@pytest.fixture
def cgroups():
    """Two cgroups of the unified hierarchy."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "cgroup2", "none", folder], check=True)
        made = [Path(folder) / f"huatuo-{os.getpid()}-{name}" for name in ("one", "other")]
        for cgroup in made:
            cgroup.mkdir()
        yield made
        for cgroup in made:
            cgroup.rmdir()
        subprocess.run(["umount", folder], check=True)


def test_cgroup(agent, client, cgroups):
    """Two containers that share their network, as those of a pod do. The kinds look the same, so the
    senders' names tell them apart."""
    one = start(agent)
    for name, cgroup in zip(("first", "second"), cgroups):
        in_netns(client, transmit, SERVER[4], tcp(CLIENT[4], SERVER[4]), name.encode(), cgroup)
    here = {"netns": client.inode, "dport": DPORT}
    check_kinds(one, None, {**here, "comm": "first"}, {**here, "comm": "second"})


def test_reason(agent, netns):
    """A SYN for which there is no socket, and one that is damaged: the function ends in one place."""
    needs_reason("TCP_CSUM")
    one = start(agent)
    with TcpPeer(netns("a")) as peer:
        connection = peer.connection(4, 9)
        for good in (True, False):
            for _ in range(SENT):
                connection.send(SYN, good_checksum=good)
    here = {"netns": peer.ns.inode, "sport": connection.sport}
    check_kinds(one, "reason", {**here, "reason": "NO_SOCKET"}, {**here, "reason": "TCP_CSUM"})


def test_place(agent, netns):
    """Two packets that cannot be forwarded for their IP header: one is refused when it comes in (the
    header says that it is shorter than itself), the other when it would go out (no hop is left)."""

    def with_header(packet, at, value):
        packet = packet[:at] + value + packet[at + len(value) :]
        check = checksum(packet[:10] + b"\0\0" + packet[12:20])
        return packet[:10] + check.to_bytes(2, "big") + packet[12:]

    router, target = netns("router"), "198.51.100.7"
    router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    one = start(agent)
    with TcpPeer(router) as peer:
        router.ip("route", "add", target, "dev", peer.device)
        packet = tcp(peer.ADDRESS[4], target)
        for wrong in (with_header(packet, 2, (19).to_bytes(2, "big")), with_header(packet, 8, b"\1")):
            for _ in range(SENT):
                peer.write(wrong)
    here = {"netns": router.inode, "reason": "IP_INHDR"}
    check_kinds(one, "place", {**here, "place": "ip_rcv_core"}, {**here, "place": "ip_forward"})
