"""What a process runs inside of, from trees of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeport.devices.container import container_kind, is_virtual

if TYPE_CHECKING:
    from tests.unit.devices.conftest import FakeRoot


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({".dockerenv": ""}, "docker"),
        ({"run/.containerenv": "engine"}, "podman"),
        ({"run/systemd/container": "systemd-nspawn\n"}, "systemd-nspawn"),
        ({"proc/self/cgroup": "0::/kubepods.slice/pod1\n", ".dockerenv": ""}, "kubernetes"),
        ({"proc/self/cgroup": "5:cpu:/docker/0123abc\n"}, "docker"),
        ({"proc/1/cgroup": "4:memory:/lxc/box\n"}, "lxc"),
        ({"proc/version": "Linux version 6.6 (Microsoft@Microsoft.com)\n"}, "wsl"),
        ({"proc/self/cgroup": "0::/user.slice\n", "proc/version": "Linux version 6.6\n"}, None),
        ({}, None),
    ],
)
def test_containers(files: dict[str, str], kind: str | None, fake_root: FakeRoot) -> None:
    assert container_kind(fake_root(files)) == kind


@pytest.mark.parametrize(
    ("files", "virtual"),
    [
        ({"proc/cpuinfo": "flags\t: fpu hypervisor avx\n"}, True),
        ({"proc/cpuinfo": "flags\t: fpu avx\n"}, False),
        ({"proc/cpuinfo": "model name : Hypervisor 3000\n"}, False),
        ({"sys/class/dmi/id/product_name": "KVM Virtual Machine\n"}, True),
        ({"sys/class/dmi/id/product_name": "ProLiant DL380\n"}, False),
    ],
)
def test_virtual_machines(files: dict[str, str], virtual: bool, fake_root: FakeRoot) -> None:
    assert is_virtual(fake_root(files)) == virtual
