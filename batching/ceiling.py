"""How many predictions a device bears in one call, learned from when it did not. No clock, no I/O."""

#: After so many calls without trouble twice as many are tried.
CLEAN_CALLS = 100


class Ceiling:
    """Of one device process; what is learned outlives it. The largest batch may be lower for other reasons."""

    def __init__(self, most: int) -> None:
        """`most`: what the manifest allows."""
        self._most = most
        self._clean = 0
        self.at_most = most

    def too_many(self, count: int) -> None:
        """So many did not fit into its memory."""
        self.at_most = max(1, min(self.at_most, count // 2))
        self._clean = 0

    def crashed(self) -> None:
        """It died in a call of several: of what, nobody knows."""
        self.at_most = max(1, self.at_most // 2)
        self._clean = 0

    def clean(self) -> None:
        """A call that fitted."""
        if self.at_most == self._most:
            return
        self._clean += 1
        if self._clean >= CLEAN_CALLS:
            self.at_most = min(self._most, 2 * self.at_most)
            self._clean = 0
