"""From a foreign state dict to one of ours, key by key, with an account of all of it.

Every key of the file is either taken, or ignored for a stated reason, or unknown; an unknown key, a
missing one or a shape that does not fit is a refusal. Layouts are converted by `Rewrite`s, which
work on our key names and know nothing of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from suite.errors import InputError

Tensors = Mapping[str, Tensor]
COUNTER = "num_batches_tracked"
OUR_BATCH_NORM_EPS = 1e-5
_VARIANCE = "running_var"


class Rewrite(NamedTuple):
    """A conversion of some weights.

    Attributes:
        what: as the account says it, such as "HWIO -> OIHW".
        keys: ours, those it is for.
        convert: maps a key and all weights, under our names, to the converted weight.
    """

    what: str
    keys: frozenset[str]
    convert: Callable[[str, Tensors], Tensor]


@dataclass(frozen=True)
class Translation:
    """How one kind of file becomes a state dict of ours.

    Attributes:
        what: the kind, such as "torchvision's RetinaNet".
        rename: their key -> ours; None for a key that it does not know.
        ignore: their key -> why it is left out; None for one that is needed.
        rewrites: in the order in which they are made.
        hint: what to do with a file that does not fit, as the end of a sentence.
    """

    what: str
    rename: Callable[[str], str | None]
    ignore: Callable[[str], str | None]
    rewrites: tuple[Rewrite, ...]
    hint: str


class Taken(NamedTuple):
    """A weight of ours, the key it comes from, and how its values were converted ("" if not)."""

    ours: str
    theirs: str
    how: str


class Ignored(NamedTuple):
    """A key of the file that is not used, and why."""

    theirs: str
    why: str


@dataclass(frozen=True)
class Account:
    """What became of every key.

    Attributes:
        what: the kind of file.
        taken: one for each weight.
        ignored: keys that are not used.
        filled: counters of batch norm that nothing reads, set to 0.
        unknown: keys that no rule is for; none in a finished import.
        missing: weights of ours that no key is for; none in a finished import.
        notes: what whoever uses the weights has to know.
    """

    what: str
    taken: list[Taken] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Mismatch(InputError):
    """A file does not hold what it should; nothing was written.

    Attributes:
        account: how far the translation came.
    """

    def __init__(self, message: str, account: Account) -> None:
        super().__init__(message)
        self.account = account


def translate(
    theirs: Tensors, translation: Translation, *, wanted: Tensors, source: Path
) -> tuple[dict[str, Tensor], Account]:
    """Return weights under our names, float32, and the account.

    Args:
        theirs: the file's content; only what is taken is read.
        translation: the rules.
        wanted: a state dict of ours; keys and shapes count, values need not exist.
        source: how messages name the file.

    Raises:
        Mismatch: a key is unknown or missing, or a tensor does not fit.
    """
    account = _sort_keys(theirs, translation, wanted)
    _require_all_keys(account, translation, source)
    weights = {row.ours: theirs[row.theirs] for row in account.taken}
    how = {ours: _cast(weights, ours) for ours in weights}
    for rewrite in translation.rewrites:
        weights |= _rewrite(weights, rewrite, how)
    account.taken[:] = [row._replace(how="; ".join(how[row.ours])) for row in account.taken]
    _require_fit(weights, wanted, account=account, source=source, hint=translation.hint)
    # Cloned: what is saved must not share, or drag along, the file's storage.
    weights = {
        key: value.clone(memory_format=torch.contiguous_format) for key, value in weights.items()
    }
    weights |= {key: torch.zeros_like(wanted[key], device="cpu") for key in account.filled}
    return {key: weights[key] for key in wanted}, account


def batch_norm_rewrite(wanted: Tensors, eps: float | None) -> tuple[Rewrite, ...]:
    """Return the rewrite that lets batch norm with another epsilon be ours; none for ours or None.

    w / sqrt(v + eps) = w' / sqrt(v + 1e-5) for w' = w x sqrt((v + 1e-5) / (v + eps)).
    """
    if eps is None or eps == OUR_BATCH_NORM_EPS:
        return ()

    def convert(key: str, weights: Tensors) -> Tensor:
        variance = weights[key.removesuffix("weight") + _VARIANCE].double()
        factor = (variance + OUR_BATCH_NORM_EPS) / (variance + eps)
        return (weights[key].double() * factor.sqrt()).float()

    keys = frozenset(key for key in wanted if key.removesuffix("weight") + _VARIANCE in wanted)
    return (Rewrite(f"batch norm epsilon {eps:g} -> {OUR_BATCH_NORM_EPS:g}", keys, convert),)


def format_account(account: Account) -> str:
    """Return the account as lines of text: every key, then the counts."""
    lines = [f"{account.what}:"]
    lines += [
        f"  {row.ours} <- {_show(row.theirs)}" + (f"  [{row.how}]" if row.how else "")
        for row in account.taken
    ]
    for title, keys in (
        ("ignored", [f"{_show(row.theirs)}: {row.why}" for row in account.ignored]),
        ("set to 0", account.filled),
        ("unknown", [_show(key) for key in account.unknown]),
        ("missing", account.missing),
    ):
        lines += [f"{title}:", *(f"  {key}" for key in keys)] if keys else []
    lines.append(
        f"{len(account.taken)} keys mapped, {len(account.ignored)} ignored, "
        f"{len(account.unknown)} unknown, {len(account.missing)} missing"
    )
    return "\n".join(lines + [f"note: {note}" for note in account.notes])


def _show(key: str) -> str:
    """Return a key of a file by others so that it does nothing to a terminal."""
    return key if key.isprintable() else ascii(key)


def _sort_keys(theirs: Tensors, translation: Translation, wanted: Tensors) -> Account:
    account = Account(translation.what)
    names: dict[str, str] = {}
    for key in theirs:
        why = translation.ignore(key)
        ours = translation.rename(key) if why is None else None
        if why is not None:
            account.ignored.append(Ignored(key, why))
        elif ours is None or ours not in wanted or ours in names:
            account.unknown.append(key)
        else:
            names[ours] = key
    for key in wanted:
        if key in names:
            account.taken.append(Taken(key, names[key], ""))
        else:
            (account.filled if key.endswith(COUNTER) else account.missing).append(key)
    return account


def _require_all_keys(account: Account, translation: Translation, source: Path) -> None:
    problems = []
    for what, keys in (("unknown key", account.unknown), ("no weights for", account.missing)):
        if keys:
            others = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            problems.append(f"{what} {keys[0]!r}{others}")
    if problems:
        raise Mismatch(
            f"{source}: not {translation.what}: {'; '.join(problems)}; nothing was written; "
            f"{translation.hint}",
            account,
        )


def _cast(weights: dict[str, Tensor], key: str) -> list[str]:
    """Make a weight float32 and say so; whole numbers stay and are refused later."""
    dtype = weights[key].dtype
    if dtype is torch.float32 or not dtype.is_floating_point:
        return []
    weights[key] = weights[key].float()
    return [f"{str(dtype).removeprefix('torch.')} -> float32"]


def _rewrite(
    weights: dict[str, Tensor], rewrite: Rewrite, how: dict[str, list[str]]
) -> dict[str, Tensor]:
    converted = {}
    for key in weights.keys() & rewrite.keys:
        try:
            converted[key] = rewrite.convert(key, weights)
        except (RuntimeError, IndexError):
            continue  # a shape that the conversion is not for, which the check of shapes reports
        how[key].append(rewrite.what)
    return converted


def _require_fit(
    weights: Tensors, wanted: Tensors, *, account: Account, source: Path, hint: str
) -> None:
    problems = []
    for ours, theirs, how in account.taken:
        tensor = weights[ours]
        after = f" after {how}" if how else ""
        if tensor.dtype is not torch.float32:
            problems.append(f"'{theirs}' is of type {tensor.dtype}, weights are floating point")
        elif tensor.shape != wanted[ours].shape:
            problems.append(
                f"'{theirs}' has shape {tuple(tensor.shape)}{after}, '{ours}' wants "
                f"{tuple(wanted[ours].shape)}"
            )
        elif not tensor.isfinite().all():
            problems.append(f"'{theirs}' holds values that are not finite{after} (as '{ours}')")
        elif ours.endswith(_VARIANCE) and (tensor < 0).any():
            problems.append(f"'{theirs}' holds negative values, variances have none (as '{ours}')")
    if problems:
        others = f" (and {len(problems) - 1} more do not fit)" if len(problems) > 1 else ""
        raise Mismatch(
            f"{source}: not {account.what}: {problems[0]}{others}; nothing was written; {hint}",
            account,
        )
