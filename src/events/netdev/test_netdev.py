# SPDX-License-Identifier: Apache-2.0
"""netdev: interfaces in network namespaces of our own that really change, compared with what the test and
the kernel know of them. The agents run inside: an agent watches the namespace that it runs in."""

import contextlib
import ctypes
import datetime
import errno
import fcntl
import json
import os
import shlex
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
from harness import ip, let_pass, patience, veth, wait_until
from memory import cgroup  # noqa: F401 (a fixture)

WAYS = ("netlink+filter", "netlink")
GROWN_S = 5  # what software makes counts from then on
DOWN = "linkStatusAdminDown, linkStatusCarrierDown"
SPEC_FIELDS = ["ifname", "start", "index", "linkstatus", "mac"]


# ---- an agent in a namespace, and what changes there


@pytest.fixture
def inside(through):
    """inside(ns): the next agents run there."""
    return lambda ns: through("nsenter", f"--net={ns.path}")


def add_pair(ns, *names):
    """Each is the other's peer: with carrier as long as both are up."""
    ns.ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
    for name in names:
        ns.ip("link", "set", name, "up")
    wait_until(lambda: all(has_carrier(ns, name) for name in names), 10, "carrier")
    return ns


@pytest.fixture
def pair(netns):
    """Two interfaces in one namespace."""
    return add_pair(netns("links"), "v1", "v2")


def start(agent, **options):
    sets = {"agent.resolve_names": "false", **{f"netdev.{k}": v for k, v in options.items()}}
    return agent("--events", "netdev", *[word for k, v in sets.items() for word in ("--set", f"{k}={v}")])


def link(ns, name):
    (row,) = json.loads(ns.ip("-d", "-j", "link", "show", "dev", name))
    return row


def has_carrier(ns, name):
    return "LOWER_UP" in link(ns, name)["flags"]


def do(ns, *arguments):
    """`ip` as a process whose number is known: (pid, when it was run)."""
    with ns:
        begin = time.time()
        process = subprocess.Popen(["ip", *arguments], stderr=subprocess.PIPE, text=True)
        _, error = process.communicate()
    assert process.returncode == 0, error
    return process.pid, begin, time.time()


def data_of(one, **fields):
    """tracer_data of the records that have these fields, oldest first; no closing ones."""
    rows = sorted((r for r in one.records("netdev")), key=lambda r: r["time"])
    rows = [r["tracer_data"] for r in rows if "repeat" not in r["tracer_data"]]
    return [data for data in rows if all(data.get(k) == v for k, v in fields.items())]


def wait_data(one, count=1, timeout=15, **fields):
    wait_until(lambda: len(data_of(one, **fields)) >= count, timeout, lambda: f"{fields}: {data_of(one)}\n{one.stderr}")
    return data_of(one, **fields)


def wait_changed(one, change, **fields):
    """The one in which that has changed, among others perhaps."""
    found = wait_until(lambda: [d for d in data_of(one, **fields) if change in d["changes"]], 20, lambda: f"{change} {fields}: {data_of(one)}")
    (data,) = found
    return data


def record_of(one, **fields):
    wait_data(one, **fields)
    (record,) = [r for r in one.records("netdev") if all(r["tracer_data"].get(k) == v for k, v in fields.items())]
    return record


def counts(one):
    return one.status()["events"]["netdev"]


def filtered(one):
    return {rule: count for rule, count in counts(one)["filtered_by"].items() if count}


def seconds_of(record):
    return datetime.datetime.strptime(record["time"], "%Y-%m-%d %H:%M:%S.%f %z").timestamp()


def set_carrier(tap, on):
    fcntl.ioctl(tap, 0x400454E2, struct.pack("i", on))  # TUNSETCARRIER, 5.0


@contextlib.contextmanager
def tap_in(ns, name):
    """A tap that is up; without carrier once it is told so."""
    iff_tap, iff_no_pi, tunsetiff = 0x2, 0x1000, 0x400454CA
    with ns:
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(tap, tunsetiff, struct.pack("16sH22x", name.encode(), iff_tap | iff_no_pi))
        ip("link", "set", name, "up")
    try:
        yield tap
    finally:
        os.close(tap)


# ---- what it says


@pytest.mark.matrix("netlink")
@pytest.mark.parametrize("way", WAYS)
def test_admin(agent, inside, netns, way):
    """Set down by a process: whose name is as hostile as names can be. The peer has lost its carrier,
    and nobody has done that."""
    name = 'v"1\\n<b>'
    pair = add_pair(netns("links"), name, "v2")
    before = link(pair, name)
    inside(pair)
    one = start(agent, hooks_off="netlink+filter") if way == "netlink" else start(agent)
    assert f"through {way}\n" in one.stderr
    pid, begin, end = do(pair, "link", "set", name, "down")

    record = record_of(one, ifname=name, changes=["admin", "carrier"])
    data = record["tracer_data"]
    assert list(data)[:5] == SPEC_FIELDS
    assert (data["index"], data["mac"]) == (before["ifindex"], before["address"])
    assert data["linkstatus"] == DOWN and data["start"] is False
    assert (data["kind"], data["mtu"], data["operstate"]) == ("veth", before["mtu"], "down")
    assert record["tracer_name"] == "netdev_event" and record["tracer_type"] == "auto"
    assert begin - 0.01 <= seconds_of(record) <= end + (0.01 if way == WAYS[0] else 0.5)
    if way == WAYS[0]:
        assert (data["pid"], data["comm"]) == (pid, "ip")
        process = record["process"]
        assert (process["pid"], process["ppid"], process["uid"]) == (pid, os.getpid(), os.getuid())
        assert process["cmdline"] == shlex.join(["ip", "link", "set", name, "down"])
        assert record["summary"] == f"{name}: was set down by ip[{pid}]; carrier is gone"
    else:
        assert "pid" not in data and "process" not in record
        assert record["summary"] == f"{name}: was set down; carrier is gone"

    record = record_of(one, ifname="v2", linkstatus="linkStatusCarrierDown")
    data = record["tracer_data"]
    assert data["changes"] == ["carrier"] and data["index"] == link(pair, "v2")["ifindex"]
    assert data["carrier_down_count"] == 2  # once when it was made
    assert "pid" not in data and "comm" not in data and "process" not in record and "cgroup" not in record

    pid, _, _ = do(pair, "link", "set", name, "up")
    (data,) = wait_data(one, ifname=name, linkstatus="linkStatusAdminUp, linkStatusCarrierUp")
    assert data.get("pid") == (pid if way == WAYS[0] else None)
    wait_data(one, ifname="v2", linkstatus="linkStatusCarrierUp")
    status = one.stop()["events"]["netdev"]
    assert status["seen"] == status["recorded"] == 4, status


@pytest.mark.matrix
def test_changes(agent, inside, pair, netns):
    """Each sort of change, and who did it."""
    elsewhere = netns("elsewhere")
    inside(pair)
    one = start(agent)

    def changed(ifname, change, *arguments, **fields):
        pid, _, _ = do(pair, *arguments)
        (data,) = wait_data(one, ifname=ifname, pid=pid, changes=[change] if isinstance(change, str) else change)
        assert {name: data.get(name) for name in fields} == fields, data
        return data

    do(pair, "link", "add", "br0", "type", "bridge")
    changed("v1", "mtu", "link", "set", "v1", "mtu", "1400", mtu=1400, mtu_before=1500, linkstatus="")
    changed("v1", "mac", "link", "set", "v1", "address", "02:00:00:00:00:09", mac="02:00:00:00:00:09", mac_before=link(pair, "v1")["address"])
    changed("v1", "master", "link", "set", "v1", "master", "br0", master="br0", master_before=None)
    changed("v1", "master", "link", "set", "v1", "nomaster", master=None, master_before="br0")
    do(pair, "link", "set", "v1", "down")  # before 6.2 others cannot be renamed
    changed("v3", "name", "link", "set", "v1", "name", "v3", ifname_before="v1", linkstatus="")

    # What software makes is told five seconds later, as it is then; when it was made, and by whom.
    pid, begin, end = do(pair, "link", "add", "br1", "type", "bridge")
    do(pair, "link", "set", "br1", "up")
    do(pair, "link", "set", "br1", "mtu", "1300")
    record = record_of(one, ifname="br1", changes=["appeared"])
    data = record["tracer_data"]
    assert (data["pid"], data["kind"], data["mtu"]) == (pid, "bridge", 1300)
    assert data["linkstatus"].startswith("linkStatusAdminUp, ")
    assert begin - 0.01 <= seconds_of(record) <= end + 0.01
    assert record["process"]["cmdline"] == "ip link add br1 type bridge"
    assert len(data_of(one, ifname="br1")) == 1
    assert len(wait_data(one, ifname="br0", changes=["appeared"])) == 1  # what it took over from v1 may have come later

    changed("br0", "removed", "link", "delete", "br0", moved=False)
    do(pair, "link", "set", "br1", "down")
    pid, _, _ = do(pair, "link", "set", "v3", "netns", elsewhere.name)
    (data,) = wait_data(one, ifname="v3", changes=["removed"])
    assert (data["moved"], data["pid"]) == (True, pid)
    one.wait_balance()


def test_container_of_who(agent, inside, pair, cgroup):  # noqa: F811
    """A process in a container has done it."""
    container = "5f" * 32
    group = cgroup(f"docker-{container}.scope")
    inside(pair)
    one = start(agent)
    enter = f"echo $$ > {group.folder}/cgroup.procs && exec ip link set v1 mtu 1300"
    os.kill(one.pid, signal.SIGSTOP)  # when it comes to look, the process is gone
    try:
        pair.run("sh", "-c", enter)
    finally:
        os.kill(one.pid, signal.SIGCONT)
    record = record_of(one, ifname="v1", changes=["mtu"])
    assert record["container_id"] == container and record["cgroup"] == group.path, record


def test_nobody_but_who_did_it(agent, inside, pair):
    """Whoever reads that an interface has no carrier makes the kernel tell of it (linkwatch_sync_dev()),
    and has nothing to do with it."""
    inside(pair)
    one = start(agent, repeat_limit="1000")
    read = "while :; do read x < /sys/class/net/v2/carrier; done"
    readers = [subprocess.Popen(pair.shell(read), stderr=subprocess.DEVNULL) for _ in "ab"]
    flaps = 25
    try:
        for _ in range(flaps):
            do(pair, "link", "set", "v1", "down")
            do(pair, "link", "set", "v1", "up")
        assert all(reader.poll() is None for reader in readers)
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
    wait_until(lambda: len([d for d in data_of(one, ifname="v1") if "admin" in d["changes"]]) == 2 * flaps, 15, lambda: data_of(one))
    one.wait_settled("netdev")
    found = data_of(one)
    assert len([data for data in found if "admin" not in data["changes"]]) >= flaps / 2
    for data in found:
        assert ("pid" in data) == ("admin" in data["changes"]), data
        assert data.get("comm") in (None, "ip"), data


@pytest.mark.matrix
def test_flaps(agent, inside, netns):
    """The kernel tells of carriers at most once a second. What was in between is counted."""
    ns = netns("tap")
    with tap_in(ns, "tap0") as tap:
        inside(ns)
        one = start(agent)
        set_carrier(tap, 0)
        wait_data(one, ifname="tap0", linkstatus="linkStatusCarrierDown")
        set_carrier(tap, 1)
        (data,) = wait_data(one, ifname="tap0", linkstatus="linkStatusCarrierUp")
        downs = data["carrier_down_count"]
        flaps = 0
        found = []
        # Two in a row: at the latest the second is within the second, unless a slow machine is slower than that.
        while not found and flaps < 20:
            time.sleep(1.2)
            for _ in range(2):
                set_carrier(tap, 0)
                set_carrier(tap, 1)
            flaps += 2
            let_pass(1.5)
            found = data_of(one, ifname="tap0", changes=["carrier_flap"])
        assert found, data_of(one)
        assert found[0]["linkstatus"] == "linkStatusCarrierDown, linkStatusCarrierUp"
        wait_until(lambda: data_of(one, ifname="tap0")[-1]["carrier_down_count"] == downs + flaps, 10, lambda: data_of(one))
        assert not [data for data in data_of(one, ifname="tap0") if "pid" in data]


def test_repeats(agent, inside, pair):
    """The first ones are recorded in full, then there is the closing record."""
    inside(pair)
    one = start(agent, repeat_window=f"{patience(4):.0f}s", repeat_limit="2")
    for _ in range(6):
        pair.ip("link", "set", "v1", "down")
        pair.ip("link", "set", "v1", "up")
    changes = ["admin", "carrier"]
    (closing,) = one.wait_records(lambda r: "repeat" in r["tracer_data"] and r["tracer_data"]["changes"] == changes, event="netdev")
    assert len(data_of(one, ifname="v1", changes=changes)) == 2
    assert closing["tracer_data"]["repeat"]["count"] == 12 - 2
    assert closing["tracer_data"]["ifname"] == "v1"
    status = one.wait_balance()["events"]["netdev"]
    assert status["suppressed"] >= 10


def test_speed(agent, inside, netns):
    """A link that comes back slower: a tap whose speed is set, as a switch and a card agree upon one."""
    ns = netns("speed")
    with tap_in(ns, "tap0") as tap:
        inside(ns)
        one = start(agent)
        assert data_of(one) == []

        def agree(mbps):
            """struct ethtool_cmd, ETHTOOL_GSET and ETHTOOL_SSET"""
            command = ctypes.create_string_buffer(44)
            with ns, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                request = struct.pack("16sQ16x", b"tap0", ctypes.addressof(command))
                struct.pack_into("I", command, 0, 1)
                fcntl.ioctl(s, 0x8946, request)
                struct.pack_into("I", command, 0, 2)
                struct.pack_into("H", command, 12, mbps)
                fcntl.ioctl(s, 0x8946, request)

        def back():
            set_carrier(tap, 0)
            time.sleep(1.2)
            set_carrier(tap, 1)

        back()
        (data,) = wait_data(one, ifname="tap0", linkstatus="linkStatusCarrierUp")
        was = data.get("speed_mbps")
        assert was in (10, 10000)  # before 6.15
        try:
            agree(1000)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            pytest.skip("the speed of this kernel's taps cannot be set")
        back()
        (data,) = wait_data(one, changes=["carrier", "speed"])
        assert (data["speed_mbps"], data["speed_mbps_before"]) == (1000, was)
        assert "pid" not in data


# ---- what is quiet


def start_container(ns, number):
    """As container engines do it: a pair is made here, one end is moved, named and set up."""
    inner = f"huatuo-{os.getpid()}-c{number}"
    ip("netns", "add", inner)
    try:
        ns.ip("link", "add", f"veth{number}", "type", "veth", "peer", "name", f"tmp{number}")
        ns.ip("link", "set", f"veth{number}", "master", "br0")
        ns.ip("link", "set", f"tmp{number}", "netns", inner)
        ns.ip("link", "set", f"veth{number}", "up")
        ip("-n", inner, "link", "set", f"tmp{number}", "name", "eth0")
        ip("-n", inner, "link", "set", "eth0", "up")
    except BaseException:
        ip("netns", "delete", inner)
        raise
    return inner


@pytest.mark.parametrize("wanted", ["false", "true"])
def test_containers(agent, inside, netns, wanted):
    """Containers that come and go are silent, unless they are asked for."""
    ns = netns("host")
    ns.ip("link", "add", "br0", "type", "bridge")
    inside(ns)
    one = start(agent, container_veths=wanted, exclude="br0")
    inner = []
    try:
        for number in range(4):
            inner.append(start_container(ns, number))
        # Of one end's move the other one is told nothing.
        inner.append(f"huatuo-{os.getpid()}-idle")
        ip("netns", "add", inner[-1])
        ns.ip("link", "add", "veth8", "type", "veth", "peer", "name", "tmp8")
        ns.ip("link", "set", "tmp8", "netns", inner[-1])
        let_pass(GROWN_S + 1.5)
        inner.append(start_container(ns, 9))  # a short one
    finally:
        for name in reversed(inner):
            ip("netns", "delete", name)

    def gone():
        rows = json.loads(ns.ip("-j", "link", "show"))
        return not [row for row in rows if row.get("ifname", "").startswith("veth")]

    wait_until(gone, 10, "the end of the veths")
    if wanted == "true":
        for number in range(4):
            for change in ("appeared", "removed"):
                (data,) = wait_data(one, ifname=f"veth{number}", changes=[change])
                # A namespace ends by itself, and nobody has removed what was in it.
                assert ("pid" in data) == (change == "appeared"), data
        assert data_of(one, ifname="veth9") == []
        return
    wait_until(lambda: counts(one)["filtered_by"].get("peer_elsewhere", 0) >= 8, 10, lambda: counts(one))
    assert data_of(one) == [], data_of(one)
    status = one.stop()["events"]["netdev"]
    assert status["seen"] == status["filtered"], status


def test_patterns(agent, inside, pair):
    """include and exclude; and they take effect when the configuration is read again."""
    inside(pair)
    chosen = start(agent, include="v?,w*", exclude="v2")
    do(pair, "link", "set", "v2", "mtu", "1400")
    do(pair, "link", "set", "lo", "down")
    do(pair, "link", "set", "v1", "mtu", "1400")
    wait_data(chosen, ifname="v1", changes=["mtu"])
    wait_until(lambda: counts(chosen)["seen"] == 3, 10, lambda: counts(chosen))
    assert [data["ifname"] for data in data_of(chosen)] == ["v1"]
    assert filtered(chosen) == {"exclude": 1, "include": 1}


def test_many_interfaces(agent, inside, netns, tmp_path):
    """A host with many of them writes nothing when the watching begins."""
    ns = netns("many")
    batch = tmp_path / "batch"
    pairs = 300
    batch.write_text("".join(f"link add a{n} type veth peer name b{n}\n" for n in range(pairs)))
    ns.ip("-batch", str(batch))
    inside(ns)
    one = start(agent)
    do(ns, "link", "set", f"b{pairs - 1}", "up")
    wait_data(one, ifname=f"b{pairs - 1}", linkstatus="linkStatusAdminUp")
    assert counts(one)["seen"] == len(data_of(one)) == 1


@pytest.mark.matrix
def test_quiet(agent, inside, pair):
    """Addresses, routes, traffic, promiscuous mode, aliases, queues: none of that is an event."""
    inside(pair)
    one = start(agent)
    pair.ip("address", "add", "10.1.1.1/24", "dev", "v1")
    pair.ip("address", "add", "fd00::1/64", "dev", "v1")
    pair.ip("route", "add", "10.2.0.0/16", "via", "10.1.1.2")
    pair.ip("link", "set", "v1", "promisc", "on", "alias", "v1 down")
    pair.ip("link", "set", "v1", "txqueuelen", "50")
    pair.ip("link", "set", "v1", "allmulticast", "on")
    with pair, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for _ in range(100):
            s.sendto(b"x", ("10.1.1.2", 9))
    do(pair, "link", "set", "v2", "mtu", "1280")  # and then this is
    wait_data(one, ifname="v2", changes=["mtu"])
    assert counts(one)["seen"] == len(data_of(one)) == 1


# ---- the beginning, reloads, lost messages


@pytest.mark.host_only("a guest has no network card")
def test_start(agent, tmp_path):
    """The cards of this machine, as they are; once, not again after a reload."""
    config = tmp_path / "huatuo.yaml"
    config.write_text("netdev:\n  ring_size: 1MiB\n")
    cards = {}
    for row in json.loads(ip("-d", "-j", "link", "show")):
        if row["link_type"] != "loopback" and "info_kind" not in row.get("linkinfo", {}):
            cards[row["ifname"]] = row
    if not cards:
        pytest.skip("this machine has no network card")
    one = agent("--config", str(config), "--events", "netdev")
    quiet = start(agent, start="false")

    def starts():
        return {data["ifname"]: data for data in data_of(one, start=True)}

    wait_until(lambda: set(starts()) == set(cards), 15, lambda: (starts(), cards.keys()))
    for name, row in cards.items():
        data = starts()[name]
        assert (data["index"], data["mac"], data["mtu"]) == (row["ifindex"], row["address"], row["mtu"])
        states = ["AdminUp" if "UP" in row["flags"] else "AdminDown", "CarrierUp" if "LOWER_UP" in row["flags"] else "CarrierDown"]
        assert data["linkstatus"] == ", ".join(f"linkStatus{state}" for state in states)
        assert data["kind"] == "physical" and data["changes"] == []
    config.write_text("netdev:\n  ring_size: 2MiB\n")
    one.reload()
    config.write_text("netdev:\n  ring_size: 2MiB\n  repeat_window: 2s\n")
    one.reload()
    time.sleep(1.5)
    assert len(data_of(one, start=True)) == len(cards)
    assert data_of(quiet, start=True) == []


@pytest.mark.parametrize("exchange", [True, False])
def test_reload(agent, inside, pair, tmp_path, exchange):
    """While the configuration is read again, and another BPF object takes over, no change is lost and none
    is told twice."""
    config = tmp_path / "huatuo.yaml"
    sizes = iter([64, 128] if exchange else [64, 64])

    def write():
        config.write_text(f"netdev:\n  ring_size: {1024 * next(sizes)}KiB\n  repeat_limit: 100000\n")

    write()
    inside(pair)
    one = agent("--config", str(config), "--events", "netdev")
    done, ending = [], threading.Event()

    def change():
        for mtu in range(1281, 10000):
            if ending.is_set():
                break
            pair.ip("link", "set", "v1", "mtu", str(mtu))
            done.append(mtu)
            time.sleep(0.005)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        time.sleep(0.3)
        write()
        one.reload()
        time.sleep(0.3)
    finally:
        ending.set()
        thread.join()
    wait_data(one, ifname="v1", mtu=done[-1])
    found = [(data["mtu_before"], data["mtu"]) for data in data_of(one, ifname="v1")]
    assert sorted(found) == sorted(zip([1500, *done[:-1]], done, strict=True)), found
    status = one.wait_balance()["events"]["netdev"]
    assert status["recorded"] == len(done) and status["lost"] == 0


def test_other_way(agent, inside, pair, tmp_path):
    """A reload that changes how events are found; and patterns that take effect without."""
    config = tmp_path / "huatuo.yaml"
    config.write_text("netdev:\n  hooks_off: []\n")
    inside(pair)
    one = agent("--config", str(config), "--events", "netdev")
    config.write_text("netdev:\n  hooks_off: [netlink+filter]\n")
    one.reload()
    do(pair, "link", "set", "v1", "mtu", "1400")
    (data,) = wait_data(one, ifname="v1", changes=["mtu"])
    assert "pid" not in data
    config.write_text("netdev:\n  exclude: v1\n")
    one.reload()
    do(pair, "link", "set", "v1", "mtu", "1500")
    do(pair, "link", "set", "v2", "mtu", "1400")
    (data,) = wait_data(one, ifname="v2", changes=["mtu"])
    assert data["comm"] == "ip"
    assert len(data_of(one)) == 2 and filtered(one) == {"exclude": 1}


@pytest.mark.parametrize("way", WAYS)
def test_lost_messages(agent, inside, pair, tmp_path, way):
    """More messages than there is room for: the state is read again, and the difference told."""
    pair.ip("link", "add", "br0", "type", "bridge")
    inside(pair)
    one = start(agent, hooks_off="netlink+filter", repeat_limit="100000") if way == "netlink" else start(agent, repeat_limit="100000")
    batch = tmp_path / "batch"
    batch.write_text("".join(f"link set v1 mtu {1300 + n}\n" for n in range(700)))
    os.kill(one.pid, signal.SIGSTOP)
    try:
        pair.ip("-batch", str(batch))
        pair.ip("link", "set", "v2", "down")
        pair.ip("link", "set", "v2", "name", "w2")
        pair.ip("link", "delete", "br0")
        pair.ip("link", "add", "br1", "type", "bridge")
        pair.ip("link", "set", "v1", "down")
    finally:
        os.kill(one.pid, signal.SIGCONT)
    (removed,) = wait_data(one, ifname="br0", changes=["removed"])
    (renamed,) = wait_data(one, ifname="w2", reread=True)
    (last,) = wait_data(one, ifname="v1", linkstatus=DOWN)
    (made,) = wait_data(one, ifname="br1", changes=["appeared"])
    assert removed["reread"] is True and "pid" not in removed
    assert renamed["ifname_before"] == "v2" and "name" in renamed["changes"] and "pid" not in renamed
    assert last["reread"] is True and last["mtu"] == 1300 + 699 and "pid" not in last
    assert "pid" not in made
    # What was not lost is told by itself, the rest at once.
    steps = [(data["mtu_before"], data["mtu"]) for data in data_of(one, ifname="v1") if "mtu_before" in data]
    assert len(steps) < 700
    for before, now in steps:
        assert now == before + 1 or before == 1500 or now == 1300 + 699, steps
    # And everything works as before.
    pid, _, _ = do(pair, "link", "set", "v1", "mtu", "1280")
    (data,) = wait_data(one, ifname="v1", mtu=1280)
    assert data.get("pid") == (pid if way == WAYS[0] else None) and "reread" not in data
    one.wait_balance()


def test_end(agent, inside, pair):
    """What has happened just before the end is recorded."""
    inside(pair)
    one = start(agent)
    os.kill(one.pid, signal.SIGSTOP)
    do(pair, "link", "set", "v1", "mtu", "1400")
    one.process.send_signal(signal.SIGTERM)
    os.kill(one.pid, signal.SIGCONT)
    assert one.wait_end() == 0
    assert len(data_of(one, ifname="v1", changes=["mtu"])) == 1


# ---- bonds


@pytest.fixture
def bonds():
    """The bonding driver; makes no bond by itself."""
    subprocess.run(["modprobe", "bonding", "max_bonds=0"], capture_output=True, check=False)
    if not Path("/proc/net/bonding").exists():
        pytest.skip("this kernel has no bonding")


def bond(netns, mode):
    """A bond of two interfaces; (its namespace, that of their peers p0 and p1)."""
    ns, peers = netns("bond"), netns("peers")
    ns.ip("link", "add", "bond0", "type", "bond", "mode", mode, "miimon", "50")
    for n in range(2):
        veth(ns, f"s{n}", [], peers, f"p{n}", [])
        ns.ip("link", "set", f"s{n}", "down")
        ns.ip("link", "set", f"s{n}", "master", "bond0")
    ns.ip("link", "set", "bond0", "up")

    def ready():
        rows = [link(ns, f"s{n}")["linkinfo"]["info_slave_data"] for n in range(2)]
        return all(row["mii_status"] == "UP" for row in rows) and has_carrier(ns, "bond0")

    wait_until(ready, 20, "both slaves to be up")
    return ns, peers


@pytest.mark.matrix
def test_active_backup(agent, inside, netns, bonds):
    """The active slave's link is lost: who takes over; and back."""
    ns, peers = bond(netns, "active-backup")
    ns.ip("link", "set", "bond0", "type", "bond", "primary", "s0")
    wait_until(lambda: link(ns, "bond0")["linkinfo"]["info_data"].get("active_slave") == "s0", 10, "s0 to be active")
    inside(ns)
    one = start(agent, container_veths="true")
    (data,) = wait_data(one, ifname="bond0", start=True)
    assert (data["kind"], data["active_slave"]) == ("bond", "s0")
    assert data["linkstatus"] == "linkStatusAdminUp, linkStatusCarrierUp"

    peers.ip("link", "set", "p0", "down")
    data = wait_changed(one, "slave_mii", ifname="s0", slave_mii_status="down")
    assert data["slave_mii_status_before"] in ("up", "going down") and data["link_failure_count"] >= 1
    assert data["master"] == "bond0" and "pid" not in data
    wait_changed(one, "slave_state", ifname="s1", slave_state="active", slave_state_before="backup")
    wait_changed(one, "slave_state", ifname="s0", slave_state="backup", slave_state_before="active")
    data = wait_changed(one, "active_slave", ifname="bond0", active_slave="s1")
    assert data["active_slave_before"] == "s0" and "pid" not in data

    peers.ip("link", "set", "p0", "up")
    wait_changed(one, "active_slave", ifname="bond0", active_slave="s0")
    data = wait_changed(one, "slave_mii", ifname="s0", slave_mii_status="up")
    assert data["slave_mii_status_before"] in ("down", "going back")
    one.wait_balance()


@pytest.mark.parametrize("mode", ["balance-rr", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"])
def test_other_modes(agent, inside, netns, bonds, mode):
    """A slave's link is lost, whatever the bond's mode."""
    ns, peers = bond(netns, mode)
    inside(ns)
    one = start(agent, container_veths="true")
    peers.ip("link", "set", "p1", "down")
    wait_changed(one, "slave_mii", ifname="s1", slave_mii_status="down")
    pid, _, _ = do(ns, "link", "set", "s1", "nomaster")
    data = wait_changed(one, "master", ifname="s1", master_before="bond0")
    assert data["pid"] == pid and "slave_state" not in data


def test_try(agent, inside, netns):
    """`huatuo try` makes an interface, which goes with it."""
    one = agent("--events", "netdev")
    done = json.loads(one.huatuo("try", "netdev", "--json").stdout)
    assert done["outcome"] == "recorded", done
    assert "huatuo-try" in done["summary"], done
    assert not [row for row in json.loads(ip("-j", "link", "show")) if row.get("ifname", "").startswith("huatuo-try")]
