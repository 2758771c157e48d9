import base64
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from pipelines import receiver
from pipelines.receiver import Event, Receiver, seconds_of, signers
from stableavatar.errors import BadInput
from tests.receivers import SECRET, Inbox, serve

PLAIN = "plain words: no base64 at all"


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with serve() as inbox:
        yield inbox


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(receiver, "LAST_WAIT_S", 0.01)


def event(number: int = 0) -> Event:
    moment = (datetime(2026, 1, 31, tzinfo=UTC) + timedelta(seconds=number)).isoformat(timespec="milliseconds")
    return {"id": f"event-{number}", "type": "row.finished", "timestamp": moment, "data": {"id": "Åsa", "n": number}}


def begun(url: str, secrets: str = SECRET) -> Receiver:
    started = Receiver(url, signers(secrets))
    started.start()
    return started


def end(receiver: Receiver, seconds: float = 30.0) -> list[Event]:
    receiver.end()
    return receiver.leave(time.monotonic() + seconds)


def test_what_arrives_is_signed_as_the_standard_says(inbox: Inbox) -> None:
    sender = begun(inbox.url)
    sender.offer(event())
    assert end(sender) == []
    (headers, body), (sent,) = inbox.requests[0], inbox.events()
    assert sent == {name: event()[name] for name in ("type", "timestamp", "data")}
    assert headers["webhook-id"] == "event-0" and headers["content-type"] == "application/json"
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body.replace(b'"n":0', b'"n":1'), headers)


def test_while_a_secret_is_changed_receivers_with_either_verify(inbox: Inbox) -> None:
    sender = begun(inbox.url, f"{PLAIN}, {SECRET}")
    sender.offer(event())
    end(sender)
    headers, body = inbox.requests[0]
    assert Webhook(SECRET).verify(body, headers) == Webhook(PLAIN.encode()).verify(body, headers)
    assert len(headers["webhook-signature"].split(" ")) == 2


def test_a_secret_may_lack_its_padding_but_not_be_nonsense() -> None:
    key = b"of twenty-five bytes, yes"
    (signer,) = signers("whsec_" + base64.b64encode(key).decode().rstrip("="))
    assert signer.sign("a", datetime.now(UTC), "b") == Webhook(key).sign("a", datetime.now(UTC), "b")
    with pytest.raises(BadInput, match="not base64") as error:
        signers("whsec_$ecret!")
    assert "ecret!" not in str(error.value)


@pytest.mark.parametrize(
    ("secret", "size"), [("whsec_", 0), ("x", 1), ("é" * 11, 22), ("whsec_" + base64.b64encode(b"x" * 23).decode(), 23)]
)
def test_a_secret_that_can_be_guessed_is_refused(secret: str, size: int) -> None:
    with pytest.raises(BadInput, match=f"has {size} bytes.*openssl") as error:
        signers(f"{SECRET},{secret}")
    assert size < 2 or secret not in str(error.value)
    assert len(signers("x" * 24)) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 501, 503, 599])
def test_what_may_pass_is_tried_again_with_the_same_id(inbox: Inbox, status: int) -> None:
    inbox.answer = lambda number: (204 if number == 2 else status, {})
    sender = begun(inbox.url)
    sender.offer(event())
    inbox.wait_for(3)
    assert end(sender) == []
    assert inbox.ids() == ["event-0"] * 3


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404])
def test_what_is_refused_is_not_sent_again_and_no_redirect_followed(
    inbox: Inbox, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.answer = lambda number: (status, {"Location": inbox.url}) if number == 0 else (200, {})
    sender = begun(inbox.url)
    sender.offer(event(0))
    sender.offer(event(1))
    assert end(sender) == []
    assert inbox.ids() == ["event-0", "event-1"]
    assert f"it answered {status} to event-0" in caplog.text


def test_one_that_is_gone_hears_nothing_more(inbox: Inbox) -> None:
    inbox.answer = lambda number: (410, {})
    sender = begun(inbox.url)
    sender.offer(event(0))
    sender.offer(event(1))
    inbox.wait_for(1)
    assert end(sender) == [] and sender.is_gone
    sender.offer(event(2))
    assert len(inbox.requests) == 1 and not sender.waiting


def test_an_event_that_cannot_be_taken_does_not_keep_the_others_from_it(inbox: Inbox) -> None:
    def answer(number: int) -> tuple[int, dict[str, str]]:
        return 500 if inbox.ids()[number] == "event-0" else 200, {}

    inbox.answer = answer
    sender = Receiver(inbox.url, signers(SECRET))
    for number in range(3):
        sender.offer(event(number))
    sender.start()
    assert end(sender) == [event(0)]
    assert {"event-1", "event-2"} <= set(inbox.ids())


def test_retry_after_is_honoured_and_bounded(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(Receiver, "_sleep", lambda self, seconds: waits.append(seconds))
    asked = ["7", "100000", "nonsense", ""]
    inbox.answer = lambda number: (429, {"Retry-After": asked[number]}) if number < len(asked) else (200, {})
    sender = begun(inbox.url)
    sender.offer(event())
    inbox.wait_for(5)
    end(sender)
    assert waits[:2] == [7.0, receiver.LONGEST_RETRY_AFTER_S]
    assert max(waits[2:]) < 1.0


def test_retry_after_may_be_a_moment() -> None:
    assert 50 < seconds_of(format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)) <= 60
    assert seconds_of(format_datetime(datetime.now(UTC) - timedelta(minutes=1), usegmt=True)) == 0.0


def test_one_that_was_down_gets_what_waited_when_the_run_ends(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "FIRST_WAIT_S", 1000.0)
    monkeypatch.setattr(receiver, "LONGEST_WAIT_S", 1000.0)
    inbox.answer = lambda number: (503 if number == 0 else 200, {})
    sender = begun(inbox.url)
    sender.offer(event())
    inbox.wait_for(1)
    assert end(sender) == []


def test_one_that_never_answers_delays_nobody(inbox: Inbox) -> None:
    over = threading.Event()
    inbox.answer = lambda number: (200 if over.wait(30) else 500, {})
    sender = begun(inbox.url)
    started = time.monotonic()
    for number in range(5):
        sender.offer(event(number))
    inbox.wait_for(1)
    left = end(sender, seconds=0.1)
    assert time.monotonic() - started < 5
    assert left == [event(number) for number in range(5)], "also the one that is on its way: it may not arrive"
    over.set()
    sender.thread.join(30)
    assert not sender.thread.is_alive() and len(inbox.requests) == 1


def test_what_waits_is_bounded_and_the_rest_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "MAX_WAITING", 2)
    sender = Receiver("http://127.0.0.1:9/", signers(SECRET))
    for number in (0, 3, 5, 4, 0):
        sender.offer(event(number))
    assert list(sender.waiting) == ["event-0", "event-3"] and sender.missed_since == event(4)["timestamp"]
    sender.offer(event(9), always=True)
    assert list(sender.waiting)[-1] == "event-9"


@pytest.mark.parametrize("url", ["", "host/path", "ftp://host/x", "file:///etc/passwd", "http://", "http://[::1"])
def test_only_web_addresses(url: str) -> None:
    with pytest.raises(BadInput, match="https://host/path"):
        Receiver(url, [])


def test_no_token_is_in_its_name_or_in_any_log(inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx2").info("of another thread")
    inbox.answer = lambda number: [(500, {}), (404, {})][number]
    secret = inbox.url.replace("://", "://anna:Pa55word@").replace("/hook", "/T0KEN1?key=T0KEN2")
    sender = begun(secret)
    sender.offer(event())
    inbox.wait_for(2)
    end(sender)
    assert inbox.requests[0][0]["authorization"].startswith("Basic ")
    assert "it answered 404" in caplog.text and "of another thread" in caplog.text
    assert not any(word in caplog.text + sender.name for word in ("T0KEN1", "T0KEN2", "Pa55word", SECRET))


def test_the_key_outlives_a_new_token() -> None:
    def key(url: str) -> Any:
        return Receiver(url, []).key

    assert key("https://a:b@host/x?token=one") == key("https://c:d@host/x?token=two") != key("https://host/y")
