"""Seeds that name the work and not the worker: the same work has the same seed in any process."""

import hashlib


def derive(*names: int | str) -> int:
    """A seed in [0, 2**63) for what is named: derive(seed, iteration, "generate", "train/7", 0).

    blake2b and not `hash()`, which is salted per process.
    """
    digest = hashlib.blake2b(repr(names).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
