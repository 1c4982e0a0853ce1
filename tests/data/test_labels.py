import subprocess
import sys

import pytest

from domainvl.data import Label, LabelPolicy, PromptSet, parse_label, parse_split

P, N, U, B = Label.POSITIVE, Label.NEGATIVE, Label.UNCERTAIN, Label.BLANK


@pytest.mark.parametrize(
    ("cell", "label"),
    [("1", P), ("1.0", P), (" 0 ", N), ("0.0", N), ("-1.0", U), ("-1", U), ("", B), ("TRUE", P), ("uncertain", U)],
)
def test_cells_read_as_labels(cell, label):
    assert parse_label(cell) is label


@pytest.mark.parametrize(
    ("cell", "text"), [("nan", "NaN"), ("NaN", "NaN"), ("None", "NaN"), ("2", "'2'"), ("0.5", "'0.5'")]
)
def test_what_is_no_label_is_named(cell, text):
    with pytest.raises(ValueError, match=f"{text} is no label"):
        parse_label(cell)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (LabelPolicy(), [1.0, 0.0, None, None]),
        (LabelPolicy(uncertain="positive"), [1.0, 0.0, 1.0, None]),
        (LabelPolicy(blank="negative"), [1.0, 0.0, None, 0.0]),
        (LabelPolicy(uncertain="positive", uncertain_per_class={"c": "negative"}), [1.0, 0.0, 0.0, None]),
    ],
)
def test_policy_decides_uncertain_and_blank(policy, expected):
    assert policy.targets([P, N, U, B], ["a", "b", "c", "d"]) == expected


def test_chexpert_policy_is_the_papers():
    policy = LabelPolicy.named("chexpert")
    ones = [name for name in ("Atelectasis", "Edema", "Pleural Effusion") if policy.target(U, name) == 1]
    zeros = [name for name in ("Cardiomegaly", "Consolidation") if policy.target(U, name) == 0]
    assert (len(ones), len(zeros), policy.target(U, "Fracture"), policy.target(B, "Edema")) == (3, 2, None, 0)


def test_unknown_policy_and_treatment_name_the_choices():
    with pytest.raises(ValueError, match=r"'chexprt'; did you mean 'chexpert'\? There are: ignore, chexpert"):
        LabelPolicy.named("chexprt")
    with pytest.raises(ValueError, match="blank is 'zero'; choose positive, negative or ignore"):
        LabelPolicy(blank="zero")


@pytest.mark.parametrize(
    ("cell", "split"), [("Val", "validate"), ("valid", "validate"), ("TRAIN", "train"), ("test", "test")]
)
def test_split_spellings(cell, split):
    assert parse_split(cell) == split


def test_prompts_fill_every_template_with_every_name():
    prompts = PromptSet(["a {}.", "the {}"], ["no {}"], {"Edema": ["edema", "fluid"]})
    assert prompts.texts("Edema") == ["a edema.", "a fluid.", "the edema", "the fluid"]
    assert prompts.texts("Pleural_Thickening") == ["a Pleural Thickening.", "the Pleural Thickening"]
    assert prompts.negative_texts("Edema") == ["no edema", "no fluid"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "templates is empty"),
        ((["a photo"],), "exactly one {}"),
        ((["{} {}"],), "exactly one {}"),
        ((["{}"], [], {"a": []}), "empty list"),
    ],
)
def test_prompts_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        PromptSet(*arguments)


def test_contracts_need_no_lightning():
    code = "import sys, domainvl.data; raise SystemExit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
