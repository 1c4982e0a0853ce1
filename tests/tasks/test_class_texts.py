"""Which class a prompt is of, and whether it says yes or no."""

import torch

from domainvl.data.prompts import PromptSet
from domainvl.features import TextInputs
from domainvl.tasks.class_texts import ClassTexts

PROMPTS = PromptSet(["{}", "my {}"], ["no {}"], names={"b": ["b", "beta"]})


def made(multilabel, seen):
    def tokenize(texts):
        seen.extend(texts)
        return TextInputs(torch.zeros(len(texts), 2, dtype=torch.long))

    return ClassTexts.of(["a", "b"], PROMPTS, multilabel, tokenize, lambda template, negative: template)


def test_rows_that_deny_a_finding_say_so():
    seen = []
    texts = made(True, seen)
    assert seen == ["a", "my a", "b", "beta", "my b", "my beta", "no a", "no b", "no beta"]
    assert texts.inputs.owner.tolist() == [0, 0, 1, 1, 1, 1, 2, 3, 3]
    assert texts.inputs.negative.tolist() == [text.startswith("no") for text in seen]


def test_classes_that_exclude_each_other_have_no_such_rows():
    assert made(False, []).inputs.negative is None


def test_pairs_without_classes_have_no_class_features():
    """A tokenizer refuses an empty list, so one text stands in, and its feature is dropped."""
    seen = []

    def tokenize(texts):
        seen.extend(texts)
        return TextInputs(torch.zeros(len(texts), 2, dtype=torch.long))

    texts = ClassTexts.of([], PROMPTS, False, tokenize, lambda template, negative: template)
    assert seen == [""]
    assert texts.ensemble(torch.ones(1, 5)).shape == (0, 5)
    assert texts.ensemble(torch.ones(4, 1, 5)).shape == (4, 0, 5)
