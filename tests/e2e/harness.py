# SPDX-License-Identifier: Apache-2.0
"""The harness of the end-to-end tests: a running agent, network namespaces, a time limit.

`HUATUO` names the binary; `./dev test e2e` sets it to the one with sanitizers. `HUATUO_TEST_SLOWNESS` is
by how much this machine is slower than others.

Tests run several at a time, and each one's agents see what happens on the whole host: a test looks only
at its own, by what is its alone (a network namespace, a process, a cgroup, a port), counts of the whole
host are at least what it caused, and it disturbs no other. One that cannot is marked `alone`.
"""

import contextlib
import ctypes
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import tempfile
import time
import traceback
from pathlib import Path

import pytest

SLOWNESS = float(os.environ.get("HUATUO_TEST_SLOWNESS") or 1)


def patience(seconds):
    """How long to wait for what should take no longer than this: an emulated machine is slow."""
    return seconds * SLOWNESS


def let_pass(seconds):
    """Waits until what a timer begins after so long has come about. On an emulated machine timers are as fast as
    on others, and what they begin is slow."""
    time.sleep(seconds + patience(0.5))


TEST_LIMIT_S = patience(180)
# These are given a second attempt, with nothing else running, if no more than that many of a run failed: on a
# shared machine one of a thousand is not given its time. What passes only then is said, and counted.
SECOND_ATTEMPTS = 5
# No machine is too slow for these.
NO_SECOND_ATTEMPT = re.compile(r"the accounts don't balance|Sanitizer|: runtime error: |INTERNALERROR")
READY_TIMEOUT_S = 30  # sanitizers are slow
STOP_TIMEOUT_S = 30
TRACEFS = "/sys/kernel/tracing"
OWN_MOUNTS = str(Path(__file__).parents[1] / "own-mounts.sh")

SANITIZER_REPORT = re.compile(r"(Address|Leak|Thread|UndefinedBehavior|Memory)Sanitizer|: runtime error: ")
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:exitcode=99",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1:exitcode=99",
}


class Failed:
    """Leaves in a file the names of those that are to have a second attempt, one a line."""

    def __init__(self, path):
        self.path, self.names, self.final = Path(path), {}, set()

    def pytest_runtest_logreport(self, report):
        if report.failed:
            # xdist adds the group to the name.
            name = re.sub(r"@[^\]]*$", "", report.nodeid)
            self.names[name] = True
            if NO_SECOND_ATTEMPT.search(report.longreprtext):
                self.final.add(name)

    def pytest_sessionfinish(self):
        few = len(self.names) <= SECOND_ATTEMPTS
        self.path.write_text("".join(f"{name}\n" for name in self.names if few and name not in self.final))


def pytest_configure(config):
    if config.getoption("failed") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Failed(config.getoption("failed")))
    config.addinivalue_line("markers", "alone(why): no other test runs meanwhile")
    config.addinivalue_line("markers", "long: begins before the others, which run beside it")
    config.addinivalue_line("markers", "limit_s(seconds): it may take longer than the others")
    config.addinivalue_line("markers", "host_only(why): makes no sense in an emulated machine (./dev test vm)")
    config.addinivalue_line("markers", "matrix(id, ...): is run on every kernel, if parametrized with these ids only")


def pytest_addoption(parser):
    parser.addoption("--matrix", action="store_true", help="only what is marked to be run on every kernel")
    parser.addoption("--failed", metavar="FILE", help="leaves there what is to have a second attempt, a test a line")


def of_the_matrix(item):
    marker = item.get_closest_marker("matrix")
    return marker is not None and (not marker.args or item.callspec.id in marker.args)


def pytest_collection_modifyitems(config, items):
    """-k uses_NAME chooses the tests that use a fixture."""
    if config.getoption("matrix"):
        items[:] = filter(of_the_matrix, items)
    items.sort(key=lambda item: item.get_closest_marker("long") is None)  # else as they were
    for item in items:
        item.extra_keyword_matches.update(f"uses_{name}" for name in item.fixturenames)


@pytest.fixture(autouse=True)
def time_limit(request):
    """A test that hangs fails, so that the others run and everything it made is taken down."""
    marker = request.node.get_closest_marker("limit_s")
    limit_s = patience(marker.args[0]) if marker else TEST_LIMIT_S

    def too_long(_signal, _frame):
        raise TimeoutError(f"the test took longer than {limit_s} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(int(limit_s))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def wait_until(predicate, timeout, what, every=0.1):
    """Returns the first true result of predicate(); fails after `timeout` seconds, on a slow machine more. What
    takes long is asked for less and less often: asking takes a CPU from what is waited for."""
    timeout = patience(timeout)
    deadline = time.monotonic() + timeout
    pause = patience(every)
    while True:
        result = predicate()
        if result:
            return result
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout} s in vain for: {what() if callable(what) else what}")
        time.sleep(pause)
        pause = min(1.2 * pause, patience(5 * every))


# ---- the agent


def check_accounting(status):
    """seen = recorded + suppressed + filtered + lost, for every kind, with nothing in between."""
    assert status["events"], "status knows no event kind"
    wrong = []
    for kind, count in status["events"].items():
        parts = {name: count[name] for name in ("recorded", "suppressed", "filtered", "lost")}
        if count["seen"] != sum(parts.values()) or count["unaccounted"] != 0:
            wrong.append(f"{kind}: seen {count['seen']}, {parts}, unaccounted {count['unaccounted']}")
        for whole in ("filtered", "lost"):
            by = count[whole + "_by"]
            if sum(by.values()) != count[whole]:
                wrong.append(f"{kind}: {whole} {count[whole]}, but by cause {by}")
    assert not wrong, "the accounts don't balance:\n" + "\n".join(wrong)


def session_processes(session):
    """The processes of a session that still run; zombies don't."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, sid = stat.read_text(errors="replace").rpartition(")")[2].split()[:4]
            if int(sid) == session and state not in "ZX":
                pids.append(int(stat.parent.name))
    return pids


class Agent:
    """`huatuo run` on a store of its own, and what the other subcommands say about it."""

    def __init__(self, binary, store, *arguments, output="none", env=None):
        self.binary, self.store, self.output = str(binary), Path(store), output
        self.env = {**os.environ, **SANITIZER_OPTIONS, **(env or {})}
        # Not below the store, which is the agent's; not in pytest's directory, which lets in nobody
        # but root, while the agent gives up its privileges.
        self.logs = Path(tempfile.mkdtemp(prefix="huatuo-e2e-log-"))
        self.ended = False
        with open(self.logs / "stdout", "wb") as out, open(self.logs / "stderr", "wb") as err:
            command = [self.binary, "run", "--store", str(store), "--output", output, *arguments]
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.env,
                start_new_session=True,  # session_processes() finds all of its processes
            )

    # -- what it says

    @property
    def pid(self):
        return self.process.pid

    @property
    def stdout(self):
        return (self.logs / "stdout").read_text(errors="replace")

    @property
    def stderr(self):
        return (self.logs / "stderr").read_text(errors="replace")

    def wait_balance(self, timeout=15):
        """check_accounting() of an agent that runs: what others on this host lose meanwhile is on its way
        at any one moment, but not at every one. Returns the status."""
        complaint = None

        def balanced():
            nonlocal complaint
            try:
                check_accounting(status := self.status())
                return status
            except AssertionError as error:
                complaint = error
                return None

        return wait_until(balanced, timeout, lambda: complaint)

    def wait_settled(self, event, timeout=15):
        """Waits until all that has been seen of a kind by now is recorded or lost, whatever comes after."""

        def count():
            return self.status()["events"][event]

        def done(count):
            return count["recorded"] + count["lost"]

        begin = count()
        wait_until(
            lambda: done(now := count()) - done(begin) >= begin["unaccounted"] or now["unaccounted"] == 0,
            timeout,
            lambda: f"{begin['unaccounted']} events of {event} on their way: {self.counts_of(count())}",
        )

    def huatuo(self, *arguments, check=True):
        """Runs a subcommand on this agent's store: huatuo("show", id)."""
        done = subprocess.run(
            [self.binary, arguments[0], "--store", str(self.store), *arguments[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self.env,
            timeout=patience(60),
            check=False,
        )
        stderr = done.stderr.decode(errors="replace")
        assert not SANITIZER_REPORT.search(stderr), stderr
        assert not check or done.returncode == 0, f"{arguments}: exit {done.returncode}: {stderr}"
        return done

    def status(self):
        return json.loads(self.huatuo("status", "--json").stdout)

    @staticmethod
    def counts_of(event):
        """What became of the events of a kind, out of its part of the status; without zeros."""
        return {name: value for name, value in event.items() if name not in ("hook", "hooks", "state") and value}

    def records(self, event=None, **filters):
        """The records, oldest first. Filters are options of `list`: since="10m", match="eth0". Those of
        the watching itself only with event="coverage"."""
        arguments = []
        for name, values in {"event": event, **filters}.items():
            for value in values if isinstance(values, (list, tuple)) else [values]:
                if value is not None:
                    arguments += ["--" + name.replace("_", "-"), str(value)]
        lines = self.huatuo("list", "--json", *arguments).stdout.decode().splitlines()
        records = [json.loads(line) for line in lines]
        return [record for record in records if event or record["tracer_name"] != "coverage"]

    def wait_records(self, predicate, timeout=15, count=1, event=None, **filters):
        """Waits for `count` records for which predicate(record) is true; returns all there are."""
        seen = []

        def enough():
            seen[:] = self.records(event, **filters)
            found = [record for record in seen if predicate(record)]
            return found if len(found) >= count else None

        def what():
            summaries = [f"{r.get('tracer_name')}: {r.get('summary')}" for r in seen[-20:]]
            # With what was counted: a record that was lost, filtered or missed says so there.
            counts = [f"{kind}: {self.counts_of(count)}" for kind, count in self.status()["events"].items()]
            return "\n  ".join([f"{count} such records; the last of {len(seen)}:", *summaries, *counts])

        return wait_until(enough, timeout, what)

    def wait_ready(self, timeout=READY_TIMEOUT_S):
        last = b"nothing"

        def ready():
            nonlocal last
            code = self.process.poll()
            if code is not None:
                self.forget()
                pytest.fail(f"the agent ended with {code} before it was ready:\n{self.stderr}")
            done = self.huatuo("status", "--json", check=False)
            last = done.stdout + done.stderr
            return done.returncode == 0 and json.loads(done.stdout)["ready"] is True

        wait_until(
            ready,
            timeout,
            lambda: f"`ready` of status, which says\n{last.decode()}\nThe agent says\n{self.stderr}",
        )
        return self

    # -- how it ends

    def processes(self):
        return session_processes(self.pid)

    def stop(self, number=signal.SIGTERM):
        """A clean end, and all that has to be true after one. Returns the last status."""
        self.process.send_signal(number)
        code = self.wait_end()
        assert code == 0, f"the agent ended with {code} after signal {number}:\n{self.stderr}"
        status = self.status()
        assert status["running"] is False and status["ready"] is False
        check_accounting(status)
        return status

    def proper(self):
        """The pid of the agent proper."""
        (pid,) = [pid for pid in self.processes() if pid != self.pid]
        return pid

    def reload(self, refused=False):
        """SIGHUP, and waits for what it says about it."""
        texts = ("the configuration was read again", "goes on with the configuration", "was not read again")
        said = [self.stderr.count(text) for text in texts]
        self.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: [self.stderr.count(text) for text in texts] != said, READY_TIMEOUT_S, lambda: f"a reload\n{self.stderr}"
        )
        assert (self.stderr.count(texts[0]) == said[0]) == refused, self.stderr

    def kill(self, pid=None):
        """SIGKILL of one of its processes (default: the first); the other has to end by itself."""
        os.kill(pid or self.pid, signal.SIGKILL)
        return self.wait_end()

    def wait_end(self, timeout=None):
        """Waits until all processes are gone; returns the exit code of the first."""
        timeout = timeout or STOP_TIMEOUT_S
        self.ended = True
        try:
            code = self.process.wait(patience(timeout))
            wait_until(lambda: not self.processes(), timeout, f"the end of {self.processes()}")
        except subprocess.TimeoutExpired:
            pytest.fail(f"the agent did not end within {timeout} s:\n{self.stderr}")
        finally:
            self.forget()
        assert not SANITIZER_REPORT.search(self.stderr), self.stderr
        return code

    def forget(self):
        """Leaves no process behind, whatever happened."""
        self.ended = True
        deadline = time.monotonic() + patience(STOP_TIMEOUT_S)
        while (pids := self.processes()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
            time.sleep(0.01)
        self.process.poll()


@pytest.fixture
def agent(request):
    """Starts agents: agent("--events", "dropwatch", output="json"). Each gets a store of its own, or
    that of an earlier one with store=earlier.store. Those that still run at the end of the test are
    stopped, with all the checks of stop(). For the tests of a kind it watches only that one, unless they
    say otherwise: what takes long on a slow machine is loading."""
    folder = Path(tempfile.mkdtemp(prefix="huatuo-e2e-"))
    folder.chmod(0o755)  # an agent without privileges has to get through
    agents = []
    kind = request.path.parent.name if request.path.parent.parent.name == "events" else None

    def start(*arguments, store=None, output="none", env=None, ready=True):
        binary = os.environ.get("HUATUO") or Path(__file__).parents[2] / "build-test/huatuo"
        store = store or folder / f"store{len(agents)}"
        if kind and "--events" not in arguments:
            arguments = ("--events", kind, *arguments)
        one = Agent(binary, store, *arguments, output=output, env=env)
        agents.append(one)
        return one.wait_ready() if ready else one

    yield start
    problems = []
    for one in agents:
        if not one.ended:
            try:
                one.stop()
            except BaseException as error:  # the others have to be stopped too
                problems.append(error)
                one.forget()
        print(f"stderr of {one.process.args}:\n{one.stderr}")  # pytest shows it if the test failed
        shutil.rmtree(one.logs)
    shutil.rmtree(folder)
    if problems:
        raise problems[0]


# ---- the machine


def is_guest():
    """Whether this machine is one of ours (tests/vm/guest.py), and may be treated like that."""
    product = Path("/sys/class/dmi/id/product_name")
    return product.exists() and product.read_text().strip() == "huatuo test guest"


@pytest.fixture
def stand_still():
    """stand_still("stop", 3): this guest is stopped and continued by its monitor, and has not noticed anything;
    stand_still("freeze", 3): its clock goes on meanwhile."""
    if not is_guest():
        pytest.skip("only a guest can be stopped and continued")

    def ask(how, seconds):
        request = Path(os.environ["SHARED"]) / "stand-still"
        draft = request.with_name("stand-still.draft")
        draft.write_text(f"{how} {seconds}")
        draft.rename(request)
        wait_until(lambda: not request.exists(), 30 + seconds, f"{how} by tests/vm/guest.py")

    return ask


# ---- how it is started


@pytest.fixture
def through(tmp_path_factory, monkeypatch):
    """through("setpriv", ...): the next agents are started by this program."""
    real = os.environ.get("HUATUO") or Path(__file__).parents[2] / "build-test/huatuo"
    folder = tmp_path_factory.mktemp("through")

    def use(*command):
        words = " ".join(f"'{word}'" for word in command)
        script = folder / "huatuo"
        script.write_text(
            f'#!/bin/sh\n[ "$1" = run ] && exec {words} "{real}" "$@"\nexec "{real}" "$@"\n'
        )
        script.chmod(0o755)
        monkeypatch.setenv("HUATUO", str(script))

    return use


@pytest.fixture
def tracefs(through):
    """The agents see the kernel's tracepoints as files, also where nobody has mounted them."""
    if os.path.exists(f"{TRACEFS}/events"):
        return
    mount = f"mount -t tracefs tracefs {TRACEFS} && exec \"$@\""
    command = [OWN_MOUNTS, "sh", "-c", mount, "sh"]
    done = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"tracefs cannot be mounted in a namespace of its own: {done.stderr.strip()}")
    through(*command)


# ---- network namespaces


def ip(*arguments):
    # Names of devices may be any bytes.
    text = {"text": True, "errors": "surrogateescape"}
    done = subprocess.run(["ip", *arguments], capture_output=True, check=False, **text)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def setns(path):
    """Moves this thread into the network namespace at the path."""
    clone_newnet = 0x40000000
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, clone_newnet) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"setns({path}): {os.strerror(number)}")
    finally:
        os.close(fd)


class NetworkNamespace:
    """`with ns:` runs a block inside; a socket made there goes on working outside."""

    def __init__(self, name):
        # Names are the host's, and two test runs may happen at the same time.
        self.name = f"huatuo-{os.getpid()}-{name}"
        self.outside = []
        ip("netns", "add", self.name)

    @property
    def path(self):
        return f"/var/run/netns/{self.name}"

    @property
    def inode(self):
        return os.stat(self.path).st_ino

    def ip(self, *arguments):
        with self:
            return ip(*arguments)

    def run(self, *command, check=True, **options):
        """Runs a program inside, as subprocess.run() does. It sees the host's /sys."""
        with self:
            return subprocess.run(command, check=check, capture_output=True, text=True, **options)

    def shell(self, script):
        """The command that runs it inside, with its own /sys. (`ip netns exec` refuses to after chroot(8).)"""
        with_sys = 'mount -t sysfs sysfs /sys && exec sh -c "$1"'
        return [OWN_MOUNTS, "nsenter", f"--net={self.path}", "sh", "-c", with_sys, "sh", script]

    def __enter__(self):
        self.outside.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        setns(self.path)
        return self

    def __exit__(self, *_):
        fd = self.outside.pop()
        setns(f"/proc/self/fd/{fd}")
        os.close(fd)

    def delete(self):
        ip("netns", "delete", self.name)


def veth(one, name_one, addresses_one, other, name_other, addresses_other):
    """A pair of devices between two namespaces, up, with addresses like "10.9.0.1/24"."""
    one.ip("link", "add", name_one, "type", "veth", "peer", "name", name_other, "netns", other.name)
    for ns, name, addresses in (
        (one, name_one, addresses_one),
        (other, name_other, addresses_other),
    ):
        for address in addresses:
            # Without duplicate detection an IPv6 address can be used at once.
            ns.ip("address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
        ns.ip("link", "set", name, "up")
    for ns, addresses in ((one, addresses_one), (other, addresses_other)):
        for address in addresses:
            # The kernel makes an address its own a little later.
            known = ("route", "show", "table", "local", address.partition("/")[0])
            wait_until(lambda: ns.ip("-6" if ":" in address else "-4", *known), 10, f"{address} in {ns.name}", 0.01)


@pytest.fixture
def netns():
    """Makes network namespaces: netns("client"). They go, with their devices, after the test."""
    made = []

    def make(name):
        made.append(NetworkNamespace(name))
        made[-1].ip("link", "set", "lo", "up")
        return made[-1]

    yield make
    for one in made:
        one.delete()


def in_netns(ns, function, *arguments):
    """Calls function(*arguments) in a child process inside the namespace and returns what it returns;
    fails with the traceback if it raises. For what has to be seen as another process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            try:
                setns(ns.path)
                data = pickle.dumps((True, function(*arguments)))
            except BaseException:
                data = pickle.dumps((False, traceback.format_exc()))
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(data)
            status = 0
        finally:
            os._exit(status)  # nothing of pytest may run here
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as pipe:
            data = pipe.read()
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
    assert data, f"the child in {ns.name} ended without an answer (wait status {status})"
    fine, answer = pickle.loads(data)
    assert fine, f"in {ns.name}:\n{answer}"
    return answer
