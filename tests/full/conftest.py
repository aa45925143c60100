# SPDX-License-Identifier: Apache-2.0
"""A server and a folder for each test."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from cluster import Cluster
from there import set_up


@pytest.fixture
def cluster():
    one = Cluster("opensearch", Path(os.environ["HUATUO_SERVERS"]))
    try:
        one.start()
        set_up(one)
        yield one
    finally:
        one.close()


@pytest.fixture
def folder():
    path = Path(tempfile.mkdtemp(prefix="huatuo-full-"))
    path.chmod(0o755)  # an agent without privileges has to get through
    yield path
    shutil.rmtree(path)
