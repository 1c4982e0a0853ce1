"""Counts the bytes of tensors that are alive at once, as the allocator sees them: temporaries inside operators too."""

from torch.profiler import ProfilerActivity, profile


def peak_bytes(work):
    """Most bytes that `work` held at once beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
