"""What others write to stderr in the driver, while that logs as JSON: it is logged too. Lines of workers are JSON."""

import atexit
import logging
import os
import sys
import threading
from contextlib import suppress
from functools import cache
from typing import Any

from ray._private.log import PlainRayHandler
from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher
from ray._private.worker import filter_autoscaler_events

from pipelines.logs import JsonFormatter, line_of

OF_RAY = "ray_print_logs"  # the name by which it registers what we replace, and takes it away in the end
STDERR = 2  # its file descriptor
LEAVE_S = 1.0  # a child that lives on may keep its stderr open

logger = logging.getLogger(__name__)


def relay() -> None:
    """Relay from now on. To be called once Ray is connected to.

    Ray itself would put the worker's name before each line, and leave lines out that differ in nothing but numbers.
    """
    dispatcher.remove_handler(OF_RAY)
    dispatcher.add_handler(OF_RAY, pass_on)
    for name in ("ray", "ray.data"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PlainRayHandler):
                handler.setFormatter(JsonFormatter())
    catch_stderr()


def pass_on(said: dict[str, Any]) -> None:
    """Log what a worker, or Ray's autoscaler, said."""
    lines = filter_autoscaler_events(said["lines"]) if said.get("pid") == "autoscaler" else said["lines"]
    for line in lines:
        if line.strip():
            logger.info("%s", line, extra={"line": line_of(line), "worker": f"{said.get('ip')}/{said.get('pid')}"})


@cache  # the second time it would catch itself
def catch_stderr() -> None:
    """Log, until the process ends, what is written to its stderr past Python's log: Ray's core does, which is C++.

    Where nobody reads stderr any more, or its disk is full, the log is lost, and nothing else.
    """
    logging.raiseExceptions = False  # a handler that cannot write would say so here, and wait for itself to read it
    real = os.fdopen(os.dup(STDERR), "w", errors="backslashreplace")
    for handler in logging.root.handlers:
        if isinstance(handler, logging.StreamHandler):
            with suppress(OSError):
                handler.flush()
            handler.stream = real
    caught, written = os.pipe()
    os.dup2(written, STDERR)
    os.close(written)
    thread = threading.Thread(target=_log_lines, args=(caught,), daemon=True)
    thread.start()
    atexit.register(_let_go, real.fileno(), thread)


def _log_lines(caught: int) -> None:
    with os.fdopen(caught, errors="replace") as lines:
        for line in lines:
            if line.strip():
                logger.info("%s", line.rstrip())


def _let_go(real: int, thread: threading.Thread) -> None:
    sys.stderr.flush()
    os.dup2(real, STDERR)
    thread.join(LEAVE_S)
