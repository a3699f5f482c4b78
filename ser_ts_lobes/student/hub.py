"""An exported student on the Hugging Face Hub. What only lists files waits for no network library."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.student.config import CONFIG_FILE, is_hub_name, read_config


def push(folder: str | Path, name: str, private: bool = False, yes: bool = False) -> None:
    """Upload an exported student to the Hugging Face Hub; unless told `yes`, only print what would be sent.

    Parameters
    ----------
    folder
        What `ser_ts_lobes.student.export.export` wrote.
    name
        The repository's name, ``user/name``; it is created if need be.
    private
        Whether a repository that is created is private.
    yes
        Whether to upload.

    Raises
    ------
    InputError
        If it isn't a student, the name can't be used, or the Hub can't be reached or refuses.
    """
    folder = Path(folder)
    if not is_hub_name(name):
        raise InputError(f"{name!r} is no name of a repository on the Hugging Face Hub: give user/name.")
    read_config(folder / CONFIG_FILE)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    files = [file for file in files if not re.search(r"(^|/)(\.|__pycache__/)", file)]
    print_files(folder, files)
    address = f"https://huggingface.co/{name}"
    if not yes:
        print(f"Nothing was sent. --yes sends these {len(files)} files to {address}.")
        return
    _upload(folder, name, private, files)
    print(f"Sent: {address}")


def print_files(folder: Path, files: Iterable[str]) -> None:
    """Print the sizes, in bytes, and the names of some files in a folder.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "config.json").write_text("{}")
    >>> print_files(folder, ["config.json"])
    2  config.json
    """
    for file in files:
        print(f"{(folder / file).stat().st_size:>13,}  {file}")


def _upload(folder: Path, name: str, private: bool, files: list[str]) -> None:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # huggingface_hub lets errors of its HTTP library through, which is httpx or, in later versions, its successor.
    http = sys.modules[type(huggingface_hub.get_session()).__module__.partition(".")[0]]
    try:
        api = huggingface_hub.HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=files, commit_message="Add the student")
    except (HfHubHTTPError, HFValidationError, http.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"The upload to {name} failed ({reason}): check the name and the network, and log in by `hf auth login`."
        ) from error
