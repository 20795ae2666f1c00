"""Malicious pickles, which must never be executed, and the checksum that makes them look like a run's checkpoints."""

import os
from hashlib import sha256


class Malice:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def seal(path):
    """Append the SHA-256, as a run does to each checkpoint."""
    content = path.read_bytes()
    path.write_bytes(content + sha256(content).digest())


def sealed(write):
    return lambda path: (write(path), seal(path))
