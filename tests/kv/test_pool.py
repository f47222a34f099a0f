from __future__ import annotations

from dataclasses import replace

from sparsespec.engine.lazy import LazyDevice
from sparsespec.kv.mover import Mover
from sparsespec.kv.pool import KVPool
from sparsespec.testing.checks.stage import small_geometry


def test_a_pool_starts_with_a_finite_page_0_and_knows_its_size() -> None:
    pool = KVPool(small_geometry(num_gpu_blocks=5, dtype="float32"))
    assert pool.k.shape == pool.v.shape == (2, 5, 4, 2, 4)
    assert pool.n_bytes == 2 * 2 * 5 * 4 * 2 * 4 * 4
    assert not pool.k[:, 0].any()
    assert not pool.v[:, 0].any()


def test_fresh_pages_are_poisoned_in_stream_order_and_only_in_checked_mode() -> None:
    device, geometry = LazyDevice(), small_geometry(num_gpu_blocks=5)
    pool = KVPool(geometry)
    # a new pool holds whatever lay in that memory
    pool.k.zero_()
    pool.v.zero_()
    Mover(device, pool, geometry, 0).fresh([2])
    mover = Mover(device, pool, replace(geometry, checked=True), 0)
    mover.fresh([])
    mover.fresh([3, 1])
    assert not pool.k.isnan().any()
    device.wait(device.launch(lambda: None))
    for part in (pool.k, pool.v):
        assert part[:, [1, 3]].isnan().all()
        assert not part[:, [0, 2, 4]].isnan().any()
