"""May this be launched? As ssh refuses a loose key, a prefix that somebody else could have written is refused."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import NotTrustedError
from .settings import Sepal
from .users import user_name


@dataclass(frozen=True)
class Trust:
    """Who may have written what we run: the users and the groups, by number."""

    users: frozenset[int]
    groups: frozenset[int]

    @classmethod
    def of(cls, settings: Sepal) -> Trust:
        """Root and we ourselves, and whom the settings name."""
        named = {number for name in settings.trusted_users if (number := _user(name)) is not None}
        return cls(frozenset({0, os.geteuid(), *named}), frozenset({0, *_groups(settings.group)}))

    def check(self, paths: Iterable[Path]) -> None:
        """Raise NotTrustedError for the first path that another user could have written. What is not there is fine."""
        for path in paths:
            try:
                info = path.lstat()
            except OSError:
                continue
            if reason := self._loose(info):
                mode = stat.S_IMODE(info.st_mode)
                raise NotTrustedError(
                    f"{path} is not used: {reason} (mode {mode:04o}, owner {user_name(info.st_uid)}). "
                    + _remedy(path, info, self.users)
                )

    def check_below(self, root: Path, paths: Iterable[Path]) -> None:
        """Check the folders that lead to `root`, `root` itself, and `paths` in it."""
        self.check((*reversed(root.parents), root, *paths))

    def _loose(self, info: os.stat_result) -> str:
        """Why somebody else could have written it, or nothing."""
        if info.st_uid not in self.users:
            return "another user owns it"
        if stat.S_ISLNK(info.st_mode):
            return ""  # a link's mode means nothing
        sticky = stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX  # as /tmp: nobody replaces others' files
        if info.st_mode & stat.S_IWOTH and not sticky:
            return "every user may write it"
        if info.st_mode & stat.S_IWGRP and not sticky and not self._own_group(info):
            return f"the group {_group_name(info.st_gid)} may write it"
        return ""

    def _own_group(self, info: os.stat_result) -> bool:
        """A trusted group, or the private one that many systems give to each user."""
        if info.st_gid in self.groups:
            return True
        try:
            group, owner = grp.getgrgid(info.st_gid), pwd.getpwuid(info.st_uid)
        except KeyError:
            return False
        return group.gr_name == owner.pw_name and set(group.gr_mem) <= {owner.pw_name}


def _remedy(path: Path, info: os.stat_result, users: frozenset[int]) -> str:
    if info.st_uid not in users:
        return (
            f"If {user_name(info.st_uid)} may provide kernels here, add the name to c.Sepal.trusted_users; "
            "else remove it, or have root own it."
        )
    return f"Correct it: chmod go-w {path}"


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _groups(name: str) -> Iterable[int]:
    try:
        return (grp.getgrnam(name).gr_gid,) if name else ()
    except KeyError:
        return ()


def _user(name: str) -> int | None:
    if name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None
