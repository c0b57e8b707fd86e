"""Networks compiled block by block: a block that occurs many times is compiled once, and shapes never change.

A module whose class says ``compiled_alone`` is compiled with all that it holds, as are the methods that a class names
in ``compiled_methods``; what lies between them stays as it is. A network without any is compiled whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

GRAPHS = 64
"""Most versions of one block's code: widths, grid sizes, with and without gradients; torch would give up at 8."""


def compile_blocks(network: nn.Module, backend: str) -> None:
    """Compile a network in place, for shapes that stay as they are at the first call of each block.

    A graph may be walked more than once, as the discriminator's is for a fake.

    Args:
        backend: of torch.compile; inductor keeps the channels-last layout of its inputs.
    """
    import torch._dynamo  # takes seconds, and few need it
    import torch._functorch.config

    torch._dynamo.config.recompile_limit = GRAPHS
    torch._functorch.config.donated_buffer = False  # else what a graph keeps for its backward is gone after one walk
    options = {"force_layout_optimization": True} if backend == "inductor" else None
    settings: dict[str, Any] = {"backend": backend, "dynamic": False, "options": options}
    found = False
    for module in _outermost(network):
        found = True
        if getattr(module, "compiled_alone", False):
            module.compile(**settings)
        for name in getattr(module, "compiled_methods", ()):
            setattr(module, name, torch.compile(getattr(module, name), **settings))
    if not found:
        network.compile(**settings)


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that are compiled, without those inside a block."""
    alone = getattr(module, "compiled_alone", False)
    if alone or getattr(module, "compiled_methods", ()):
        yield module
    if not alone:
        for part in module.children():
            yield from _outermost(part)


@contextmanager
def uncompiled(network: nn.Module) -> Iterator[None]:
    """In this block nothing new is compiled: for batches of other sizes, and for modes that are seldom used."""
    compiled = [module for module in network.modules() if module._compiled_call_impl is not None]
    methods = [
        (module, name, module.__dict__.pop(name))
        for module in network.modules()
        for name in getattr(module, "compiled_methods", ())
        if name in module.__dict__
    ]
    held = [module._compiled_call_impl for module in compiled]
    for module in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in zip(compiled, held, strict=True):
            module._compiled_call_impl = call
        for module, name, method in methods:
            setattr(module, name, method)
