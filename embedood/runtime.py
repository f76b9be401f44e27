"""Where and how things run: seeds, device, precision, versions."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from types import ModuleType

import torch

import embedood


def generator(seed: int, *purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator whose stream depends on the seed and on what it is for.

    Two purposes never share a stream, so drawing more noise does not change the shuffling.
    """
    text = ":".join([str(seed), *purpose])
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
    return torch.Generator(device).manual_seed(number)


def device() -> torch.device:
    """Return the CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast_dtype(where: torch.device) -> torch.dtype | None:
    """Return bfloat16 where the processor multiplies it natively, else None (stay in float32)."""
    if where.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(where) >= (8, 0) else None
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else None


def autocast(where: torch.device) -> torch.autocast:
    """Return the context in which training runs its forward pass."""
    dtype = autocast_dtype(where)
    return torch.autocast(where.type, dtype or torch.bfloat16, enabled=dtype is not None)


def describe(where: torch.device) -> str:
    """Name the device and its precision in words, for the reader and for provenance."""
    precision = "bf16 autocast" if autocast_dtype(where) else "fp32"
    if where.type == "cuda":
        return f"{torch.cuda.get_device_name(where)}, {precision}"
    return f"{cpu_name()}, {torch.get_num_threads()} threads, {precision}"


def cpu_name() -> str:
    """Return the processor's own name where the system tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(
                line.split(":")[1].strip() for line in lines if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a number."""
    packages = ("torch", "numpy", "scipy", "scikit-learn", "matplotlib")
    own = {"python": platform.python_version(), "embedood": embedood.__version__}
    return own | {package: metadata.version(package) for package in packages}


_torchvision_schemas: torch.library.Library | None = None


def import_torchvision() -> ModuleType:
    """Import torchvision, also a CUDA build of it beside a CPU build of torch.

    Such a build cannot load its compiled operators; Python then fails on two missing schemas
    (`nms`, `qnms`). Declaring them lets everything load that does not call them.
    """
    global _torchvision_schemas
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _torchvision_schemas = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _torchvision_schemas.define(
                f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        import torchvision
    return torchvision
