"""Silences lines that tell a user of domainvl nothing, one by one; every other warning is shown."""

from __future__ import annotations

import logging
import re
import sys
import warnings

_LINES = (
    # Advertisements for Lightning AI's services.
    r"Tip: ",
    # Which accelerators the machine has; the line that starts a run says which one is used.
    r"(GPU|TPU|HPU|IPU) available: ",
    r"(LOCAL_RANK|.*CUDA_VISIBLE_DEVICES)",
    # Said by our own last lines.
    r"`Trainer\.fit` stopped: ",
    r"Restor(ing|ed) (states|all states|the checkpoint)",
    r"Loaded model weights from (the )?checkpoint",
    # Schedules ask for the number of steps.
    r"Loading `train_dataloader` to estimate number of stepping batches",
    # Said by `stopped by SIGTERM`.
    r"(\[rank: \d+\] )?Received SIGTERM",
)
_LOGGERS = (
    "lightning.pytorch.accelerators.cuda",
    "lightning.pytorch.trainer.connectors.signal_connector",
    "lightning.pytorch.utilities.rank_zero",
)

_WARNINGS = (
    # Images of a few-shot run lie in memory; more workers would make it slower.
    (r"The '\w+' does not have many workers", UserWarning),
    # The frozen backbone is in evaluation mode on purpose.
    (r"Found \d+ module\(s\) in eval mode at the start of training", UserWarning),
    # The sampler of our data modules is distributed already and evaluates no image twice.
    (r"Using `DistributedSampler` with the dataloaders", UserWarning),
    # Lightning's own use of torch's pytree functions.
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning),
    # Tasks seed before a batch moves, data modules augment after it has: two different hooks.
    (r"You have overridden `on_before_batch_transfer` in `LightningModule`", UserWarning),
    # `predict_step` keeps its rows itself.
    (r"predict returned None if it was on purpose", UserWarning),
    # Resuming at the end of an epoch is what our checkpoints are for.
    (r"You're resuming from a checkpoint that ended before the epoch ended", UserWarning),
)


class _Filter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage().lstrip("💡 \n")
        return not any(re.match(pattern, text) for pattern in _LINES)


def quieten() -> None:
    """Install the filters; a second call changes nothing."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(old, _Filter) for old in logger.filters):
            logger.addFilter(_Filter())
    for pattern, category in _WARNINGS:
        warnings.filterwarnings("ignore", pattern, category)
    if not sys.stderr.isatty():
        # In a log file every step of "Loading weights" is a line of its own.
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
