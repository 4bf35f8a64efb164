"""A page that verifies voices in the browser: a folder of static files, with a model and ONNX Runtime Web inside.

model.py says what the page is told of a model, runtime.py brings ONNX Runtime Web, folder.py writes the page. What the
browser runs lies in page/ (shown) and worker/ (computing; microphone).
"""
