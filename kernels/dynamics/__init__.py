"""Streams of snapshots and of operators: one a file, a function ``dim, ...`` -> SnapshotStream or OperatorStream."""

import kernels

kernels.open_room(__name__)
