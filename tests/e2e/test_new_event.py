# SPDX-License-Identifier: Apache-2.0
"""`./dev new-event`: the folder that it makes builds, can be watched, and fails its tests until somebody
has said what they are to say."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILDING_S = 170


def run(tree, *command, check=True):
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=BUILDING_S, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


@pytest.fixture
def tree(tmp_path):
    """A copy of the sources."""
    for name in ("src", "tests", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dev", "meson.build", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_new_event(tree, agent, monkeypatch):
    run(tree, "./dev", "new-event", "sample")
    made = sorted(path.name for path in (tree / "src/events/sample").iterdir())
    assert made == ["sample.bpf.c", "sample.c", "sample.h", "test_sample.c", "test_sample.py"]
    assert not [path for path in (tree / "src/events/sample").iterdir() if "@" in path.read_text()]
    # One folder and one line, and the house takes it in.
    before, after = ((root / "src/events/meson.build").read_text().splitlines() for root in (ROOT, tree))
    assert [line for line in after if line not in before] == ["    'sample',"] and len(after) == len(before) + 1
    run(tree, "/usr/bin/python3", "tests/layers.py")

    run(tree, "meson", "setup", "build", "--buildtype=plain")
    run(tree, "ninja", "-C", "build")
    done = run(tree, "build/tests/test_sample", check=False)
    assert done.returncode != 0 and "field by field" in done.stdout + done.stderr
    config = run(tree, "build/huatuo", "config", "show").stdout
    assert "sample:\n  enabled: true\n" in config

    monkeypatch.setenv("HUATUO", str(tree / "build/huatuo"))
    one = agent("--events", "sample")
    assert one.status()["events"]["sample"]["state"] == "watching"


@pytest.mark.parametrize("name", ["", "Sample", "9lives", "a b", "../x", "dropwatch"])
def test_bad_names(tree, name):
    done = run(tree, "./dev", "new-event", name, check=False)
    assert done.returncode == 1 and done.stderr.startswith("dev: "), done
    assert {p.name for p in (tree / "src/events").iterdir()} == {p.name for p in (ROOT / "src/events").iterdir()}
