"""A layout of volumes: also what their headers should say where the files do not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data_modules.readers.layout import Layout
from data_modules.readers.voxels import Header


class VolumeLayout(Layout):
    """Base of layouts whose files may need a header from elsewhere."""

    def headers(self, root: Path) -> Mapping[str, Header]:
        """By record path; files that are not named here speak for themselves."""
        return {}
