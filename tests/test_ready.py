"""The model in the box: what its card says of the file is so, and it tells voices apart."""

import itertools
import os

import numpy as np
import pytest

from svq import ready
from svq.backend.metrics import eer
from svq.verifier import Verifier
from tests.builders import voice
from tests.conftest import ROOT

pytest.importorskip("onnxruntime")
CORPUS = ROOT.parent / "shared" / "corpora" / "speechocean762" / "test"


@pytest.fixture(scope="module")
def verifier():
    return Verifier.load(warn=lambda line: None)


def test_the_card_is_of_the_file(verifier):
    size, card = os.path.getsize(ready.path()), open(ready.card()).read()
    assert size <= 1_000_000 and f"{size:,} bytes" in card
    config = verifier.embedder.config
    assert config.arch == "ECAPASpeechBrain512" and config.embed_dim == 192 and "192 values" in card
    assert (config.front_end.high_hz, config.front_end.snip_edges) == (-400.0, False)
    assert verifier.embedder.input == "waveform" and verifier.embedder.metadata.weights == "packed"
    assert verifier.calibration is not None and verifier.mean is not None


def test_artificial_voices(verifier):
    """They are no people, and much alike; but one of them is more like itself than like another."""
    rng = np.random.default_rng(0)
    embeddings = {(speaker, turn): verifier.embed(voice(speaker, 3, rng)) for speaker in range(4) for turn in range(2)}
    same = [verifier.score(embeddings[s, 0], embeddings[s, 1]) for s in range(4)]
    other = [verifier.score(embeddings[a, 0], embeddings[b, 1]) for a, b in itertools.permutations(range(4), 2)]
    assert np.mean(same) > np.mean(other)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the recordings of speechocean762 are not at hand")
def test_real_voices(verifier):
    """Twelve test speakers, four recordings each: too few to say more than that the file and the card belong together."""
    by_speaker = {}
    for line in (CORPUS / "spk2utt").read_text().splitlines():
        speaker, *utterances = line.split()
        by_speaker[speaker] = utterances[:4]
    recordings = dict(line.split(maxsplit=1) for line in (CORPUS / "wav.scp").read_text().splitlines())
    found = [(speaker, verifier.embed(str(CORPUS.parent / recordings[utterance])))
             for speaker, utterances in list(by_speaker.items())[:12] for utterance in utterances]
    scores = {True: [], False: []}
    for (a, one), (b, two) in itertools.combinations(found, 2):
        scores[a == b].append(verifier.score(one, two))
    assert eer(np.array(scores[True]), np.array(scores[False])) < 0.2
