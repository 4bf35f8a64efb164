"""Speech: data directories, audio, front ends, augmentation, training sets, and utterances through a network.

What only knows embeddings or scores is in svq/backend.
"""
