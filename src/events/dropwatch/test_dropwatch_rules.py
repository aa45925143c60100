# SPDX-License-Identifier: Apache-2.0
"""dropwatch's noise rules: each takes out what a healthy connection does, and nothing that only looks
like it. Every rule is provoked, with a real loss beside it that differs in as little as possible."""

import contextlib
import ctypes
import errno
import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Callable

import pytest
from dropwatch import (
    ABORT,
    CLIENT,
    INET,
    LO,
    RCV,
    SERVER,
    check_drop,
    counts,
    drops,
    expect,
    families,
    function,
    hosts,  # noqa: F401 (a fixture)
    inode,
    needs_reason,
    netns_of_socket,
    refused,
    settle,
    start,
    state_of_socket,
    wait_drop,
    wait_drops,
)
from tcp_peer import ACK, FIN, PSH, RST, SYN, Sniffer, TcpPeer

PURGES = ("skb_queue_purge", "skb_queue_purge_reason")
TIME_WAIT = ("TIME_WAIT", "NONE")  # before 6.11 the kernel does not say which socket it was
HTTP_SECONDS = int(os.environ.get("HUATUO_HTTP_SECONDS", "60"))


# ---- connections with a peer in user space. Each function returns what names its drop.


def connected(peer, family):
    with peer.listener(family) as listener:
        connection = peer.connect(family, listener)
        return connection, listener.accept()[0]


def closed_by_the_kernel(peer, family):
    connection, sock = connected(peer, family)
    sock.close()
    connection.receive(FIN)
    return connection


def last_fin(peer, family):
    """The kernel has closed first; the peer's FIN ends the connection and its buffer is freed."""
    connection = closed_by_the_kernel(peer, family)
    connection.send(FIN | ACK)
    return {"sport": connection.sport, "tcp_flags": "FIN|ACK", "place": ("sk_stream_kill_queues", *PURGES)}


def last_fin_with_data(peer, family):
    """The same, but the FIN carries data for which nobody is left: the peer is reset."""
    connection = closed_by_the_kernel(peer, family)
    connection.send(FIN | PSH | ACK, b"late")
    connection.receive(RST)
    return {
        "sport": connection.sport,
        "tcp_flags": "FIN|PSH|ACK",
        "payload_len": 4,
    }


def waiting_for_fin(peer, family):
    """Nobody has the socket any more and the peer has acknowledged its FIN: TIME_WAIT for the kernel."""
    connection = closed_by_the_kernel(peer, family)
    connection.send(ACK)
    return connection


def fin_in_time_wait(peer, family):
    connection = waiting_for_fin(peer, family)
    connection.send(FIN | ACK)
    connection.receive(ACK)
    return {"sport": connection.sport, "tcp_flags": "FIN|ACK", "state": TIME_WAIT}


def data_in_time_wait(peer, family):
    connection = waiting_for_fin(peer, family)
    connection.send(PSH | ACK, b"late")
    connection.receive(RST)
    return {"sport": connection.sport, "place": RCV[family], "state": TIME_WAIT, "payload_len": 4}


def closed_by_the_peer(peer, family):
    connection, sock = connected(peer, family)
    connection.send(FIN | ACK)
    connection.receive(ACK)
    return connection, sock


def ack_when_half_closed(peer, family):
    connection, sock = closed_by_the_peer(peer, family)
    with sock:
        sock.send(b"answer")
        connection.receive(PSH)
        connection.send(ACK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    return {"sport": connection.sport, "tcp_flags": "ACK", "state": state_of_socket("CLOSE_WAIT"), "payload_len": 0}


def data_when_half_closed(peer, family):
    connection, sock = closed_by_the_peer(peer, family)
    with sock:
        connection.send(PSH | ACK, b"behind the end")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    return {
        "sport": connection.sport,
        "place": "tcp_rcv_state_process",
        "state": state_of_socket("CLOSE_WAIT"),
        "payload_len": 14,
    }


def keepalive_probe(peer, family):
    connection, sock = connected(peer, family)
    with sock:
        connection.send(ACK, seq=connection.snd_nxt - 1)
        connection.receive(ACK)
    return {"sport": connection.sport, "reason": "TCP_OLD_SEQUENCE", "payload_len": 0}


def ack_beyond_the_window(peer, family):
    connection, sock = connected(peer, family)
    with sock:
        connection.send(ACK, seq=connection.snd_nxt + (1 << 28))
        connection.receive(ACK)
    return {"sport": connection.sport, "place": "tcp_validate_incoming", "payload_len": 0}


def sent_twice(peer, family):
    connection, sock = connected(peer, family)
    with sock:
        connection.send(PSH | ACK, b"once")
        connection.send(PSH | ACK, b"once", seq=connection.sent.seq)
        assert sock.recv(100) == b"once"
    return {"sport": connection.sport, "tcp_flags": "PSH|ACK", "payload_len": 4}


def data_beyond_the_window(peer, family):
    connection, sock = connected(peer, family)
    with sock:
        connection.send(PSH | ACK, b"once", seq=connection.snd_nxt + (1 << 28))
        connection.receive(ACK)
    return {"sport": connection.sport, "tcp_flags": "PSH|ACK", "payload_len": 4}


def listener_closed(peer, family):
    """A connection that nobody has accepted goes with its listener, and with it what it has sent."""
    with peer.listener(family) as listener:
        connection = peer.connect(family, listener)
        connection.send(PSH | ACK, b"hello")
        connection.receive(ACK)
    connection.receive(RST)
    return {"sport": connection.sport, "payload_len": 5}


def disconnected_unread(peer, family):
    """connect(AF_UNSPEC): the same function throws away what an application has not read."""
    connection, sock = connected(peer, family)
    with sock:
        connection.send(PSH | ACK, b"hello")
        connection.receive(ACK)
        unspec = ctypes.create_string_buffer(struct.pack("H14x", socket.AF_UNSPEC))
        assert ctypes.CDLL(None).connect(sock.fileno(), unspec, 16) == 0
    return {"sport": connection.sport, "payload_len": 5, "place": "tcp_disconnect"}


def fin_fills_the_hole(peer, family):
    """A segment waits behind a hole; what fills it repeats it and is the connection's end."""
    connection, sock = connected(peer, family)
    with sock:
        connection.send(PSH | ACK, b"world", seq=connection.snd_nxt + 5)
        connection.receive(ACK)
        connection.send(FIN | PSH | ACK, b"helloworld")
        assert sock.recv(100) == b"helloworld"
    return {"sport": connection.sport, "place": "skb_rbtree_purge"}


def reset_before_the_hole(peer, family):
    """The connection dies with a hole: what was received behind it never reaches anybody."""
    connection, sock = connected(peer, family)
    with sock:
        connection.send(PSH | ACK, b"world", seq=connection.snd_nxt + 5)
        connection.receive(ACK)
        connection.send(RST | ACK)
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
    return {"sport": connection.sport, "place": "skb_rbtree_purge", "payload_len": 5}


def unread_timestamps(peer, family):
    """The kernel keeps a copy of what was sent, to say when that was; nobody asks."""
    connection, sock = connected(peer, family)
    so_timestamping, tx_software, software = 37, 1 << 1, 1 << 4
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, so_timestamping, tx_software | software)
        sock.send(b"when?")
        connection.receive(PSH)
        connection.send(ACK)
    connection.receive(FIN)
    connection.send(FIN | ACK)
    return {"dport": connection.sport, "place": PURGES}


def unread_when_closed(peer, family):
    """A raw socket is closed with a segment unread: a queue of a closed socket is purged, for the same
    reason and as near to the other as there is, but it is what somebody has sent to this host."""
    with peer.ns:
        raw = socket.socket(INET[family], socket.SOCK_RAW, socket.IPPROTO_TCP)
    connection = peer.connection(family, 9)
    with raw:
        connection.send(PSH | ACK, b"unread")
        connection.receive(RST)
    return {"sport": connection.sport, "place": "inet_sock_destruct", "state": "CLOSE", "payload_len": 6}


def reset_to_nobody(peer, family):
    connection = peer.connection(family, 9)
    connection.send(RST)
    return {"sport": connection.sport, "tcp_flags": "RST", "reason": "NO_SOCKET"}


def fin_to_nobody(peer, family):
    connection = peer.connection(family, 9)
    connection.send(FIN | ACK)
    connection.receive(RST)
    return {"sport": connection.sport, "tcp_flags": "FIN|ACK", "reason": "NO_SOCKET"}


def ended(peer, family):
    """A connection that both sides have closed; returns the number of its only segment with data."""
    connection, sock = connected(peer, family)
    with sock:
        connection.send(PSH | ACK, b"data")
        seq = connection.sent.seq
        connection.receive(ACK)
        assert sock.recv(100) == b"data"
        connection.send(FIN | ACK)
        connection.receive(ACK)
    connection.receive(FIN)
    connection.send(ACK)
    return connection, seq


def copy_after_the_end(peer, family):
    connection, seq = ended(peer, family)
    connection.send(PSH | ACK, b"data", seq=seq)
    connection.receive(RST)
    return {"sport": connection.sport, "tcp_flags": "PSH|ACK", "reason": "NO_SOCKET", "payload_len": 4}


def more_after_the_end(peer, family):
    """The same segment, with bytes behind it that had not come."""
    connection, seq = ended(peer, family)
    connection.send(PSH | ACK, b"data and more", seq=seq)
    connection.receive(RST)
    return {"sport": connection.sport, "tcp_flags": "PSH|ACK", "reason": "NO_SOCKET", "payload_len": 13}


def ack_after_the_end(peer, family):
    connection, _ = ended(peer, family)
    connection.send(ACK)
    connection.receive(RST)
    return {"sport": connection.sport, "tcp_flags": "ACK", "reason": "NO_SOCKET", "payload_len": 0}


def ack_to_nobody(peer, family):
    connection = peer.connection(family, 9)
    connection.send(ACK)
    connection.receive(RST)
    return {"sport": connection.sport, "tcp_flags": "ACK", "reason": "NO_SOCKET", "payload_len": 0}


@dataclass
class Rule:
    name: str
    noise: Callable
    loss: Callable
    reason: str = ""  # without which the rule matches nothing


RULES = [
    Rule("fin_consumed", last_fin, last_fin_with_data),
    Rule("time_wait_ack", fin_in_time_wait, data_in_time_wait, "NOT_SPECIFIED"),
    Rule("half_closed_ack", ack_when_half_closed, data_when_half_closed, "NOT_SPECIFIED"),
    Rule("probe", keepalive_probe, ack_beyond_the_window, "TCP_OLD_SEQUENCE"),
    Rule("duplicate", sent_twice, data_beyond_the_window, "TCP_OLD_DATA"),
    Rule("unaccepted_child", listener_closed, disconnected_unread),
    Rule("fin_ofo_purge", fin_fills_the_hole, reset_before_the_hole),
    Rule("error_queue", unread_timestamps, unread_when_closed),
    Rule("reset_to_nobody", reset_to_nobody, fin_to_nobody, "NO_SOCKET"),
    Rule("late_duplicate", copy_after_the_end, more_after_the_end, "NO_SOCKET"),
    Rule("late_ack", ack_after_the_end, ack_to_nobody, "NO_SOCKET"),
]


@pytest.mark.matrix("half_closed_ack")
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rule(agent, netns, rule):
    if rule.reason:
        needs_reason(rule.reason)
    with TcpPeer(netns("a")) as peer:
        here = {"netns": netns_of_socket(peer.ns)}
        one = start(agent)
        before = counts(one)["filtered_by"].get(rule.name, 0)
        noises = [rule.noise(peer, family) for family in (4, 6)]
        losses = [rule.loss(peer, family) for family in (4, 6)]
        for loss in losses:
            wait_drop(one, **here, **loss)
        settle(one)
        for noise in noises:
            assert not drops(one, **here, **noise)
        assert counts(one)["filtered_by"][rule.name] >= before + 2
        one.stop()

        # Without the rule it is an event, so it was this rule that took it out.
        one = start(agent, dropwatch__noise_rules_off=rule.name)
        for family in (4, 6):
            check_drop(wait_drops(one, **here, **rule.noise(peer, family))[0])
        assert rule.name not in counts(one)["filtered_by"]


@families
def test_neighbour_that_is_gone(agent, hosts, family):
    """What a closed connection still has to say to a host that has vanished is no loss; that nobody
    can connect to it any more is one. Both end in the same function for the same reason."""
    client, server = hosts

    def vanish():
        with server:
            listener = socket.create_server((SERVER[family], 0), family=INET[family])
        with client:
            sock = socket.create_connection(listener.getsockname()[:2])
        with listener:
            accepted = listener.accept()[0]
        length = {4: 24, 6: 64}[family]
        server.ip("address", "delete", f"{SERVER[family]}/{length}", "dev", "srv0")
        client.ip(f"-{family}", "neigh", "flush", "dev", "cli0")
        sport = sock.getsockname()[1]
        sock.close()
        return accepted, sport

    one = start(agent)
    accepted, sport = vanish()
    # Nobody knows whether a neighbour is alive before it has been asked three times, a second each.
    time.sleep(5)

    def connect():
        with client:
            sock = socket.socket(INET[family])
        with sock, pytest.raises(OSError) as refusal:
            sock.settimeout(10)
            sock.connect((SERVER[family], 80))
        # Refused for want of a neighbour, or not answered: then a SYN has been sent.
        assert isinstance(refusal.value, TimeoutError) or refusal.value.errno == errno.EHOSTUNREACH, refusal

    connect()
    missed = counts(one)["missed"]
    if missed and not drops(one, netns=client.inode, tcp_flags="SYN"):
        connect()  # the kernel leaves a hook out while it runs on that CPU already
    data = check_drop(wait_drops(one, netns=client.inode, tcp_flags="SYN")[0])
    expect(data, daddr=SERVER[family], dport=80, state="SYN_SENT", direction="tx", device="cli0")
    settle(one)
    assert not drops(one, netns=client.inode, sport=sport)
    assert counts(one)["filtered_by"]["neigh_teardown"] >= 1
    accepted.close()


def test_device_that_refuses(agent, netns):
    """The rule for devices that free what they have sent must not take out what they refuse: nobody
    reads from the tun device, and its queue holds one packet."""
    ns = netns("a")
    one = start(agent)
    with TcpPeer(ns) as peer:
        ns.ip("link", "set", peer.device, "down")
        ns.ip("link", "set", peer.device, "txqueuelen", "1")
        ns.ip("link", "set", peer.device, "up")
        ns.ip("address", "replace", peer.KERNEL_ADDRESS[4] + "/24", "dev", peer.device)
        with ns:
            socks = [socket.socket() for _ in range(8)]
        ports = set()
        for sock in socks:
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.connect((peer.ADDRESS[4], 80))
            ports.add(sock.getsockname()[1])
        data = check_drop(wait_drops(one, netns=ns.inode, tcp_flags="SYN")[0])
        expect(data, direction="tx", device=peer.device, state="NONE", dport=80)
        assert data["sport"] in ports
        for sock in socks:
            sock.close()


def unread(_sniffer):
    """Packets wait in its queue when it is closed."""


def full_buffer(sniffer):
    sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)


@pytest.mark.parametrize(
    "prepare, places",
    [
        (unread, PURGES),
        (full_buffer, ("packet_rcv",)),
    ],
    ids=["unread at its end", "full buffer"],
)
def test_copies_of_a_sniffer(agent, hosts, prepare, places):
    """A capture that does not read has lost copies, not packets. What of the same packets is lost itself is
    recorded, once each, while the capture goes on losing its copies of them."""
    client, server = hosts

    def captured(one):
        """Returns the source ports of what arrived, and of what was refused."""
        with server:
            listener = socket.create_server((SERVER[4], 0))
        # Of what goes out it gets clones of its own; what comes in is shared, and shown as freed by the last.
        sniffer = Sniffer(client, "cli0")
        prepare(sniffer.socket)
        with client:
            sock = socket.create_connection(listener.getsockname())
        with sock, listener, listener.accept()[0] as accepted:
            for _ in range(5):
                sock.send(b"seen twice")
                assert accepted.recv(100) == b"seen twice"
            ports = sock.getsockname()[1], [refused(client, SERVER[4], 9) for _ in range(3)]
            sniffer.socket.close()
            sock.close()
            assert accepted.recv(100) == b""
        for sport in ports[1]:
            wait_drops(one, netns=server.inode, sport=sport, place=RCV[4])
        settle(one)
        return ports

    one = start(agent)
    before = counts(one)["filtered_by"]["sniffer_copy"]
    _, lost = captured(one)
    found = [r for ns in hosts for r in drops(one, netns=ns.inode)]
    assert sorted(r["tracer_data"]["sport"] for r in found) == sorted(lost)
    for record in found:
        expect(check_drop(record), place=RCV[4], reason="NO_SOCKET", tcp_flags="SYN", device="srv0")
    assert counts(one)["filtered_by"]["sniffer_copy"] >= before + 5
    one.stop()

    # Without the rule the copies are events: of what arrived and of what did not.
    one = start(agent, dropwatch__noise_rules_off="sniffer_copy")
    arrived, _ = captured(one)
    copies = {function(r["tracer_data"]["place"]) for r in drops(one, netns=client.inode, sport=arrived)}
    assert copies & set(places), copies


def test_rules_of_the_operator(agent, hosts):
    client, server = hosts
    rule = "known: place=tcp_v4_rcv reason=NO_SOCKET? flag=SYN direction=rx dport=9"
    one = start(agent, dropwatch__ignore=rule)
    refused(client, SERVER[4], 9)
    other_port = refused(client, SERVER[4], 10)
    other_family = refused(client, SERVER[6], 9)
    wait_drop(one, netns=server.inode, sport=other_port)
    wait_drop(one, netns=server.inode, sport=other_family)
    settle(one)
    assert len(drops(one, netns=server.inode)) == 2
    assert counts(one)["filtered_by"]["known"] >= 1
    one.stop()


# ---- ordinary traffic

WEB_SERVER = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = sys.argv[3]

    def do_GET(self):
        body = b"x" * int(self.path[1:])
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.path = "/10"
        self.do_GET()

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    address_family = int(sys.argv[1])
    request_queue_size = 64

server = Server((sys.argv[2], 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def web_server(ns, family, address, protocol):
    command = [sys.executable, "-c", WEB_SERVER, str(int(INET[family])), address, protocol]
    with ns or contextlib.nullcontext():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


def browse(ns, address, port, keep, until):
    """Small and large answers and questions, on one connection or on one for each. The client closes
    first, or the server does (HTTP/1.0)."""
    if ns:
        ns.__enter__()
    try:
        done = 0
        connection = http.client.HTTPConnection(address, port, timeout=20)
        while time.monotonic() < until:
            for size in (0, 100, 20_000, 1_000_000):
                connection.request("GET", f"/{size}")
                assert len(connection.getresponse().read()) == size
                if not keep:
                    connection.close()
            connection.request("POST", "/", b"y" * 50_000)
            assert len(connection.getresponse().read()) == 10
            if not keep:
                connection.close()
            done += 5
            time.sleep(0.02)
        connection.close()
        return done
    finally:
        if ns:
            ns.__exit__()


@pytest.mark.long
@pytest.mark.host_only("it takes a minute of a fast machine")
def test_ordinary_http_is_silent(agent, hosts):
    """A minute of healthy traffic, on the host's loopback device and between two namespaces."""
    client, server = hosts
    places = []
    for family in (4, 6):
        places += [(None, None, family, LO[family]), (client, server, family, SERVER[family])]
    servers, jobs = [], []
    one = start(agent, dropwatch__repeat_keys="65536")  # others lose packets, and may fill it
    before = counts(one)
    try:
        until = time.monotonic() + HTTP_SECONDS
        with ThreadPoolExecutor(16) as pool:
            for client_ns, server_ns, family, address in places:
                for protocol in ("HTTP/1.0", "HTTP/1.1"):
                    servers.append(web_server(server_ns, family, address, protocol))
                    for keep in (True, False) if protocol == "HTTP/1.1" else (True,):
                        port = servers[-1][1]
                        jobs.append(pool.submit(browse, client_ns, address, port, keep, until))
        requests = [job.result() for job in jobs]
        assert min(requests) >= HTTP_SECONDS, requests
        ports = {port for _, port in servers}
        settle(one)
        wrong = [
            r
            for r in one.records("dropwatch")
            if r["tracer_data"]["netns"] in (client.inode, server.inode)
            or r["tracer_data"]["netns"] in (inode(None), 0)
            and {r["tracer_data"]["sport"], r["tracer_data"]["dport"]} & ports
        ]
        assert not wrong, "\n".join([f"{len(wrong)} records:", *map(json.dumps, wrong[:5])])
        # Silence is not blindness: nothing went unseen, the noise was there, and so is a loss.
        after = counts(one)
        unseen = {name: after[name] - before[name] for name in ("lost", "missed")}
        assert not any(unseen.values()), (unseen, after["lost_by"])
        assert after["filtered_by"]["fin_consumed"] >= 10
        sport = refused(client, SERVER[4], 9)
        wait_drop(one, netns=inode(server), sport=sport, saddr=CLIENT[4])
    finally:
        for process, _ in servers:
            process.kill()
            process.wait()
            process.stdout.close()
