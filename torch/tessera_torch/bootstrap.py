"""How the ranks of a process group first find each other: through torch.distributed's store."""
import ctypes
import datetime
import os
import socket

import torch.distributed as dist

from . import library

_meetings = 0


class StoreExchange:
    """Every rank's bytes under a key of its own, read by all. Keys are used once."""

    def __init__(self, group):
        global _meetings
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        ranks = dist.get_process_group_ranks(group)
        store = dist.distributed_c10d._get_default_store()
        self.store = dist.PrefixStore(f"tessera/{'-'.join(map(str, ranks))}/{_meetings}", store)
        _meetings += 1
        self.turn = 0
        self.callback = library.Exchange(self._call)

    def exchange(self, mine: bytes, timeout_s: float) -> list:
        self.turn += 1
        self.store.set(f"{self.turn}/{self.rank}", mine)
        keys = [f"{self.turn}/{rank}" for rank in range(self.world)]
        self.store.wait(keys, datetime.timedelta(seconds=timeout_s))
        return [self.store.get(key) for key in keys]

    def wants_mpi(self, timeout_s) -> bool:
        """Whether the ranks talk over MPI: those of several hosts do. The same on all ranks."""
        choice = os.environ.get("TESSERA_TORCH_COMM", "")
        places = self.exchange(f"{choice} {socket.gethostname()}".encode(), timeout_s)
        choices, hosts = zip(*(place.decode().split(" ", 1) for place in places))
        if len(set(choices)) > 1 or choice not in ("", "host", "mpi"):
            raise ValueError("TESSERA_TORCH_COMM is to be host or mpi, or nothing, and the same on all ranks; found "
                             f"{', '.join(sorted(set(map(repr, choices))))}")
        if choice == "host" and len(set(hosts)) > 1:
            raise ValueError("TESSERA_TORCH_COMM=host joins the ranks of one host; these are on "
                             f"{', '.join(sorted(set(hosts)))}")
        return choice == "mpi" or len(set(hosts)) > 1

    def _call(self, context, mine, count, everyone, timeout_ms):
        try:
            parts = self.exchange(ctypes.string_at(mine, count), timeout_ms / 1000)
            if any(len(part) != count for part in parts):
                raise RuntimeError("ranks brought different numbers of bytes")
            ctypes.memmove(everyone, b"".join(parts), count * self.world)
            return 0
        except Exception as error:  # nothing may leave a callback
            return library.get().fail(library.UNAVAILABLE, f"torch.distributed's store, exchange {self.turn}: {error}")
