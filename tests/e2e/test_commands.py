# SPDX-License-Identifier: Apache-2.0
"""list, show, status, config and what they all have in common."""

import json
import os
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest
from harness import SANITIZER_OPTIONS, SANITIZER_REPORT, in_netns, wait_until
from dropwatch import SERVER, drop_all, drops, hosts, settle, start, start_connecting  # noqa: F401

# In the names of the processes, as others on this machine may lose packets at the same time.
OURS = f"our{os.getpid()}"
SUBCOMMANDS = ("run", "list", "show", "status", "doctor", "try", "config", "export", "import", "elasticsearch")
USAGE = 2


def huatuo(*arguments, **options):
    """Runs a subcommand that ends by itself; returns exit code, output, errors as text."""
    binary = os.environ.get("HUATUO") or Path(__file__).parents[2] / "build-test/huatuo"
    options = {"stdout": subprocess.PIPE, **options}
    done = subprocess.run(
        [binary, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **SANITIZER_OPTIONS},
        timeout=60,
        check=False,
        **options,
    )
    errors = done.stderr.decode()
    assert not SANITIZER_REPORT.search(errors), errors
    return done.returncode, (done.stdout or b"").decode(), errors


@pytest.fixture
def lose(hosts):  # noqa: F811
    """lose(port): a connection to this port of the server that is dropped; returns the client's pid."""
    client, _ = hosts
    drop_all(client, "cli0")

    def run(port, comm=OURS.encode()):
        pid, _, _ = in_netns(client, start_connecting, SERVER[4], port, comm)
        return pid

    return run


# ---- list


def test_list(agent, hosts, lose):  # noqa: F811
    client, _ = hosts
    one = start(agent)
    netns = client.inode
    pids = {port: lose(port, f"a-{OURS}".encode()) for port in (1001, 1002, 1003)}
    settle(one)
    time.sleep(1.1)
    between = time.time()
    time.sleep(0.1)
    pids |= {port: lose(port, f"b-{OURS}".encode()) for port in (2001, 2002)}
    settle(one)
    mine = drops(one, netns=netns)
    assert [r["tracer_data"]["dport"] for r in mine] == [1001, 1002, 1003, 2001, 2002]
    here = ("--store", one.store, "--json", "--match", OURS)

    def listed(*arguments):
        code, output, errors = huatuo("list", *here, *arguments)
        assert code == 0 and not errors, errors
        # One document a line, whole, and nothing else.
        assert not output or output.endswith("\n")
        documents = [json.loads(line) for line in output.splitlines()]
        assert all(document in mine for document in documents)
        return [document["tracer_data"]["dport"] for document in documents]

    everything = [1001, 1002, 1003, 2001, 2002]
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(between + 0.05))
    rfc = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(between)) + f".{int(between % 1 * 1000):03}Z"
    clock = time.strftime("%H:%M:%S", time.localtime(between))
    for arguments, expected in [
        ((), everything),
        (("--event", "dropwatch"), everything),
        (("--event=dropwatch", "--event", "dropwatch"), everything),
        (("--since", "10m"), everything),
        (("--since", rfc), [2001, 2002]),
        (("--until", rfc), [1001, 1002, 1003]),
        (("--since", rfc, "--until", rfc), []),
        (("--until", "10m"), []),
        (("--since", "2099-01-01"), []),
        (("--pid", pids[1002]), [1002]),
        (("--pid", pids[1002], "--since", rfc), []),
        (("--limit", "2"), [2001, 2002]),
        (("--limit", "4"), [1002, 1003, 2001, 2002]),
        (("--limit", "1000"), everything),
        (("--limit", "1", "--until", rfc), [1003]),
        (("--container", "0123abc"), []),
    ]:
        assert listed(*arguments) == expected, arguments
    # Times without a zone are local; whole seconds, so only what is a second away is certain.
    assert listed("--until", moment) in ([1001, 1002, 1003], everything)
    assert 2002 in listed("--since", clock) and 1001 not in listed("--since", clock)
    # The text may be in any value; it is matched as it is, not as a pattern.
    for match, expected in [
        (f"{SERVER[4]}:2001 ", [2001]),
        (f"b-{OURS}", [2001, 2002]),
        ("entry_SYSCALL_64", everything),
        ("1.9.0.2", []),
        ("10.9.0.[0-9]", []),
        ("%", []),
    ]:
        code, output, _ = huatuo("list", "--store", one.store, "--json", "--match", match, "--since", "10m")
        assert code == 0
        got = [document for line in output.splitlines() if (document := json.loads(line)) in mine]
        assert [document["tracer_data"]["dport"] for document in got] == expected, match
    one.stop()
    assert listed() == everything  # without an agent, too


def test_list_text(agent, lose):
    one = start(agent)
    for port in (1001, 1002, 1003):
        lose(port, b"a\x1b[2Jb\nc")
    settle(one)
    code, output, errors = huatuo("list", "--store", one.store, "--event", "dropwatch")
    assert code == 0 and not errors
    # A line for each, newest last, and nothing in it that could act on a terminal.
    lines = output.splitlines()
    records = one.records()[: len(lines)]  # others may lose something meanwhile
    assert len(lines) == len(records) >= 3
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", output)
    for line, record in zip(lines, records, strict=True):
        assert line.startswith(f"{record['time'][11:23]} dropwatch "), line
        assert record["summary"].replace("\x1b", "\\x1b").replace("\n", "\\x0a") in line
    code, output, errors = huatuo("list", "--store", one.store, "--match", "no-such-text")
    assert (code, output) == (0, "") and "no such record" in errors


@pytest.mark.parametrize("how", ["json", "text"])
def test_list_follows(agent, lose, how):
    one = start(agent)
    lose(1001)
    settle(one)
    arguments = ["list", "--store", one.store, "-f", "--match", OURS]
    arguments += ["--json"] if how == "json" else []
    with subprocess.Popen(
        [one.binary, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=one.env
    ) as following:

        def next_line(timeout):
            ready, _, _ = select.select([following.stdout], [], [], timeout)
            assert ready, f"no line within {timeout} s"
            line = following.stdout.readline().decode()
            if how == "json":
                return json.loads(line)["tracer_data"]["dport"]
            return int(re.search(rf"{re.escape(SERVER[4])}:(\d+) ", line)[1])

        try:
            assert next_line(10) == 1001  # what there was
            for port in (2001, 2002, 2003):
                lose(port)
                assert next_line(2) == port
            assert not select.select([following.stdout], [], [], 1)[0], "a record came twice"
            # It outlives the agent, and sees what the next one records.
            one.stop()
            two = start(lambda *words: agent(*words, store=one.store))
            lose(3001)
            assert next_line(5) == 3001
            following.send_signal(signal.SIGINT)
            assert following.wait(5) == 0
            assert following.stdout.read() == b"" and following.stderr.read() == b""
        finally:
            following.kill()
    two.stop()


def test_list_ends_when_nobody_reads(agent, lose):
    one = start(agent)
    lose(1001)
    settle(one)
    for more in ((), ("-f",)):
        command = [one.binary, "list", "--store", str(one.store), *more]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=one.env) as listing:
            listing.stdout.close()
            try:
                assert listing.wait(10) == 0
                assert listing.stderr.read() == b""
            finally:
                listing.kill()


# ---- show


def test_show(agent, hosts, lose):  # noqa: F811
    client, _ = hosts
    one = start(agent)
    lose(1001, b"a\x1b[2Jb")
    lose(1002)
    settle(one)
    record, other = drops(one, netns=client.inode)[:2]
    one.stop()  # or somebody else's records might come to begin with the same characters
    number = record["tracer_id"]
    others = [r["tracer_id"] for r in one.records() + one.records("coverage") if r != record]
    common = max((os.path.commonprefix([number, name]) for name in others), key=len)
    assert other["tracer_id"] in others
    assert 0 < len(common) < len(number)
    here = ("--store", one.store)
    for name in (number, number[: len(common) + 1], number[-12:]):
        code, output, errors = huatuo("show", name, "--json", *here)
        assert code == 0 and not errors and json.loads(output) == record, name
        assert output == json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        code, output, errors = huatuo("show", name, *here)
        assert code == 0 and not errors
        # Every field of it, for the eye, and harmless to a terminal.
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", output)
        for key in (*record, *record["tracer_data"], *record["process"]):
            assert re.search(rf"^ *{key}( |$)", output, re.MULTILINE), key
        for text in (number, str(record["tracer_data"]["netns"]), "a\\x1b[2Jb"):
            assert text in output
        for frame in record["tracer_data"]["stack"].splitlines():
            assert frame in output
    for name, why in [
        (common, "several"),
        ("0000000000", "no record"),
        (number + "0", "no record"),
        ("%", "no record"),
        ("_" * 28, "no record"),
        ("'--", "no record"),
    ]:
        code, output, errors = huatuo("show", *here, name)
        assert (code, output) == (1, "") and why in errors, (name, errors)
    for words in ((), (number, number), ("",)):
        code, output, errors = huatuo("show", *here, *words)
        assert (code, output) == (USAGE, "") and "usage:" in errors, words


# ---- status


def test_status(agent, lose):
    one = start(agent)
    lose(1001)
    settle(one)
    status = one.status()
    for name, kind in {
        "running": bool,
        "ready": bool,
        "version": str,
        "pid": int,
        "user": str,
        "started": str,
        "symbols": str,
        "events": dict,
        "targets": dict,
        "store": dict,
    }.items():
        assert isinstance(status[name], kind), name
    assert status["running"] and status["ready"] and status["pid"] == one.pid and status["symbols"] == "ok"
    count = status["events"]["dropwatch"]
    assert count["state"] == "watching" and count["recorded"] >= 1 and "tp_btf/kfree_skb" in count["hook"]
    assert status["store"]["writing"] is True and status["store"]["problem"] == ""
    wait_until(
        lambda: one.status()["store"]["records"] == len(one.records()) + len(one.records("coverage")),
        10,
        "as many records as the status says",
    )

    equation = r"seen (\d+) = recorded (\d+) \+ suppressed (\d+) \+ filtered (\d+) \+ lost (\d+)"
    equation += r"(?: \+ on the way (\d+))?$"  # what others lose meanwhile
    code, output, errors = huatuo("status", "--store", one.store)
    assert code == 0 and not errors
    assert output.startswith(f"running, version {status['version']}, user {status['user']}, ")
    assert re.search(r"^dropwatch +watching +tp_btf/kfree_skb", output, re.MULTILINE)
    sums = re.search(equation, output, re.MULTILINE)
    seen, *parts = map(int, sums.groups("0"))
    assert seen == sum(parts) >= 1

    last = one.stop()
    assert last["events"]["dropwatch"]["state"] == "stopped"
    code, output, errors = huatuo("status", "--store", one.store)
    assert code == 0 and output.startswith("not running, ")
    count = last["events"]["dropwatch"]
    assert f"seen {count['seen']} = recorded {count['recorded']} " in output
    # What was started with other kinds only says that this one is off.
    assert huatuo("status", "--store", one.store, "--json")[1].count("\n") == 1


def test_no_store(tmp_path):
    for words in (["list"], ["list", "-f"], ["show", "18"], ["status"], ["status", "--json"]):
        for store in (tmp_path / "nowhere", tmp_path, tmp_path / "no\x1b[2J"):
            code, output, errors = huatuo(*words, "--store", store)
            assert (code, output) == (1, ""), words
            assert "there is no store in" in errors and "huatuo run" in errors, errors
            assert "\x1b" not in errors, words
    assert not list(tmp_path.iterdir())  # asking makes nothing


def test_output_that_does_not_arrive(agent, lose):
    """What could not be written must not look like success to a script."""
    one = start(agent)
    lose(1001)
    settle(one)
    number = one.records()[-1]["tracer_id"]
    for words in (
        ["list", "--store", one.store],
        ["list", "--json", "--store", one.store],
        ["show", number, "--store", one.store],
        ["show", number, "--json", "--store", one.store],
        ["status", "--store", one.store],
        ["status", "--json", "--store", one.store],
        ["config", "show"],
    ):
        with open("/dev/full", "wb") as full:
            code, _, errors = huatuo(*words, stdout=full)
        assert code == 1 and "No space left" in errors, (words, code, errors)


# ---- config

GOOD = """
# everything can be commented
agent:
  region: "north"   # as can this
store:
  max_size: 64MiB
  record_files: no
dropwatch:
  repeat_window: 30s
  protocols: [tcp, udp]
  ignore:
    - "mine: place=tcp_v4_rcv reason=NO_SOCKET"
"""


def test_config_good(tmp_path):
    file = tmp_path / "good.yaml"
    file.write_text(GOOD)
    assert huatuo("config", "check", file) == (0, "", "")
    code, output, errors = huatuo("config", "show", "--config", file, "--set", "dropwatch.repeat_limit=3")
    assert code == 0 and not errors
    for line in (
        "region: north",
        "max_size: 64MiB",
        "record_files: false",
        "repeat_window: 30s",
        "repeat_limit: 3",
        "protocols: [tcp, udp]",
        "retain: 30d",
    ):
        assert re.search(rf"^  {re.escape(line)}$", output.replace('"', ""), re.MULTILINE), (line, output)
    # What is shown is itself a configuration, and the same one.
    again = tmp_path / "again.yaml"
    again.write_text(output)
    assert huatuo("config", "check", again) == (0, "", "")
    assert huatuo("config", "show", "--config", again) == (0, output, "")
    # The defaults, without any file.
    code, defaults, _ = huatuo("config", "show")
    assert code == 0 and "repeat_limit: 10" in defaults and defaults != output


BAD = [
    ("dropwatch:\n  repeat_limitt: 5\n", 2, ["repeat_limitt", '"repeat_limit"?']),
    ("\ndropwach:\n  enabled: yes\n", 2, ["dropwach", '"dropwatch"?']),
    ("dropwatch:\n  repeat_window: 30\n", 2, ["has no unit", "30s"]),
    ("dropwatch:\n  repeat_window: 1us\n", 2, ["100ms", "1d"]),
    ("dropwatch:\n  repeat_window: soon\n", 2, ["duration", "100ms"]),
    ("store:\n  max_size: 64 Megs\n", 2, ["size", "64MiB"]),
    ("store:\n  max_size: -5\n", 2, ["negative"]),
    ("dropwatch:\n  enabled: maybe\n", 2, ["neither true nor false"]),
    ("dropwatch:\n  repeat_limit: 3\n  repeat_limit: 4\n", 3, ["set twice", "line 2"]),
    ("dropwatch:\n  repeat_limit:\n", 2, ["has no value"]),
    ("dropwatch:\n\tenabled: yes\n", 2, ["spaces, not tabs"]),
    ("dropwatch:\n  protocols: [tcp, quic]\n", 2, ["quic", "udp"]),
    ("dropwatch:\n  ignore: ['mine: plase=x']\n", 2, ["plase", "place"]),
    ("dropwatch:\n  ignore: ['mine: place=f|g|']\n", 2, ["place=f|g|", "missing"]),
    ("dropwatch:\n  ignore: ['a: plase=x', 'b: place=x', 'c: prot=1']\n", 2, ["item 1: ", "item 3: "]),
    ("dropwatch:\n  ignore: ['a: port=1', 'b: port=1', 'a: port=2']\n", 2, ["item 3: ", "`a`", "item 1;"]),
    (f"dropwatch:\n  ignore: {[f'r{n}: port={n}' for n in range(60)]}\n", 2, ["60 rules", "64"]),
    ("dropwatch:\n  noise_rules_off: [nonsense]\n", 2, ["nonsense"]),
    ("dropwatch:\n  hooks_off: [tp_btf/kfree_skbb]\n", 2, ["kfree_skbb"]),
    ("dropwatch: 5\n", 1, ["section"]),
    ("- a\n", 1, ["section"]),
    ("agent:\n  dns_servers: [not-an-address]\n", 2, ["not-an-address"]),
]


@pytest.mark.parametrize("text, line, words", BAD, ids=[repr(row[0])[:40] for row in BAD])
def test_config_bad(tmp_path, text, line, words):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    code, output, errors = huatuo("config", "check", file)
    assert (code, output) == (1, ""), errors
    assert errors.startswith(f"{file}:{line}: "), errors
    for word in words:
        assert word in errors, errors
    # The others say the same, and nothing is begun.
    assert huatuo("config", "show", "--config", file) == (1, "", errors)
    store = tmp_path / "store"
    assert huatuo("run", "--config", file, "--store", store, "--duration", "1s") == (1, "", errors)
    assert not store.exists()


def test_config_every_problem_at_once(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("dropwatch:\n  a: 1\n  enabled: 7\nstore:\n  retain: 1\nnope:\n  x: y\n")
    code, _, errors = huatuo("config", "check", file)
    assert code == 1
    assert [line.split(":")[1] for line in errors.splitlines()] == ["2", "3", "5", "6"], errors


def test_config_files_that_are_none(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, word in [
        (tmp_path / "nowhere", "No such file"),
        (tmp_path, "Is a directory"),
        ("/dev/zero", "no regular file"),
        (fifo, "no regular file"),
    ]:
        code, output, errors = huatuo("config", "check", path)
        assert (code, output) == (1, "") and str(path) in errors, errors
        assert word in errors, errors
    for text in (b"\xff\xfe\x00", b"a: \x00b", b"%" * 100, b"a: &x [*x]\n", b"[" * 5000):
        (tmp_path / "bytes").write_bytes(text)
        code, output, errors = huatuo("config", "check", tmp_path / "bytes")
        assert (code, output) == (1, "") and errors, text
    (tmp_path / "empty").write_text("")
    assert huatuo("config", "check", tmp_path / "empty")[0] == 0


@pytest.mark.parametrize(
    "assignment, word",
    [
        ("dropwatch.repeat_limit", "section.key=value"),
        ("dropwatch.repeat_limit=", "whole number"),
        ("dropwatch.repeat_limt=5", '"repeat_limit"?'),
        ("dropwach.repeat_limit=5", '"dropwatch'),
        ("dropwatch.repeat_limit=0", "1"),
        ("=", "section.key=value"),
        ("store.path=a\nb", "control"),
    ],
)
def test_set_wrong(tmp_path, assignment, word):
    code, output, errors = huatuo("run", "--set", assignment, "--store", tmp_path / "s", "--duration", "1s")
    assert (code, output) == (USAGE, "") and word in errors, errors
    assert not (tmp_path / "s").exists()
    code, output, errors = huatuo("config", "show", "--set", assignment)
    assert code != 0 and not output and word in errors, errors


# ---- what they have in common


def test_no_words():
    code, output, errors = huatuo()
    assert (code, output) == (USAGE, "")
    for name in SUBCOMMANDS:
        assert re.search(rf"^  {name} ", errors, re.MULTILINE)
    for word in ("--help", "-h", "help"):
        assert huatuo(word) == (0, errors, "")
    code, output, errors = huatuo("--version")
    assert code == 0 and re.fullmatch(r"huatuo \d+\.\d+\.\d+\n", output) and not errors


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_help(name):
    code, output, errors = huatuo(name, "--help")
    assert code == 0 and not errors
    usage = output.splitlines()[0]
    assert usage.startswith(f"usage: huatuo {name} ")
    # Every option of the usage line is explained, and the other way round.
    explained = set(re.findall(r"^ +(-[-a-z]+)", output, re.MULTILINE))
    assert set(re.findall(r"(?<![\w-])(--?[a-z]+)", usage)) == explained, output
    assert all(len(line) <= 100 for line in output.splitlines()[1:])
    assert huatuo(name, "-h") == (0, output, "")
    # Also among others, and without doing anything.
    assert huatuo(name, "--store", "/nowhere", "--help")[:2] == (0, output)


@pytest.mark.parametrize(
    "words",
    [
        ["lst"],
        ["--nonsense"],
        ["run\x1b[2J"],
        ["run", "word"],
        ["run", "--stor", "x"],
        ["run", "--output", "xml"],
        ["run", "--duration", "10"],
        ["run", "--duration", "0"],
        ["run", "--duration", "0s"],
        ["run", "--duration", "soon"],
        ["run", "--events", "nonsense"],
        ["run", "--events", ""],
        ["run", "--demo=yes"],
        ["list", "--jsn"],
        ["list", "--event", "nonsense"],
        ["list", "--since", "yesterday-ish"],
        ["list", "--since", "1m", "--until", "2m"],
        ["list", "-f", "--until", "1m"],
        ["list", "--pid", "0"],
        ["list", "--pid", "-1"],
        ["list", "--pid", "99999999999"],
        ["list", "--limit", "0"],
        ["list", "--limit", "many"],
        ["list", "--store"],
        ["list", "word"],
        ["show"],
        ["status", "word"],
        ["status", "--json=yes"],
        ["doctor", "word"],
        ["doctor", "--json=yes"],
        ["try", "nonsense"],
        ["try", "--stor", "x"],
        ["config"],
        ["config", "chekc"],
        ["config", "check"],
        ["config", "check", "a", "b"],
        ["config", "show", "word"],
        ["config", "docs", "--config", "x"],
    ],
    ids=" ".join,
)
def test_wrong_words(words):
    code, output, errors = huatuo(*words)
    assert (code, output) == (USAGE, ""), errors
    assert "usage: huatuo" in errors and "\x1b" not in errors, errors


def test_wrong_words_are_put_right():
    for words, meant in [
        (["list", "--jsn"], "--json"),
        (["run", "--stor", "x"], "--store"),
        (["list", "--event", "dropwach"], "dropwatch"),
        (["try", "dropwach"], "dropwatch"),
        (["run", "--events", "dropwach"], "dropwatch"),
        (["lst"], "list"),
    ]:
        assert meant in huatuo(*words)[2].split("usage:")[0], words
