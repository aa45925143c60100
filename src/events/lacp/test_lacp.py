# SPDX-License-Identifier: Apache-2.0
"""lacp: real bonds in mode 802.3ad over veths between namespaces, compared with what the kernel says of them.
It takes the bonding driver, which some kernels do not have."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from harness import is_guest, let_pass, wait_until

WAYS = ("netlink+proc", "proc")
FINE = 63  # active, fast, aggregation, synchronization, collecting, distributing


def load_driver():
    subprocess.run(["modprobe", "bonding", "max_bonds=0"], capture_output=True, check=False)
    return Path("/proc/net/bonding").exists()


@pytest.fixture
def bonding():
    if not load_driver():
        pytest.skip("this kernel has no bonding")


@pytest.fixture
def inside(through):
    """inside(ns): the next agents run there."""
    return lambda ns: through("nsenter", f"--net={ns.path}")


class Aggregate:
    """A host and a switch: bond0 of s0 and s1, bond1 of their peers p0 and p1."""

    def __init__(self, netns):
        self.host, self.switch = netns("host"), netns("switch")
        add_bond(self.host, "bond0")
        add_bond(self.switch, "bond1")
        for n in range(2):
            self.host.ip("link", "add", f"s{n}", "type", "veth", "peer", "name", f"p{n}", "netns", self.switch.name)
            self.host.ip("link", "set", f"s{n}", "master", "bond0")
            self.switch.ip("link", "set", f"p{n}", "master", "bond1")
        self.host.ip("link", "set", "bond0", "up")
        self.switch.ip("link", "set", "bond1", "up")

    def text(self):
        with self.host:
            return Path("/proc/thread-self/net/bonding/bond0").read_text()

    def wait_fine(self):
        wait_until(lambda: states(self.text()) == {"s0": (FINE, FINE), "s1": (FINE, FINE)} and one_aggregator(self.text()), 60, self.text)
        return self

    def silence(self, n):
        """What the switch sends through that link is lost; the carrier stays."""
        self.switch.run("tc", "qdisc", "add", "dev", f"p{n}", "clsact")
        self.switch.run("tc", "filter", "add", "dev", f"p{n}", "egress", "matchall", "action", "drop")

    def let_speak(self, n):
        self.switch.run("tc", "qdisc", "delete", "dev", f"p{n}", "clsact")


def add_bond(ns, name, mode="802.3ad"):
    extra = ["lacp_rate", "fast"] if mode == "802.3ad" else []
    ns.ip("link", "add", name, "type", "bond", "mode", mode, "miimon", "100", *extra)


def states(text):
    """{slave: (port state of the actor, of the partner)}"""
    found = {}
    for part in text.split("Slave Interface: ")[1:]:
        ports = [int(n) for n in re.findall(r"port state: (\d+)", part)]
        found[part.split("\n")[0]] = tuple(ports)
    return found


def one_aggregator(text):
    return len(set(re.findall(r"^\s*Aggregator ID: (\d+)$", text, re.M))) == 1


@pytest.fixture
def aggregate(netns, bonding):
    return Aggregate(netns).wait_fine()


def start(agent, *more, **options):
    sets = {"agent.resolve_names": "false", **{f"lacp.{k}": v for k, v in options.items()}}
    return agent("--events", "lacp", *more, *[word for k, v in sets.items() for word in ("--set", f"{k}={v}")])


def data_of(one, **fields):
    rows = [r["tracer_data"] for r in sorted(one.records("lacp"), key=lambda r: r["time"])]
    return [d for d in rows if "repeat" not in d and all(d.get(k) == v for k, v in fields.items())]


def changes_of(data, **fields):
    return [c for c in data["differences"] if all(c.get(k) == v for k, v in fields.items())]


def wait_change(one, timeout=30, count=1, **fields):
    """tracer_data of the records with such a change, and these changes."""

    def found():
        rows = [(data, change) for data in data_of(one) for change in changes_of(data, **fields)]
        return rows if len(rows) >= count else None

    return wait_until(found, timeout, lambda: f"{fields}: {[(d['bond'], d['differences']) for d in data_of(one)]}\n{one.stderr}")


def wait_gained(one, slave, bit):
    """The records in which the state of our side has gained that bit, and the changes."""

    def found():
        rows = [(data, change) for data in data_of(one) for change in changes_of(data, slave=slave, what="actor_state")]
        return [row for row in rows if bit in row[1]["gained"]]

    return wait_until(found, 30, lambda: f"{bit}: {[(d['bond'], d['differences']) for d in data_of(one)]}\n{one.stderr}")


def settled(text):
    """Without what begins and ends by itself, and is no event."""
    return re.sub(r"Churn State: (none|monitoring)", "Churn State", text)


def counts(one):
    return one.status()["events"]["lacp"]


def check_content(data, bond="bond0"):
    """Its text is the kernel's, and the changes are in it."""
    head, text = data["content"].split("\n", 1)
    assert head == f"/proc/net/bonding/{bond}" and text.startswith("Ethernet Channel Bonding Driver: "), data["content"]
    assert "\nBonding Mode: IEEE 802.3ad Dynamic link aggregation\n" in text
    for slave, (actor, partner) in states(text).items():
        for what, now in (("actor_state", actor), ("partner_state", partner)):
            for change in changes_of(data, slave=slave, what=what):
                assert change["now"] == str(now)
                before = int(change["before"])
                assert len(change["lost"]) == (before & ~now).bit_count()
                assert len(change["gained"]) == (now & ~before).bit_count()


@pytest.mark.matrix("netlink+proc")
@pytest.mark.parametrize("way", WAYS)
def test_silent_partner(agent, inside, aggregate, way):
    """The switch says nothing any more, on one link, and its carrier stays; then it speaks again."""
    inside(aggregate.host)
    one = start(agent, hooks_off="netlink+proc") if way == "proc" else start(agent)
    assert f"through {way}\n" in one.stderr
    let_pass(1.5)
    assert counts(one)["seen"] == 0  # all is well

    aggregate.silence(1)
    ((data, change),) = wait_gained(one, "s1", "EXPIRED")
    assert data["start"] is False and data["bond"] == "bond0" and change["before"] == str(FINE)
    assert (data["slaves"], data["slaves_carrying"]) == (2, 1)
    assert (data["netns"], data["other_namespace"]) == (aggregate.host.inode, False)
    (first,) = data_of(one, direction="bad")
    assert first["slaves_carrying_before"] == 2
    # The kernel sends no message about this.
    ((data, _),) = wait_gained(one, "s1", "DEFAULTED")
    assert data["direction"] == "still bad"
    assert not [c for d in data_of(one) for c in changes_of(d, slave="s0", what="mii_status")]
    wait_until(
        lambda: settled(data_of(one)[-1]["content"].split("\n", 1)[1]) == settled(aggregate.text()),
        20, lambda: (data_of(one)[-1]["content"], aggregate.text()),
    )  # fmt: skip

    aggregate.let_speak(1)
    recovered = wait_until(lambda: data_of(one, direction="recovered"), 60, lambda: data_of(one))
    wait_until(lambda: data_of(one)[-1]["slaves_carrying"] == 2, 60, lambda: data_of(one))
    assert recovered[0]["slaves_carrying_before"] == 1
    for data in data_of(one):
        check_content(data)
    (summary,) = [r["summary"] for r in one.records("lacp") if r["tracer_data"] == recovered[0]]
    assert "s1 carries again; " in summary and summary.endswith("; 2 of 2 slaves carry traffic"), summary
    status = one.wait_balance()["events"]["lacp"]
    assert status["seen"] == status["recorded"] and status["lost"] == 0, status


@pytest.mark.matrix
def test_link_down(agent, inside, aggregate):
    """A link is lost, and comes back."""
    inside(aggregate.host)
    one = start(agent)
    aggregate.switch.ip("link", "set", "p0", "down")
    ((data, change),) = wait_change(one, slave="s0", what="mii_status", now="down")
    assert change["before"] in ("up", "going down")
    ((_, change),) = wait_change(one, slave="s0", what="link_failure_count")
    assert int(change["now"]) == int(change["before"]) + 1
    assert data_of(one, direction="bad")
    aggregate.switch.ip("link", "set", "p0", "up")
    wait_change(one, slave="s0", what="mii_status", now="up")
    wait_until(lambda: data_of(one)[-1]["slaves_carrying"] == 2, 60, lambda: data_of(one))
    assert data_of(one, direction="recovered")
    for data in data_of(one):
        check_content(data)


def test_slaves_and_bonds(agent, inside, aggregate):
    """A slave is taken out, and put in again; another bond is made, and removed; one in another mode is none
    of ours."""
    inside(aggregate.host)
    one = start(agent)
    aggregate.host.ip("link", "set", "s1", "nomaster")
    ((data, _),) = wait_change(one, slave="s1", what="removed")
    assert data["slaves"] == 1 and data_of(one, direction="bad")
    aggregate.host.ip("link", "set", "s1", "down")
    aggregate.host.ip("link", "set", "s1", "master", "bond0")
    wait_change(one, slave="s1", what="added")
    wait_until(lambda: data_of(one)[-1]["slaves_carrying"] == 2, 60, lambda: data_of(one))

    add_bond(aggregate.host, "bond7")
    add_bond(aggregate.host, "bond8", "active-backup")
    let_pass(1.5)
    aggregate.host.ip("link", "set", "bond7", "up")
    aggregate.host.ip("link", "set", "bond8", "up")
    let_pass(1.5)
    aggregate.host.ip("link", "delete", "bond8")
    aggregate.host.ip("link", "delete", "bond7")
    wait_until(lambda: [d for d in data_of(one, bond="bond7") if changes_of(d, what="removed")], 20, lambda: data_of(one))
    assert data_of(one, bond="bond8") == []
    (data,) = [d for d in data_of(one, bond="bond7") if changes_of(d, what="removed")]
    assert data["direction"] == "removed" and "/proc/net/bonding/bond0\n" in data["content"]


@pytest.mark.matrix
def test_between_two_looks(agent, inside, aggregate):
    """The kernel tells of what is shorter than a period, and then it is looked at once: a look a second could not have
    seen six changes in less than four."""
    inside(aggregate.host)
    one = start(agent, repeat_limit="1000")

    def seen():
        return [sum(len(changes_of(data, slave="s1", what=what)) for data in data_of(one)) for what in ("removed", "added")]

    for _ in range(10):  # until this machine gets its turn in time
        before, begin = seen(), time.monotonic()
        for _ in range(3):
            aggregate.host.ip("link", "set", "s1", "nomaster")
            time.sleep(0.2)  # in a row it would be one look
            aggregate.host.run("ip", "-batch", "-", input="link set s1 down\nlink set s1 master bond0\n")
            time.sleep(0.2)
        took = time.monotonic() - begin
        wait_until(lambda: "s1" in states(data_of(one)[-1]["content"]), 20, lambda: data_of(one))
        one.wait_settled("lacp")
        rows = [now - then for now, then in zip(seen(), before, strict=True)]
        if took < 4 and rows == [3, 3]:
            return
    pytest.fail(f"{rows} in {took} s\n{one.stderr}")


def test_other_namespace(agent, inside, netns, aggregate):
    """A bond in the namespace of a process; that is bad already when the watching begins, is told so. Nothing
    keeps the namespace alive."""
    elsewhere = netns("elsewhere")
    aggregate.silence(0)
    wait_until(lambda: states(aggregate.text())["s0"][0] != FINE, 30, aggregate.text)
    with aggregate.host:
        process = subprocess.Popen(["sleep", "1000"])
    try:
        inside(elsewhere)
        one = start(agent)
        excluding = start(agent, exclude="bond[0-9]")
        alone = start(agent, other_namespaces="false")
        (data,) = wait_until(lambda: data_of(one, start=True), 20, lambda: one.stderr)
        assert (data["direction"], data["bond"], data["other_namespace"]) == ("bad", "bond0", True)
        assert data["netns"] == aggregate.host.inode and data["slaves_carrying"] == 1
        check_content(data)
        aggregate.let_speak(0)
        wait_until(lambda: data_of(one, direction="recovered"), 60, lambda: data_of(one))
        # Through whichever process.
        with aggregate.host:
            another = subprocess.Popen(["sleep", "1000"])
        process.kill()
        process.wait()
        process = another
        aggregate.wait_fine()
        aggregate.switch.ip("link", "set", "p1", "down")
        wait_change(one, slave="s1", what="mii_status", now="down")
        assert len(data_of(one, start=True)) == 1
        status = counts(excluding)
        assert status["recorded"] == 0 and status["filtered_by"]["exclude"] == status["seen"] >= 2, status
        assert counts(alone)["seen"] == 0
    finally:
        process.kill()
        process.wait()
    # With its last process and its name a namespace goes, and its end of the veths with it.
    aggregate.host.delete()
    try:
        wait_until(lambda: "p0" not in aggregate.switch.ip("link", "show"), 30, "the end of the namespace")
    finally:
        subprocess.run(["ip", "netns", "add", aggregate.host.name], check=True)  # the fixture takes it away


def test_from_the_beginning(agent, inside, netns, bonding):
    """A bond that comes after the agent is negotiated, and that is told."""
    where = netns("later")
    inside(where)
    one = start(agent)
    made = []

    def again(name):
        made.append(where if name == "host" else netns(name))
        return made[-1]

    Aggregate(again).wait_fine()
    wait_until(lambda: (rows := data_of(one)) and rows[-1]["slaves_carrying"] == 2, 30, lambda: data_of(one))
    assert not data_of(one, start=True) and data_of(one, direction="recovered")


def test_reload(agent, inside, aggregate, tmp_path):
    """What was known is known to the BPF object that takes over: nothing is told twice, nothing missed."""
    config = tmp_path / "huatuo.yaml"

    def write(size):
        config.write_text(f"lacp:\n  ring_size: {size}KiB\n")

    write(512)
    inside(aggregate.host)
    one = agent("--config", str(config), "--events", "lacp")
    aggregate.silence(1)
    write(1024)
    one.reload()
    wait_gained(one, "s1", "DEFAULTED")
    write(512)
    one.reload()
    let_pass(1.5)
    assert data_of(one, start=True) == []
    steps = [c for d in data_of(one) for c in changes_of(d, slave="s1", what="actor_state")]
    assert steps[0]["before"] == str(FINE)
    for before, now in zip(steps, steps[1:], strict=False):
        assert before["now"] == now["before"], steps
    assert steps[-1]["now"] == str(states(aggregate.text())["s1"][0])


@pytest.mark.long
def test_churn(agent, inside, aggregate):
    """A link that for a minute is not what it is to be."""
    inside(aggregate.host)
    one = start(agent)
    aggregate.silence(0)
    rows = wait_change(one, timeout=100, slave="s0", what="partner_churn_state", now="churned")
    assert rows[0][0]["direction"] == "still bad"
    wait_change(one, slave="s0", what="partner_churned_count", before="0", now="1")


@pytest.mark.matrix
def test_without_driver(agent, inside, netns):
    """A kernel without bonding: it is watched for, and that there is none is said, not complained of. In a guest the
    driver comes later, which is noticed."""
    if is_guest():
        subprocess.run(["modprobe", "-r", "bonding"], check=True)
    elif load_driver():
        pytest.skip("this kernel has bonding")
    where = netns("later")
    inside(where)
    one = start(agent)
    # Said by the first look, which may come after it is ready.
    wait_until(lambda: "no bonding driver is loaded, so there is no LACP to watch" in one.stderr, 10, lambda: one.stderr)
    status = counts(one)
    assert status["state"] == "watching" and status["seen"] == 0
    (row,) = [row for row in status["hooks"] if row["state"] == "attached"]
    assert "no bonding driver was loaded" in row["reason"]
    # Doctor tries all kinds, which takes a minute in a guest.
    for command in ("status",) if is_guest() else ("status", "doctor"):
        text = " ".join(one.huatuo(command, check=False).stdout.decode().split())
        assert "netlink+proc" in text and "no bonding driver was loaded when this began" in text, text
        assert "was refused: no bonding" not in text
    done = one.huatuo("try", "lacp", check=False)
    assert "cannot be provoked" in (done.stdout + done.stderr).decode(), done
    assert "error" not in one.stderr and "warning" not in one.stderr
    if is_guest():
        assert load_driver()
        add_bond(where, "bond0")
        add_bond(where, "bond1")
        let_pass(1.5)  # a look, at least
        where.ip("link", "delete", "bond0")
        wait_removed(one, "bond0")
        # Nobody looks meanwhile, and then neither the bond nor the driver is found.
        signal_all(one, signal.SIGSTOP)
        try:
            subprocess.run(["modprobe", "-r", "bonding"], check=True)
        finally:
            signal_all(one, signal.SIGCONT)
        wait_removed(one, "bond1")


def signal_all(one, number):
    for pid in one.processes():
        os.kill(pid, number)


def wait_removed(one, bond):
    wait_until(lambda: [d for d in data_of(one, bond=bond) if changes_of(d, what="removed")], 20, lambda: data_of(one))
