"""The config.json of a model on the hub: from the local cache where an earlier download left it, otherwise fetched.

Only this one file is fetched, over https, and only for an id the user named. `HF_HUB_OFFLINE`, `HF_HOME`, `HF_ENDPOINT` and
`HF_TOKEN` mean what they mean to huggingface_hub.
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
LARGEST_CONFIG_BYTES = 4 << 20
TIMEOUT_S = 10.0


def is_hub_id(text: str) -> bool:
    """`owner/name`, and no path."""
    return HUB_ID.fullmatch(text) is not None and ".." not in text


def read_hub_config(hub_id: str) -> Mapping[str, Any]:
    """Raises UsageError when it is neither in the cache nor can be fetched."""
    for path in sorted(_cache(hub_id).glob("*/config.json")):
        return parse_config(path.read_bytes(), str(path))
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise UsageError(
            f"'{hub_id}' is not in the local cache, and HF_HUB_OFFLINE forbids the network",
            hint="give a folder with its config.json",
        )
    return parse_config(_fetch(hub_id), hub_id)


def parse_config(content: bytes, where: str) -> Mapping[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the config.json of {where} is not JSON ({type(error).__name__})") from error
    if not isinstance(document, dict):
        raise UsageError(f"the config.json of {where} is not a JSON object")
    return document


def _cache(hub_id: str) -> Path:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    root = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    return root / f"models--{hub_id.replace('/', '--')}" / "snapshots"


def _fetch(hub_id: str) -> bytes:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    headers = {"User-Agent": "edgeport"}
    if token := os.environ.get("HF_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(f"{endpoint}/{hub_id}/resolve/main/config.json", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read(LARGEST_CONFIG_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise UsageError(
            f"the hub answers {error.code} for the config.json of '{hub_id}'",
            hint="check the id; a gated model needs HF_TOKEN",
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the config.json of '{hub_id}' cannot be fetched: {error}",
            hint="without a network, give a folder with its config.json",
        ) from error
    if len(content) > LARGEST_CONFIG_BYTES:
        raise UsageError(f"the config.json of '{hub_id}' has more than {LARGEST_CONFIG_BYTES} bytes")
    return content
