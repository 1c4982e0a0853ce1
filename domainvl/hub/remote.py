"""Adapters that travel: found in a folder, a run or on the Hub, and pushed there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from domainvl.backbones._loading import locate
from domainvl.hub.card import CARD, AdapterCard, read_adapter_card
from domainvl.hub.folder import FILES
from domainvl.hub.readme import hub_id

_BUILTIN = "builtin:"
_SENT = (*FILES, "model.onnx", "merged/*.json", "merged/*.txt", "merged/*.model", "merged/*.safetensors")
_CUT = "{name!r} was not reached to the end ({why}); run the same command again, files that arrived are not sent twice"


def located(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The adapter folder that is meant, downloaded if need be: only the files of an adapter are.

    Args:
        source: Adapter folder, run folder, or `USER/NAME` on the Hub.
        revision: Branch, tag or commit on the Hub.
    """
    folder = Path(source).expanduser()
    inner = folder / "adapter"
    if not (folder / CARD).exists() and inner.is_dir():
        return inner
    if isinstance(source, os.PathLike) or folder.is_dir():
        return folder
    return locate("domainvl.load", source, revision, FILES, instead="the folder of a run, runs/cxr/1").folder


def base_licence(card: AdapterCard) -> str | None:
    """The licence of the model below, as the Hub has it; None where that cannot be known from here."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    base = hub_id(card.backbone)
    if base is None:
        return "apache-2.0" if card.backbone.name.startswith(_BUILTIN) else None
    try:
        data = HfApi().model_info(base, revision=card.backbone.revision).card_data
    except (_network_error(), OfflineModeIsEnabled):
        return None
    return None if data is None else data.license


def push(folder: Path, name: str, private: bool = True) -> str:
    """Put an adapter folder on the Hub; one commit, so that the repository has the old state or the new one.

    A push that was cut goes on when it is called again: large files that arrived are not sent twice. A repository that
    holds something else is never written to.

    Args:
        folder: What `save_adapter` wrote, with more files beside, if there are any.
        name: `USER/NAME`.
        private: Whether a new repository is visible to its owner alone; one that is there stays as it is.

    Returns:
        The address of the commit.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    read_adapter_card(folder)
    if get_token() is None:
        raise ValueError(
            "push: there is no token of the Hugging Face Hub on this machine; `hf auth login`, or set HF_TOKEN"
        )
    api = HfApi()
    try:
        _claim(api, name, private)
        sent = api.upload_folder(
            repo_id=name, folder_path=folder, commit_message="Add a domainvl adapter", allow_patterns=list(_SENT)
        )
    except HFValidationError as error:
        raise ValueError(f"push: {name!r} is no name for a repository, USER/NAME is ({error})") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ValueError(
                f"push: the Hub does not let this token write to {name!r} ({status}); take a token with write access "
                f"of {name.partition('/')[0]}"
            ) from None
        raise RuntimeError(f"push: {_CUT.format(name=name, why=f'the Hub answered {status}')}") from None
    except OfflineModeIsEnabled:
        raise RuntimeError("push: HF_HUB_OFFLINE is set; unset it to reach the Hub") from None
    except (_network_error(), RuntimeError) as error:
        raise RuntimeError(f"push: {_CUT.format(name=name, why=type(error).__name__)}") from None
    return str(sent.commit_url)


def _claim(api: Any, name: str, private: bool) -> None:
    """Make the repository, or find that it is one of adapters, or empty after a push that was cut."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        there = set(api.list_repo_files(name))
    except RepositoryNotFoundError:
        # The same push from another machine may have made it in between.
        api.create_repo(name, private=private, exist_ok=True)
        return
    if there - {".gitattributes"} and CARD not in there:
        raise ValueError(
            f"push: the name {name!r} is taken by a repository that is no domainvl adapter (it has no {CARD}); "
            "choose another"
        )


def _network_error() -> type[Exception]:
    """What the client raises where no answer came; which HTTP library it stands on differs between its versions."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
