"""How the command line says no: what is wrong, what was probably meant, where to look."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CommandError(ValueError):
    """A command that cannot run, in at most three lines.

    Args:
        what: What is wrong: the key, the value, what is accepted.
        meant: Near matches of the wrong word.
        todo: What to do, where there is something better than a near match.
        see: The command that tells more.
        status: Exit status; 2 for a wrong command line or recipe, 1 for a run that failed.
    """

    def __init__(self, what: str, *, meant: Iterable[str] = (), todo: str = "", see: str = "", status: int = 2) -> None:
        super().__init__(what)
        self.what = what
        self.meant = list(meant)
        self.todo = todo
        self.see = see
        self.status = status

    def text(self) -> str:
        """The lines for the terminal."""
        lines = [f"error: {self.what}"]
        if self.meant:
            lines.append(f"did you mean: {' or '.join(self.meant)}?")
        if self.todo:
            lines.append(f"to do: {self.todo}")
        if self.see:
            lines.append(f"see: {self.see}")
        return "\n".join(lines)


def near(word: str, known: Iterable[str]) -> list[str]:
    """Up to three known words that look like this one, whatever their case."""
    folded: dict[str, str] = {name.casefold(): name for name in known}
    found = difflib.get_close_matches(word.casefold(), folded, n=3, cutoff=0.6)
    return [folded[name] for name in found]
