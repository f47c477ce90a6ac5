"""What llama.cpp says of itself and of the machine: build, backends, devices, kernels. Part of every recipe."""

from __future__ import annotations

import ctypes

import llama_cpp

from worker.engine import attention

_library = llama_cpp.llama_cpp._lib
"""What the bindings call, and ggml with it."""


def facts() -> dict[str, str | list[str]]:
    """Build, backends, devices and kernels. llama.cpp's own version stands for many sources: ggml's commit does not.

    All devices count, whatever layers they hold: the rows of a large prompt may be sent to a GPU that holds none.
    """
    devices = [_ggml("ggml_backend_dev_get", number) for number in range(_ggml("ggml_backend_dev_count") or 0)]
    if not attention.is_used():
        devices = [device for device in devices if _said("ggml_backend_dev_name", device) != attention.DEVICE]
    backends = [_said("ggml_backend_reg_name", _ggml("ggml_backend_dev_backend_reg", device)) for device in devices]
    build = f"{llama_cpp.llama_version().decode()}, ggml {_said('ggml_version')} {_said('ggml_commit')}"
    return {
        "llama_cpp": f"{build}, llama-cpp-python {llama_cpp.__version__}",
        "backend": "+".join(dict.fromkeys(backends)),
        "devices": [
            f"{_said('ggml_backend_dev_name', device)}: {_said('ggml_backend_dev_description', device)}"
            for device in devices
        ],
        "kernels": llama_cpp.llama_print_system_info().decode().strip(),
    }


def _ggml(name: str, argument: int | None = None) -> int | None:
    """Call a function of ggml that the bindings do not name: of one address or index, or of nothing."""
    function = getattr(_library, name)
    function.restype = ctypes.c_void_p
    return function() if argument is None else function(ctypes.c_void_p(argument))  # type: ignore[no-any-return]


def _said(name: str, argument: int | None = None) -> str:
    address = _ggml(name, argument)
    return ctypes.string_at(address).decode(errors="replace").strip() if address else "unknown"
