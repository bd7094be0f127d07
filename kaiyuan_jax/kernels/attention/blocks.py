"""Tiles of splash attention on TPUs: how many queries and keys a step of each of its three kernels takes.

A tile of q queries and k keys holds q x k float32 scores in VMEM (a 1024 x 512 tile 2 MiB, and a few such arrays at once), reads 2 k C
elements and multiplies 4 q k C, so larger tiles mean less traffic and fewer steps; but tiles that the causal diagonal cuts are computed
whole, so with tiles of b a row of L costs (L / b) (L / b + 1) / 2 of them: at L = 4096, 12% more than half of the square for b = 512, 25%
for 1024, 50% for 2048. Windows and short documents want small tiles for the same reason.

Where the table's entries come from. No TPU was at hand: none of them has been timed here, and v4 and tpu7x were only lowered, not compiled.
  512 everywhere, three kernels    MaxText's default for splash attention; its v5e recipes for Llama 2 leave it so, that for Llama 3.1 at
                                   8,192 tokens sets 2048 and a fused backward pass, with a raised VMEM limit
  1024 queries x 512 keys          MaxText's v6e (Trillium) recipes: 1024 or 2048 queries, also with a raised limit; tpu7x by analogy
tests/kernels/attention/test_compile.py compiles the table's tiles for v5e, v5p and v6e within the default limit. JAX's own default is 128
everywhere, and its source asks for better. A fused backward pass (one kernel for dq, dk and dv; five matrix products instead of seven)
writes dq once for every block of keys and sums those: L / 1024 times the size of q, 64 MiB a sequence of 4096 in the 2B model. Recipes
choose it on some generations only, so it stays off until it can be timed.
"""

import dataclasses

LANES = 128  # every tile is a multiple of a vector register's width


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Queries and keys of a tile in each kernel; powers of two times 128, cut down where the row is shorter."""

    forward: tuple[int, int, int]  # queries, keys in VMEM, keys multiplied at a time
    backward_kv: tuple[int, int, int]  # the same in the kernel for the gradients of keys and values
    backward_q: tuple[int, int]  # queries, keys in the kernel for the gradient of the queries

    def padded(self, L: int) -> int:
        """The row's length with which every tile divides it, and the least of those."""
        return -(-L // self.largest) * self.largest

    @property
    def largest(self) -> int:
        return max(*self.forward, *self.backward_kv, *self.backward_q)

    def at_most(self, limit: int) -> "Blocks":
        """No tile longer than `limit`."""
        return Blocks(*(tuple(min(size, limit) for size in getattr(self, field.name)) for field in dataclasses.fields(self)))


MEDIUM = Blocks((512, 512, 512), (512, 512, 512), (512, 512))
WIDE = Blocks((1024, 512, 512), (1024, 512, 512), (1024, 512))
# By how a device's kind begins: tiles for rows of at least LONG tokens. A kind that is not listed takes MEDIUM.
TABLE = {"TPU v4": MEDIUM, "TPU v5 lite": MEDIUM, "TPU v5": MEDIUM, "TPU v6": WIDE, "TPU7x": WIDE}
LONG = 2048
WASTE = 16  # padding may add a sixteenth beyond that to a multiple of 128


def choose(L: int, C: int, itemsize: int, window: int, device_kind: str) -> Blocks:
    """Tiles for rows of L tokens, heads of C elements of itemsize bytes, on that kind of device.

    Shapes come in three classes. Long plain rows take the table's. Rows below LONG, and sliding windows, whose tiles should not be much
    wider than they are, take at most 512 and at most the next power of two. And what VMEM holds twice over (heads beyond 128, float32)
    halves the tile. Then tiles shrink until padding the row to a multiple of them costs at most a sixteenth more than to one of 128.
    """
    blocks = next((blocks for kind, blocks in TABLE.items() if device_kind.startswith(kind)), MEDIUM)
    if L < LONG or window:
        blocks = blocks.at_most(min(512, _power_of_two(min(window or L, L))))
    if C * itemsize > 128 * 2:
        blocks = blocks.at_most(max(LANES, blocks.largest // 2))
    shortest = -(-L // LANES) * LANES
    while blocks.padded(L) - shortest > shortest // WASTE:
        blocks = blocks.at_most(blocks.largest // 2)
    return blocks


def _power_of_two(n: int) -> int:
    """128 times a power of two, at least n."""
    size = LANES
    while size < n:
        size *= 2
    return size
