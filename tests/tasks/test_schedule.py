"""Learning-rate schedules."""

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from domainvl.tasks.schedule import TorchSchedule, WarmupCosine


def rates(schedule, lr, steps, epochs, count):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = schedule.build(optimizer, steps, epochs)
    seen = []
    for _ in range(count):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_per_epoch_it_is_dassls_schedule():
    # Recorded by running Dassl's scheduler for ten epochs with one warm-up epoch.
    dassl = [1e-5, 1e-3, 9.755e-4, 9.045e-4, 7.939e-4, 6.545e-4, 5e-4, 3.455e-4, 2.061e-4, 9.549e-5]
    assert rates(WarmupCosine(warmup=1), 1e-3, steps=500, epochs=10, count=10) == pytest.approx(dassl, rel=1e-3)


def test_per_step_it_spans_the_steps():
    seen = rates(WarmupCosine(warmup=0, interval="step", final=0.1), 1.0, steps=4, epochs=2, count=6)
    assert seen == pytest.approx([1.0, 0.8682, 0.55, 0.2318, 0.1, 0.1], abs=1e-4)


def test_any_scheduler_of_torch_that_follows_time():
    schedule = TorchSchedule(lambda optimizer: StepLR(optimizer, step_size=1, gamma=0.5))
    assert rates(schedule, 1.0, steps=3, epochs=3, count=3) == [1.0, 0.5, 0.25]
    with pytest.raises(TypeError, match="follows a metric"):
        rates(TorchSchedule(ReduceLROnPlateau), 1.0, 1, 1, 1)
