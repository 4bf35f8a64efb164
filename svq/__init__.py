"""svq: lightweight speaker verification, from recordings to a packed low-bit model.

Folders stand on floors, and imports point downwards only (tests/test_floors.py has the order). From the top: the command
(__main__.py: svq verify, ...); bin; then
analysis, cascade, compression, demo, search and report, the features; deploy, importing; train; bits, distill; evaluation;
pack; quant; backend, nets; data, draw. Beside them stand what is used by its address (`Verifier`, `voices`, `models`), a network's
config and tensors (network.py), the workers' options (cli.py), and modules that any folder may use: errors, atomic, config,
names, progress, hardware, files, numbers. ready holds the model in the box.

Using a model needs no torch: svq.network, svq.quant.config and svq.data.front_end_config are configs alone.
"""

TYPE_CHECKING = False  # true to type checkers; `typing` itself is more than recipes wait for
if TYPE_CHECKING:
    from svq.verifier import Verifier

__version__ = "0.1.0"

__all__ = ["Verifier"]


def __getattr__(name: str):
    """`svq.Verifier`, brought in when it is first asked for: `import svq` alone stays light."""
    if name == "Verifier":
        from svq.verifier import Verifier

        return Verifier
    raise AttributeError(f"module 'svq' has no attribute '{name}'")
