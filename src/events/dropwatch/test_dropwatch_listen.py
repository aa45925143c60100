# SPDX-License-Identifier: Apache-2.0
"""dropwatch: connections for which a listener has no room, by each way to notice them."""

import contextlib
import socket
import time
from pathlib import Path

import pytest
from dropwatch import INET, LO, counts, drops, families, kernel_knows, knows_reason, settle, start, wait_drop
from harness import check_accounting, ip, wait_until
from tcp_peer import ACK, RST, SYN, TcpPeer

FENTRY, KPROBE, COUNTING = "fentry/tcp_conn_request", "kprobe/tcp_conn_request", "sock_diag"
WAYS = (FENTRY, KPROBE, COUNTING)
HANDSHAKE1, HANDSHAKE3, FLOOD = "listen_overflow_handshake1", "listen_overflow_handshake3", "syn_flood"
TYPES = {HANDSHAKE1, HANDSHAKE3, FLOOD}
NO_PACKET = {"saddr": "", "sport": 0, "seq": 0, "ack_seq": 0, "pkt_len": 0, "comm": "", "pid": 0, "stack": ""}


def start_way(agent, way, **options):
    """An agent that notices them in this way, if this kernel has it."""
    off = ",".join(w for w in WAYS if w != way)
    one = start(agent, dropwatch__hooks_off=off, **options)
    if way not in counts(one)["hook"]:
        pytest.skip(f"this kernel has no {way}: {one.stderr}")
    return one


@pytest.fixture(params=WAYS, ids=["fentry", "kprobe", "counts"])
def way(request):
    return request.param


def sysctl(ns, name, value):
    with ns:
        Path(f"/proc/sys/net/ipv4/{name}").write_text(str(value))


def netstat(ns, name):
    with ns:
        names, values = [
            line.split() for line in Path("/proc/thread-self/net/netstat").read_text().splitlines() if line.startswith("TcpExt")
        ]
    return int(values[names.index(name)])


def refusals(one, ns):
    """What has been recorded of the types in a namespace, oldest first."""
    return [
        r["tracer_data"]
        for r in one.records("dropwatch")
        if r["tracer_data"].get("type") in TYPES and r["tracer_data"]["netns"] == ns.inode
    ]


def refused(data):
    """How many: what is only counted is several in a record."""
    return sum(d.get("count", 1) for d in data)


def wait_refused(one, ns, kind, count):
    """Waits until so many are recorded; fails if there are more."""

    def enough():
        data = [d for d in refusals(one, ns) if d["type"] == kind]
        return data if refused(data) >= count else None

    data = wait_until(enough, 15, lambda: f"{count} {kind}: {refusals(one, ns)}, {counts(one)}")
    assert refused(data) == count, data
    return data


def say_nothing(one, ns):
    """Nothing more comes: longer than a look takes."""
    before = len(refusals(one, ns))
    time.sleep(2.5)
    settle(one)
    assert len(refusals(one, ns)) == before, refusals(one, ns)[before:]


class Server:
    """A listener and a peer that plays all its clients."""

    def __init__(self, ns, family, backlog):
        self.ns, self.family, self.backlog = ns, family, backlog
        self.peer = TcpPeer(ns)
        self.listener = self.peer.listener(family, backlog)
        self.address, self.port = self.listener.getsockname()[:2]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        self.peer.__exit__()

    def knock(self):
        """A SYN, and whether it is answered."""
        connection = self.peer.connection(self.family, self.port)
        connection.send(SYN)
        try:
            connection.receive(SYN | ACK, timeout=0.5)
        except TimeoutError:
            return connection, False
        return connection, True

    def fill(self):
        """As many connections as there is room for: one more than the backlog."""
        return [self.peer.connect(self.family, self.listener) for _ in range(self.backlog + 1)]

    def expected(self, way, kind, connection):
        """What a record of that says."""
        fields = {
            "type": kind,
            "daddr": self.address,
            "dport": self.port,
            "state": "LISTEN",
            "max_ack_backlog": self.backlog,
            "netns": self.ns.inode,
            "family": f"ipv{self.family}",
            "protocol": "tcp",
            "direction": "rx",
            "owner_comm": Path("/proc/self/comm").read_text().rstrip("\n"),
        }
        if way == COUNTING:
            return {**fields, **NO_PACKET, "count_only": True}
        fields |= {"saddr": connection.saddr, "sport": connection.sport, "seq": connection.sent.seq}
        return {**fields, "tcp_flags": "ACK" if kind == HANDSHAKE3 else "SYN"}


def expect(data, fields):
    wrong = [f"{n} is {data.get(n)!r}, not {v!r}" for n, v in fields.items() if data.get(n) != v]
    assert not wrong, "; ".join(wrong) + f"\n{data}"


@pytest.fixture
def server(netns):
    """server(family=4, backlog=2, ns=None)"""
    with contextlib.ExitStack() as stack:

        def make(family=4, backlog=2, ns=None):
            return stack.enter_context(Server(ns or netns("server"), family, backlog))

        yield make


# ---- the accept queue


@pytest.mark.matrix("fentry-ipv4", "kprobe-ipv4", "counts-ipv6")
@families
def test_handshake1(agent, server, way, family):
    """Nobody accepts, so the queue fills; each SYN that comes then is refused."""
    one_server = server(family)
    one = start_way(agent, way)
    one_server.fill()
    assert not refusals(one, one_server.ns)
    before = netstat(one_server.ns, "ListenOverflows")
    knocked = [one_server.knock() for _ in range(3)]
    assert not any(answered for _, answered in knocked)
    assert netstat(one_server.ns, "ListenOverflows") - before == 3
    data = wait_refused(one, one_server.ns, HANDSHAKE1, 3)
    for d, (connection, _) in zip(data, knocked) if way != COUNTING else ((data[0], (None, None)),):
        expect(d, one_server.expected(way, HANDSHAKE1, connection))
        expect(d, {"ack_backlog": one_server.backlog + 1, "request_queue": 0, "counter": "ListenOverflows"})
    if way != COUNTING:
        assert data[0]["place"] == "tcp_conn_request" and data[0]["pkt_len"] == 20
        frames = [frame.partition("/")[0] for frame in data[0]["stack"].splitlines()]
        # Older kernels see no further than to where a kretprobe has put itself.
        assert f"tcp_v{family}_rcv" in frames or (way == KPROBE and frames == ["kretprobe_trampoline"]), frames
    assert refused(refusals(one, one_server.ns)) == 3  # and of no other type
    one_server.listener.accept()
    _, answered = one_server.knock()
    assert answered
    say_nothing(one, one_server.ns)


def refuse_ack(one_server):
    """The SYN found room, and by the time of the ACK there is none. Returns the connection."""
    connections = [one_server.peer.connect(one_server.family, one_server.listener) for _ in range(one_server.backlog)]
    late, answered = one_server.knock()
    assert answered
    connections.append(one_server.peer.connect(one_server.family, one_server.listener))
    late.send(ACK)
    return late


@pytest.mark.matrix("fentry-ignore-ipv6", "kprobe-reset-ipv4", "counts-ignore-ipv4")
@families
@pytest.mark.parametrize("abort", [0, 1], ids=["ignore", "reset"])
def test_handshake3(agent, server, way, family, abort):
    """The final ACK is refused: one event, although the kernel drops the ACK besides."""
    one_server = server(family)
    sysctl(one_server.ns, "tcp_abort_on_overflow", abort)
    one = start_way(agent, way)
    before = netstat(one_server.ns, "ListenOverflows")
    late = refuse_ack(one_server)
    if abort:
        late.receive(RST)
    assert netstat(one_server.ns, "ListenOverflows") - before == 1
    named = way != COUNTING or knows_reason("TCP_LISTEN_OVERFLOW")
    kind = HANDSHAKE3 if named else HANDSHAKE1  # who only counts cannot tell
    (data,) = wait_refused(one, one_server.ns, kind, 1)
    expect(data, one_server.expected(FENTRY if named else way, kind, late))
    if way != COUNTING:
        expect(data, {"ack_backlog": 3, "counter": "ListenOverflows", "place": f"tcp_v{family}_syn_recv_sock"})
    elif named:
        expect(data, {"ack_backlog": 3, "counter": "", "reason": "TCP_LISTEN_OVERFLOW"})
    say_nothing(one, one_server.ns)
    if named:
        assert not drops(one, sport=late.sport, type="common_drop", dport=one_server.port)


@pytest.mark.matrix
def test_mapped(agent, server, netns):
    """IPv4 through a listener for IPv6: one function calls the other, and it is told once."""
    ns = netns("server")
    one_server = server(4, ns=ns)
    one_server.listener.close()
    with ns:
        one_server.listener = socket.socket(socket.AF_INET6)
    one_server.listener.bind(("::", one_server.port))
    one_server.listener.listen(one_server.backlog)
    one = start(agent)
    if FENTRY not in counts(one)["hook"] and KPROBE not in counts(one)["hook"]:
        pytest.skip("this kernel has neither fentry nor kprobes")
    late = refuse_ack(one_server)
    (data,) = wait_refused(one, ns, HANDSHAKE3, 1)
    expect(data, {"family": "ipv4", "sport": late.sport, "ack_backlog": 3})
    one_server.knock()
    (data,) = wait_refused(one, ns, HANDSHAKE1, 1)
    expect(data, {"family": "ipv4", "daddr": one_server.address})


# ---- the queue of requests


@pytest.mark.matrix("fentry-cookies", "kprobe-no cookies", "counts-cookies")
@pytest.mark.parametrize("cookies", [1, 0], ids=["cookies", "no cookies"])
def test_flood(agent, server, way, cookies):
    """SYNs whose senders never answer."""
    one_server = server(4, backlog=4)
    ns = one_server.ns
    sysctl(ns, "tcp_syncookies", cookies)
    counter = "TCPReqQFullDoCookies" if cookies else "TCPReqQFullDrop"
    one = start_way(agent, way)
    knocked = []
    while netstat(ns, counter) < 3:
        knocked.append(one_server.knock())
        assert len(knocked) < 20
    # The request queue takes as many as the backlog, or one more (7.1).
    assert len(knocked) - 3 in (one_server.backlog, one_server.backlog + 1)
    assert all(answered == bool(cookies) for _, answered in knocked[-3:])
    # The answer is sent before the function is left, so the next one may be told first.
    data = sorted(wait_refused(one, ns, FLOOD, 3), key=lambda d: d["sport"])
    for d, (connection, _) in zip(data, sorted(knocked[-3:], key=lambda k: k[0].sport)) if way != COUNTING else ((data[0], (None, None)),):
        expect(d, one_server.expected(way, FLOOD, connection))
        expect(d, {"ack_backlog": 0, "request_queue": len(knocked) - 3, "counter": counter})
    assert refused(refusals(one, ns)) == 3
    say_nothing(one, ns)


@pytest.mark.matrix
def test_last_quarter(agent, server):
    """Without cookies the last quarter of tcp_max_syn_backlog is for peers that are known."""
    one_server = server(4, backlog=64)
    sysctl(one_server.ns, "tcp_syncookies", 0)
    sysctl(one_server.ns, "tcp_max_syn_backlog", 16)
    one = start(agent)
    if FENTRY not in counts(one)["hook"] and KPROBE not in counts(one)["hook"]:
        pytest.skip("this kernel has neither fentry nor kprobes")
    answered = sum(one_server.knock()[1] for _ in range(16))
    assert 11 <= answered <= 14
    data = wait_refused(one, one_server.ns, FLOOD, 16 - answered)
    expect(data[0], {"counter": "ListenDrops", "request_queue": answered, "max_ack_backlog": 64})


def test_cookies_always(agent, server, way):
    """With tcp_syncookies=2 each SYN is counted as if the queue were full, and it is not."""
    one_server = server(4, backlog=16)
    sysctl(one_server.ns, "tcp_syncookies", 2)
    one = start_way(agent, way)
    for _ in range(4):
        assert one_server.knock()[1]
    assert netstat(one_server.ns, "TCPReqQFullDoCookies") == 4
    say_nothing(one, one_server.ns)


@pytest.mark.matrix("fentry")
def test_nearly_full(agent, netns, way):
    """A busy server whose queue is often full to the last place, and never over."""
    ns = netns("server")
    with ns:
        listener = socket.create_server(("127.0.0.1", 0), backlog=8)
        clients = []
        one = start_way(agent, way)
        for _ in range(30):
            for _ in range(9):
                clients.append(socket.create_connection(listener.getsockname()))
            while len(clients):
                accepted, _ = listener.accept()
                accepted.close()
                clients.pop().close()
    assert netstat(ns, "ListenOverflows") == 0
    say_nothing(one, ns)
    listener.close()


# ---- repeats, accounts, rules


@pytest.mark.parametrize("way", [FENTRY, KPROBE], ids=["fentry", "kprobe"])
def test_repeats(agent, server, way):
    """Whoever knocks, it is the same listener: ten are recorded, the others counted."""
    one_server = server(4)
    one = start_way(agent, way)
    one_server.fill()
    for _ in range(14):
        one_server.peer.connection(4, one_server.port).send(SYN)
    wait_until(lambda: counts(one)["suppressed"] >= 4, 10, lambda: counts(one))
    settle(one)
    assert len(refusals(one, one_server.ns)) == 10
    one_server.listener.close()
    status = one.stop()
    check_accounting(status)
    closing = [r["tracer_data"]["repeat"] for r in one.records("dropwatch") if "repeat" in r["tracer_data"] and "accept queue" in r["summary"]]
    assert [c["count"] for c in closing] == [4]


def test_total(agent, server):
    """What is only counted: each second's, and all since the watching began."""
    one_server = server(4)
    one_server.fill()
    for _ in range(2):
        one_server.knock()  # before anybody watches
    one = start_way(agent, COUNTING)
    for total in (1, 3):
        for _ in range(total - (total > 1)):
            one_server.knock()
        data = wait_refused(one, one_server.ns, HANDSHAKE1, total)
        assert data[-1]["total"] == total, data
        one.reload()  # the next agent goes on with what this one knows
    status = one.stop()
    check_accounting(status)


def test_closed_meanwhile(agent, server):
    """The listener is gone before anybody comes to look: it is told, without it."""
    one_server = server(4)
    one = start_way(agent, COUNTING)
    one_server.fill()
    wait_until(lambda: counts(one)["hook"], 5, "")
    one_server.peer.connection(4, one_server.port).send(SYN)
    one_server.listener.close()
    (data,) = wait_refused(one, one_server.ns, HANDSHAKE1, 1)
    expect(data, {**NO_PACKET, "daddr": "", "dport": 0, "family": "", "state": "NONE", "count_only": True})


def test_two_listeners(agent, server, netns):
    """Each gets its own."""
    ns = netns("server")
    first = server(4, backlog=1, ns=ns)
    with ns:
        second = socket.create_server((first.address, 0), backlog=3)
    one = start_way(agent, COUNTING)
    first.fill()
    port = first.port
    first.port, first.backlog = second.getsockname()[1], 3
    for _ in range(4):
        first.peer.connect(4, second)
    for _ in range(3):
        first.peer.connection(4, first.port).send(SYN)
    first.peer.connection(4, port).send(SYN)
    data = wait_refused(one, ns, HANDSHAKE1, 4)
    by_port = {d["dport"]: 0 for d in data}
    for d in data:
        by_port[d["dport"]] += d["count"]
    assert by_port == {port: 1, first.port: 3}, data
    second.close()


def test_rule(agent, server, way):
    """Rules of the operator's own apply to them, by type too."""
    one_server = server(4)
    one = start_way(agent, way, dropwatch__ignore=f"mine: type=listen_overflow_handshake1|syn_flood netns={one_server.ns.inode}")
    one_server.fill()
    one_server.knock()
    wait_until(lambda: counts(one)["filtered_by"].get("mine") == 1, 10, lambda: counts(one))
    say_nothing(one, one_server.ns)


def test_protocols(agent, server, way):
    """Who does not watch TCP does not hear of it."""
    one_server = server(4)
    one = start_way(agent, way, dropwatch__protocols="udp")
    one_server.fill()
    one_server.knock()
    say_nothing(one, one_server.ns)
