"""Train a small adapter, load it and ask it: about files, arrays, and the distance between images and texts.

python examples/use_an_adapter.py
"""

from __future__ import annotations

import argparse
import contextlib
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import domainvl
from domainvl.samples import cached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--shots", type=int, default=4, help="training patients per finding")
    arguments = parser.parse_args()

    recipe = Path(__file__).parents[1] / "recipes" / "cxr-probe.yaml"
    with TemporaryDirectory() as folder:
        settings = {"data": {"shots": arguments.shots}, "trainer": {"max_epochs": arguments.epochs}}
        with contextlib.redirect_stdout(io.StringIO()):
            run = domainvl.fit(recipe, run_dir=f"{folder}/run", **settings)
        model = domainvl.load(run)

    files = sorted(cached("cxr").rglob("*.jpg"))[:5]
    for file, row in zip(files, model.predict(files), strict=True):
        best = int(row.argmax())
        print(f"{file.name}: {model.classes[best]} ({row[best]:.0%})")

    noise = np.random.default_rng(0).integers(256, size=(64, 64), dtype=np.uint8)
    images, texts = model.embed_image([files[0], noise]), model.embed_text(model.classes)
    print("cosines with class names:", np.round(images @ texts.T, 2).tolist())


if __name__ == "__main__":
    main()
