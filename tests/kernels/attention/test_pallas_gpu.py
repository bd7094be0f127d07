"""Hopper attention without a Hopper: numerics and races in JAX's GPU interpreter, and programs for the card by cross-compilation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.sharding import AbstractDevice, AbstractMesh

from kaiyuan_jax.kernels.attention import mosaic_tiles as tiles
from kaiyuan_jax.kernels.attention import pallas_gpu, reference

T = tiles.T


@gpu_callbacks.fail_on_exception
def wgmma_of_registers(*, token, mesh_location, thread, source_info, **operands):
    """JAX's interpreter multiplies only matrices in shared memory; this one also takes the left one from registers, as the card does."""
    memory, shared = gpu_callbacks.memory, gpu_callbacks._get_shared_memory()
    log = memory.GPULoggingInfo(mesh_location, thread, source_info)

    def read(name):
        value = np.asarray(operands[f"{name}_allocation_key_as_array"])
        if value.ndim == 2:
            return None, None, value
        key = memory.HostAllocationKey.from_array(value)
        transforms = gpu_callbacks._remove_noop_transforms(operands[f"{name}_transforms"])
        place = shared.access(key, jax.tree.map(int, transforms))
        return key, place, shared.get_buffer_content(key, place, thread, logging_info=log)[0]

    key, place, total = read("acc")
    a, b = (read(name)[2].astype(np.float32) for name in "ab")
    shared.store_buffer_content(key, place, total + a @ b, thread, logging_info=log)
    return token


@pytest.fixture(scope="module")
def interpreter():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_callbacks, "wgmma", wgmma_of_registers)
        yield plgpu.InterpretGPUParams(detect_races=True)


def tensors(seed, B, L, H, K, C, dtype):
    generator = np.random.default_rng(seed)
    q, k, v, do = (jnp.asarray(generator.standard_normal((B, L, heads, C)), dtype) for heads in (H, K, K, H))
    return q, k, v, do, jnp.asarray(np.cumsum(generator.random((B, L)) < 0.03, axis=1, dtype=np.int32))


def value_and_gradients(function, q, k, v, do, **case):
    def call(q, k, v, do):
        out, vjp = jax.vjp(lambda *x: function(*x, **case), q, k, v)
        return out, *vjp(do)

    return [np.asarray(x, np.float32) for x in jax.jit(call)(q, k, v, do)]


def check(interpreter, q, k, v, do, **case):
    """Against the float32 definition on the same rounded inputs: 2^-8 is a bfloat16's last digit."""
    with plgpu.force_gpu_interpret_mode(interpreter):
        got = value_and_gradients(pallas_gpu.attention, q, k, v, do, **case)
    want = value_and_gradients(reference.attention, *(x.astype(jnp.float32) for x in (q, k, v, do)), **case)
    for name, a, b in zip(("o", "dq", "dk", "dv"), got, want, strict=True):
        size = np.sqrt(np.mean(b**2)) + 0.01  # a query that sees one key has no gradient but rounding
        assert np.sqrt(np.mean((a - b) ** 2)) < 2**-8 * size, name
        np.testing.assert_allclose(a, b, rtol=2**-6, atol=2**-6 * (np.abs(b).max() + 0.01), err_msg=name)


def test_documents_soft_cap_window_and_padding_in_float16_equal_the_definition_without_races(interpreter):
    q, k, v, do, segments = tensors(0, 1, T + 60, 2, 1, 64, jnp.float16)
    check(interpreter, q, k, v, do, segments_BL=segments, softcap=2.0, window=90)


@pytest.mark.kernels
def test_plain_causal_attention_in_bfloat16_equals_the_definition_without_races(interpreter):
    q, k, v, do, _ = tensors(1, 2, 2 * T, 2, 2, 128, jnp.bfloat16)
    check(interpreter, q, k, v, do)


@pytest.mark.kernels
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    st.integers(0, 99), st.integers(1, 3 * T), st.sampled_from([(2, 1), (3, 1), (4, 2)]), st.sampled_from([64, 128]), st.booleans(),
    st.sampled_from([0.0, 1.0, 30.0]), st.sampled_from([0, 1, 64, 130, 999]), st.sampled_from(["bfloat16", "float16"]),
)  # fmt: skip
def test_value_and_gradients_equal_the_definition(interpreter, seed, L, heads, C, documents, softcap, window, dtype):
    q, k, v, do, segments = tensors(seed, 1, L, *heads, C, dtype)
    check(interpreter, q, k, v, do, segments_BL=segments if documents else None, softcap=softcap, window=window)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 9999), st.sampled_from([1, 2, 6]), st.sampled_from([0, 1, 64, 128, 129, 300]), st.booleans(), st.booleans())
def test_tiles_between_the_spans_are_wholly_visible_and_tiles_beyond_hold_nothing_visible(seed, N, window, documents, shuffled):
    generator = np.random.default_rng(seed)
    L = N * T
    segments = np.cumsum(generator.random((2, L)) < generator.choice([0.001, 0.02]), axis=1).astype(np.int32)
    segments = generator.integers(0, 3, (2, N)).repeat(T, axis=1).astype(np.int32) if shuffled else segments  # a number may come back
    age = np.arange(L)[:, None] - np.arange(L)
    seen = ((age >= 0) & (age < (window or L)))[None] & ((segments[:, :, None] == segments[:, None]) | (not documents))
    seen = seen.reshape(2, N, T, N, T)
    some, whole = seen.any((2, 4)), seen.all((2, 4))
    given_segments = jnp.asarray(segments) if documents else None
    (first, first_whole), (last, last_whole) = (
        np.broadcast_to(jax.jit(f, static_argnums=(1, 2))(given_segments, L, window), (2, 2, N))
        for f in (tiles.key_spans, tiles.query_spans)
    )
    for b, i, j in itertools.product(range(2), range(N), range(N)):
        assert not some[b, i, j] or first[b, i] <= j <= i and j <= i < last[b, j]
        assert whole[b, i, j] or not first_whole[b, i] <= j < i
        assert whole[b, i, j] or not j < i < last_whole[b, j]
    if not (documents and shuffled):  # numbers that ascend: nothing is visited in vain
        assert (first == some.argmax(2)).all() and (last == N - some[:, ::-1].argmax(1)).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"segments": True, "softcap": 50.0, "window": 512, "dtype": jnp.float16}, ""),
        ({"dtype": jnp.float32}, "found dtype float32, must be bfloat16 or float16"),
        ({"q_shape": (1, 8, 4, 96)}, "found head size 96, must be one of 64, 128"),
        ({"q_shape": (1, 8, 3, 128)}, "found 3 query heads for 2 key heads"),
        ({"device_kind": "NVIDIA B200"}, "found device kind 'NVIDIA B200', must have compute capability 9.0"),
        ({"device_kind": "cpu"}, "found device kind 'cpu'"),
    ],
)
def test_unsupported_cases_are_refused_with_what_was_found_and_what_is_allowed(change, reason):
    case = {"q_shape": (1, 8, 4, 128), "k_shape": (1, 8, 2, 128), "dtype": jnp.bfloat16, "segments": False, "softcap": 0.0, "window": 0}
    answer = pallas_gpu.supports(**{**case, "device_kind": "NVIDIA H100 80GB HBM3", **change})
    assert answer.startswith(reason) and bool(answer) == bool(reason)


@pytest.mark.parametrize("kind", ["NVIDIA H200", "NVIDIA H100 PCIe", "NVIDIA GH200 480GB", "NVIDIA H20", "NVIDIA H800"])
def test_every_card_with_wgmma_is_supported(kind):
    assert pallas_gpu.supports((1, 8, 4, 64), (1, 8, 4, 64), jnp.bfloat16, True, 0.0, 0, kind) == ""


@pytest.mark.parametrize(("C", "documents", "softcap", "window"), [(128, False, 0.0, 0), (64, True, 30.0, 512)])
def test_program_for_hopper_is_three_kernels_and_neither_scores_nor_repeated_keys(C, documents, softcap, window):
    B, L, H, K = 2, 2048, 16, 8
    device = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    q, k = (jax.ShapeDtypeStruct((B, L, heads, C), jnp.bfloat16) for heads in (H, K))
    segments = jax.ShapeDtypeStruct((B, L), jnp.int32) if documents else None

    def call(q, k, v, do, segments):
        out, vjp = jax.vjp(lambda *x: pallas_gpu.attention(*x, segments_BL=segments, softcap=softcap, window=window), q, k, v)
        return out, *vjp(do)

    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device)):
        text = jax.jit(call).trace(q, k, k, q, segments).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.custom_call @mosaic_gpu") == 3
    assert f"{H}x{L}xf32" in text  # the log-sum-exp
    for shape in (f"x{C}xf32>", f"{L}x{L}x", f"{B}x{H}x{L}x{C}"):
        assert shape not in text, shape


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("C", "documents", "softcap", "window"), [(128, False, 0.0, 0), (128, True, 30.0, 300), (64, True, 0.0, 0)])
def test_card_itself_gives_the_definition_and_the_same_bits_at_every_run(C, documents, softcap, window, dtype):
    if pallas_gpu.supports((1, 1, 1, 64), (1, 1, 1, 64), dtype, False, 0.0, 0, jax.devices()[0].device_kind):
        pytest.skip("this machine has no Hopper GPU")
    *arrays, segments = tensors(2, 2, 2000, 8, 4, C, dtype)
    case = {"segments_BL": segments if documents else None, "softcap": softcap, "window": window}
    got = value_and_gradients(pallas_gpu.attention, *arrays, **case)
    for _ in range(20):
        for a, b in zip(got, value_and_gradients(pallas_gpu.attention, *arrays, **case), strict=True):
            np.testing.assert_array_equal(a, b)
    want = value_and_gradients(reference.attention, *(x.astype(jnp.float32) for x in arrays), **case)
    for name, a, b in zip(("o", "dq", "dk", "dv"), got, want, strict=True):
        assert np.linalg.norm(a - b) < 2**-7 * np.linalg.norm(b), name
