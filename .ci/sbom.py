"""What a release stands on, as CycloneDX 1.6: truing and every package that it needs, as they are installed here.

    python .ci/sbom.py FILE            the bill of materials, as JSON
    python .ci/sbom.py --pins FILE     the same packages as name==version, one a line, for `make audit`

What is installed for development alone is not in it. The same packages give the same bytes.
"""

from __future__ import annotations

import re
import sys
import uuid
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT, EXTRA = "truing", "all"
_NAMESPACE = uuid.UUID("8a0f2f43-6c0c-4a53-9c62-0d6c1c6c9c11")


def main() -> None:
    """Write one of the two."""
    *flags, file = sys.argv[1:]
    found = closure()
    text = pins(found) if flags == ["--pins"] else bill(found)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text, encoding="utf-8")
    print(f"{len(found)} packages in {file}")


def closure() -> Mapping[str, tuple[Distribution, set[str]]]:
    """Every package that truing with all its extras needs here, with the names of those that it needs itself."""
    found: dict[str, tuple[Distribution, set[str]]] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(ROOT, ""), (ROOT, EXTRA)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            package = found[name][0] if name in found else distribution(name)
        except PackageNotFoundError:
            continue  # of another system, or left out on purpose: what is not here is not shipped
        needs = found.setdefault(name, (package, set()))[1]
        for need in map(Requirement, package.requires or ()):
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                other = canonicalize_name(need.name)
                if other != name:
                    needs.add(other)
                waiting += [(other, ""), *((other, canonicalize_name(some)) for some in need.extras)]
    return dict(sorted(found.items()))


def pins(found: Iterable[str]) -> str:
    """name==version of every package but truing itself."""
    return "".join(f"{name}=={_public(distribution(name).version)}\n" for name in found if name != ROOT)


def bill(found: Mapping[str, tuple[Distribution, set[str]]]) -> str:
    """The bill of materials."""
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    parts: dict[str, Component] = {}
    for name, (package, _) in found.items():
        licence = _licence(package)
        parts[name] = Component(
            name=name,
            version=package.version,
            type=ComponentType.APPLICATION if name == ROOT else ComponentType.LIBRARY,
            bom_ref=f"{name}=={package.version}",
            purl=PackageURL("pypi", name=name, version=package.version),
            description=package.metadata.get("Summary"),
            licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
        )
    told = Bom(components=[part for name, part in parts.items() if name != ROOT])
    told.metadata.component = parts[ROOT]
    told.metadata.timestamp = None  # pyright: ignore
    for name, (_, needs) in found.items():
        told.register_dependency(parts[name], [parts[need] for need in sorted(needs) if need in parts])
    told.serial_number = uuid.uuid5(_NAMESPACE, "\n".join(str(part.bom_ref) for part in parts.values()))
    return JsonV1Dot6(told).output_as_string(indent=2) + "\n"


def _licence(package: Distribution) -> str:
    """What a package says of its licence in one line, "" if it does not."""
    said = package.metadata.get("License-Expression") or package.metadata.get("License") or ""
    if said and "\n" not in said and len(said) < 100:
        return said
    classified = [text for text in package.metadata.get_all("Classifier") or () if text.startswith("License ::")]
    return classified[0].rpartition(" :: ")[2] if classified else ""


def _public(version: str) -> str:
    """A version without what a builder added to it: 2.11.0 of 2.11.0+cpu."""
    return re.sub(r"\+.*", "", version)


if __name__ == "__main__":
    main()
