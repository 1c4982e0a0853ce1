"""From tokens back to words: where in its text a token comes from, and which word and sentence that is."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from functools import cache
from typing import Any

import numpy as np
import torch

from domainvl.data.texts.spans import Span, sentence_spans, word_spans
from domainvl.features import TextInputs

Places = list[Span | None]
"""For every token of a text the characters that it was made from; None for special tokens and padding."""


_SPACES = re.compile(r"\s+")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def with_structure(inputs: TextInputs, texts: Sequence[str], places: Sequence[Places]) -> TextInputs:
    """Add `words` and `sentences`, see `TextInputs`."""
    words, sentences = np.full((2, *inputs.ids.shape), -1)
    for row, (text, tokens) in enumerate(zip(texts, places, strict=True)):
        columns = [column for column, span in enumerate(tokens[: inputs.ids.shape[1]]) if span is not None]
        starts, ends = (
            np.array([span for span in tokens[: inputs.ids.shape[1]] if span is not None], int).reshape(-1, 2).T
        )
        word_at = np.full(len(text) + 1, -1)
        for number, (start, end) in enumerate(word_spans(text)):
            word_at[start:end] = number
        visible = np.ones(len(text) + 1, dtype=bool)
        for space in _SPACES.finditer(text):
            visible[space.start() : space.end()] = False
        # A token may begin with the space or the bracket in front of its word.
        first = _next(word_at >= 0)[starts]
        words[row, columns] = np.where(first < ends, word_at[np.minimum(first, len(text))], -1)
        seen = _next(visible)[starts]
        stops = np.array([end for _, end in sentence_spans(text)], dtype=int)
        # What stands in no sentence, the number of an item in a list, goes to the next one.
        passed = np.searchsorted(stops, np.where(seen < ends, seen, starts), side="right")
        sentences[row, columns] = np.minimum(passed, max(len(stops) - 1, 0))
    return replace(inputs, words=torch.from_numpy(words), sentences=torch.from_numpy(sentences))


def _next(there: np.ndarray) -> np.ndarray:
    """For every place the next one, or itself, where something is there; behind the last the length."""
    places = np.where(there, np.arange(len(there)), len(there))
    return np.minimum.accumulate(places[::-1])[::-1]


def through(places: Places, read: str, text: str) -> Places:
    """Places in what a tokenizer read as places in the text before it was cleaned."""
    # Lower case has as many characters, or more.
    if read == text or (len(read) == len(text) and read == text.lower()):
        return places
    at = aligned(read, text)
    moved: Places = []
    end = 0
    for span in places:
        if span is None:
            moved.append(None)
            continue
        found = [at[place] for place in range(*span) if at[place] >= 0]
        # A token of spaces alone lies behind the one in front of it.
        moved.append((min(found), max(found) + 1) if found else (end, end))
        end = max(found) + 1 if found else end
    return moved


def of_surface(tokenizer: Any, ids: Sequence[int], text: str) -> Places:
    """Places of the tokens of a transformers tokenizer that reports no offsets: their spelling, found in the text."""
    special = set(tokenizer.all_special_ids)
    unknown = tokenizer.unk_token_id
    spelled, owners = [], []
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    for column, (number, token) in enumerate(zip(ids, tokens, strict=True)):
        if number in special:
            continue
        surface = _BYTE.sub("", token).replace("\u2581", "").replace("</w>", "").removeprefix("##")
        spelled.append(surface)
        owners.extend([column] * len(surface))
    at = aligned("".join(spelled), text)
    found: dict[int, list[int]] = {}
    for owner, place in zip(owners, at, strict=True):
        if place >= 0:
            found.setdefault(owner, []).append(place)
    places: Places = []
    end = 0
    for column, (number, token) in enumerate(zip(ids, tokens, strict=True)):
        if column in found:
            places.append((min(found[column]), max(found[column]) + 1))
            end = max(found[column]) + 1
        elif number == unknown or _BYTE.match(token):
            # Unknown pieces and single bytes have no spelling; one stands for what follows the piece in front of it.
            end += len(text[end:]) - len(text[end:].lstrip())
            places.append((end, min(end + 1, len(text))))
        else:
            places.append(None if number in special else (end, end))
    return places


def of_byte_pairs(tokenizer: Any, text: str) -> Places:
    """Places of all tokens of open_clip's `SimpleTokenizer`, without the two around them."""
    read = tokenizer.clean_fn(text)
    places: Places = []
    for found in tokenizer.pat.finditer(read):
        start, part = found.start(), found.group()
        # One sign of a piece is one byte, and a character may have several.
        char_of: Sequence[int] = range(start, found.end())
        if not part.isascii():
            char_of = [start + index for index, char in enumerate(part) for _ in char.encode()]
        encoded = "".join(tokenizer.byte_encoder[byte] for byte in part.encode())
        at = 0
        for piece in tokenizer.bpe(encoded).split(" "):
            size = len(piece.removesuffix("</w>"))
            places.append((char_of[at], char_of[at + size - 1] + 1))
            at += size
    return through(places, read, text)


def aligned(read: str, text: str) -> list[int]:
    """For every character of `read` where it stands in `text`; -1 for spaces and what cannot be found.

    `read` is `text` after cleaning: lower case, other spaces, no punctuation, other signs for some. Where only spaces,
    case and punctuation differ the answer is exact.
    """
    found = _skipping(read, text)
    if found is not None:
        return found
    pieces, parts = _chunks(read), _chunks(text)
    if len(pieces) == len(parts):
        at = [-1] * len(read)
        for (start, end), (begin, stop) in zip(pieces, parts, strict=True):
            piece, part = read[start:end], text[begin:stop]
            inner = _skipping(piece, part) or _matched(piece, part)
            at[start:end] = [-1 if place < 0 else begin + place for place in inner]
        return at
    return _matched(read, text)


def _skipping(read: str, text: str) -> list[int] | None:
    """As `aligned`, if `read` is `text` without some spaces and punctuation; None if it is not."""
    at, signs = [-1] * len(read), _signs(text)
    place = 0
    for sign, owner in _signs(read):
        while place < len(signs) and signs[place][0] != sign:
            if signs[place][0].isalnum():
                return None
            place += 1
        if place == len(signs):
            return None
        at[owner] = signs[place][1] if at[owner] < 0 else at[owner]
        place += 1
    return at


def _matched(read: str, text: str) -> list[int]:
    """As `aligned`, by the longest common parts; what was replaced lies in proportion between them."""
    at, signs, others = [-1] * len(read), _signs(read), _signs(text)
    match = SequenceMatcher(None, [sign for sign, _ in signs], [sign for sign, _ in others], False)
    for kind, start, end, begin, stop in match.get_opcodes():
        if kind in ("equal", "replace"):
            for index in range(start, end):
                owner, place = signs[index][1], begin + (index - start) * (stop - begin) // (end - start)
                at[owner] = others[place][1] if at[owner] < 0 else at[owner]
    return at


def _signs(text: str) -> list[tuple[str, int]]:
    """Letters and marks as they compare, without case, accents and spaces, each with the place it comes from."""
    return [(sign, place) for place, char in enumerate(text) for sign in _folded(char)]


@cache
def _folded(char: str) -> str:
    plain = unicodedata.normalize("NFKD", char.lower())
    return "".join(sign for sign in plain if not sign.isspace() and not unicodedata.combining(sign))


def _chunks(text: str) -> list[Span]:
    """What lies between spaces."""
    found, at = [], 0
    for chunk in text.split():
        at = text.index(chunk, at)
        found.append((at, at + len(chunk)))
        at += len(chunk)
    return found
