import errno
import socket
import ssl
from collections.abc import Callable

import aiohttp
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from s3fs.errors import translate_boto_error

from pipelines import retries
from stableavatar.errors import BadInput, NetworkError, StorageError


def answer(status: int, code: str) -> Exception:
    """What s3fs raises for such an answer of the store."""
    words = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(ClientError(words, "PutObject"))


def http_error(status: int) -> Exception:
    """What fsspec makes of a web server's answer."""
    error = FileNotFoundError("https://host/a.png")
    error.__cause__ = aiohttp.ClientResponseError(None, (), status=status)  # type: ignore[arg-type]
    return error


def cut_body() -> Exception:
    error = aiohttp.ClientPayloadError("Response payload is not completed")
    error.__cause__ = aiohttp.http_exceptions.ContentLengthError("half of it")  # says that it is a 400
    return error


PASSING = [
    *(answer(503, "SlowDown"), answer(503, "503"), answer(500, "InternalError"), answer(502, "502")),
    *(answer(429, "TooManyRequests"), answer(400, "RequestTimeout"), answer(404, "NoSuchUpload")),
    *(answer(409, "ConditionalRequestConflict"), http_error(503), http_error(429), cut_body()),
    *(EndpointConnectionError(endpoint_url="u"), ReadTimeoutError(endpoint_url="u")),
    *(aiohttp.ServerDisconnectedError(), TimeoutError(), ConnectionResetError(errno.ECONNRESET, "reset")),
    *(OSError(errno.EIO, "io"), OSError(errno.ESTALE, "stale")),
]
LASTING = [
    (answer(403, "AccessDenied"), StorageError, "no permission"),
    (answer(403, "RequestTimeTooSkewed"), StorageError, "no permission"),
    (answer(404, "NoSuchBucket"), BadInput, "does not exist"),
    (answer(400, "InvalidArgument"), StorageError, "cannot be used"),
    (answer(501, "NotImplemented"), StorageError, "cannot be used"),
    (http_error(403), StorageError, "no permission"),
    (http_error(404), BadInput, "does not exist"),
    (aiohttp.InvalidURL("x"), BadInput, "cannot be opened"),
    (NoCredentialsError(), StorageError, "AWS_ACCESS_KEY_ID"),
    (ssl.SSLCertVerificationError("[SSL: CERTIFICATE_VERIFY_FAILED]"), StorageError, "cannot be used"),
    (OSError(errno.ENOSPC, "full"), StorageError, "no space left"),
    (OSError(errno.EDQUOT, "quota"), StorageError, "no space left"),
    (OSError(errno.EROFS, "read-only"), StorageError, "read-only disk"),
    (PermissionError(errno.EACCES, "no"), StorageError, "no permission"),
]


def failing(error: Exception, times: int) -> tuple[list[int], Callable[[], str]]:
    calls: list[int] = []

    def action() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return calls, action


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.0001)


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_may_pass_is_tried_again_for_a_bounded_number_of_times(error: Exception) -> None:
    _, action = failing(error, retries.TRIES - 1)
    assert retries.steadily("s3://b/a", action) == "done"
    calls, action = failing(error, 100)
    with pytest.raises(NetworkError, match=r"^s3://b/a could not be reached"):
        retries.steadily("s3://b/a", action)
    assert len(calls) == retries.TRIES


@pytest.mark.parametrize(("error", "kind", "words"), LASTING, ids=repr)
def test_what_will_not_pass_is_told_at_once(error: Exception, kind: type[Exception], words: str) -> None:
    calls, action = failing(error, 100)
    with pytest.raises(kind, match=words) as raised:
        retries.steadily("s3://b/a", action)
    assert len(calls) == 1
    assert type(raised.value) is kind


def test_a_missing_local_file_is_missing_on_one_machine() -> None:
    with pytest.raises(BadInput, match=f"^/home/a.png does not exist on {socket.gethostname()}. .*store"):
        retries.steadily("/home/a.png", failing(FileNotFoundError(), 1)[1])
    with pytest.raises(BadInput, match=r"^s3://b/a.png does not exist\. Check the name, and the bucket"):
        retries.steadily("s3://b/a.png", failing(FileNotFoundError(), 1)[1])


def test_an_error_of_ours_passes_untouched() -> None:
    error = BadInput("a.png is too large.")
    calls, action = failing(error, 100)
    with pytest.raises(BadInput) as raised:
        retries.steadily("s3://b/a", action)
    assert raised.value is error
    assert len(calls) == 1


def test_who_has_no_patience_gives_up_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 1000.0)
    calls, action = failing(TimeoutError(), 100)
    with pytest.raises(NetworkError), retries.patience(0.0):
        retries.steadily("s3://b/a", action)
    assert len(calls) == 1


def test_each_failure_is_logged_without_credentials(caplog: pytest.LogCaptureFixture) -> None:
    _, action = failing(TimeoutError("https://h/a?token=topsecret"), 1)
    retries.steadily("https://h/a?token=topsecret", action)
    (line,) = caplog.messages
    assert line.startswith("https://h/a?token=***: TimeoutError: https://h/a?token=***, trying again in 0.0 s")
