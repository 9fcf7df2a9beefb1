"""YAML of any origin: read within bounds, as plain data, with one kind of error."""

from __future__ import annotations

from functools import cache
from typing import Any

MOST_BYTES = 20_000_000
"""Of a YAML file. PyYAML takes far longer over a file, and more memory, than a JSON parser."""
MOST_NODES = 500_000
"""Keys, values and collections, aliases written out; each takes up to half a kilobyte."""
MOST_CHARACTERS = 100_000_000
"""Of all texts together, aliases written out."""
_MOST_DIGITS = 1_000
"""Of a whole number; Python neither reads nor writes one of more than 4,300."""
_TAG = "tag:yaml.org,2002:"
_INT = f"{_TAG}int"


class YamlError(ValueError):
    """What is wrong with a text that should be YAML, and the line, counted from 1, if known."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.where = "" if line is None else f", line {line}"


def load_yaml(data: bytes | str) -> Any:
    """Read one YAML document. Dates stay text, and a set is a mapping to nothing.

    An unknown tag, for example of a Python object, is read as the data under it.

    Raises:
        YamlError: it is no YAML, or too large, too deep, circular, or a value is malformed.
    """
    import yaml

    if len(data) > MOST_BYTES:
        raise YamlError(f"larger than {MOST_BYTES:,} bytes, the limit for YAML")
    try:
        return yaml.load(data, Loader=_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise YamlError(str(what), mark.line + 1 if mark else None) from None
    except RecursionError:
        raise YamlError("nested too deeply") from None
    except ValueError as error:  # of ours, or half a surrogate pair
        raise error if isinstance(error, YamlError) else YamlError(str(error)) from None


class _Bounds:
    """Mixed into a loader: counts what it composes, and has one error for odd values."""

    def __init__(self) -> None:
        self.anchors: dict[str, Any] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        """Of what an anchor stands for, once that is complete."""
        self._nodes = self._characters = 0

    def compose_node(self: Any, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        anchor, before, size = event.anchor, (self._nodes, self._characters), (0, 0)
        is_alias = not hasattr(event, "tag")
        if not is_alias:
            size = (1, len(getattr(event, "value", "")))
        elif anchor in self._sizes:
            size = self._sizes[anchor]
        elif anchor in self.anchors:
            raise YamlError(f"alias {anchor!r} refers to itself", event.start_mark.line + 1)
        self._nodes += size[0]
        self._characters += size[1]
        if self._nodes > MOST_NODES or self._characters > MOST_CHARACTERS:
            raise YamlError(
                f"more than {MOST_NODES:,} values or {MOST_CHARACTERS:,} characters, the limit",
                event.start_mark.line + 1,
            )
        node = super().compose_node(parent, index)  # type: ignore[misc]
        if anchor is not None and not is_alias:
            self._sizes[anchor] = (self._nodes - before[0], self._characters - before[1])
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            if node.tag == _INT and len(node.value) > _MOST_DIGITS:
                raise ValueError("too many digits")
            return super().construct_object(node, deep=deep)  # type: ignore[misc]
        except YamlError:
            raise
        except (LookupError, AttributeError, TypeError, ValueError, OverflowError):
            kind, value = node.tag.removeprefix(_TAG), str(node.value)[:40]
            raise YamlError(f"{value!r} is not a valid {kind}", node.start_mark.line + 1) from None


@cache
def _loader() -> Any:
    """Make a safe loader. Its composer is Python's: in C, nesting overflows the stack."""
    import yaml
    from yaml.composer import Composer

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(_Bounds, Composer, base):  # type: ignore[misc]
        def __init__(self, data: bytes | str) -> None:
            base.__init__(self, data)
            _Bounds.__init__(self)

        def construct_plain(self, node: Any) -> object:
            """Read the data under a tag, such as a date's text."""
            if node.id == "scalar":
                return self.construct_scalar(node)
            is_mapping = node.id == "mapping"
            construct = self.construct_mapping if is_mapping else self.construct_sequence
            return construct(node, deep=True)

    for kind in ("timestamp", "set", "omap", "pairs"):
        Loader.add_constructor(_TAG + kind, Loader.construct_plain)
    Loader.add_multi_constructor("", lambda loader, _, node: loader.construct_plain(node))
    return Loader
