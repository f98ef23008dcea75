"""A checkpoint from a stranger: nothing in it is run, whatever reads it."""

import functools
import http.server
import json
import os
import threading

import pytest
import torch

from lightning_focal.cli import main
from lightning_focal.commands.sft import sft_command
from lightning_focal.models import load_policy
from lightning_focal.runs import AtomicCheckpointIO
from tests.commands.test_sft import ROOT, SMALL
from tests.conftest import TINY, rubric_rows, write_rows


@pytest.fixture
def touch(tmp_path):
    """What touches a file when it is unpickled; that file must not be there in the end."""

    class Touch:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'touched'}",))

    yield Touch()
    assert not (tmp_path / "touched").exists()


@pytest.fixture
def bait(tmp_path, touch):
    """A checkpoint that holds it."""
    path = tmp_path / "run" / "checkpoints" / "step=4.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": {}, "optimizer_states": [], "loops": {}, "extra": touch}, path)
    (path.parent / "last.ckpt").symlink_to("step=4.ckpt")
    torch.load(path, weights_only=False)  # it would work
    (tmp_path / "touched").unlink()
    return path


@pytest.mark.parametrize(
    ("command", "how"),
    [("fit", "path"), ("fit", "link"), ("fit", "last"), ("validate", "last"), ("test", "path"), ("predict", "link")],
)
def test_every_command_refuses_it(tmp_path, bait, capsys, command, how):
    wanted = {"path": bait, "link": bait.with_name("last.ckpt"), "last": "last"}[how]
    rows = write_rows(tmp_path / "rows.jsonl", rubric_rows(4))
    args = [command, "--reward=FocalReward", f"--model.policy={TINY}", "--data=RubricDataModule", f"--run_dir={tmp_path / 'run'}"]
    args += [f"--data.{split}={rows}" for split in ("train", "val", "test", "predict")]
    with pytest.raises(SystemExit) as stop:
        main([*args, "--trainer.accelerator=cpu", f"--ckpt_path={wanted}"])
    said = capsys.readouterr().err
    assert stop.value.code == 1
    assert "holds more than plain data and was not read, as reading it would run code" in said
    assert "GLOBAL posix.system" in said
    assert "Traceback" not in said


def test_a_warm_start_refuses_it(tmp_path, bait):
    config = ROOT / "configs" / "sft_tiny_chain_sum.yaml"
    with pytest.raises(ValueError, match="holds more than plain data and was not read"):
        sft_command([f"--config={config}", *SMALL, f"--run_dir={tmp_path / 'run'}", "--ckpt_path=last"])


def test_nobody_is_asked_to_trust(bait, capsys):
    """There is no option that would have it read."""
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--weights_only=false", f"--ckpt_path={bait}"])
    assert stop.value.code == 2
    assert "weights_only" in capsys.readouterr().err
    with pytest.raises(ValueError, match="`weights_only` must be true"):
        AtomicCheckpointIO().load_checkpoint(bait, weights_only=False)
    for allowed in (None, True):
        with pytest.raises(ValueError, match="was not read, as reading it would run code"):
            AtomicCheckpointIO().load_checkpoint(bait, weights_only=allowed)


def test_not_from_an_address_either(bait, tmp_path, monkeypatch):
    """Lightning reads a file from an address without asking, unless it is told not to."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(bait.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ValueError, match="was not read, as reading it would run code"):
            AtomicCheckpointIO().load_checkpoint(f"http://127.0.0.1:{server.server_port}/step=4.ckpt")
    finally:
        server.shutdown()


def test_a_policy_folder_with_pickled_weights(tmp_path, touch):
    policy, tokenizer = load_policy(TINY)
    folder = tmp_path / "policy"
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.save({"lm_head.weight": touch}, folder / "pytorch_model.bin")
    load_policy(folder)  # safetensors come first
    (folder / "model.safetensors").unlink()
    with pytest.raises(Exception, match=r"(?i)weights.only|pickle|safetensors|torch.load"):
        load_policy(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
