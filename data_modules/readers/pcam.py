"""PatchCamelyon, as its authors ship it: one HDF5 file of pictures and one of labels per split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_modules.readers.layout import Layout, present
from data_modules.readers.pages import column, stacked
from data_modules.readers.table import Table
from domainvl.data.manifest import Manifest, Record, Split

_CLASSES = ("lymph node tissue", "lymph node tissue with metastasis")
_SPLITS: tuple[tuple[str, Split], ...] = (("train", "train"), ("valid", "validate"), ("test", "test"))
_STEM = "camelyonpatch_level_2_split_{}"


@dataclass(frozen=True)
class PatchCamelyon(Layout):
    """`camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5`, unpacked; slides from `..._meta.csv` where there.

    The label is that of the middle 32 x 32 pixels. A slide counts as a patient.
    """

    def read(self, root: Path) -> Manifest:
        """Every picture of every stack as a record."""
        records: list[Record] = []
        known = True
        for name, split in _SPLITS:
            stem = _STEM.format(name)
            pictures, answers, about = (root / f"{stem}_{end}" for end in ("x.h5", "y.h5", "meta.csv"))
            for path in (pictures, answers):
                if not path.is_file():
                    packed = " It is there packed: unpack it with gunzip." if Path(f"{path}.gz").is_file() else ""
                    raise FileNotFoundError(f"PatchCamelyon: {path.name} is missing in {root}.{packed}")
            count = stacked(pictures, "x")[0]
            labels = column(answers, "y").reshape(-1)
            slides = [cells[0] for _, cells in Table(about).rows("wsi")] if about.is_file() else []
            known = known and bool(slides)
            if len(labels) != count or (slides and len(slides) != count):
                raise ValueError(
                    f"PatchCamelyon: {pictures.name} holds {count} pictures, {answers.name} {len(labels)} labels"
                    + (f", {about.name} {len(slides)} rows" if slides else "")
                    + "; download them again"
                )
            for number, label in enumerate(labels.tolist()):
                key = f"{pictures.name}#{number}"
                slide = slides[number] if slides else key
                answer = present(_CLASSES, [_CLASSES[int(label)]])
                records.append(Record(key, pictures.name, slide, answer, split, part=(number,)))
        return Manifest(
            name="PatchCamelyon",
            root=root,
            records=tuple(records),
            classes=_CLASSES,
            multilabel=False,
            licence="CC0",
            warnings=()
            if known
            else ("without the _meta.csv files every patch counts as a slide of its own, so intervals are too narrow",),
        )
