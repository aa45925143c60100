# SPDX-License-Identifier: Apache-2.0
"""Servers, one after the other: all tests of one, then all of the next."""

import os
from pathlib import Path

import pytest
from cluster import SERVERS, Cluster
from there import set_up


@pytest.fixture(scope="session", params=list(SERVERS))
def cluster(request):
    one = Cluster(request.param, Path(os.environ["HUATUO_SERVERS"]))
    try:
        yield one.start()
    finally:
        one.close()


@pytest.fixture
def clean(cluster):
    """No index of ours, and the template as `setup` makes it."""
    cluster.ask("DELETE", "/huatuo*")
    set_up(cluster)
    return cluster
