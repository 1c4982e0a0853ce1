"""A teacher is a running mean that shares everything else; a queue holds what was put in and nothing more."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from domainvl.tasks.queue import Queue
from domainvl.tasks.teacher import Teacher


def test_the_mean_is_the_closed_form():
    weight = nn.Parameter(torch.zeros(3))
    teacher = Teacher(decay=0.9)
    teacher.attach([weight])
    expected = torch.zeros(3)
    for step in range(1, 6):
        weight.data.fill_(float(step))
        expected = 0.9 * expected + 0.1 * step
        teacher.update(step)
        teacher.update(step)  # The second micro-batch of an accumulated step.
    torch.testing.assert_close(teacher.mean_0, expected)


def test_the_teacher_runs_with_the_mean_in_evaluation_mode_and_leaves_no_trace():
    layer = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.9))
    teacher = Teacher(decay=0.5)
    teacher.attach(layer.parameters())
    before = layer[0].weight.detach().clone()
    with torch.no_grad():
        layer[0].weight.mul_(3)
    x = torch.ones(4, 2)
    student = layer(x).sum()
    with teacher.active(layer):
        seen = layer(x)
        assert not layer.training
        assert not layer[1].training
        assert not seen.requires_grad
        torch.testing.assert_close(seen, x @ before.T + layer[0].bias)
    assert layer.training
    assert layer[1].training
    torch.testing.assert_close(layer[0].weight.detach(), 3 * before)
    # The student's graph, made before, still has its own weights.
    student.backward()
    assert layer[0].weight.grad is not None


def test_the_teacher_is_put_away_when_something_fails():
    layer = nn.Linear(2, 2)
    teacher = Teacher()
    teacher.attach(layer.parameters())
    own = layer.weight.data_ptr()
    with pytest.raises(KeyError), teacher.active(layer):
        raise KeyError
    assert layer.weight.data_ptr() == own
    assert layer.training


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_mean_that_never_or_always_moves_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        Teacher(decay)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8])
def test_rows_stay_together_through_wrap_around(batch):
    queue = Queue(5)
    queue.attach({"queue/image.pooled": torch.zeros(2, 3), "queue/group": torch.zeros(2, dtype=torch.long)})
    assert [len(rows) for rows in queue.rows().values()] == [0, 0]
    seen: list[int] = []
    for start in range(0, 4 * batch, batch):
        number = torch.arange(start, start + batch)
        seen += number.tolist()
        queue.push({"queue/image.pooled": number[:, None].expand(-1, 3).float(), "queue/group": number})
        rows = queue.rows()
        assert sorted(rows["queue/group"].tolist()) == seen[-5:]
        torch.testing.assert_close(rows["queue/image.pooled"][:, 0], rows["queue/group"].float())


def test_a_queue_survives_saving_half_full():
    queue, fresh = Queue(6), Queue(6)
    for one in (queue, fresh):
        one.attach({"queue/group": torch.zeros(1, dtype=torch.long)})
    queue.push({"queue/group": torch.arange(4)})
    fresh.load_state_dict(queue.state_dict())
    for one in (queue, fresh):
        one.push({"queue/group": torch.arange(4, 8)})
    assert queue.rows()["queue/group"].tolist() == fresh.rows()["queue/group"].tolist()
    assert sorted(fresh.rows()["queue/group"].tolist()) == [2, 3, 4, 5, 6, 7]


def test_a_queue_without_room_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Queue(0)
