"""Draw the parts of a synthetic still-life: a lit, textured ground, and solid shapes as sprites.

A shape is a distance field and a height field over the unit disc: the distance gives the antialiased
edge and the soft shadow, the slope of the height gives the shading. One light per scene falls on all.

Colours are float32 RGB of 0..255. Image x points right and y down; height points at the camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Rng = np.random.Generator

_HIGHLIGHT = np.float32(255)
_CAST, _CONTACT = 0.55, 0.4  # how dark the thrown shadow and the line where a thing rests are


class Relief(NamedTuple):
    """A shape over its own axes, all [H,W] in units of its radius.

    `distance` is negative inside, `height` is 0 outside, and `tint` mixes the two colours (0..1).
    """

    distance: Floats
    height: Floats
    tint: Floats


@dataclass(frozen=True)
class Light:
    """The light of one scene.

    Attributes:
        direction: unit vector (x, y, height) towards the light.
        colour: of direct light, RGB around 1.
        ambient: share of light that comes from everywhere.
        falloff: 2-vector, change of brightness from the centre to the border along x and y.
        vignette: loss of brightness in the corners, as a fraction.
        softness: width in pixels over which an edge fades.
    """

    direction: Floats
    colour: Floats
    ambient: float
    falloff: Floats
    vignette: float
    softness: float


@dataclass(frozen=True)
class Sprite:
    """A shaded shape on a square patch [S,S] that leaves room for its shadow.

    Attributes:
        colour: [S,S,3].
        coverage: 0..1, how much of a pixel the shape covers.
        shadow: 0..1, how much light the shape takes from what lies under it.
        mask: True where the shape covers at least half of a pixel.
    """

    colour: Floats
    coverage: Floats
    shadow: Floats
    mask: NDArray[np.bool_]


def draw_light(rng: Rng) -> Light:
    """Draw a light that falls from above the picture, warm or cool, low or high."""
    azimuth = rng.uniform(-0.9, 0.9) - np.pi / 2
    elevation = rng.uniform(0.65, 1.05)
    flat = np.cos(elevation)
    direction = (flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation))
    warmth = rng.uniform(-0.06, 0.1)
    return Light(
        direction=np.array(direction, np.float32),
        colour=np.array((1 + warmth, 1, 1 - warmth), np.float32),
        ambient=rng.uniform(0.25, 0.4),
        falloff=np.array(direction[:2], np.float32) * np.float32(rng.uniform(0.2, 0.5)),
        vignette=rng.uniform(0.05, 0.3),
        softness=rng.uniform(1.0, 1.7),
    )


# Ground materials: dark colour, light colour, how far the grain is stretched, how much it is veined.
_GROUNDS: tuple[tuple[tuple[int, int, int], tuple[int, int, int], float, float], ...] = (
    ((86, 54, 32), (176, 126, 80), 9.0, 0.5),  # walnut
    ((150, 112, 72), (214, 178, 130), 11.0, 0.45),  # pine
    ((70, 74, 80), (140, 146, 150), 1.6, 0.15),  # slate
    ((178, 172, 164), (232, 228, 220), 1.5, 0.4),  # marble
    ((164, 138, 100), (222, 198, 156), 1.0, 0.0),  # sand
    ((46, 66, 36), (122, 140, 78), 2.0, 0.1),  # moss
    ((44, 58, 90), (104, 124, 160), 3.0, 0.1),  # denim
    ((126, 66, 48), (196, 124, 94), 1.4, 0.15),  # clay
    ((120, 126, 124), (186, 190, 186), 1.2, 0.05),  # concrete
)


def draw_ground(image_hw: tuple[int, int], rng: Rng) -> Floats:
    """Draw a textured surface [H,W,3]."""
    dark, bright, stretch, veins = _GROUNDS[rng.integers(len(_GROUNDS))]
    height, width = image_hw
    # Half size is fine enough for a ground that is slightly out of focus, and four times as fast.
    half_hw = (height + 1) // 2, (width + 1) // 2
    noise = _octaves(half_hw, stretch=stretch, rng=rng)
    tone = 0.5 + 0.3 * noise + veins * 0.35 * np.sin(noise * np.float32(rng.uniform(4, 9)))
    tone = np.clip(tone, 0, 1)[..., None]
    tinge = rng.uniform(-12, 12, 3).astype(np.float32)
    colour = np.array(dark, np.float32) * (1 - tone) + np.array(bright, np.float32) * tone + tinge
    small = Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8))
    full = small.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(full, dtype=np.float32)


def _octaves(image_hw: tuple[int, int], *, stretch: float, rng: Rng) -> Floats:
    """Sum smooth noise of doubling fineness, all octaves turned by one angle; about -1.5..1.5."""
    height, width = image_hw
    cos, sin = _turn(rng.uniform(0, np.pi))
    total = np.zeros(image_hw, np.float32)
    for cell, weight in ((60.0, 0.7), (24.0, 0.5), (9.0, 0.35), (3.0, 0.3)):
        along, across = cell * stretch**0.7, cell / stretch**0.3
        reach = 0.5 * np.hypot(height, width)
        grid_hw = int(2 * reach / across) + 6, int(2 * reach / along) + 6
        grid = Image.fromarray(rng.random(grid_hw, np.float32) * 2 - 1)
        # Image pixel -> grid cell: turn about the image centre, scale, and land on the grid centre.
        rows = np.array([[cos / along, sin / along], [-sin / across, cos / across]])
        shift = np.array(grid_hw[::-1]) / 2 - rows @ (width / 2, height / 2)
        affine = (rows[0, 0], rows[0, 1], shift[0], rows[1, 0], rows[1, 1], shift[1])
        layer = grid.transform(
            (width, height), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC
        )
        total += np.float32(weight) * np.asarray(layer)
    return total


def _turn(angle: float) -> tuple[float, float]:
    return float(np.cos(angle)), float(np.sin(angle))


def develop(canvas: Floats, light: Light, rng: Rng) -> NDArray[np.uint8]:
    """Turn a drawn scene into a photograph: fall-off of the light, vignette, grain."""
    height, width = canvas.shape[:2]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    exposure = 1 + light.falloff[0] * x + light.falloff[1] * y
    exposure *= 1 - np.float32(light.vignette / 2) * (x * x + y * y)
    grain = rng.random((height, width), np.float32) - np.float32(0.5)
    grain *= np.float32(rng.uniform(6, 18))
    photo = canvas * exposure[..., None]
    photo *= light.colour
    photo += grain[..., None]
    return np.clip(photo, 0, 255, out=photo).astype(np.uint8)


def draw_sprite(
    relief: Callable[[Floats, Floats, Rng], Relief],
    *,
    diameter: float,
    colours: tuple[Floats, Floats],
    light: Light,
    rng: Rng,
) -> Sprite:
    """Draw one shape at a random rotation.

    Args:
        relief: one of the shapes below.
        diameter: of the circle around the shape, in pixels.
        colours: the two RGB colours of the shape.
        light: of the scene.
        rng: source of the rotation and of all details.
    """
    radius = np.float32(diameter / 2)
    side = int(1.5 * diameter) + 10
    axis = (np.arange(side, dtype=np.float32) - np.float32(side / 2 + rng.uniform(-1, 0))) / radius
    x, y = axis[None, :], axis[:, None]
    cos, sin = np.float32(_turn(rng.uniform(0, 2 * np.pi)))
    distance, height, tint = relief(cos * x + sin * y, cos * y - sin * x, rng)
    coverage = np.clip(0.5 - distance * (radius / np.float32(light.softness)), 0, 1)
    mottled = 0.9 + 0.2 * _mottle(side, rng)
    albedo = colours[0] + (colours[1] - colours[0]) * tint[..., None]
    albedo *= mottled[..., None]
    return Sprite(
        colour=_shade(albedo, height * radius, light, gloss=rng.uniform(0.1, 0.7)),
        coverage=coverage,
        shadow=_shadow(distance, light, radius=float(radius)),
        mask=coverage >= 0.5,
    )


def _mottle(side: int, rng: Rng) -> Floats:
    grid = Image.fromarray(rng.integers(0, 256, (9, 9), np.uint8))
    smooth = grid.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(smooth, dtype=np.float32) / np.float32(255)


def _shade(albedo: Floats, height: Floats, light: Light, *, gloss: float) -> Floats:
    """Light a height field in pixels: ambient, Lambert, and a Blinn highlight."""
    slope_y, slope_x = np.gradient(height)
    upward = 1 / np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    lx, ly, lz = light.direction
    lambert = np.maximum((lz - lx * slope_x - ly * slope_y) * upward, 0)
    hx, hy, hz = light.direction + (0, 0, 1)
    halfway = np.float32(1 / np.sqrt(hx * hx + hy * hy + hz * hz))
    highlight = np.maximum((hz - hx * slope_x - hy * slope_y) * upward * halfway, 0)
    for _ in range(5):  # to the power of 32
        highlight *= highlight
    ambient = np.float32(light.ambient) * (np.float32(0.6) + np.float32(0.4) * upward)
    brightness = ambient + np.float32(1.2 - light.ambient) * lambert
    return albedo * brightness[..., None] + (_HIGHLIGHT * np.float32(gloss)) * highlight[..., None]


def _shadow(distance: Floats, light: Light, *, radius: float) -> Floats:
    """Throw the outline away from the light, and darken the line where the shape rests."""
    away = -light.direction[:2] * (0.3 * radius)
    thrown = np.roll(distance, (round(float(away[1])), round(float(away[0]))), axis=(0, 1))
    cast = np.clip(np.float32(0.5) - thrown * np.float32(2.5), 0, 1)
    contact = np.clip(1 - distance * np.float32(8), 0, 1)
    return np.maximum(_CAST * cast, _CONTACT * contact * contact)


def ball(u: Floats, v: Floats, rng: Rng) -> Relief:
    """A sphere, plain or with bands."""
    square = u * u + v * v
    height = np.sqrt(np.maximum(1 - square, 0))
    bands = rng.choice((0.0, 0.0, 3.5, 6.0))
    tint = np.clip(0.5 - 6 * np.cos(np.float32(bands) * v), 0, 1)
    return Relief(np.sqrt(square) - 1, height, tint)


def brick(u: Floats, v: Floats, rng: Rng) -> Relief:
    """A toy brick with two rows of studs."""
    num_columns = rng.integers(2, 5)
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
    fifth = 2 * np.pi / 5
    angle = np.abs(np.mod(np.arctan2(v, u), fifth) - fifth / 2)
    radius = np.sqrt(u * u + v * v)
    inner = rng.uniform(0.42, 0.52)
    # The edge runs from the tip at angle 0 to the notch at half a fifth of the turn.
    notch_x, notch_y = inner * np.cos(fifth / 2), inner * np.sin(fifth / 2)
    edge = np.float32(np.hypot(1 - notch_x, notch_y))
    normal_x, normal_y = np.float32(notch_y) / edge, np.float32(1 - notch_x) / edge
    distance = radius * (np.cos(angle) * normal_x + np.sin(angle) * normal_y) - normal_x
    distance = distance.astype(np.float32)
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
