"""Where things lie that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Where this machine keeps what can be made again: `DOMAINVL_CACHE`, or `domainvl` in the user's cache."""
    if own := os.environ.get("DOMAINVL_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "domainvl"
    return Path.home() / ".cache" / "domainvl"
