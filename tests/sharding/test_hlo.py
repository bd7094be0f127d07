"""Collectives and products are read off compiled programs whose numbers are known."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kaiyuan_jax import config
from kaiyuan_jax.sharding import hlo
from kaiyuan_jax.sharding.mesh import make_mesh

LOOP = """HloModule hand_made, is_scheduled=true

%fused (p: f32[4,8], q: f32[8,16]) -> f32[4,16] {
  %p = f32[4,8]{1,0} parameter(0)
  %q = f32[8,16]{1,0:T(8,128)} parameter(1)
  ROOT %dot.1 = f32[4,16]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%slice (a: f32[32]) -> f32[8] {
  %a = f32[32]{0} parameter(0)
  %sum = f32[32]{0:T(128)S(1)} all-reduce(%a), channel_id=7, replica_groups=[2,4]<=[8], to_apply=%add
  %zero = s32[] constant(0)
  ROOT %part = f32[8]{0} dynamic-slice(%sum, %zero), dynamic_slice_sizes={8}
}

%body (state: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state = (s32[], /*index=1*/f32[4,8]{1,0}) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%state), index=1
  %w = f32[1,8,16]{2,1,0} constant({...})
  %gathered = bf16[8,64]{1,0:T(8,128)(2,1)} all-gather(%half), channel_id=3, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={1}
  %half = bf16[8,16]{1,0} convert(%x)
  %again = bf16[8,64]{1,0} all-gather(%half), channel_id=3, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={1}
  %y = f32[4,16]{1,0} fusion(%x, %w), kind=kOutput, calls=%fused
  %r = f32[8]{0} fusion(%x), kind=kCustom, calls=%slice
  ROOT %next = (s32[], f32[4,8]{1,0}) tuple(%x, %x)
}

%condition (state: (s32[], f32[4,8])) -> pred[] {
  %state.1 = (s32[], f32[4,8]{1,0}) parameter(0)
  %bound = s32[]{:T(128)} constant(5)
  %i = s32[] get-tuple-element(%state.1), index=0
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %x.1 = f32[4,8]{1,0} parameter(0)
  %start = (s32[], f32[4,8]{1,0}) tuple(%x.1, %x.1)
  %while = (s32[], f32[4,8]{1,0}) while(%start), condition=%condition, body=%body
  %moved = f32[4,8]{1,0} collective-permute(%x.1), channel_id=9, source_target_pairs={{0,1},{1,0}}
  %kernel = f32[4,8]{1,0} custom-call(%x.1), custom_call_target="tpu_custom_call", metadata={op_name="jit(step)/splash"}
  ROOT %out = f32[4,8]{1,0} get-tuple-element(%while), index=1
}
"""


def test_a_loop_counts_as_often_as_it_runs_and_a_channel_once():
    program = hlo.parse(LOOP)
    assert hlo.products(program) == 5 * 2 * 4 * 16 * 8
    assert hlo.kernels(program) == {"jit(step)/splash": 1}
    found = {(one.kind, one.devices, one.bytes, one.times) for one in hlo.collectives(program, 8)}
    assert found == {
        ("all-gather", (0, 1, 2, 3), 3 * 8 * 16 * 2, 5),
        ("reduce-scatter", (0, 1, 2, 3), 32 * 4 * 3 / 4, 5),
        ("collective-permute", (0, 1), 4 * 8 * 4, 1),
    }


def test_a_loop_that_xla_unrolled_counts_by_its_step():
    counted = "  %two = u32[] constant(2)\n  %counted = u32[] add(%i.1, %two)\n  ROOT %next = (s32[], f32[4,8]{1,0}) tuple(%counted, %x)"
    unrolled = LOOP.replace("  ROOT %next = (s32[], f32[4,8]{1,0}) tuple(%x, %x)", counted)
    unrolled = unrolled.replace("%bound = s32[]{:T(128)} constant(5)", "%bound = u32[]{:T(128)} constant(6)")
    assert hlo.products(hlo.parse(unrolled)) == 3 * 2 * 4 * 16 * 8


def test_a_trip_count_that_xla_states_is_taken():
    stated = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"11"}}')
    assert hlo.products(hlo.parse(stated)) == 11 * 2 * 4 * 16 * 8


@pytest.mark.parametrize(
    "text, group",
    [
        ("replica_groups={{0,2},{1,3}}", (0, 2)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", tuple(range(8))),
        ("replica_groups=mesh['a'=8] {'a':(2)2}", (0, 2)),
        ("source_target_pairs={{0,1},{1,0}}", (0, 1)),
        ("replica_groups={}", tuple(range(8))),
    ],
)
def test_a_group_is_read_in_every_form(text, group):
    assert hlo.first_group(f"channel_id=1, {text}, use_global_device_ids=true", 8) == group


def test_the_axes_of_a_group_are_those_along_which_its_devices_differ():
    mesh = {"data": 2, "fsdp": 4, "tensor": 1}
    assert hlo.axes_of((0, 1, 2, 3), mesh) == ("fsdp",)
    assert hlo.axes_of((0, 4), mesh) == ("data",)
    assert hlo.axes_of(range(8), mesh) == ("data", "fsdp")


@pytest.mark.parametrize(
    "line, flops",
    [  # [256, 512] x [512, 2 x 128]: the two heads are a window that sees one of them at a time
        ("bf16[256,2,128] convolution(%l, %r), window={size=2 pad=1_1 rhs_reversal=1}, dim_labels=bf0_i0o->b0f", 2 * 256 * 512 * 256),
        ("f32[2,256,128] convolution(%b, %c), window={size=2 lhs_dilate=2}, dim_labels=0bf_0io->0bf", 2 * 2 * 256 * 64 * 128),
    ],
)
def test_a_tpu_s_product_by_convolution_counts_what_it_multiplies(line, flops):
    shapes = "%l = bf16[256,512,1] parameter(0)\n  %r = bf16[512,2,128] parameter(1)\n"
    shapes += "  %b = f32[2,256,64] parameter(2)\n  %c = f32[2,64,128] parameter(3)"
    text = f"ENTRY %main (x: f32[]) -> f32[] {{\n  {shapes}\n  ROOT %out = {line}\n}}\n"
    assert hlo.products(hlo.parse(text)) == flops


def test_a_compiled_loop_s_products_and_exchange_are_those_of_its_arithmetic():
    mesh = make_mesh(config.Mesh(data=1, fsdp=4, tensor=2))
    weights = jax.ShapeDtypeStruct((3, 64, 32), jnp.float32, sharding=NamedSharding(mesh, P(None, "fsdp")))
    x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=NamedSharding(mesh, P("fsdp")))

    @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, P("fsdp")))
    def run(x, weights):
        whole = NamedSharding(mesh, P())

        def layer(x, weight):
            weight = jax.lax.with_sharding_constraint(weight, whole)  # gathered over fsdp, layer by layer
            return jnp.tanh(x @ weight) @ weight.T, None

        return jax.lax.scan(layer, x, weights)[0]

    program = hlo.parse(run.lower(x, weights).compile().as_text())
    assert hlo.products(program) == 3 * 2 * (2 * 4 * 64 * 32)  # 16 rows over 4 devices
    gathered = [one for one in hlo.collectives(program, 8) if one.kind == "all-gather" and one.times == 3]
    assert sum(one.bytes for one in gathered) == 3 * 16 * 32 * 4
    assert {hlo.axes_of(one.devices, dict(mesh.shape)) for one in gathered} == {("fsdp",)}


def test_a_mean_over_devices_is_one_all_reduce():
    mesh = make_mesh(config.Mesh(data=8))
    x = jax.ShapeDtypeStruct((8, 1000), jnp.float32, sharding=NamedSharding(mesh, P("data")))
    compiled = jax.jit(lambda x: x.mean(0), out_shardings=NamedSharding(mesh, P())).lower(x).compile()
    (one,) = hlo.collectives(hlo.parse(compiled.as_text()), 8)
    assert (one.kind, one.times, hlo.axes_of(one.devices, dict(mesh.shape))) == ("all-reduce", 1, ("data",))
    assert one.bytes == 2 * 7 / 8 * 4000
