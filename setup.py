"""Packaging. The folders at the root are imported as ``smalti.models``, ``smalti.trainer`` and so on."""

from pathlib import Path

from setuptools import setup

FOLDERS = ("models", "trainer", "launch", "configs")


def packages() -> list[str]:
    """Every package of the project, by its dotted name; a folder counts when it has an ``__init__.py``."""
    root = Path(__file__).parent
    below = (path.parent.relative_to(root) for folder in FOLDERS for path in (root / folder).rglob("__init__.py"))
    return ["smalti", *sorted(".".join(("smalti", *path.parts)) for path in below)]


setup(
    name="smalti",
    version="0.1.0",
    description="Image tokenizers and autoregressive image priors, trained at any scale under DeepSpeed",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.10",
    packages=packages(),
    package_dir={"smalti": "."},
    package_data={"smalti": ["py.typed"], "smalti.configs": ["*.yaml"], "smalti.launch": ["slurm/*.sbatch"]},
    entry_points={"console_scripts": ["smalti = smalti.launch.__main__:main"]},
    install_requires=[
        "torch>=2.6,<3",
        "deepspeed>=0.19,<0.20",
        "webdataset>=1.0,<2",
        "wandb>=0.19,<1",
        "lpips>=0.1.4,<0.2",
        "einops>=0.8,<1",
        "pyyaml>=6,<7",
        "numpy>=1.26,<3",
        "scipy>=1.11,<2",
        "pillow>=10.2",
        "safetensors>=0.4,<1",
        "fsspec>=2024.2",
        "tqdm>=4.66,<5",
        "bokeh>=3.4,<4",
    ],
    extras_require={
        "fast": ["simplejpeg>=1.7,<2", "opencv-python-headless>=4.11"],
        "http": ["aiohttp>=3.9,<4"],
        "metrics": ["torch-fidelity>=0.4,<0.5"],
        "hub": ["huggingface_hub>=0.24"],
        "tensorboard": ["tensorboard>=2.15,<3"],
        "serve": ["gradio>=6.20,<7"],
        "docs": ["mkdocs>=1.6,<2"],
        "onnx": ["onnx>=1.16", "onnxscript>=0.2"],
        "dev": [
            "pytest>=8,<10",
            "ruff>=0.9",
            "mypy>=1.13",
            "types-PyYAML>=6",
            "simplejpeg>=1.7,<2",
            "opencv-python-headless>=4.11",
            "tensorboard>=2.15,<3",
            "aiohttp>=3.9,<4",
            "playwright>=1.50,<2",
        ],
    },
)
