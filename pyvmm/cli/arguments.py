"""``argparse`` for verbs whose start-up time does not count: what is wrong is one sentence."""

from __future__ import annotations

import argparse

from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Raises ConfigError where argparse would print its usage and exit with 2."""

    def error(self, message: str) -> NoReturn:
        """What is wrong with the command line, in a sentence. Raises ConfigError."""
        raise ConfigError(f"{message}; `{self.prog} --help` tells more")
