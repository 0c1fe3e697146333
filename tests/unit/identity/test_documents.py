"""Documents: who signed, whether it holds, and when the signer's certificate must have been good."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.fakes.exchange import START, ManualClock, SmallExchange
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import IdentityKind
from tidegate.identity import keys
from tidegate.identity.documents import sign_document, verify_document

DATA = b'{"any":"bytes"}'


def test_a_document_names_its_signer(exchange: SmallExchange) -> None:
    steward = exchange.member(IdentityKind.PERSON, "health", "ann", ["steward"])
    signature, chain = sign_document(steward, DATA)
    assert verify_document(DATA, signature, chain, steward.root_pem, START).identity == steward.spiffe


def test_a_document_outlives_its_signers_certificate(exchange: SmallExchange) -> None:
    steward = exchange.member()
    signature, chain = sign_document(steward, DATA)
    assert verify_document(DATA, signature, chain, steward.root_pem, START + timedelta(hours=23))
    with pytest.raises(TidegateError) as caught:
        verify_document(DATA, signature, chain, steward.root_pem, START + timedelta(days=400))
    assert caught.value.code is Code.ID_CERTIFICATE_EXPIRED


def test_what_was_changed_does_not_hold(exchange: SmallExchange, tmp_path: Path) -> None:
    signer, other = exchange.member(name="a"), exchange.member(name="b")
    signature, chain = sign_document(signer, DATA)
    root = signer.root_pem
    swapped = other.presented_pem
    for data, mark, shown in (
        (DATA + b" ", signature, chain),
        (DATA, signature[:-1] + bytes([signature[-1] ^ 1]), chain),
        (DATA, b"", chain),
        (DATA, b"x" * 500, chain),
        (DATA, signature, swapped),
        (DATA, keys.sign(keys.new_key(), DATA), chain),
    ):
        with pytest.raises(TidegateError) as caught:
            verify_document(data, mark, shown, root, START)
        assert caught.value.code is Code.AUDIT_VERIFICATION
    stranger = SmallExchange(tmp_path, ManualClock())
    foreign = stranger.member()
    mark, shown = sign_document(foreign, DATA)
    for bad_chain in (shown, b"", signer.chain_pem, signer.certificate_pem, b"no PEM"):
        with pytest.raises(TidegateError) as caught:
            verify_document(DATA, mark, bad_chain, root, START)
        assert caught.value.code is Code.ID_CERTIFICATE_INVALID


def test_a_key_that_is_not_the_certificates_signs_nothing(exchange: SmallExchange) -> None:
    broken = replace(exchange.member(), key=keys.new_key())
    signature, chain = sign_document(broken, DATA)
    with pytest.raises(TidegateError):
        verify_document(DATA, signature, chain, broken.root_pem, START)
