"""Tokenizers of transformers: loading them from a folder and running them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from domainvl.backbones._loading import Source, require_files
from domainvl.backbones._structure import Places, of_surface, through
from domainvl.features import TextInputs

_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")


def encode(owner: str, tokenizer: Any, texts: Sequence[str], context: int, *, fixed: bool) -> TextInputs:
    """Run a transformers tokenizer.

    Args:
        owner: Class named in errors.
        tokenizer: The tokenizer.
        texts: At least one.
        context: Most ids that the model takes.
        fixed: Pad to `context` and give no mask, for models that read their padding.
    """
    check_texts(owner, texts)
    out = tokenizer(
        [_read(tokenizer, text) for text in texts],
        # Behind the text, where padding moves no position; a fixed length is padded as the checkpoint says.
        padding_side=tokenizer.padding_side if fixed else "right",
        padding="max_length" if fixed else "longest",
        truncation=True,
        max_length=context,
        return_attention_mask=not fixed,
        return_tensors="pt",
    )
    if fixed:
        return TextInputs(out["input_ids"])
    keep = out["attention_mask"].bool()
    return TextInputs(out["input_ids"], None if bool(keep.all()) else keep)


def check_texts(owner: str, texts: Sequence[str]) -> None:
    """Raise for what is no list of texts."""
    if isinstance(texts, str):
        raise TypeError(f"{owner}.tokenize: give a list of texts, not one string")
    if not texts:
        raise ValueError(f"{owner}.tokenize: no text given")


def places_of(tokenizer: Any, texts: Sequence[str], ids: Tensor, *, fixed: bool) -> list[Places]:
    """Where in its text every token of `encode` comes from; `ids` `[N, L]` are what it gave."""
    reads = [_read(tokenizer, text) for text in texts]
    if not tokenizer.is_fast:
        return [
            through(of_surface(tokenizer, row, read), read, text)
            for row, read, text in zip(ids.tolist(), reads, texts, strict=True)
        ]
    out = tokenizer(
        reads,
        padding_side=tokenizer.padding_side if fixed else "right",
        padding="max_length",
        truncation=True,
        max_length=ids.shape[1],
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    return [
        through([None if special else tuple(span) for special, span in zip(*row, strict=True)], read, text)
        for *row, read, text in zip(out["special_tokens_mask"], out["offset_mapping"], reads, texts, strict=True)
    ]


def _read(tokenizer: Any, text: str) -> str:
    # GemmaTokenizer, which SigLIP 2 uses, knows of this setting and does not act on it.
    return text.lower() if tokenizer.init_kwargs.get("do_lower_case") else text


def load_tokenizer(owner: str, source: Source) -> Any:
    """The tokenizer in a checkpoint's folder."""
    from transformers import AutoTokenizer

    # Without these transformers makes up an empty tokenizer, and every word becomes "unknown".
    require_files(owner, source, *_VOCABULARIES)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    except ImportError as error:
        raise RuntimeError(
            f"{owner}: the tokenizer of {source.name!r} needs one more package; pip install sentencepiece protobuf "
            f"({str(error).strip().splitlines()[0][:80]})"
        ) from None
    except (OSError, TypeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{owner}: {source.name!r} has no tokenizer that can be loaded ({reason}); its folder needs "
            "tokenizer.json and tokenizer_config.json"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_bert_tokenizer(owner: str, source: Source) -> Any:
    """A BERT's tokenizer, lower case, also where the folder names a class of its own (CXR-BERT)."""
    from transformers import BertTokenizer

    require_files(owner, source, "vocab.txt", "tokenizer.json")
    try:
        return BertTokenizer.from_pretrained(source.folder, local_files_only=True, do_lower_case=True)
    except (OSError, TypeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{owner}: {source.name!r} has no BERT tokenizer that can be loaded ({reason})") from error
