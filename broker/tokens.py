"""Bearer tokens: short-lived, for one person, kept by their hash alone and in memory alone.

A token stands for the certificate that it was issued under: each call by it is held to that certificate's times, to the
deny-list and to the directory, as a call by the certificate itself is. It ends with the certificate at the latest, with the
process, and after ``LIFETIME_S_MAX``. What is bound to a certificate elsewhere (a ticket, a session) is bound to the token
here: ``fingerprint`` is made from the token's hash and gives nothing of it away.
"""

from __future__ import annotations

import threading
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256

from tidegate.core.caller import BY_BEARER
from tidegate.core.clock import Clock, Ids
from tidegate.core.errors import Code, error_for
from tidegate.core.names import IdentityKind
from tidegate.identity.certificates import CertificateFacts

LIFETIME_S_MIN = 60
LIFETIME_S_MAX = 900
TOKEN_BYTES = 32
TOKEN_CHARS_MAX = 200
PER_PERSON_MAX = 8
TOKENS_MAX = 10_000
PREFIX = "tgbearer1_"  # so that who scans for leaked secrets knows one
_NAME = b"tidegate.bearer/v1\0"


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token as its person is given it, once.

    Args:
        shown: what a call by it is taken for.
    """

    text: str
    shown: CertificateFacts

    @property
    def expires_at(self) -> datetime:
        """When it ends, UTC."""
        return self.shown.not_after


@dataclass(slots=True)
class _Kept:
    shown: CertificateFacts
    until_s: float
    live: bool = False


class Tokens:
    """The tokens of one broker. Thread-safe."""

    def __init__(self, *, clock: Clock, ids: Ids) -> None:
        self._clock = clock
        self._ids = ids
        self._lock = threading.Lock()
        self._kept: dict[bytes, _Kept] = {}  # by the token's SHA-256: how long a look-up takes tells nothing of a token

    def issue(self, shown: CertificateFacts, lifetime_s: int, record: Callable[[IssuedToken], None]) -> IssuedToken:
        """Make a token for the person of a certificate; it counts once ``record`` has returned.

        Raises:
            CallerError: ID_WRONG_KIND, not a person; WIRE_INVALID, not a lifetime. Overloaded: too many are alive.
        """
        if shown.identity.kind is not IdentityKind.PERSON:
            raise error_for(Code.ID_WRONG_KIND, "a bearer token is for one person; a service shows its certificate")
        if not LIFETIME_S_MIN <= lifetime_s <= LIFETIME_S_MAX:
            raise error_for(
                Code.WIRE_INVALID, f"bearer token: expected a lifetime of {LIFETIME_S_MIN} to {LIFETIME_S_MAX} s"
            )
        text = PREFIX + urlsafe_b64encode(self._ids.nonce(TOKEN_BYTES)).decode().rstrip("=")
        digest = _digest(text)
        ends = min(shown.not_after, self._clock.now() + timedelta(seconds=lifetime_s))
        name = sha256(_NAME + digest).hexdigest()
        issued = IssuedToken(text, replace(shown, fingerprint=name, not_after=ends, bound=BY_BEARER))
        kept = _Kept(issued.shown, self._clock.monotonic_s() + lifetime_s)
        with self._lock:
            self._make_room(str(shown.identity))
            self._kept[digest] = kept
        try:
            record(issued)
        except BaseException:
            with self._lock:
                del self._kept[digest]
            raise
        kept.live = True
        return issued

    def find(self, text: str) -> CertificateFacts | None:
        """Give what a call by this token is taken for; None for one that is unknown, or has ended."""
        if len(text) > TOKEN_CHARS_MAX or not text.isascii():
            return None
        with self._lock:
            kept = self._kept.get(_digest(text))
        # By both clocks: one that is set back must not make a token live longer.
        if kept is None or not kept.live or self._clock.monotonic_s() >= kept.until_s:
            return None
        return kept.shown if self._clock.now() <= kept.shown.not_after else None

    def _make_room(self, identity: str) -> None:
        now, now_s = self._clock.now(), self._clock.monotonic_s()
        for digest in [key for key, kept in self._kept.items() if now_s >= kept.until_s or now > kept.shown.not_after]:
            del self._kept[digest]
        own = [kept.until_s for kept in self._kept.values() if str(kept.shown.identity) == identity]
        if len(own) >= PER_PERSON_MAX:
            wait_s = max(min(own) - now_s, 1.0)
            raise error_for(
                Code.BUSY, f"{PER_PERSON_MAX} bearer tokens of this person are alive already", retry_after_s=wait_s
            )
        if len(self._kept) >= TOKENS_MAX:
            raise error_for(Code.BUSY, "too many bearer tokens are alive", retry_after_s=float(LIFETIME_S_MIN))


class Failures:
    """Calls that brought no good token, counted by address, so that guessing is answered ever more briefly. Thread-safe.

    A good token is looked up whatever its address did: a flood from one address must not keep its neighbours out, and 256
    random bits are not guessed.
    """

    WINDOW_S = 60.0
    PER_WINDOW_MAX = 20  # of one address; what comes after is told to come back later
    ADDRESSES_MAX = 10_000

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since_s = clock.monotonic_s()
        self._counts: Counter[str] = Counter()
        self.total = 0

    def count(self, address: str) -> tuple[int, float]:
        """Count a failure; give how many this address has had in the window, and how long the window still is."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            if now_s - self._since_s >= self.WINDOW_S:
                self._since_s, self._counts = now_s, Counter()
            if address not in self._counts and len(self._counts) >= self.ADDRESSES_MAX:
                address = "others"
            self._counts[address] += 1
            self.total += 1
            return self._counts[address], self._since_s + self.WINDOW_S - now_s


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()
