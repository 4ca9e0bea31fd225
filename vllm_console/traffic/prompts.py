"""Prompts of any length out of plain words, many of them with a beginning in common."""

from __future__ import annotations

import random

WORDS = """
    the a of and to in for with on from that this it is are was can will may one two three time
    day year way people world life hand part place case week company system program question work
    number night point home water room mother area money story fact month lot right study book eye
    job word business issue side kind head house service friend father power hour game line end
    member law car city community name team minute idea body information back parent face level
    office door health person art war history party result change morning reason research girl guy
    moment air teacher force education explain describe compare list write read find tell show
    give make take keep let begin seem help talk turn start might
""".split()  # noqa: SIM905
SHARED = 4
"""How many different beginnings there are; prefix caching reuses their blocks."""
SHARED_SHARE = 0.6
"""The part of a prompt, by words, that such a beginning takes."""


class Prompts:
    """Makes chat messages; the same seed makes the same messages."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = random.Random(seed)
        self._shared = [self._rng.choices(WORDS, k=512) for _ in range(SHARED)]

    def messages(self, words: int) -> list[dict[str, str]]:
        """A system message others have too, a user message of its own: `words` (≥ 1) in all."""
        shared = min(round(words * SHARED_SHARE), 512, words - 1)
        beginning = self._rng.choices(self._shared, weights=range(SHARED, 0, -1))[0][:shared]
        own = self._rng.choices(WORDS, k=words - shared)
        messages = [{"role": "user", "content": " ".join(own)}]
        if beginning:
            messages.insert(0, {"role": "system", "content": " ".join(beginning)})
        return messages
