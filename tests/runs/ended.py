"""Runs on two processes of which the second alone is asked to end, or looks elsewhere for a checkpoint."""

import contextlib
import io
import json
import logging
import signal
import time
from pathlib import Path

import torch.distributed as dist
import yaml

from lightning_focal.cli import main
from tests.conftest import rubric_rows, write_rows
from tests.runs.test_saving import configuration

MOMENTS = {"training": 1, "first_evaluation": -1}


def worker(rank, folder):
    """Leave ``<moment>-<rank>.json`` with exit status, what was said and when the process was done."""
    top = Path(folder)
    for moment, batch in MOMENTS.items():
        if rank == 0:
            config = configuration(top, checkpoint={"every_n_batches": 1})
            content = yaml.safe_load(config.read_text())
            content["data"]["init_args"]["val"] = str(write_rows(top / "many.jsonl", rubric_rows(12)))
            content["data"]["init_args"]["eval_batch_size"] = 2
            arguments = {"number": int(signal.SIGTERM), "batch": batch, "rank": 1}
            content["trainer"]["callbacks"].append({"class_path": "tests.runs.killed.Signalled", "init_args": arguments})
            (top / f"{moment}.yaml").write_text(yaml.safe_dump(content))
        dist.barrier()
        note(top / f"{moment}-{rank}.json", f"--config={top / moment}.yaml", f"--run_dir={top / moment}")
    checkpoint = top / "training" / "checkpoints" / f"step={2 if rank else 4}.ckpt"
    note(top / f"apart-{rank}.json", f"--config={top / 'training'}.yaml", f"--ckpt_path={checkpoint}")


def note(path, *args):
    said, status = io.StringIO(), 0
    handler = logging.StreamHandler(said)
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stderr(said):
            main(["fit", *args, "--trainer.devices=2", "--trainer.strategy=ddp"])
    except SystemExit as end:
        status = end.code
    finally:
        logging.getLogger().removeHandler(handler)
    path.write_text(json.dumps({"status": status, "said": said.getvalue(), "done": time.time()}))
    dist.barrier()
