"""svq: lightweight speaker verification, from recordings to a packed low-bit model."""

__version__ = "0.1.0"
