# SPDX-License-Identifier: Apache-2.0
"""Configurations, with the fields, ranges and meanings of docs/config.md.

The classes are made from the schema that the programs use; nothing is listed here.
"""
from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional, Union

from . import _native
from .errors import UsageError


def find_config(name: "Union[str, os.PathLike[str]]") -> str:
    """The file of a configuration: a path, or the name of one that comes with the package ("demo")."""
    name = os.fspath(name)
    own = Path(__file__).parent / "configs" / (name if name.endswith(".txtpb") else name + ".txtpb")
    if own.is_file() and not os.path.exists(name):
        return str(own)
    return str(_native.find_config(name))


def to_text(value: Any) -> str:
    """A value as it is written after --set PATH=."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(to_text(v) for v in value)
    if isinstance(value, (str, int, float)):
        return str(value)
    if hasattr(value, "item"):  # a number of numpy's
        return to_text(value.item())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is no value of a setting")


def _unknown(prefix: str, name: str, known: list[str]) -> str:
    nearest = _native.nearest_word(name, known)
    return f"there is no setting '{prefix}{name}'; " + (f"did you mean '{nearest}'?" if nearest else
                                                "there are " + ", ".join(known))


class Group:
    """Settings that belong together, as attributes; lambda, a word of Python's, is lambda_."""

    _fields: dict[str, dict[str, Any]] = {}

    def __init__(self, native: Any, prefix: str) -> None:
        object.__setattr__(self, "_native", native)
        object.__setattr__(self, "_prefix", prefix)

    def __getattr__(self, name: str) -> Any:
        name = name[:-1] if name.endswith("_") else name  # lambda_
        field = type(self)._fields.get(name)
        if field is None:
            if name.startswith("_"):
                raise AttributeError(name)
            raise AttributeError(_unknown(self._prefix, name, list(type(self)._fields)))
        path = self._prefix + name
        if "fields" in field:
            return field["class"](self._native, path + ".")
        value = self._native.get(path)
        if value is not None and value != []:
            return value
        try:
            return self._native.completed().get(path)
        except UsageError:  # settings that do not fit each other, yet
            return value

    def __setattr__(self, name: str, value: Any) -> None:
        name = name[:-1] if name.endswith("_") else name
        field = type(self)._fields.get(name)
        if field is None:
            raise AttributeError(_unknown(self._prefix, name, list(type(self)._fields)))
        if "fields" in field:
            raise AttributeError(f"'{self._prefix}{name}' is a group of settings; set one of them: " +
                                 ", ".join(f["name"] for f in field["fields"]))
        self._native.set(self._prefix + name, to_text(value))

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *type(self)._fields]

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name, field in type(self)._fields.items()
                           if "fields" not in field)
        return f"{type(self).__name__}({values})"


def _describe(field: dict[str, Any], path: str) -> str:
    kind = f"list of {field['type']}" if field["repeated"] else field["type"]
    default = f"default {field['default']}" if field["default"] is not None else \
        (f"unset: {field['if_unset']}" if field["if_unset"] else "")
    allowed = ", ".join(field["choices"]) or field["range"]
    return f"{path}: {kind}" + "".join(f"; {part}" for part in (default, allowed) if part) + f". {field['doc']}"


def _make(name: str, fields: list[dict[str, Any]], doc: str, prefix: str, base: type) -> type:
    for field in fields:
        path = prefix + field["name"]
        if "fields" in field:
            title = "".join(part.capitalize() for part in field["name"].split("_"))
            field["class"] = _make(title, field["fields"], field["doc"], path + ".", Group)
    lines = [_describe(f, prefix + f["name"]) for f in fields if "fields" not in f]
    lines += [f"{prefix}{f['name']}: {f['doc']}" for f in fields if "fields" in f]
    return type(name, (base,), {"_fields": {f["name"]: f for f in fields}, "__module__": "ensembler",
                                "__doc__": doc + "\n\n" + "\n".join(lines)})


class _Config(Group):
    def __init__(self, base: "Union[None, str, os.PathLike[str], _Config]" = None, **settings: Any) -> None:
        if isinstance(base, _Config):
            super().__init__(base._native.copy(), "")
        else:
            super().__init__(_native.RunConfig(), "")
            if base is not None:
                self._native.read(find_config(base))
        self.update(settings)

    def update(self, settings: dict[str, Any]) -> None:
        """Sets several by path: {"stage1.epochs": 3}."""
        for path, value in settings.items():
            self._native.set(path, to_text(value))

    def __getitem__(self, path: str) -> Any:
        value: Any = self
        for part in path.split("."):
            value = getattr(value, part)
        return value

    def __setitem__(self, path: str, value: Any) -> None:
        self._native.set(path, to_text(value))

    def to_text(self) -> str:
        """What was set, as the programs read it (a .txtpb file)."""
        return str(self._native.text())

    def resolved(self) -> "_Config":
        """All settings, defaults among them; UsageError if they do not fit each other."""
        out = type(self)()
        object.__setattr__(out, "_native", self._native.completed())
        return out

    def copy(self) -> "_Config":
        return type(self)(self)

    def paths(self) -> "Iterator[str]":
        """The paths of all settings."""
        def walk(kind: Any, prefix: str) -> "Iterator[str]":
            for name, field in kind._fields.items():
                if "fields" in field:
                    yield from walk(field["class"], prefix + name + ".")
                else:
                    yield prefix + name
        return walk(type(self), "")

    @classmethod
    def from_text(cls, text: str) -> "_Config":
        """Of text as to_text() returns it."""
        config = cls()
        config._native.parse(text)
        return config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Config) and self.to_text() == other.to_text()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Config.from_text({self.to_text()!r})"

    def __reduce__(self) -> Any:
        return (_restore, (self.to_text(),))


def _restore(text: str) -> Any:
    return Config.from_text(text)


_ABOUT = """One experiment: what is trained, and how it is attacked.

Config("demo", **{"ensemble.nets": 4}) begins with a configuration that comes with the package, or a .txtpb file.
Settings are attributes, config.ensemble.sigma = 0.1, or items, config["ensemble.sigma"]. A value out of its range is
a UsageError at once."""

Config: Any = _make("Config", _native.schema(), _ABOUT, "", _Config)


def as_config(config: Any, settings: Optional[dict[str, Any]] = None) -> Any:
    """A copy of a Config, or of a configuration by file or name, with `settings` on top."""
    return Config(config, **(settings or {}))
