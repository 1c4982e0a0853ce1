import os

import pytest
from toy_recipe import TOY


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """An empty folder to work in, with a recipe called toy.yaml."""
    monkeypatch.chdir(tmp_path)
    for name in ("LOCAL_RANK", "RANK", "DOMAINVL_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "toy.yaml").write_text(TOY)
    return tmp_path


@pytest.fixture(scope="session")
def environment():
    """For processes of their own: the repository and the toys are importable."""
    here = os.path.dirname(__file__)
    root = os.path.dirname(os.path.dirname(here))
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, here]), "OMP_NUM_THREADS": "1"}
