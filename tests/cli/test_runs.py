import threading
from pathlib import Path

import pytest

from domainvl import runs
from domainvl.commands.errors import CommandError


def test_the_next_number_is_free(toy):
    assert runs.claim(None, Path("recipes/cxr.yaml")).folder == Path("runs/cxr/1")
    assert runs.claim(None, Path("cxr.yaml")).folder == Path("runs/cxr/2")
    Path("runs/cxr/7").mkdir()
    Path("runs/cxr/notes").mkdir()
    assert runs.claim(None, Path("cxr.yaml")).folder == Path("runs/cxr/8")
    assert runs.claim(None, Path("other.yaml")).folder == Path("runs/other/1")


def test_runs_that_start_at_once_get_different_numbers(toy):
    found = []
    threads = [threading.Thread(target=lambda: found.append(runs.claim(None, Path("a.yaml")).folder)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(place.name) for place in found) == list(range(1, 9))


@pytest.mark.parametrize(
    ("recipe", "name"),
    [("recipes/cxr.yaml", "cxr"), ("runs/cxr/3/config.yaml", "cxr"), ("config.yaml", "config")],
)
def test_runs_are_called_like_the_recipe(recipe, name):
    assert runs.recipe_name(Path(recipe)) == name


def test_a_wanted_folder_is_made_and_used_once(toy):
    run = runs.claim("a/b", Path("x.yaml"))
    run.config.touch()
    with pytest.raises(CommandError, match="a/b is not empty"):
        runs.claim("a/b", Path("x.yaml"))


def test_a_folder_that_cannot_be_made_is_told(toy):
    Path("file").touch()
    with pytest.raises(CommandError, match=r"the run folder .*file.* cannot be written") as found:
        runs.claim("file/run", Path("x.yaml"))
    assert found.value.status == 1
    assert "--run-dir" in found.value.todo


def test_processes_that_follow_use_the_folder_of_the_first(toy, monkeypatch):
    first = runs.claim(None, Path("x.yaml")).folder.absolute()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert runs.claim(None, Path("x.yaml")).folder == first
    assert runs.claim("named", Path("x.yaml")).folder == Path("named")
    monkeypatch.delenv("DOMAINVL_RUN_DIR")
    with pytest.raises(CommandError, match="none knows the run folder"):
        runs.claim(None, Path("x.yaml"))


def test_only_an_unused_folder_is_discarded(toy):
    used, unused = runs.claim("used", Path("x")), runs.claim("unused", Path("x"))
    unused.write_config("a: 1\n")
    used.write_config("a: 1\n")
    used.rejects.touch()
    for run in (used, unused):
        run.discard_if_unused()
    assert used.config.exists()
    assert not unused.folder.exists()
