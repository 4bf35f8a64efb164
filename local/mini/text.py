"""Draws English sentences from a small grammar, by a seed; copies nothing from a text corpus."""

import numpy as np

DETERMINERS = "the every another this that some their our one".split()
ADJECTIVES = (
    "quiet yellow heavy narrow clever broken gentle wooden distant hungry purple careful "
    "frozen sudden ancient modern dusty silver rapid shallow nervous golden foreign empty"
).split()
NOUNS = (
    "farmer teacher pilot garden engine letter window river doctor basket mountain singer "
    "market bottle captain painter village machine orange shoulder kitchen travel tiger "
    "summer paper cousin blanket harbour forest jacket student carpet lantern shepherd"
).split()
VERBS = (
    "carried followed opened measured noticed painted repaired borrowed watched forgot "
    "collected delivered answered counted covered divided explored gathered ignored joined "
    "lifted managed offered polished"
).split()
PREPOSITIONS = "over under behind beside through near against without toward below".split()
ADVERBS = (
    "slowly again yesterday tomorrow quickly almost never often together outside early "
    "sometimes later suddenly twice"
).split()
DIGITS = "zero one two three four five six seven eight nine".split()


def sentence(rng: np.random.Generator, words: int) -> str:
    """Draws one sentence of exactly `words` words (at least 3).

    One in five is a run of digits, as in a text-prompted system. The others are adverb,
    noun phrase, verb, noun phrase and prepositional phrases, cut to length.
    """
    words = max(3, words)
    if rng.random() < 0.2:
        return " ".join(rng.choice(DIGITS) for _ in range(words))
    out = [rng.choice(ADVERBS)] if rng.random() < 0.4 else []
    out += [*_noun_phrase(rng), rng.choice(VERBS), *_noun_phrase(rng)]
    while len(out) < words:
        out += [rng.choice(PREPOSITIONS), *_noun_phrase(rng)]
    out = out[:words]
    if out[-1] in DETERMINERS or out[-1] in PREPOSITIONS:
        out[-1] = rng.choice(ADVERBS)
    elif out[-1] in ADJECTIVES:
        out[-1] = rng.choice(NOUNS)
    return " ".join(out)


def _noun_phrase(rng: np.random.Generator) -> list[str]:
    adjectives = rng.choice(ADJECTIVES, size=rng.integers(0, 3), replace=False)
    return [rng.choice(DETERMINERS), *adjectives, rng.choice(NOUNS)]
