"""svq: lightweight speaker verification, from recordings to a packed low-bit model.

Folders stand on floors, and imports point downwards only (tests/test_floors.py has the order). From the top: the
command (__main__.py: svq verify, ...); bin; the features analysis, cascade, compression, demo, search and report;
deploy, importing; train; bits, distill; evaluation; pack; quant; backend, nets; data, draw, hub. ready holds the model
in the box.

Modules outside the folders: those for users (`Verifier`, `voices`, `models`), a network's config and tensors
(network.py), the workers' options (cli.py), and modules that any folder may use: errors, atomic, config, names,
progress, hardware, files, numbers.

Using a model needs no torch: svq.network, svq.quant.config and svq.data.front_end_config are configs alone.
"""

TYPE_CHECKING = False  # true to type checkers; importing `typing` would slow down every start of a recipe's worker
if TYPE_CHECKING:
    from svq.verifier import Verifier

__version__ = "0.1.0"

__all__ = ["Verifier"]


def __getattr__(name: str):
    """Imports `svq.Verifier` at its first use, so that `import svq` alone stays light."""
    if name == "Verifier":
        from svq.verifier import Verifier

        return Verifier
    raise AttributeError(f"module 'svq' has no attribute '{name}'")
