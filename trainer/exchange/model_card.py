"""The model card beside exported weights: what they are, what they were trained on, how far, with which figures."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..checkpoint import storage

NAME = "README.md"
LIBRARIES = {"diffusers": "diffusers", "transformers": "transformers"}
LOADING = {
    "smalti": "from smalti import from_pretrained\n\nmodel = from_pretrained(FOLDER).model",
    "diffusers": "from diffusers import VQModel\n\nmodel = VQModel.from_pretrained(FOLDER)\n"
    "codes = model.quantize(model.encode(images).latents)[2][2]",
    "transformers": "from transformers import GPT2LMHeadModel\n\nmodel = GPT2LMHeadModel.from_pretrained(FOLDER)\n"
    "codes = model.generate(condition + offset)[:, condition.shape[1]:]",
    "torch-export": "import torch\n\nprogram = torch.export.load(GRAPH + '.pt2').module()",
    "onnx": "import onnxruntime\n\nsession = onnxruntime.InferenceSession(GRAPH + '.onnx')",
    "taming": "model.load_state_dict(torch.load('model.ckpt')['state_dict'], strict=True)",
}


def text(source: Path, metadata: Mapping[str, Any], wanted: str) -> str:
    """The card, whose head is read by the Hub.

    Args:
        source: the run or the export that the weights come from.
        metadata: of the weights.
        wanted: the format.
    """
    trained = _trained(source)
    rows = [
        ("weights", f"`{metadata['digest']}` (SHA-256 of names, types, shapes and bytes)"),
        *([("kind", "as trained, not averaged")] if metadata.get("weights") == "raw" else []),
        *((name, f"`{metadata[name]}`") for name in ("tokenizer", "codes", "factor", "target") if name in metadata),
        *trained,
    ]
    head = {"library_name": LIBRARIES.get(wanted, "smalti"), "license": "unknown", "tags": ["smalti", metadata["task"]]}
    config = {name: metadata[name] for name in ("model", "condition") if name in metadata}
    return "\n".join(
        [
            "---",
            *(f"{name}: {json.dumps(value)}" for name, value in head.items()),
            "---",
            "",
            f"# A {'VQGAN tokenizer' if metadata['task'] == 'vqgan' else 'prior over codes of images'} by smalti",
            "",
            "The license is that of the weights' owner, who fills in the field above.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
            "```python",
            LOADING[wanted],
            "```",
            "",
            "```json",
            json.dumps(config, indent=1),
            "```",
            "",
        ]
    )


def _trained(source: Path) -> list[tuple[str, str]]:
    """What a run's newest checkpoint says of its training; nothing for an export."""
    found = storage.latest_valid(source) if storage.list_checkpoints(source) else None
    if found is None:
        return []
    manifest = storage.manifest_of(found.folder)
    rows = [("steps", str(found.step)), ("data", f"fingerprint `{_fingerprint(manifest.get('data'))}`")]
    figures: dict[str, float] = {}
    with suppress(OSError, ValueError):
        for line in (source / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            said = json.loads(line)
            if said.get("step", 0) <= found.step:
                figures |= {name: value for name, value in said.items() if name.startswith("val/")}
    return rows + [(name, f"{value:.4g}") for name, value in sorted(figures.items())]


def _fingerprint(data: Any) -> str:
    """The fingerprint of the training data in what a checkpoint says of them, however deep."""
    if not isinstance(data, dict):
        return "unknown"
    if "fingerprint" in data:
        return str(data["fingerprint"])
    found = [_fingerprint(value) for value in data.values() if isinstance(value, dict)]
    return next((value for value in found if value != "unknown"), "unknown")
