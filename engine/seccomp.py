"""A seccomp filter through prctl: no sockets, no new programs, no other process touched. Inherited by every later thread.

Landlock knows TCP only; this closes the rest of the network. A refused call fails with EPERM, so that a library which tries
one reports an error. Source: Linux Documentation/userspace-api/seccomp_filter.rst; numbers from asm/unistd.h.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # 1 is EPERM
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_ARGUMENT_0 = 0, 4, 16
_X32_BIT = 0x40000000

# socket socketpair bind listen accept connect accept4 execve execveat ptrace kill tkill process_vm_readv process_vm_writev
# unshare setns bpf perf_event_open mount add_key request_key keyctl userfaultfd open_by_handle_at
_X86_64 = "41 53 49 50 43 42 288 59 322 101 62 200 310 311 272 308 321 298 165 248 249 250 323 304"
_AARCH64 = "198 199 200 201 202 203 242 221 281 117 129 130 270 271 97 268 280 241 40 217 218 219 282 265"
_NUMBERS = {  # machine: (AUDIT_ARCH, tgkill, refused in the order above)
    "x86_64": (0xC000003E, 234, tuple(map(int, _X86_64.split()))),
    "aarch64": (0xC00000B7, 131, tuple(map(int, _AARCH64.split()))),
}
_COMMON = (424, 425, 434, 438)  # pidfd_send_signal io_uring_setup pidfd_open pidfd_getfd


def restrict() -> bool:
    """Install the filter for this thread and what it starts.

    Returns:
        False where the machine is of an architecture that this module has no numbers for, or the kernel has no filters.
    """
    if platform.machine() not in _NUMBERS:
        return False
    architecture, tgkill, refused = _NUMBERS[platform.machine()]
    program = _program(architecture, tgkill, refused + _COMMON, os.getpid())
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.create_string_buffer(header, len(header)), 0, 0) == 0)


def _program(architecture: int, tgkill: int, refused: tuple[int, ...], own_pid: int) -> bytes:
    """Give the filter: each instruction is (code, jump if true, jump if false, operand)."""
    steps = [
        (_LOAD, 0, 0, _OFFSET_ARCH),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _OFFSET_NUMBER),
    ]
    steps += [(_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _REFUSE)]
    for number in refused:
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    steps += [  # abort() signals its own process; any other target is refused
        (_EQUAL, 0, 3, tgkill),
        (_LOAD, 0, 0, _OFFSET_ARGUMENT_0),
        (_EQUAL, 1, 0, own_pid),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
