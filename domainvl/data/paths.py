"""Paths that come out of a table are input: they stay inside the root or are refused."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath


def existing_root(root: str | Path, owner: str) -> Path:
    """The folder a data set lies in; an error that says what is there when it is missing."""
    folder = Path(root).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise NotADirectoryError(f"{owner}: root {folder} is a file; give the folder that holds the data set")
    parent = next(above for above in folder.absolute().parents if above.is_dir())
    there = sorted(entry.name for entry in parent.iterdir() if entry.is_dir())[:10]
    raise FileNotFoundError(
        f"{owner}: root {folder} does not exist; the folder {parent} does and holds {', '.join(there) or 'no folders'}"
    )


def inside(root: Path, path: str, place: str, what: str = "image") -> str:
    """`path` relative to the root with forward slashes; ValueError naming `place` when it leads outside.

    The error names the row and not the path, which may hold a patient's number.
    Links are not followed: a data set may be stitched together from links, but a table may not point elsewhere. `what`
    is what the path should lead to.
    """
    text = path.strip()
    if not text:
        raise ValueError(f"{place}: the {what} path is empty")
    # "C:/x" counts as relative on POSIX and would otherwise only fail on the other system.
    pure = PureWindowsPath(text) if "\\" in text or PureWindowsPath(text).drive else PurePosixPath(text)
    if pure.is_absolute() or pure.drive or pure.root:
        base = root.absolute().as_posix()
        plain = os.path.normpath(text)
        if not plain.startswith(base.rstrip("/") + "/"):
            raise ValueError(
                f"{place}: the {what} path is absolute and lies outside the root {root}; make it relative to the root"
            )
        return plain[len(base.rstrip("/")) + 1 :]
    depth = 0
    for part in pure.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise ValueError(
                f"{place}: the {what} path leads out of the root {root} with '..'; make it relative to the root"
            )
    return os.path.normpath(pure.as_posix())
