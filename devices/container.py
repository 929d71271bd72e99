"""What this process runs inside of: a container, a virtual machine, a Windows subsystem. Figures read there are not the machine's.

Docker and Podman leave a file, systemd-nspawn and LXC tell init, Kubernetes names its control groups. A hypervisor shows as a
processor flag on x86 and as a device tree or product name elsewhere.
Spec: https://systemd.io/CONTAINER_INTERFACE, https://docs.kernel.org/arch/x86/cpuinfo.html
"""

from __future__ import annotations

import re
from pathlib import Path

from edgeport.devices.cgroup import read_text

MARKS = (("docker", ".dockerenv"), ("podman", "run/.containerenv"))
GROUP_NAMES = (("kubernetes", "kubepods"), ("docker", "docker"), ("podman", "libpod"), ("lxc", "lxc"))
PRODUCTS = re.compile(
    r"kvm|qemu|vmware|virtualbox|virtual machine|amazon ec2|google compute|openstack", re.IGNORECASE
)


def container_kind(root: Path = Path("/")) -> str | None:
    """`docker`, `podman`, `kubernetes`, `lxc`, what systemd calls it, `wsl`, or None."""
    groups = read_text(root / "proc/self/cgroup") + read_text(root / "proc/1/cgroup")
    if "kubepods" in groups:
        return "kubernetes"
    for kind, mark in MARKS:
        if (root / mark).exists():
            return kind
    if told := read_text(root / "run/systemd/container").strip():
        return told
    for kind, name in GROUP_NAMES:
        if name in groups:
            return kind
    return "wsl" if "microsoft" in read_text(root / "proc/version").lower() else None


def is_virtual(root: Path = Path("/")) -> bool:
    """Whether the processor is lent by a hypervisor: its caches may be shared and its clock not the real one."""
    flags = re.search(r"^flags\s*:\s*(.*)$", read_text(root / "proc/cpuinfo"), re.MULTILINE)
    if flags and "hypervisor" in flags.group(1).split():
        return True
    return bool(PRODUCTS.search(read_text(root / "sys/class/dmi/id/product_name")))
