"""Mathematics on tensors: no files, processes, clocks, environment or global random state.

Axis names used in every shape annotation of this package:

=========  ==============================================================
points     evaluation points (t, x) of a table
draws      independent top-level samples at one point
paths      rows of a batch: points x draws, or any flat batch of (t, x)
dim        space dimension d
probes     directions in which a stochastic Laplacian is sampled
width      units of a hidden layer
=========  ==============================================================
"""
