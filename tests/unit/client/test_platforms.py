"""The client runs on Windows and macOS too: nothing POSIX-only is called while it is imported, nor unguarded later."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
POSIX_MODULES = {
    "fcntl",
    "grp",
    "posix",
    "pwd",
    "pty",
    "resource",
    "syslog",
    "termios",
    "tty",
    "curses",
    "readline",
    "crypt",
}
POSIX_NAMES = {
    "os": {
        "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "WEXITSTATUS", "chown", "chroot", "fchmod", "fchown", "fork",
        "forkpty", "getegid", "geteuid", "getgid", "getgroups", "getpgid", "getpgrp", "getuid", "initgroups", "killpg",
        "lchown", "mkfifo", "mknod", "nice", "openpty", "pidfd_open", "posix_fallocate", "posix_spawn", "sched_getaffinity",
        "sched_setaffinity", "setegid", "seteuid", "setgid", "setpgid", "setsid", "setuid", "statvfs", "sysconf", "ttyname",
        "uname", "wait", "wait3", "wait4", "fdatasync", "memfd_create", "sendfile", "splice",
    },
    "signal": {"SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm", "pause",
               "pthread_kill", "pthread_sigmask", "setitimer", "sigwait"},
    "socket": {"AF_UNIX", "SO_REUSEPORT"},
}  # fmt: skip


def client_files() -> list[Path]:
    """Everything of the wheel `tidegate` but what only servers import: tidegate.sql and ipc are pure anyway."""
    return sorted(path for path in (ROOT / "tidegate").rglob("*.py") if "v1" not in path.parts)


def findings(path: Path) -> list[str]:
    found = []
    for node in _walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in POSIX_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module in POSIX_MODULES:
                found.append(node.module)
            found += [
                f"{node.module}.{name.name}" for name in node.names if name.name in POSIX_NAMES.get(node.module, ())
            ]
        elif isinstance(node, ast.Attribute):
            module = node.value.id if isinstance(node.value, ast.Name) else ""
            if node.attr in POSIX_NAMES.get(module, ()):
                found.append(f"{module}.{node.attr}")
    return found


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Give every node but those of functions that ask `os.name` first: they know where they are."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.FunctionDef) and _asks_os_name(child)):
            yield from _walk(child)


def _asks_os_name(function: ast.FunctionDef) -> bool:
    return any(isinstance(node, ast.If) and "os.name" in ast.unparse(node.test) for node in function.body)


@pytest.mark.parametrize("path", client_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_posix_only_name(path: Path) -> None:
    assert findings(path) == []


def test_the_check_sees_what_it_should(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import os, fcntl\nfrom signal import SIGKILL\nos.geteuid()\nos.getcwd()\ndef f():\n    return os.O_DIRECTORY\n"
        "def g():\n    if os.name != 'posix':\n        return 0\n    return os.getuid()\n"
    )
    assert sorted(findings(bad)) == ["fcntl", "os.O_DIRECTORY", "os.geteuid", "signal.SIGKILL"]


def test_import_tidegate_is_light_and_the_command_line_needs_no_posix_module() -> None:
    code = """
import sys
import tidegate
heavy = {"pyarrow", "duckdb", "sqlglot", "grpc", "typer", "rich", "cryptography"} & set(sys.modules)
assert not heavy, heavy
before = set(sys.modules)
import tidegate.client.session, tidegate.client.result, tidegate.client.evidence, tidegate.cli.query, tidegate.cli.audit
assert not {"duckdb", "sqlglot", "broker", "node", "catalogue"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
