"""The `swath` command.

Each verb lives in a file of its own that is imported when the verb is called, and imports what is
heavy inside the function, so that ``swath --help`` answers at once.
"""

from swath.core.cli.app import main

__all__ = ["main"]
