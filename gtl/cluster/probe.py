"""What torch says of itself and of the GPUs, as one line of JSON. Run as a program, in a process of its own.

Loading torch, and even more a GPU driver, can hang or end the process that does it; the doctor must survive both.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from typing import Any


def main() -> None:
    """Print what was found. Whatever fails here is itself a finding."""
    found: dict[str, Any] = {"torch": None, "error": "", "gpus": [], "warnings": []}
    try:
        import torch

        found["torch"] = str(torch.__version__)
        found["built_for"] = _built_for(torch.version)
        found["bfloat16"] = bool(torch.cpu._is_avx512_bf16_supported())
        with warnings.catch_warnings(record=True) as heard:  # a driver that is too old is only warned of
            warnings.simplefilter("always")
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        found["warnings"] = [_line(warning.message) for warning in heard]
        found["gpus"] = [_gpu(torch, index) for index in range(count)]
        # By name: the code of gtl uses torchvision in two modules only, and this is not using it.
        found["torchvision"] = str(importlib.import_module("torchvision").__version__)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {_line(error)}"
    json.dump(found, sys.stdout)


def _built_for(version: Any) -> str:
    return f"CUDA {version.cuda}" if version.cuda else "ROCm" if getattr(version, "hip", None) else ""


def _gpu(torch: Any, index: int) -> dict[str, Any]:
    """Name and memory of a GPU, and whether it multiplies."""
    found: dict[str, Any] = {"name": f"GPU {index}", "memory": 0, "bfloat16": False, "error": ""}
    try:
        properties = torch.cuda.get_device_properties(index)
        found |= {"name": properties.name, "memory": properties.total_memory}
        with torch.cuda.device(index):
            found["bfloat16"] = bool(torch.cuda.is_bf16_supported(including_emulation=False))
            ones = torch.ones(64, 64, device="cuda")
            if (ones @ ones).sum().item() != 64**3:
                found["error"] = "multiplies two matrices wrongly"
    except Exception as error:
        found["error"] = _line(error)
    return found


def _line(error: object) -> str:
    """The first line of a message."""
    return (str(error).strip().splitlines() or ["no message"])[0][:300]


if __name__ == "__main__":
    main()
