"""The words of the conversation with a broker, and the ports that a link speaks through: a line, a dialler, the work.

``node.wire`` implements line and dialler over gRPC, ``node.gate`` the work; tests have their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from node.answer import Answer, Signer
from node.values import FragmentOffer, Session, Trailer
from tidegate.core.dataset import Dataset
from tidegate.core.errors import TidegateError


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The broker took the attachment."""

    broker: str
    heartbeat_s: float


@dataclass(frozen=True, slots=True)
class Offered:
    """Work."""

    offer: FragmentOffer


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Stop working on a fragment."""

    fragment_id: str


@dataclass(frozen=True, slots=True)
class Beat:
    """The broker is alive."""


@dataclass(frozen=True, slots=True)
class DescribeAsked:
    """Say again what you hold."""


@dataclass(frozen=True, slots=True)
class AgreementPushed:
    """An agreement, or the revocation of one; ``agreement_id`` is what the acknowledgement names."""

    agreement_id: str
    agreement_json: str
    signature: bytes
    chain_pem: bytes
    revocation_json: str


@dataclass(frozen=True, slots=True)
class Drained:
    """The broker is going."""

    reconnect_after_s: float


Heard = Welcomed | Offered | Cancelled | Beat | DescribeAsked | AgreementPushed | Drained


class Line(Protocol):
    """One open Attach stream. ``hear`` is read by one thread; everything else may be called by any."""

    def hear(self) -> Iterator[Heard]:
        """Give what the broker says until the line ends; raises the error that ended it."""
        ...

    def say_answer(self, answer: Answer, sign: Signer) -> Trailer:
        """Send an answer, on the stream or in a call of its own, and give the signed trailer.

        Raises:
            TidegateError: whatever ended the answer. The gate then says the failure on the stream; where a call of its own
                said it before, the broker hears it twice, which is harmless.
        """
        ...

    def say_failure(self, fragment_id: str, error: TidegateError) -> None:
        """Say that a fragment failed."""
        ...

    def say_description(self, datasets: tuple[Dataset, ...]) -> None:
        """Say what the node holds."""
        ...

    def say_acknowledged(self, agreement_id: str, error: TidegateError | None) -> None:
        """Say that an agreement or revocation is stored, or why not."""
        ...

    def say_beat(self, count: int) -> None:
        """Say that the node is alive."""
        ...

    def renew(self) -> bool:
        """Renew the certificate over this line's channel if that is due; True when a new one is in place."""
        ...

    def hang_up(self) -> None:
        """End the line, from any thread; ``hear`` then ends."""
        ...


class Dialler(Protocol):
    """Opens lines to one broker."""

    address: str

    def dial(self, nonce: bytes, datasets: tuple[Dataset, ...]) -> Line:
        """Open the stream and say hello; renews an expired certificate first."""
        ...


class Work(Protocol):
    """What a link does with what it hears: ``node.gate``."""

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """What the node holds."""
        ...

    def describe(self) -> tuple[Dataset, ...]:
        """Look again at what the node holds."""
        ...

    def serve(self, offer: FragmentOffer, session: Session, line: Line) -> None:
        """Work on a fragment until its answer or its failure was said; raises nothing."""
        ...

    def take_agreement(self, pushed: AgreementPushed) -> None:
        """Verify and keep. Raises TidegateError."""
        ...
