"""What the Python that runs this is made of, as one line of JSON; the standard library alone, and no torch imported.

    PYTHON probe.py

Run by path, by the interpreter that trains: versions come from the packages' metadata, the CUDA version from the
text of ``torch/version.py``, the devices from NVIDIA's management library (NVML, ``nvml.h``), because asking torch
takes seconds. What could not be told is ``null``.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import sys
from importlib import metadata, util

PACKAGES = (
    "torch", "accelerate", "numpy", "safetensors", "transformers", "diffusers", "bitsandbytes", "prodigyopt",
    "lion-pytorch", "dadaptation", "schedulefree", "gradio",
)  # fmt: skip
_NAME_BYTES = 96  # nvml.h: NVML_DEVICE_NAME_V2_BUFFER_SIZE
_DRIVER_NOT_LOADED = 9  # nvml.h: NVML_ERROR_DRIVER_NOT_LOADED


def describe() -> dict[str, object]:
    """Everything that :mod:`checkpoint_core.environment.probing` asks for."""
    return {
        "executable": sys.executable,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "torch_cuda": _torch_built_for("cuda"),
        "gpus": _gpus(),
        "folders": [folder for folder in sys.path if folder and os.path.isdir(folder)],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, KeyError, OSError, ValueError):
        return None  # it is not installed, or a broken install left something of it


def _torch_built_for(platform_name: str) -> str | None:
    """The version of ``cuda`` or ``hip`` in the generated ``torch/version.py``: ``cuda: Optional[str] = '12.4'``."""
    found = util.find_spec("torch")
    for folder in (found.submodule_search_locations or ()) if found else ():
        try:
            with open(os.path.join(folder, "version.py"), encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        line = re.search(rf"^{platform_name}\b[^=\n]*=\s*['\"]([\d.]+)", text, re.MULTILINE)
        return line[1] if line else None
    return None


def _gpus() -> list[str] | None:
    devices = _devices()
    # torch calls AMD's devices CUDA too, and NVIDIA's library does not know them.
    if devices is None or _torch_built_for("hip"):
        return None
    return _visible(devices, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _devices() -> list[str] | None:
    """The names of the NVIDIA devices of this machine: none without a driver, ``None`` from one that fails."""
    try:
        library = ctypes.CDLL("nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1")
    except OSError:
        return []
    if failure := library.nvmlInit_v2():
        return [] if failure == _DRIVER_NOT_LOADED else None
    try:
        count = ctypes.c_uint()
        if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return None
        return [_device_name(library, index) for index in range(count.value)]
    finally:
        library.nvmlShutdown()


def _device_name(library: ctypes.CDLL, index: int) -> str:
    device, name = ctypes.c_void_p(), ctypes.create_string_buffer(_NAME_BYTES)
    if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)) != 0:
        return "unknown device"
    library.nvmlDeviceGetName(device, name, ctypes.c_uint(_NAME_BYTES))
    return name.value.decode("utf-8", "replace")


def _visible(devices: list[str], chosen: str | None) -> list[str]:
    """CUDA's own rule: the list ends at the first entry that names no device (CUDA C programming guide)."""
    if chosen is None:
        return devices
    visible = []
    for entry in chosen.split(","):
        number = entry.strip()
        if number.isdecimal() and int(number) < len(devices):
            visible.append(devices[int(number)])
        elif number.startswith(("GPU-", "MIG-")) and devices:
            visible.append(devices[0] if len(devices) == 1 else number)
        else:
            break
    return visible


if __name__ == "__main__":
    print(json.dumps(describe()))
