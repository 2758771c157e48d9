"""Threads that help another one."""

from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context


def helpers(number: int) -> ThreadPoolExecutor:
    """So many at most, which know what this thread knows: the row it works on, and its patience with stores."""
    return ThreadPoolExecutor(number, initializer=_learn, initargs=(copy_context(),))


def _learn(context: Context) -> None:
    for variable, value in context.items():
        variable.set(value)
