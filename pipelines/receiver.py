"""An address that hears of a run: the events that wait for it, and the thread that sends them, signed.

Format and answers are those of Standard Webhooks (https://www.standardwebhooks.com).
"""

import base64
import binascii
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import tenacity
from standardwebhooks import Webhook

from manifests.identity import content_id
from manifests.redact import redacted
from pipelines.retries import TRANSIENT_STATUS
from stableavatar.errors import BadInput

Event = dict[str, Any]  # id, and what is sent: type, timestamp, data

MAX_WAITING = 10_000  # events, about 10 MB
TIMEOUT_S = 15.0  # for each step of a request
FIRST_WAIT_S = 1.0  # at most; doubles with each failure in a row. Drawn from 0 to its bound, as of stores
LONGEST_WAIT_S = 60.0
LONGEST_RETRY_AFTER_S = 600.0  # what a receiver may ask for
LAST_TRIES = 3  # failures in a row, once the run is over
LAST_WAIT_S = 2.0  # at most, between those
GONE = 410
MIN_SECRET_BYTES = 24  # of Standard Webhooks
NEW_SECRET = '`echo "whsec_$(openssl rand -base64 32)"` makes one, which the receiver needs too.'
THREAD = "webhooks"

logger = logging.getLogger(__name__)
# Its lines name whole addresses, with the tokens in them. Those of other threads are none of our business.
logging.getLogger("httpx2").addFilter(lambda _: threading.current_thread().name != THREAD)


class TryLater(Exception):
    """The receiver may take the same event later; `after_s`: not before so many seconds."""

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


def signers(secrets: str) -> list[Webhook]:
    """What signs with each of the secrets, separated by commas: `whsec_` and base64, or any other text as it is.

    Raises BadInput for what is no secret, or too short for one.
    """
    return [_signer(secret.strip()) for secret in secrets.split(",") if secret.strip()]


def _signer(secret: str) -> Webhook:
    encoded = secret.removeprefix("whsec_")
    try:
        padded = encoded + "=" * (-len(encoded) % 4)
        key = secret.encode() if encoded == secret else base64.b64decode(padded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput("a webhook secret begins with whsec_, but what follows is not base64.") from error
    if len(key) < MIN_SECRET_BYTES:
        raise BadInput(
            f"a webhook secret has {len(key)} bytes, which can be guessed; it needs {MIN_SECRET_BYTES}. {NEW_SECRET}"
        )
    return Webhook(key)


class Receiver:
    """One address. Events wait in memory, MAX_WAITING of them at most, until it has taken or refused them.

    `key` stands for it in files, `name` in messages; both without credentials, and the same when its tokens change.
    """

    def __init__(self, url: str, secrets: Sequence[Webhook]) -> None:
        """Raises BadInput for what is not an address."""
        try:
            address = httpx2.URL(url)
        except httpx2.InvalidURL:
            address = httpx2.URL("")
        if address.scheme not in ("http", "https") or not address.host:
            raise BadInput("an address of a webhook cannot be used. Give it as https://host/path.")
        self.url = url
        self.name = f"{address.scheme}://{address.netloc.decode().rpartition('@')[2]}/..."
        self.key = content_id({"url": redacted(url)})[:16]
        self.secrets = secrets
        self.waiting: OrderedDict[str, Event] = OrderedDict()
        self.missed_since = ""  # timestamp of the first row for which there was no room; empty: there is none
        self.changed = threading.Condition()
        self.is_gone = self.is_ending = self.is_cut = False
        self.thread = threading.Thread(target=self._work, name=THREAD, daemon=True)

    def offer(self, event: Event, *, always: bool = False) -> None:
        """Send the event when its turn comes. Without room it is noted in `missed_since`, unless it is `always` taken.

        An event that waits already is not taken twice.
        """
        with self.changed:
            if self.is_gone:
                return
            if always or len(self.waiting) < MAX_WAITING or event["id"] in self.waiting:
                self.waiting.setdefault(event["id"], event)
                self.changed.notify_all()
            else:
                self.missed_since = min(self.missed_since or event["timestamp"], event["timestamp"])

    def start(self) -> None:
        """Send from now on."""
        self.thread.start()

    def end(self) -> None:
        """Nothing more is offered. What waits is sent, as long as the receiver takes it."""
        with self.changed:
            self.is_ending = True
            self.changed.notify_all()

    def leave(self, deadline: float) -> list[Event]:
        """Wait for the end until `deadline` (by time.monotonic) and stop sending. Gives what was not taken."""
        self.thread.join(max(0.0, deadline - time.monotonic()))
        with self.changed:
            left = list(self.waiting.values())
            self.waiting.clear()
            self.is_cut = True
            self.changed.notify_all()
        return left

    def _work(self) -> None:
        steadily = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TryLater),
            wait=self._pause,
            stop=lambda state: self.is_cut or (self.is_ending and state.attempt_number >= LAST_TRIES),
            sleep=self._sleep,
            before_sleep=self._note_failure,
            reraise=True,
        )
        try:
            with httpx2.Client(timeout=TIMEOUT_S, headers={"user-agent": "stableavatar"}) as client:
                while steadily(self._send_next, client):
                    pass
        except TryLater as error:
            logger.warning("%s: %s", self.name, error)
        except Exception:  # what waits is written down in the end, and sent by the next run
            logger.exception("%s: nothing more is sent in this run", self.name)

    def _send_next(self, client: httpx2.Client) -> bool:
        """Send one event. False: there is none, and there will be none. Raises TryLater."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.is_ending)
            event = next(iter(self.waiting.values()), None)
        if event is None:
            return False
        try:
            self._send(client, event)
        except TryLater:
            with self.changed:  # one that it can never take does not keep the others from it
                if event["id"] in self.waiting:
                    self.waiting.move_to_end(event["id"])
            raise
        with self.changed:
            self.waiting.pop(event["id"], None)
        return True

    def _send(self, client: httpx2.Client, event: Event) -> None:
        """Send an event once. One that is refused for good counts as sent. Raises TryLater."""
        body = json.dumps({name: event[name] for name in ("type", "timestamp", "data")}, separators=(",", ":"))
        now = datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "webhook-id": event["id"],
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(secret.sign(event["id"], now, body) for secret in self.secrets),
        }
        try:
            with client.stream("POST", self.url, content=body, headers=headers) as answer:  # its body says nothing
                status, after = answer.status_code, answer.headers.get("retry-after", "")
        except httpx2.HTTPError as error:
            raise TryLater(redacted(f"{type(error).__name__}: {error}")) from error
        if status in TRANSIENT_STATUS or status >= 500:
            raise TryLater(f"it answered {status}", seconds_of(after))
        if status == GONE:
            logger.warning("%s: it answered %d: nothing more is sent there in this run", self.name, status)
            with self.changed:
                self.is_gone = True
                self.waiting.clear()
                self.missed_since = ""
        elif not 200 <= status < 300:
            logger.warning("%s: it answered %d to %s, which is not sent again", self.name, status, event["id"])

    def _pause(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome and state.outcome.exception()
        asked_s = error.after_s if isinstance(error, TryLater) else 0.0
        grown_s = tenacity.wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)(state)
        return max(grown_s, min(asked_s, LONGEST_RETRY_AFTER_S))

    def _sleep(self, seconds: float) -> None:
        """So long, but only until the run is over: then what waits is tried once more at once, and soon again."""
        with self.changed:
            if self.is_ending:
                self.changed.wait_for(lambda: self.is_cut, min(seconds, LAST_WAIT_S))
            else:
                self.changed.wait_for(lambda: self.is_ending, seconds)

    def _note_failure(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        wait_s = state.next_action.sleep if state.next_action else 0.0
        logger.warning("%s: %s, trying again in %.1f s", self.name, error, wait_s)


def seconds_of(retry_after: str) -> float:
    """What the header Retry-After asks for: a number of seconds, or a moment. 0 if it says neither."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
