"""Prompt banks: what they must hold, and what is said when they do not."""

import copy

import pytest
import yaml

from domainvl.data.bank import PromptBank
from domainvl.samples.cxr import FINDINGS

GOOD = {
    "name": "toy",
    "version": 2,
    "licence": "CC0-1.0",
    "source": "this test",
    "classes": {
        "Lung Lesion": {"present": ["a nodule.", "a mass."], "absent": ["no nodule.", "no mass."]},
        "edema": {"present": ["fluid.", "wet."]},
    },
}


def read(content, folder):
    file = folder / "bank.yaml"
    file.write_text(yaml.safe_dump(content))
    return PromptBank.read(str(file))


def test_sentences_by_class_whatever_the_case(tmp_path):
    bank = read(GOOD, tmp_path)
    assert bank.texts(["Edema", "lung_lesion"]) == [["fluid.", "wet."], ["a nodule.", "a mass."]]
    assert bank.texts(["lung lesion"], negative=True) == [["no nodule.", "no mass."]]
    assert (bank.name, bank.version, bank.licence) == ("toy", 2, "CC0-1.0")


def test_the_digest_follows_sentences_and_version(tmp_path):
    digests = {read(GOOD, tmp_path).digest, read(GOOD | {"version": 3}, tmp_path).digest}
    other = copy.deepcopy(GOOD)
    other["classes"]["edema"]["present"][0] = "water."
    digests.add(read(other, tmp_path).digest)
    assert len(digests) == 3
    assert read(GOOD | {"source": "elsewhere"}, tmp_path).digest in digests


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licence": " "}, "licence should be text"),
        ({"version": "1"}, "version should be a whole number"),
        ({"more": 1}, "it should hold name, version, licence, source, classes"),
        ({"classes": {}}, "classes should map"),
        ({"classes": {"a": {"absent": ["x"]}}}, "class 'a' should hold `present`"),
        ({"classes": {"a": {"present": "x"}}}, "present of class 'a' should be a list"),
        ({"classes": {"a": {"present": ["x"]}, "b": {"present": ["x", "y"]}}}, "equally many sentences, got 1, 2"),
        ({"classes": {"a": {"present": []}}}, "equally many"),
    ],
)
def test_a_bank_that_is_none_says_why(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(GOOD | change, tmp_path)


def test_a_class_without_sentences_is_named(tmp_path):
    bank = read(GOOD, tmp_path)
    with pytest.raises(ValueError, match="no `present` sentences for fracture; it has some for Lung Lesion, edema"):
        bank.texts(["edema", "fracture"])
    with pytest.raises(ValueError, match="no `absent` sentences for edema"):
        bank.texts(["edema"], negative=True)


def test_a_file_that_is_not_yaml(tmp_path):
    file = tmp_path / "bank.yaml"
    file.write_text("a: [")
    with pytest.raises(ValueError, match="neither YAML nor JSON"):
        PromptBank.read(str(file))


def test_the_shipped_bank_speaks_of_the_samples():
    bank = PromptBank.read("builtin:chest-findings")
    assert {len(group) for negative in (False, True) for group in bank.texts(FINDINGS, negative)} == {8}
    with pytest.raises(ValueError, match=r"this package has chest-findings; did you mean 'chest-findings'"):
        PromptBank.read("builtin:chest-finding")
