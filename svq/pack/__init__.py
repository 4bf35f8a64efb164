"""The packed model file, `model.svq`: its format, reading and writing it, the codes of weights as bits.

svq/quant quantizes networks; svq/models.py loads a model of any form.
"""
