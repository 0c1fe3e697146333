"""Landlock through ctypes: a process gives up the file system and TCP for good, threads that it starts later included.

It binds the calling thread and what that thread starts, so it must come before an engine starts threads (a COPY TO succeeded
where it came after: reference hardening, 10.4). Source: Linux Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_FILE, _MAKE_REG, _TRUNCATE = 1 << 5, 1 << 8, 1 << 14
_FS_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_FS_RIGHTS_LATEST = (1 << 16) - 1  # ABI 5 adds ioctl on devices
_NET_BIND_CONNECT = 3  # ABI 4
_SCOPE_SOCKETS_AND_SIGNALS = 3  # ABI 6: abstract Unix sockets, signals to processes outside

READ_FILES = _READ_FILE
READ_TREE = _READ_FILE | _READ_DIR
SPILL_TREE = READ_TREE | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE

_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """Say which version the kernel offers; 0: none."""
    return max(int(_libc.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)), 0)


def restrict(rules: Iterable[tuple[str, int]]) -> int:
    """Give up everything but the rules: (path, rights below it). A path that does not exist gives nothing.

    Returns:
        The ABI in force; 0 where the kernel has no Landlock, and then nothing was given up.

    Raises:
        OSError: the kernel has it and refused.
    """
    version = abi()
    if version == 0:
        return 0
    handled = _FS_RIGHTS_BY_ABI.get(version, _FS_RIGHTS_LATEST)
    attributes = struct.pack("=Q", handled)
    if version >= 4:
        attributes += struct.pack("=Q", _NET_BIND_CONNECT)
    if version >= 6:
        attributes += struct.pack("=Q", _SCOPE_SOCKETS_AND_SIGNALS)
    ruleset = _call(_CREATE_RULESET, ctypes.create_string_buffer(attributes, len(attributes)), len(attributes), 0)
    try:
        for path, rights in rules:
            _allow(ruleset, path, rights & handled)
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "no_new_privs")
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not os.path.isdir(path):
            rights &= _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE  # the kernel refuses folder rights on a file
        _call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.create_string_buffer(struct.pack("=Qi", rights, place)), 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result
