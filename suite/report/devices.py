"""Names of devices as sources and drivers write them: which kind it is, and which are the same."""

from __future__ import annotations

import re

_KINDS = {"ascend": "npu", "nvidia": "cuda", "tesla": "cuda", "tpu": "tpu", "xeon": "cpu"}
_COUNT = re.compile(r"\d+x|x\d+")


def device_kind(name: str) -> str:
    """Return cpu, cuda, npu or tpu as a published name tells it; the name itself where not."""
    known = (kind for word, kind in _KINDS.items() if word in name.lower())
    return next(known, name)


def is_same_device(ours: str, theirs: str) -> bool:
    """Whether two names mean one product: their model designations agree.

    "NVIDIA H200" is "H200-SXM-141GB"; "Ascend910B3" is a bin of "Ascend 910B" and no "Ascend 910".
    """
    if _words(ours) == _words(theirs):
        return True
    one, other = sorted((device_model(ours), device_model(theirs)), key=len)
    if not one or one == other:
        return bool(one)
    rest = other.removeprefix(one)
    return not one[-1].isdigit() and rest != other and rest.isdigit()


def device_model(name: str) -> str:
    """Return the designation in a name, such as "v100"; empty where it holds none."""
    return next((word for word in _words(name) if re.search(r"\d", word)), "")


def _words(name: str) -> list[str]:
    separated = name.lower().replace("ascend", "ascend ")
    words = re.findall(r"[a-z0-9]+", separated)
    return [word for word in words if not _COUNT.fullmatch(word)]
