# SPDX-License-Identifier: Apache-2.0
"""doctor: what it says of this machine, of users with less rights, of other machines' files and of junk."""

import contextlib
import gzip
import json
import os
import pty
import re
import shutil
import sqlite3
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from harness import OWN_MOUNTS, SANITIZER_OPTIONS, SANITIZER_REPORT, patience

USAGE = 2
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
CHECKS = {
    "kernel",
    "btf",
    "privileges",
    "lockdown",
    "symbols",
    "memlock",
    "unprivileged_bpf",
    "perf_events",
    "tracefs",
    "cgroups",
    "clock",
    "kernel_config",
    "socket_owners",
    "configuration",
    "store",
}
USABLE = {"attached", "would attach", "should attach"}


@pytest.fixture(scope="module")
def binary():
    """Where everybody may run it: a clone may be in root's home."""
    real = Path(os.environ.get("HUATUO") or Path(__file__).parents[2] / "build-test/huatuo")
    folder = Path(tempfile.mkdtemp(prefix="huatuo-e2e-doctor-"))
    folder.chmod(0o755)
    shutil.copy(real, folder / "huatuo")
    yield folder / "huatuo"
    shutil.rmtree(folder)


@pytest.fixture
def place():
    """A folder that an agent without privileges gets through to."""
    folder = Path(tempfile.mkdtemp(prefix="huatuo-e2e-place-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def doctor(binary, place):
    """doctor("--set", ..., through=("setpriv", ...)): (exit code, report). Of a store that is not there."""

    def run(*words, through=(), text=False, store=place / "store", timeout=patience(30)):
        words = [*words, *(["--store", store] if store else []), *([] if text else ["--json"])]
        done = subprocess.run(
            [*through, binary, "doctor", *map(str, words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, **SANITIZER_OPTIONS},
            timeout=timeout,
            check=False,
        )
        output, errors = done.stdout.decode(), done.stderr.decode()
        assert not SANITIZER_REPORT.search(errors), errors
        assert done.returncode in (0, 1), errors
        assert not errors, errors
        if text:
            return done.returncode, output
        report = json.loads(output)
        check_report(done.returncode, report)
        return done.returncode, report

    return run


def check_report(code, report):
    """What is true of every report."""
    assert output_is_harmless(json.dumps(report, ensure_ascii=False))
    assert report["watchable"] is (code == 0)
    assert {row["check"] for row in report["checks"]} >= CHECKS
    for row in report["checks"]:
        assert set(row) == {"check", "state", "found", "advice"} and row["found"], row
        assert row["state"] in ("ok", "warn", "fail", "unknown"), row
        # What is wrong comes with what to do.
        assert row["advice"] or row["state"] in ("ok", "unknown"), row
    fine = not any(row["state"] == "fail" for row in report["checks"])
    for event in report["events"].values():
        for way in event["hooks"]:
            assert way["state"] in USABLE | {"refused", "off", "unknown"}, way
            # Of one that can be had there may be something to say, too: lacp's, while there is no bonding driver.
            assert "reason" in way or way["state"] not in ("refused", "unknown"), way
            assert "advice" in way or way["state"] != "refused", way
        fine = fine and event["state"] in ("can be watched", "should be watchable", "off")
    assert fine is (code == 0)


def output_is_harmless(text):
    return not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


def rows(report, check):
    return [row for row in report["checks"] if row["check"] == check]


def expect(report, check, state, *found):
    """One of the rows of that name is in that state and says all this; returns it."""
    for row in rows(report, check):
        if row["state"] == state and all(text in row["found"] for text in found):
            return row
    pytest.fail(f"no row {check} {state} {found} in {rows(report, check)}")


def ways(report, event="dropwatch"):
    return {way["way"]: way for way in report["events"][event]["hooks"]}


# ---- this machine


def test_this_machine(doctor, agent):
    code, report = doctor()
    assert code == 0, report
    expect(report, "agent", "ok", "none runs")
    expect(report, "store", "ok", "will be made")
    expect(report, "kernel", "ok", f"Linux {os.uname().release}, {os.uname().machine}")
    expect(report, "btf", "ok")
    expect(report, "socket_owners", "ok", "would attach")
    would = {name for name, way in ways(report).items() if way["state"] == "would attach"}
    assert report["events"]["dropwatch"]["state"] == "can be watched"
    assert report["events"]["dropwatch"]["agent"] is None

    # What it says of the hooks is what an agent finds.
    one = agent("--events", "dropwatch")
    states = {row["way"]: row["state"] for row in one.status()["events"]["dropwatch"]["hooks"]}
    assert {name for name, state in states.items() if state == "attached"} <= would
    assert not {name for name, state in states.items() if state == "refused"} & would
    code, report = doctor(store=one.store)
    assert code == 0
    expect(report, "agent", "ok", "runs on")
    expect(report, "database", "ok", "being written")
    for name, way in ways(report).items():
        assert (way["state"] == "attached") is (states[name] == "attached"), (way, states)
    assert report["events"]["dropwatch"]["agent"] == "watching"


def test_agent_that_does_not_watch(doctor, agent):
    """It could be watched, but the agent that runs does not."""
    one = agent("--set", "dropwatch.enabled=no")
    code, report = doctor(store=one.store)
    event = report["events"]["dropwatch"]
    assert code == 0 and (event["state"], event["agent"]) == ("can be watched", "off")
    _, output = doctor(store=one.store, text=True)
    assert "dropwatch: can be watched; in the running agent: off\n  -> see `huatuo status`" in output


def test_every_way_by_itself(doctor):
    """Each is tried, though a better one would do; and one that is refused hides no other."""
    _, report = doctor()
    for way in ways(report).values():
        assert way["state"] in ("would attach", "refused"), way
    states = {name: way["state"] for name, way in ways(report).items()}
    assert states["tp_btf/kfree_skb"] == states["raw_tp/kfree_skb"] == "would attach"
    if not any(os.path.exists(f"/sys/kernel/{p}/events") for p in ("tracing", "debug/tracing")):
        classic = ways(report)["tp/skb/kfree_skb"]
        assert classic["state"] == "refused" and "tracefs is not mounted" in classic["reason"]
        assert "nothing has to be done" in classic["advice"]
        # If it is all there is, the advice is another.
        off = "dropwatch.hooks_off=tp_btf/kfree_skb,raw_tp/kfree_skb"
        code, report = doctor("--set", off)
        assert code == 1 and report["events"]["dropwatch"]["state"] == "cannot be watched"
        assert "mount -t tracefs" in ways(report)["tp/skb/kfree_skb"]["advice"]
        assert ways(report)["raw_tp/kfree_skb"]["state"] == "off"


def files_of(folder):
    """Everything about the files in a folder but when they were last read."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        st = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        found[path] = (st.st_mode, st.st_uid, st.st_size, st.st_ino, st.st_mtime_ns, st.st_ctime_ns, content)
    return found


def bpf_objects():
    """Those that no process holds."""
    ids = set()
    for what in ("prog", "map", "link"):
        done = subprocess.run(["bpftool", "-j", what, "show"], capture_output=True, check=True)
        ids |= {(what, one["id"]) for one in json.loads(done.stdout or b"[]")}
    for info in Path("/proc").glob("[0-9]*/fdinfo/*"):
        with contextlib.suppress(OSError):
            ids -= {(what, int(n)) for what, n in re.findall(r"^(prog|map|link)_id:\s*(\d+)", info.read_text(), re.M)}
    return ids


def eventually(rest):
    """What rest() returns once that is nothing, or after some seconds."""
    deadline = time.monotonic() + 5
    while (left := rest()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def test_changes_nothing(doctor, agent, place):
    one = agent("--events", "dropwatch")
    one.stop()
    before = files_of(one.store)
    pinned = sorted(Path("/sys/fs/bpf").rglob("*"))
    for _ in range(5):  # others may load and unload programs meanwhile
        objects = bpf_objects()
        code, _ = doctor(store=one.store)
        assert code == 0
        # The kernel takes its time to free them.
        left = eventually(lambda: bpf_objects() - objects)
        if not left:
            break
    else:
        pytest.fail(f"BPF objects are left: {left}")
    assert files_of(one.store) == before
    assert sorted(Path("/sys/fs/bpf").rglob("*")) == pinned
    doctor()
    assert not (place / "store").exists()
    # Of what a running agent writes, nothing is counted and nothing is recorded for it.
    two = agent("--events", "dropwatch", store=one.store)
    for _ in range(3):
        doctor(store=two.store)
    assert two.stop()["events"]["dropwatch"]["missed"] == 0


def test_runs_nothing(binary, place):
    """In a pid namespace of its own the next number is known: it is still free afterwards."""
    last = "/proc/sys/kernel/ns_last_pid"
    if not os.path.exists(last):
        pytest.skip(f"this kernel has no {last}")
    script = f'mount -t proc proc /proc; read before <{last}; "$@"; read after <{last}; echo "pids $((after - before))"'
    done = subprocess.run(
        [OWN_MOUNTS, "unshare", "-p", "-f", "sh", "-c", script, "sh", binary, "doctor", "--store", place / "s"],
        capture_output=True,
        text=True,
        # The leak checker starts a process of its own.
        env={**os.environ, **SANITIZER_OPTIONS, "ASAN_OPTIONS": "detect_leaks=0"},
        check=True,
        timeout=60,
    )
    assert "Everything that is enabled can be watched." in done.stdout
    assert done.stdout.splitlines()[-1] == "pids 1"  # its own


def test_text(doctor):
    code, output = doctor("--set", "dropwatch.hooks_off=tp_btf/kfree_skb", text=True)
    assert code == 0 and output_is_harmless(output)
    lines = output.splitlines()
    assert all(len(line) <= 100 for line in lines if "/" not in line), output
    states = re.findall(r"^  (fail|warn|unknown|ok) ", output, re.MULTILINE)
    order = ["fail", "warn", "unknown", "ok"]
    assert states and states == sorted(states, key=order.index)
    assert "dropwatch: can be watched" in lines
    assert "    off           tp_btf/kfree_skb" in lines
    assert lines[-1] == "Everything that is enabled can be watched."
    code, output = doctor("--set", "dropwatch.hooks_off=tp_btf/kfree_skb", text=True, through=NOBODY)
    assert code == 1 and output.splitlines()[0].startswith("  fail")
    assert output.splitlines()[-1].startswith("Not everything")
    # Each row that is wrong is followed by what to do.
    for row in re.findall(r"^  (?:fail|warn) .*(?:\n {28}.*)*", output, re.MULTILINE):
        assert "\n" + 28 * " " + "-> " in row, row


@pytest.mark.parametrize("columns", [40, 80, 110, 300])
def test_terminal(binary, place, columns):
    """Coloured, and as wide as the terminal, within reason."""
    leader, follower = pty.openpty()
    subprocess.run(["stty", "cols", str(columns)], stdin=follower, check=True)
    environment = {**os.environ, **SANITIZER_OPTIONS}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        [binary, "doctor", "--store", place / "s"], stdin=subprocess.DEVNULL, stdout=follower, env=environment
    ) as process:
        os.close(follower)
        output = b""
        with contextlib.suppress(OSError):  # EIO: the other side has closed
            while part := os.read(leader, 65536):
                output += part
        assert process.wait(30) == 0
    os.close(leader)
    assert b"\x1b[32m" in output
    plain = re.sub(r"\x1b\[\d+m", "", output.decode())
    widths = [len(line) for line in plain.split("\r\n") if "/" not in line]
    wanted = max(80, min(columns, 120))
    assert wanted * 3 // 4 < max(widths) <= wanted


# ---- configuration


def test_configuration(doctor, place):
    file = place / "huatuo.yaml"
    file.write_text("dropwatch:\n  enabled: maybe\n  nonsense: 1\n")
    code, report = doctor("--config", file)
    assert code == 1
    first, second = rows(report, "configuration")
    assert first["state"] == second["state"] == "fail"
    assert first["found"].startswith(f"{file}:2: ") and second["found"].startswith(f"{file}:3: ")
    code, report = doctor("--config", place / "nowhere")
    assert code == 1 and expect(report, "configuration", "fail", "No such file")
    file.write_text("dropwatch:\n  enabled: no\n")
    code, report = doctor("--config", file)
    assert code == 0 and report["events"]["dropwatch"]["state"] == "off"
    assert {way["state"] for way in ways(report).values()} == {"off"}
    # --set comes after the file.
    code, report = doctor("--config", file, "--set", "dropwatch.enabled=yes")
    assert code == 0 and report["events"]["dropwatch"]["state"] == "can be watched"


def test_everything_off(doctor):
    _, report = doctor()
    off = ",".join(ways(report))
    code, report = doctor("--set", f"dropwatch.hooks_off={off}")
    assert code == 1 and report["events"]["dropwatch"]["state"] == "cannot be watched"
    assert {way["state"] for way in ways(report).values()} == {"off"}


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "dropwatch.enabled=maybe"],
        ["--set", "nonsense"],
        ["--root", "/no/such/folder"],
        ["--root", "/dev/null"],
        ["word"],
        ["--jsn"],
    ],
    ids=" ".join,
)
def test_wrong_words(binary, words):
    done = subprocess.run([binary, "doctor", *words], capture_output=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (USAGE, b"") and done.stderr


# ---- the store


def test_store(doctor, place):
    store = place / "store"
    store.mkdir()
    code, report = doctor(store=store)
    assert code == 0 and expect(report, "store", "ok", "will be given to")
    (store / "letter.txt").write_text("somebody's")
    code, report = doctor(store=store)
    assert code == 1 and expect(report, "store", "fail", "holds other files")
    (store / "letter.txt").unlink()

    for content, state, found in [
        (b"", "fail", "is empty, or a database of somebody else"),
        (b"SQLite format 3\0" + bytes(84), "warn", "damaged"),
        (b"junk" * 1000, "warn", "damaged"),
    ]:
        (store / "huatuo.db").write_bytes(content)
        before = files_of(store)
        _, report = doctor(store=store)
        expect(report, "database", state, found)
        assert files_of(store) == before
    (store / "huatuo.db").unlink()
    with contextlib.closing(sqlite3.connect(store / "huatuo.db")) as newer:
        newer.execute("PRAGMA user_version = 99")
        newer.commit()
    code, report = doctor(store=store)
    assert code == 1 and expect(report, "database", "fail", "later version")
    (store / "huatuo.db").unlink()
    os.mkfifo(store / "huatuo.db")
    _, report = doctor(store=store)
    expect(report, "database", "warn", "no plain file")


def test_store_that_cannot_be(doctor, place):
    (place / "file").write_text("")
    code, report = doctor(store=place / "file")
    assert code == 1 and expect(report, "store", "fail", "Not a directory")
    (place / "link").symlink_to(place)
    assert doctor(store=place / "link")[0] == 1
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    code, report = doctor(store=closed / "store")
    assert code == 1
    assert "chmod" in expect(report, "store", "fail", f"may not pass through {closed}")["advice"]
    code, report = doctor("--set", "store.max_size=900TiB")
    assert code == 0 and expect(report, "space", "warn", "900TiB")
    code, report = doctor("--set", "agent.user=no-such-user")
    assert code == 1 and expect(report, "store", "fail", "no user no-such-user")
    mount = f"mount -t tmpfs none {place} && mount -o remount,ro {place} && exec \"$@\""
    code, report = doctor(through=(OWN_MOUNTS, "sh", "-c", mount, "sh"))
    assert code == 1 and expect(report, "store", "fail", "read-only")
    doctor(store="/")
    doctor("--store=", store=None)
    # Names that mean something else to SQLite, or to a terminal.
    odd = place / "a?b#c%41\x1b[2J"
    _, report = doctor(store=odd)
    expect(report, "store", "ok", "\\x1b[2J")


def test_store_with_an_odd_name(doctor, agent, place):
    one = agent("--events", "dropwatch", store=place / "a?mode=x#b%41")
    one.stop()
    code, report = doctor(store=one.store)
    assert code == 0 and expect(report, "database", "ok", "can be read")


# ---- with less rights


def test_without_privilege(doctor, place):
    os.chmod(place, 0o777)
    code, report = doctor(through=NOBODY)
    assert code == 1
    assert "root" in expect(report, "privileges", "fail", "user 65534, no capabilities")["advice"]
    expect(report, "privileges", "fail", "without CAP_BPF")
    expect(report, "socket_owners", "ok", "should attach")
    # Judged, not tried, from what everybody may read.
    states = {name: way["state"] for name, way in ways(report).items()}
    assert states["tp_btf/kfree_skb"] == states["raw_tp/kfree_skb"] == "should attach"
    assert report["events"]["dropwatch"]["state"] == "should be watchable"


# What becomes of it without a capability: the exit code, the row, its state. Those that are not here
# are not needed.
NEEDED = {
    "setuid": (1, "privileges", "fail"),
    "setgid": (1, "privileges", "fail"),
    "chown": (0, "privileges", "warn"),
    "kill": (0, "privileges", "warn"),
    "sys_ptrace": (0, "privileges", "warn"),
    "net_admin": (0, "privileges", "ok"),
}


def capabilities():
    done = subprocess.run(["setpriv", "--list-caps"], capture_output=True, text=True, check=True)
    effective = int(re.search(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())[1], 16)
    names = done.stdout.split()
    return [name for number, name in enumerate(names) if effective >> number & 1]


@pytest.mark.parametrize("part", range(6))
def test_without_one_capability(doctor, part):
    """Each is taken away in turn: no crash, the right row, the right exit status."""
    for name in capabilities()[part::6]:
        code, report = doctor(through=("setpriv", f"--bounding-set=-{name}"))
        expected, check, state = NEEDED.get(name, (0, None, None))
        assert code == expected, (name, report)
        if check:
            expect(report, check, state, f"without CAP_{name.upper()}")
        if name == "syslog" and Path("/proc/sys/kernel/kptr_restrict").read_text() != "2\n":
            assert rows(report, "symbols")[0]["state"] in ("ok", "warn")
            if rows(report, "symbols")[0]["state"] == "warn":
                assert "CAP_SYSLOG" in rows(report, "symbols")[0]["advice"]
        # CAP_SYS_ADMIN and the pair CAP_BPF, CAP_PERFMON stand for one another.
        assert ways(report)["tp_btf/kfree_skb"]["state"] == "would attach", name


@pytest.mark.parametrize(
    "dropped, missing",
    [
        ("-sys_admin,-cap_38", ["CAP_PERFMON"]),
        ("-sys_admin,-cap_39", ["CAP_BPF"]),
        ("-sys_admin,-cap_38,-cap_39", ["CAP_BPF", "CAP_PERFMON"]),
        ("-all", ["CAP_BPF", "CAP_PERFMON", "CAP_SETUID", "CAP_SETGID"]),
    ],
)
def test_without_bpf(doctor, dropped, missing):
    code, report = doctor(through=("setpriv", f"--bounding-set={dropped}"))
    assert code == 1
    for name in missing:
        assert name in expect(report, "privileges", "fail", f"without {name}")["advice"]
    assert ways(report)["tp_btf/kfree_skb"]["state"] == "should attach"


def test_with_just_enough(doctor):
    """The capabilities that it asks for are those that it takes."""
    through = ("setpriv", "--bounding-set=-all,+setuid,+setgid,+cap_38,+cap_39")
    code, report = doctor(through=through)
    assert code == 0, report
    assert report["events"]["dropwatch"]["state"] == "can be watched"


def test_in_a_user_namespace(doctor):
    through = ("unshare", "-U", "-r")
    if subprocess.run([*through, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("user namespaces may not be made here")
    code, report = doctor(through=through)
    assert code == 1 and expect(report, "privileges", "fail", "user namespace")
    assert ways(report)["tp_btf/kfree_skb"]["state"] == "should attach"


def test_running_agent_has_what_it_needs(doctor, agent):
    """Whoever asks, an agent that runs has had the rights that it takes."""
    one = agent("--events", "dropwatch")
    code, report = doctor(store=one.store, through=("setpriv", "--bounding-set=-all,+dac_override"))
    assert code == 0, report
    expect(report, "privileges", "warn", "without CAP_BPF")
    assert ways(report)["tp_btf/kfree_skb"]["state"] == "attached"


# ---- other machines


def btf(tracepoints, functions):
    """The types of a kernel with these: of functions the structs to which their arguments point."""
    strings, types, count = b"\0", b"", 0

    def add(name, kind, value, *arguments):
        nonlocal strings, types, count
        offset = len(strings) if name else 0
        strings += name.encode() + b"\0" if name else b""
        types += struct.pack("<III", offset, kind << 24 | len(arguments), value)
        types += b"".join(struct.pack("<II", 0, argument) for argument in arguments)
        count += 1
        return count

    kind_ptr, kind_struct, kind_typedef, kind_func, kind_proto = 2, 4, 8, 12, 13
    tracepoint = add("", kind_ptr, add("", kind_proto, 0))
    for name in tracepoints:
        add(f"btf_trace_{name}", kind_typedef, tracepoint)
    names = {name for arguments in functions.values() for name in arguments}
    pointers = {name: add("", kind_ptr, add(name, kind_struct, 0)) for name in sorted(names)}
    for name, arguments in functions.items():
        add(name, kind_func, add("", kind_proto, 0, *(pointers[argument] for argument in arguments)))
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return head + types + strings


ALL_CAPABILITIES = (1 << 41) - 1
CONFIG = """
CONFIG_BPF_SYSCALL=y
CONFIG_BPF_EVENTS=y
CONFIG_BPF_JIT=y
CONFIG_DEBUG_INFO_BTF=y
CONFIG_KALLSYMS=y
CONFIG_EVENT_TRACING=y
CONFIG_KPROBES=y
CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y
CONFIG_CGROUPS=y
CONFIG_MEMCG=y
"""
TRACEPOINTS = ["kfree_skb", "inet_sock_set_state", "net_dev_xmit_timeout", "devlink_trap_report"]
FUNCTIONS = {
    "bpf_iter_task_file": [],
    "bpf_prog_test_run_raw_tp": [],
    "tcp_conn_request": ["request_sock_ops", "tcp_request_sock_ops", "sock", "sk_buff"],
    "tcp_v4_syn_recv_sock": ["sock", "sk_buff"],
    "tcp_v6_syn_recv_sock": ["sock", "sk_buff"],
}
LIMITS = "Limit                     Soft Limit           Hard Limit           Units     \n"


class Tree:
    """Files of a Debian 11 where everything is right, to be spoilt."""

    def __init__(self, folder):
        self.folder = folder
        release = "5.10.0-28-amd64"
        self.put("/proc/sys/kernel/osrelease", release + "\n")
        self.put("/proc/version", f"Linux version {release} (debian-kernel@lists.debian.org)\n")
        self.put("/proc/sys/kernel/cap_last_cap", "40\n")
        self.put("/proc/sys/kernel/kptr_restrict", "1\n")
        self.put("/proc/sys/kernel/unprivileged_bpf_disabled", "2\n")
        self.put("/proc/sys/kernel/perf_event_paranoid", "3\n")
        names = ["kfree_skb", "tcp_conn_request", "tcp_v4_syn_recv_sock", "tcp_v6_syn_recv_sock"]
        symbols = ["T _stext", *(f"T {name}" for name in names), "R __per_cpu_offset"]
        self.put("/proc/kallsyms", "".join(f"ffffffff81000{i:03} {symbol}\n" for i, symbol in enumerate(symbols)))
        self.put("/proc/self/limits", LIMITS + "Max locked memory         65536  65536  bytes\n")
        self.put("/proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n")
        self.put("/proc/self/uid_map", "         0          0 4294967295\n")
        self.put("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma\n")
        self.put("/sys/kernel/security/lockdown", "[none] integrity confidentiality\n")
        self.put("/sys/kernel/tracing/events/skb/kfree_skb/id", "1\n")
        self.put(f"/boot/config-{release}", CONFIG)
        self.put("/sys/kernel/btf/vmlinux", btf(TRACEPOINTS, FUNCTIONS))
        self.rights(ALL_CAPABILITIES)

    def put(self, name, content):
        path = self.folder / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def remove(self, name):
        path = self.folder / name.lstrip("/")
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def rights(self, effective, uid=0):
        self.put("/proc/self/status", f"Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nCapEff:\t{effective:016x}\n")

    def files(self):
        return [path for path in sorted(self.folder.rglob("*")) if path.is_file()]


@pytest.fixture
def tree(place):
    folder = place / "tree"
    folder.mkdir()
    return Tree(folder)


@pytest.fixture
def examine(doctor, binary, tree):
    """Of the kinds of event only dropwatch is looked for: what the others need is not in the tree."""
    config = subprocess.run([binary, "config", "show"], capture_output=True, text=True, check=True).stdout
    kinds = re.findall(r"^(\w+):\n  enabled: ", config, re.MULTILINE)
    assert "dropwatch" in kinds
    off = [word for kind in kinds if kind != "dropwatch" for word in ("--set", f"{kind}.enabled=no")]
    return lambda *words, **options: doctor("--root", tree.folder, *off, *words, store=None, **options)


def test_tree_that_is_fine(examine):
    code, report = examine()
    assert code == 0, report
    assert {row["check"] for row in report["checks"] if row["state"] == "unknown"} == {"clock", "store"}
    assert {row["state"] for row in report["checks"]} == {"ok", "unknown"}
    assert {way["state"] for way in ways(report).values()} == {"should attach"}
    assert report["events"]["dropwatch"]["state"] == "should be watchable"
    expect(report, "kernel", "ok", "5.10.0-28-amd64")
    expect(report, "cgroups", "ok", "v2; the memory controller is in /sys/fs/cgroup")
    expect(report, "kernel_config", "ok", "/boot/config-5.10.0-28-amd64")
    expect(report, "memlock", "ok", "CAP_SYS_RESOURCE")


def test_tree_without_btf(examine, tree):
    tree.remove("/sys/kernel/btf/vmlinux")
    code, report = examine()
    assert code == 1 and "CONFIG_DEBUG_INFO_BTF" in expect(report, "btf", "fail")["advice"]
    assert {way["state"] for way in ways(report).values()} == {"refused"}
    assert all("no BTF" in way["reason"] for way in ways(report).values())
    assert report["events"]["dropwatch"]["state"] == "cannot be watched"


def test_tree_without_the_tracepoint(examine, tree):
    tree.put("/sys/kernel/btf/vmlinux", btf(TRACEPOINTS[1:], {name: of for name, of in FUNCTIONS.items() if name != "bpf_iter_task_file"}))
    code, report = examine()
    # The classic way is read from tracefs, where it still is.
    assert code == 0
    assert "no tracepoint kfree_skb" in ways(report)["tp_btf/kfree_skb"]["reason"]
    assert "tp/skb/kfree_skb does as well" in ways(report)["raw_tp/kfree_skb"]["advice"]
    expect(report, "socket_owners", "warn", "no iterator over task_file")
    tree.remove("/sys/kernel/tracing")
    code, report = examine()
    assert code == 1 and report["events"]["dropwatch"]["state"] == "cannot be watched"
    # An optional hook that cannot be had costs nothing but its own facts.
    tree.put("/sys/kernel/btf/vmlinux", btf(["kfree_skb"], {"bpf_iter_task_file": []}))
    code, report = examine()
    assert code == 0 and ways(report)["tp_btf/inet_sock_set_state"]["state"] == "refused"


@pytest.mark.parametrize(
    "name, content, code, check, state, found",
    [
        ("sys/kernel/security/lockdown", "none [integrity] confidentiality", 0, "lockdown", "ok", "integrity"),
        ("sys/kernel/security/lockdown", "none integrity [confidentiality]", 1, "lockdown", "fail", "BPF"),
        ("proc/sys/kernel/kptr_restrict", "2", 0, "symbols", "ok", "is 2"),
        ("proc/sys/kernel/osrelease", "4.19.0-26-amd64", 1, "kernel", "fail", "4.19"),
        ("proc/sys/kernel/arch", "aarch64", 0, "kernel", "warn", "aarch64"),
        ("proc/self/mounts", "x /sys/fs/cgroup/memory cgroup rw,memory 0 0", 0, "cgroups", "ok", "v1"),
        ("proc/self/mounts", "x / ext4 rw 0 0", 0, "cgroups", "warn", "no cgroups"),
        ("boot/config-5.10.0-28-amd64", "CONFIG_MODULES=y", 1, "kernel_config", "fail", "CONFIG_BPF_SYSCALL"),
        ("proc/self/uid_map", "0 1000 1", 1, "privileges", "fail", "user namespace"),
        ("etc/huatuo/huatuo.yaml", "dropwatch:\n  nope: 1\n", 1, "configuration", "fail", "huatuo.yaml:2:"),
        ("etc/huatuo/huatuo.yaml", "agent: {region: x}\n", 0, "configuration", "ok", "huatuo.yaml"),
    ],
)
def test_tree_with_one_thing_else(examine, tree, name, content, code, check, state, found):
    tree.put(name, content)
    got, report = examine()
    assert got == code, report
    expect(report, check, state, found)


def test_tree_with_hidden_symbols(examine, tree):
    tree.put("/proc/sys/kernel/kptr_restrict", "2\n")
    tree.put("/proc/kallsyms", "0000000000000000 T _stext\n" * 1000)
    code, report = examine()
    assert code == 0 and "kptr_restrict=1" in expect(report, "symbols", "warn", "bare addresses")["advice"]


def test_tree_of_a_process_with_less(examine, tree):
    for number, name in ((39, "CAP_BPF"), (38, "CAP_PERFMON")):
        tree.rights(ALL_CAPABILITIES & ~(1 << 21) & ~(1 << number))
        code, report = examine()
        assert code == 1 and name in expect(report, "privileges", "fail", f"without {name}")["advice"]
    tree.rights(ALL_CAPABILITIES & ~(1 << 24))
    code, report = examine()
    assert code == 1 and expect(report, "memlock", "fail", "65536", "5.11")
    tree.rights(0, uid=1000)
    assert examine()[0] == 1


def test_tree_with_a_compressed_configuration(examine, tree):
    tree.put("/proc/config.gz", gzip.compress(CONFIG.encode()))
    assert expect(examine()[1], "kernel_config", "ok", "/proc/config.gz")
    # What unpacks to gigabytes is not unpacked to its end.
    tree.put("/proc/config.gz", gzip.compress(bytes(200 << 20)))
    began = time.monotonic()
    assert expect(examine()[1], "kernel_config", "ok", "/boot/config")
    assert time.monotonic() - began < 10


def test_links_do_not_lead_out_of_the_tree(examine, tree):
    """Absolute ones are meant inside, as on the machine that it was dumped from."""
    path = tree.folder / "proc/sys/kernel/osrelease"
    path.unlink()
    path.symlink_to("/proc/version-of-the-tree")
    tree.put("/proc/version-of-the-tree", "5.10.77\n")
    assert expect(examine()[1], "kernel", "ok", "5.10.77")
    path.unlink()
    path.symlink_to("../../../../../../../../../../proc/sys/kernel/osrelease")  # now a circle
    (tree.folder / "proc/version").unlink()
    assert expect(examine()[1], "kernel", "unknown")


JUNK = {
    "empty": b"",
    "newlines": b"\n" * 100,
    "binary": bytes(range(256)) * 64,
    "escapes": b"\x1b]0;x\x07\x1b[2J" * 10,
    "words": b"word " * 10000,
    "minus": b"-1",
    "brackets": b"[" * 1000,
    "numbers": b"99999999999999999999999999",
}


@pytest.mark.parametrize("kind", [*JUNK, "directory", "pipe", "huge", "loop", "nothing"])
def test_junk(examine, tree, kind):
    """Every file is junk, or is not there: then that is said, and nothing crashes or hangs."""
    for path in tree.files():
        path.unlink()
        if kind in JUNK:
            path.write_bytes(JUNK[kind])
        elif kind == "directory":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "loop":
            path.symlink_to(path.name)
        elif kind == "huge":
            path.touch()
            os.truncate(path, 1 << 40)
    if kind == "pipe":
        (tree.folder / "etc/huatuo").mkdir(parents=True)
        os.mkfifo(tree.folder / "etc/huatuo/huatuo.yaml")
    began = time.monotonic()
    code, report = examine()
    assert code == 1
    assert time.monotonic() - began < 15
    for check in ("kernel", "privileges", "memlock"):
        assert [row["state"] for row in rows(report, check)] == ["unknown"], rows(report, check)
    code, output = examine(text=True)
    assert code == 1 and output_is_harmless(output)
