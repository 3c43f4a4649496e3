"""Collectives with their backward; reached through Communicator, which has the contracts. Imports torch."""

from __future__ import annotations

from typing import Any

import torch


class CopyTo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, comm: Any, dims: str, site: str) -> torch.Tensor:
        ctx.where = comm, dims, site
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        comm, dims, site = ctx.where
        return comm.all_reduce(grad.clone(memory_format=torch.contiguous_format), dims, site), None, None, None


class ReduceFrom(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, comm: Any, dims: str, site: str) -> torch.Tensor:
        return comm.all_reduce(tensor.clone(memory_format=torch.contiguous_format), dims, site)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        return grad, None, None, None


class GatherFrom(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, comm: Any, rows: Any, dims: str, sites: tuple[str, str]) -> torch.Tensor:
        ctx.where = comm, rows, dims, sites[1]
        return comm.all_gather(tensor.clone(), rows, dims, sites[0])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        comm, rows, dims, site = ctx.where
        return comm.reduce_scatter(grad.contiguous(), rows, dims, site), None, None, None, None


class ScatterTo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, comm: Any, rows: Any, dims: str, sites: tuple[str, str]) -> torch.Tensor:
        ctx.where = comm, rows, dims, sites[1]
        return comm.reduce_scatter(tensor.clone(), rows, dims, sites[0])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        comm, rows, dims, site = ctx.where
        return comm.all_gather(grad.contiguous(), rows, dims, site), None, None, None, None


class Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, comm: Any, splits: Any, dims: str, sites: tuple[str, str]) -> torch.Tensor:
        ctx.where = comm, splits, dims, sites[1]
        return comm.all_to_all(rows.clone(), *splits, dims, sites[0])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        comm, (send, receive), dims, site = ctx.where
        return comm.all_to_all(grad, receive, send, dims, site), None, None, None, None
