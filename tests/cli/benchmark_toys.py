"""Small real data sets, recipes for them, and adapters that misbehave."""

import os
import signal

import numpy as np
from PIL import Image

from domainvl.adapters import LinearProbe

BASE = """
trainer: {{max_epochs: 1, accelerator: cpu}}
model:
  class_path: Classification
  init_args:
    backbone: {{class_path: HuggingFace, init_args: {{name: "builtin:tiny"}}}}
    adapter: {{class_path: CoOp, init_args: {{tokens: 2}}}}
    objectives:
      head: {{class_path: {loss}, init_args: {{logits: image.logits}}}}
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.001}}}}
data:
  class_path: ChestXrays
  init_args:
    root: {root}
    shots: 2
    split: {{fractions: [0.5, 0.2, 0.3]}}
    loading: {{batch_size: 8}}
"""
COLUMNS = """\
    table: studies.csv
    image_column: path
    patient_column: patient
    label_columns: [{names}]
"""
MMRL = """
base: {base}.yaml
model:
  init_args:
    adapter: {{class_path: MMRL, init_args: {{tokens: 2, width: 8}}}}
    objectives:
      head: {{init_args: {{logits: image@class.logits}}}}
      second: {{class_path: {loss}, init_args: {{logits: image@rep.logits}}}}
"""
PROBE = """
base: {base}.yaml
model: {{init_args: {{adapter: {{class_path: LinearProbe}}}}}}
"""
DEADLY = """
base: single.yaml
model: {init_args: {adapter: {class_path: benchmark_toys.Deadly}}}
"""
NAMES = ("edema", "effusion", "mass", "nodule", "pneumonia")


class Deadly(LinearProbe):
    """Dies as a process does that the kernel takes for its memory."""

    def attach(self, backbone):
        os.kill(os.getpid(), signal.SIGKILL)


def write(folder):
    """Two data sets below `folder` with a recipe each: `single` (one class per image) and `multi` (findings)."""
    draw = np.random.default_rng(0)
    for name in NAMES:
        (folder / "single" / name).mkdir(parents=True)
    (folder / "multi").mkdir()
    lines = ["path,patient," + ",".join(NAMES[:4])]
    for number in range(100):
        pixels = draw.integers(0, 255, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "single" / NAMES[number % 5] / f"{number}.png")
        Image.fromarray(pixels).save(folder / "multi" / f"{number}.png")
        flags = [int((number // 2**bit) % 2 == 0) for bit in range(4)]
        lines.append(f"{number}.png,p{number},{','.join(map(str, flags))}")
    (folder / "multi" / "studies.csv").write_text("\n".join(lines) + "\n")
    for base, loss in (("single", "ClassCrossEntropy"), ("multi", "BinaryCrossEntropy")):
        text = BASE.format(loss=loss, root=folder / base)
        if base == "multi":
            text += COLUMNS.format(names=", ".join(NAMES[:4]))
        (folder / f"{base}.yaml").write_text(text)
        (folder / f"{base}-mmrl.yaml").write_text(MMRL.format(base=base, loss=loss))
        (folder / f"{base}-probe.yaml").write_text(PROBE.format(base=base))
    (folder / "single-deadly.yaml").write_text(DEADLY)
