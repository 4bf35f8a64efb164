"""Constants of an ONNX graph: tensors that lie in the file, and nodes that make tensors of them.

A runtime computes such nodes once, when it loads the file ("constant folding"), and throws their inputs away. So a file
may hold a few numbers, or codes, in place of a large tensor.
"""

from __future__ import annotations

import numpy as np

from svq.errors import require

MANY_ALIKE = 32  # for so many equal numbers, one number and a node take less room


class Constants:
    """Tensors and nodes for the head of a graph, each kept once however often it is asked for.

    tensors: name -> np.ndarray. nodes: onnx.NodeProto in the order to compute them. Their names begin with `mark`; no
    name of the graph may.
    """

    def __init__(self, mark: str = "="):
        self.onnx = require("onnx")
        self.mark, self.tensors, self.nodes, self._known = mark, {}, [], {}

    def tensor(self, array, alone: bool = False) -> str:
        """Stores a tensor; gives its name. Equal tensors share one; with `alone` this one is not shared."""
        array = np.asarray(array)
        key = ("", array.dtype.str, array.shape, array.tobytes() if not alone else len(self._known))
        if key not in self._known:
            self._known[key] = self._name()
            self.tensors[self._known[key]] = array
        return self._known[key]

    def node(self, kind: str, *inputs: str, **attributes) -> str:
        """Adds a node of operator `kind`, with the inputs of these names; gives the name of its output."""
        key = (kind, inputs, tuple(sorted((name, str(value)) for name, value in attributes.items())))
        if key not in self._known:
            self._known[key] = self._name()
            self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [self._known[key]], **attributes))
        return self._known[key]

    def _name(self) -> str:
        return f"{self.mark}{len(self._known)}"

    def cast(self, name: str, dtype) -> str:
        """Adds a cast of the tensor of that name to a NumPy `dtype`; gives the name of the result."""
        return self.node("Cast", name, to=self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def shaped(self, name: str, shape) -> str:
        """Adds a change of the shape of the tensor of that name, -1 as in NumPy; gives the name of the result."""
        return self.node("Reshape", name, self.tensor(np.array(shape, dtype=np.int64)))

    def count(self, stop: int, dtype, start: int = 0) -> str:
        """Adds the nodes that count start, start + 1, ... stop - 1; gives the name of that tensor."""
        return self.node("Range", *(self.tensor(np.array(number, dtype=dtype)) for number in (start, stop, 1)))

    def array(self, array: np.ndarray) -> str:
        """Stores an array in the least room without loss; gives the name of a tensor with this content.

        Many equal numbers become one; float32 becomes half precision where that loses nothing. int8 is stored as it is
        and not shared (see `svq.deploy.codes.integer_weight`).
        """
        if array.dtype == np.int8:
            return self.tensor(array, alone=True)
        if array.size >= MANY_ALIKE and (array == array.flat[0]).all():
            shape = self.tensor(np.array(array.shape, dtype=np.int64))
            return self.node("Expand", self.tensor(array.flat[0]), shape)
        half = as_half(array)
        return self.tensor(array) if half is None or array.size < MANY_ALIKE else self.cast(self.tensor(half), array.dtype)


def as_half(array: np.ndarray) -> np.ndarray | None:
    """Converts a float32 array to float16 where that loses nothing; gives None where it would, and for other types."""
    if array.dtype != np.float32:
        return None
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if (half.astype(np.float32) == array).all() else None
