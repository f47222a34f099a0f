"""The device that is late on purpose."""

from __future__ import annotations

import pytest

from sparsespec.core.device import Device, Event
from sparsespec.engine.lazy import LazyDevice


def test_is_a_device() -> None:
    device = LazyDevice()
    assert isinstance(device, Device)
    assert isinstance(device.launch(int), Event)


def test_nothing_runs_before_it_is_waited_for() -> None:
    device, seen = LazyDevice(), list[int]()
    event = device.launch(lambda: seen.append(1))
    assert not device.poll(event)
    assert seen == []
    device.wait(event)
    assert device.poll(event)
    assert seen == [1]
    device.wait(event)
    assert seen == [1]


def test_a_stream_is_first_in_first_out_and_runs_no_further_than_needed() -> None:
    device, seen = LazyDevice(), list[int]()
    events = [device.launch(lambda i=i: seen.append(i)) for i in range(4)]
    device.wait(events[2])
    assert seen == [0, 1, 2]
    assert not device.poll(events[3])


def test_streams_do_not_wait_for_one_another_unless_told() -> None:
    device, seen = LazyDevice(), list[str]()
    device.launch(lambda: seen.append("main"))
    device.wait(device.launch(lambda: seen.append("side"), stream="side"))
    assert seen == ["side"]


def test_after_orders_a_launch_behind_the_other_stream() -> None:
    device, seen = LazyDevice(), list[str]()
    device.launch(lambda: seen.append("a"))
    b = device.launch(lambda: seen.append("b"))
    device.launch(lambda: seen.append("c"))
    copy = device.launch(lambda: seen.append("copy"), stream="side", after=[b])
    back = device.launch(lambda: seen.append("back"), after=[copy])
    device.wait(copy)
    assert seen == ["a", "b", "copy"]
    device.wait(back)
    assert seen == ["a", "b", "copy", "c", "back"]


def test_an_error_belongs_to_whoever_waits_and_the_stream_goes_on() -> None:
    device, seen = LazyDevice(), list[int]()
    wrong = device.launch(lambda: 1 // 0)
    right = device.launch(lambda: seen.append(1))
    device.wait(right)
    assert seen == [1]
    assert device.poll(wrong)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            device.wait(wrong)


def test_early_launches_run_at_once_by_seeded_chance_and_in_order() -> None:
    def run(early: float, seed: int) -> tuple[list[int], list[bool]]:
        device, seen = LazyDevice(early, seed), list[int]()
        done, event = [], None
        for i in range(40):
            event = device.launch(lambda i=i: seen.append(i))
            done.append(device.poll(event))
        assert event is not None
        device.wait(event)
        return seen, done

    seen, done = run(0.3, 1)
    assert seen == list(range(40))
    assert 4 <= sum(done) <= 24
    assert run(0.3, 1) == (seen, done) != run(0.3, 2)
    assert not any(run(0.0, 1)[1])
    assert all(run(1.0, 1)[1])


def test_an_event_of_another_device_is_a_bug() -> None:
    class Foreign:
        stream = "main"

    with pytest.raises(AssertionError, match="another device"):
        LazyDevice().wait(Foreign())  # pyright: ignore[reportArgumentType]
    with pytest.raises(AssertionError, match="another device"):
        LazyDevice().poll(Foreign())  # pyright: ignore[reportArgumentType]


def test_a_finished_launch_lets_go_of_what_it_held() -> None:
    device = LazyDevice()
    event = device.launch(lambda: None)
    device.wait(event)
    assert event.fn is None
