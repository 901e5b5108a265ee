"""The pieces of a batch to what travels, and what came back to the pieces.

Each task's arguments are a pickle of their own, so that one that does not pickle fails alone, and no two share an
object. Only numbers, texts and the like travel in one pickle: of those nobody can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import BuiltinMethodType, MethodType
from typing import Any

from bigm.rpc import codec
from bigm.tasks import Done, Piece, Stretch, Task, as_error, fail, name_of
from bigm.worker.functions import ATOMS, ONE, PACKED, ROW, Outcomes, Part, portable

_METHODS = (MethodType, BuiltinMethodType)


def pack(pieces: Iterable[Piece]) -> tuple[list[Piece], list[Part]]:
    """The pieces as parts of a batch. What cannot be pickled fails at once, alone, and is left out.

    Returns:
        The pieces that are in the batch, in their order, and the batch.
    """
    packed: list[Piece] = []
    parts: list[Part] = []
    last: Callable[..., Any] | None = None
    for piece in pieces:
        function = piece.function
        if not parts or not _same(function, last):
            segments = _function_segments(function)
            if isinstance(segments, Exception):
                fail(piece, segments)
                continue
            parts.append(Part(name_of(function), segments, -1, []))
            last = function
        if isinstance(piece, Task):
            _pack_task(piece, packed, parts)
        else:
            _pack_stretch(piece, packed, parts)
    return packed, [part for part in parts if part.calls]


def _function_segments(function: Callable[..., Any] | None) -> list[Any] | Exception:
    try:
        return portable(codec.dumps(function, f"function {name_of(function)}"))
    except Exception as error:  # noqa: BLE001  # NotPicklable, or whatever a broken object's __getattr__ raises
        return error


def _pack_task(task: Task, packed: list[Piece], parts: list[Part]) -> None:
    if not task.kwargs and set(map(type, task.args)) <= ATOMS:
        form, call = (ONE, task.args[0]) if len(task.args) == 1 else (ROW, task.args)
    else:
        form = PACKED
        try:
            call = _packed(name_of(task.function), task.args, task.kwargs)
        except Exception as error:  # noqa: BLE001  # as above
            task.settle(None, error)
            return
    _part_of(parts, form).calls.append(call)  # type: ignore[attr-defined]  # a list until it is sent
    packed.append(task)


def _pack_stretch(piece: Stretch, packed: list[Piece], parts: list[Part]) -> None:
    rows = piece.sweep.rows
    calls = piece.calls
    if not rows and set(map(type, calls)) <= ATOMS:
        _part_of(parts, ONE).calls.extend(calls)  # type: ignore[attr-defined]
        packed.append(piece)
    elif rows and all(set(map(type, row)) <= ATOMS for row in calls):
        _part_of(parts, ROW).calls.extend(calls)  # type: ignore[attr-defined]
        packed.append(piece)
    else:
        _pack_one_by_one(piece, packed, parts)


def _pack_one_by_one(piece: Stretch, packed: list[Piece], parts: list[Part]) -> None:
    name = name_of(piece.function)
    part = _part_of(parts, PACKED)
    index = 0
    while index < len(piece.calls):
        call = piece.calls[index]
        try:
            part.calls.append(_packed(name, call if piece.sweep.rows else (call,), {}))  # type: ignore[attr-defined]
            index += 1
        except Exception as error:  # noqa: BLE001  # as above
            rest = piece.split(index)
            assert rest is not None
            after = rest.split(1)
            rest.settle_failed(error)
            if piece.calls:
                packed.append(piece)
            if after is None:
                return
            piece, index = after, 0
    packed.append(piece)


def _part_of(parts: list[Part], form: int) -> Part:
    """The last part, if calls of that form can be added to it; else a new one of the same function."""
    part = parts[-1]
    if part.form not in (-1, form):
        parts.append(Part(part.name, part.function, form, []))
    elif part.form == -1:
        parts[-1] = part._replace(form=form)
    return parts[-1]


def _packed(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    return portable(codec.dumps_call(name, args, kwargs))


def _same(one: object, other: object) -> bool:
    """Whether both are one function; a method is another object each time it is looked up."""
    return one is other or (isinstance(one, _METHODS) and isinstance(other, _METHODS) and one == other)


def settle(pieces: Sequence[Piece], outcomes: Outcomes) -> list[Piece]:
    """Hand to each of *pieces*, which are what a batch still has, what became of it.

    Returns:
        Those that were not begun.
    """
    left: list[Piece] = []
    position, count = 0, len(outcomes.values)
    for piece in pieces:
        if position >= count:
            left.append(piece)
            continue
        if isinstance(piece, Task):
            _settle_task(piece, outcomes, position)
            position += 1
            continue
        rest = piece.split(count - position)
        if rest is not None:
            left.append(rest)
        end = position + len(piece)
        whole = position == 0 and end == count
        failures = {i - position: e for i, e in outcomes.failures.items() if position <= i < end}
        values = list(outcomes.values) if whole else list(outcomes.values[position:end])
        piece.sweep.settle(piece.start, Done(values, failures, outcomes.plain, piece.sweep.home))
        position = end
    return left


def _settle_task(task: Task, outcomes: Outcomes, position: int) -> None:
    failure = outcomes.failures.get(position)
    if failure is not None:
        task.settle(None, as_error(failure))
        return
    value = outcomes.values[position]
    if outcomes.plain:
        task.settle(value)
        return
    try:
        result = codec.loads(value)
    except BaseException as error:  # noqa: BLE001  # of a class that is not here, or of a user's __setstate__
        task.settle(None, error)
    else:
        task.settle(result)


def take_last(pieces: list[Piece], count: int) -> list[Piece]:
    """Take the last *count* calls from *pieces*; what was taken, in its order."""
    taken: list[Piece] = []
    while count > 0 and pieces:
        piece = pieces.pop()
        size = len(piece)
        if isinstance(piece, Stretch) and size > count:
            rest = piece.split(size - count)
            pieces.append(piece)
            assert rest is not None
            piece, size = rest, count
        taken.insert(0, piece)
        count -= size
    return taken
