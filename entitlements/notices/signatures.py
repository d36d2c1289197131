"""Signatures as Standard Webhooks has them (standardwebhooks.com, "Signature scheme"). PURE.

An endpoint's secret is stored nowhere: it is derived from the service's signing keys and the
endpoint's id. With several signing keys there are several signatures, so that keys can be rotated.
"""

import base64
import hmac
from collections.abc import Sequence
from datetime import datetime

from entitlements.kernel.signing import Signer


def signing_keys(signer: Signer, endpoint_id: str) -> tuple[bytes, ...]:
    """An endpoint's keys, 32 bytes each: one for each signing key, the one in use first."""
    return signer.derived_keys(f"webhook-endpoint/{endpoint_id}")


def secret(signer: Signer, endpoint_id: str) -> str:
    """What the receiver verifies with: `whsec_` and the key in use, in base 64."""
    return "whsec_" + base64.b64encode(signing_keys(signer, endpoint_id)[0]).decode()


def headers(
    keys: Sequence[bytes], message_id: str, attempted_at: datetime, body: str
) -> dict[str, str]:
    """The three headers of one attempt, a signature for each key.

    An example that the libraries of the specification share:

    >>> key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    >>> at = datetime.fromisoformat("2021-02-25T15:02:10Z")
    >>> headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", at, '{"test": 2432232314}')
    {'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek', 'webhook-timestamp': '1614265330', \
'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='}
    """
    seconds = str(int(attempted_at.timestamp()))
    signed = f"{message_id}.{seconds}.{body}".encode()
    signatures = (base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": seconds,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
