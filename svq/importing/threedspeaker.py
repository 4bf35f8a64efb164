"""3D-Speaker (modelscope/3D-Speaker): embedding_model.ckpt, a state dict.

Its front end (speakerlab/process/processor.py): Kaldi's log-mels with the povey window, of samples in [-1, 1], less the
utterance's mean.
"""

from __future__ import annotations

from svq.data.frontend import FrontEndConfig
from svq.importing import architectures
from svq.importing.plan import Origin


def front_end(num_mels: int, options) -> FrontEndConfig:
    return FrontEndConfig(options.rate, num_mels, full_scale=1.0)


ORIGIN = Origin("3dspeaker", (architectures.resnet(front_end, variance_floor=1e-8), architectures.ecapa_tdnn(front_end),
                              architectures.x_vector(front_end, variance_floor=1e-8)))
