"""Tokens find back to their words: for every kind of tokenizer the pieces of a word spell it."""

from __future__ import annotations

import unicodedata

import open_clip
import pytest
import torch
from checkpoint_toys import BUILDERS
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, SiglipTokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from domainvl.backbones._structure import aligned, of_byte_pairs, of_surface, with_structure
from domainvl.backbones._texts import encode, places_of
from domainvl.backbones.openclip import _places
from domainvl.data.texts.spans import sentence_spans, word_spans
from domainvl.features import TextInputs

TEXTS = [
    "Small right-sided effusion (1.5 cm). No Pneumothorax; heart\nsize NORMAL.",
    "1. X-ray of Übergröße: cafe\u0301-like naïve lung\u2019s base.\n\n2. The   patient's\tport, 12/2 unchanged.",
    "Clear",
    "effusion " * 40 + "Late.",
]
CONTEXT = 48
CORPUS = [text.lower() for text in TEXTS] + TEXTS + ["normal heart and lungs, no effusion or pneumothorax 0123456789"]


def _trained(model, normalizer, splitter, trainer, decoder) -> PreTrainedTokenizerFast:
    core = Tokenizer(model)
    core.normalizer, core.pre_tokenizer, core.decoder = normalizer, splitter, decoder
    core.train_from_iterator(CORPUS, trainer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, core.token_to_id(name)) for name in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


def word_piece() -> PreTrainedTokenizerFast:
    return _trained(
        models.WordPiece(unk_token="<unk>"),
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
        trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL, show_progress=False),
        decoders.WordPiece(),
    )


def byte_pairs(**options: bool) -> PreTrainedTokenizerFast:
    """As Llama and Qwen: a sign in front of letters goes with them."""
    split = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"
    steps = [
        pre_tokenizers.Split(Regex(split), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, **options),
    ]
    return _trained(
        models.BPE(),
        None,
        pre_tokenizers.Sequence(steps),
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
        decoders.ByteLevel(),
    )


def unigram() -> PreTrainedTokenizerFast:
    return _trained(
        models.Unigram(),
        normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
        pre_tokenizers.Metaspace(),
        trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False),
        decoders.Metaspace(),
    )


def lower_cased() -> PreTrainedTokenizerFast:
    """SigLIP 2: the text is made lower case in front of the tokenizer."""
    tokenizer = byte_pairs()
    tokenizer.init_kwargs["do_lower_case"] = True
    return tokenizer


FAST = {
    "word piece": word_piece,
    "byte pairs": byte_pairs,
    "byte pairs with spaces": lambda: byte_pairs(trim_offsets=False),
    "unigram": unigram,
    "lower case first": lower_cased,
}


def spelled(text: str, places: list, words: torch.Tensor) -> dict[int, str]:
    """What the characters of all tokens of a word spell, without those that lie outside it."""
    spans = word_spans(text)
    seen: dict[int, set[int]] = {}
    for span, word in zip(places, words.tolist(), strict=False):
        if word >= 0:
            seen.setdefault(word, set()).update(range(*span))
    return {
        word: "".join(text[place] for place in sorted(found) if spans[word][0] <= place < spans[word][1])
        for word, found in seen.items()
    }


def bare(text: str) -> str:
    """Without accents, which tokenizers compose, decompose or take away."""
    return "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))


def check(text: str, places: list, inputs, row: int, *, cut: bool) -> None:
    words, sentences = inputs.words[row], inputs.sentences[row]
    expected = [text[start:end] for start, end in word_spans(text)]
    found = spelled(text, places, words)
    assert sorted(found) == list(range(len(found))), "no word is skipped"
    whole = len(found) - 1 if cut else len(expected)
    # The last word of a text that is cut may be cut itself.
    assert [bare(found[word]) for word in range(whole)] == [bare(word) for word in expected[:whole]]
    assert (words[words >= 0].diff() >= 0).all()
    inside = torch.tensor([span is not None for span in places])
    assert torch.equal(sentences >= 0, inside[: len(sentences)])
    ends = [end for _, end in sentence_spans(text)]
    for word, sentence in zip(words.tolist(), sentences.tolist(), strict=True):
        if word >= 0:
            assert sentence == sum(end <= word_spans(text)[word][0] for end in ends)


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize("fixed", [False, True])
def test_fast_tokenizers(kind, fixed):
    tokenizer = FAST[kind]()
    plain = encode("Test", tokenizer, TEXTS, CONTEXT, fixed=fixed)
    places = places_of(tokenizer, TEXTS, plain.ids, fixed=fixed)
    inputs = with_structure(plain, TEXTS, places)
    for row, text in enumerate(TEXTS):
        assert len(places[row]) == plain.ids.shape[1]
        long = encode("Test", tokenizer, [text], 10_000, fixed=False).ids.shape[1] > CONTEXT
        check(text, places[row], inputs, row, cut=long)
        assert not inputs.words[row][torch.isin(plain.ids[row], torch.tensor([0, 1, 2]))].max() >= 0


def test_slow_word_pieces(tmp_path):
    """The same places as the fast tokenizer of the same vocabulary reports."""
    fast = word_piece()
    vocabulary = fast.get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)))
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    slow = BertTokenizerLegacy(str(tmp_path / "vocab.txt"), **names)
    assert not slow.is_fast
    inputs = [encode("Test", tokenizer, TEXTS, CONTEXT, fixed=False) for tokenizer in (slow, fast)]
    assert torch.equal(inputs[0].ids, inputs[1].ids)
    found = [
        with_structure(plain, TEXTS, places_of(tokenizer, TEXTS, plain.ids, fixed=False))
        for tokenizer, plain in zip((slow, fast), inputs, strict=True)
    ]
    assert torch.equal(found[0].words, found[1].words)
    assert torch.equal(found[0].sentences, found[1].sentences)


def siglip_slow(folder, **options):
    sentencepiece = pytest.importorskip("sentencepiece")
    (folder / "corpus.txt").write_text("\n".join(line for text in CORPUS for line in text.split("\n")))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "spiece"),
        vocab_size=110,
        hard_vocab_limit=False,
        minloglevel=2,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        **options,
    )
    return SiglipTokenizer(str(folder / "spiece.model"))


def test_slow_sentencepiece(tmp_path):
    """SigLIP's own tokenizer: SentencePiece behind a cleaning that takes punctuation away."""
    tokenizer = siglip_slow(tmp_path)
    assert not tokenizer.is_fast
    plain = encode("Test", tokenizer, TEXTS, CONTEXT, fixed=True)
    places = places_of(tokenizer, TEXTS, plain.ids, fixed=True)
    inputs = with_structure(plain, TEXTS, places)
    for row, text in enumerate(TEXTS):
        tokens = tokenizer.convert_ids_to_tokens(plain.ids[row].tolist())
        found: dict[int, str] = {}
        for token, word in zip(tokens, inputs.words[row].tolist(), strict=True):
            if word >= 0:
                found[word] = found.get(word, "") + token.replace("▁", "")
        expected = ["".join(c for c in text[s:e].lower() if c.isalnum()) for s, e in word_spans(text)]
        cut = tokens[-2] not in ("</s>", "<pad>")
        whole = len(found) - 1 if cut else len(expected)
        if row != 1:
            assert [found[word] for word in range(whole)] == expected[:whole]
        # SentencePiece composes letters and marks, so spellings differ there; the words are still all there, in order.
        assert sorted(found) == list(range(len(found)))
        assert len(found) == len(expected) or cut
        assert torch.equal(inputs.sentences[row] < 0, plain.ids[row] <= 1)


def test_unknown_pieces_have_a_place(tmp_path):
    tokenizer = siglip_slow(tmp_path, character_coverage=0.98)
    text = "Small 肺炎 effusion."
    ids = encode("Test", tokenizer, [text], 24, fixed=True).ids[0].tolist()
    assert tokenizer.unk_token_id in ids
    places = of_surface(tokenizer, ids, text.lower())
    start, end = places[ids.index(tokenizer.unk_token_id)]
    assert (text[start:end], places[-1]) == ("肺", None)


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_open_clip_byte_pairs(clean):
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=CONTEXT, clean=clean)
    ids = tokenizer(TEXTS)
    for row, text in enumerate(TEXTS):
        places = _places(tokenizer, text, ids[row].tolist())
        assert len(places) == CONTEXT
        inputs = with_structure(TextInputs(ids[row : row + 1]), [text], [places])
        cut = len(tokenizer.encode(text)) > CONTEXT - 2
        # Taking punctuation away leaves no token for a hyphen, which still belongs to its word.
        if clean != "canonicalize":
            check(text, places, inputs, 0, cut=cut)
        found: dict[int, str] = {}
        for number, word in zip(ids[row].tolist(), inputs.words[0].tolist(), strict=True):
            if word >= 0:
                found[word] = found.get(word, "") + tokenizer.decode([number]).strip()
        assert len(found) == (len(word_spans(text)) if not cut else len(found))
        for word in list(found)[:-1]:
            start, end = word_spans(text)[word]
            if text[start:end].isascii():
                wanted = text[start:end].lower() if clean != "whitespace" else text[start:end]
                wanted = wanted if clean != "canonicalize" else "".join(c for c in wanted if c.isalnum())
                assert found[word] == wanted


def test_places_survive_repaired_text():
    """open_clip repairs broken unicode and entities; a word that is not touched keeps its exact place."""
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    text = "The patientâ€™s heart &amp; lungs"
    places = of_byte_pairs(tokenizer, text)
    ids = tokenizer.encode(text)
    assert len(places) == len(ids)
    seen = {tokenizer.decode([number]).strip(): text[slice(*place)] for number, place in zip(ids, places, strict=True)}
    assert (seen["the"], seen["heart"], seen["lungs"]) == ("The", "heart", "lungs")
    assert seen["patient"] == "patient"


def test_random_cuts_are_refused():
    tokenizer = open_clip.tokenizer.SimpleTokenizer(reduction_mask="simple")
    with pytest.raises(ValueError, match="drops tokens at random"):
        _places(tokenizer, "text", tokenizer(["text"])[0].tolist())


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        ("a bc", "A  b-C", [0, -1, 3, 5]),
        ("ab", "A.b.", [0, 2]),
        ('say "x"', "say “x”", [0, 1, 2, -1, 4, 5, 6]),
        ("", "abc", []),
        ("abc", "", [-1, -1, -1]),
        ("i\u0307x", "İX", [0, -1, 1]),
        ("café x", "cafe\u0301  X", [0, 1, 2, 3, -1, 7]),
    ],
)
def test_alignment(read, text, expected):
    assert aligned(read, text) == expected


@pytest.mark.parametrize("name", BUILDERS)
def test_every_backbone_knows_its_words(name, tmp_path):
    torch.manual_seed(0)
    backbone = BUILDERS[name](tmp_path).load()
    texts = ["A chest x-ray. No large effusion", "finding", "x-ray " * 30]
    inputs, plain = backbone.structured(texts), backbone.tokenize(texts)
    assert torch.equal(inputs.ids, plain.ids)
    expected = [list(range(6)), [0]]
    for row, words in enumerate(expected):
        found = inputs.words[row]
        assert found[found >= 0].unique().tolist() == words
    sentences = inputs.sentences[0][inputs.words[0] >= 0]
    assert (sentences.min(), sentences.max()) == (0, 1)
    assert inputs.sentences[2].max() == 0
    if plain.keep is not None:
        assert (inputs.sentences[~plain.keep] == -1).all()
    # What stands around a text belongs to none of its words.
    assert (inputs.sentences[1] >= 0).sum() == (inputs.words[1] >= 0).sum() < inputs.ids.shape[1]
    moved = inputs.to("cpu")
    assert torch.equal(moved.words, inputs.words)
    assert torch.equal(moved.sentences, inputs.sentences)
    assert plain.words is None
