"""Names of users, for messages and records."""

from __future__ import annotations

import os
import pwd


def current_user() -> str:
    """Who we are by the system's own word, not by a variable that anybody can set."""
    return user_name(os.geteuid())


def user_name(number: int) -> str:
    """A user's name, or the number where the system knows no name, as in many containers."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
