"""What a card's limits allow: FLOPs and bytes of one slice against its peak rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from D24FADLib.inference.models import load_model
from D24FADLib.network.model import D24FADModel

# Dense f16 FLOP/s and bytes/s as the makers' data sheets state them.
CARDS = {"H100 SXM": (989e12, 3.35e12), "H200 SXM": (989e12, 4.8e12)}


def of_card(name: str) -> str | None:
    """The line of CARDS that a device's own name is about."""
    return next((card for card in CARDS if card.split()[0] in name), None)


def roofline(supports: int, size: int, cards: Sequence[str] = tuple(CARDS)) -> list[dict[str, Any]]:
    """Upper bounds for slices a second of size x size pixels, every slice with its supports encoded.

    FLOPs: those of encoding 1 + K images, counted by torch (a multiply-add is two). Bytes, f16: each
    convolution reads its input and writes its output once (nothing fused but the pointwise operations), and
    reads its weights once per batch, which a large batch makes negligible. The bound is the smaller of
    peak FLOP/s / FLOPs and bandwidth / bytes. Real kernels reach a part of either, and depthwise
    convolutions, with few FLOPs a byte, are bound by the second.
    """
    rows = []
    models = {
        "d24fad-lite0": load_model("d24fad-lite0")[0],
        "WRN50-2": D24FADModel.build("wide_resnet50_2").eval(),
    }
    for name, model in models.items():
        moved = [0]

        def count(module: torch.nn.Module, inputs: Any, output: Any, moved: list[int] = moved) -> None:
            moved[0] += 2 * (inputs[0].numel() + output.numel())

        kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
        hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model.encode(torch.zeros(1, 3, size, size))
        for hook in hooks:
            hook.remove()
        flops, bytes_ = (n * (1 + supports) for n in (counter.get_total_flops(), moved[0]))
        for card in cards:
            rate, bandwidth = CARDS[card]
            rows.append(
                {
                    "model": name, "K": supports, "pixels": size, "card": card,
                    "gflop_per_slice": flops / 1e9, "mb_per_slice": bytes_ / 1e6,
                    "flop_bound_slices_per_s": rate / flops,
                    "byte_bound_slices_per_s": bandwidth / bytes_,
                }
            )  # fmt: skip
    return rows
