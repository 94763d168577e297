"""The errors of nlptl, each with the exit code of the command line.

Every message has three parts: what was found, why it is a problem, and what to do.
"""


def one_line(error: BaseException) -> str:
    """Return the message of another library's error as one sentence: its first two lines, with a full stop."""
    lines = [line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()]
    return ": ".join(lines[:2] or [type(error).__name__]) + "."


class UserError(Exception):
    """A mistake or a state of the machine that the user can fix; the command line shows no traceback."""

    exit_code = 1


class ConfigError(UserError, ValueError):
    """A flag, an argument or a combination of settings that cannot be obeyed."""

    exit_code = 2


class DataError(UserError, ValueError):
    """Data that cannot be used without changes."""

    exit_code = 3


class UntrustedFileError(UserError):
    """A file that is damaged, or that could run code when it is read."""

    exit_code = 4


class NonFiniteError(UserError):
    """A loss or a gradient that is NaN or infinite."""

    exit_code = 5


class ResourceError(UserError):
    """The machine lacks something: network, memory, disk space, permission."""

    exit_code = 6


class PeerLostError(UserError):
    """Another process of the training is lost: it ended, stopped or cannot be reached."""

    exit_code = 7
