"""Networks outside torch: export to ONNX and OpenVINO, INT8, and one interface to run them all.

What is decided of a recording's scores is in svq/verifier.py and svq/backend.
"""
