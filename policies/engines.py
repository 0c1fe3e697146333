"""Two engines for the same rules: rego-cpp inside the process (default), and a real OPA server by URL.

An engine gives back what the rules said as parsed JSON, trusted by nobody: ``policies.point`` validates it. An engine
raises whatever goes wrong as ``EngineError``; it never invents an answer.
"""

from __future__ import annotations

import ipaddress
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import regopy
import requests
from opa_client import OpaClient
from opa_client import errors as opa_errors

from policies.bundle import ENTRYPOINT, Bundle
from policies.deadline import BoundedPool
from tidegate.core.errors import Code, error_for

TIMEOUT_S = 2.0  # a decision takes a few milliseconds; three orders of magnitude more is an outage
EMBEDDED_THREADS = 2
OPA_CALLS_MAX = 8
OPA_PREFIX = "tidegate/"
OPA_VERSION_MIN = (1, 20, 1)  # 1.19 fixed an injection, 1.20.0 compared numbers wrongly (design policy.md)
_FAULTS: tuple[type[Exception], ...] = (
    requests.RequestException,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    *(item for item in vars(opa_errors).values() if isinstance(item, type) and issubclass(item, Exception)),
)
_PUSHING = "being pushed"


class EngineError(Exception):
    """The engine gave no answer; the text is for the log only."""


class Engine(Protocol):
    """What the decision point needs of an engine."""

    @property
    def revision(self) -> str:
        """The revision of the bundle that was asked for."""
        ...

    def ask(self, question: Mapping[str, Any]) -> Any:
        """Give the parsed answer ``{"revision", "decision"}``, unchecked.

        Raises:
            EngineError: whatever kept the engine from answering in time.
        """
        ...


class EmbeddedEngine:
    """rego-cpp: the bundle is compiled once, then evaluated by entry point. Thread-safe.

    Its answers may be kept (``policies.memory``): nobody can change the rules while the process runs.
    """

    may_be_kept = True

    def __init__(self, bundle: Bundle, *, timeout_s: float = TIMEOUT_S, threads: int = EMBEDDED_THREADS) -> None:
        self._revision = bundle.revision
        self._timeout_s = timeout_s
        self._pool = BoundedPool(lambda: _Compiled(bundle), threads, "policy")

    @property
    def revision(self) -> str:
        """The revision of the bundle."""
        return self._revision

    def ask(self, question: Mapping[str, Any]) -> Any:
        """Evaluate the question.

        Raises:
            EngineError: the rules gave no value, or gave it too late.
        """
        text = json.dumps(question, allow_nan=False)
        try:
            return self._pool.run(lambda compiled: compiled.evaluate(text), self._timeout_s)
        except TimeoutError as error:
            raise EngineError(f"embedded engine: no answer in {self._timeout_s} s") from error

    def close(self) -> None:
        """Let the threads end."""
        self._pool.close()


class _Compiled:
    """One interpreter with its compiled bundle; used by one thread at a time (its input is state)."""

    def __init__(self, bundle: Bundle) -> None:
        self._interpreter = regopy.Interpreter()
        try:
            for name, source in bundle.modules.items():
                self._interpreter.add_module(name, source)
            self._interpreter.add_data(dict(bundle.data))
            self._bundle = self._interpreter.build(None, [ENTRYPOINT])
        except (regopy.RegoError, ValueError) as error:
            raise error_for(
                Code.CONFIG_INVALID, "policy bundle: the rules do not compile", detail=str(error)
            ) from error
        if not self._bundle.ok():
            raise error_for(Code.CONFIG_INVALID, "policy bundle: the rules do not compile")

    def evaluate(self, text: str) -> Any:
        # As a term: regopy's own conversion of Python values does not escape quotes inside strings (1.5.2).
        try:
            self._interpreter.set_input_term(text)
            output = self._interpreter.query_bundle_entrypoint(self._bundle, ENTRYPOINT)
            if not output.ok():
                raise EngineError(f"embedded engine: {str(output)[:2000]}")
            results = output.results
        except (regopy.RegoError, ValueError) as error:
            raise EngineError(f"embedded engine: {error!r}"[:2000]) from error
        if len(results) != 1 or len(results[0].expressions) != 1:
            raise EngineError("embedded engine: the rules gave no value")
        return results[0].expressions[0]


class OpaEngine:
    """A real OPA server, asked over REST. The bundle is pushed at once and read back.

    The server is trusted to decide: it must be ours alone, reached over TLS or on this machine.
    """

    def __init__(
        self,
        url: str,
        bundle: Bundle,
        timeout_s: float = TIMEOUT_S,
        *,
        token: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        """Connect and push.

        Raises:
            CallerError: CONFIG_INVALID for a URL that is not of the form, or is plain http to another machine.
            InternalError: POLICY_UNAVAILABLE when the bundle cannot be pushed or does not read back the same.
        """
        self._bundle = bundle
        self._timeout_s = timeout_s
        self._pool = BoundedPool(lambda: _client(url, timeout_s, token, ca_file), OPA_CALLS_MAX, "opa")
        self.push()

    @property
    def revision(self) -> str:
        """The revision of the bundle that was pushed."""
        return self._bundle.revision

    def push(self) -> None:
        """Push the bundle and read it back.

        The revision is unset first and set last, so that no answer between carries a revision it was not made by.
        """
        try:
            # A push is some twenty calls; each has the timeout, and so has none of them for ever.
            self._pool.run(self._push, self._timeout_s * 30)
        except (TimeoutError, EngineError) as error:
            raise error_for(Code.POLICY_UNAVAILABLE, detail=f"OPA: push: {error}") from error

    def ask(self, question: Mapping[str, Any]) -> Any:
        """Ask the server.

        Raises:
            EngineError: it is away, slow, answers with an error, or has no value to give.
        """
        package, _, rule = ENTRYPOINT.rpartition("/")
        try:
            answer = self._pool.run(
                lambda client: _translated(lambda: client.query_rule(dict(question), package, rule)), self._timeout_s
            )
        except TimeoutError as error:
            raise EngineError(f"OPA: no answer in {self._timeout_s} s") from error
        if not isinstance(answer, dict) or "result" not in answer:
            raise EngineError("OPA: the rules gave no value")
        return answer["result"]

    def close(self) -> None:
        """Let the threads end."""
        self._pool.close()

    def _push(self, client: OpaClient) -> None:
        _translated(lambda: self._push_calls(client))

    def _push_calls(self, client: OpaClient) -> None:
        _check_version(client)
        mine = self._bundle.data["tidegate"]
        client.update_or_create_data({"revision": _PUSHING, "overlays": []}, "tidegate/bundle")
        wanted = {OPA_PREFIX + name: text for name, text in _packages(self._bundle.modules).items()}
        for known in client.get_policies_list():
            if known.startswith(OPA_PREFIX) and known not in wanted:
                client.delete_policy(known)
        for name, text in wanted.items():
            client.update_policy_from_string(text, name, rego_compat=False)
        client.update_or_create_data(dict(mine["vocabulary"]), "tidegate/vocabulary")
        client.update_or_create_data(dict(mine["bundle"]), "tidegate/bundle")
        for name, text in wanted.items():
            if client.get_policy(name).get("result", {}).get("raw") != text:
                raise EngineError(f"OPA: {name}: does not read back as it was pushed")
        for part in ("vocabulary", "bundle"):
            if client.get_data(f"tidegate/{part}").get("result") != mine[part]:
                raise EngineError(f"OPA: {part}: does not read back as it was pushed")


def _packages(modules: Mapping[str, str]) -> dict[str, str]:
    """Join the files of each package into one module.

    The server compiles at every push, and a file that calls a function of another file that is not there yet does not
    compile; a package is whole or not there.
    """
    folders: dict[str, list[str]] = {}
    for name in sorted(modules):
        folders.setdefault(name.rpartition("/")[0], []).append(modules[name])
    return {f"{folder}.rego": _joined(texts) for folder, texts in folders.items()}


def _joined(texts: list[str]) -> str:
    """Join Rego files of one package: one package line, each import once, then the bodies in order."""
    package, imports, bodies = "", dict[str, None](), []
    for text in texts:
        lines = text.splitlines()
        start = next(number for number, line in enumerate(lines) if line.startswith("package "))
        package = lines[start]
        imports |= {line: None for line in lines[start + 1 :] if line.startswith("import ")}
        bodies += [line for line in lines[start + 1 :] if not line.startswith("import ")]
    return "\n".join([package, "", *imports, "", *bodies]) + "\n"


def _translated(call: Callable[[], Any]) -> Any:
    """Run a call of the client; whatever it raises becomes ``EngineError``."""
    try:
        return call()
    except _FAULTS as error:
        raise EngineError(f"OPA: {error!r}"[:2000]) from error


def _client(url: str, timeout_s: float, token: str | None, ca_file: Path | None) -> OpaClient:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise error_for(Code.CONFIG_INVALID, "OPA URL: expected https://host:port, or http:// on this machine")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise error_for(Code.CONFIG_INVALID, "OPA URL: plain http to another machine; decisions could be forged")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    verify = (str(ca_file) if ca_file else True) if parts.scheme == "https" else False
    port = parts.port or (443 if parts.scheme == "https" else 8181)
    client = OpaClient(host=host, port=port, ssl=verify, token=token, retries=0, timeout=math.ceil(timeout_s * 10) / 10)
    # A proxy of the environment has no business between us and our own decision server.
    client._session.trust_env = False  # the client offers no other way
    return client


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_version(client: OpaClient) -> None:
    # Asked of the evaluator itself: the REST API has no version of its own.
    answer = client.ad_hoc_query("v := opa.runtime().version")
    text = str(answer["result"][0]["v"]) if answer.get("result") else ""
    numbers = tuple(int(part) for part in text.split("-")[0].split(".") if part.isdigit())
    if numbers < OPA_VERSION_MIN:
        raise EngineError(f"OPA: version {text or 'unknown'}; expected {'.'.join(map(str, OPA_VERSION_MIN))} or later")
