"""A page that verifies voices in the browser: a folder of static files, with a model and ONNX Runtime Web inside.

model.py collects the facts about a model that the page needs, runtime.py brings ONNX Runtime Web, and folder.py writes
the page. The browser's code lies in page/ (what is shown) and worker/ (computing and the microphone).
"""
