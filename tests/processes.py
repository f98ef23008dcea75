"""Functions run by several fresh processes that know each other, as a launcher would start them, or by threads in their place."""

import faulthandler
import os
import socket
import threading
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

_SILENT = float(os.environ.get("LIGHTNING_FOCAL_TEST_SILENT", 200))
"""Seconds after which a process prints where it is."""


def run_ranks(function, *arguments, world_size=2, init=True, timeout=250):
    """Run ``function(rank, *arguments)`` in ``world_size`` processes; an error in one, or waiting too long, ends all.

    The environment is that of ``torchrun``, so a Trainer takes these processes for its own.

    Args:
        function: of a module that can be imported.
        arguments: plain data.
        world_size: number of processes.
        init: join them by gloo beforehand; a Trainer does that by itself.
        timeout: seconds, imports included.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = mp.spawn(_enter, args=(world_size, port, init, function, arguments), nprocs=world_size, join=False)
    try:
        deadline = time.monotonic() + timeout
        while not running.join(timeout=max(0.1, deadline - time.monotonic())):
            assert time.monotonic() < deadline, "the processes wait for each other"
    finally:
        for process in running.processes:
            process.kill()


def _enter(rank, world_size, port, init, function, arguments):
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size, "NODE_RANK": 0}
    os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(_SILENT, exit=False)  # says where, if the processes wait for each other
    if init:
        dist.init_process_group("gloo", rank=rank, world_size=world_size)
    function(rank, *arguments)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def run_threads(function, *arguments, world_size=2, timeout=120):
    """Run ``function(rank, *arguments)`` in ``world_size`` threads that exchange tensors like processes; needs no new process.

    For what keeps no state in its module and draws no random number: both are the same for all threads.

    Args:
        function: any.
        arguments: handed to each thread as they are.
        world_size: number of threads.
        timeout: seconds.
    """
    from torch.testing._internal.distributed import multi_threaded_pg as threaded

    store, errors = dist.HashStore(), []

    def work(rank):
        dist.init_process_group("threaded", rank=rank, world_size=world_size, store=store)
        try:
            function(rank, *arguments)
        except BaseException as error:
            errors.append(error)
            threaded.ProcessLocalGroup.exception_handle(error)  # ends the others
        finally:
            dist.destroy_process_group()

    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    threaded._install_threaded_pg()
    try:
        running = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(world_size)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(timeout)
        if errors:
            raise errors[0]
        assert not any(thread.is_alive() for thread in running), "the threads wait for each other"
    finally:
        threaded._uninstall_threaded_pg()
        torch._C._distributed_c10d._set_thread_isolation_mode(False)
