"""Small convolutions on a CPU by oneDNN.

Of a batch of one, PyTorch takes a 3-D convolution whose input is small by a path of its own, which at 96x96 pixels
is three times as slow (`use_mkldnn` in ATen's Convolution.cpp). Wan's VAE works latent frame by latent frame, so it
meets this path all the time with small pictures, and with large ones or on a GPU never.
"""

from types import MethodType
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def quick_convolutions(network: Network) -> Network:
    """Let the 3-D convolutions of a network take the quick path always, in place. Gives the network."""
    if torch.backends.mkldnn.is_available():
        for layer in network.modules():
            if isinstance(layer, nn.Conv3d) and layer.padding_mode == "zeros":
                layer._conv_forward = MethodType(_conv_forward, layer)  # type: ignore[method-assign]
    return network


def _conv_forward(layer: nn.Conv3d, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What `nn.Conv3d` computes."""
    if input.device.type != "cpu" or input.dtype != torch.float32 or len(input) != 1:
        return nn.Conv3d._conv_forward(layer, input, weight, bias)
    convolve = torch.ops.aten.mkldnn_convolution
    return convolve(input, weight, bias, layer.padding, layer.stride, layer.dilation, layer.groups)
