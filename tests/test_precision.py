"""What ``auto`` stands for, on processors and GPUs that are not here, too."""

import subprocess
import sys

import pytest
import torch

from lightning_focal import precision
from lightning_focal.trainer import Trainer

QUICK = {"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}
PLAIN = {**QUICK, "avx512_bf16": False}


@pytest.fixture
def processor(monkeypatch):
    def set_up(flags, capability="AVX512", times=0.5, **environment):
        monkeypatch.setattr(precision, "_slowdown", lambda dtype: times)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        precision._flags.cache_clear()

    yield set_up
    precision._flags.cache_clear()


@pytest.mark.parametrize(("flags", "capability", "environment", "quick"), [
    (QUICK, "AVX512", {}, True), ({**PLAIN, "amx_bf16": True}, "AVX512", {}, True), (PLAIN, "AVX512", {}, False),
    (QUICK, "AVX2", {}, False), (QUICK, "AVX512", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, False),
    (QUICK, "AVX512", {"ONEDNN_MAX_CPU_ISA": "avx512_core_bf16"}, True),
    (QUICK, "AVX512", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, False),
])  # fmt: skip
def test_processors(processor, flags, capability, environment, quick):
    processor(flags, capability, **environment)
    assert precision.quick_at_bfloat16("cpu") is quick
    assert precision.resolved_dtype("auto", "cpu") == ("bfloat16" if quick else "float32")
    assert precision.resolved_precision("auto", "cpu") == ("bf16-mixed" if quick else "32-true")
    assert ("no quick bfloat16" in precision.describe_device("cpu")) is not quick


def test_instructions_that_are_no_quicker_are_left_alone(processor):
    processor(QUICK, times=2.0)
    assert not precision.quick_at_bfloat16("cpu")
    assert precision.resolved_precision("auto", "cpu") == "32-true"
    assert "avx512_bf16 that takes 2.0 times as long as float32" in precision.describe_device("cpu")


def test_an_older_torch_reads_the_flags_of_the_system(processor, monkeypatch, tmp_path):
    processor(PLAIN)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx512f avx512_bf16\n")
    monkeypatch.setattr(precision, "Path", lambda name: tmp_path / "cpuinfo")
    assert precision.quick_at_bfloat16("cpu")


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
def test_gpus(processor, monkeypatch, native, expected, accelerator):
    processor(PLAIN)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert precision.resolved_precision("auto", accelerator) == expected


def test_explicit_values_stay():
    assert [precision.resolved_precision(name, "cpu") for name in ("32-true", "bf16-mixed", None, 64)] == [
        "32-true", "bf16-mixed", None, 64,
    ]  # fmt: skip
    assert Trainer(precision="64-true", accelerator="cpu", logger=False, barebones=True).precision == "64-true"


def test_what_is_slow_here_is_said_once(processor, caplog, monkeypatch):
    processor(PLAIN)
    monkeypatch.setattr(precision, "_slowdown", lambda dtype: 5.04)
    precision._warn.cache_clear()
    for _ in range(2):
        precision.warn_if_slow("trainer.precision", "bf16-mixed", "bfloat16", "cpu")
        precision.warn_if_slow("trainer.precision", "32-true", "float32", "cpu")
    assert [record.message for record in caplog.records] == [
        "`trainer.precision` is bf16-mixed: products take 5.0 times as long as in float32 on this processor; `auto` chooses what it "
        "is quick at"
    ]
    processor(QUICK)
    precision._warn.cache_clear()
    precision.warn_if_slow("trainer.precision", "bf16-mixed", "bfloat16", "cpu")
    assert len(caplog.records) == 1


def test_a_capped_processor_for_real():
    """What torch itself says when it may use less than there is."""
    code = "from lightning_focal.precision import resolved_dtype; print(resolved_dtype('auto', 'cpu'))"
    capped = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "PATH": "", "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], env=capped, capture_output=True, text=True, check=True)
    assert done.stdout == "float32\n"
