"""The recipe that the tests of this folder change."""

TOY = """
seed_everything: 3
model:
  class_path: toy_cli.ToyTask
  init_args:
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 3e-2}}
    schedule: {class_path: StepLR, init_args: {step_size: 1, gamma: 0.5}}
    part: {class_path: Small, init_args: {width: 2}}
    parts:
      one: {class_path: Small, init_args: {width: 3}}
data: {class_path: toy_cli.ToyData}
trainer: {max_epochs: 2, accelerator: cpu}
"""
