"""Weights brought into the order in which the sweeps read them, zeros where a block is not full.

    void pack(int64 *jobs, int64 begin, int64 end)

A job is ten int64: the address of the matrix, the address to write to, the matrix's strides from row to row and from
column to column, its rows and columns, then block_stride, k_stride and width as in `schedule.Pack`, and the sign.
Strides in elements.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from refold.kernels.llvm.machine.compile import Library, compile_module
from refold.kernels.llvm.machine.host import Host

JOB = 10  # int64 in a job
FIELDS = ("source", "target", "row", "column", "rows", "columns", "block", "step", "width", "sign")


@lru_cache(maxsize=16)
def packer(host: Host, dtype: torch.dtype) -> Library:
    """The compiled function `pack`, for one kind of numbers."""
    host.lanes(dtype)  # refuses other types
    kind = "float" if dtype == torch.float32 else "double"
    return compile_module(IR.replace("%number", kind).replace("; fields", fields()), host)


def fields() -> str:
    """Loads of all fields of job %j."""
    return "\n".join(
        f"""  %{name}.at = getelementptr i64, ptr %job, i64 {i}
  %{name} = load i64, ptr %{name}.at"""
        for i, name in enumerate(FIELDS)
    )


# For each block of rows, for 16 columns at a time (a cache line of the matrix), for each row of the block.
IR = """
define void @pack(ptr %jobs, i64 %begin, i64 %end) {
entry:
  %any = icmp slt i64 %begin, %end
  br i1 %any, label %jobs.loop, label %done
jobs.loop:
  %j = phi i64 [ %begin, %entry ], [ %j.next, %job.done ]
  %job.at = mul i64 %j, 10
  %job = getelementptr i64, ptr %jobs, i64 %job.at
; fields
  %from = inttoptr i64 %source to ptr
  %to = inttoptr i64 %target to ptr
  %factor = sitofp i64 %sign to %number
  %some.rows = icmp sgt i64 %rows, 0
  %some.columns = icmp sgt i64 %columns, 0
  %some = and i1 %some.rows, %some.columns
  br i1 %some, label %block.loop, label %job.done
block.loop:
  %first = phi i64 [ 0, %jobs.loop ], [ %first.next, %block.done ]
  %block.to = phi ptr [ %to, %jobs.loop ], [ %block.next, %block.done ]
  br label %piece.loop
piece.loop:
  %k0 = phi i64 [ 0, %block.loop ], [ %k0.next, %piece.done ]
  %k0.next = add i64 %k0, 16
  %whole = icmp slt i64 %k0.next, %columns
  %k1 = select i1 %whole, i64 %k0.next, i64 %columns
  br label %lane.loop
lane.loop:
  %lane = phi i64 [ 0, %piece.loop ], [ %lane.next, %lane.done ]
  %r = add i64 %first, %lane
  %inside = icmp slt i64 %r, %rows
  %r.at = mul i64 %r, %row
  %lane.from = getelementptr %number, ptr %from, i64 %r.at
  %lane.to = getelementptr %number, ptr %block.to, i64 %lane
  br i1 %inside, label %copy.loop, label %zero.loop
copy.loop:
  %k = phi i64 [ %k0, %lane.loop ], [ %k.next, %copy.loop ]
  %k.from = mul i64 %k, %column
  %k.to = mul i64 %k, %step
  %at = getelementptr %number, ptr %lane.from, i64 %k.from
  %value = load %number, ptr %at
  %signed = fmul %number %value, %factor
  %put = getelementptr %number, ptr %lane.to, i64 %k.to
  store %number %signed, ptr %put
  %k.next = add i64 %k, 1
  %k.more = icmp slt i64 %k.next, %k1
  br i1 %k.more, label %copy.loop, label %lane.done
zero.loop:
  %z = phi i64 [ %k0, %lane.loop ], [ %z.next, %zero.loop ]
  %z.to = mul i64 %z, %step
  %z.put = getelementptr %number, ptr %lane.to, i64 %z.to
  store %number 0.0, ptr %z.put
  %z.next = add i64 %z, 1
  %z.more = icmp slt i64 %z.next, %k1
  br i1 %z.more, label %zero.loop, label %lane.done
lane.done:
  %lane.next = add i64 %lane, 1
  %lane.more = icmp slt i64 %lane.next, %width
  br i1 %lane.more, label %lane.loop, label %piece.done
piece.done:
  %piece.more = icmp slt i64 %k0.next, %columns
  br i1 %piece.more, label %piece.loop, label %block.done
block.done:
  %first.next = add i64 %first, %width
  %block.next = getelementptr %number, ptr %block.to, i64 %block
  %block.more = icmp slt i64 %first.next, %rows
  br i1 %block.more, label %block.loop, label %job.done
job.done:
  %j.next = add i64 %j, 1
  %more = icmp slt i64 %j.next, %end
  br i1 %more, label %jobs.loop, label %done
done:
  ret void
}
"""
