"""Write a CycloneDX bill of materials beside each wheel: what it pulls in, in which version, under which licence.

The components are those that the wheel's own metadata asks for, followed through the metadata of what is installed; their
versions and digests are those of the lock file, and an environment that differs from the lock file is an error. What only an
extra brings has the scope ``optional``; an extra of which the lock file holds nothing is left out, and the bill says so.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import BytesHeaderParser
from importlib import metadata
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)(?: *; *([^\\\n]+))?")
# What some projects write where an SPDX identifier belongs; the classifiers say the rest.
_SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "ISC License": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}


Lock = dict[str, tuple[str, tuple[str, ...]]]  # name -> version, digests of the files that may be installed


class BillError(Exception):
    """No honest bill can be written; the message says why."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """What a wheel's own metadata says."""

    path: Path
    name: str
    version: str
    requires: tuple[Requirement, ...]
    extras: tuple[str, ...]


@dataclass(slots=True)
class Part:
    """One package that a wheel pulls in."""

    name: str
    version: str
    optional: bool
    requires: set[str] = field(default_factory=set)


def read_wheel(path: Path) -> Wheel:
    """Read the metadata of a wheel."""
    with zipfile.ZipFile(path) as archive:
        (name,) = [item for item in archive.namelist() if item.endswith(".dist-info/METADATA")]
        header = BytesHeaderParser().parsebytes(archive.read(name))
    return Wheel(
        path,
        canonicalize_name(str(header["Name"])),
        str(header["Version"]),
        tuple(Requirement(str(text)) for text in header.get_all("Requires-Dist") or ()),
        tuple(str(text) for text in header.get_all("Provides-Extra") or ()),
    )


def read_lock(path: Path) -> Lock:
    """Read the lock file; of several versions of one package, that which is for this Python."""
    locked: Lock = {}
    for block in re.split(r"\n(?=\S)", path.read_text(encoding="utf-8")):
        found = _PIN.match(block)
        other = found and found[3] and not Marker(found[3].strip()).evaluate()
        if found and not (other and canonicalize_name(found[1]) in locked):
            locked[canonicalize_name(found[1])] = (found[2], tuple(_HASH.findall(block)))
    return locked


def unlocked_extras(wheel: Wheel, locked: Lock) -> tuple[str, ...]:
    """Name the extras that ask for something which the lock file does not hold."""
    return tuple(
        extra
        for extra in wheel.extras
        if any(canonicalize_name(item.name) not in locked for item in _active(wheel.requires, frozenset({extra})))
    )


def closure(wheel: Wheel, others: dict[str, Wheel], locked: Lock) -> dict[str, Part]:
    """Follow the requirements of a wheel through what is installed; the project's own wheels come from ``others``."""
    parts: dict[str, Part] = {}
    # What is needed without any extra comes first, so that nothing needed is called optional.
    left_out = unlocked_extras(wheel, locked)
    rounds = [("", False), *((extra, True) for extra in wheel.extras if extra not in left_out)]
    for extra, optional in rounds:
        pending = [(item, wheel.name, optional) for item in _active(wheel.requires, frozenset({extra}))]
        followed: set[tuple[str, frozenset[str]]] = set()
        while pending:
            requirement, parent, optional = pending.pop()
            name = canonicalize_name(requirement.name)
            if parent in parts:
                parts[parent].requires.add(name)
            version, requires = _installed(name, others)
            if not requirement.specifier.contains(version, prereleases=True):
                raise BillError(f"{parent} asks for {requirement}; {version} is installed: run scripts/setup")
            parts.setdefault(name, Part(name, version, optional))
            key = (name, frozenset(requirement.extras))
            if key not in followed:
                followed.add(key)
                pending += [(item, name, optional) for item in _active(requires, frozenset(requirement.extras) | {""})]
    return parts


def _active(requires: tuple[Requirement, ...], extras: frozenset[str]) -> Iterator[Requirement]:
    for item in requires:
        if item.marker is None:
            if "" in extras:
                yield item
        elif any(item.marker.evaluate({"extra": extra}) for extra in extras) and (
            "" in extras or not item.marker.evaluate({"extra": ""})
        ):
            yield item


def _installed(name: str, others: dict[str, Wheel]) -> tuple[str, tuple[Requirement, ...]]:
    if name in others:
        return others[name].version, others[name].requires
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise BillError(f"{name} is not installed: run scripts/setup") from error
    return found.version, tuple(Requirement(text) for text in found.requires or ())


def bill(wheel: Wheel, others: dict[str, Wheel], locked: Lock, epoch_s: int) -> str:
    """Give the bill of one wheel, as CycloneDX 1.6 JSON; the same inputs give the same text."""
    parts = closure(wheel, others, locked)
    digest = hashlib.sha256(wheel.path.read_bytes()).hexdigest()
    bom = Bom()
    bom.metadata.timestamp = datetime.fromtimestamp(epoch_s, UTC)
    subject = _component(wheel.name, wheel.version, ComponentType.APPLICATION, licence="Apache-2.0")
    subject.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=digest))
    bom.metadata.component = subject
    left_out = unlocked_extras(wheel, locked)
    if left_out:
        bom.metadata.properties.add(Property(name="tidegate:extras-left-out", value=", ".join(left_out)))
    components = {name: _part(part, others, locked) for name, part in parts.items()}
    bom.components.update(components.values())
    direct = {canonicalize_name(item.name) for item in wheel.requires}
    bom.register_dependency(subject, [components[name] for name in sorted(direct & components.keys())])
    for name, part in parts.items():
        bom.register_dependency(components[name], [components[needed] for needed in sorted(part.requires)])
    everything = "\n".join([digest, *(f"{part.name}=={part.version}" for part in parts.values())])
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, f"pkg:pypi/{wheel.name}@{wheel.version}#{everything}")
    return str(JsonV1Dot6(bom).output_as_string(indent=2)) + "\n"


def _part(part: Part, others: dict[str, Wheel], locked: Lock) -> Component:
    if part.name in others:
        own = _component(part.name, part.version, ComponentType.LIBRARY, licence="Apache-2.0")
        own.hashes.add(
            HashType(
                alg=HashAlgorithm.SHA_256,
                content=hashlib.sha256(others[part.name].path.read_bytes()).hexdigest(),
            )
        )
        return own
    version, digests = locked.get(part.name, ("", ()))
    if version != part.version:
        raise BillError(
            f"{part.name}: the lock file says {version or 'nothing'}, {part.version} is installed: run scripts/setup"
        )
    component = _component(part.name, part.version, ComponentType.LIBRARY, licence=_licence(part.name))
    component.scope = ComponentScope.OPTIONAL if part.optional else ComponentScope.REQUIRED
    # One version has a file for each platform: the digests belong to where they come from, not to the component itself.
    component.external_references.add(
        ExternalReference(
            type=ExternalReferenceType.DISTRIBUTION,
            url=XsUri(f"https://pypi.org/project/{part.name}/{part.version}/"),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=text) for text in digests],
        )
    )
    return component


def _component(name: str, version: str, kind: ComponentType, *, licence: str) -> Component:
    url = PackageURL("pypi", None, name, version)
    licenses: list[License] = [LicenseFactory().make_from_string(licence)] if licence else []
    return Component(name=name, version=version, type=kind, bom_ref=url.to_string(), purl=url, licenses=licenses)


def _licence(name: str) -> str:
    found = metadata.metadata(name)

    def first(field: str, prefix: str = "") -> str:
        texts = [text for text in found.get_all(field) or () if text.startswith(prefix)]
        return texts[0].strip() if texts else ""

    classifier = first("Classifier", "License :: OSI Approved ::").rsplit("::", 1)[-1].strip()
    text = first("License-Expression") or first("License") or classifier
    line = text.splitlines()[0] if text else ""
    return _SPDX.get(line, line)


def main() -> int:
    """Write NAME-VERSION.cdx.json beside every wheel given."""
    parser = argparse.ArgumentParser(description="Write a CycloneDX bill of materials beside each wheel.")
    parser.add_argument("--epoch", type=int, required=True, help="time of the build, in seconds since 1970")
    parser.add_argument("--lock", type=Path, required=True, help="the lock file, with hashes")
    parser.add_argument("wheels", type=Path, nargs="+", help="all wheels of the project")
    given = parser.parse_args()
    wheels = {wheel.name: wheel for wheel in map(read_wheel, given.wheels)}
    locked = read_lock(given.lock)
    try:
        for wheel in wheels.values():
            others = {name: other for name, other in wheels.items() if name != wheel.name}
            text = bill(wheel, others, locked, given.epoch)
            wheel.path.with_name(f"{wheel.name}-{wheel.version}.cdx.json").write_text(text, encoding="utf-8")
    except BillError as error:
        sys.stderr.write(f"sbom: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
