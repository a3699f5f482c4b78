"""What makes an exported student a Space on the Hugging Face Hub: the demo page and what it needs."""

import shutil
from pathlib import Path

APP_FILE, REQUIREMENTS_FILE = "app.py", "requirements.txt"

#: For the model card, which is a Space's configuration too.
METADATA = {"sdk": "gradio", "app_file": APP_FILE}

# What the page and the single-file interface import, as in setup.py (a test compares).
_REQUIREMENTS = """\
gradio>=6
huggingface_hub>=1.0
numpy>=1.26
safetensors>=0.4.3
silero-vad>=6
soundfile>=0.12.1
speechbrain>=1.1,<1.2
starlette>=0.40
torch>=2.7.1
torchaudio>=2.7.1
tqdm>=4.65
transformers>=5.0,<6
"""


def write_space(folder: Path) -> None:
    """Write ``app.py`` and ``requirements.txt``.

    Parameters
    ----------
    folder
        The folder of an exported student, with ``custom_interface.py``.
    """
    # By its path, for importing it would import gradio.
    shutil.copyfile(Path(__file__).with_name("page.py"), folder / APP_FILE)
    (folder / REQUIREMENTS_FILE).write_text(_REQUIREMENTS, encoding="utf-8")
