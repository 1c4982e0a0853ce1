"""Shared set-up: offline, one thread per test process, one cache of samples for the whole run."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
# Tests run in as many processes as there are cores; more threads than that only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session", autouse=True)
def sample_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples are written once per run, whichever test process asks first, unless the user names a cache."""
    if "DOMAINVL_CACHE" not in os.environ:
        shared = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            shared = shared.parent
        os.environ["DOMAINVL_CACHE"] = str(shared / "domainvl-cache")
    return Path(os.environ["DOMAINVL_CACHE"])
