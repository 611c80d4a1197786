"""From YAML to frozen dataclasses, with errors that name the key.

Example:
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Options:
    ...     beam: int = 5
    >>> build(Options, {"beam": 4}, "decode")
    Options(beam=4)
    >>> build(Options, {"beams": 4}, "decode")
    Traceback (most recent call last):
    ...
    seqdistill.errors.InputError: unknown key decode.beams; did you mean beam? (known: beam)
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from seqdistill.errors import InputError

T = typing.TypeVar("T")


def build(cls: type[T], values: Any, where: str = "") -> T:
    """Make a dataclass of a mapping, checking every key and every type.

    Args:
        cls: a dataclass; its fields may be str, int, float, bool, ``X | None``, ``list[X]``,
            ``dict[str, X]``, ``Any`` and other such dataclasses.
        values: the mapping.
        where: the mapping's place in the file, for messages: ``decode``.

    Raises:
        InputError: a key is unknown or missing, or a value has the wrong type.
    """
    values = _mapping(values, where or "the recipe")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    known = [name for name, field in fields.items() if field.metadata.get("in_file", True)]
    for key in values:
        if key not in known:
            raise unknown("key", _join(where, key), known)
    made = {key: _convert(hints[key], value, _join(where, key)) for key, value in values.items()}
    for name, field in fields.items():
        has_default = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        if name not in made and not has_default:
            raise InputError(f"the key {_join(where, name)} is missing and has no default")
    return cls(**made)


def unknown(what: str, given: str, known: Sequence[str], where: str = "") -> InputError:
    """Return the error for a name that does not exist, with the nearest one that does.

    Args:
        what: what it should have been: ``key``, ``scale``, ``model``.
        given: what came; of a key with its path only the last part is compared.
        known: the names that exist.
        where: the key whose value it is.
    """
    near = difflib.get_close_matches(given.rpartition(".")[2], known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    place = f" in {where}" if where else ""
    return InputError(f"unknown {what} {given}{place}{hint} (known: {', '.join(known)})")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        InputError: the file is missing, is no YAML, holds something else or repeats a key.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; a recipe is a folder with a recipe.yaml")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({error})") from error
    return dict(_mapping(values, str(path)))


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes`` laid over it, mapping by mapping; None takes a key away.

    Example:
        >>> merge({"decode": {"beam": 5, "nbest": 1}}, {"decode": {"beam": 2, "nbest": None}})
        {'decode': {'beam': 2}}
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if value is None and key in merged:
            del merged[key]
            continue
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def parse_setting(text: str) -> dict[str, Any]:
    """Read ``a.b=value`` of a command line; the value is YAML.

    Raises:
        InputError: there is no ``=``, or the value is not YAML.

    Example:
        >>> parse_setting("decode.beam=2")
        {'decode': {'beam': 2}}
    """
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError(f"--set expects key=value such as decode.arguments.beam=2, got {text!r}")
    try:
        setting: Any = yaml.load(value, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise InputError(f"--set {text}: the value is not valid YAML") from error
    for part in reversed(key.split(".")):
        setting = {part: setting}
    return dict(setting)


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]  # (it has no types)
    """YAML in which writing a key twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", node.start_mark
                )
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, parameters = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in parameters:
            return None
        (inner,) = (part for part in parameters if part is not type(None))
        return _convert(inner, value, where)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type[Any], hint), {} if value is None else value, where)
    if origin is dict:
        items = _mapping({} if value is None else value, where).items()
        return {key: _convert(parameters[1], item, _join(where, key)) for key, item in items}
    if origin is list:
        if not isinstance(value, list):
            raise InputError(f"{where} must be a list, got {value!r}")
        return [_convert(parameters[0], item, f"{where}[{n}]") for n, item in enumerate(value)]
    return _scalar(hint, value, where)


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 5e-3 as text (it wants 5.0e-3); a field that is a number means a number.
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) is not hint:
        raise InputError(f"{where} must be of type {hint.__name__}, got {value!r}")
    return value


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} must be a mapping of keys to values, got {value!r}")
    return value


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
