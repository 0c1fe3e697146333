"""Documents under a signature: agreements by stewards, grants by brokers, trailers by nodes.

The chain travels with the document, since leaf certificates live for a day and documents for years. The verifier
chooses the moment at which the chain must have been valid: for a document that lasts, the time that it says it was
signed at. A signer whose certificate has ended could write an earlier time; what bounds that is the log's record of
when it first saw the document.
"""

from __future__ import annotations

from datetime import datetime

from tidegate.core.errors import Code, error_for
from tidegate.identity import keys
from tidegate.identity.certificates import CertificateFacts, split_pem, verify_chain
from tidegate.identity.folder import LocalIdentity

SIGNATURE_BYTES_MAX = 80  # a DER signature over P-256 has at most 72


def sign_document(identity: LocalIdentity, data: bytes) -> tuple[bytes, bytes]:
    """Sign the bytes; give the signature (ECDSA P-256, SHA-256, DER) and the chain (leaf, issuing CA; PEM)."""
    return keys.sign(identity.key, data), identity.presented_pem


def verify_document(data: bytes, signature: bytes, chain_pem: bytes, root_pem: bytes, at: datetime) -> CertificateFacts:
    """Check the signature and that the signer's certificate was the exchange's and valid at ``at``; say who signed.

    Whether that identity may sign such a document is the caller's business.

    Raises:
        IntegrityError: AUDIT_VERIFICATION, the signature does not hold.
        CallerError: ID_CERTIFICATE_INVALID or ID_CERTIFICATE_EXPIRED, the chain does not.

    Trust: data, signature and chain may be anybody's.
    """
    if not signature or len(signature) > SIGNATURE_BYTES_MAX:
        raise error_for(Code.AUDIT_VERIFICATION, "signature: it does not verify")
    leaf, *intermediates = split_pem(chain_pem)
    signer = verify_chain(leaf, b"".join(intermediates), root_pem, at)
    keys.verify(signer.public_key, data, signature)
    return signer
