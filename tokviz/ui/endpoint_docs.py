"""What an endpoint's docstring says, brought to where programs and agents read it.

gradio takes of a docstring only the first line of each parameter, and hands even that to MCP alone: the API page and
``/gradio_api/info`` know no more than the kind of component.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import gradio as gr

_SECTION = re.compile(r"^(Args|Returns):\s*$")
_ARGUMENT = re.compile(r"^ {4}(\w+): (.*)$")


@dataclass(frozen=True)
class EndpointDocs:
    """A docstring in parts, each one line. ``arguments``: per parameter, in the order of the docstring."""

    description: str
    arguments: Mapping[str, str]
    returns: str

    @property
    def whole(self) -> str:
        """What the endpoint does and what it answers, for a list of tools."""
        return f"{self.description} Returns: {self.returns}"

    def docstring(self) -> str:
        """The docstring as gradio can read it: nothing of a part on a second line."""
        lines = [self.description, "", "Args:", *(f"    {name}: {told}" for name, told in self.arguments.items())]
        return "\n".join([*lines, "", "Returns:", f"    {self.returns}"])


def read_docs(function: Callable[..., Any]) -> EndpointDocs:
    """The parts of a docstring in Google's style. Raises ValueError when what it returns is not said."""
    parts: dict[str, list[str]] = {"": []}
    arguments: dict[str, list[str]] = {}
    section = ""
    for line in (inspect.getdoc(function) or "").splitlines():
        head = _SECTION.match(line)
        argument = _ARGUMENT.match(line) if section == "Args" else None
        if head:
            section = head[1]
            parts[section] = []
        elif argument:
            parts["Args"] = arguments[argument[1]] = [argument[2]]
        else:
            parts[section].append(line)
    if not _joined(parts.get("Returns", [])):
        raise ValueError(f"{function.__name__} does not say what it returns.")
    told = {name: _joined(lines) for name, lines in arguments.items()}
    return EndpointDocs(_joined(parts[""]), told, _joined(parts["Returns"]))


def documented(
    function: Callable[..., Any],
    inputs: Sequence[gr.components.Component] = (),
    output: Any = None,
    schemas: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Make a docstring arrive; gives the arguments of the event that serves it.

    Args: inputs: the components of the parameters, labelled with their names. output: the component of the answer.
    schemas: JSON schemas of parameters whose component does not know its own.
    Raises ValueError when a component's parameter is not described.
    """
    docs = read_docs(function)
    for component in inputs:
        name = str(component.label)
        if not docs.arguments.get(name):
            raise ValueError(f"{function.__name__} does not describe its parameter {name}.")
        _describe(component, docs.arguments[name], schemas.get(name))
    if output is not None:
        _describe(output, docs.returns)
    function.__doc__ = docs.docstring()
    return {"api_description": docs.whole}


def _describe(component: gr.components.Component, told: str, schema: Mapping[str, Any] | None = None) -> None:
    kind = component.api_info if schema is None else lambda: schema
    # The second is what the API page and gradio_client show of a parameter.
    component.api_info = lambda: {**kind(), "description": told, "additional_description": told}  # type: ignore


def _joined(lines: Sequence[str]) -> str:
    return " ".join(line.strip() for line in lines if line.strip())
