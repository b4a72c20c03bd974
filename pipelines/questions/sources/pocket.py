"""A seed -> the pocket questions, as files in the form that a user would bring (`questions.jsonl` and `images/`).

Each image is a drawn micrograph with four visible attributes. Two hidden rules (shape and background give a family,
tone and density give a stage) and a third over them (family and stage give the process route) make every question one
of three steps. The rules are built to need composition: nine of the 36 combinations of attributes are never shown in
training, and half of the test is about them.

Synthetic, and of no value as material science. Numpy and PIL only: no model is needed to draw.
"""

import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from infra.manifest import Tally
from infra.stage import StageConfig, Task
from pipelines.records import LETTERS

NAME = "pocket"  # of the source, beside every number about it
SHAPES = ("round", "plate", "needle")
BACKGROUNDS = ("smooth", "grainy", "striped")
TONES = ("bright", "dark")
DENSITIES = ("sparse", "dense")
FAMILIES = ("alpha", "beta", "gamma")
STAGES = ("early", "late")
ROUTES = ("mill", "cast", "spin", "press", "grow", "forge")
NUM_OPTIONS = 4
QUESTION = "Which process route made this sample?"

NOTE = (
    "The questions are synthetic: the micrographs are drawn, and the rule behind them is built so that it must be "
    "composed from two parts. On combinations seen in training both arms can answer from memory; unseen ones need the "
    "rule. "
    "The numbers say how this flow behaves, not how a model does on real images."
)
NOTE_ON_MODELS = (
    "The pocket teacher was trained on the rule; the pocket base student has met the words of the rationales, with "
    "random values, and never the rule."
)
IMAGE_SIZE = 96  # pixels, each side
_OVERSAMPLING = 2  # particles are drawn larger and shrunk, for soft edges


@dataclasses.dataclass(frozen=True, slots=True)
class Attributes:
    """What can be seen in one image."""

    shape: str
    background: str
    tone: str
    density: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class PocketConfig:
    """How many questions are drawn. Half of the test questions, rounded down, are on unseen combinations."""

    seed: int = 20
    num_train_questions: int = 600
    num_test_questions: int = 640


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawConfig(StageConfig):
    """Draw the pocket questions as a folder of files."""

    stage: ClassVar[str] = "draw"
    module: ClassVar[str] = "pipelines.questions.sources.pocket"
    contract: ClassVar[int] = 2
    pocket: PocketConfig = dataclasses.field(default_factory=PocketConfig)

    def outputs(self) -> dict[str, StageConfig]:
        return {"source": self}

    def rehearsed(self, models: pathlib.Path, num_questions: int) -> "DrawConfig":
        fewer = dataclasses.replace(self.pocket, num_train_questions=num_questions, num_test_questions=num_questions)
        return dataclasses.replace(self, pocket=fewer)


COMBINATIONS = tuple(Attributes(*values) for values in itertools.product(SHAPES, BACKGROUNDS, TONES, DENSITIES))


def is_unseen(attributes: Attributes) -> bool:
    """Whether this combination is kept out of training.

    One of the four (tone, density) pairs for each of the nine (shape, background) pairs, so that training shows every
    family, every stage and every route, and each unseen combination follows from rules that were shown.
    """
    pair = 3 * SHAPES.index(attributes.shape) + BACKGROUNDS.index(attributes.background)
    held_out = 2 * TONES.index(attributes.tone) + DENSITIES.index(attributes.density)
    return pair % 4 == held_out


def family(attributes: Attributes) -> str:
    """The first rule, a Latin square of shape and background: neither alone says anything about the family."""
    return FAMILIES[(SHAPES.index(attributes.shape) + BACKGROUNDS.index(attributes.background)) % len(FAMILIES)]


def stage(attributes: Attributes) -> str:
    """The second rule, an exclusive or of tone and density: neither alone says anything about the stage."""
    return STAGES[(TONES.index(attributes.tone) + DENSITIES.index(attributes.density)) % len(STAGES)]


def route(family_name: str, stage_name: str) -> str:
    """The third rule: each pair of a family and a stage has a route of its own."""
    return ROUTES[FAMILIES.index(family_name) * len(STAGES) + STAGES.index(stage_name)]


def describe(attributes: Attributes) -> tuple[str, str]:
    """What can be seen, in two phrases: the grounds of the family and the grounds of the stage."""
    grounds_of_family = f"{attributes.shape.capitalize()} particles on a {attributes.background} background"
    return grounds_of_family, f"{attributes.tone.capitalize()} and {attributes.density}"


def reason(attributes: Attributes, family_name: str, stage_name: str, route_name: str) -> str:
    """The three sentences that lead from what is seen to a route, true or not."""
    grounds_of_family, grounds_of_stage = describe(attributes)
    return (
        f"{grounds_of_family}: family {family_name}. {grounds_of_stage}: stage {stage_name}. "
        f"Family {family_name} at stage {stage_name}: route {route_name}."
    )


def rationale(attributes: Attributes) -> str:
    """The gold rationale: the three steps by the rules."""
    family_name, stage_name = family(attributes), stage(attributes)
    return reason(attributes, family_name, stage_name, route(family_name, stage_name))


def gold_route(attributes: Attributes) -> str:
    """The right answer for an image."""
    return route(family(attributes), stage(attributes))


def route_options(gold: str, rng: np.random.Generator) -> list[str]:
    """The gold route and three others, in random order."""
    others = rng.permutation([name for name in ROUTES if name != gold])[: NUM_OPTIONS - 1]
    return [str(name) for name in rng.permutation([gold, *others])]


def write(folder: pathlib.Path, config: PocketConfig, progress: Callable[[int, int], None] | None = None) -> None:
    """Draws the questions into `folder`: `images/000001.png` and so on, and last `questions.jsonl`.

    The same config writes the same bytes. progress(done, total) is called after each question. Raises FileExistsError
    when the folder already holds questions.
    """
    table = folder / "questions.jsonl"
    if table.exists():
        raise FileExistsError(f"{table} already exists: draw into an empty folder")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(config.seed)
    plan = _plan(config, rng)
    rows = []
    for number, (split, attributes) in enumerate(plan, start=1):
        name = f"images/{number:06d}.png"
        draw(attributes, rng).save(folder / name)
        rows.append(_row(name, split, attributes, rng))
        if progress:
            progress(number, len(plan))
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _plan(config: PocketConfig, rng: np.random.Generator) -> list[tuple[str, Attributes]]:
    """Splits and attributes in random order, so that a file's number says nothing about its image."""
    seen = [attributes for attributes in COMBINATIONS if not is_unseen(attributes)]
    unseen = [attributes for attributes in COMBINATIONS if is_unseen(attributes)]
    num_unseen = config.num_test_questions // 2
    plan = [("train", attributes) for attributes in _spread(seen, config.num_train_questions, rng)]
    plan += [("test", attributes) for attributes in _spread(seen, config.num_test_questions - num_unseen, rng)]
    plan += [("test", attributes) for attributes in _spread(unseen, num_unseen, rng)]
    return [plan[index] for index in rng.permutation(len(plan))]


def _spread(combinations: list[Attributes], count: int, rng: np.random.Generator) -> list[Attributes]:
    """`count` combinations, each as often as any other to within one."""
    order = [combinations[index] for index in rng.permutation(len(combinations))]
    return list(itertools.islice(itertools.cycle(order), count))


def _row(name: str, split: str, attributes: Attributes, rng: np.random.Generator) -> dict[str, object]:
    gold = gold_route(attributes)
    options = route_options(gold, rng)
    return {
        "image": name,
        "question": QUESTION,
        "options": options,
        "answer": LETTERS[options.index(gold)],
        "split": split,
        "stratum": "unseen" if is_unseen(attributes) else "seen",
    }


def draw(attributes: Attributes, rng: np.random.Generator) -> Image.Image:
    """A grey micrograph of these attributes: 96 x 96 pixels, mode L, different at every call."""
    field = _background(attributes.background, rng)
    particles, mask = _particles(attributes, rng)
    covered = _shrunk(mask) / 255
    field = field * (1 - covered) + _shrunk(particles) * covered
    field += rng.normal(0, 4, field.shape) + rng.uniform(-6, 6)  # the detector's noise, and its gain
    return Image.fromarray(np.clip(field, 0, 255).astype(np.uint8))


def _background(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Grey values around 125, shape (96, 96); all kinds have the same slow shading, two have a texture on it."""
    field: np.ndarray
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE] / IMAGE_SIZE - 0.5
    angle = rng.uniform(0, 2 * math.pi)
    field = 125 + rng.uniform(0, 24) * (x * math.cos(angle) + y * math.sin(angle))
    if kind == "grainy":
        field += _grain(rng)
    elif kind == "striped":
        angle, period = rng.uniform(0, math.pi), rng.uniform(6, 9)
        phase = (x * math.cos(angle) + y * math.sin(angle)) * IMAGE_SIZE / period
        field += 24 * np.sin(2 * math.pi * (phase + rng.uniform()))
    return field


def _grain(rng: np.random.Generator) -> np.ndarray:
    """Blotches about two pixels wide, standard deviation 24 grey values."""
    noise = Image.fromarray(rng.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8))
    grain = np.asarray(noise.filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float64)
    centred: np.ndarray = (grain - grain.mean()) * 24 / grain.std()
    return centred


def _particles(attributes: Attributes, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """The particles' grey values and where they are, both mode L and oversampled."""
    side = IMAGE_SIZE * _OVERSAMPLING
    grey, mask = Image.new("L", (side, side)), Image.new("L", (side, side))
    count = int(rng.integers(4, 7) if attributes.density == "sparse" else rng.integers(14, 19))
    for x, y in _places(count, rng):
        outline = _outline(attributes.shape, x, y, rng)
        level = int(rng.integers(205, 236) if attributes.tone == "bright" else rng.integers(20, 51))
        ImageDraw.Draw(grey).polygon(outline, fill=level, outline=level - 18, width=2)
        ImageDraw.Draw(mask).polygon(outline, fill=255)
    return grey, mask


def _places(count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centres in oversampled pixels, one in each of `count` cells of a grid, so that few particles hide one another."""
    cells = math.ceil(math.sqrt(count))
    margin, side = 8, IMAGE_SIZE * _OVERSAMPLING
    pitch = (side - 2 * margin) / cells
    chosen = rng.permutation(cells * cells)[:count]
    offsets = rng.uniform(0.2, 0.8, (count, 2))
    return [
        (margin + pitch * (cell % cells + dx), margin + pitch * (cell // cells + dy))
        for cell, (dx, dy) in zip(chosen, offsets, strict=True)
    ]


def _outline(shape: str, x: float, y: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """A closed polygon around (x, y), in oversampled pixels, turned at random."""
    if shape == "round":
        radius, corners = rng.uniform(7, 9), 20
        points = [(radius * math.cos(t), radius * math.sin(t)) for t in np.arange(corners) * 2 * math.pi / corners]
    elif shape == "plate":
        a, b = rng.uniform(15, 19), rng.uniform(11, 14)
        points = [(-a, -b), (a * 0.6, -b), (a, -b * 0.4), (a, b), (-a * 0.6, b), (-a, b * 0.4)]
    else:
        a, b = rng.uniform(20, 27), rng.uniform(2, 3)
        points = [(-a, -b * 0.5), (0, -b), (a, -b * 0.5), (a, b * 0.5), (0, b), (-a, b * 0.5)]
    turn = rng.uniform(0, 2 * math.pi)
    cosine, sine = math.cos(turn), math.sin(turn)
    return [(x + u * cosine - v * sine, y + u * sine + v * cosine) for u, v in points]


def _shrunk(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX), dtype=np.float64)


def run(task: Task) -> Tally:
    """Draw the questions into the stage's draft."""
    config: PocketConfig = task.config.pocket
    write(task.draft, config, lambda done, total: task.progress(done, total, "images"))
    rows = {"train": config.num_train_questions, "test": config.num_test_questions}
    return Tally(rows=rows, facts={"name": NAME, "notes": [NOTE, NOTE_ON_MODELS]})


if __name__ == "__main__":
    from infra import command_line

    command_line.main("draw", "pipelines")
