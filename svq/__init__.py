"""svq: lightweight speaker verification, from recordings to a packed low-bit model."""

__version__ = "0.1.0"

__all__ = ["Verifier"]


def __getattr__(name: str):
    """`svq.Verifier`, brought in when it is first asked for: `import svq` alone stays light."""
    if name == "Verifier":
        from svq.verifier import Verifier

        return Verifier
    raise AttributeError(f"module 'svq' has no attribute '{name}'")
