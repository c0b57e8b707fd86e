"""Every command, option, config, key and name on the pages for users of other projects exists; no row is empty."""

import contextlib
import importlib
import io
import re
import types
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

import smalti.configs
from smalti.launch.__main__ import COMMANDS, main
from smalti.trainer.jobs.run import Run

ROOT = Path(__file__).parent.parent


def table(page: str) -> list[list[str]]:
    """The rows of a page's tables, without their heads."""
    lines = [line for line in (ROOT / page).read_text().splitlines() if line[:2] == "| "]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in rows if row[0] not in ("published", "word")]


ROWS, LLAMAGEN = table("docs/from-taming.md"), table("docs/from-llamagen.md")
OURS = sorted({code for row in [*ROWS, *LLAMAGEN] for code in re.findall(r"`([^`]+)`", row[1])})
KEY = re.compile(r"([a-z_0-9]+(?:\.[a-z_0-9]+)*)(?:: (.+))?")
# What is neither: folders and files that users have, and values.
WORDS = {"depth/", "maps/", "images/", "patch", ".npy", "object_classes.npy", "object_boxes.npy", "metrics.jsonl"}


def kinds(hint: Any) -> list[Any]:
    """The types that a hint allows: the members of unions, without annotations."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [kind for part in typing.get_args(hint) for kind in kinds(part)]
    return kinds(typing.get_args(hint)[0]) if typing.get_origin(hint) is typing.Annotated else [hint]


def values(path: list[str], sections: list[Any]) -> list[Any]:
    """The types of the field that a path names in any of these configs; none where no config has it."""
    found: list[Any] = []
    for section in filter(is_dataclass, sections):
        hints = typing.get_type_hints(section, include_extras=True)
        if path[0] in {field.name for field in fields(section)}:
            found += kinds(hints[path[0]])
    return found if len(path) == 1 or not found else values(path[1:], found)


def takes(kind: Any, value: str) -> bool:
    """Whether a field of this type may have a value, as a config writes it."""
    if typing.get_origin(kind) is typing.Literal:
        return value in typing.get_args(kind)
    return (kind is type(None)) == (value == "null") and (kind in (int, float)) == value.replace(".", "").isdigit()


def options(command: str) -> str:
    """What the command's own help says."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return shown.getvalue()


def importable(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def test_no_row_is_empty_and_what_has_no_counterpart_has_a_reason() -> None:
    assert len(ROWS) > 80
    for row in [*ROWS, *LLAMAGEN]:
        assert len(row) == 2 and all(row), row
        if row[1].startswith(("none", "no ")):
            assert ":" in row[1], f"without a reason: {row}"


@pytest.mark.parametrize("code", OURS)
def test_what_the_page_names_exists(code: str) -> None:
    words = code.split()
    if words[0] == "smalti":
        assert words[1] in COMMANDS
        shown = options(words[1])
        assert all(re.search(rf"{option}\b", shown) for option in words if option.startswith("--"))
    elif words[0] == "deepspeed":
        assert importable(words[2])
    elif code.endswith(".yaml"):
        assert (Path(smalti.configs.__file__).parent / code).is_file()
    elif code.startswith("smalti."):
        assert importable(code)
    elif code not in WORDS:
        match = KEY.fullmatch(code)
        assert match, code
        found = values(match[1].split("."), list(typing.get_args(Run)))
        assert found, f"no config has the key {code}"
        assert match[2] is None or any(takes(kind, match[2]) for kind in found), code


def test_every_published_script_and_config_has_a_row() -> None:
    theirs = " ".join(row[0] for row in ROWS)
    wanted = [
        "main.py", "sample_fast.py", "make_samples.py", "make_scene_samples.py", "sample_conditional.py",
        "extract_depth.py", "extract_segmentation.py", "extract_submodel.py", "reconstruction_usage.ipynb",
        "taming-transformers.ipynb", "coco_cond_stage", "coco_scene_images_transformer", "custom_vqgan",
        "drin_transformer", "faceshq_transformer", "faceshq_vqgan", "imagenet_vqgan", "imagenetdepth_vqgan",
        "open_images_scene_images_transformer", "sflckr_cond_stage",
    ]  # fmt: skip
    assert [name for name in wanted if name not in theirs] == []


def test_every_published_class_has_a_row() -> None:
    theirs = set(re.findall(r"\w+", " ".join(row[0] for row in ROWS)))
    wanted = """
    ImagePaths NumpyPaths ConcatDatasetWithIndex CustomTrain CustomTest ImageNetTrain ImageNetValidation
    ImageNetTrainWithDepth ImageNetValidationWithDepth RINTrainWithDepth RINValidationWithDepth DRINExamples
    ImageNetScale ImageNetScaleTrain ImageNetScaleValidation ImageNetEdges ImageNetEdgesTrain
    ImageNetEdgesValidation CelebAHQTrain CelebAHQValidation FFHQTrain FFHQValidation FacesHQTrain
    FacesHQValidation ADE20kTrain ADE20kValidation Examples CocoImagesAndCaptionsTrain
    CocoImagesAndCaptionsValidation SegmentationBase AnnotatedObjectsDataset AnnotatedObjectsCoco
    AnnotatedObjectsOpenImages ObjectsBoundingBoxConditionalBuilder ObjectsCenterPointsConditionalBuilder
    Random2dCropReturnCoordinates RandomCrop1dReturnCoordinates CenterCropReturnCoordinates
    RandomHorizontalFlipReturn Net2NetTransformer VQModel VQSegmentationModel VQNoDiscModel GumbelVQ EMAVQ
    DummyCondStage LambdaWarmUpCosineScheduler Encoder Decoder ResnetBlock AttnBlock Model VUNet SimpleDecoder
    UpsampleDecoder NLayerDiscriminator ActNorm LPIPS ScalingLayer NetLinLayer vgg16 VQLPIPSWithDiscriminator
    DummyLoss BCELoss BCELossWithQuant CoordStage GPT GPTConfig GPT1Config CausalSelfAttention Block DummyGPT
    CodeGPT KMeans Identity Subsample ZCurve SpiralOut SpiralIn Random AlternateParsing AbstractPermuter
    VectorQuantizer VectorQuantizer2 GumbelQuantize EmbeddingEMA EMAVectorQuantizer AbstractEncoder Labelator
    SOSProvider DataModuleFromConfig SetupCallback ImageLogger WrappedDataset
    """
    assert [name for name in wanted.split() if name not in theirs] == []


def test_every_word_of_the_glossary_lives_in_files_that_are_there() -> None:
    rows = table("docs/glossary.md")
    assert len(rows) > 30 and [row[0].lower() for row in rows] == sorted(row[0].lower() for row in rows)
    for row in rows:
        places = re.findall(r"`([^`]+)`", row[2])
        assert len(row) == 3 and row[1] and places and all((ROOT / place).is_file() for place in places), row
