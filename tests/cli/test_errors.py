import copy
import errno

import pytest
import yaml
from toy_recipe import TOY

from domainvl.console import parser as parsing
from domainvl.console.session import clear_errors
from domainvl.errors import CommandError
from domainvl.runs import Run


@pytest.fixture(scope="module", autouse=True)
def _classes():
    parsing.offer_classes(["toy_cli"])


MODEL, DATA, TRAINER = "model.init_args", "data.init_args", "trainer"
PART = {"class_path": "Small", "init_args": {"width": 2}}

# What is changed in the recipe, what is on the command line, the first line, the near match (None: no such line).
ROWS = [
    # keys
    ({"modell": {}}, {}, "unknown key 'modell' in the recipe; keys are seed_everything, model, data, trainer", "model"),
    ({}, {"modle.slow": "1"}, "unknown key 'modle.slow'; keys start with", "model.slow"),
    ({f"{DATA}.shot": 4}, {}, "data: ToyData has no setting 'shot'; it has root, shots, count, policy", "data.shots"),
    ({}, {"data.shot": "4"}, "data: ToyData has no setting 'shot'", "data.shots"),
    ({f"{MODEL}.part.init_args.widht": 4}, {}, "model.part: Small has no setting 'widht'; it has", "model.part.width"),
    ({}, {"model.part.widht": "4"}, "model.part: Small has no setting 'widht'", "model.part.width"),
    ({}, {"model.optimizer.lrr": "4"}, "model.optimizer: AdamW has no setting 'lrr'", "model.optimizer.lr"),
    ({f"{TRAINER}.max_epoch": 1}, {}, "trainer: Trainer has no setting 'max_epoch'", "trainer.max_epochs or "),
    ({}, {"trainer.max_epoch": "1"}, "trainer: Trainer has no setting 'max_epoch'", "trainer.max_epochs or "),
    ({}, {"trainer.default_root_dir": "x"}, "trainer: Trainer has no setting 'default_root_dir'", None),
    (
        {f"{MODEL}.parts.one.init_args.widht": 4},
        {},
        "model.parts.one: Small has no setting 'widht'",
        "model.parts.one.width",
    ),
    ({}, {"model.parts.onne.width": "4"}, "model.parts has no entry 'onne'; it has one", "model.parts.one.width"),
    ({}, {"model.parts.onne": "null"}, "model.parts has no entry 'onne'; it has one", "model.parts.one"),
    # classes
    ({f"{MODEL}.part": {"class_path": "Smal"}}, {}, "model.part: there is no class 'Smal'; classes are", "Small"),
    ({f"{MODEL}.part": {"class_path": "toy_cli.Smal"}}, {}, "model.part: there is no class 'Smal'", "Small"),
    ({}, {"model.part": "Smal"}, "model.part: there is no class 'Smal'; classes are Large, Small", "Small"),
    ({f"{MODEL}.parts.one": {"class_path": "Larg"}}, {}, "model.parts.one: there is no class 'Larg'", "Large"),
    ({"model": {"class_path": "ToyTsk"}}, {}, "model: there is no class 'ToyTsk'", "ToyTask"),
    ({f"{MODEL}.optimizer": {"class_path": "AdamWW"}}, {}, "model.optimizer: there is no class 'AdamWW'", "AdamW or "),
    ({f"{MODEL}.part": {"class_path": "ToyData"}}, {}, "model.part: ", None),
    ({"model": {"init_args": {}}}, {}, "model names no class", None),
    ({"model": None}, {}, "model is missing", None),
    ({f"{MODEL}.schedule": {"class_path": "StepLR"}}, {}, "model.schedule.step_size is missing", None),
    # values
    ({f"{DATA}.shots": "four"}, {}, "data.shots: got 'four', expected int or null", None),
    ({}, {"data.shots": "four"}, "data.shots: got 'four', expected int or null", None),
    ({f"{MODEL}.slow": "very"}, {}, "model.slow: got 'very', expected float", None),
    ({f"{MODEL}.part.init_args.width": "wide"}, {}, "model.part.width: got 'wide', expected int", None),
    ({f"{MODEL}.parts.one.init_args.width": "wide"}, {}, "model.parts.one.width: got 'wide', expected int", None),
    ({f"{MODEL}.optimizer.init_args.lr": "fast"}, {}, "model.optimizer.lr: got 'fast', expected float", None),
    ({f"{TRAINER}.max_epochs": "ten"}, {}, "trainer.max_epochs: got 'ten', expected int or null", None),
    ({"seed_everything": "x"}, {}, "seed_everything: got 'x', expected int", None),
    ({f"{DATA}.policy": "kepp"}, {}, "data.policy: got 'kepp', expected 'keep' or 'drop' or Part", "keep"),
    # code that a recipe may not name
    ({f"{MODEL}.part": {"class_path": "subprocess.Popen"}}, {}, "model.part: the recipe names subprocess.Popen", None),
    ({f"{MODEL}.optimizer": {"class_path": "os.system"}}, {}, "model.optimizer: the recipe names os.system", None),
    ({"data": {"class_path": "decimal.Decimal"}}, {}, "data: the recipe names decimal.Decimal", None),
]


@pytest.mark.parametrize(("change", "overrides", "says", "means"), ROWS)
def test_a_mistake_is_named_with_its_key(change, overrides, says, means):
    recipe = copy.deepcopy(yaml.safe_load(TOY))
    for key, value in change.items():
        *way, last = key.split(".")
        node = recipe
        for part in way:
            node = node.setdefault(part, {})
        node[last] = value
    with pytest.raises(CommandError) as found:
        parsing.parse("fit", recipe, overrides)
    lines = found.value.text().splitlines()
    assert lines[0].startswith(f"error: {says}"), lines[0]
    assert len(lines) <= 3
    assert all(len(line) < 200 for line in lines)
    assert found.value.status == 2
    if means is None:
        assert not any(line.startswith("did you mean") for line in lines)
    else:
        assert any(line.startswith(f"did you mean: {means}") for line in lines), lines


def test_code_of_the_user_can_be_allowed_by_name_only():
    recipe = yaml.safe_load(TOY)
    recipe["data"] = {"class_path": "decimal.Decimal"}
    with pytest.raises(CommandError) as found:
        parsing.parse("fit", recipe, {})
    assert found.value.todo == "if you trust that code: --allow-import decimal"
    with pytest.raises(CommandError, match="there is no such package"):
        parsing.offer_classes(["no_such_package_here"])


def test_settings_of_a_class_are_listed():
    assert "layers" in parsing.class_help("Large", ["toy_cli"])
    assert "max_epochs" in parsing.class_help("Trainer")
    with pytest.raises(CommandError) as found:
        parsing.class_help("Larje", ["toy_cli"])
    assert "Large" in found.value.meant


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "x", "runs/1/last.ckpt"), "cannot write runs/1/last.ckpt: the disk is full"),
        (OSError(errno.EROFS, "x"), "cannot write: the file system is read-only"),
    ],
)
def test_a_disk_that_takes_nothing_is_one_line(error, says):
    with pytest.raises(CommandError) as found, clear_errors():
        raise error
    assert (found.value.what, found.value.status) == (says, 1)


def test_errors_of_other_code_keep_their_traceback():
    with pytest.raises(ValueError, match="odd") as found, clear_errors():
        raise ValueError("odd")
    assert not isinstance(found.value, CommandError)


def test_a_reader_that_goes_away_is_nothing_that_our_code_refuses(tmp_path, monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Gone())
    with pytest.raises(BrokenPipeError), clear_errors():
        Run(tmp_path).announce()
