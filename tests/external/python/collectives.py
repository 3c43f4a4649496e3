"""A subject that tries every collective over uneven rows, forward and backward, and raises where one is not what it says."""

import torch

import moecheck


def want(got, expected):
    if not torch.equal(got, expected):
        raise AssertionError(f"got {got.tolist()}, expected {expected.tolist()}")


def rows_of(c, count):
    """Rows that name their rank: 10 c, 10 c + 1, ..."""
    return (10.0 * c + torch.arange(count).float()).reshape(count, 1)


@moecheck.subject(name="collectives", mesh_dims=["dp", "ep"])
def make(case, ctx):
    comm, n, c = ctx.comm, case.mesh.size("ep"), ctx.coordinate("ep")
    counts = [2 * i for i in range(n)]   # the first has none
    everything = torch.cat([rows_of(i, counts[i]) for i in range(n)])
    first = sum(counts[:c])

    want(comm.all_reduce(torch.tensor([c + 1.0]), "ep"), torch.tensor([n * (n + 1) / 2]))
    want(comm.broadcast(torch.tensor([float(c)]), n - 1, "ep"), torch.tensor([n - 1.0]))
    want(comm.all_gather(rows_of(c, counts[c]), counts, "ep"), everything)
    want(comm.reduce_scatter(everything.clone(), counts, "ep"), n * rows_of(c, counts[c]))

    # To rank i go i + 1 rows that name the sender.
    send, receive = [i + 1 for i in range(n)], [c + 1] * n
    sent = torch.full((sum(send), 1), float(c), requires_grad=True)
    got = comm.exchange(sent, send, receive, "ep", "there", "back")
    want(got, torch.cat([torch.full((c + 1, 1), float(i)) for i in range(n)]))
    got.backward(torch.full_like(got, c + 1.0))
    want(sent.grad, torch.cat([torch.full((i + 1, 1), i + 1.0) for i in range(n)]))

    mine = rows_of(c, counts[c]).requires_grad_()
    gathered = comm.gather_from(mine, counts, "ep")
    want(gathered, everything)
    gathered.backward(torch.full_like(gathered, c + 1.0))
    want(mine.grad, torch.full_like(mine, n * (n + 1) / 2))

    whole = everything.clone().requires_grad_()
    scattered = comm.scatter_to(whole, counts, "ep")
    want(scattered, n * everything[first : first + counts[c]])
    scattered.backward(torch.full_like(scattered, c + 1.0))
    want(whole.grad, torch.cat([torch.full((counts[i], 1), i + 1.0) for i in range(n)]))

    copied = torch.ones(2, requires_grad=True)
    comm.copy_to(copied, "ep").backward(torch.full((2,), c + 1.0))
    want(copied.grad, torch.full((2,), n * (n + 1) / 2))
    part = torch.full((2,), c + 1.0, requires_grad=True)
    total = comm.reduce_from(part, "ep")
    want(total, torch.full((2,), n * (n + 1) / 2))
    total.backward(torch.ones(2))
    want(part.grad, torch.ones(2))

    if torch.distributed.get_world_size(ctx.group("ep")) != n or ctx.device_mesh()["ep"].get_local_rank() != c:
        raise AssertionError("the group over ep is another one")
    ctx.parameters(range(ctx.local_experts.first, ctx.local_experts.first + ctx.local_experts.count), [("ep", "Shard(0)")])
    return torch.zeros_like


@moecheck.subject(name="elsewhere", mesh_dims=["dp", "ep"])
def make_with_other_peoples_code(case, ctx):
    """Sends through torch.distributed itself."""
    dist, n, group = torch.distributed, case.mesh.size("ep"), ctx.group("ep")
    plain = dist.all_reduce
    ctx.comm.observe()
    t = torch.ones(2 * n)
    dist.all_reduce(t, group=group)
    dist.all_reduce(t, dist.ReduceOp.MAX, group)
    dist.broadcast(t, src=case.mesh.group(ctx.rank, "ep")[0], group=group)
    dist.all_gather_into_tensor(torch.empty(2 * n * n), t, group=group)
    dist.reduce_scatter_tensor(torch.empty(2), t, group=group)
    dist.all_to_all_single(torch.empty(2 * n), t, group=group)
    ctx.comm.all_reduce(t, "ep")   # reported once
    sent = [(c["kind"], c["group"], c.get("reduce_op"), c["count"], c.get("send_splits")) for c in ctx.comm.take_log()]
    expected = [("all_reduce", "ep", "sum", 2 * n, None), ("all_reduce", "ep", "max", 2 * n, None), ("broadcast", "ep", None, 2 * n, None),
                ("all_gather", "ep", None, 2 * n, None), ("reduce_scatter", "ep", "sum", 2 * n, None),
                ("all_to_all", "ep", None, 2 * n, [2] * n), ("all_reduce", "ep", "sum", 2 * n, None)]
    if sent != expected:
        raise AssertionError(f"reported {sent}")
    ctx.comm.close()
    if dist.all_reduce is not plain:
        raise AssertionError("torch.distributed stays wrapped")
    ctx.parameters(range(ctx.local_experts.first, ctx.local_experts.first + ctx.local_experts.count), [("ep", "Shard(0)")])
    return torch.zeros_like


if __name__ == "__main__":
    moecheck.main()
