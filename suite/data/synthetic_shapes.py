"""The shapes of the synthetic set, as fields over the unit disc.

Each function takes the shape's own coordinates u and v, both broadcastable to [H,W] in units of its
radius, and draws its proportions from `rng`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rng = np.random.Generator


class Relief(NamedTuple):
    """A shape as three fields [H,W].

    Attributes:
        distance: to the outline in radii, negative inside.
        height: above the ground in radii, 0 outside.
        tint: 0 where the first colour shows, 1 where the second does.
    """

    distance: Floats
    height: Floats
    tint: Floats


Shape = Callable[[Floats, Floats, Rng], Relief]


def ball(u: Floats, v: Floats, rng: Rng) -> Relief:
    """A sphere, plain or with bands."""
    square = u * u + v * v
    height = np.sqrt(np.maximum(1 - square, 0))
    bands = rng.choice((0.0, 0.0, 3.5, 6.0))
    tint = np.clip(0.5 - 6 * np.cos(np.float32(bands) * v), 0, 1)
    return Relief(np.sqrt(square) - 1, height, tint)


def brick(u: Floats, v: Floats, rng: Rng) -> Relief:
    """A toy brick with two rows of studs."""
    num_columns = int(rng.integers(2, 5))
    cell = np.float32(2 / np.hypot(num_columns, 2))
    half_u, half_v = cell * num_columns / 2, cell
    past_u, past_v = np.abs(u) - half_u, np.abs(v) - half_v
    distance = np.maximum(past_u, past_v)
    slab = np.clip(-distance * 3, 0, 0.16)
    stud_u = np.mod(u + half_u, cell) - cell / 2
    stud_v = np.mod(v, cell) - cell / 2
    stud = 0.32 * cell - np.sqrt(stud_u * stud_u + stud_v * stud_v)
    height = slab + np.where(distance < 0, np.clip(stud * 3, 0, 0.3 * cell), 0)
    return Relief(distance, height, np.zeros_like(distance))


def ring(u: Floats, v: Floats, rng: Rng) -> Relief:
    """A torus with a wavy glaze."""
    tube = np.float32(rng.uniform(0.2, 0.33))
    across = np.sqrt(u * u + v * v) - (1 - tube)
    wave = np.sin(np.arctan2(v, u) * rng.integers(5, 10)).astype(np.float32)
    tint = np.clip((tube * (0.65 + 0.12 * wave) - np.abs(across)) * 15, 0, 1)
    height = np.sqrt(np.maximum(tube * tube - across * across, 0))
    return Relief(np.abs(across) - tube, height, tint)


def star(u: Floats, v: Floats, rng: Rng) -> Relief:
    """A folded star of five points: each arm has a lit and a dark half."""
    half_arm = np.float32(np.pi / 5)
    # The angle from the nearest tip: 0 there, half_arm at a notch.
    angle = np.abs(np.mod(np.arctan2(v, u), 2 * half_arm) - half_arm)
    radius = np.sqrt(u * u + v * v)
    notch = np.float32(rng.uniform(0.42, 0.52))
    edge_x, edge_y = 1 - notch * np.cos(half_arm), notch * np.sin(half_arm)  # from notch to tip
    length = np.sqrt(edge_x * edge_x + edge_y * edge_y)
    outward = radius * (np.cos(angle) * edge_y + np.sin(angle) * edge_x) - edge_y
    distance = outward / length
    return Relief(distance, np.maximum(-distance, 0), np.clip(radius * 1.2 - 0.3, 0, 1))


def leaf(u: Floats, v: Floats, rng: Rng) -> Relief:
    """A pointed leaf with a midrib and side veins."""
    breadth = np.float32(rng.uniform(0.32, 0.5))
    arc = (1 + breadth * breadth) / (2 * breadth)
    side = np.abs(v)
    distance = np.sqrt(u * u + (side + arc - breadth) ** 2) - arc
    midrib = np.clip(1 - side * 22, 0, 1)
    veins = np.clip(4 * np.cos((u + side * 0.9) * 26) - 3, 0, 1)
    height = np.sqrt(np.maximum(-distance, 0)) * 0.45 - 0.05 * (midrib + 0.5 * veins)
    return Relief(distance, np.maximum(height, 0), np.maximum(midrib, 0.7 * veins))


def cone(u: Floats, v: Floats, rng: Rng) -> Relief:
    """A cone seen from the side, with bands."""
    slope = np.float32(rng.uniform(0.33, 0.45))
    half = slope * (v + 1)
    rest = np.float32(0.72)
    foot = slope * (rest + 1)
    curve = rest + 0.22 * np.sqrt(np.maximum(1 - (u / foot) ** 2, 0))
    distance = np.maximum((np.abs(u) - half) / np.sqrt(1 + slope * slope), v - curve)
    height = np.sqrt(np.maximum(half * half - u * u, 0)) * (distance < 0)
    bend = v - 0.22 * np.sqrt(np.maximum(1 - (u / np.maximum(half, 0.02)) ** 2, 0))
    tint = np.clip(0.5 + 8 * np.sin(bend * np.float32(rng.uniform(4.5, 7))), 0, 1)
    return Relief(distance, height, tint)


def twig(u: Floats, v: Floats, rng: Rng) -> Relief:
    """A thin bent stroke: clutter, not a thing to find."""
    bent = v - np.float32(rng.uniform(-0.5, 0.5)) * (u * u - 0.5)
    thick = np.float32(rng.uniform(0.015, 0.045))
    distance = np.maximum(np.abs(bent) - thick, np.abs(u) - 0.85)
    height = np.sqrt(np.maximum(thick * thick - bent * bent, 0)) * (distance < 0)
    return Relief(distance, height, np.zeros_like(distance))


def pebble(u: Floats, v: Floats, rng: Rng) -> Relief:
    """A flat lopsided blob: clutter, not a thing to find."""
    angle = np.arctan2(v, u)
    phase = rng.uniform(0, 2 * np.pi, 2).astype(np.float32)
    reach = 0.7 + 0.14 * np.cos(2 * angle + phase[0]) + 0.08 * np.cos(3 * angle + phase[1])
    distance = np.sqrt(u * u + v * v) - reach
    return Relief(distance, np.clip(-distance * 0.6, 0, 0.12), np.zeros_like(distance))
