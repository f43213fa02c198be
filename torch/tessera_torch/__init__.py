"""DeepSpeed's DeepCompile over Tessera: no build, and on the CPU too.

    import tessera_torch
    tessera_torch.install()        # before deepspeed.initialize(); "compile": {"deepcompile": true}
"""
from .install import install, installed, uninstall

__all__ = ["install", "installed", "uninstall"]
