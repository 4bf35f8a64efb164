"""The packed model file, `model.svq`: its format, reading and writing it, the codes of weights as bits.

What quantizes a network is in svq/quant, what loads a model of any form in svq/models.py.
"""
