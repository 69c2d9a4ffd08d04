"""Draw the parts of a synthetic still-life: a lit, textured ground, and solid shapes as sprites.

A shape is a distance field and a height field over the unit disc: the distance gives the
antialiased edge and the soft shadow, the slope of the height gives the shading. One light per scene
falls on everything.

Colours are float32 RGB of 0..255, and pictures are planes [3,H,W], because numpy is several times
faster over long last axes. Image x points right and y down; height points at the camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray
from PIL import Image

from suite.data.synthetic_shapes import Floats, Rng, Shape

_CAMERA = np.array((0, 0, 1), np.float32)
_CAST, _CONTACT = 0.55, 0.4  # how dark the thrown shadow and the line where a thing rests are


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
        colour: [3,S,S].
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


# Ground materials: dark colour, bright colour, how far the grain is stretched, how veined it is.
_GROUNDS: tuple[tuple[tuple[int, int, int], tuple[int, int, int], float, float], ...] = (
    ((86, 54, 32), (176, 126, 80), 9.0, 0.5),  # walnut
    ((164, 128, 88), (224, 192, 146), 11.0, 0.45),  # pine
    ((76, 78, 80), (150, 150, 146), 1.6, 0.15),  # slate
    ((176, 172, 166), (238, 234, 226), 1.5, 0.5),  # marble
    ((170, 146, 108), (228, 206, 166), 1.0, 0.0),  # sand
    ((54, 80, 34), (142, 158, 80), 2.0, 0.1),  # moss
    ((44, 60, 92), (112, 134, 168), 3.0, 0.1),  # denim
    ((130, 68, 50), (206, 132, 100), 1.4, 0.2),  # clay
    ((196, 190, 176), (236, 232, 222), 4.0, 0.0),  # linen
    ((40, 84, 82), (104, 160, 150), 1.2, 0.3),  # verdigris
)


def draw_ground(image_hw: tuple[int, int], rng: Rng) -> Floats:
    """Draw a textured surface [3,H,W]."""
    dark, bright, stretch, veins = _GROUNDS[rng.integers(len(_GROUNDS))]
    height, width = image_hw
    # Half size is fine enough for a ground that is slightly out of focus, and four times as fast.
    half_hw = (height + 1) // 2, (width + 1) // 2
    noise = _octaves(half_hw, stretch=stretch, rng=rng)
    tone = 0.5 + 0.3 * noise + veins * 0.35 * np.sin(noise * np.float32(rng.uniform(4, 9)))
    tone = Image.fromarray((np.clip(tone, 0, 1) * 255).astype(np.uint8))
    full = np.asarray(tone.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    tinge = rng.uniform(-14, 14) + rng.uniform(-6, 6, 3)
    return _mix(np.add(dark, tinge), np.add(bright, tinge), full / np.float32(255))


def _octaves(image_hw: tuple[int, int], *, stretch: float, rng: Rng) -> Floats:
    """Sum smooth noise of growing fineness, stretched along a random direction; about -1.5..1.5."""
    height, width = image_hw
    along, across = 3 * stretch**0.7, 3 / stretch**0.3  # pixels per cell of the finest octave
    reach = np.hypot(height, width)
    columns, rows = int(reach / along) + 6, int(reach / across) + 6
    grid = np.zeros((rows, columns), np.float32)
    for coarseness, weight in ((20, 0.7), (8, 0.5), (3, 0.35), (1, 0.3)):
        cells = rng.random((rows // coarseness + 2, columns // coarseness + 2), np.float32) * 2 - 1
        layer = Image.fromarray(cells).resize((columns, rows), Image.Resampling.BICUBIC)
        grid += np.float32(weight) * np.asarray(layer)
    # Image pixel -> grid cell: turn about the image centre, scale, and land on the grid centre.
    cos, sin = _turn(rng.uniform(0, np.pi))
    matrix = np.array([[cos / along, sin / along], [-sin / across, cos / across]])
    shift = np.array((columns, rows)) / 2 - matrix @ (width / 2, height / 2)
    affine = np.column_stack((matrix, shift)).ravel().tolist()
    turned = Image.fromarray(grid).transform(
        (width, height), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC
    )
    return np.asarray(turned)


def _mix(first: npt.ArrayLike, second: npt.ArrayLike, share: Floats) -> Floats:
    """Blend two colours into planes [3,H,W]; share 0 gives the first."""
    start, end = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return start[:, None, None] + (end - start)[:, None, None] * share


def _turn(angle: float) -> tuple[np.float32, np.float32]:
    return np.float32(np.cos(angle)), np.float32(np.sin(angle))


def develop(canvas: Floats, light: Light, rng: Rng) -> NDArray[np.uint8]:
    """Turn a scene into a photograph uint8 [H,W,3]: fall-off of the light, vignette, grain."""
    height, width = canvas.shape[1:]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    exposure = 1 + light.falloff[0] * x + light.falloff[1] * y
    exposure *= 1 - np.float32(light.vignette / 2) * (x * x + y * y)
    grain = rng.random((height, width), np.float32) - np.float32(0.5)
    grain *= np.float32(rng.uniform(5, 15))
    photo = canvas * exposure
    photo *= light.colour[:, None, None]
    photo += grain
    planes = np.clip(photo, 0, 255, out=photo).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(planes, 0, 2))


def draw_sprite(
    shape: Shape,
    *,
    diameter: float,
    colours: tuple[Floats, Floats],
    light: Light,
    rng: Rng,
) -> Sprite:
    """Draw one shape at a random rotation.

    Args:
        shape: from synthetic_shapes.
        diameter: of the circle around the shape, in pixels.
        colours: the two RGB colours of the shape.
        light: of the scene.
        rng: source of the rotation and of all details.
    """
    radius = np.float32(diameter / 2)
    side = int(1.35 * diameter) + 8
    axis = (np.arange(side, dtype=np.float32) - np.float32(side / 2 + rng.uniform(-1, 0))) / radius
    x, y = axis[None, :], axis[:, None]
    cos, sin = _turn(rng.uniform(0, 2 * np.pi))
    distance, height, tint = shape(cos * x + sin * y, cos * y - sin * x, rng)
    coverage = np.clip(0.5 - distance * (radius / np.float32(light.softness)), 0, 1)
    brightness, highlight = _shade(height * radius, light)
    brightness *= _mottle(side, rng)
    return Sprite(
        colour=_mix(*colours, tint) * brightness + highlight * np.float32(rng.uniform(25, 180)),
        coverage=coverage,
        shadow=_shadow(distance, light, radius=float(radius)),
        mask=coverage >= 0.5,
    )


def _mottle(side: int, rng: Rng) -> Floats:
    grid = Image.fromarray(rng.integers(0, 256, (9, 9), np.uint8))
    smooth = grid.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(smooth, dtype=np.float32) * np.float32(0.2 / 255) + np.float32(0.9)


def _shade(height: Floats, light: Light) -> tuple[Floats, Floats]:
    """Light a height field in pixels: ambient plus Lambert, and a Blinn highlight of 0..1."""
    slope_y, slope_x = np.gradient(height)
    upward = 1 / np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    lx, ly, lz = light.direction
    lambert = np.maximum((lz - lx * slope_x - ly * slope_y) * upward, 0)
    hx, hy, hz = (light.direction + _CAMERA) / np.linalg.norm(light.direction + _CAMERA)
    highlight = np.maximum((hz - hx * slope_x - hy * slope_y) * upward, 0)
    for _ in range(5):  # to the power of 32
        highlight *= highlight
    ambient = np.float32(light.ambient) * (np.float32(0.6) + np.float32(0.4) * upward)
    return ambient + np.float32(1.2 - light.ambient) * lambert, highlight


def _shadow(distance: Floats, light: Light, *, radius: float) -> Floats:
    """Throw the outline away from the light, and darken the line where the shape rests."""
    away = -light.direction[:2] * (0.25 * radius)
    thrown = np.roll(distance, (round(float(away[1])), round(float(away[0]))), axis=(0, 1))
    cast = np.clip(np.float32(0.5) - thrown * np.float32(3), 0, 1)
    contact = np.clip(1 - distance * np.float32(8), 0, 1)
    shadow: Floats = np.maximum(_CAST * cast, _CONTACT * contact * contact)
    return shadow


def paint(canvas: Floats, sprite: Sprite, part: tuple[slice, slice]) -> None:
    """Lay a part of a sprite over a canvas of its size, in place: the shadow, then the body."""
    coverage = sprite.coverage[part]
    canvas *= (1 - sprite.shadow[part]) * (1 - coverage)
    canvas += coverage * sprite.colour[:, *part]
