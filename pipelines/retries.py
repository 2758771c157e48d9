"""When a store fails: try again what may pass, and say of the rest what is wrong and what to do about it."""

import errno
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http.client import IncompleteRead
from typing import TypeVar

import tenacity
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError

from manifests.redact import redacted
from pipelines import traffic
from stableavatar.errors import BadInput, NetworkError, StorageError

TRIES = 8
FIRST_WAIT_S = 1.0  # at most; doubles with each try. The waits are drawn from 0 to their bound, so that many
LONGEST_WAIT_S = 30.0  # processes that failed together do not come back together
PATIENCE_S = 120.0  # after which no further try begins

TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
# Codes that S3 and those who speak like it send with other statuses. NoSuchUpload: an upload in parts whose last answer
# was lost is over when it is ended again; then the whole file is sent once more.
TRANSIENT_CODES = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
TRANSIENT_CODES |= {"ConditionalRequestConflict", "OperationAborted", "NoSuchUpload", "BadDigest", "IncompleteBody"}
TRANSIENT_TYPES = (
    *(TimeoutError, HTTPClientError, ConnectionError, ResponseParserError, IncompleteReadError),
    IncompleteRead,
)
LASTING = ("CERTIFICATE_VERIFY_FAILED", "Name or service not known")
# Of network disks as much as of networks.
TRANSIENT_ERRNOS = {
    getattr(errno, name)
    for name in (
        *("EIO", "EREMOTEIO", "ESTALE", "EAGAIN", "EBUSY", "EINTR", "ETIMEDOUT", "EPIPE", "ENOTCONN"),
        *("ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EHOSTUNREACH", "EHOSTDOWN", "ENETUNREACH", "ENETDOWN"),
    )
    if hasattr(errno, name)
}
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}

T = TypeVar("T")

logger = logging.getLogger(__name__)
_patience_s: ContextVar[float | None] = ContextVar("patience_s", default=None)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Within: what fails is not begun again after so many seconds. For those who have no two minutes."""
    token = _patience_s.set(seconds)
    try:
        yield
    finally:
        _patience_s.reset(token)


def steadily(uri: str, action: Callable[[], T]) -> T:
    """What `action` gives, tried again for a bounded time while the store at `uri` fails in passing.

    `action` must be safe to run twice. Raises NetworkError if it never passed, else what `clear_errors` raises.
    """
    patience_s = _patience_s.get()
    with clear_errors(uri):
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_transient),
            wait=tenacity.wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
            stop=tenacity.stop_after_attempt(TRIES)
            | tenacity.stop_before_delay(PATIENCE_S if patience_s is None else patience_s),
            before_sleep=lambda state: _note_failure(uri, state),
            reraise=True,
        )(action)


def is_transient(error: BaseException) -> bool:
    """May the same call succeed a little later? The store's own words count before what libraries make of them."""
    for cause in _causes(error):
        status = http_status(cause)
        if status is not None:
            return status in TRANSIENT_STATUS or http_code(cause) in TRANSIENT_CODES
    return any(_is_passing(cause) for cause in _causes(error))


def _http_errors(*names: str) -> tuple[type[Exception], ...]:
    """Classes of aiohttp, if it is loaded at all: it takes long, and where it is not it raises nothing."""
    library = sys.modules.get("aiohttp")
    return tuple(getattr(library, name) for name in names) if library else ()


def _is_passing(error: BaseException) -> bool:
    if any(words in str(error) for words in LASTING):
        return False
    types = (*TRANSIENT_TYPES, *_http_errors("ClientConnectionError", "ClientPayloadError"))
    return isinstance(error, types) or (isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it was made of."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def http_status(error: BaseException) -> int | None:
    """The status of the answer that this error tells of, if it tells of one."""
    if isinstance(error, ClientError):
        return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    found = (getattr(error, name, None) for name in ("status", "status_code"))
    return next((status for status in found if isinstance(status, int) and 100 <= status < 600), None)


def http_code(error: BaseException) -> str:
    """The store's own word for what is wrong, such as SlowDown; "" if the error has none."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def says_exists(error: BaseException) -> bool:
    """Did the store refuse to write because something is there?"""
    return any(isinstance(c, FileExistsError) or http_code(c) == "PreconditionFailed" for c in _causes(error))


def _note_failure(uri: str, state: tenacity.RetryCallState) -> None:
    traffic.count(num_retries=1)
    error = state.outcome and state.outcome.exception()
    wait_s = state.next_action.sleep if state.next_action else 0.0
    logger.warning(
        "%s: %s, trying again in %.1f s", redacted(uri), redacted(f"{type(error).__name__}: {error}"), wait_s
    )


@contextmanager
def clear_errors(uri: str) -> Iterator[None]:
    """Turn the errors of a store into ours: what failed, and what to do about it, without credentials."""
    try:
        yield
    except (OSError, ImportError, ValueError, BotoCoreError, ClientError, *_http_errors("ClientError")) as error:
        kind, message = _explain(uri, error)
        raise kind(redacted(message)) from error


def _explain(uri: str, error: Exception) -> tuple[type[BadInput] | type[StorageError], str]:
    reason = f"{type(error).__name__}: {error}"
    statuses = {http_status(cause) for cause in _causes(error)}
    if is_transient(error):
        return NetworkError, f"{uri} could not be reached, try after try ({reason}). Check the network and the store."
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StorageError, (
            f"no credentials for {uri}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        )
    if isinstance(error, PermissionError) or statuses & {401, 403}:
        return StorageError, f"no permission for {uri} ({error}). Check the credentials and their rights."
    if isinstance(error, FileNotFoundError | NotADirectoryError) or 404 in statuses:
        if "://" not in uri:
            return BadInput, (
                f"{uri} does not exist on {socket.gethostname()}. Check the name. "
                "What several machines need belongs in a store that all of them reach."
            )
        return BadInput, f"{uri} does not exist. Check the name, and the bucket if it has one."
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return StorageError, f"no space left for {uri} ({error}). Make room there, and run again."
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return StorageError, f"{uri} lies on a read-only disk ({error}). Choose another place."
    if isinstance(error, ImportError | ValueError) and not isinstance(error, OSError):
        return BadInput, f"{uri} cannot be opened ({error}). Use a local path or a URI such as s3://bucket/name."
    return StorageError, f"{uri} cannot be used ({reason}). Check that the store answers, and run again."
