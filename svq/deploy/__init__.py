"""Networks outside torch: export to ONNX and OpenVINO, INT8, and one interface to run them all.

Scores and decisions are in svq/verifier.py and svq/backend.
"""
