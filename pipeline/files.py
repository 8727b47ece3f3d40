"""Files on a shared disk: a commit that is whole or not at all, and one worker a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
from pathlib import Path
from typing import IO

from pipeline.errors import EngineError, InputError

TEMPORARY = ".tmp"
"""Ending of a file that is being written; a run folder that nobody works in needs none of them."""

LOCK = ".lock"

_held: dict[Path, IO[str]] = {}


def commit(path: Path, content: bytes, *, new: bool = False) -> None:
    """Replace ``path`` by ``content`` as one indivisible step that survives a crash.

    With ``new`` a file that is already there is kept and EngineError raised. A full disk raises
    OSError that names the path and the remedy; the old file is intact and nothing lies beside it.
    """
    # Random, so that writers on two hosts of one disk never meet; short, so that any name of a target will do.
    beside = path.with_name(f".{secrets.token_hex(8)}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if new:
            _link(beside, path)
        else:
            os.replace(beside, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        remedy = "free some space or give --out on another disk, and run the same command again; what is finished is kept"
        raise OSError(error.errno, f"{os.strerror(error.errno)} for {len(content):,} bytes: {remedy}", str(path)) from error
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _link(beside: Path, path: Path) -> None:
    """Give ``beside`` its name unless that is taken; a disk without hard links can only be asked beforehand."""
    try:
        os.link(beside, path)
        taken = False
    except FileExistsError:
        taken = True
    except OSError:
        taken = path.exists()
        if not taken:
            os.replace(beside, path)
    if taken:
        raise EngineError(f"'{path}' is there already and is kept: another process writes in this folder; stop one of the two")


def clean(folder: Path) -> None:
    """Remove what killed writers left beside their targets; only for who holds the folder."""
    for left in folder.rglob(f".*{TEMPORARY}"):
        left.unlink(missing_ok=True)


def hold(folder: Path) -> None:
    """Make this process the only one that works in ``folder``, until ``release`` or its end.

    Raises InputError that names the process which holds it. On a disk without locks it holds nothing.
    """
    held = _held.get(folder)
    if held is not None:
        # A folder that was deleted and made anew has another lock.
        if _same(held, folder / LOCK):
            return
        release(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 - it stays open as long as the lock is held
    if not _locked(file):
        raise InputError(_in_use(folder, file))
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    _held[folder] = file


def refuse_held(folder: Path) -> None:
    """InputError where another process holds ``folder``; writes nothing."""
    if folder in _held or not (folder / LOCK).exists():
        return
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        if not _locked(file):
            raise InputError(_in_use(folder, file))


def release(folder: Path | None = None) -> None:
    """Let others work in ``folder``, or in every folder this process holds."""
    for path in [*_held] if folder is None else [folder]:
        file = _held.pop(path, None)
        if file is not None:
            file.close()


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # Some parallel file systems are mounted without locks: there, two commands are the user's to avoid.
        return True
    return True


def _same(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _in_use(folder: Path, file: IO[str]) -> str:
    file.seek(0)
    holder = file.read().strip() or "another process"
    file.close()
    return f"'{folder}' is in use by {holder}: wait for it, stop it, or give this command its own --out folder"
