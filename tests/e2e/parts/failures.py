"""The ways an upstream fails, by name, as switches of the proxy in front of it."""

from collections.abc import Callable

from parts.proxy import Proxy

FAILURES: dict[str, Callable[[Proxy], None]] = {
    "stopped": Proxy.refuse,
    "hanging": Proxy.hang,
    "401": lambda proxy: proxy.answer(401, {"WWW-Authenticate": 'Basic realm="upstream"'}),
    "429": lambda proxy: proxy.answer(429, {"Retry-After": "2"}),
    "503": lambda proxy: proxy.answer(503),
}
