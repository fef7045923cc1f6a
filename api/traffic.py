"""Which version takes a submission that names none, where operators have split a model's traffic by weight.

Its rules: what has the same value of the sticky key goes to the same version, and a change of weights moves no more
values than it must (weighted rendezvous hashing). All else goes round: after any number of turns each version has had
its share, rounded up or down. Only integers are added, so that nothing drifts.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from headway.registry import Traffic, Version


def readiness(version: Version) -> int:
    """Of several versions those with the most are used: released, to be loaded, barred by an operator, failed."""
    if version.released:
        return 3
    if version.state == "failed":
        return 0
    return 1 if version.wish == "unload" else 2


def declared(ordered: Sequence[Version]) -> Traffic:
    """What the model's own configuration says of its latest version's share, where operators say nothing."""
    percent = ordered[-1].manifest.canary_percent
    if percent is None or len(ordered) < 2:
        return Traffic()
    shares = {ordered[-2].version: 100.0 - percent, ordered[-1].version: float(percent)}
    return Traffic(versions={version: share for version, share in shares.items() if share})


def weights_of(traffic: Traffic, versions: Mapping[str, Version]) -> dict[str, float]:
    """Of those that take traffic now. A version that is not released leaves its share to the others.

    Where none is released, those are waited for that may become so. Empty: to the latest.
    """
    there = {version: readiness(versions[version]) for version in traffic.versions if version in versions}
    most = max(there.values(), default=0)
    return {version: traffic.versions[version] for version, ready in there.items() if ready == most}


class Split:
    """The weights of one model, and whose turn it is."""

    def __init__(self, model: str, weights: Mapping[str, float], sticky: str | None) -> None:
        """`weights` are finite and over 0; there is one at least."""
        self.model = model
        self.weights = dict(weights)
        self.sticky = sticky
        self._round = Round(weights)

    def choose(self, metadata: Mapping[str, str]) -> str:
        """The version of one submission."""
        value = None if self.sticky is None else metadata.get(self.sticky)
        return self._round.next() if value is None else stuck(self.model, self.weights, value)

    @property
    def heaviest(self) -> str:
        """For what is not to be split; of equals the first."""
        return max(self.weights, key=lambda version: self.weights[version])

    def same(self, other: "Split | None") -> bool:
        """Whether the turns of the other may go on."""
        return other is not None and (self.weights, self.sticky) == (other.weights, other.sticky)


class Round:
    """Turns by weight: after n of them each has had n times its share, rounded up or down.

    The x-th turn of a version must not come before (x - 1) / share others, nor after x / share: of those that may, the
    one that must be first has it. So the turns of a small share are spread out, and not together.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        exact = {version: Fraction(repr(weight)) for version, weight in weights.items()}
        whole = math.lcm(*(weight.denominator for weight in exact.values()))
        self._weights = {version: int(weight * whole) for version, weight in exact.items()}
        self._total = sum(self._weights.values())
        self._turns = dict.fromkeys(weights, 0)
        self._n = 0

    def next(self) -> str:
        total, n = self._total, self._n
        chosen, soonest = "", 0
        for version, weight in self._weights.items():
            turns = self._turns[version]
            if turns * total < weight * (n + 1):
                latest = -(-(turns + 1) * total // weight)
                if not chosen or latest < soonest:
                    chosen, soonest = version, latest
        self._turns[chosen] += 1
        self._n += 1
        if self._n == total:  # all have had exactly their weights
            self._turns = dict.fromkeys(self._turns, 0)
            self._n = 0
        return chosen


def stuck(model: str, weights: Mapping[str, float], value: str) -> str:
    """The version of whatever has this value: the same in every process, for as long as the weights stand."""
    return max(weights, key=lambda version: weights[version] / -math.log(_share(model, version, value)))


def _share(model: str, version: str, value: str) -> float:
    """A number between 0 and 1 that looks random. The model is in it: nobody is the guinea pig of all models."""
    said = "\0".join((model, version, value)).encode("utf-8", "surrogatepass")
    number = int.from_bytes(hashlib.blake2b(said, digest_size=8).digest()) >> 11
    return (number + 0.5) / (1 << 53)
