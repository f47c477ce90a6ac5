"""Whose turn it is: in the order they came, or the longest first and nobody forgotten."""

from __future__ import annotations

from collections.abc import Iterable

from worker.engine.generation import Generation, Prompt, Request, Sampling
from worker.engine.waiting import Queue, Waiting, num_steps


def waiting(name: str, max_tokens: int, *, num_prompt: int = 3, taken_over: tuple[int, ...] = ()) -> Waiting:
    prompt = Prompt(tuple(range(num_prompt)))
    request = Request(name, prompt, Sampling(seed=1), max_tokens, taken_over=taken_over)
    return Waiting(Generation(request), submitted=0.0)


def filled(queue: Queue, lengths: Iterable[int]) -> Queue:
    for number, length in enumerate(lengths):
        queue.add(waiting(f"{number}:{length}", length))
    return queue


def take(queue: Queue) -> str:
    first = queue.first()
    assert first is not None
    queue.take(first)
    return first.generation.request.id


def taken(queue: Queue) -> list[str]:
    return [take(queue) for _ in range(len(queue))]


def test_without_a_measure_they_go_in_the_order_they_came() -> None:
    assert taken(filled(Queue(), [5, 9, 1])) == ["0:5", "1:9", "2:1"]


def test_the_longest_goes_first_and_of_equals_the_one_that_came_first() -> None:
    assert taken(filled(Queue(64, patience=9), [5, 9, 1, 9])) == ["1:9", "3:9", "0:5", "2:1"]


def test_a_prompt_counts_as_the_steps_that_it_takes_and_what_was_told_already_does_not() -> None:
    assert num_steps(waiting("", 10, num_prompt=200).generation.request, 64) == 13
    assert num_steps(waiting("", 10, taken_over=(7, 8, 9)).generation.request, 64) == 7


def test_whoever_came_first_is_passed_by_no_more_than_it_has_patience_for() -> None:
    queue = filled(Queue(64, patience=2), [1, 2, 9, 9, 9, 9])
    assert taken(queue) == ["2:9", "3:9", "0:1", "4:9", "5:9", "1:2"]


def test_longer_ones_that_keep_coming_starve_nobody() -> None:
    queue = filled(Queue(64, patience=4), [1])
    for number in range(4):
        queue.add(waiting(f"late {number}", 100))
        assert take(queue) == f"late {number}"
    queue.add(waiting("too late", 100))
    assert take(queue) == "0:1"


def test_those_that_were_ended_are_taken_out_wherever_they_stand() -> None:
    queue = filled(Queue(64, patience=9), [5, 9, 1])
    entries = list(queue)
    entries[1].generation.cancel()
    entries[2].generation.interrupt()
    assert queue.take_all(lambda generation: generation.cut is not None) == entries[1:]
    first = queue.first()
    assert first is entries[0]
    assert taken(queue) == ["0:5"]
    assert queue.first() is None


def test_a_longer_one_that_comes_between_the_question_and_the_taking_is_not_taken_in_its_place() -> None:
    queue = filled(Queue(64, patience=9), [5, 9])
    first = queue.first()
    assert first is not None
    queue.add(waiting("longer", 100))
    queue.take(first)
    assert taken(queue) == ["longer", "0:5"]
