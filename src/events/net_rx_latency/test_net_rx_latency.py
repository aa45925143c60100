# SPDX-License-Identifier: Apache-2.0
"""net_rx_latency: packets that really come late, because a CPU is held or a reader takes his time, compared
with what the test itself measured; and what must not be reported."""

import contextlib
import ctypes
import http.client
import http.server
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from harness import check_accounting, in_netns, is_guest, patience, wait_until
from dropwatch import ENVELOPE, FRAME, INET, LO, write_seq

sys.path.insert(0, str(Path(__file__).parents[3] / "tests/faults"))
from tcp_peer import ACK, PSH, TcpPeer, checksum, ip_packet, pseudo_header

NS = 1_000_000_000
SPEC_FIELDS = "comm pid where latency_ms state saddr daddr sport dport seq ack_seq pkt_len".split()
NETIF, TCP, USER = "TO_NETIF_RCV", "TO_TCPV4_RCV", "TO_USER_COPY"
LAZY_S = 0.3  # more than the default threshold of 115 ms
BURN_MS = 400
CPU = max(os.sched_getaffinity(0))
OTHERS = set(os.sched_getaffinity(0)) - {CPU}
SO_TIMESTAMPING, RX_SOFTWARE = 37, 8
# What a test sends to its reader at once is late for the hypervisor's sake, too: these are not looked at.
SURELY_LATE = {"netif_threshold": "100ms", "tcp_threshold": "100ms"}

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


# ---- the agent


def start(agent, **options):
    sets = [word for key, value in options.items() for word in ("--set", f"net_rx_latency.{key}={value}")]
    return agent("--events", "net_rx_latency", "--set", "agent.resolve_names=false", *sets)


def counts(one):
    return one.status()["events"]["net_rx_latency"]


def is_late(record, ns, fields):
    data = record["tracer_data"]
    return (
        record["tracer_name"] == "net_rx_latency"
        and "repeat" not in data
        and data["netns"] == ns.inode
        and all(data.get(name) == value for name, value in fields.items())
    )


def late(one, ns, **fields):
    return [record["tracer_data"] for record in one.records("net_rx_latency") if is_late(record, ns, fields)]


def wait_late(one, ns, count=1, **fields):
    found = one.wait_records(lambda r: is_late(r, ns, fields), count=count, event="net_rx_latency")
    for record in found:
        check(record)
    return [record["tracer_data"] for record in found]


def check(record):
    """What is true of every record."""
    assert not [key for key in ENVELOPE.split() if key not in record]
    data = record["tracer_data"]
    assert list(data)[: len(SPEC_FIELDS)] == SPEC_FIELDS
    assert data["latency_ms"] == data["latency_ns"] // 1_000_000
    assert data["latency_ns"] >= data["threshold_ns"]
    assert data["direction"] == "rx" and data["protocol"] in ("tcp", "udp")
    frames = data["stack"].splitlines()
    assert len(frames) > 3 and all(FRAME.match(frame) for frame in frames), frames
    if data["where"] == USER:
        assert record["process"]["pid"] == data["pid"] and data["process_role"] == "reader"
        assert 0 <= data["before_woken_ns"] <= data["before_ran_ns"] <= data["latency_ns"]
    else:
        assert "process" not in record and "most_in" not in data
    assert f"{data['latency_ns'] / 1e6:.1f} ms" in record["summary"]


def settle(one):
    one.wait_settled("net_rx_latency")
    time.sleep(0.5)


def read_udp_by_socket(one):
    """Where the kernel tells of a datagram that is read no more than whose socket it was."""
    return "tp_btf/sock_recv_length" in counts(one)["hook"]


# ---- what happens


def pair(ns, family):
    """Two ends of a TCP connection on the loopback device of a namespace: reader, sender."""
    with ns, socket.socket(INET[family]) as listener:
        listener.bind((LO[family], 0))
        listener.listen()
        sender = socket.create_connection(listener.getsockname()[:2])
        reader, _ = listener.accept()
    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return reader, sender


def udp_pair(ns, family):
    with ns:
        reader, sender = (socket.socket(INET[family], socket.SOCK_DGRAM) for _ in range(2))
    reader.bind((LO[family], 0))
    with ns:
        sender.connect(reader.getsockname()[:2])
    return reader, sender


def wait_stamped(ns):
    """Until the kernel stamps what it receives, which begins a moment after it was asked to."""
    time.sleep(patience(0.1))


def splice(sock, size=1 << 16):
    sock.setblocking(False)
    reader, writer = os.pipe()
    try:
        done = ctypes.CDLL(None, use_errno=True).splice(sock.fileno(), None, writer, None, size, 2)
        assert done >= 0 or ctypes.get_errno() == 11, os.strerror(ctypes.get_errno())
        return done
    finally:
        os.close(reader)
        os.close(writer)


class Lazy:
    """`with Lazy() as took: read` measures how long, at least and at most, what was sent before has waited."""

    def __init__(self, send, seconds=LAZY_S):
        self.before = time.monotonic_ns()
        send()
        self.sent = time.monotonic_ns()
        time.sleep(seconds)

    def __enter__(self):
        self.begin = time.monotonic_ns()
        return self

    def __exit__(self, *_):
        self.end = time.monotonic_ns()

    def check(self, latency_ns):
        assert self.begin - self.sent - 1_000_000 <= latency_ns <= self.end - self.before + 1_000_000


# ---- the reader


@pytest.mark.matrix("ipv4")
@families
def test_tcp_reader(agent, netns, family):
    """Somebody reads late: every field, as the test knows it."""
    one, ns = start(agent), netns("a")
    reader, sender = pair(ns, family)
    wait_stamped(ns)
    seq = write_seq(sender)
    with Lazy(lambda: sender.send(b"x" * 1000)) as took:
        reader.recv(4000)
    (data,) = wait_late(one, ns, where=USER)
    took.check(data["latency_ns"])
    expected = {
        "comm": Path("/proc/self/comm").read_text().strip(),
        "pid": os.getpid(),
        "where": USER,
        "state": "ESTABLISHED",
        "saddr": LO[family],
        "daddr": LO[family],
        "sport": sender.getsockname()[1],
        "dport": reader.getsockname()[1],
        "seq": seq,
        "ack_seq": write_seq(reader),
        "pkt_len": 1000,
        "since": "received",
        "most_in": "reader_asleep",
        "family": f"ipv{family}",
        "protocol": "tcp",
        "payload_len": 1000,
        "socket_inode": os.fstat(reader.fileno()).st_ino,
        "threshold_ns": 115_000_000,
    }
    assert {name: data[name] for name in expected} == expected
    # It was not the network, and he did not run: he slept.
    assert data["before_woken_ns"] < 50_000_000
    assert data["before_ran_ns"] > data["latency_ns"] - 50_000_000 * patience(1)


@pytest.mark.matrix("ipv6")
@families
def test_udp_reader(agent, netns, family):
    one, ns = start(agent), netns("a")
    reader, sender = udp_pair(ns, family)
    wait_stamped(ns)
    with ns, Lazy(lambda: sender.send(b"x" * 100)) as took:
        reader.recv(4000)
    (data,) = wait_late(one, ns, where=USER)
    took.check(data["latency_ns"])
    expected = {
        "pid": os.getpid(),
        "daddr": LO[family],
        "dport": reader.getsockname()[1],
        "since": "received",
        "most_in": "reader_asleep",
        "family": f"ipv{family}",
        "protocol": "udp",
    }
    if not read_udp_by_socket(one):
        expected |= {"saddr": LO[family], "sport": sender.getsockname()[1], "pkt_len": 100, "payload_len": 100}
    assert {name: data[name] for name in expected} == expected


def test_udp_next_datagrams(agent, netns):
    """Each datagram is as old as it is, and those that are read at once are no events."""
    one, ns = start(agent), netns("a")
    reader, sender = udp_pair(ns, 4)
    wait_stamped(ns)
    with ns:
        sender.send(b"1")
        with Lazy(lambda: sender.send(b"2")) as took:
            reader.recv(10)
            reader.recv(10)
        for _ in range(5):
            sender.send(b"3")
            reader.recv(10)
            time.sleep(LAZY_S)
    settle(one)
    found = late(one, ns, where=USER)
    assert len(found) == 2, found
    took.check(found[1]["latency_ns"])


@pytest.mark.matrix("splice")
@pytest.mark.parametrize("how", ["parts", "readv", "peek", "peek twice", "trunc", "splice"])
def test_ways_to_read(agent, netns, how):
    """However it is read: what was late is one event, and what is only looked at is none."""
    one, ns = start(agent), netns("a")
    reader, sender = pair(ns, 4)
    wait_stamped(ns)
    if how == "splice":  # of its first call nobody knows whether it has got anything
        sender.send(b"x" * 10)
        wait_until(lambda: splice(reader) == 10, 5, "what was sent", 0.01)
    with Lazy(lambda: sender.send(b"x" * 1000)) as took:
        if how == "parts":
            for _ in range(10):
                assert len(reader.recv(100)) == 100
        elif how == "readv":
            assert reader.recvmsg_into([bytearray(300), bytearray(2000)])[0] == 1000
        elif how.startswith("peek"):
            for _ in range(how.count("twice") + 1):
                assert len(reader.recv(100, socket.MSG_PEEK)) == 100
            settle(one)
            assert not late(one, ns, where=USER)
            assert len(reader.recv(4000)) == 1000
        elif how == "trunc":
            assert len(reader.recv(4000, socket.MSG_TRUNC)) == 1000
        else:
            assert splice(reader) == 1000
            time.sleep(LAZY_S)
            assert splice(reader) == -1  # nothing there: no event
    settle(one)
    (data,) = wait_late(one, ns, where=USER)
    if how != "splice":
        took.check(data["latency_ns"])
    else:
        assert data["since"] == "last_segment" and 0.9 * LAZY_S * NS < data["latency_ns"]
        assert data["latency_ns"] <= took.end - took.before + 20_000_000


def test_repeats(agent, netns):
    """Of what comes again and again on one flow, the first ten in a minute are recorded in full, the others counted."""
    one, ns = start(agent), netns("a")
    reader, sender = udp_pair(ns, 4)
    wait_stamped(ns)
    before = counts(one)["suppressed"]
    with ns:
        for _ in range(30):
            sender.send(b"x" * 100)
        time.sleep(LAZY_S)
        for _ in range(30):
            reader.recv(100)
    settle(one)
    found = late(one, ns, where=USER)
    assert len(found) == 10
    assert all(data["latency_ns"] > LAZY_S * NS for data in found)
    assert counts(one)["suppressed"] >= before + 20


@pytest.mark.matrix("busy")
@pytest.mark.parametrize("how", ["busy", "stopped"])
def test_whose_part(agent, netns, how):
    """A reader that runs and does not read, and one that cannot run."""
    one, ns = start(agent), netns("a")
    reader, sender = pair(ns, 4)
    wait_stamped(ns)
    if how == "busy":

        def spin():
            # Nobody else is to get this CPU meanwhile.
            os.sched_setaffinity(0, {CPU})
            with contextlib.suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, 0, -20)
            sender.send(b"x")
            end = time.monotonic() + 2 * LAZY_S
            while time.monotonic() < end:
                pass
            reader.recv(10)
            return os.getpid()

        for _ in range(5):  # others may get in its way
            pid = in_netns(ns, spin)
            (*_, data) = wait_late(one, ns, where=USER, pid=pid)
            if data["most_in"] == "reader_runs":
                break
        assert data["most_in"] == "reader_runs"
        assert data["reader_ran_percent"] > 50
        return
    pid = os.fork()
    if pid == 0:
        reader.recv(10)
        os._exit(0)
    time.sleep(0.1)
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: ") T " in Path(f"/proc/{pid}/stat").read_text(), 5, "that it has stopped", 0.01)
    sender.send(b"x")
    time.sleep(LAZY_S)
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, 0)
    (data,) = wait_late(one, ns, where=USER, pid=pid)
    assert data["most_in"] == "reader_asleep" and data["before_woken_ns"] < 50_000_000


# ---- the network stack


def udp_packet(family, sport, dport, payload):
    peer = TcpPeer
    body = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    check = checksum(pseudo_header(peer.ADDRESS[family], peer.KERNEL_ADDRESS[family], 17, len(body)) + body)
    return ip_packet(peer.ADDRESS[family], peer.KERNEL_ADDRESS[family], 17, body[:6] + struct.pack("!H", check) + body[8:])


@contextlib.contextmanager
def held_cpu(ns, device):
    """What the device receives is dealt with by a CPU that is held in a softirq. Yields when it is; gives the
    milliseconds for which it was, then."""
    if not OTHERS:
        pytest.skip("it takes two CPUs")
    queue = f"/sys/class/net/{device}/queues/rx-0/rps_cpus"
    subprocess.run(ns.shell(f"echo {1 << CPU:x} > {queue}"), check=True)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, OTHERS)
    command = [os.path.join(os.environ["HUATUO_FAULTS"], "burn"), "softirq", str(BURN_MS), str(CPU), "burner"]
    burner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    held = []
    try:
        assert burner.stdout.readline().strip() == str(burner.pid)
        yield held
        held.append(int(burner.communicate(timeout=60)[0].split()[0]))
        assert burner.returncode == 0
    finally:
        burner.kill()
        burner.wait()
        os.sched_setaffinity(0, before)


def send_for(seconds, send):
    """One packet after the other; returns when each was sent."""
    end, times = time.monotonic() + seconds, []
    while time.monotonic() < end:
        times.append(time.monotonic_ns())
        send()
        time.sleep(0.005)
    return times


@pytest.mark.matrix("tcp-ipv6", "udp-ipv4")
@families
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_late_in_the_stack(agent, netns, protocol, family):
    """The CPU that is to deal with packets is held by another softirq: each of the stages says so, the last one
    that it was the network's part and not the reader's."""
    one, ns = start(agent, **SURELY_LATE), netns("a")
    wait_stamped(ns)
    with TcpPeer(ns) as peer, contextlib.ExitStack() as stack:
        if protocol == "tcp":
            listener = stack.enter_context(peer.listener(family))
            connection = peer.connect(family, listener)
            reader, _ = listener.accept()
            ends = {"sport": connection.sport, "dport": connection.dport}
            send = lambda: connection.send(PSH | ACK, b"x" * 10)  # noqa: E731
        else:
            with ns:
                reader = socket.socket(INET[family], socket.SOCK_DGRAM)
            reader.bind((peer.KERNEL_ADDRESS[family], 0))
            ends = {"dport": reader.getsockname()[1]}
            packet = udp_packet(family, 4444, ends["dport"], b"x" * 10)
            send = lambda: peer.write(packet)  # noqa: E731
        reader = stack.enter_context(reader)

        def read():
            with ns, contextlib.suppress(OSError):
                while reader.recv(1000):
                    pass

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        # What TCP merges before it is read is as old as what was sent last, so that has to be late, too.
        for part in (1.75, 0.75, 0.4, 0.6, 0.4):
            with held_cpu(ns, "tun0") as held:
                send_for(BURN_MS / 1000 * part, send)
            settle(one)
            if late(one, ns, where=USER):
                break
        first = wait_late(one, ns, where=NETIF, **ends)
        last = wait_late(one, ns, where=USER, **({} if read_udp_by_socket(one) and protocol == "udp" else ends))
        stages = [first, last]
        if protocol == "tcp":
            stages.append(wait_late(one, ns, where=TCP, **ends))
        reader.shutdown(socket.SHUT_RDWR) if protocol == "tcp" else reader.close()
    for found in stages:
        longest = max(data["latency_ms"] for data in found)
        part = 4 if found is last else 2  # of what was merged it is the youngest's
        assert held[0] / part < longest < held[0] + 100 * patience(1), (held, found)
    for data in first + last:
        assert data["since"] == "received" and data["family"] == f"ipv{family}" and data["protocol"] == protocol
    for data in first:
        assert data["device"] == "tun0" and data["saddr"] == TcpPeer.ADDRESS[family] and data["process_role"] == "interrupted"
    longest = max(last, key=lambda data: data["latency_ns"])
    assert longest["most_in"] == "stack" and longest["before_woken_ns"] > held[0] * 1_000_000 / 5


def stamps_sent_packets():
    """Whether what this host sends to itself keeps the time at which it was sent (5.18)."""
    types = Path("/sys/kernel/btf/vmlinux").read_bytes()
    return b"\0mono_delivery_time\0" in types or b"\0tstamp_type\0" in types


@pytest.mark.matrix
def test_late_on_loopback(agent, netns):
    """A connection of this host with itself: counted from when it was sent, where the kernel knows that."""
    one, ns = start(agent, **SURELY_LATE), netns("a")
    reader, sender = pair(ns, 4)
    wait_stamped(ns)
    with held_cpu(ns, "lo") as held:
        send_for(BURN_MS / 1000 + 0.3, lambda: sender.send(b"x"))
    found = wait_late(one, ns, where=NETIF, dport=reader.getsockname()[1])
    assert held[0] / 2 < max(data["latency_ms"] for data in found) < held[0] + 100 * patience(1)
    assert {data["since"] for data in found} == {"sent" if stamps_sent_packets() else "received"}


# ---- what is no event


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802 (the library's name)
        if self.path == "/wait":  # a long poll
            time.sleep(2)
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 1000)

    def log_message(self, *_):
        pass


@pytest.mark.long
def test_healthy_is_silent(agent, netns):
    """A busy HTTP server that answers at once, one that lets a long poll wait, connections on which nothing
    happens, and somebody who looks in vain with splice: for a minute no record. The thresholds are those that
    this machine's hypervisor does not reach by itself, and far below the times that all these wait."""
    one, ns = start(agent, netif_threshold="500ms", tcp_threshold="500ms", user_copy_threshold="1s"), netns("a")
    with ns:
        server = http.server.ThreadingHTTPServer((LO[4], 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    idle, other = pair(ns, 4)
    spliced, feeder = pair(ns, 6)
    feeder.send(b"x")
    wait_until(lambda: splice(spliced) == 1, 5, "what was sent", 0.01)
    end, answers = time.monotonic() + 60, []

    def ask(path):
        with ns:
            client = http.client.HTTPConnection(*server.server_address[:2])
            while time.monotonic() < end:
                client.request("GET", path)
                answers.append(len(client.getresponse().read()))

    clients = [threading.Thread(target=ask, args=(path,)) for path in ("/now", "/now", "/wait")]
    for client in clients:
        client.start()
    while time.monotonic() < end:
        time.sleep(5)
        assert splice(spliced) == -1
        other.send(b"keep-alive")
        assert idle.recv(100) == b"keep-alive"
    for client in clients:
        client.join()
    server.shutdown()
    assert len(answers) > 1000 and set(answers) == {1000}
    settle(one)
    assert not late(one, ns)


@pytest.mark.matrix
def test_clock_steps(agent, netns, clock):
    """Somebody sets the clock while traffic flows and while data waits: nothing is invented, nothing missed."""
    one, ns = start(agent, netif_threshold="500ms", tcp_threshold="500ms", user_copy_threshold="1s"), netns("a")
    waiting, feeder = pair(ns, 4)
    reader, sender = pair(ns, 6)
    datagrams, datagram_sender = udp_pair(ns, 4)
    wait_stamped(ns)
    for seconds in (3600, -7200, 30, -30, 86400 * 400, -86400 * 400):
        feeder.send(b"x")
        begin = time.monotonic_ns()
        for part in range(40):
            if part == 10:
                clock(seconds)
            sender.send(b"y")
            assert reader.recv(10) == b"y"
            with ns:
                datagram_sender.send(b"z")
                assert datagrams.recv(10) == b"z"
            time.sleep(0.05)
        before_read = time.monotonic_ns()
        assert waiting.recv(10) == b"x"
        after_read = time.monotonic_ns()
        found = wait_late(one, ns, where=USER, dport=waiting.getsockname()[1], seq=write_seq(feeder) - 1)
        assert len(found) == 1
        assert before_read - begin - NS / 10 < found[0]["latency_ns"] < after_read - begin + NS / 10, seconds
    settle(one)
    others = [data for data in late(one, ns) if data["dport"] != waiting.getsockname()[1]]
    assert not others


@pytest.fixture
def clock():
    """clock(seconds): sets the wall clock of this guest by so much."""
    if not is_guest():
        pytest.skip("only a guest's clock may be set")
    moved = 0

    def move(seconds):
        nonlocal moved
        time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME) + seconds)
        moved += seconds

    yield move
    if moved:
        move(-moved)


# ---- rules


def test_ignored(agent, netns):
    """By port and by namespace, before anything else, and counted; the others are recorded."""
    a, b = netns("a"), netns("b")
    pairs = {name: pair(ns, 4) for name, ns in (("port", a), ("recorded", a), ("netns", b))}
    port = pairs["port"][0].getsockname()[1]
    one = start(agent, ignore=f"a_port: dport={port} netns={a.inode},a_netns: netns={b.inode}")
    wait_stamped(a)
    for _, sender in pairs.values():
        sender.send(b"x")
    time.sleep(LAZY_S)
    for reader, _ in pairs.values():
        reader.recv(10)
    (data,) = wait_late(one, a, where=USER)
    assert data["dport"] == pairs["recorded"][0].getsockname()[1]
    assert not late(one, b)
    by = counts(one)["filtered_by"]
    assert by["a_port"] == 1 and by["a_netns"] == 1
    check_accounting(one.stop())


# ---- hooks


@pytest.mark.parametrize("off", ["tp_btf", "consume"])
def test_other_ways(agent, netns, off):
    """The alternatives record the same."""
    names = {
        "tp_btf": ["tp_btf/netif_receive_skb", "tp_btf/tcp_probe", "tp_btf/tcp_rcv_space_adjust", "tp_btf/consume_skb"],
        "consume": ["fentry/skb_consume_udp", "tp_btf/consume_skb", "raw_tp/consume_skb"],
    }[off]
    one, ns = start(agent, hooks_off=",".join(names)), netns("a")
    hook = counts(one)["hook"]
    assert not set(names) & set(hook.split(", "))
    reader, sender = pair(ns, 6)
    datagrams, datagram_sender = udp_pair(ns, 6)
    wait_stamped(ns)
    with ns:
        sender.send(b"x" * 10)
        datagram_sender.send(b"y")
        time.sleep(LAZY_S)
        reader.recv(100)
        datagrams.recv(100)
    (data,) = wait_late(one, ns, where=USER, protocol="tcp")
    assert data["saddr"] == LO[6] and data["sport"] == sender.getsockname()[1] and data["pkt_len"] == 10
    if any(way in hook for way in ("skb_consume_udp", "consume_skb", "sock_recv_length")):
        (data,) = wait_late(one, ns, where=USER, protocol="udp")
        assert data["dport"] == datagrams.getsockname()[1]


def holds_timestamps(pid):
    """Whether the process has a socket for which the kernel stamps what it receives."""
    libc, pidfd = ctypes.CDLL(None, use_errno=True), os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                continue
            fd = libc.syscall(438, pidfd, int(name), 0)  # pidfd_getfd
            assert fd >= 0
            with socket.socket(fileno=fd) as sock:
                if sock.family in INET.values() and sock.getsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING) == RX_SOFTWARE:
                    return True
    finally:
        os.close(pidfd)
    return False


def test_timestamps_only_while_watched(agent):
    """The root part asks the kernel for stamps as long as this kind is watched, and not longer."""
    one = start(agent)
    assert holds_timestamps(one.pid) and not holds_timestamps(one.proper())
    one.stop()
    other = agent("--events", "oom")
    assert not holds_timestamps(other.pid)
