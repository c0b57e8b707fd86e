"""A landscape in the making: the light of an hour, and one gesture of the renderer a method.

A scene is rendered from the back to the front: what is laid down later hides what is there, in the image and in its
map. Sizes are in shares of the image's height, so that a scene looks alike at any size.
"""

from typing import NamedTuple

import numpy as np

from .noise import (
    Array,
    Color,
    cloudy,
    color,
    creased,
    crowns,
    fir,
    mix,
    moved,
    noise,
    outline,
    peaks,
    smoothed,
    smoothstep,
)

LABELS = ("sky", "sun", "mountains", "forest", "water", "sand", "meadow")
SKY, SUN, MOUNTAINS, FOREST, WATER, SAND, MEADOW = range(len(LABELS))


class Light(NamedTuple):
    """The colors of an hour: of the sky from top to horizon, and of what falls on the ground."""

    zenith: Color
    middle: Color
    horizon: Color
    sun: Color
    direct: Color  # what the sun adds to a surface that faces it
    ambient: Color  # what the sky gives to every surface
    sun_height: tuple[float, float]  # above the horizon, as a share of the sky


HOURS = (
    Light(  # morning
        color(0.36, 0.54, 0.76),
        color(0.68, 0.76, 0.84),
        color(0.98, 0.84, 0.72),
        color(1.0, 0.95, 0.80),
        color(0.78, 0.60, 0.44),
        color(0.46, 0.48, 0.54),
        (0.28, 0.55),
    ),
    Light(  # noon
        color(0.16, 0.40, 0.74),
        color(0.40, 0.64, 0.88),
        color(0.80, 0.90, 0.96),
        color(1.0, 0.99, 0.92),
        color(0.72, 0.68, 0.58),
        color(0.44, 0.48, 0.54),
        (0.62, 0.82),
    ),
    Light(  # dusk
        color(0.24, 0.24, 0.48),
        color(0.78, 0.46, 0.48),
        color(1.0, 0.68, 0.36),
        color(1.0, 0.86, 0.52),
        color(0.66, 0.42, 0.28),
        color(0.38, 0.34, 0.40),
        (0.12, 0.40),
    ),
    Light(  # blue hour, with a moon
        color(0.07, 0.12, 0.30),
        color(0.18, 0.30, 0.52),
        color(0.56, 0.60, 0.72),
        color(0.96, 0.95, 0.88),
        color(0.28, 0.32, 0.40),
        color(0.27, 0.33, 0.45),
        (0.45, 0.80),
    ),
)


class Scene:
    """An image in the making: the canvas, its light, and one renderer's gesture a method."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, light: Light, horizon: float) -> None:
        self.rng, self.height, self.width, self.light = rng, height, width, light
        self.horizon = round(horizon * height)
        self.image = np.zeros((height, width, 3), np.float32)
        self.labels = np.full((height, width), SKY, np.uint8)
        self.rows = np.arange(height, dtype=np.float32)[:, None]
        self.columns = np.arange(width, dtype=np.float32)[None]
        self.sun_x = width * rng.uniform(0.15, 0.85)
        self.sun_y = self.horizon * (1 - rng.uniform(*light.sun_height))
        self.side = 1.0 if self.sun_x > width / 2 else -1.0  # where the light comes from: 1 is right

    def cover(self, top: int, coverage: Array, render: Array, label: int) -> None:
        """Lay (rows, W) of coverage with a color, or (rows, W, 3) of them, over the canvas from the row ``top``."""
        rows = slice(top, top + len(coverage))
        self.image[rows] = mix(self.image[rows], render, coverage[..., None])
        self.labels[rows][coverage > 0.5] = label

    def below(self, line: Array, bottom: int) -> tuple[int, Array]:
        """The first row that an outline reaches, and (rows, W) of pixels below the outline from there to ``bottom``."""
        top = int(np.clip(np.floor(line.min()) - 1, 0, bottom - 1))
        return top, self.rows[top:bottom] - line

    def lit(self, albedo: Array, shade: Array | float, distance: float) -> Array:
        """A surface in this light (shade 0: turned away, 1: facing the sun), seen through the air of that distance."""
        direct = np.asarray(shade, np.float32)[..., None] * self.light.direct
        return mix(albedo * (self.light.ambient + direct), self.light.horizon * 0.92, distance)

    def sky(self) -> None:
        """The whole canvas in the colors of the hour, brighter around the sun."""
        t = np.clip(self.rows / self.horizon, 0, 1)[..., None]
        light = self.light
        column = mix(mix(light.zenith, light.middle, smoothstep(0, 0.65, t)), light.horizon, smoothstep(0.4, 1.0, t))
        away = np.hypot(self.columns - self.sun_x, 1.3 * (self.rows - self.sun_y)) / self.height
        glow = 0.50 * np.exp(-((away / 0.16) ** 2)) + 0.35 * np.exp(-away / 0.30)
        self.image[:] = mix(column, light.sun, 0.8 * glow[..., None])

    def sun(self) -> None:
        """The disk of the sun, or of the moon."""
        radius = self.height * self.rng.uniform(0.032, 0.052)
        coverage = np.clip(radius - np.hypot(self.columns - self.sun_x, self.rows - self.sun_y) + 0.5, 0, 1)
        self.cover(0, coverage, mix(self.light.sun, color(1, 1, 1), 0.45), SUN)

    def clouds(self) -> None:
        """Heaps or streaks that flatten towards the horizon, bright where they face the sun."""
        rng, rows, unit = self.rng, self.horizon, self.height
        streaks = rng.random() < 0.45
        across = unit * (0.9 if streaks else 0.42)
        field = cloudy(rng, rows, self.width, across * (0.10 if streaks else 0.42), across, 5, 0.52)
        t = np.linspace(0, 1, rows, dtype=np.float32)
        field = field[(np.log1p(6 * t) / np.log(7) * (rows - 1)).astype(np.int64)]
        amount = rng.uniform(-0.2, 0.7)
        open_sky = np.exp(-((np.hypot(self.columns - self.sun_x, self.rows[:rows] - self.sun_y) / (0.13 * unit)) ** 2))
        thickness = smoothstep(amount, amount + 1.4, field - 0.8 * open_sky)
        toward = moved(field, -round(self.side * unit * 0.02))
        bright = np.clip(0.72 + 0.40 * (field - toward) - 0.10 * thickness, 0, 1)
        light = self.light
        dark = mix(light.middle, light.horizon, 0.45)
        pale = np.clip(mix(light.sun, color(1, 1, 1), 0.3), 0, 1)
        fade = 0.9 * smoothstep(1.0, 0.72, t) if streaks else 0.92 * smoothstep(1.05, 0.80, t)
        self.image[:rows] = mix(
            self.image[:rows], mix(dark, pale, bright[..., None]), (thickness * fade[:, None])[..., None]
        )

    def mountains(self, bottom: int, tall: float, distance: float, across: float, snow: float, shape: Array) -> None:
        """One range, ``tall`` and with summits ``across`` from each other.

        Args:
            bottom: row of its foot. shape: (W,) factor of its height. snow: share of it that is white, from the top.
            distance: 0 here, 1 lost in the air.
        """
        rng, size = self.rng, tall * self.height
        line = bottom - size * (0.22 + 0.78 * peaks(rng, self.width, across * self.height, 7)) * shape
        top, depth = self.below(line, bottom)
        rows = len(depth)
        broad = smoothed(line, round(0.20 * size))
        downhill = np.gradient(broad).astype(np.float32)  # gullies run down and away from the summits
        source = np.clip(self.columns - 0.6 * downhill * np.maximum(depth, 0), 0, self.width - 1).astype(np.int64)
        relief = creased(rng, rows, self.width, 0.9 * size, 0.45 * size, 5)
        step = max(1, round(0.003 * self.height))
        facing = np.tanh((moved(relief, step) - moved(relief, -step)) * (0.085 * size / step) * self.side)
        relief, facing = np.take_along_axis(relief, source, 1), np.take_along_axis(facing, source, 1)
        slope = np.gradient(smoothed(line, 2 * step)).astype(np.float32) * self.side
        crest = np.exp(-np.maximum(depth, 0) / (0.35 * size))
        shade = np.clip(0.45 + self.side * 0.35 * downhill + 0.40 * slope * crest + 0.28 * facing, 0, 1)
        rock = mix(color(0.40, 0.38, 0.38), color(0.56, 0.52, 0.47), np.clip(0.5 + 0.3 * relief, 0, 1)[..., None])
        scrub = smoothstep(0.35, 0.9, depth / size + 0.15 * relief)
        albedo = mix(rock, color(0.34, 0.42, 0.26), 0.75 * scrub[..., None])
        if snow > 0:
            height_share = (bottom - self.rows[top:bottom]) / size
            white = smoothstep(-0.07, 0.07, height_share - (1 - snow) + 0.16 * relief + 0.06 * facing)
            albedo = mix(albedo, color(0.97, 0.98, 1.0), white[..., None])
        lift = smoothstep(0.2, 1.0, depth / size)  # mist gathers at the foot
        rendered = self.lit(albedo, shade, distance)
        rendered = mix(rendered, self.light.horizon, (0.35 * lift * (0.4 + distance))[..., None])
        self.cover(top, np.clip(depth + 0.5, 0, 1), rendered, MOUNTAINS)

    def forest(self, ground: Array, bottom: int, size: float, distance: float, albedo: Color, pointed: bool) -> None:
        """Rows of trees from the line ``ground`` down to ``bottom``, each a little larger than the one behind it."""
        rng, tree = self.rng, size * self.height
        line = ground.copy()
        while True:
            tops, place = crowns(rng, self.width, tree * (0.28 if pointed else 0.5), tree, pointed)
            top, depth = self.below(line - tops, bottom)
            tint = albedo * (1 + 0.16 * outline(rng, self.width, tree * 0.5, 2))[:, None] ** color(1.0, 0.7, 0.9)
            within = np.clip(1 - np.maximum(depth, 0) / (0.9 * tree), 0, 1)
            leaves = noise(rng, len(depth), self.width, 0.22 * tree, 0.22 * tree)
            shade = np.clip(0.12 + (0.46 + 0.34 * self.side * place + 0.16 * leaves) * within, 0, 1)
            rendered = self.lit(np.clip(tint, 0, 1)[None] * (0.45 + 0.55 * within[..., None]), shade, distance)
            self.cover(top, np.clip(depth + 0.5, 0, 1), rendered, FOREST)
            line = line + 0.42 * tree
            if line.min() > bottom:
                return
            tree *= 1.06

    def meadow(self, line: Array, bottom: int, distance: float, albedo: Color) -> None:
        """Grass in patches below a line, darker at our feet."""
        top, depth = self.below(line, bottom)
        rows, unit = len(depth), self.height
        patches = cloudy(self.rng, rows, self.width, 0.05 * unit, 0.35 * unit, 3)
        grass = cloudy(self.rng, rows, self.width, 0.012 * unit, 0.03 * unit, 2)
        tint = mix(albedo, albedo * color(1.22, 1.10, 0.85), np.clip(0.45 + 0.35 * patches, 0, 1)[..., None])
        slope = np.gradient(line).astype(np.float32) * self.side
        crest = np.exp(-np.maximum(depth, 0) / (0.05 * unit))
        shade = np.clip(0.52 + 0.10 * patches + 0.05 * grass + 0.8 * slope + 0.10 * crest, 0, 1)
        near = smoothstep(0, 0.4 * unit, depth)
        rendered = self.lit(tint, shade, distance) * (1 - 0.25 * near[..., None])
        self.cover(top, np.clip(depth + 0.5, 0, 1), rendered, MEADOW)

    def sand(self, line: Array, bottom: int, distance: float, wet: bool) -> None:
        """A beach, darker and with a rim of foam where the water wets it; or a dune with a bright crest."""
        rng = self.rng
        top, depth = self.below(line, bottom)
        rows, unit = len(depth), self.height
        swells = cloudy(rng, rows, self.width, 0.09 * unit, 0.30 * unit, 2)
        ripples = noise(rng, rows, self.width, 0.012 * unit, 0.07 * unit)
        albedo = mix(color(0.80, 0.69, 0.52), color(0.90, 0.80, 0.64), np.clip(0.5 + 0.2 * swells, 0, 1)[..., None])
        slope = np.gradient(line).astype(np.float32) * self.side * np.exp(-np.maximum(depth, 0) / (0.20 * unit))
        shade = np.clip(0.64 + 0.07 * swells + 0.05 * ripples + 1.8 * slope, 0, 1)
        if wet:
            damp = np.exp(-np.maximum(depth, 0) / (0.035 * unit))
            albedo = albedo * (1 - 0.38 * damp[..., None])
        rendered = self.lit(albedo, shade, distance)
        if wet:
            foam = np.exp(-(((depth - 0.004 * unit) / (0.006 * unit)) ** 2)) * (0.6 + 0.3 * np.clip(swells, -1, 1))
            rendered = mix(rendered, self.lit(color(0.96, 0.97, 0.98), 0.6, 0.0), np.clip(foam, 0, 1)[..., None])
        self.cover(top, np.clip(depth + 0.5, 0, 1), rendered, SAND)

    def water(self, top: int, deep: Color) -> None:
        """Water from a row down: what stands above it upside down, broken by waves, and the path of the sun."""
        rng, unit, rows = self.rng, self.height, self.height - top
        t = self.rows[:rows] / rows  # 0 far away, 1 at our feet
        fine = noise(rng, rows, self.width, 0.005 * unit, 0.05 * unit)
        broad = noise(rng, rows, self.width, 0.014 * unit, 0.16 * unit)
        waves = mix(fine, broad, np.clip(t * 1.2, 0, 1)) * (0.25 + t)
        mirrored = top - 1 - self.rows[:rows] * min(1.0, (top - 1) / rows) + waves * 0.012 * unit
        beside = self.columns + 0.4 * waves * 0.012 * unit
        from_row = np.clip(mirrored, 0, top - 1).astype(np.int64)
        from_column = np.clip(beside, 0, self.width - 1).astype(np.int64)
        mirror = self.image[from_row, from_column]
        body = deep * (self.light.ambient + 0.5 * self.light.direct)
        rendered = mix(mirror * 0.90, body, (0.18 + 0.42 * t + 0.05 * waves)[..., None])
        if (self.labels[:top] == SUN).any():
            path = np.exp(-(((self.columns - self.sun_x) / (unit * (0.035 + 0.14 * t))) ** 2))
            glitter = path * smoothstep(0.0, 1.1, waves + 0.35) * (0.75 - 0.35 * t)
            rendered = mix(rendered, self.light.sun, np.clip(glitter, 0, 1)[..., None])
        self.cover(top, np.ones((rows, self.width), np.float32), rendered, WATER)

    def firs(self, ground: float, albedo: Color) -> None:
        """A few large firs at one edge, which frame the view."""
        left = self.rng.random() < 0.5
        for _ in range(int(self.rng.integers(2, 5))):
            size = round(self.height * self.rng.uniform(0.30, 0.62))
            coverage, light = fir(self.rng, size)
            place = self.rng.uniform(0.0, 0.16) * self.width
            x = round(place if left else self.width - place) - size // 4
            y = round((ground + self.rng.uniform(-0.02, 0.10)) * self.height) - size
            inside = slice(max(0, -x), min(size // 2, self.width - x))
            below = slice(max(0, -y), min(size, self.height - y))
            whole = np.zeros((below.stop - below.start, self.width), np.float32)
            shade = np.zeros_like(whole)
            columns = slice(x + inside.start, x + inside.stop)
            whole[:, columns] = coverage[below, inside]
            shade[:, columns] = (light if self.side > 0 else light[:, ::-1])[below, inside]
            self.cover(y + below.start, whole, self.lit(albedo * 0.8, 0.55 * shade, 0.03), FOREST)
