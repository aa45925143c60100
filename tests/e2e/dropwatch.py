# SPDX-License-Identifier: Apache-2.0
"""What the tests of dropwatch share: starting the agent, finding its records, checking them whole."""

import contextlib
import ctypes
import functools
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import pytest
from harness import in_netns, veth, wait_until

FAULTS = Path(__file__).parents[1] / "faults"
sys.path.insert(0, str(FAULTS))

SPEC_FIELDS = {
    "type": str,
    "comm": str,
    "pid": int,
    "saddr": str,
    "daddr": str,
    "sport": int,
    "dport": int,
    "src_hostname": str,
    "dest_hostname": str,
    "max_ack_backlog": int,
    "seq": int,
    "ack_seq": int,
    "queue_mapping": int,
    "pkt_len": int,
    "state": str,
    "stack": str,
}
OWN_FIELDS = {
    "reason": str,
    "place": str,
    "direction": str,
    "device": str,
    "ifindex": int,
    "netns": int,
    "family": str,
    "protocol": str,
    "tcp_flags": str,
    "payload_len": int,
    "context": str,
    "process_role": str,
}
ENVELOPE = "hostname region uploaded_time time tracer_time tracer_name tracer_type tracer_id tracer_data"
FRAME = re.compile(r"^([^\s/]+/[0-9a-f]{8,16} \[[^\s\]]+\]|(0x)?[0-9a-f]{8,16})$")
PLACE = re.compile(r"^[^\s+]+\+0x[0-9a-f]+$")

CLIENT = {4: "10.9.0.1", 6: "fd09::1"}
SERVER = {4: "10.9.0.2", 6: "fd09::2"}
INET = {4: socket.AF_INET, 6: socket.AF_INET6}
LO = {4: "127.0.0.1", 6: "::1"}
RCV = {4: "tcp_v4_rcv", 6: "tcp_v6_rcv"}
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


def start(agent, **options):
    """An agent that watches drops only. Names are not asked for unless a test is about them."""
    options = {"agent.resolve_names": "false", **{k.replace("__", "."): v for k, v in options.items()}}
    sets = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    return agent("--events", "dropwatch", *sets)


def counts(one):
    return one.status()["events"]["dropwatch"]


def settle(one):
    """Everything that was seen so far has been recorded, counted or filtered."""
    one.wait_settled("dropwatch")
    # A record may wait that long for what is known of its process, while others overtake it; unless there
    # is none on its way at all.
    end = time.monotonic() + 1
    while counts(one)["unaccounted"] and time.monotonic() < end:
        time.sleep(0.05)


def function(place):
    return place.partition("+")[0]


@functools.cache
def kernel_knows(name):
    """Whether this kernel has anything of this name among its types."""
    return f"\0{name}\0".encode() in Path("/sys/kernel/btf/vmlinux").read_bytes()


def knows_reason(name):
    """Before 5.17 there are none."""
    return kernel_knows(f"SKB_DROP_REASON_{name}")


def reason_here(name):
    """What this kernel gives as the reason: one that it does not tell from others is NOT_SPECIFIED."""
    return name if knows_reason(name) else "NOT_SPECIFIED" if knows_reason("NOT_SPECIFIED") else ""


def tells_the_socket():
    """Whether the kernel says for which socket a packet was that it had not been handed to yet (6.11)."""
    return kernel_knows("rx_sk")


def netns_of_socket(ns):
    """What `netns` may be of a segment whose socket TCP has found: it lets go of the device, and in places
    of the route too, so it is not known unless the kernel tells the socket."""
    return ns.inode if tells_the_socket() else (ns.inode, 0)


def state_of_socket(state):
    """What `state` may be of such a segment."""
    return state if tells_the_socket() else (state, "NONE")


def needs_reason(name):
    if not knows_reason(name):
        pytest.skip(f"this kernel does not know the reason {name}")


def is_drop(record, fields):
    """A record of one packet for which all fields are these; place: the function, or several."""
    data = record["tracer_data"]
    if record["tracer_name"] != "dropwatch" or "repeat" in data:
        return False
    for name, value in fields.items():
        got = function(data["place"]) if name == "place" else data.get(name)
        if name == "reason":
            value = reason_here(value)
        if got not in value if isinstance(value, (tuple, set)) else got != value:
            return False
    return True


def drops(one, **fields):
    return [record for record in one.records("dropwatch") if is_drop(record, fields)]


def wait_drops(one, count=1, **fields):
    """Waits for `count` records of a packet with these fields, and returns them."""
    return one.wait_records(lambda record: is_drop(record, fields), count=count, event="dropwatch")


def wait_drop(one, **fields):
    """The one record of a packet with these fields; it is well-formed in every respect."""
    found = wait_drops(one, **fields)
    assert len(found) == 1, [record["summary"] for record in found]
    return check_drop(found[0])


def local_time(text):
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f %z")


def check_drop(record):
    """What is true of every record of a drop. Returns its tracer_data."""
    missing = [key for key in ENVELOPE.split() if key not in record]
    assert not missing, f"no {missing} in {record}"
    assert record["tracer_type"] == "auto" and record["tracer_id"] and record["summary"]
    assert record["hostname"] == socket.gethostname()
    uploaded = re.sub(r"(\.\d{6})\d{3}", r"\1", record["uploaded_time"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}[+-]\d\d:\d\d", record["uploaded_time"])
    assert record["time"] == record["tracer_time"]
    late = datetime.fromisoformat(uploaded) - local_time(record["time"])
    assert -0.01 < late.total_seconds() < 5, (record["time"], record["uploaded_time"])

    data = record["tracer_data"]
    for name, kind in {**SPEC_FIELDS, **OWN_FIELDS}.items():
        assert isinstance(data.get(name), kind), f"{name} is {data.get(name)!r}, not {kind.__name__}"
    assert data["type"] == "common_drop"
    assert PLACE.match(data["place"]), data["place"]
    frames = data["stack"].splitlines()
    assert len(frames) > 3 and all(FRAME.match(frame) for frame in frames), frames
    # Not our own program's; whoever was interrupted may well have been loading one (bpf_check()).
    assert not [f for f in frames if f.startswith(("bpf_trace_run", "bpf_prog_")) and "bpf_prog_load" not in f], frames
    assert not [f for f in frames if "[bpf]" in f], frames
    assert function(data["place"]) in [frame.partition("/")[0] for frame in frames], frames
    return data


def expect(data, **fields):
    """Every field at once, so that one failure shows all that is wrong. place: the function, or several."""
    got = {name: data.get(name) for name in fields}
    if "place" in fields:
        got["place"] = function(data["place"])
        if got["place"] in fields["place"] and isinstance(fields["place"], tuple):
            fields["place"] = got["place"]
    if "reason" in fields:
        fields["reason"] = reason_here(fields["reason"])
    wrong = [f"{name} is {got[name]!r}, not {fields[name]!r}" for name in got if got[name] != fields[name]]
    assert not wrong, "; ".join(wrong) + f"\n{data}"


# ---- provokers


@pytest.fixture
def hosts(netns):
    """Two namespaces and a cable: client (cli0) and server (srv0)."""
    client, server = netns("client"), netns("server")
    veth(
        client, "cli0", [CLIENT[4] + "/24", CLIENT[6] + "/64"],
        server, "srv0", [SERVER[4] + "/24", SERVER[6] + "/64"],
    )  # fmt: skip
    return client, server


def ifindex(ns, device):
    with ns or contextlib.nullcontext():
        return socket.if_nametoindex(device)


def inode(ns):
    return ns.inode if ns else os.stat("/proc/self/ns/net").st_ino


def nft(ns, rules):
    """`nft -f` in a namespace; the rules go with it."""
    ns.run("nft", "-f", "-", input=rules)


def drop_all(ns, device):
    """A queueing discipline that drops whatever is sent. The link address of the server is known, or
    already the question for it would be dropped and no packet get that far."""
    for address in SERVER.values():
        known = ("lladdr", "02:00:00:00:00:01", "nud", "permanent")
        ns.ip("neigh", "replace", address, "dev", device, *known)
    ns.run("tc", "qdisc", "add", "dev", device, "root", "blackhole")


def write_seq(sock):
    """The sequence number of the next byte to be sent, which only the kernel knows."""
    tcp_repair, tcp_repair_queue, tcp_queue_seq, tcp_send_queue = 19, 20, 21, 2
    sock.setsockopt(socket.IPPROTO_TCP, tcp_repair, 1)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, tcp_repair_queue, tcp_send_queue)
        return sock.getsockopt(socket.IPPROTO_TCP, tcp_queue_seq) & 0xFFFFFFFF
    finally:
        sock.setsockopt(socket.IPPROTO_TCP, tcp_repair, -1)  # off, without a window probe


def set_comm(comm):
    pr_set_name = 15
    assert ctypes.CDLL(None).prctl(pr_set_name, ctypes.c_char_p(comm), 0, 0, 0) == 0


def start_connecting(address, port, comm=b"dropped", uid=0):
    """Sends a SYN from a socket of the user's. Returns the sender's pid, its port and the SYN's seq."""
    set_comm(comm)
    os.seteuid(uid)
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    os.seteuid(0)
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sock.connect((address, port))
    return os.getpid(), sock.getsockname()[1], (write_seq(sock) - 1) & 0xFFFFFFFF


def connect_from(ns, *arguments):
    return in_netns(ns, start_connecting, *arguments)


def refused(ns, address, port):
    """Connects to where nobody listens; returns the source port."""
    with ns or contextlib.nullcontext():
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    with sock:
        sock.bind(("", 0))
        source = sock.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            sock.connect((address, port))
    return source


@pytest.fixture(scope="session")
def flood_program():
    """tests/faults/flood.c: from HUATUO_FAULTS if that is set, else built here."""
    folder = os.environ.get("HUATUO_FAULTS")
    if folder:
        yield Path(folder) / "flood"
        return
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "flood"
        source = FAULTS / "flood.c"
        command = ["cc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-o", str(program), str(source)]
        subprocess.run(command, check=True)
        yield program


@pytest.fixture
def flood(flood_program):
    """flood(ns, family, sport, dport, count, keys=1, per_second=0)"""

    def run(ns, family, sport, dport, count, keys=1, per_second=0):
        numbers = [str(n) for n in (sport, dport, count, keys, per_second)]
        done = ns.run(str(flood_program), CLIENT[family], SERVER[family], *numbers)
        assert done.stdout.split()[0] == str(count), done.stderr

    return run


def tc(*arguments):
    subprocess.run(["tc", *arguments], check=True, capture_output=True)


def fork_in(ns, call, *arguments):
    """in_netns(), or the same in the host's namespace."""
    return in_netns(ns or HOST, call, *arguments)


class HOST:
    name, path = "the host's namespace", "/proc/self/ns/net"
