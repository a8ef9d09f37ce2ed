"""A network of another program, as an ONNX graph that onnxruntime runs: it can be used, but not trained or changed.

What a package says of its pre- and postprocessing is kept as a list of steps, ``[name, number, ...]``:
``["scale", gain, offset]``, ``["clip", low, high]`` (null: no bound), ``["sigmoid"]``, ``["softmax"]`` (over channels).
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectoscope.errors import UserError
from connectoscope.volumes.geometry import Index3

NAME = "onnx"
AXES = "bczyx"
ONLY_SEGMENTS = (
    "this model is an imported ONNX network: it can segment, but not be trained, adapted, signed, "
    "pruned or exported"
)
CUDA = "CUDAExecutionProvider"
Steps = tuple[tuple[Any, ...], ...]
STEPS = {"scale": 2, "clip": 2, "sigmoid": 0, "softmax": 0}  # and how many numbers each takes
LARGEST = 4_000_000  # voxels of the image on which its reach is measured
TELLING = 1e-5  # of the output's range: what changes less is rounding
STANDARD = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")  # sets of operators that onnxruntime brings
NO_MEMORY = ("Failed to allocate memory", "bad_alloc", "out of memory")  # in the words of onnxruntime


@dataclass(frozen=True)
class OnnxArguments:
    """All that stands in the card beside the graph itself.

    Args:
        input_axes, output_axes: Letters of the tensors' axes: b, c and z, y, x or, for single planes, y, x.
        least: Smallest input, voxels along z, y, x; ignored along an axis that the tensor has not.
        step: The input may be longer than ``least`` by multiples of this; 0: it may not be longer.
        before: From intensities normalised as the card says to what the graph takes.
        after: From what it gives to probabilities.
    """

    input_axes: str
    output_axes: str
    least: Index3
    step: Index3
    before: Steps = ()
    after: Steps = ()

    def __post_init__(self) -> None:
        for axes in (self.input_axes, self.output_axes):
            if sorted(axes.replace("b", "").replace("c", "")) not in (sorted("zyx"), sorted("yx")):
                raise ValueError(f"axes must be b, c and z, y, x or y, x, got {axes!r}")
        if ("z" in self.input_axes) != ("z" in self.output_axes) or len(set(self.input_axes)) != len(
            self.input_axes
        ):
            raise ValueError(f"axes of the input, {self.input_axes}, do not go with {self.output_axes}")
        if min(self.least) < 1 or min(self.step) < 0:
            raise ValueError(
                f"least must be at least 1 and step at least 0, got {self.least} and {self.step}"
            )
        for name, *numbers in (*self.before, *self.after):
            if name not in STEPS or len(numbers) != STEPS[name]:
                raise ValueError(f"no step {name!r} with {len(numbers)} numbers")

    @classmethod
    def parse(cls, arguments: Mapping[str, Any]) -> OnnxArguments:
        """From a card's JSON values.

        Raises:
            UserError: they are not those of such a network.
        """
        try:
            values = dict(arguments)
            for name in ("least", "step"):
                z, y, x = (int(v) for v in values[name])
                values[name] = (z, y, x)
            for name in ("before", "after"):
                values[name] = tuple(tuple(step) for step in values.get(name, ()))
            return cls(**values)
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(f"architecture {NAME} cannot be built: {error}") from None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def planes(self) -> bool:
        return "z" not in self.input_axes

    def window(self, shape: Index3) -> Index3:
        """What one pass sees of an image of that shape, or of the image with a rim, where it is too small."""
        wanted = [
            least if step == 0 else least + -(-max(n - least, 0) // step) * step
            for n, least, step in zip(shape, self.least, self.step, strict=True)
        ]
        return (1 if self.planes else wanted[0], wanted[1], wanted[2])


class OnnxNetwork:
    """The graph, loaded.

    Args:
        data: Of an ONNX file, whole.
        device: ``cpu`` or ``cuda``.
        threads: None: as many as there are cores.

    Attributes:
        operators: Names of the graph's operators.

    Raises:
        UserError: onnxruntime is missing, has no such device, or cannot load or run such a graph.
        MemoryError: there is too little memory for it.
    """

    def __init__(
        self, data: bytes, arguments: OnnxArguments, *, device: str = "cpu", threads: int | None = None
    ) -> None:
        if importlib.util.find_spec("onnxruntime") is None:
            raise UserError("imported models need one more package: pip install 'connectoscope[onnx]'")
        import onnxruntime

        self.arguments = arguments
        self.operators = checked_operators(data)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong is raised, in one line of ours
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = [CUDA] if device_for(device, asked=True) == "cuda" else []
        try:
            self._session = onnxruntime.InferenceSession(
                data, options, providers=[*wanted, "CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no base of their own
            _check_memory(error)
            raise UserError(f"the ONNX network cannot be loaded: {_first_line(error)}") from None
        if wanted and CUDA not in self._session.get_providers():
            raise UserError("onnxruntime cannot use the CUDA device; use --device cpu")
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            told = ", ".join(f"{i.name} {i.type}" for i in inputs)
            raise UserError(f"the ONNX network must have one float32 input, this one has {told}")
        self._input, self._output = inputs[0].name, self._session.get_outputs()[0].name

    def __call__(
        self, image: NDArray[np.float32], halo: Index3 = (0, 0, 0), *, logits: bool = False
    ) -> NDArray[np.float32]:
        """Probabilities ``(C, Z, Y, X)`` of a normalised ``(Z, Y, X)``, without ``halo`` voxels at each side.

        In as many passes as it takes, all of one shape; an image smaller than that is continued by reflection.

        Args:
            logits: What the graph gives, without the steps after it.

        Raises:
            UserError: the graph fails on it, or gives another shape than it should.
            MemoryError: there is too little memory for it.
        """
        shape = (image.shape[0], image.shape[1], image.shape[2])
        window = self.arguments.window(shape)
        inner = [w - 2 * h for w, h in zip(window, halo, strict=True)]
        if min(inner) < 1:
            raise UserError(f"the model sees {window} voxels at once, too few for a halo of {halo}")
        rim = [(0, max(w - n, 0)) for w, n in zip(window, shape, strict=True)]
        image = np.pad(image, rim, mode="symmetric")
        core = [n - 2 * h for n, h in zip(shape, halo, strict=True)]
        starts = [
            [max(min(i, whole - part), 0) for i in range(0, whole, part)]
            for whole, part in zip(core, inner, strict=True)
        ]
        parts = []
        for low in itertools.product(*starts):
            seen = tuple(slice(i, i + w) for i, w in zip(low, window, strict=True))
            kept = tuple(slice(i, min(i + n, c)) for i, n, c in zip(low, inner, core, strict=True))
            parts.append((kept, self._inner(image[seen], halo)))
        out = np.empty((len(parts[0][1]), *core), np.float32)
        for kept, part in parts:
            out[(slice(None), *kept)] = part[(slice(None), *(slice(0, k.stop - k.start) for k in kept))]
        return out if logits else apply_steps(self.arguments.after, out)

    def _inner(self, window: NDArray[np.float32], halo: Index3) -> NDArray[np.float32]:
        """(C, Z, Y, X) of one window, without the halo, of which a network without padding leaves less."""
        a = self.arguments
        image = arranged(apply_steps(a.before, window[None]), a.input_axes)
        try:
            (found,) = self._session.run([self._output], {self._input: image})
        except Exception as error:  # as above
            _check_memory(error)
            raise UserError(
                f"the ONNX network fails on {window.shape} voxels: {_first_line(error)}"
            ) from None
        if np.ndim(found) != len(a.output_axes):
            raise UserError(f"the ONNX network gives {np.ndim(found)} axes, its package says {a.output_axes}")
        y = as_czyx(found, a.output_axes)
        left = [h - (w - n) // 2 for h, w, n in zip(halo, window.shape, y.shape[1:], strict=True)]
        if min(left) < 0 or any((w - n) % 2 for w, n in zip(window.shape, y.shape[1:], strict=True)):
            raise UserError(
                f"the ONNX network gives {y.shape[1:]} of {window.shape} voxels, which a halo of {halo} does not explain"
            )
        return y[(slice(None), *(slice(i, n - i) for i, n in zip(left, y.shape[1:], strict=True)))]


@dataclass
class OnnxPredictor:
    """As :class:`connectoscope.networks.predictor.Predictor`; float32 whatever the plan's precision."""

    network: OnnxNetwork
    tile: Index3
    halo: Index3
    outputs: tuple[str, ...]

    def __call__(self, tile: NDArray[np.float32]) -> NDArray[np.uint8]:
        """``round(255 p)`` of the core, ``(C, *core)`` uint8, of a normalised ``(*tile)`` float32.

        Raises:
            ValueError: when the input has another shape than every tile of this run.
            UserError: when the network gives other channels than the card has.
        """
        if tile.shape != self.tile:
            raise ValueError(f"predictor takes tiles of {self.tile}, got {tile.shape}")
        p = self.network(tile, self.halo)
        if len(p) != len(self.outputs):
            raise UserError(f"the ONNX network gives {len(p)} channels, its card names {len(self.outputs)}")
        return stored(p)


def device_for(device: str, *, asked: bool) -> str:
    """Where onnxruntime computes if the rest of the program computes on ``device``: ``cpu`` or ``cuda``.

    Args:
        asked: That device and no other, so that the processor will not do instead.

    Raises:
        UserError: it was asked for, and onnxruntime does not have it.
    """
    import onnxruntime

    if device == "cpu" or (device == "cuda" and CUDA in onnxruntime.get_available_providers()):
        return device
    if asked:
        more = "; or install onnxruntime-gpu in place of onnxruntime" if device == "cuda" else ""
        raise UserError(
            f"imported models run by onnxruntime, which does not know {device} here; use --device cpu{more}"
        )
    return "cpu"


def checked_operators(data: bytes) -> set[str]:
    """Names of the operators of a graph, those of graphs inside included.

    Raises:
        UserError: it is no ONNX, refers to other files, or to operators that onnxruntime has not.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise UserError("imported models need one more package: pip install 'connectoscope[onnx]'") from None
    found: set[str] = set()
    try:
        model = onnx.load_model_from_string(data)
        domains = {*STANDARD, *(function.domain for function in model.functions)}
        graphs = [model.graph, *model.functions]
        while graphs:
            graph = graphs.pop()
            tensors = list(getattr(graph, "initializer", ()))
            sparse = list(getattr(graph, "sparse_initializer", ()))
            attributes = list(getattr(graph, "attribute_proto", ()))
            for node in graph.node:
                if node.domain not in domains:
                    raise UserError(
                        f"the ONNX file needs operators of '{node.domain}', which onnxruntime does not have"
                    )
                found.add(node.op_type)
                attributes += node.attribute
            for a in attributes:
                graphs += [a.g] * a.HasField("g") + [*a.graphs]
                tensors += [a.t] * a.HasField("t") + [*a.tensors]
                sparse += [a.sparse_tensor] * a.HasField("sparse_tensor") + [*a.sparse_tensors]
            tensors += [part for s in sparse for part in (s.values, s.indices)]
            if any(t.data_location == onnx.TensorProto.EXTERNAL or t.external_data for t in tensors):
                raise UserError("the ONNX file has its weights in a second file; save it as one")
    except UserError:
        raise
    except Exception:  # protobuf's errors have no base of their own
        raise UserError("the network of the model is not an ONNX file; get it again") from None
    return found


def stored(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """As results hold it: ``round(255 p)``, half up, of what may leave 0 to 1 by rounding."""
    levels: NDArray[np.uint8] = np.floor(np.clip(probability, 0, 1) * 255 + 0.5).astype(np.uint8)
    return levels


def arranged(image: NDArray[np.float32], axes: str) -> NDArray[np.float32]:
    """``(C, Z, Y, X)`` as a tensor with these axes; those that it has not are 1 long."""
    absent = tuple(i for i, letter in enumerate(AXES) if letter not in axes)
    there = "".join(letter for letter in AXES if letter in axes)
    tensor = image[None].squeeze(absent).transpose([there.index(letter) for letter in axes])
    return np.ascontiguousarray(tensor, dtype=np.float32)


def as_czyx(tensor: NDArray[Any], axes: str) -> NDArray[np.float32]:
    """The inverse of :func:`arranged`.

    Raises:
        UserError: it holds more than one image.
    """
    ordered = tensor.transpose([axes.index(letter) for letter in AXES if letter in axes])
    whole = np.expand_dims(ordered, tuple(i for i, letter in enumerate(AXES) if letter not in axes))
    if len(whole) != 1:
        raise UserError(f"a tensor with axes {axes} holds {len(whole)} images where there should be one")
    image: NDArray[np.float32] = whole[0].astype(np.float32)
    return image


def apply_steps(steps: Steps, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of an array (C, ...)."""
    for name, *numbers in steps:
        if name == "scale":
            array = array * np.float32(numbers[0]) + np.float32(numbers[1])
        elif name == "clip":
            array = np.clip(array, *numbers)
        elif name == "sigmoid":
            array = np.float32(1) / (np.float32(1) + np.exp(-np.clip(array, -80, 80)))
        else:
            powers = np.exp(array - array.max(axis=0, keepdims=True))
            array = powers / powers.sum(axis=0, keepdims=True)
    return array


def measured_reach(network: OnnxNetwork, stride: Index3, sample: NDArray[np.float32]) -> Index3 | None:
    """How far from a voxel its output still changes with it, at most, along z, y, x; None: as far as can be seen.

    Measured, since a graph does not tell: the middle of images of growing size is changed.

    Args:
        sample: An image as the network takes it, any shape; the images are drawn from its voxels.

    Raises:
        UserError: the output is smaller than the input.
    """
    draw = np.random.default_rng(0)
    arguments = network.arguments
    for side in (32, 64, 128, 256, 512):
        shape = arguments.window((1 if arguments.planes else side, side, side))
        if math.prod(shape) > LARGEST:
            break
        # A quarter of each side, so that statistics over the whole image change, too.
        block = [
            (n * 3 // 8 // s * s, max(-(-n * 5 // 8) // s * s, s)) for n, s in zip(shape, stride, strict=True)
        ]
        middle = tuple(slice(a, b) for a, b in block)
        image = draw.choice(sample.ravel(), shape)
        before = network(image, logits=True)
        if before.shape[1:] != shape:
            raise UserError("the model's output is smaller than its input, and the package names no halo")
        different = np.zeros(shape, np.bool_)
        for value in (sample.min(), sample.max(), draw.choice(sample.ravel(), image[middle].shape)):
            changed = image.copy()
            changed[middle] = value
            after = network(changed, logits=True)
            different |= (np.abs(after - before) > TELLING * float(np.ptp(before))).any(axis=0)
        reach = []
        for axis, (a, b) in enumerate(block):
            touched = np.flatnonzero(different.any(axis=tuple({0, 1, 2} - {axis})))
            first, last = (touched[0], touched[-1]) if len(touched) else (a, b - 1)
            reach.append(max(a - int(first), int(last) - b + 1, 0))
        room = [min(a, n - b) for (a, b), n in zip(block, shape, strict=True)]
        if all(r < m or n == 1 for r, m, n in zip(reach, room, shape, strict=True)):
            # What reached beyond one face of the block may have come from a stride behind it.
            z, y, x = (r + s - 1 for r, s in zip(reach, stride, strict=True))
            return (0 if arguments.planes else z, y, x)
        if not any(arguments.step):
            break
    return None


def _check_memory(error: Exception) -> None:
    """Raises MemoryError where that is what onnxruntime says, so that a run goes on with smaller tiles."""
    if any(words in str(error) for words in NO_MEMORY):
        raise MemoryError(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
