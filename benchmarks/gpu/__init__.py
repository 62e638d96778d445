"""The suite for one GPU: the same SIA work for fastsia and for what else there is, row by row (`make bench-gpu`).

models: what is run. work: what is rolled out. scoring: whether draws are right. peers: who rolls out. floors, steady,
growth, kernels: the other measurements. rows: which there are, in order of worth. runner: runs them. report: draws
them.
"""
