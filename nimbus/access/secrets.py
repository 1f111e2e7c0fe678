# SPDX-License-Identifier: Apache-2.0
"""A key's secret: its form (spec 11 §8) and the hash under which it is stored.

256 random bits leave nothing to guess, so a fast keyed hash is right; the pepper makes a stolen
table useless.
"""

import hashlib
import hmac
import secrets as randomness
from typing import Literal

from nimbus.base import db
from nimbus.base.secrets import secret
from nimbus.rules.grants import key_check

Environment = Literal["Test", "Live"]

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM_BYTES = 32
RANDOM_CHARACTERS = 43
PEPPER_VERSION = 1


def new_secret(environment: Environment) -> str:
    """`nimbus_live_` or `nimbus_test_`, 32 random bytes in base62, the checksum of all that."""
    number = int.from_bytes(randomness.token_bytes(RANDOM_BYTES), "big")
    digits = []
    for _ in range(RANDOM_CHARACTERS):
        number, digit = divmod(number, 62)
        digits.append(BASE62[digit])
    text = prefix(environment) + "".join(reversed(digits))
    return text + key_check(text.encode()).decode()


def prefix(environment: Environment) -> str:
    """What every key of an environment begins with."""
    return f"nimbus_{environment.lower()}_"


def keyed_hash(text: str) -> bytes:
    """HMAC-SHA-256 of the whole secret under the pepper: 32 bytes."""
    pepper = secret(db.current().settings, f"pepper_{PEPPER_VERSION}")
    return hmac.digest(pepper, text.encode(), hashlib.sha256)
