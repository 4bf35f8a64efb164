"""Residual networks with squeeze-and-excitation and attentive pooling: thin, half and pre-activation ResNets.

Networks of 34 layers with a quarter or half of the usual channels: Xie et al., "Utterance-level aggregation for speaker
recognition in the wild", ICASSP 2019 (thin ResNet), Chung et al., "In defence of metric learning for speaker
recognition", Interspeech 2020 (thin and fast), and Kwon et al., "The ins and outs of speaker recognition", ICASSP
2021 (H / ASP). The order of operations is that of the published checkpoints of the last two: in a block the first batch
norm follows its ReLU, and squeeze-and-excitation comes before the residual sum. These checkpoints expect log-mels in
which each channel has mean 0 and deviation 1 over the utterance; the front end sees to that.

Networks with pre-activation, and squeeze-and-excitation in the early stages: Rouvier and Bousquet, "Kiwano: a
cutting-edge open-source toolkit for speaker verification", Odyssey 2026 (ResNet-200), and Leguillier et al., "On
low-bit quantization errors in speaker verification", arXiv 2606.08078 (ResNet-36 and ResNet-200). Rouvier and Bousquet,
"Studying squeeze-and-excitation used in CNN for speaker verification", ASRU 2021, put squeeze-and-excitation in the
first stages only.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.resnet import conv1x1, conv3x3, shortcut, stages

BLOCKS = (3, 4, 6, 3)
REDUCTION = 8  # channels are divided by this inside squeeze-and-excitation


class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation: multiplies every channel by a factor between 0 and 1 that the means of all channels set.

    (B, C, T) -> (B, C, T), or maps (B, C, F, T) -> (B, C, F, T). Hu et al., "Squeeze-and-excitation networks", CVPR
    2018, section 3.

    Args:
        channels: C.
        hidden: outputs of the first of the two linear layers.
        activation: activation between the two.
    """

    def __init__(self, channels: int, hidden: int, activation: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.squeeze = nn.Linear(channels, hidden)
        self.activation = activation()
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean(dim=tuple(range(2, x.dim())))
        factors = torch.sigmoid(self.excite(self.activation(self.squeeze(means))))
        return x * factors.view(*factors.shape, *[1] * (x.dim() - 2))


def attended(x: torch.Tensor, scores: torch.Tensor, deviation: bool, floor: float = 1e-5) -> torch.Tensor:
    """Averages `x` (B, C, T) over time with the weights softmax(scores); with `deviation` adds standard deviations.

    scores: (B, C, T), or (B, 1, T) for weights that all channels share; a softmax over T makes weights that sum to 1.
    Returns means (B, C), or (B, 2C) with the deviations behind them; variances are at least `floor`.
    Computed in float32 under autocast: a difference of squares has few digits left in bfloat16.
    """
    x, weights = x.float(), F.softmax(scores.float(), dim=-1)
    mean = (x * weights).sum(dim=-1)
    if not deviation:
        return mean
    variance = (x.square() * weights).sum(dim=-1) - mean.square()
    return torch.cat([mean, variance.clamp(min=floor).sqrt()], dim=1)


def init_he_(net: nn.Module, layers: tuple[type[nn.Module], ...] = (nn.Conv2d,), mode: str = "fan_out") -> None:
    """Initialises the weights of `net` by He's method; other layers than `layers`, and biases, keep torch's values.

    mode: `fan_out` counts the outputs that a value goes to, `fan_in` the inputs that a value comes from.
    """
    for module in net.modules():
        # On the meta device torch would draw nothing, but take seconds to import its compiler first.
        if isinstance(module, layers) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")


class SEBlock(nn.Module):
    """Two 3x3 convolutions, squeeze-and-excitation and a shortcut: `inputs` channels to `channels`."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = conv3x3(inputs, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = SqueezeExcitation(channels, max(1, channels // REDUCTION))
        self.shortcut = shortcut(inputs, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn1(F.relu(self.conv1(x)))
        return F.relu(self.se(self.bn2(self.conv2(y))) + self.shortcut(x))


def with_deviation(pooling: str) -> bool:
    """Tells whether `pooling` gives deviations too: `sap` (self-attentive) does not, `asp` (attentive statistics) does.

    Raises ValueError for any other name.
    """
    if pooling not in ("sap", "asp"):
        raise ValueError(f"pooling is '{pooling}'; it must be sap (means) or asp (means and deviations)")
    return pooling == "asp"


class FrameAttention(nn.Module):
    """Pooling with one weight a frame (Cai et al., "Exploring the encoding layer and loss function", Odyssey 2018).

    (B, C, T) -> (B, C), or (B, 2C) with `deviation`.
    """

    def __init__(self, channels: int, deviation: bool):
        super().__init__()
        self.hidden = nn.Linear(channels, channels)
        self.score = nn.Linear(channels, 1, bias=False)
        self.deviation = deviation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.score(torch.tanh(self.hidden(x.transpose(1, 2))))
        return attended(x, scores.transpose(1, 2), self.deviation)


class ChannelAttention(nn.Module):
    """Pooling with a weight for each frame of each channel: (B, C, T) -> (B, C), or (B, 2C) with `deviation`."""

    def __init__(self, channels: int, hidden: int, deviation: bool):
        super().__init__()
        self.hidden = nn.Conv1d(channels, hidden, 1)
        self.bn = nn.BatchNorm1d(hidden)
        self.scores = nn.Conv1d(hidden, channels, 1)
        self.deviation = deviation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return attended(x, self.scores(self.bn(F.relu(self.hidden(x)))), self.deviation)


class ThinResNet(nn.Module):
    """Thin or fast ResNet34: frequency is averaged away before the frames are pooled.

    Parameters at width 16 with a 512-dim embedding, whatever the mel channels: 1,437,078 with self-attentive pooling
    (both networks), 1,502,614 with attentive statistics. Chung et al. state 1.4 M for both networks. The thin one was
    published for the 257 bins of a spectrum, which its first two layers quarter; the fast one for 40 mel channels,
    which its first layer halves and its last stage leaves as they are.

    Args:
        feat_dim: channels F of the input (B, T, F); any, because they are averaged.
        embed_dim: size D of the embedding (B, D); published with 512.
        width: channels of the first stage; the later ones have 2, 4 and 8 times as many.
        pooling: `sap`, attentive means, or `asp`, attentive means and deviations, of the 8 `width` channels.
        stem: `pooled`: maximum pooling, which halves the frequencies again, follows the first convolution; or `plain`.
        strides: strides of the four stages, in both directions.
    """

    def __init__(self, feat_dim: int = 40, embed_dim: int = 512, width: int = 16, pooling: str = "sap",
                 stem: str = "plain", strides: tuple[int, ...] = (1, 2, 2, 1)):
        super().__init__()
        deviation = with_deviation(pooling)
        self.conv1 = nn.Conv2d(1, width, 7, stride=(2, 1), padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stem = nn.MaxPool2d(3, stride=(2, 1), padding=1) if stem == "pooled" else nn.Identity()
        self.layers = stages(SEBlock, width, BLOCKS, strides)
        self.pool = FrameAttention(8 * width, deviation)
        self.embedding = nn.Linear((2 if deviation else 1) * 8 * width, embed_dim)
        init_he_(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D), not length-normalised, from log-mels (B, T, F)."""
        x = x.transpose(1, 2).unsqueeze(1)
        x = self.layers(self.stem(F.relu(self.bn1(self.conv1(x)))))
        return self.embedding(self.pool(x.mean(dim=2)))


class HalfResNet(nn.Module):
    """ResNetSE34V2: half of the usual channels, all frequencies kept until pooling ("H / ASP").

    It has 8,028,492 parameters at width 32 with 64 mel channels, a 512-dim embedding and attentive statistics. Kwon et
    al. state 8.0 M.

    Args:
        feat_dim: mel channels F of the input (B, T, F); published with 64.
        embed_dim: size D of the embedding (B, D); published with 512.
        width: channels of the first stage; the later ones have 2, 4 and 8 times as many.
        pooling: `asp`, attentive means and deviations of every channel and frequency, or `sap`, means only.
    """

    def __init__(self, feat_dim: int = 64, embed_dim: int = 512, width: int = 32, pooling: str = "asp"):
        super().__init__()
        deviation = with_deviation(pooling)
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.layers = stages(SEBlock, width, BLOCKS)
        outputs = 8 * width * -(-feat_dim // 8)  # three strides of 2, each rounding up
        self.pool = ChannelAttention(outputs, 128, deviation)
        self.embedding = nn.Linear((2 if deviation else 1) * outputs, embed_dim)
        init_he_(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D), not length-normalised, from log-mels (B, T, F)."""
        x = x.transpose(1, 2).unsqueeze(1)
        x = self.layers(self.bn1(F.relu(self.conv1(x))))
        return self.embedding(self.pool(x.flatten(1, 2)))


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions and one of 1x1, each after its batch norm and ReLU, and a shortcut.

    (B, `inputs`, F, T) -> (B, `channels`, F / stride, T / stride), rounded up.
    """

    def __init__(self, inputs: int, channels: int, stride: int, excite: bool, activation: type[nn.Module] = nn.SiLU):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, channels)
        self.se = SqueezeExcitation(channels, channels, activation) if excite else nn.Sequential()
        self.shortcut = shortcut(inputs, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.relu(self.bn1(x)))
        y = self.conv2(F.relu(self.bn2(y)))
        y = self.conv3(F.relu(self.bn3(y)))
        return self.se(y) + self.shortcut(x)


class BottleneckAttention(nn.Module):
    """Attentive means and deviations with a weight for each frame of each channel: (B, C, T) -> (B, 2C)."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.hidden = nn.Conv1d(channels, hidden, 1)
        self.scores = nn.Conv1d(hidden, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return attended(x, self.scores(torch.tanh(self.hidden(x))), deviation=True)


class KiwanoResNet(nn.Module):
    """Pre-activation ResNet over four stages of `width`, `width`, 2 `width` and 2 `width` channels.

    Parameters at width 128 with 81 mel channels and a 256-dim embedding:

    ==========  ===========  ==========  ==========  ======
    network     in a stage   strides     parameters  layers
    ==========  ===========  ==========  ==========  ======
    ResNet-36   1, 1, 2, 1   1, 2, 2, 1   8,343,040      36
    ResNet-200  3, 8, 18, 3  1, 2, 2, 2  31,976,960     200
    ==========  ===========  ==========  ==========  ======

    No counts are published. ResNet-200 has the published blocks and channels. It has 200 layers if convolutions and
    batch norms of the stem, the blocks and their shortcuts are all counted. The layout of ResNet-36 is not published;
    this one is our choice, which counts to 36 in the same way with the same channels. Whole blocks fit this count only
    with two shortcuts, hence the last stage keeps its input's size.
    SpeechBrain's ResNet, with 3, 4, 6 and 3 blocks, has 15,438,336 parameters with 80 mel channels.

    Args:
        feat_dim: mel channels F of the input (B, T, F); published with 81.
        embed_dim: size D of the embedding (B, D).
        width: channels of the first stage.
        blocks: number of blocks in each of the four stages.
        strides: strides of the four stages, in both directions.
        form: `kiwano`, or `speechbrain`, which has ReLU in place of SiLU; its pooling has 128 hidden channels, with
            ReLU and batch norm in place of tanh.
    """

    def __init__(self, feat_dim: int = 81, embed_dim: int = 256, width: int = 128,
                 blocks: tuple[int, ...] = (3, 8, 18, 3), strides: tuple[int, ...] = (1, 2, 2, 2),
                 form: str = "kiwano"):
        super().__init__()
        if form not in ("kiwano", "speechbrain"):
            raise ValueError(f"form is '{form}'; it must be kiwano or speechbrain")
        activation = nn.SiLU if form == "kiwano" else nn.ReLU
        self.conv1 = conv3x3(1, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.activation = activation()
        channels, bands, layers = width, feat_dim, []
        for stage, (count, stride) in enumerate(zip(blocks, strides)):
            outputs = width if stage < 2 else 2 * width
            for index in range(count):
                layers.append(PreActivationBlock(channels, outputs, stride if index == 0 else 1, stage < 2, activation))
                channels = outputs
            bands = -(-bands // stride)
        self.layers = nn.Sequential(*layers)
        if form == "kiwano":
            self.pool = BottleneckAttention(channels * bands, channels // 2)
        else:
            self.pool = ChannelAttention(channels * bands, hidden=128, deviation=True)
        self.bn_pool = nn.BatchNorm1d(2 * channels * bands)
        self.embedding = nn.Linear(2 * channels * bands, embed_dim)
        self.bn_embedding = nn.BatchNorm1d(embed_dim)
        init_he_(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D), not length-normalised, from log-mels (B, T, F). In training B is at least 2."""
        x = x.transpose(1, 2).unsqueeze(1)
        x = self.layers(self.activation(self.bn1(self.conv1(x))))
        return self.bn_embedding(self.embedding(self.bn_pool(self.pool(x.flatten(1, 2)))))


NETWORKS = {
    "ThinResNet34": partial(ThinResNet, stem="pooled", strides=(1, 2, 2, 2)),
    "FastResNet34": partial(ThinResNet, stem="plain", strides=(1, 2, 2, 1)),
    "ResNetSE34V2": HalfResNet,
    "KiwanoResNet36": partial(KiwanoResNet, blocks=(1, 1, 2, 1), strides=(1, 2, 2, 1)),
    "KiwanoResNet200": partial(KiwanoResNet, blocks=(3, 8, 18, 3), strides=(1, 2, 2, 2)),
    "ResNet34SpeechBrain": partial(KiwanoResNet, blocks=(3, 4, 6, 3), strides=(1, 2, 2, 2), form="speechbrain"),
}
