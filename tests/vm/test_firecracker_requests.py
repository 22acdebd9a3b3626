"""Everything that Firecracker was asked, as it has noted it, against the published description of its API."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pandastack.host.driver import SnapshotFiles
from pandastack.host.firecracker_install import FirecrackerInstall
from pandastack.host.firecracker_orders import Shape, Wire, balloon_order, boot_orders, load_order
from pandastack.model.host import SnapshotSpec
from pandastack.testing.fixtures import eventually
from tests.vm.firecracker_yard import corner
from tests.vm.tiny_guest import counter_of, tiny_config

API: dict[str, Any] = json.loads(Path(__file__).with_name("firecracker_api.json").read_text())

HEARD = re.compile(r'received a (\w+) request on "([^"]+)"(?: with body (".*"))?\.$', re.MULTILINE)
KINDS: dict[str, type | tuple[type, ...]] = {"string": str, "boolean": bool, "integer": int, "array": list}


def faults(method: str, path: str, body: object) -> list[str]:
    """What the description does not allow in a request."""
    for template, name in API["requests"].items():
        pattern = re.sub(r"\{\w+\}", r"[^/]+", template)
        if re.fullmatch(pattern, f"{method} {path}"):
            return [] if name is None and body is None else _faults(name, body, path)
    return [f"{method} {path} is not described"]


def _faults(name: str, value: object, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where} is no {name}"]
    schema = API["definitions"][name]
    found = [f"{where} lacks {key}" for key in schema.get("required", []) if key not in value]
    for key, given in value.items():
        rule = schema["properties"].get(key)
        found += [f"{where} has {key}"] if rule is None else _wrong(rule, given, f"{where}.{key}")
    return found


def _wrong(rule: dict[str, Any], given: object, where: str) -> list[str]:
    if "ref" in rule:
        return _faults(rule["ref"], given, where)
    kind = KINDS[rule["type"]]
    if not isinstance(given, kind) or (kind is int and isinstance(given, bool)):
        return [f"{where} is no {rule['type']}"]
    if "items" in rule and isinstance(given, list):
        return [fault for one in given for fault in _faults(rule["items"], one, where)]
    if "enum" in rule and given not in rule["enum"]:
        return [f"{where} may not be {given}"]
    if isinstance(given, int) and not rule.get("minimum", given) <= given <= rule.get("maximum", given):
        return [f"{where} may not be {given}"]
    return []


def heard(home: Path) -> list[tuple[str, str, object]]:
    """The requests in a machine's log."""
    log = (home / "vmm.log").read_text()
    return [
        (method.upper(), path, json.loads(json.loads(body)) if body else None)
        for method, path, body in HEARD.findall(log)
    ]


@pytest.mark.anyio
@pytest.mark.vm
@pytest.mark.root
async def test_all_that_it_was_asked_is_described(firecracker: FirecrackerInstall, tmp_path: Path) -> None:
    yard = corner(firecracker, tmp_path, Shape(balloon=True, log_level="Info"))
    machine = await yard.driver.boot(yard.config, yard.home("one"))
    try:
        await eventually(lambda: counter_of(machine.pid) > 0)
        snapshot = await machine.snapshot(yard.home("snapshot"))
        await machine.metrics()
    finally:
        await machine.stop(0)
    machine = await yard.driver.restore(snapshot, yard.config, yard.home("two"))
    try:
        await differ(yard.home("snapshot-2"), machine, snapshot)
    finally:
        await machine.stop(0)
    asked = [one for name in ("one", "two") for one in heard(yard.place / name)]
    paths = {f"{method} {path}" for method, path, _ in asked}
    assert paths == {
        *("PUT /machine-config", "PUT /boot-source", "PUT /drives/disk", "PUT /vsock", "PUT /balloon"),
        *("PUT /actions", "PATCH /vm", "GET /", "PUT /snapshot/create", "PUT /snapshot/load"),
    }
    assert [fault for request in asked for fault in faults(*request)] == []


async def differ(into: Path, machine: Any, base: SnapshotFiles) -> None:  # noqa: ANN401  # the driver's own
    await machine.snapshot_since(base, into, SnapshotSpec(id="s", vm="any"), lambda: None)


def test_what_needs_a_network_is_described_as_well(tmp_path: Path) -> None:
    wire = Wire(3, "tap")
    orders = boot_orders(tiny_config(tmp_path, "one"), Shape(wired=True, balloon=True), wire)
    for order in [*orders, load_order(wire), load_order(None), balloon_order(5)]:
        assert faults(order.method, order.path, order.body) == []


@pytest.mark.parametrize(
    ("method", "path", "body", "fault"),
    [
        ("PUT", "/vm", {"state": "Paused"}, "not described"),
        ("PATCH", "/vm", {"state": "Dead"}, "may not be Dead"),
        ("PATCH", "/vm", {}, "lacks state"),
        ("PUT", "/vsock", {"guest_cid": 2, "uds_path": "v"}, "may not be 2"),
        ("PUT", "/vsock", {"guest_cid": "3", "uds_path": "v"}, "is no integer"),
        ("PUT", "/snapshot/load", {"snapshot_path": "s", "network": []}, "has network"),
        (
            "PUT",
            "/snapshot/load",
            {"snapshot_path": "s", "mem_backend": {"backend_type": "File"}},
            "lacks backend_path",
        ),
        (
            "PUT",
            "/snapshot/load",
            {"snapshot_path": "s", "network_overrides": [{"iface_id": "e"}]},
            "lacks host_dev_name",
        ),
    ],
)
def test_what_is_not_described_is_found(method: str, path: str, body: object, fault: str) -> None:
    assert [one for one in faults(method, path, body) if fault in one]
