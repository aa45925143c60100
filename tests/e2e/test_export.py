# SPDX-License-Identifier: Apache-2.0
"""Records written out, read back, and sent once more: what was there is there, to the byte."""

import json
import os
import subprocess
import sqlite3

import pytest
from elasticsearch import server  # noqa: F401 (a fixture)
from harness import patience
from upload import begin, filled, huatuo, ids, wait_uploaded  # noqa: F401 (a fixture)

pytestmark = pytest.mark.host_only("nothing of it depends on the kernel")

FRAMES = "".join(f"function_{i}/ffffffff8100{i:04x} [kernel]\n" for i in range(20))


def export(store, *words, check=True):
    code, output, errors = huatuo("export", "--to", "ndjson", "--store", store, *words)
    assert not check or (code == 0 and errors == ""), errors
    return output.splitlines()


@pytest.fixture
def elsewhere(tmp_path):
    return tmp_path / "elsewhere"


def change(i, data):
    data.update(stack=FRAMES, text='a "b" \x1b[31m \u202e ä', pid=i + 1)


def test_round_trip(filled, elsewhere, tmp_path):  # noqa: F811
    """As `list --json` shows it; once more changes nothing; it is found as before."""
    one = filled(3000, change)
    lines = export(one.store)
    listed = one.huatuo("list", "--json").stdout.decode().splitlines()
    assert lines == listed and len(lines) == 3002
    (tmp_path / "file").write_text("\n".join(lines))  # without a line's end at the end
    for done in ("imported 3002\n", "imported 0, were there already 3002\n"):
        code, output, errors = huatuo("import", tmp_path / "file", "--store", elsewhere)
        assert (code, output, errors) == (0, done, "")
        assert export(elsewhere) == lines
    assert not list(elsewhere.glob("records/*"))
    db = sqlite3.connect(elsewhere / "huatuo.db")
    assert db.execute("SELECT count(*), max(uses) FROM stacks").fetchone() == (1, 3000)  # stored once
    db.close()
    code, output, _ = huatuo("list", "--store", elsewhere, "--pid", 17, "--json")
    assert [json.loads(line)["tracer_data"]["pid"] for line in output.splitlines()] == [17]
    code, output, _ = huatuo("list", "--store", elsewhere, "--match", "function_7", "--limit", 5, "--json")
    assert len(output.splitlines()) == 5 and set(output.splitlines()) < set(lines)


def test_standard_input(filled, elsewhere):  # noqa: F811
    lines = export(filled(10).store)
    command = [os.environ["HUATUO"], "import", "-", "--store", elsewhere]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "imported 12\n", "")
    assert export(elsewhere) == lines


def few(i, data):
    if i < 5:
        data["text"] = "one of a few"


def test_range(filled):  # noqa: F811
    one = filled(100, few)
    everything = export(one.store)
    assert len(everything) == 102
    assert export(one.store, "--until", "1h") == []
    assert export(one.store, "--since", "1h", "--event", "coverage") == everything
    assert export(one.store, "--event", "oom") == []
    assert [json.loads(line)["tracer_data"]["number"] for line in export(one.store, "--match", "of a few")] == [0, 1, 2, 3, 4]


def test_hostile(filled, elsewhere, tmp_path):  # noqa: F811
    """Each line that is no record is said, and why; none of the others is lost, and what was there stays."""
    lines = [line.encode() for line in export(filled(6).store)]
    record = json.loads(lines[2])
    bad = [
        (b"{", "it is no JSON"),
        (b"\xff\xfe\x00", "it is no JSON"),
        (b"[1]", "it is no JSON object"),
        (b"<html>\x1b[31m", "it is no JSON"),
        (json.dumps({**record, "tracer_name": "../../etc"}).encode(), "none that this version knows"),
        (json.dumps({**record, "tracer_id": "x' OR 1=1; --"}).encode(), "tracer_id of 28"),
        (json.dumps({**record, "schema": 99}).encode(), "later version (schema 99)"),
        (b'{"a":"' + b"x" * 3_000_000 + b'"}', "longer than any record"),
        (lines[3][: len(lines[3]) // 2], "it is no JSON"),
        (b"[" * 200_000, "it is no JSON"),
    ]
    mixed = []
    for i, line in enumerate(lines):
        mixed += [line, bad[i][0], b""]
    mixed += [text for text, _ in bad[len(lines):]] + [b" " + lines[4] + b"\r"]
    (tmp_path / "file").write_bytes(b"\n".join(mixed) + b"\n")
    code, output, errors = huatuo("import", tmp_path / "file", "--store", elsewhere)
    assert code == 1
    assert output == f"imported {len(lines)}, were there already 1, no records {len(bad)}\n"
    assert [line.encode() for line in export(elsewhere)] == lines
    said = errors.splitlines()
    assert len(said) == len(bad) and "\x1b" not in errors
    for line, (text, why) in zip(said, bad):
        assert f": line {mixed.index(text) + 1}: " in line and why in line

    # A thousand of them are not a thousand messages.
    (tmp_path / "junk").write_bytes(b"junk\n" * 1000)
    code, output, errors = huatuo("import", tmp_path / "junk", "--store", elsewhere)
    assert code == 1 and output == "imported 0, no records 1000\n"
    assert len(errors.splitlines()) == 21 and "980 more lines are no records" in errors
    assert len(export(elsewhere)) == len(lines)


def test_wrong(agent, tmp_path):
    """Nothing is begun that cannot be done, and it says what can."""
    one = agent("--events", "oom")
    (tmp_path / "file").write_text("")
    code, output, errors = huatuo("import", tmp_path / "file", "--store", one.store)
    assert code == 1 and "a store has one writer" in errors and str(one.proper()) in errors
    code, _, errors = huatuo("import", tmp_path / "nowhere", "--store", tmp_path / "s")
    assert code == 1 and "cannot be opened: No such file" in errors and not (tmp_path / "s").exists()
    code, _, errors = huatuo("import", tmp_path / "file", "--store", tmp_path / "a/b")
    assert code == 1 and "making the directory" in errors
    code, _, errors = huatuo("import", tmp_path, "--store", tmp_path / "s")
    assert code == 1 and "Is a directory" in errors
    assert huatuo("import")[0] == 2
    code, _, errors = huatuo("export", "--store", one.store)
    assert code == 2 and "--to ndjson, elasticsearch" in errors
    code, _, errors = huatuo("export", "--to", "elastic", "--store", one.store)
    assert code == 2 and "there is no such target" in errors
    code, _, errors = huatuo("export", "--to", "elasticsearch", "--store", one.store, "--config", tmp_path / "file")
    assert code == 1 and "elasticsearch.url is not set" in errors
    code, _, errors = huatuo("export", "--to", "ndjson", "--store", tmp_path / "nothing")
    assert code == 1 and "there is no store in" in errors


def test_import_beside_an_agents_life(agent, filled, tmp_path):  # noqa: F811
    """An agent goes on with a store into which records were imported, and knows when the one before it ended."""
    one = agent("--events", "oom")
    one.kill()
    before = os.stat(one.store / "lock").st_mtime
    (tmp_path / "file").write_text("\n".join(export(filled(50).store)))
    code, output, _ = huatuo("import", tmp_path / "file", "--store", one.store)
    assert code == 0 and output == "imported 52\n"
    assert abs(os.stat(one.store / "lock").st_mtime - before) < 1
    again = agent("--events", "oom", store=one.store)
    again.stop()
    assert len(ids(again)) >= 52 + 3


def test_disk_full(filled, tmp_path):  # noqa: F811
    """It says so, and what has not got there is in the file yet."""
    lines = export(filled(4000, lambda i, data: data.update(text=os.urandom(1500).hex())).store)
    (tmp_path / "file").write_text("\n".join(lines))
    small = tmp_path / "small"
    small.mkdir()
    script = f"mount -t tmpfs -o size=4m none {small} && exec {os.environ['HUATUO']} import {tmp_path}/file --store {small}/store"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=patience(120), check=False)
    assert done.returncode == 1, done
    assert "the disk is full; free space" in done.stderr
    imported = int(done.stdout.split()[1].rstrip(","))
    assert 0 < imported < len(lines)


def test_resend(filled, server):  # noqa: F811
    """A range again, without an agent; the server keeps what it has."""
    elastic = server()
    elastic.bad = lambda document: "cannot parse" if document["tracer_data"].get("number") == 7 else None
    one = filled(2500, few)
    to = ["--to", "elasticsearch", "--store", one.store, "--set", f"elasticsearch.url={elastic.url}"]
    assert huatuo("export", *to, "--match", "of a few")[:2] == (0, "elasticsearch has 5\n")
    assert len(elastic.documents) == 5
    code, output, errors = huatuo("export", *to)
    assert code == 1 and output == "elasticsearch has 2501, refused 1\n"
    assert "was refused: 400 mapper_parsing_exception: cannot parse" in errors
    assert len(elastic.documents) == 2501 and 500 < elastic.largest <= 1000
    elastic.bad = lambda document: None
    code, output, errors = huatuo("export", *to, "--since", "1h")
    assert (code, output) == (0, "elasticsearch has 2502\n")
    assert set(elastic.documents) == set(ids(one))
    db = sqlite3.connect(one.store / "huatuo.db")
    assert db.execute("SELECT count(*) FROM targets").fetchone() == (0,)  # no cursor has moved
    db.close()


def test_resend_beside_an_agent(agent, filled, server):  # noqa: F811
    first, second = server(), server()
    one = begin(agent, first.url, store=filled(200).store)
    wait_uploaded(one, first)
    code, output, _ = huatuo("export", "--to", "elasticsearch", "--store", one.store, "--set", f"elasticsearch.url={second.url}")
    assert code == 0 and output == "elasticsearch has 203\n"
    assert first.documents.keys() == second.documents.keys()
