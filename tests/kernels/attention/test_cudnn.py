"""cuDNN attention without cuDNN: what is refused and why, and that programs for a GPU would call it with the right mask."""

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from kaiyuan_jax.kernels.attention import cudnn


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"segments": True}, "found documents, must be plain causal"),
        ({"softcap": 50.0}, "found a soft-cap of 50, must be plain causal"),
        ({"dtype": jnp.float32}, "found dtype float32, must be bfloat16 or float16"),
        ({"q_shape": (1, 8, 4, 260)}, "found head size 260, must be a multiple of 8 up to 256"),
        ({"q_shape": (1, 8, 4, 192), "device_kind": "NVIDIA A100-SXM4-80GB"}, "up to 128"),
        ({"q_shape": (1, 8, 3, 128)}, "found 3 query heads for 2 key heads"),
        ({"device_kind": "TPU v5 lite"}, "found device kind 'TPU v5 lite'"),
    ],
)
def test_unsupported_cases_are_refused_with_what_was_found_and_what_is_allowed(change, reason):
    case = {"q_shape": (1, 8, 4, 128), "k_shape": (1, 8, 2, 128), "dtype": jnp.bfloat16, "segments": False, "softcap": 0.0, "window": 0}
    assert reason in cudnn.supports(**{**case, "device_kind": "NVIDIA H200", **change})


def test_machine_that_traces_is_named_where_it_has_no_cudnn():
    if not cudnn.missing():
        pytest.skip("this machine has cuDNN")
    shape = (1, 8, 4, 128)
    assert "found no cuDNN on the machine that traces" in cudnn.supports(shape, shape, jnp.float16, False, 0.0, 4, "NVIDIA H100 80GB HBM3")


def test_documents_and_soft_caps_are_never_dropped_silently():
    x = jnp.zeros((1, 8, 2, 8), jnp.bfloat16)
    for case in ({"segments_BL": jnp.zeros((1, 8), jnp.int32)}, {"softcap": 5.0}):
        with pytest.raises(ValueError, match="plain causal"):
            cudnn.attention(x, x, x, **case)


@pytest.mark.parametrize("window", [0, 16])
def test_program_for_a_gpu_calls_cudnn_forward_and_backward_with_causal_mask_and_window(monkeypatch, window):
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 90800)  # JAX asks the tracing machine, which has none
    q, k = (jax.ShapeDtypeStruct((2, 256, heads, 128), jnp.bfloat16) for heads in (4, 2))

    def scalar(q, k, v):
        return jnp.sum(cudnn.attention(q, k, v, window=window).astype(jnp.float32))

    text = jax.jit(jax.grad(scalar, (0, 1, 2))).trace(q, k, k).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmax(" in text and "__cudnn$fmhaSoftmaxBackward(" in text
    assert text.count("mask_type\\22: \\22CAUSAL\\22") == 2
    assert text.count(f"sliding_window_length\\22: {window}") == 2
    assert "tensor<2x256x4x128xbf16>, tensor<2x256x2x128xbf16>, tensor<2x256x2x128xbf16>" in text  # keys are not repeated
