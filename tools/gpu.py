"""Everything to try on a GPU, within ten minutes: `python -m tools.gpu`, or only some of its parts.

Each line is printed and written to a file when it is known, so a run that is cut off leaves its results. The parts are
those of `PARTS`; each stops when its time is over. No network is needed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.sparse import to_sparse_semi_structured

from benchmarks.cases import SPARSE, Case
from benchmarks.contestants import contestants, ours
from benchmarks.measure import Work, take_turns, work_of
from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, Signed, ZeroDiagonal, explain, masks, register
from parametrizations._products.csr import CSR
from parametrizations._products.form import form_linear
from parametrizations.testing import check_parametrization

Item = TypeVar("Item")
Write = Callable[[str], None]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""Relative to the largest entry."""
CONSTRAINTS: dict[str, Callable[[], Any]] = {
    "Diagonal": Diagonal,
    "ZeroDiagonal": ZeroDiagonal,
    "NegExpDiagonal": NegExpDiagonal,
    "Signed": lambda: Signed(-1),
    "MaskedSparse, 10 %": lambda: MaskedSparse(masks.random(density=0.1)),
    "MaskedSparse, 8 blocks, strips": lambda: MaskedSparse(masks.block_diagonal(8), product="strips"),
    "MaskedSparse, band, strips": lambda: MaskedSparse(masks.banded(2, 2), product="strips"),
    "Diagonal, NegExpDiagonal": lambda: [Diagonal(), NegExpDiagonal()],
    "MaskedSparse, Signed": lambda: [MaskedSparse(masks.lower_triangular(), product="strips"), Signed(-1)],
}
SIDE = 256


class Skipped(Exception):
    """A check that this device does not support."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all, if none is given")
    parser.add_argument("--device", type=_device, default="cuda")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results-cuda.md"), metavar="FILE", help="appended to"
    )
    options = parser.parse_args(arguments)
    torch.backends.cuda.matmul.allow_tf32 = False
    with options.out.open("a") as file:  # parts may run one after another

        def write(line: str) -> None:
            print(line, flush=True)
            file.write(line + "\n")
            file.flush()

        write(f"# On {_name(options.device)}, torch {torch.__version__}, CUDA {torch.version.cuda}\n")
        for part in options.parts or PARTS:
            write(f"## {part}\n")
            PARTS[part](options.device, write)
            write("")


def _device(name: str) -> torch.device:
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"needs a device of this machine. Got {name!r}.") from error


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _within(seconds: float, items: Iterable[Item], write: Write) -> Iterator[Item]:
    """The items, until the time is over."""
    end = time.monotonic() + seconds
    for item in items:
        if time.monotonic() > end:
            write("\nStopped: the time is over.")
            return
        yield item


# Correctness


def correctness(device: torch.device, write: Write, seconds: float = 200) -> None:
    """The laws and the modes of PyTorch, for every constraint and dtype."""
    write("| check | constraint | dtype | outcome |\n|---|---|---|---|")
    for check, (name, make), dtype in _within(seconds, product(CHECKS, CONSTRAINTS.items(), DTYPES), write):
        if dtype in CHECKS[check]:
            outcome = _outcome(check, _layer(make, device, dtype), make)
            write(f"| {check.__name__} | {name} | {str(dtype)[6:]} | {outcome} |")


def _layer(make: Callable[[], Any], device: torch.device, dtype: torch.dtype) -> nn.Linear:
    torch.manual_seed(0)
    return register(nn.Linear(SIDE, SIDE), {"weight": make()}).to(device, dtype)


def _outcome(check: Callable[..., object], *arguments: object) -> str:
    try:
        check(*arguments)
    except Skipped as reason:
        return f"skipped: {reason}"
    except Exception as error:
        return f"FAIL: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return "ok"


def _passed(call: Callable[[Tensor], Tensor], layer: nn.Linear, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input and of all parameters."""
    x = x.clone().requires_grad_()
    output = call(x)
    output.backward(torch.ones_like(output))  # type: ignore[no-untyped-call]
    found = [output.detach(), *(leaf.grad.clone() for leaf in (x, *layer.parameters()) if leaf.grad is not None)]
    layer.zero_grad()
    return found


def _require_close(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    for one, other in zip(got, wanted, strict=True):
        limit = TOLERANCE[one.dtype] * (other.abs().max().item() + 1e-3)
        torch.testing.assert_close(one, other, rtol=0, atol=limit, check_dtype=False)


def _input(layer: nn.Linear) -> Tensor:
    return torch.randn(32, SIDE, device=layer.bias.device, dtype=layer.bias.dtype)


def agrees_with_the_dense_weight(layer: nn.Linear, _: object) -> None:
    x = _input(layer)
    dense = _passed(lambda x: F.linear(x, layer.weight, layer.bias), layer, x)
    _require_close(_passed(layer, layer, x), dense)


def compiles(layer: nn.Linear, _: object) -> None:
    torch.compiler.reset()
    x = _input(layer)
    _require_close(_passed(torch.compile(layer, fullgraph=True), layer, x), _passed(layer, layer, x))


def compiles_with_less_overhead(layer: nn.Linear, _: object) -> None:
    _require_cuda(layer)
    torch.compiler.reset()
    x = _input(layer)
    compiled = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
    for _ in range(3):  # the third call replays the graph
        found = _passed(compiled, layer, x)
    wanted = _passed(layer, layer, x)
    _require_close(found, wanted)


def is_captured_in_a_graph(layer: nn.Linear, _: object) -> None:
    _require_cuda(layer)
    x = _input(layer)
    wanted = layer(x).detach()
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            layer(x).sum().backward()
    torch.cuda.current_stream().wait_stream(side)
    layer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = layer(x)
        output.sum().backward()
    graph.replay()
    _require_close([output.detach()], [wanted])


def works_under_autocast(layer: nn.Linear, _: object) -> None:
    with torch.autocast(layer.bias.device.type, dtype=torch.bfloat16):
        x = _input(layer)
        _require_close([layer(x).detach()], [F.linear(x, layer.weight, layer.bias).detach()])


def trains_with_fused_adam_and_a_scaler(layer: nn.Linear, _: object) -> None:
    device, x = layer.bias.device.type, _input(layer)
    optimizer, scaler = torch.optim.Adam(layer.parameters(), lr=1e-2, fused=True), torch.amp.GradScaler(device)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.float16 if device == "cuda" else torch.bfloat16):
            loss = layer(x).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < losses[0], losses


def laws(layer: nn.Linear, make: Callable[[], Any]) -> None:
    constraint = make()
    if isinstance(constraint, list):
        raise Skipped("a law takes one constraint")
    check_parametrization(constraint, torch.randn(16, 24, device=layer.bias.device))


def _require_cuda(layer: nn.Module) -> None:
    if not next(layer.parameters()).is_cuda:
        raise Skipped("for CUDA")


CHECKS: dict[Callable[..., None], Sequence[torch.dtype]] = {
    agrees_with_the_dense_weight: DTYPES,
    is_captured_in_a_graph: DTYPES,
    works_under_autocast: DTYPES[:1],
    trains_with_fused_adam_and_a_scaler: DTYPES[:1],
    laws: DTYPES[:1],
    compiles: DTYPES[:2],
    compiles_with_less_overhead: DTYPES[:1],
}
"""The checks with their dtypes, the most important first."""

# Synchronisation


def synchronisation(device: torch.device, write: Write, seconds: float = 30) -> None:
    """No step waits for the device: forward, backward and a fused optimizer."""
    write("| constraint | dtype | outcome |\n|---|---|---|")
    for (name, make), dtype in _within(seconds, product(CONSTRAINTS.items(), DTYPES), write):
        write(f"| {name} | {str(dtype)[6:]} | {_outcome(_step_without_waiting, _layer(make, device, dtype))} |")


def _step_without_waiting(layer: nn.Linear) -> None:
    _require_cuda(layer)
    x, optimizer = _input(layer), torch.optim.Adam(layer.parameters(), fused=True)
    for mode in ("default", "error"):  # the first step allocates
        with _sync_mode(mode):
            optimizer.zero_grad()
            layer(x).sum().backward()
            optimizer.step()


@contextmanager
def _sync_mode(mode: str) -> Iterator[None]:
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Speed

SHAPES = ((4096, 2048), (1024, 128), (8192, 2048), (4096, 128), (8192, 8192))
"""Features and batch, the most important first."""
STRUCTURES = ("block_diagonal(8)", "banded(64, 64)", "lower_triangular()")
KINDS = (("Diagonal", ""), ("ZeroDiagonal", ""), ("NegExpDiagonal", ""), *((SPARSE, m) for m in ("1 %", *STRUCTURES)))


def speed(
    device: torch.device,
    write: Write,
    seconds: float = 300,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    compiled: Sequence[str] = ("nn.Linear", "ours", "arange"),
) -> None:
    """Forward and backward of each product and of other ways, as multiples of `nn.Linear`, eager and compiled."""
    write(
        "| constraint: chosen product | features | batch | dtype | nn.Linear, ms | multiples of nn.Linear |\n|---|"
        + "---|" * 5
    )
    cases = product(shapes, (torch.float32, torch.bfloat16), KINDS)
    for (n, batch), dtype, (constraint, mask) in _within(seconds, cases, write):
        torch.compiler.reset()  # after eight recompilations of a forward, later ones would run eagerly
        case = Case(constraint, n, batch, mask)
        layers: dict[str, Any] = {name: layer.to(device, dtype) for name, layer in _contestants(case, dtype).items()}
        for name in layers.keys() & compiled:
            mode = "max-autotune-no-cudagraphs" if name == "arange" and device.type == "cuda" else "default"
            layers[f"{name}, compiled"] = torch.compile(layers[name], mode=mode)
        works = {name: work_of(layer, case) for name, layer in layers.items()}
        times = _times(works, device)
        plain = times.pop("nn.Linear", float("nan"))
        others = ", ".join(f"{name} {found / plain:.3g}" for name, found in times.items())
        chosen = f"{case.weight}: {explain(layers['ours']).product}"
        write(f"| {chosen} | {n} | {batch} | {str(dtype)[6:]} | {plain:.3g} | {others} |")


def _contestants(case: Case, dtype: torch.dtype) -> dict[str, nn.Module]:
    made = contestants(case)
    products = {"Diagonal": (), SPARSE: ("dense", "strips")}.get(case.constraint, ("dense", "replaced-diagonal"))
    for name in products:
        if not (name == "strips" and case.mask.endswith("%")):
            made[name] = ours(case, name)  # type: ignore[arg-type]
    layer: Any = made["ours"]
    if case.constraint == SPARSE and dtype is torch.float32:
        made["cuSPARSE"] = _ByCSR(layer)
    if case.mask in INDICES:
        made["arange"] = _ByIndices(layer, INDICES[case.mask])
    return made


class _ByCSR(nn.Module):
    """The two sparse kernels of the product csr, which are cuSPARSE's on a GPU."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.x, self.bias = nn.Parameter(layer.parametrizations.weight.original.detach().clone()), layer.bias
        self.positions = layer.parametrizations.weight[0].positions.long()
        self.form: CSR | None = None

    def forward(self, input: Tensor) -> Tensor:
        if self.form is None:
            side = len(self.bias)
            self.form = CSR.of(torch.Size((side, side)), self.positions.to(input.device))
        return form_linear(input, self.x, self.bias, self.form)


class _ByIndices(nn.Module):
    """A mask that follows from indices, which a compiler may fuse into the product."""

    def __init__(self, layer: Any, keeps: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.w, self.bias, self.keeps = nn.Parameter(layer.weight.detach().clone()), layer.bias, keeps

    def forward(self, input: Tensor) -> Tensor:
        at = torch.arange(len(self.bias), device=input.device)
        return F.linear(input, torch.where(self.keeps(at[:, None], at), self.w, 0), self.bias)


INDICES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "lower_triangular()": lambda row, column: row >= column,
    "banded(64, 64)": lambda row, column: (row - column).abs() <= 64,
}


def _times(works: Mapping[str, Work], device: torch.device, rounds: int = 11) -> dict[str, float]:
    """Median milliseconds by events of CUDA, in random order. A contestant that fails is left out."""
    able = {name: work for name, work in works.items() if _outcome(work) == "ok"}
    if device.type != "cuda":
        return take_turns(able, seconds=0, rounds=1)
    taken: dict[str, list[float]] = {name: [] for name in able}
    for _ in range(rounds):
        for index in torch.randperm(len(able)).tolist():
            name = [*able][index]
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            for _ in range(3):
                able[name]()
            stop.record()
            stop.synchronize()
            taken[name].append(start.elapsed_time(stop) / 3)
    return {name: statistics.median(each) for name, each in taken.items()}


def semi_structured(device: torch.device, write: Write, seconds: float = 30) -> None:
    """2:4 sparsity by PyTorch's kernels: forward only, milliseconds."""
    write("| features | batch | dense | 2:4 |\n|---|---|---|---|")
    for n, batch in _within(seconds, SHAPES if device.type == "cuda" else (), write):
        layer = register(nn.Linear(n, n), {"weight": MaskedSparse(masks.n_of_m(2, 4))}).to(device, torch.bfloat16)
        times = _two_of_four(layer.weight.detach(), torch.randn(batch, n, device=device, dtype=torch.bfloat16))
        write(f"| {n} | {batch} | {times['dense']:.3g} | {times.get('2:4', float('nan')):.3g} |")


def _two_of_four(weight: Tensor, x: Tensor) -> dict[str, float]:
    packed: list[Any] = []

    def sparse() -> None:
        if not packed:
            packed.append(to_sparse_semi_structured(weight))
        F.linear(x, packed[0])

    return _times({"dense": lambda: F.linear(x, weight), "2:4": sparse}, weight.device)


PARTS: dict[str, Callable[[torch.device, Write], None]] = {
    "correctness": correctness,
    "synchronisation": synchronisation,
    "speed": speed,
    "semi_structured": semi_structured,
}


if __name__ == "__main__":
    main()
