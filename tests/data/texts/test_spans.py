import pytest

from domainvl.data.texts.spans import Lexicon, phrase_spans, sentence_spans, word_spans


def pieces(text, spans):
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A 1.5 cm nodule.", ["A", "1.5", "cm", "nodule"]),
        ("right-sided x-ray, patient's", ["right-sided", "x-ray", "patient's"]),
        ("1,000 mL and 3.14.2; 5.Heart", ["1,000", "mL", "and", "3.14.2", "5", "Heart"]),
        ("and/or (mild) ___ -- ", ["and", "or", "mild"]),
        ("Übergröße cafe\u0301 naïve\u2019s 肺炎", ["Übergröße", "cafe\u0301", "naïve\u2019s", "肺炎"]),
        ("", []),
        (" .;! ", []),
    ],
)
def test_words(text, words):
    assert pieces(text, word_spans(text)) == words


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Nodule of 1.5 cm. No effusion.", ["Nodule of 1.5 cm.", "No effusion."]),
        ("  Seen by Dr. Who at 5 p.m. today.  Clear! ", ["Seen by Dr. Who at 5 p.m. today.", "Clear!"]),
        ("1. No change. 2. Small effusion.", ["No change.", "Small effusion."]),
        ("no capital. so one sentence", ["no capital. so one sentence"]),
        ("Lungs clear\n \nHeart normal", ["Lungs clear", "Heart normal"]),
        ("Lungs\nclear.\nHeart normal.", ["Lungs\nclear.", "Heart normal."]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences(text, sentences):
    assert pieces(text, sentence_spans(text)) == sentences


LEXICON = Lexicon(
    findings=["effusion", "pleural effusion", "pneumothorax", "opacity"],
    modifiers=["small", "large", "loculated", "left", "right", "lower", "upper"],
    places=["lobe", "costophrenic angle", "lung"],
)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        (
            "There is a small, loculated Pleural effusion in the left lower lobe.",
            ["small, loculated Pleural effusion in the left lower lobe"],
        ),
        ("No pneumothorax. Large effusion", ["pneumothorax", "Large effusion"]),
        ("small left effusion and large opacity", ["small left effusion", "large opacity"]),
        ("opacity, in the left lobe", ["opacity"]),
        ("opacity in the heart", ["opacity"]),
        ("opacity at the right costophrenic angle.", ["opacity at the right costophrenic angle"]),
        ("Size is small. Effusion of both lung", ["Effusion of both lung"]),
        ("right lung opacity in", ["opacity"]),
        ("effusion left opacity", ["effusion", "left opacity"]),
        ("heart is normal", []),
    ],
)
def test_phrases(text, phrases):
    assert pieces(text, phrase_spans(text, LEXICON)) == phrases


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"findings": []}, "at least one"),
        ({"findings": "effusion"}, "list of terms"),
        ({"findings": ["Effusion"]}, "'Effusion' is no term in lower case"),
        ({"findings": ["effusion"], "places": ["."]}, "'.' is no term"),
    ],
)
def test_a_lexicon_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        Lexicon(**arguments)
