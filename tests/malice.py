"""What must never be executed, and the seal that who has malice in mind can put on a checkpoint as a run does."""

import os
from hashlib import sha256


class Malice:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def seal(path):
    content = path.read_bytes()
    path.write_bytes(content + sha256(content).digest())


def sealed(write):
    return lambda path: (write(path), seal(path))
