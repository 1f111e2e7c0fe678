# SPDX-License-Identifier: Apache-2.0
"""Host and path → where a request goes; a product's path and method → its route.

The table of a product is compiled once: fixed paths by one look-up, templates (`/farms/{id}`,
`/files/*`) by a walk over segments in which a fixed segment wins over a parameter and a
parameter over a tail.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from nimbus.rules.grants import Route

DATA_PREFIX: Final = b"/api/v1/"
_TAIL: Final = "*"
MAX_REMEMBERED, MAX_REMEMBERED_PATH = 1_024, 256  # look-ups of a product, bytes of a path


@dataclass(slots=True)
class _Node:
    fixed: dict[bytes, "_Node"]
    parameter: "_Node | None"
    tail: dict[bytes, Route]
    here: dict[bytes, Route]


@dataclass(frozen=True, slots=True)
class Match:
    """A route, the path to ask the upstream for (below its base address), and the key under
    which permits of the route are kept.
    """

    route: Route
    upstream_path: bytes
    key: int


@dataclass(frozen=True, slots=True)
class WrongMethod:
    """The path exists for other methods: `allow` is the value of the Allow field."""

    allow: bytes


class RouteTable:
    """The routes of one product, ready for look-ups."""

    __slots__ = ("_fixed", "_found", "_root")

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[bytes, dict[bytes, Route]] = {}
        self._root = _node()
        self._found: dict[tuple[bytes, bytes], Match] = {}  # what was looked up before
        for route in routes:
            if "{" in route.path or route.path.endswith(_TAIL):
                self._add(route)
            else:
                self._fixed.setdefault(route.path.encode(), {})[route.method.encode()] = route

    def find(self, method: bytes, path: bytes) -> Match | WrongMethod | None:
        """The route of `method` at `path` (with its leading slash); None when no route has this
        path. HEAD is served by the route of GET where it has none of its own.
        """
        known = self._found.get((method, path))
        if known is not None:
            return known
        values: list[bytes] = []
        methods = self._fixed.get(path) or _walk(self._root, path.split(b"/")[1:], values)
        if not methods:
            return None
        route = methods.get(method)
        if route is None and method == b"HEAD":
            route = methods.get(b"GET")
        if route is None:
            return WrongMethod(_allow(methods))
        match = Match(route, _upstream_path(route, path, values), route.id.int)
        if len(path) <= MAX_REMEMBERED_PATH:
            if len(self._found) >= MAX_REMEMBERED:
                self._found.clear()
            self._found[method, path] = match
        return match

    def _add(self, route: Route) -> None:
        node, segments = self._root, route.path.encode().split(b"/")[1:]
        for segment in segments[:-1] if segments[-1] == b"*" else segments:
            if segment.startswith(b"{"):
                node.parameter = node.parameter or _node()
                node = node.parameter
            else:
                node = node.fixed.setdefault(segment, _node())
        place = node.tail if segments[-1] == b"*" else node.here
        place[route.method.encode()] = route


def split_data_path(path: bytes) -> tuple[bytes, bytes] | None:
    """Product slug and the path within it (with a leading slash) of `/api/v1/{product}/{path}`;
    None for a path that belongs to the portal or the management API.
    """
    if not path.startswith(DATA_PREFIX):
        return None
    slug, slash, rest = path[len(DATA_PREFIX) :].partition(b"/")
    return slug, slash + rest if slash else b"/"


def without_parameter(query: bytes | None, name: bytes) -> bytes | None:
    """The query without any parameter of this name; the others keep their bytes and order."""
    if query is None or name not in query:
        return query
    kept = [part for part in query.split(b"&") if part.partition(b"=")[0] != name]
    return b"&".join(kept) if kept else None


def parameter_values(query: bytes | None, name: bytes) -> list[bytes]:
    """The values of all parameters of this name, as sent."""
    if query is None or name not in query:
        return []
    return [
        value
        for key, _, value in (part.partition(b"=") for part in query.split(b"&"))
        if key == name
    ]


def _node() -> _Node:
    return _Node({}, None, {}, {})


def _walk(node: _Node, segments: list[bytes], values: list[bytes]) -> Mapping[bytes, Route]:
    """The methods at this path; `values` gets what stood in place of the parameters."""
    if not segments:
        return node.here
    segment, rest = segments[0], segments[1:]
    if segment in node.fixed and (found := _walk(node.fixed[segment], rest, values)):
        return found
    if node.parameter is not None and segment:
        values.append(segment)
        if found := _walk(node.parameter, rest, values):
            return found
        values.pop()
    if node.tail:
        values.append(b"/".join(segments))
    return node.tail


def _allow(methods: Mapping[bytes, Route]) -> bytes:
    names = set(methods)
    if b"GET" in names:
        names.add(b"HEAD")
    return b", ".join(sorted(names))


def _upstream_path(route: Route, path: bytes, values: list[bytes]) -> bytes:
    """The provider's own path for this call: parameters and tail put where its template says."""
    if route.upstream_path == route.path:
        return path
    left = iter(values)
    by_name = {
        segment: next(left)
        for segment in route.path.encode().split(b"/")[1:]
        if segment.startswith(b"{") or segment == b"*"
    }
    segments = route.upstream_path.encode().split(b"/")
    return b"/".join(by_name.get(segment, segment) for segment in segments)
