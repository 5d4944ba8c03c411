"""An exact LRU by bytes, for what a cache of this size could have had at best if it kept to the order of use."""

from collections import OrderedDict


class ExactLru:
    def __init__(self, capacity_bytes: int):
        self.capacity_bytes = capacity_bytes
        self.hits = 0
        self.misses = 0
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._used_bytes = 0

    def touch(self, name: str) -> None:
        """Used, without being asked for: what is not there stays away."""
        if name in self._sizes:
            self._sizes.move_to_end(name)

    def ask(self, name: str, size_bytes: int) -> None:
        if name in self._sizes:
            self.hits += 1
            self._sizes.move_to_end(name)
            return
        self.misses += 1
        self._sizes[name] = size_bytes
        self._used_bytes += size_bytes
        while self._used_bytes > self.capacity_bytes:
            self._used_bytes -= self._sizes.popitem(last=False)[1]

    @property
    def hit_ratio(self) -> float:
        return self.hits / (self.hits + self.misses)
