"""Uploading an export to the Hugging Face Hub; needs ``pip install 'hqvox[huggingface]'``."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from hqvox.errors import HqvoxError


def import_hub() -> ModuleType:
    """The Hub's library. Raises HqvoxError where it is not installed."""
    try:
        import huggingface_hub
    except ImportError:
        raise HqvoxError(
            "--push needs the Hub's library; install it with: pip install 'hqvox[huggingface]'"
        ) from None
    return huggingface_hub


def push_folder(folder: Path, repo: str) -> str:
    """Upload a folder as a dataset of the Hub; return its address.

    A repository that is not there is made, private: faces are personal data, and who may see them
    is decided on the Hub. Account and address are those of the library (`hf auth login`,
    ``HF_TOKEN``, ``HF_ENDPOINT``). Raises HqvoxError where the Hub refuses or cannot be reached.
    """
    api = import_hub().HfApi()
    try:
        made = api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            repo_type="dataset",
            commit_message="Upload a dataset exported by hqvox",
        )
    except Exception as error:  # of several HTTP libraries, by version
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise HqvoxError(
            f"{repo}: not uploaded ({why}); the export is in {folder}: log in with `hf auth "
            f"login`, then upload it with `hf upload {repo} {folder} --repo-type dataset`"
        ) from None
    return str(made)
