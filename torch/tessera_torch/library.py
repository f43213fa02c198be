"""The C library: found, loaded, its functions and their errors."""
import ctypes
import os
import pathlib

UNAVAILABLE = 6  # tsr_status

Exchange = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int)


class Options(ctypes.Structure):
    """dc_options of src/engine.h."""
    _fields_ = [("rank", ctypes.c_int), ("world", ctypes.c_int), ("timeout_ms", ctypes.c_int), ("mpi", ctypes.c_int), ("exchange", Exchange),
                ("bucket_elements", ctypes.c_int64), ("free_threshold", ctypes.c_int64), ("double_buffer", ctypes.c_int),
                ("symmetric_memory", ctypes.c_int), ("sync_before_allgather", ctypes.c_int),
                ("sync_after_allgather", ctypes.c_int), ("sync_before_reduce", ctypes.c_int),
                ("sync_after_reduce", ctypes.c_int), ("host_bytes", ctypes.c_int64)]


I64, INT = ctypes.c_int64, ctypes.c_int
CALLS = {
    "load": [INT],
    "fail": [INT, ctypes.c_char_p],
    "engine_create": [ctypes.POINTER(Options), ctypes.POINTER(I64)],
    "engine_destroy": [I64],
    "set_current": [I64],
    "leave": [INT],
    "reset": [],
    "register_graph": [INT, I64, ctypes.POINTER(I64), ctypes.c_size_t],
    "set_persistent": [I64],
    "enable_profiling": [INT],
    "start_forward": [],
    "end_forward": [],
    "start_backward": [INT],
    "end_backward": [I64],
    "abort_step": [],
    "invalidate_gathered_param": [I64],
    "clear_all_gathered_params": [],
    "reload_parameters": [],
    "weights_changed": [],
    "memory": [I64 * 6],
}


def path() -> pathlib.Path:
    """$TESSERA_TORCH_LIBRARY, or the library inside the package."""
    return pathlib.Path(os.environ.get("TESSERA_TORCH_LIBRARY") or pathlib.Path(__file__).parent / "libtessera_torch.so")


class Library:

    def __init__(self):
        import torch  # noqa: F401  the library finds torch's functions in this process
        if not path().exists():
            raise ImportError(f"tessera_torch: {path()} does not exist; build the target tessera_torch and set "
                              "TESSERA_TORCH_LIBRARY, or install the wheel")
        self._c = ctypes.CDLL(str(path()))
        self._c.tsr_torch_error.restype = ctypes.c_char_p
        self._c.tsr_torch_schema.restype = ctypes.c_char_p
        self._c.tsr_torch_schema.argtypes = [INT, ctypes.c_size_t]
        self._c.tsr_torch_current.restype = I64
        self._c.tsr_torch_current.argtypes = []
        self._c.tsr_torch_is_profiling.argtypes = []
        for name, arguments in CALLS.items():
            getattr(self._c, f"tsr_torch_{name}").argtypes = arguments

    def call(self, name, *arguments):
        if getattr(self._c, f"tsr_torch_{name}")(*arguments) != 0:
            raise RuntimeError(f"tessera_torch: {name}: {self._c.tsr_torch_error().decode(errors='replace')}")

    def fail(self, status, message):
        """For callbacks: makes the message the calling thread's, and gives the status."""
        return self._c.tsr_torch_fail(status, message.encode(errors="replace"))

    def schemas(self, release) -> list:
        """Those of DeepSpeed 0.minor.patch, release being 100 * minor + patch; empty: not known."""
        found = []
        while (schema := self._c.tsr_torch_schema(release, len(found))) is not None:
            found.append(schema.decode())
        return found

    def current(self) -> int:
        return self._c.tsr_torch_current()

    def is_profiling(self) -> bool:
        return bool(self._c.tsr_torch_is_profiling())


_library = None


def get() -> Library:
    global _library
    if _library is None:
        _library = Library()
    return _library
