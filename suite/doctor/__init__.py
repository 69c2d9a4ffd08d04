"""What this machine has and lacks for the suite, and the command that would help.

Nothing here fails because something is absent, torch included: absence is what it reports.
"""

from __future__ import annotations

from collections.abc import Sequence

from suite.doctor.ascend import check_ascend
from suite.doctor.checks import Check, DeviceKind, format_checks
from suite.doctor.devices import DEVICE, check_cpu, check_cuda, check_device, count_devices
from suite.doctor.job import check_recipe
from suite.doctor.machine import check_machine
from suite.doctor.needs import Needs, measure_needs
from suite.doctor.network import check_network
from suite.doctor.packages import TORCH_INSTALL, TORCH_RANGE, check_packages, check_torch
from suite.errors import MissingEnvironment
from suite.recipe import Recipe

__all__ = [
    "TORCH_INSTALL",
    "TORCH_RANGE",
    "Check",
    "DeviceKind",
    "doctor",
    "format_checks",
    "require_device",
]


def doctor(
    device: DeviceKind = "auto", *, recipe: Recipe | None = None, typed: str | None = None
) -> list[Check]:
    """Look at everything the suite uses; the last check is the device asked for.

    Args:
        device: that must be usable.
        recipe: whose needs the machine is held against; None: those of a run on one device.
        typed: what names that recipe to `suite train`; None: its own name, as of shipped ones.
    """
    torch_check = check_torch()
    has_torch = torch_check.status != "missing"
    num_here = 0 if recipe is None else count_devices(recipe.device, has_torch=has_torch)
    needs = Needs()
    if recipe is not None:
        needs = measure_needs(recipe, num_here=num_here, has_torch=has_torch)
    checks = [*check_packages(torch_check), *check_machine(needs)]
    checks += check_network(needs, has_recipe=recipe is not None)
    if has_torch:
        checks.append(check_cpu())
    checks += [*check_cuda(has_torch=has_torch), *check_ascend(needs, has_torch=has_torch)]
    if recipe is not None:
        checks += check_recipe(recipe, needs, num_here=num_here, typed=typed or recipe.name)
    if not has_torch:
        return [*checks, Check(DEVICE, "missing", "torch does not load", torch_check.remedy)]
    return [*checks, check_device(device)]


def require_device(checks: Sequence[Check]) -> None:
    """Do nothing if the device that `doctor` was asked about is usable.

    Raises:
        MissingEnvironment: it is not; holds the remedy.
    """
    for check in checks:
        if check.name == DEVICE and check.status == "missing":
            raise MissingEnvironment(f"{check.value}; {check.remedy}")
