"""The bill of packages of a template in the words of SPDX 2.3."""

from __future__ import annotations

from urllib.parse import quote

from msgspec import UNSET, Struct, UnsetType, field

from pandastack.model.build import OwnTemplate
from pandastack.model.comparison import Package

VERSION = "SPDX-2.3"
LICENSE = "CC0-1.0"
"""Of the document itself, as its specification has it."""
UNKNOWN = "NOASSERTION"
DOCUMENT, ROOT = "SPDXRef-DOCUMENT", "SPDXRef-Template"
DISTRIBUTION = "os"
"""The kind of the package that is the distribution itself."""
USUAL = {"deb": "debian", "apk": "alpine"}
"""Kinds whose package URLs name a distribution, and which when the image does not say."""


class CreationInfo(Struct, frozen=True):
    """Who made the document, and when."""

    created: str
    creators: list[str]


class ExternalRef(Struct, frozen=True, kw_only=True, rename="camel"):
    """What a package is called elsewhere: its package URL."""

    reference_category: str = "PACKAGE-MANAGER"
    reference_type: str = "purl"
    reference_locator: str


class Item(Struct, frozen=True, kw_only=True, rename="camel"):
    """A package of the document."""

    id: str = field(name="SPDXID")
    name: str
    version_info: str
    download_location: str = UNKNOWN
    files_analyzed: bool = False
    license_concluded: str = UNKNOWN
    license_declared: str = UNKNOWN
    copyright_text: str = UNKNOWN
    primary_package_purpose: str | UnsetType = UNSET
    source_info: str | UnsetType = UNSET
    external_refs: list[ExternalRef] | UnsetType = UNSET


class Relationship(Struct, frozen=True, kw_only=True, rename="camel"):
    """What one element is to another."""

    id: str = field(name="spdxElementId")
    relationship_type: str
    other: str = field(name="relatedSpdxElement")


class Document(Struct, frozen=True, kw_only=True, rename="camel"):
    """A document of SPDX 2.3."""

    spdx_version: str = VERSION
    data_license: str = LICENSE
    id: str = field(name="SPDXID", default=DOCUMENT)
    name: str
    document_namespace: str
    creation_info: CreationInfo
    document_describes: list[str] = field(default_factory=lambda: [ROOT])
    packages: list[Item]
    relationships: list[Relationship]


def document(template: OwnTemplate, program_version: str) -> Document:
    """What is in a version of a template, with the moment of its build, so it is the same each time."""
    distribution = next((each for each in template.packages if each.kind == DISTRIBUTION), None)
    root = Item(
        id=ROOT,
        name=template.name,
        version_info=str(template.version),
        primary_package_purpose="CONTAINER",
        source_info=f"SHA-256 over the list of all files: {template.content}"
        + (f"; built of {template.source}" if template.source else ""),
    )
    items = [
        _item(number, package, distribution) for number, package in enumerate(template.packages, start=1)
    ]
    contains = [Relationship(id=ROOT, relationship_type="CONTAINS", other=each.id) for each in items]
    return Document(
        name=template.exact,
        document_namespace=f"urn:uuid:{template.build_id}",
        creation_info=CreationInfo(
            created=template.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            creators=[f"Tool: pandastack-{program_version}"],
        ),
        packages=[root, *items],
        relationships=[
            Relationship(id=DOCUMENT, relationship_type="DESCRIBES", other=ROOT),
            *contains,
        ],
    )


def purl(package: Package, distribution: Package | None) -> str | None:
    """The package URL; None for the distribution itself."""
    if package.kind == DISTRIBUTION:
        return None
    name, version = quote(package.name, safe=""), quote(package.version, safe="")
    if package.kind == "pypi":
        return f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
    vendor = distribution.name if distribution is not None else USUAL.get(package.kind, "unknown")
    release = "" if distribution is None else f"?distro={distribution.name}-{quote(distribution.version)}"
    return f"pkg:{package.kind}/{quote(vendor, safe='')}/{name}@{version}{release}"


def _item(number: int, package: Package, distribution: Package | None) -> Item:
    url = purl(package, distribution)
    return Item(
        id=f"SPDXRef-Package-{number}",
        name=package.name,
        version_info=package.version,
        primary_package_purpose=UNSET if url is not None else "OPERATING-SYSTEM",
        external_refs=UNSET if url is None else [ExternalRef(reference_locator=url)],
    )
