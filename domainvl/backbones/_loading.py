"""Finding a checkpoint's folder, saying what to do when it is not there, and telling weights apart."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

BUILTIN = "builtin:tiny"
_SHIPPED = {BUILTIN: ("tiny", "pretrain_tiny.py"), "builtin:tiny-llm": ("tiny_llm", "pretrain_tiny_llm.py")}
"""Folders beside this file, and the scripts in examples/ that made them."""
_HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
_SAMPLE = 64
_ARTICLES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)

Place = str | dict[str, str]
"""A Hub id or a built-in name; of what lies in a folder of this machine its name alone, `{"folder": NAME}`."""


@dataclass(frozen=True)
class Source:
    """A checkpoint on this machine.

    Attributes:
        folder: Where its files are.
        name: Hub id, folder name, `builtin:tiny` or `builtin:tiny-llm`; never an absolute path.
        revision: Commit, if it came from the Hub.
    """

    folder: Path
    name: str
    revision: str | None

    @property
    def place(self) -> Place:
        """Where another machine finds it."""
        return self.name if self.revision is not None or self.name in _SHIPPED else {"folder": self.name}


def locate(
    owner: str, name: str, revision: str | None, patterns: Sequence[str], instead: str = f"name: {BUILTIN}"
) -> Source:
    """The folder of a checkpoint, downloaded if need be.

    Args:
        owner: Class named in errors.
        name: Local folder, Hub id, `builtin:tiny` or `builtin:tiny-llm`.
        revision: Branch, tag or commit on the Hub.
        patterns: Files to download.
        instead: What needs no download, for the message where none is possible.
    """
    if name in _SHIPPED:
        return _builtin(owner, name, revision)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ValueError(
                f"{owner}: {name!r} is a local folder, so revision={revision!r} means nothing; leave it out"
            )
        return Source(folder, folder.resolve().name, None)
    if folder.exists() or not _HUB_ID.match(name):
        raise ValueError(
            f"{owner}: {name!r} is neither a folder nor a Hub id; give 'owner/model', a folder with the "
            f"checkpoint's files, or one of {', '.join(map(repr, _SHIPPED))}"
        )
    return _download(owner, name, revision, patterns, instead)


def _builtin(owner: str, name: str, revision: str | None) -> Source:
    if revision is not None:
        raise ValueError(f"{owner}: {name!r} ships with this package and has no revision; leave it out")
    place, script = _SHIPPED[name]
    folder = Path(__file__).parent / place
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{owner}: this installation lacks the weights of {name!r}; install domainvl from its wheel "
            f"or clone, or make them with examples/{script}"
        )
    return Source(folder, name, None)


def _download(owner: str, name: str, revision: str | None, patterns: Sequence[str], instead: str) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except HFValidationError as error:
        raise ValueError(f"{owner}: {name!r} is neither a folder nor a Hub id ({error})") from None
    except RevisionNotFoundError:
        raise ValueError(f"{owner}: {name!r} has no revision {revision!r} on the Hub") from None
    except RepositoryNotFoundError:
        raise ValueError(
            f"{owner}: the Hub knows no {name!r}, or it is private or gated: check the spelling, ask for "
            "access on its page, then `hf auth login`"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError):
        at = "" if revision is None else f" --revision {revision}"
        raise RuntimeError(
            f"{owner}: {name!r} is not on this machine and the Hub cannot be reached (no network, or "
            f"HF_HUB_OFFLINE is set).\nOn a machine with network: hf download {name}{at} --local-dir "
            f"{name.split('/')[-1]}\nthen copy that folder here and give its path as `name`. Without any "
            f"download: {instead}"
        ) from None
    # A snapshot lies in a folder named after its commit.
    return Source(folder, name, folder.name)


def require_files(owner: str, source: Source, *choices: str) -> Path:
    """The first of `choices` that the folder holds."""
    for choice in choices:
        if (source.folder / choice).is_file():
            return source.folder / choice
    there = sorted(path.name for path in source.folder.iterdir())[:12]
    pickled = [name for name in there if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    hint = ""
    if pickled and any(choice.endswith(".safetensors") for choice in choices):
        hint = (
            f"; pickled weights ({pickled[0]}) are not loaded, convert them once on a machine that trusts "
            "them (model.save_pretrained) or give a revision that has safetensors, e.g. refs/pr/1"
        )
    raise ValueError(f"{owner}: {source.name!r} has no {' or '.join(choices)}; it has {there}{hint}")


def copy_articles(sources: Sequence[Source], folder: Path) -> None:
    """Copy what a checkpoint needs beside its weights; of files that several have, the first counts.

    Files of other names stay where they are: a folder on somebody's disk may hold anything.
    """
    for source in sources:
        for name in _ARTICLES:
            if (source.folder / name).is_file() and not (folder / name).exists():
                shutil.copyfile(source.folder / name, folder / name)


def read_json(owner: str, path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{owner}: {path.name} is no valid JSON ({error}); download the checkpoint again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{owner}: {path.name} holds {type(values).__name__}, expected an object")
    return values


def weights_digest(model: nn.Module) -> str:
    """Twelve hex digits that tell two sets of weights apart.

    Hashes every name, shape and dtype, and the bytes of at most 64 evenly spaced values of each tensor:
    milliseconds instead of seconds for a large model. Any training step moves every value, so it is seen;
    a change of single values between the sampled ones is not, this is a name tag and no seal.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        flat = tensor.detach().reshape(-1)
        if flat.numel() > _SAMPLE:
            flat = flat[torch.linspace(0, flat.numel() - 1, _SAMPLE, dtype=torch.float64).long().to(flat.device)]
        digest.update(flat.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
