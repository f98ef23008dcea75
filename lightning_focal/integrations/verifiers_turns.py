"""Environments of verifiers 0.4 of several turns: the policy's are written here, all else is said and scored by their own code."""

from __future__ import annotations

import asyncio
import inspect
import json
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, get_type_hints

from lightning_focal.environments import Environment, Episode, Task
from lightning_focal.foreign import verifiers_hooks, verifiers_state
from lightning_focal.thoughts import split_thought
from lightning_focal.types import Message, Prompts

__all__ = ["VerifiersTurns"]


def verifiers() -> Any:
    """``verifiers.v1``, imported where it is used."""
    try:
        return import_module("verifiers.v1")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"environments need verifiers 0.4: pip install 'lightning-focal[verifiers]' ({error})"
        ) from error


def new_trace(task: Any, prompt: Sequence[Message], agent: Any = None) -> Any:
    """The trace that verifiers begins a task with; its nodes are the prompt's messages."""
    vf = verifiers()
    kinds = {"system": vf.SystemMessage, "user": vf.UserMessage, "assistant": vf.AssistantMessage}
    nodes = [
        vf.MessageNode(parent=i - 1 if i else None, message=kinds[turn["role"]](content=turn["content"]))
        for i, turn in enumerate(prompt)
    ]
    return vf.Trace(
        agent=agent or vf.AgentInfo(config=vf.AgentConfig()),
        task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
        state=verifiers_state(type(task)),
        nodes=nodes,
    )


def own_hook(task: Any, name: str) -> tuple[Callable[..., Awaitable[None]] | None, Collection[str]]:
    """A task's own ``setup`` or ``finalize``, None = it has none, and what it asks for: ``trace`` and ``runtime``."""
    hook = getattr(task, name)
    own = getattr(type(task), name) is not getattr(verifiers().Task, name)
    return (hook, inspect.signature(hook).parameters) if own else (None, ())


async def run_hook(task: Any, name: str, trace: Any) -> None:
    """Run a task's own ``setup`` or ``finalize``, unless it works in the runtime of a harness."""
    hook, wanted = own_hook(task, name)
    if hook is not None and "runtime" not in wanted:
        await hook(**({"trace": trace} if "trace" in wanted else {}))


class _Seat:
    """The agent that ``Env.run`` is given, and the interaction with it, whose turns are written elsewhere; it knows no episode."""

    def __init__(self, task: Any, trace: Any, config: Any) -> None:
        self.task, self.trace, self.config, self.trainable = task, trace, config, True
        self.heard, self.said = asyncio.Queue[Any](), asyncio.Queue[Any]()
        self.rate: asyncio.Future[Callable[[Any, Any], Awaitable[None]]] = asyncio.get_running_loop().create_future()
        self.begun = self.over = self.left = False

    async def run(self, task: Any) -> Any:
        async with self.interaction(task):
            await self.turn()
            self.trace.stop("agent_completed")
        return self.trace

    @asynccontextmanager
    async def interaction(self, task: Any) -> AsyncIterator[_Seat]:
        mine = self.task
        if self.begun or (task.data.prompt, task.data.system_prompt) != (mine.data.prompt, mine.data.system_prompt):
            raise ValueError("an episode must be one conversation that begins with the prompt of its task")
        self.task = task
        yield self
        self.trace.stop("user_closed")
        self.left = True
        self.said.put_nowait(None)
        await (await self.rate)(self.task, self.trace)  # as soon as somebody asks for its rewards

    async def turn(self, message: Any = None) -> Any:
        vf = verifiers()
        answers = not self.begun and self.task.data.prompt is not None
        if self.over or (message is None) != answers:
            raise ValueError(
                "a turn takes a message, but for the first one behind a task's own prompt, and a terminated segment is the last"
            )
        self.begun, said = True, []
        for one in [message] if isinstance(message, str) else message or ():
            turn = vf.UserMessage(content=one) if isinstance(one, str) else vf.UserMessage.model_validate(dict(one))
            if not isinstance(turn.content, str):
                raise ValueError("the environment must say text")
            said.append({"role": "user", "content": turn.content})
        self.said.put_nowait(said)
        segment = await self.heard.get()
        self.over = segment.terminated
        return segment


async def _play(env: Any, task: Any, seat: _Seat) -> None:
    agents = verifiers().Agents(env.config, lambda name, config: seat)
    await env.setup(agents)
    await env.run(task, agents)


class TurnsEpisode(Episode):
    """One run of verifiers' own ``Env.run``, which waits for the policy's turns and, at its end, for who rates the trace.

    Args:
        environment: whose episode it is.
        task: of verifiers.
        prompt: its messages.
    """

    def __init__(self, environment: VerifiersTurns, task: Any, prompt: Sequence[Message]) -> None:
        vf, (name, config) = verifiers(), environment.seat
        self.environment, self.task = environment, task
        self.trace = new_trace(task, prompt, vf.AgentInfo(config=config, name=name))
        self._known, self._ids = 0, list[str]()  # messages that have nodes; calls without a result
        environment.wait(self._begin())

    def __del__(self) -> None:
        run, loop = getattr(self, "_run", None), self.environment.loop
        if run is not None and not run.done() and not loop.is_closed():
            run.cancel()  # nobody asked for its rewards

    async def _begin(self) -> None:
        env = self.environment.env
        await self.environment.ready()
        await run_hook(self.task, "setup", self.trace)
        own = type(self.task).toolsets(self.task.config)
        for toolset in own:
            await toolset.setup()
            await toolset.setup_task(self.task.data)
        self._tools = await self.environment.served([*self.environment.shared, *own])
        self._seat = _Seat(self.task, self.trace, self.environment.seat[1])
        self._run = asyncio.ensure_future(_play(env, self.task, self._seat))
        opening = await self._answer()
        if opening is None:
            raise ValueError(f"`model.environment`: {env.config.env_id!r} ended before the policy's first turn")
        self._opening, nodes = opening, self.trace.nodes
        for turn in opening:
            message = verifiers().UserMessage(content=turn["content"])
            nodes.append(verifiers().MessageNode(parent=len(nodes) - 1 if nodes else None, message=message))
        self._handed = len(nodes)

    # -- what rollouts call -------------------------------------------------------------------------------------------

    def opening(self) -> Sequence[Message]:
        """See :class:`Episode`."""
        return self._opening

    def step(self, messages: Sequence[Message]) -> Sequence[Message] | None:
        """See :class:`Episode`; a ``@vf.stop`` of the task ends it."""
        said: Sequence[Message] | None = self.environment.wait(self._step(messages))
        return said

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """See :class:`Episode`."""
        toolset, server, tool = self._tools[name]
        toolset.rollout_state = self.trace.state
        call = asyncio.wait_for(server.call_tool(tool.name, dict(arguments)), self.environment.tool_timeout)
        try:
            blocks = self.environment.wait(call).content
        except import_module("mcp.server.mcpserver.exceptions").ToolError as error:
            raise error.__cause__ or error from None
        return "\n".join(block.text if block.type == "text" else str(block) for block in blocks) or str(blocks)

    async def _step(self, messages: Sequence[Message]) -> Sequence[Message] | None:
        self._hear(messages)
        said = () if messages[-1]["role"] == "tool" else await self._hand()
        for stop in self._seat.task.hooks("stop") if said is not None else ():
            met = stop(self.trace)
            if await met if inspect.isawaitable(met) else met:
                self.trace.stop(stop.__name__)
                return None
        return said

    def _hear(self, messages: Sequence[Message]) -> None:
        """Add nodes up to the policy's last turn, as verifiers does."""
        vf, nodes = verifiers(), self.trace.nodes
        end = 1 + max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
        for message in messages[self._known : end]:
            if sampled := message["role"] == "assistant":
                turn = self._turn(message["content"])
            elif message["role"] == "tool":
                turn = vf.ToolMessage(tool_call_id=self._ids.pop(0), name=message["name"], content=message["content"])
            else:
                turn = vf.UserMessage(content=message["content"])
            nodes.append(vf.MessageNode(parent=len(nodes) - 1, message=turn, sampled=sampled))
        self._known = max(self._known, end)

    def _turn(self, text: str) -> Any:
        vf, parts, reader = verifiers(), split_thought(text), self.environment.reader
        read = reader.read(parts.answer) if reader is not None else []
        calls = [
            vf.ToolCall(id=f"call_{len(self.trace.nodes)}_{i}", name=call.name, arguments=json.dumps(call.arguments))
            for i, call in enumerate(read)
        ]
        self._ids = [call.id for call in calls]
        content = reader.plain(parts.answer).strip() if reader is not None and calls else parts.answer
        return vf.AssistantMessage(content=content, reasoning_content=parts.thought, tool_calls=calls or None)

    async def _hand(self) -> Sequence[Message] | None:
        """Give the environment the policy's turns and results since the last time, and wait for what it says."""
        new, self._handed = self.trace.nodes[self._handed :], len(self.trace.nodes)
        self._seat.heard.put_nowait(
            verifiers().Segment([node.message for node in new if node.sampled or node.message.role == "tool"])
        )
        return await self._answer()

    async def _answer(self) -> Sequence[Message] | None:
        """Wait for what the environment says next, None = the conversation is over."""
        said = asyncio.ensure_future(self._seat.said.get())
        both: list[asyncio.Future[Any]] = [said, self._run]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if said.done():
            found: Sequence[Message] | None = said.result()
            return found
        said.cancel()
        self._run.result()  # raises what the environment raised
        return None

    # -- what a source of scores calls --------------------------------------------------------------------------------

    async def finish(
        self,
        messages: Sequence[Message],
        usage: Sequence[tuple[int, int]],
        cut: bool,
        rate: Callable[[Any, Any], Awaitable[None]],
    ) -> None:
        """Let the environment come to its end, and its trace to its rewards; a second time there is nothing left to do.

        Args:
            messages: all that was said after the prompt.
            usage: tokens before each of the policy's turns, and in it.
            cut: the last was cut off, or there was no room for another.
            rate: scores a task's trace.
        """
        vf, trace = verifiers(), self.trace
        if self._seat.rate.done():
            return
        self._hear(messages)
        turns = [i for i, node in enumerate(trace.nodes) if node.sampled]
        for i, (before, own) in zip(turns, usage, strict=True):
            reason = "length" if cut and i == turns[-1] else "tool_calls" if trace.nodes[i].message.tool_calls else "stop"
            tokens = vf.Usage(prompt_tokens=before, completion_tokens=own)
            trace.calls.append(vf.ModelCall(node=i, finish_reason=reason, usage=tokens))
        limit = "max_output_tokens" if cut else "max_turns"
        if trace.nodes[turns[-1]].message.tool_calls:
            trace.stop(limit)  # no turn is left for the results
        self._seat.rate.set_result(rate)
        if not self._run.done() and not self._seat.left:
            more = await self._hand() if self._handed < len(trace.nodes) else ()
            if more is not None:
                trace.stop(limit)
                self._seat.heard.put_nowait(vf.Segment([], terminated=True))
        await self._run
        info = vf.EnvInfo(id=self.environment.env.config.env_id)
        await self.environment.env.finalize(self.task, vf.Episode(env=info, task=trace.task, traces=[trace]))


class VerifiersTurns(Environment):
    """An environment of verifiers with one agent, of as many turns as it takes: a user, a game, tools.

    ``Env.run`` of the environment is run as it is; the agent that it is given is the policy. Tools of its toolsets run in this process. The
    data are :class:`~lightning_focal.integrations.verifiers.EnvironmentData` of the same environment, and
    :class:`~lightning_focal.integrations.verifiers.EnvironmentScores` give its rewards.

    Args:
        environment: its id, of an installed package.
        settings: of it, as verifiers takes them: ``{taskset: {...}}``, say.
        **limits: of :class:`~lightning_focal.environments.Environment`.

    Raises:
        ValueError: for an environment that cannot be loaded, or that cannot be driven without verifiers' own rollouts.
    """

    def __init__(self, environment: str, settings: dict[str, Any] | None = None, **limits: Any) -> None:
        super().__init__(**limits)
        vf, given = verifiers(), dict(settings or {})
        try:
            self.env = vf.load_environment(
                vf.resolve_env_config({**given, "taskset": {**given.get("taskset", {}), "id": environment}})
            )
        except Exception as error:  # an environment's own code may raise anything
            line = " ".join(str(error).split())[:300]
            raise ValueError(f"`model.environment`: {environment!r} cannot be loaded: {type(error).__name__}: {line}") from error
        taskset, seats = self.env.taskset, {k: v for k, v in self.env.config if isinstance(v, vf.AgentConfig)}
        self.shared, own = taskset.toolsets(taskset.config), type(taskset).task_type().toolsets(taskset.config.task)
        for why in _refusals(self.env, seats, [*self.shared, *own]):
            raise ValueError(f"`model.environment`: {environment!r} cannot be driven turn by turn: {why}")
        (self.seat,) = seats.items()
        self.loop = asyncio.new_event_loop()
        weakref.finalize(self, _close, self.loop)
        self.tools = tuple(
            {
                "type": "function",
                "function": {"name": name, "description": tool.description or "", "parameters": tool.input_schema},
            }
            for name, (_, _, tool) in self.wait(self.served([*self.shared, *own])).items()
        )
        self._ready = False

    def wait(self, awaitable: Awaitable[Any]) -> Any:
        """Let the environment's code run until something is there."""
        return self.loop.run_until_complete(awaitable)

    async def served(self, toolsets: Sequence[Any]) -> dict[str, tuple[Any, Any, Any]]:
        """Return by name of a tool its toolset, a server of the package mcp in this process, and how that one knows it."""
        found = dict[str, tuple[Any, Any, Any]]()
        for toolset in toolsets:
            made, name = type(toolset), toolset.server_name
            if not hasattr(made, "rollout_state"):  # the state that its tools see is the trace's, not one fetched from a server
                own = {"rollout_state": None, "state": property(lambda me: me.rollout_state)}
                toolset.__class__ = type(made.__name__, (made,), own)
            server = import_module("mcp.server.mcpserver").MCPServer(name or made.__name__)
            toolset.register(server)
            for tool in await server.list_tools():
                if (full := f"{name}_{tool.name}" if name else tool.name) in found:
                    raise ValueError(f"`model.environment`: two tools are named {full!r}")
                found[full] = (toolset, server, tool)
        return found

    async def ready(self) -> None:
        """Set up the tools that all episodes share, once."""
        for toolset in () if self._ready else self.shared:
            await toolset.setup()
        self._ready = True

    def validate(self, prompts: Prompts) -> None:
        """See :class:`Environment`."""
        vf, kind = verifiers(), type(self.env.taskset).task_type()
        tasks: list[Any] = [columns.get("task") for columns in prompts.extra]
        if not tasks or not all(isinstance(task, kind) for task in tasks):
            raise ValueError(f"`data` must be EnvironmentData of {self.env.config.taskset.id!r}, as `model.environment` is")
        stops = [kind for stop in tasks[0].hooks("stop") for kind in get_type_hints(stop).values()]
        met = verifiers_hooks(tasks[0], "intercept")
        if met or vf.Request in stops or vf.Response in stops:
            raise ValueError(
                "`model.environment`: a task that rewrites or stops requests and responses (`@vf.intercept`, `@vf.stop`) needs verifiers' "
                "interception server"
            )
        if "runtime" in own_hook(tasks[0], "setup")[1]:
            raise ValueError("`model.environment`: a task whose `setup` prepares a runtime needs verifiers' own rollouts")

    def reset(self, task: Task) -> TurnsEpisode:
        """See :class:`Environment`."""
        return TurnsEpisode(self, task.extra["task"], task.messages)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    async def end() -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    if not loop.is_running():
        loop.run_until_complete(end())
        loop.close()


def _refusals(env: Any, seats: Mapping[str, Any], toolsets: Sequence[Any]) -> Iterator[str]:
    vf, task = verifiers(), type(env.taskset).task_type()
    if len(seats) != 1:
        yield f"it has several agents ({', '.join(seats)}), and a rollout is one policy's"
    pinned = [seat.harness.id for seat in seats.values() if seat.harness is not None]
    if vf.default_harness_id(env.config.taskset.id) != "bash" or pinned not in ([], ["null"]):
        yield "its agent is a program of its own (a harness), which asks verifiers' interception server for turns"
    if type(env).start is not vf.Env.start:
        yield "its `start` brings up services, which live in `Env.serving` alone"
    if task.NEEDS_CONTAINER:
        yield "its tasks need a container"
    state = verifiers_state(task)
    for toolset in toolsets:
        away = getattr(toolset.config, "url", None) or getattr(toolset.config, "colocated", False)
        if away or not isinstance(getattr(toolset.config, "runtime", vf.SubprocessConfig()), vf.SubprocessConfig):
            yield f"the tools of {type(toolset).__name__} run elsewhere (`url`, `colocated` or a runtime)"
        if not isinstance(state, type(toolset.state)):
            yield f"{type(toolset).__name__} keeps {type(toolset.state).__name__}, and its task another state"
